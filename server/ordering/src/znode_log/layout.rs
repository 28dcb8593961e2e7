//! Names and small documents in ZooKeeper. No IO.
//!
//! ```text
//! <root>/requests                          which log it is and which entries there are: {"format":2,"id":"..","first":{..}}
//! <root>/requests/<segment %010d>          "open" or "sealed"; nothing but entries below it
//! <root>/requests/<segment>/e-<%010d>      an entry
//! <root>/bodies/<segment>/<name>/<%05d>    chunks of a body too large for an entry; goes when its segment goes
//! <root>/incarnations/<replica>/i-<session>-<%010d>  the one living incarnation of a replica
//! <root>/members/<replica>                 ephemeral: the replica lives, and where
//! <root>/pulses/<replica>                  written before the incarnations are listed, so that the list is no older
//! <root>/push-key                          what replicas prove by that an entry that they push is of this log
//! <root>/positions/<replica>               what the replica's restore points still need of the log
//! ```

use serde::{Deserialize, Serialize};

use crate::{Beginning, LogId, Position};

/// Longest root path, in bytes; every path stays far below what ZooKeeper takes.
const MAX_ROOT_BYTES: usize = 200;

/// Paths below one root.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: String,
}

impl Layout {
    /// Checks the root: an absolute path of plain components, not `/` itself.
    pub(crate) fn new(root: &str) -> Result<Self, String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let component = |part: &str| !part.is_empty() && part != "." && part != ".." && part.chars().all(plain);
        let path = root.strip_prefix('/').filter(|path| path.split('/').all(component));
        match path {
            Some(path) if root.len() <= MAX_ROOT_BYTES && !path.starts_with("zookeeper") => {
                Ok(Self { root: root.to_owned() })
            }
            _ => Err(format!(
                "the root {root:?} is not a path like /replicateddb (letters, digits, - _ . and at most {MAX_ROOT_BYTES} bytes, not below /zookeeper)"
            )),
        }
    }

    pub(crate) fn root(&self) -> &str {
        &self.root
    }

    pub(crate) fn requests(&self) -> String {
        format!("{}/requests", self.root)
    }

    pub(crate) fn segment(&self, segment: u32) -> String {
        format!("{}/requests/{segment:010}", self.root)
    }

    /// What a sequential create appends its number to.
    pub(crate) fn entry_prefix(&self, segment: u32) -> String {
        format!("{}/e-", self.segment(segment))
    }

    pub(crate) fn entry(&self, position: Position) -> String {
        format!("{}/e-{:010}", self.segment(position.segment), position.sequence)
    }

    pub(crate) fn bodies(&self) -> String {
        format!("{}/bodies", self.root)
    }

    pub(crate) fn segment_bodies(&self, segment: u32) -> String {
        format!("{}/bodies/{segment:010}", self.root)
    }

    pub(crate) fn body(&self, segment: u32, name: &str) -> String {
        format!("{}/{name}", self.segment_bodies(segment))
    }

    pub(crate) fn chunk(body: &str, chunk: u16) -> String {
        format!("{body}/{chunk:05}")
    }

    pub(crate) fn all_incarnations(&self) -> String {
        format!("{}/incarnations", self.root)
    }

    pub(crate) fn incarnations(&self, replica: u32) -> String {
        format!("{}/incarnations/{replica}", self.root)
    }

    /// The node of one life, by its name.
    pub(crate) fn incarnation(&self, replica: u32, node: &str) -> String {
        format!("{}/{node}", self.incarnations(replica))
    }

    pub(crate) fn pulse(&self, replica: u32) -> String {
        format!("{}/pulses/{replica}", self.root)
    }

    pub(crate) fn members(&self) -> String {
        format!("{}/members", self.root)
    }

    pub(crate) fn member(&self, replica: u32) -> String {
        format!("{}/members/{replica}", self.root)
    }

    pub(crate) fn push_key(&self) -> String {
        format!("{}/push-key", self.root)
    }

    pub(crate) fn positions(&self) -> String {
        format!("{}/positions", self.root)
    }

    pub(crate) fn position(&self, replica: u32) -> String {
        format!("{}/positions/{replica}", self.root)
    }
}

/// The number in the last component of an entry's path or name, if it is one.
pub(crate) fn sequence_of(path: &str) -> Option<u32> {
    let name = path.rsplit('/').next()?;
    number(name.strip_prefix("e-")?)
}

/// The number of a segment from its node's name.
pub(crate) fn segment_of(name: &str) -> Option<u32> {
    number(name)
}

/// Ten digits exactly, so that a name has one number and a number one name.
fn number(digits: &str) -> Option<u32> {
    (digits.len() == 10 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// Whether a segment takes entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SegmentState {
    Open,
    Sealed,
}

impl SegmentState {
    /// Version of the data of an open segment's node; sealing changes it, and appends check it.
    pub(crate) const OPEN_VERSION: i32 = 0;

    pub(crate) fn data(self) -> &'static [u8] {
        match self {
            Self::Open => b"open",
            Self::Sealed => b"sealed",
        }
    }

    pub(crate) fn parse(data: &[u8]) -> Option<Self> {
        [Self::Open, Self::Sealed].into_iter().find(|state| state.data() == data)
    }
}

/// The data of the `requests` node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogHeader {
    /// Version of this layout.
    pub(crate) format: u32,
    /// Born with the log. The node's own numbers are not enough: a ZooKeeper that has lost its data gives them again.
    pub(crate) id: LogId,
    /// The first position that the log still has; set before anything below it is deleted.
    pub(crate) first: Position,
    /// What was given up before it ([`Beginning::bytes`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first_bytes: Option<u64>,
}

impl LogHeader {
    const FORMAT: u32 = 2;

    /// The header of a log that begins like this.
    pub(crate) fn new(id: LogId, Beginning { position: first, bytes }: Beginning) -> Self {
        // A whole log says nothing of it, in a header that it shares with those of before there were bytes.
        let first_bytes = bytes.filter(|_| first != Position::START);
        Self { format: Self::FORMAT, id, first, first_bytes }
    }

    /// Where the log begins.
    pub(crate) fn beginning(&self) -> Beginning {
        match self.first {
            Position::START => Beginning::START,
            position => Beginning { position, bytes: self.first_bytes },
        }
    }

    pub(crate) fn data(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain fields serialise")
    }

    pub(crate) fn parse(data: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let damaged = |error| format!("the log's header is damaged: {error}");
        match serde_json::from_slice(data).map_err(damaged)? {
            Format { format: Self::FORMAT } => serde_json::from_slice(data).map_err(damaged),
            Format { format } => Err(format!("the log has format {format}, this program knows {}", Self::FORMAT)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn roots() {
        for good in ["/replicateddb", "/a/b-c_d.e"] {
            assert!(Layout::new(good).is_ok(), "{good}");
        }
        let long = format!("/{}", "x".repeat(200));
        for bad in ["", "/", "a", "/a/", "//a", "/a//b", "/a/../b", "/zookeeper/x", "/ä", &long] {
            assert!(Layout::new(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn entry_names_round_trip(segment: u32, sequence: u32) {
            let layout = Layout::new("/r").unwrap();
            let position = Position::new(segment, sequence);
            prop_assert_eq!(sequence_of(&layout.entry(position)), Some(sequence));
            let path = layout.segment(segment);
            prop_assert_eq!(segment_of(path.rsplit('/').next().unwrap()), Some(segment));
        }

        #[test]
        fn any_name_is_read_or_refused(name: String) {
            let _ = (sequence_of(&name), segment_of(&name), SegmentState::parse(name.as_bytes()), LogHeader::parse(name.as_bytes()));
        }
    }

    #[test]
    fn other_names_are_refused() {
        for name in ["e-1", "e--000000001", "e-+000000001", "e-00000000001", "x-0000000001", "0000000001"] {
            assert_eq!(sequence_of(name), None, "{name}");
        }
    }

    #[test]
    fn headers() {
        let id = LogId(uuid::Uuid::from_u128(u128::MAX - 5));
        let position = Position::new(3, 4);
        for beginning in [Beginning::START, Beginning { position, bytes: Some(u64::MAX) }, position.into()] {
            let header = LogHeader::new(id, beginning);
            assert_eq!(header.beginning(), beginning);
            assert_eq!(LogHeader::parse(&header.data()), Ok(header));
        }
        // What a log without an id of its own says of itself.
        let before = LogHeader::parse(br#"{"format":1,"first":{"segment":0,"sequence":0}}"#).unwrap_err();
        assert!(before.contains("format 1"), "{before}");
        let without = LogHeader::parse(br#"{"format":2,"first":{"segment":0,"sequence":0}}"#).unwrap_err();
        assert!(without.contains("damaged") && without.contains("id"), "{without}");
    }
}
