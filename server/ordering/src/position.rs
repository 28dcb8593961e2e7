//! Where an entry stands in the order.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The place of one entry in the global order: the entry `sequence` of the segment `segment`.
///
/// Positions of one log are totally ordered and dense: the entry after one at `s/n` stands at `s/n+1`, or at `s+1/0`
/// when the segment was sealed. To read on after an entry, ask for [`Position::next`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Number of the segment, from 0.
    pub segment: u32,
    /// Number of the entry within its segment, from 0.
    pub sequence: u32,
}

impl Position {
    /// The position of the very first entry of a log.
    pub const START: Self = Self { segment: 0, sequence: 0 };

    /// A position from its parts.
    pub const fn new(segment: u32, sequence: u32) -> Self {
        Self { segment, sequence }
    }

    /// Where to read on after the entry at this position. The segment may end here; a tail knows.
    pub const fn next(self) -> Self {
        Self { segment: self.segment, sequence: self.sequence.saturating_add(1) }
    }

    /// The first position of the segment after this one's.
    pub const fn next_segment(self) -> Self {
        Self { segment: self.segment.saturating_add(1), sequence: 0 }
    }

    /// Whether `self` is where the entry directly after the one at `earlier` may stand.
    pub fn follows(self, earlier: Self) -> bool {
        self == earlier.next() || self == earlier.next_segment()
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.segment, self.sequence)
    }
}

/// A text that is no position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a log position is written as SEGMENT/SEQUENCE, two numbers, not {text:?}")]
pub struct ParsePositionError {
    text: String,
}

impl FromStr for Position {
    type Err = ParsePositionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text
            .split_once('/')
            .and_then(|(segment, sequence)| Some(Self::new(segment.parse().ok()?, sequence.parse().ok()?)));
        parsed.ok_or_else(|| ParsePositionError { text: text.chars().take(64).collect() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn text_round_trips(segment: u32, sequence: u32) {
            let position = Position::new(segment, sequence);
            prop_assert_eq!(position.to_string().parse::<Position>(), Ok(position));
        }

        #[test]
        fn any_text_parses_or_is_refused(text: String) {
            let _ = text.parse::<Position>();
        }

        #[test]
        fn order_is_segment_then_sequence(a: (u32, u32), b: (u32, u32)) {
            prop_assert_eq!(Position::new(a.0, a.1).cmp(&Position::new(b.0, b.1)), a.cmp(&b));
        }
    }

    #[test]
    fn followers() {
        let at = Position::new(2, 7);
        assert!(Position::new(2, 8).follows(at) && Position::new(3, 0).follows(at));
        assert!(!Position::new(2, 9).follows(at) && !Position::new(3, 1).follows(at) && !at.follows(at));
    }
}
