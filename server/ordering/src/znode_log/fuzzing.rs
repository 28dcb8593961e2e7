//! What is read from znodes and from other replicas, for fuzz targets.

use bytes::Bytes;

use super::layout::{Layout, LogHeader, SegmentState, segment_of, sequence_of};
use super::plan::created_below;
pub use super::push::fuzzing::{Said, receiver, sender};
use crate::Position;
use crate::framing::{self, Framed};

/// The data of an entry's znode, as it is written again; `None` if it can't be read.
pub fn entry(data: &Bytes) -> Option<Bytes> {
    Some(match framing::decode(data).ok()? {
        Framed::Inline(entry) => framing::encode_inline(&entry).into(),
        Framed::Side(body) => framing::encode_side(&body).into(),
    })
}

/// The log's header, as it is written again; `None` if it can't be read.
pub fn header(data: &[u8]) -> Option<Vec<u8>> {
    let header = LogHeader::parse(data).ok()?;
    let again = LogHeader::new(header.id, header.engine(), header.beginning());
    assert_eq!((again.beginning(), again.engine()), (header.beginning(), header.engine()));
    Some(again.data())
}

/// The names of nodes, and what segments hold: what is read is written the same.
pub fn names(name: &str) {
    let layout = Layout::new("/fuzzed").expect("a root");
    if let Some(sequence) = sequence_of(name) {
        let path = layout.entry(Position::new(0, sequence));
        assert_eq!(path.rsplit('/').next(), name.rsplit('/').next());
    }
    if let Some(segment) = segment_of(name) {
        assert_eq!(layout.segment(segment).rsplit('/').next(), Some(name));
    }
    if let Some(state) = SegmentState::parse(name.as_bytes()) {
        assert_eq!(state.data(), name.as_bytes());
    }
    if let Ok(layout) = Layout::new(name) {
        assert!(layout.requests().starts_with(name));
    }
}

/// What ZooKeeper tells of a folder.
pub fn created(children_version: i32, children: i32) -> Option<u32> {
    created_below(children_version, children)
}
