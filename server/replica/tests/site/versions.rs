//! Clients of any protocol version: one through a replica and one past it, who say and hear the same.

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use replicateddb_cql::frame::{Codec, Envelope, FLAG_WARNING, Opcode};
use replicateddb_cql::request::{self, Batch, BatchBody, Params, Values};
use replicateddb_cql::response::parse_error;
use replicateddb_cql::{Compression, Consistency, Version};
use tokio::net::TcpStream;
use tokio_util::codec::Framed;

/// Largest answer that is read, bytes.
const MAX_ANSWER: usize = 16 << 20;

/// Every kind of connection there is.
pub const KINDS: [(Version, Option<Compression>); 8] = [
    (Version::V5, None),
    (Version::V5, Some(Compression::Lz4)),
    (Version::V4, None),
    (Version::V4, Some(Compression::Lz4)),
    (Version::V4, Some(Compression::Snappy)),
    (Version::V3, None),
    (Version::V3, Some(Compression::Lz4)),
    (Version::V3, Some(Compression::Snappy)),
];

/// A client, and what it has heard that is its keyspace's alone.
struct Side {
    address: String,
    keyspace: String,
    framed: Framed<TcpStream, Codec>,
    /// The statement prepared last: its id and that of its columns.
    prepared: (Bytes, Bytes),
    /// Digests that follow from the keyspace's name, in the order heard.
    digests: Vec<Bytes>,
}

impl Side {
    async fn connect(address: &str, version: Version, compression: Option<Compression>, keyspace: &str) -> Self {
        let framed = connected(address, version, compression).await;
        let prepared = (Bytes::new(), Bytes::new());
        Self { address: address.to_owned(), keyspace: keyspace.to_owned(), framed, prepared, digests: Vec::new() }
    }

    async fn ask(&mut self, opcode: Opcode, body: Bytes) -> Option<Envelope> {
        self.framed.send(Envelope::request(7, opcode, body)).await.unwrap();
        self.framed.next().await.map(|answer| answer.unwrap())
    }

    /// A message without what differs between keyspaces, and without warnings, which Cassandra gives once in a while.
    fn of_none(&mut self, answer: &Envelope, version: Version) -> Vec<u8> {
        let message = answer.message().unwrap();
        if answer.opcode == Opcode::Result {
            self.digests.extend(digests(&message, version));
        }
        let mut body = message.to_vec();
        // In version 3, and there of functions alone, Cassandra lets an empty name follow, which nobody reads.
        if version == Version::V3
            && body.starts_with(b"\0\0\0\x05\0\x07UPDATED\0\x08KEYSPACE")
            && body.ends_with(&[0, 0])
        {
            body.truncate(body.len() - 2);
        }
        for (number, digest) in self.digests.iter().enumerate() {
            replace(&mut body, digest, &vec![number as u8; digest.len()]);
        }
        let name = self.keyspace.clone();
        replace(&mut body, name.as_bytes(), &vec![b'#'; name.len()]);
        body
    }
}

/// As soon as the port is open.
async fn socket(address: &str) -> TcpStream {
    super::until("the port", async || TcpStream::connect(address).await.ok()).await
}

async fn connected(address: &str, version: Version, compression: Option<Compression>) -> Framed<TcpStream, Codec> {
    let mut framed = Framed::new(socket(address).await, Codec::client_of(version, compression, MAX_ANSWER));
    let mut options = vec![("CQL_VERSION", "3.0.0")];
    options.extend(compression.map(|compression| ("COMPRESSION", compression.name())));
    framed.send(Envelope::request(0, Opcode::Startup, request::startup(&options).unwrap())).await.unwrap();
    let answer = framed.next().await.unwrap().unwrap();
    assert_eq!(answer.opcode, Opcode::Ready, "{:?}", parse_error(&answer.body));
    framed
}

/// Those in a RESULT: of a statement and of columns.
fn digests(message: &Bytes, version: Version) -> Vec<Bytes> {
    let short_bytes = |at: usize| {
        let length = usize::from(u16::from_be_bytes(*message[at..].first_chunk().unwrap()));
        message.slice(at + 2..at + 2 + length)
    };
    match message[..4] {
        [0, 0, 0, 4] if version == Version::V5 => vec![short_bytes(4), short_bytes(22)],
        [0, 0, 0, 4] => vec![short_bytes(4)],
        // New columns of a Rows; no test pages through them.
        [0, 0, 0, 2] if version == Version::V5 && message[7] & 0x0A == 0x08 => vec![short_bytes(12)],
        _ => Vec::new(),
    }
}

fn replace(body: &mut [u8], from: &[u8], to: &[u8]) {
    if from.is_empty() {
        return;
    }
    for start in 0..body.len().saturating_sub(from.len() - 1) {
        if body[start..].starts_with(from) {
            body[start..start + from.len()].copy_from_slice(to);
        }
    }
}

/// The two of them.
pub struct Pair {
    /// Of both.
    pub version: Version,
    compression: Option<Compression>,
    ordered: Side,
    direct: Side,
    /// Answers that were not the same.
    pub differences: Vec<String>,
}

impl Pair {
    /// Through `address` and `plain`, in keyspaces of this number.
    pub async fn connect(
        address: &str,
        plain: &str,
        version: Version,
        compression: Option<Compression>,
        number: usize,
    ) -> Self {
        let ordered = Side::connect(address, version, compression, &format!("ordered_{number}")).await;
        let direct = Side::connect(plain, version, compression, &format!("past_it_{number}")).await;
        Self { version, compression, ordered, direct, differences: Vec::new() }
    }

    /// New connections, which use no keyspace.
    pub async fn reconnect(&mut self) {
        for side in [&mut self.ordered, &mut self.direct] {
            side.framed = connected(&side.address, self.version, self.compression).await;
        }
    }

    /// What both are answered with.
    pub async fn both(&mut self, opcode: Opcode, body: Bytes) -> [Envelope; 2] {
        let ordered = self.ordered.ask(opcode, body.clone()).await.expect("an answer");
        [ordered, self.direct.ask(opcode, body).await.expect("an answer")]
    }

    /// Asks both; the answers ought to be the same. Gives the ordered one's message.
    async fn same(&mut self, what: &str, ask: impl Fn(&str, &(Bytes, Bytes)) -> (Opcode, Bytes)) -> Bytes {
        let mut answers = Vec::new();
        for side in [&mut self.ordered, &mut self.direct] {
            let (opcode, body) = ask(&side.keyspace, &side.prepared);
            let answer = side.ask(opcode, body).await.expect("an answer");
            let masked = side.of_none(&answer, self.version);
            answers.push((answer, masked));
        }
        let [(ordered, of_ordered), (direct, of_direct)] = &answers[..] else { unreachable!() };
        let said = |answer: &Envelope| match answer.opcode {
            Opcode::Error => format!("{:?}", parse_error(&answer.message().unwrap())),
            _ => format!("{:?} {:02x?}", answer.opcode, answer.body),
        };
        let heads = |answer: &Envelope| (answer.version, answer.flags & !FLAG_WARNING, answer.stream, answer.opcode);
        if heads(ordered) != heads(direct) || of_ordered != of_direct {
            let kind = (self.version, self.compression);
            let [through, past] = [ordered, direct].map(|answer| format!("{:?} {}", heads(answer), said(answer)));
            self.differences.push(format!("{kind:?} {what}\n ordered: {through}\n direct:  {past}"));
        }
        ordered.message().unwrap()
    }

    /// A statement; `KS` in it is the keyspace.
    pub async fn text(&mut self, text: &str) -> Bytes {
        self.query(text, Params::new(Consistency::One, Values::none())).await
    }

    /// QUERY.
    pub async fn query(&mut self, text: &str, params: Params) -> Bytes {
        let version = self.version;
        self.same(text, |keyspace, _| {
            let text = text.replace("KS", keyspace);
            let body = match version {
                Version::V5 => request::v5::query(&text, &params, None),
                _ => request::query(&text, &params),
            };
            (Opcode::Query, body.unwrap())
        })
        .await
    }

    /// QUERY of version 5, in the keyspace.
    pub async fn query_in(&mut self, text: &str, params: Params, now: Option<i32>) -> Bytes {
        self.same(text, |keyspace, _| (Opcode::Query, request::v5::query_in(text, keyspace, &params, now).unwrap()))
            .await
    }

    /// PREPARE, for [`Pair::execute`].
    pub async fn prepare(&mut self, text: &str) {
        let version = self.version;
        self.same(text, |_, _| {
            let body = if version == Version::V5 { request::v5::prepare(text) } else { request::prepare(text) };
            (Opcode::Prepare, body.unwrap())
        })
        .await;
        self.note_prepared();
    }

    /// PREPARE as a client does whose statement is not known any more: what it knows of the columns is from before.
    pub async fn prepare_again(&mut self, text: &str) {
        let columns = [&self.ordered, &self.direct].map(|side| side.prepared.1.clone());
        self.prepare(text).await;
        for (side, columns) in [&mut self.ordered, &mut self.direct].into_iter().zip(columns) {
            side.prepared.1 = columns;
        }
    }

    /// What EXECUTE of what was prepared last is refused with, by both.
    pub async fn not_executed(&mut self, params: Params) -> i32 {
        let version = self.version;
        let mut codes = Vec::new();
        for side in [&mut self.ordered, &mut self.direct] {
            let (id, columns) = &side.prepared;
            let body = match version {
                Version::V5 => request::v5::execute(id, columns, &params, None),
                _ => request::execute(id, &params),
            };
            let answer = side.ask(Opcode::Execute, body.unwrap()).await.expect("an answer");
            assert_eq!(answer.opcode, Opcode::Error, "{:02x?}", answer.body);
            codes.push(parse_error(&answer.message().unwrap()).unwrap().code);
        }
        assert_eq!(codes[0], codes[1]);
        codes[0]
    }

    /// PREPARE of version 5, in the keyspace.
    pub async fn prepare_in(&mut self, text: &str) {
        self.same(text, |keyspace, _| (Opcode::Prepare, request::v5::prepare_in(text, keyspace).unwrap())).await;
        self.note_prepared();
    }

    fn note_prepared(&mut self) {
        for side in [&mut self.ordered, &mut self.direct] {
            let new = if self.version == Version::V5 { 2 } else { 1 };
            let digests = &side.digests[side.digests.len() - new..];
            side.prepared = (digests[0].clone(), digests.get(1).cloned().unwrap_or_default());
        }
    }

    /// EXECUTE of what was prepared last.
    pub async fn execute(&mut self, params: Params) -> Bytes {
        let version = self.version;
        self.same("EXECUTE", |_, (id, columns)| {
            let body = match version {
                Version::V5 => request::v5::execute(id, columns, &params, None),
                _ => request::execute(id, &params),
            };
            (Opcode::Execute, body.unwrap())
        })
        .await
    }

    /// BATCH; an empty id is that of what was prepared last. In version 5 in the keyspace, if there is a `now`.
    pub async fn batch(&mut self, batch: Batch, now: Option<i32>) {
        let version = self.version;
        self.same("BATCH", |keyspace, (id, _)| {
            let mut batch = batch.clone();
            for statement in &mut batch.statements {
                if matches!(&statement.body, BatchBody::Id(empty) if empty.is_empty()) {
                    statement.body = BatchBody::Id(id.clone());
                }
            }
            let body = match (version, now) {
                (Version::V5, Some(_)) => request::v5::batch_in(&batch, keyspace, now),
                (Version::V5, None) => request::v5::batch(&batch, None),
                _ => request::batch(&batch),
            };
            (Opcode::Batch, body.unwrap())
        })
        .await;
    }

    /// What breaks the protocol: both say so with the same code, whatever else they say.
    pub async fn refused(&mut self, opcode: Opcode, body: Bytes) {
        let codes =
            self.both(opcode, body.clone()).await.map(|answer| parse_error(&answer.message().unwrap()).unwrap());
        assert_eq!(codes[0].code, codes[1].code, "{opcode:?} {body:02x?}: {codes:?}");
    }
}
