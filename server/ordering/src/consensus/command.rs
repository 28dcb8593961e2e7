//! What Raft orders: batches of commands, and what comes of each. Their form on disk and between replicas. No IO.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::truncation::Published;
use crate::{Beginning, Incarnation, Life, Position};

/// Version of the form of a batch.
const VERSION: u8 = 1;
const KIND_APPEND: u8 = 1;
const KIND_NOTE: u8 = 2;
/// Bytes before a batch's commands.
const BATCH_FIXED: usize = 1 + 8 + 4;
/// Bytes before a command's body.
const COMMAND_FIXED: usize = 1 + 4;
/// Bytes before the entry of an append.
const APPEND_FIXED: usize = 4 + 8;

/// One command of one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// An entry, from a life of a replica.
    Append {
        /// Who appends it; refused when that life is over.
        life: Life,
        /// The entry.
        entry: Bytes,
    },
    /// Bookkeeping.
    Note(Note),
}

/// A command of the log's own bookkeeping.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Note {
    /// Makes the log; only the first one has an effect.
    Found {
        /// Which log it is, made at random.
        log: Uuid,
        /// Entries that have the same segment in their positions.
        segment_entries: u32,
    },
    /// Begins a life of a replica and ends the one before. May be repeated: `opener` is made at random for each life, and one
    /// that is over is not begun again.
    Begin {
        /// Number of the replica.
        replica: u32,
        /// Tells this life from others until it has its number.
        opener: Uuid,
    },
    /// Ends a life.
    End {
        /// Who says so; its own life must not be over.
        by: Life,
        /// Which one.
        life: Life,
    },
    /// Gives up the entries below a position.
    Truncate {
        /// Who says so.
        by: Life,
        /// The new first position.
        position: Position,
        /// What was given up before it, in bytes.
        bytes: Option<u64>,
    },
    /// Makes known what a replica needs of the log.
    Publish {
        /// Who says so.
        by: Life,
        /// What it makes known.
        published: Published,
    },
}

impl Note {
    /// A truncation.
    pub(super) fn truncate(by: Life, below: Beginning) -> Self {
        Self::Truncate { by, position: below.position, bytes: below.bytes }
    }
}

/// What came of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Outcome {
    /// The entry stands there.
    Appended {
        /// Where.
        position: Position,
        /// The log's clock, in milliseconds since 1970.
        at_ms: i64,
    },
    /// The life has begun.
    Begun {
        /// Its number.
        incarnation: Incarnation,
        /// The log that it is a life of.
        log: Uuid,
    },
    /// It is done.
    Done,
    /// The life that asked for it is over.
    Fenced,
    /// The position lies past the end.
    OutOfRange {
        /// The end.
        end: Position,
    },
    /// There is no log yet: the first command must make it.
    NoLog,
}

/// Commands that go into the order at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub(super) struct Batch {
    /// The clock of whoever led when it was proposed, in milliseconds since 1970.
    pub(super) at_ms: i64,
    /// The commands, in their order.
    pub(super) commands: Vec<Command>,
}

/// What came of a batch's commands, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Outcomes(pub(super) Vec<Outcome>);

/// Bytes that are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CodecError {
    /// They end too early, or go on too long.
    #[error("{0} bytes are missing, or too many")]
    Length(usize),
    /// A later program has written them.
    #[error("format {0} is not known to this program")]
    Version(u8),
    /// No such kind.
    #[error("there is no kind {0}")]
    Kind(u8),
    /// The text in them is not what it should be.
    #[error("{0}")]
    Text(String),
}

impl From<serde_json::Error> for CodecError {
    fn from(error: serde_json::Error) -> Self {
        Self::Text(error.to_string())
    }
}

impl Command {
    /// Bytes that it takes, for bounds.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Append { entry, .. } => COMMAND_FIXED + APPEND_FIXED + entry.len(),
            Self::Note(_) => NOTE_BYTES,
        }
    }

    fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Append { life: (replica, incarnation), entry } => {
                out.put_u8(KIND_APPEND);
                put_length(out, APPEND_FIXED + entry.len());
                out.put_u32(*replica);
                out.put_i64(incarnation.0);
                out.put_slice(entry);
            }
            Self::Note(note) => {
                let text = serde_json::to_vec(note).expect("plain fields serialise");
                out.put_u8(KIND_NOTE);
                put_length(out, text.len());
                out.put_slice(&text);
            }
        }
    }

    fn decode(data: &mut Bytes) -> Result<Self, CodecError> {
        let kind = take(data, 1)?.get_u8();
        let length = take(data, 4)?.get_u32() as usize;
        let mut body = take(data, length)?;
        match kind {
            KIND_APPEND => {
                let replica = take(&mut body, 4)?.get_u32();
                let incarnation = Incarnation(take(&mut body, 8)?.get_i64());
                Ok(Self::Append { life: (replica, incarnation), entry: body })
            }
            KIND_NOTE => Ok(Self::Note(serde_json::from_slice(&body)?)),
            other => Err(CodecError::Kind(other)),
        }
    }
}

/// What a note counts in bounds: most are far shorter.
const NOTE_BYTES: usize = 512;

impl Batch {
    /// Its bytes.
    pub(super) fn encode(&self) -> BytesMut {
        let bytes = self.commands.iter().map(Command::size).sum::<usize>();
        let mut out = BytesMut::with_capacity(BATCH_FIXED + bytes);
        out.put_u8(VERSION);
        out.put_i64(self.at_ms);
        put_length(&mut out, self.commands.len());
        for command in &self.commands {
            command.encode(&mut out);
        }
        out
    }

    /// Reads its bytes, all of them; total.
    pub(super) fn decode(mut data: Bytes) -> Result<Self, CodecError> {
        let version = take(&mut data, 1)?.get_u8();
        if version != VERSION {
            return Err(CodecError::Version(version));
        }
        let at_ms = take(&mut data, 8)?.get_i64();
        let count = take(&mut data, 4)?.get_u32() as usize;
        // A command has a head at least: a count that can't be true takes no memory.
        let mut commands = Vec::with_capacity(count.min(data.len() / COMMAND_FIXED));
        for _ in 0..count {
            commands.push(Command::decode(&mut data)?);
        }
        if !data.is_empty() {
            return Err(CodecError::Length(data.len()));
        }
        Ok(Self { at_ms, commands })
    }
}

impl From<Batch> for Vec<u8> {
    fn from(batch: Batch) -> Self {
        batch.encode().into()
    }
}

impl TryFrom<Vec<u8>> for Batch {
    type Error = CodecError;

    fn try_from(data: Vec<u8>) -> Result<Self, CodecError> {
        Self::decode(data.into())
    }
}

/// Takes so many bytes from the front.
pub(super) fn take(data: &mut Bytes, bytes: usize) -> Result<Bytes, CodecError> {
    if data.len() < bytes {
        return Err(CodecError::Length(bytes - data.len()));
    }
    Ok(data.split_to(bytes))
}

/// Writes a length or a count. Whatever has one is bounded far below 4 GiB before it is written.
pub(super) fn put_length(out: &mut BytesMut, length: usize) {
    out.put_u32(u32::try_from(length).expect("bounded far below 4 GiB"));
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in super::super) fn life() -> impl Strategy<Value = Life> {
        (0..4u32, 0..40i64).prop_map(|(replica, incarnation)| (replica, Incarnation(incarnation)))
    }

    fn position() -> impl Strategy<Value = Position> {
        (0..6u32, 0..6u32).prop_map(|(segment, sequence)| Position::new(segment, sequence))
    }

    fn published() -> impl Strategy<Value = Published> {
        (life(), position(), any::<u64>(), any::<bool>()).prop_map(|((replica, incarnation), needs, beat, durable)| {
            let source = format!("http://replica-{replica}:7070");
            Published {
                replica,
                incarnation,
                needs,
                index: beat / 2,
                source,
                durable,
                beat,
                executed: 1,
                bytes: Some(9),
                forward: beat % 3,
            }
        })
    }

    /// Any command of few replicas, so that they meet.
    pub(in super::super) fn command() -> impl Strategy<Value = Command> {
        let note = prop_oneof![
            (any::<u128>(), 1..5u32)
                .prop_map(|(log, segment_entries)| Note::Found { log: Uuid::from_u128(log), segment_entries }),
            (0..4u32, 0..9u128).prop_map(|(replica, opener)| Note::Begin { replica, opener: Uuid::from_u128(opener) }),
            (life(), life()).prop_map(|(by, life)| Note::End { by, life }),
            (life(), position(), any::<Option<u64>>()).prop_map(|(by, position, bytes)| Note::Truncate {
                by,
                position,
                bytes
            }),
            (life(), published()).prop_map(|(by, published)| Note::Publish { by, published }),
        ];
        prop_oneof![
            3 => (life(), prop::collection::vec(any::<u8>(), 0..40))
                .prop_map(|(life, entry)| Command::Append { life, entry: entry.into() }),
            2 => note.prop_map(Command::Note),
        ]
    }

    pub(in super::super) fn batch() -> impl Strategy<Value = Batch> {
        (0..1000i64, prop::collection::vec(command(), 0..6)).prop_map(|(at_ms, commands)| Batch { at_ms, commands })
    }

    proptest! {
        #[test]
        fn a_batch_round_trips(batch in batch()) {
            prop_assert_eq!(Batch::decode(batch.encode().freeze()), Ok(batch.clone()));
            let text = serde_json::to_vec(&batch).unwrap();
            prop_assert_eq!(serde_json::from_slice::<Batch>(&text).unwrap(), batch);
        }

        #[test]
        fn any_bytes_are_read_or_refused(data: Vec<u8>) {
            let _ = Batch::decode(data.into());
        }

        #[test]
        fn cut_short_never_passes(batch in batch(), at: prop::sample::Index) {
            let mut data = batch.encode().freeze();
            data.truncate(at.index(data.len()));
            prop_assert!(Batch::decode(data).is_err());
        }
    }

    #[test]
    fn the_format_does_not_change_unnoticed() {
        let begin = Note::Begin { replica: 1, opener: Uuid::from_u128(2) };
        let append = Command::Append { life: (3, Incarnation(4)), entry: "hi".into() };
        let batch = Batch { at_ms: 5, commands: vec![append, Command::Note(begin)] };
        let golden = b"\x01\0\0\0\0\0\0\0\x05\0\0\0\x02\
            \x01\0\0\0\x0e\0\0\0\x03\0\0\0\0\0\0\0\x04hi\
            \x02\0\0\0\x47{\"Begin\":{\"replica\":1,\"opener\":\"00000000-0000-0000-0000-000000000002\"}}";
        assert_eq!(&batch.encode()[..], golden);
    }
}
