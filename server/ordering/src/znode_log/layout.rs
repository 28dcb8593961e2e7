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
//! With a leader ([`crate::zookeeper_leader`]) also:
//! ```text
//! <root>/epoch                             where the log and its election are; its version is the epoch
//! <root>/leader                            ephemeral: who leads
//! <root>/election/<replica %010d>-<incarnation %016x>  ephemeral: who may come to lead
//! ```
//! There `requests`, `leader` and `election` may be elsewhere.

use serde::{Deserialize, Serialize};

use crate::{Beginning, LogId, Position};

/// Longest root path, in bytes; every path stays far below what ZooKeeper takes.
const MAX_ROOT_BYTES: usize = 200;

/// What is below the root.
const NAMES: [&str; 10] =
    ["bodies", "election", "epoch", "incarnations", "leader", "members", "positions", "pulses", "push-key", "requests"];

/// Paths below one root.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: String,
    /// Path of the node that the log's segments lie below.
    requests: String,
}

/// Whether it is an absolute path of plain components, not `/` itself.
pub(crate) fn is_plain(path: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let component = |part: &str| !part.is_empty() && part != "." && part != ".." && part.chars().all(plain);
    let parts = path.strip_prefix('/').filter(|parts| parts.split('/').all(component));
    parts.is_some_and(|parts| path.len() <= MAX_ROOT_BYTES && !parts.starts_with("zookeeper"))
}

/// Whether what is usually the folder `usual` below the root can be at `path` instead: elsewhere altogether, or beside the others.
pub(crate) fn is_free(root: &str, path: &str, usual: &str) -> bool {
    let below = path.strip_prefix(root).and_then(|rest| rest.strip_prefix('/'));
    let free = match below {
        Some(name) => !name.contains('/') && (name == usual || !NAMES.contains(&name)),
        None => !overlap(path, root),
    };
    free && is_plain(path)
}

/// Whether one of two paths is the other, or below it.
pub(crate) fn overlap(one: &str, other: &str) -> bool {
    let (short, long) = if one.len() <= other.len() { (one, other) } else { (other, one) };
    long.strip_prefix(short).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Layout {
    /// Checks the root: an absolute path of plain components, not `/` itself.
    pub(crate) fn new(root: &str) -> Result<Self, String> {
        match is_plain(root) {
            true => Ok(Self { root: root.to_owned(), requests: format!("{root}/requests") }),
            false => Err(format!(
                "the root {root:?} is not a path like /replicateddb (letters, digits, - _ . and at most {MAX_ROOT_BYTES} bytes, not below /zookeeper)"
            )),
        }
    }

    /// The same with the log's segments below another path.
    pub(crate) fn with_requests(self, requests: String) -> Self {
        Self { requests, ..self }
    }

    pub(crate) fn root(&self) -> &str {
        &self.root
    }

    pub(crate) fn requests(&self) -> String {
        self.requests.clone()
    }

    /// Where the epoch is kept, if the log has a leader.
    pub(crate) fn epoch(&self) -> String {
        format!("{}/epoch", self.root)
    }

    pub(crate) fn segment(&self, segment: u32) -> String {
        format!("{}/{segment:010}", self.requests)
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
    /// The engine that the log is of, in a header of [`LogHeader::LED`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    engine: Option<String>,
}

/// The engine whose logs say nothing of an engine.
pub(crate) const ZNODE_LOG: &str = "ZnodeLog";
/// The engine with a leader.
pub(crate) const ZOOKEEPER_LEADER: &str = "ZooKeeperLeader";

impl LogHeader {
    const FORMAT: u32 = 2;
    /// Of a log that says which engine it is of: a program that knows [`ZNODE_LOG`] alone must not take it for one of its own.
    const LED: u32 = 3;

    /// The header of a log of that engine that begins like this.
    pub(crate) fn new(id: LogId, engine: &str, beginning: Beginning) -> Self {
        let engine = (engine != ZNODE_LOG).then(|| engine.to_owned());
        let format = if engine.is_some() { Self::LED } else { Self::FORMAT };
        Self { format, id, first: Position::START, first_bytes: None, engine }.moved(beginning)
    }

    /// The same log, which begins like this.
    pub(crate) fn moved(self, Beginning { position: first, bytes }: Beginning) -> Self {
        // A whole log says nothing of it, in a header that it shares with those of before there were bytes.
        let first_bytes = bytes.filter(|_| first != Position::START);
        Self { first, first_bytes, ..self }
    }

    /// The engine that the log is of.
    pub(crate) fn engine(&self) -> &str {
        self.engine.as_deref().unwrap_or(ZNODE_LOG)
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
            Format { format: format @ (Self::FORMAT | Self::LED) } => {
                let header: Self = serde_json::from_slice(data).map_err(damaged)?;
                match header.engine.is_some() == (format == Self::LED) {
                    true => Ok(header),
                    false => {
                        Err("the log's header is damaged: its format and its engine do not belong together".into())
                    }
                }
            }
            Format { format } => {
                Err(format!("the log has format {format}, this program knows {} and {}", Self::FORMAT, Self::LED))
            }
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

    #[test]
    fn paths_that_overlap() {
        assert!(overlap("/a/b", "/a/b") && overlap("/a/b/c", "/a/b") && overlap("/a", "/a/b/c"));
        assert!(!overlap("/a/b", "/a/bc") && !overlap("/a/b", "/a/c"));
        for free in ["/r/requests", "/r/other", "/logs/r", "/rr"] {
            assert!(is_free("/r", free, "requests"), "{free}");
        }
        for taken in ["/r", "/", "/r/members", "/r/a/b", "/r/requests/x", "r/x", "/logs/"] {
            assert!(!is_free("/r", taken, "requests"), "{taken}");
        }
        let layout = Layout::new("/r").expect("a root").with_requests("/logs/r".into());
        assert_eq!(layout.entry(Position::new(1, 2)), "/logs/r/0000000001/e-0000000002");
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
            for engine in [ZNODE_LOG, ZOOKEEPER_LEADER] {
                let header = LogHeader::new(id, engine, beginning);
                assert_eq!((header.beginning(), header.engine()), (beginning, engine));
                assert_eq!(header.clone().moved(Beginning::START).moved(beginning), header, "it stays what it is");
                assert_eq!(LogHeader::parse(&header.data()), Ok(header));
            }
        }
        let led = LogHeader::new(id, ZOOKEEPER_LEADER, Beginning::START).data();
        let led = String::from_utf8(led).expect("text");
        assert!(led.contains(r#""format":3"#), "no header of the other engine: {led}");
        assert!(LogHeader::parse(led.replace(r#""format":3"#, r#""format":2"#).as_bytes()).is_err());
        // What a log without an id of its own says of itself.
        let before = LogHeader::parse(br#"{"format":1,"first":{"segment":0,"sequence":0}}"#).unwrap_err();
        assert!(before.contains("format 1"), "{before}");
        let without = LogHeader::parse(br#"{"format":2,"first":{"segment":0,"sequence":0}}"#).unwrap_err();
        assert!(without.contains("damaged") && without.contains("id"), "{without}");
    }
}
