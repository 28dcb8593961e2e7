//! The bookkeeping of the log, as a function of the batches that Raft has ordered. No IO, no clock.
//!
//! It does not hold the entries: it gives each its number, and with that its position, and refuses those of lives that are
//! over (I6). Every node computes the same from the same batches (I1).

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::command::{Batch, Command, Note, Outcome};
use crate::truncation::Published;
use crate::{Beginning, Incarnation, Life, Position};

/// Lives of each replica that are remembered when they are over: as many as may be begun while a request is on its way.
const REMEMBERED: usize = 16;

/// A life that has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Held {
    incarnation: Incarnation,
    opener: Uuid,
}

/// The bookkeeping.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// Which log it is; `None` until it is made.
    log: Option<Uuid>,
    segment_entries: u32,
    /// The time of the last batch, which never goes back.
    clock_ms: i64,
    /// Number of the next entry.
    next: u64,
    /// Number of the first entry that was not given up.
    first: u64,
    /// Where that stands, as it was said: the end of a segment and the start of the next are the same place.
    beginning: Option<(Position, Option<u64>)>,
    last_incarnation: i64,
    lives: BTreeMap<u32, Held>,
    /// The openers of each replica's lives that are over, the last ones.
    over: BTreeMap<u32, VecDeque<Uuid>>,
    published: BTreeMap<u32, Published>,
}

/// What a batch has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Applied {
    /// One for each command.
    pub(super) outcomes: Vec<Outcome>,
    /// The entries that it has brought; `None` if there are none.
    pub(super) placed: Option<Placed>,
}

/// The entries of one batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    /// Number of the first one.
    pub(super) first: u64,
    /// How many.
    pub(super) count: u64,
    /// The log's clock, in milliseconds since 1970.
    pub(super) at_ms: i64,
    /// Which commands of the batch are appends that were refused; mostly none.
    pub(super) refused: Vec<usize>,
}

impl State {
    /// Applies the batch at `index` of Raft's log.
    pub(super) fn apply(&mut self, index: u64, batch: &Batch) -> Applied {
        self.clock_ms = self.clock_ms.max(batch.at_ms);
        let first = self.next;
        let mut refused = Vec::new();
        let mut outcomes = Vec::with_capacity(batch.commands.len());
        for (number, command) in batch.commands.iter().enumerate() {
            let outcome = match command {
                Command::Append { life, .. } => self.append(*life),
                Command::Note(note) => self.note(index, note),
            };
            if matches!(command, Command::Append { .. }) && !matches!(outcome, Outcome::Appended { .. }) {
                refused.push(number);
            }
            outcomes.push(outcome);
        }
        let count = self.next - first;
        let placed = (count > 0).then_some(Placed { first, count, at_ms: self.clock_ms, refused });
        Applied { outcomes, placed }
    }

    fn append(&mut self, life: Life) -> Outcome {
        if !self.lives(life) {
            return Outcome::Fenced;
        }
        let position = self.position(self.next);
        self.next += 1;
        Outcome::Appended { position, at_ms: self.clock_ms }
    }

    fn note(&mut self, index: u64, note: &Note) -> Outcome {
        match note {
            Note::Found { log, segment_entries } => {
                if self.log.is_none() {
                    self.log = Some(*log);
                    self.segment_entries = (*segment_entries).max(1);
                }
                Outcome::Done
            }
            Note::Begin { replica, opener } => self.begin(index, *replica, *opener),
            Note::End { by, .. } | Note::Truncate { by, .. } | Note::Publish { by, .. } if !self.lives(*by) => {
                Outcome::Fenced
            }
            Note::End { life, .. } => {
                if self.lives(*life) {
                    self.end_life(life.0);
                }
                Outcome::Done
            }
            Note::Truncate { position, bytes, .. } => self.truncate(*position, *bytes),
            Note::Publish { published, .. } => {
                self.published.insert(published.replica, published.clone());
                Outcome::Done
            }
        }
    }

    fn begin(&mut self, index: u64, replica: u32, opener: Uuid) -> Outcome {
        let Some(log) = self.log else { return Outcome::NoLog };
        match self.lives.get(&replica) {
            // Asked again, because the answer was lost.
            Some(held) if held.opener == opener => Outcome::Begun { incarnation: held.incarnation, log },
            // Asked again, and late: another life has begun since, or this one has ended already.
            _ if self.over.get(&replica).is_some_and(|over| over.contains(&opener)) => Outcome::Fenced,
            _ => {
                self.end_life(replica);
                // Raft's numbers grow; several lives may begin in one batch.
                let number = i64::try_from(index).unwrap_or(i64::MAX).max(self.last_incarnation.saturating_add(1));
                self.last_incarnation = number;
                let incarnation = Incarnation(number);
                self.lives.insert(replica, Held { incarnation, opener });
                Outcome::Begun { incarnation, log }
            }
        }
    }

    fn end_life(&mut self, replica: u32) {
        let Some(held) = self.lives.remove(&replica) else { return };
        let over = self.over.entry(replica).or_default();
        if over.len() >= REMEMBERED {
            over.pop_front();
        }
        over.push_back(held.opener);
    }

    fn truncate(&mut self, position: Position, bytes: Option<u64>) -> Outcome {
        match self.number(position).filter(|number| *number <= self.next) {
            None => Outcome::OutOfRange { end: self.end() },
            Some(number) => {
                if number > self.first {
                    self.first = number;
                    self.beginning = Some((position, bytes));
                }
                Outcome::Done
            }
        }
    }

    /// Whether a life has begun and not ended.
    pub(super) fn lives(&self, (replica, incarnation): Life) -> bool {
        self.lives.get(&replica).is_some_and(|held| held.incarnation == incarnation)
    }

    /// The lives that have not ended.
    pub(super) fn living(&self) -> impl Iterator<Item = Life> {
        self.lives.iter().map(|(replica, held)| (*replica, held.incarnation))
    }

    /// What replicas have made known, in order of their numbers.
    pub(super) fn published(&self) -> impl Iterator<Item = &Published> {
        self.published.values()
    }

    /// Which log it is, once it is made.
    pub(super) fn log(&self) -> Option<Uuid> {
        self.log
    }

    /// Number of the first entry that was not given up.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// Number of the next entry.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Where the log begins.
    pub(super) fn beginning(&self) -> Beginning {
        self.beginning.map_or(Beginning::START, |(position, bytes)| Beginning { position, bytes })
    }

    /// The first position that nothing stands at.
    pub(super) fn end(&self) -> Position {
        self.position(self.next)
    }

    /// Where the entry with this number stands.
    pub(super) fn position(&self, number: u64) -> Position {
        let per_segment = u64::from(self.segment_entries.max(1));
        let segment = u32::try_from(number / per_segment).unwrap_or(u32::MAX);
        let sequence = u32::try_from(number % per_segment).unwrap_or(u32::MAX);
        Position { segment, sequence }
    }

    /// Number of the entry that `position` reads on with; `None` if no segment has that many entries.
    pub(super) fn number(&self, position: Position) -> Option<u64> {
        let per_segment = self.segment_entries.max(1);
        (position.sequence <= per_segment)
            .then(|| u64::from(position.segment) * u64::from(per_segment) + u64::from(position.sequence))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::super::command::tests::batch;
    use super::*;

    fn found() -> Batch {
        let note = Note::Found { log: Uuid::from_u128(7), segment_entries: 3 };
        Batch { at_ms: 0, commands: vec![Command::Note(note)] }
    }

    proptest! {
        /// Whatever is ordered: positions are dense and never given twice, an ended life appends nothing, incarnations are
        /// never given twice, the clock and the beginning never go back, and the state goes through its text unchanged.
        #[test]
        fn rules_hold(batches in prop::collection::vec(batch(), 0..60)) {
            let mut state = State::default();
            let mut given = BTreeSet::new();
            let mut expected = 0;
            state.apply(0, &found());
            for (index, batch) in batches.iter().enumerate() {
                let (before, index) = (state.clone(), index as u64 + 1);
                let mut lives: BTreeSet<Life> = state.living().collect();
                let applied = state.apply(index, batch);
                prop_assert_eq!(applied.outcomes.len(), batch.commands.len());
                for (command, outcome) in batch.commands.iter().zip(&applied.outcomes) {
                    match (command, outcome) {
                        (Command::Append { life, .. }, Outcome::Appended { position, at_ms }) => {
                            prop_assert!(lives.contains(life));
                            prop_assert_eq!(*position, state.position(expected));
                            prop_assert!(*at_ms >= before.clock_ms);
                            expected += 1;
                        }
                        (Command::Append { life, .. }, outcome) => {
                            prop_assert_eq!(outcome, &Outcome::Fenced);
                            prop_assert!(!lives.contains(life));
                        }
                        (Command::Note(Note::Begin { replica, .. }), Outcome::Begun { incarnation, .. }) => {
                            let life = (*replica, *incarnation);
                            prop_assert!(lives.contains(&life) || given.insert(*incarnation));
                            lives.retain(|(other, _)| other != replica);
                            lives.insert(life);
                        }
                        (Command::Note(Note::End { by, life }), Outcome::Done) => {
                            prop_assert!(lives.contains(by));
                            lives.remove(life);
                        }
                        (Command::Note(_), _) => {}
                    }
                }
                prop_assert_eq!(state.living().collect::<BTreeSet<_>>(), lives);
                prop_assert_eq!(state.next, expected);
                prop_assert_eq!(applied.placed.map_or(0, |placed| placed.count), state.next - before.next);
                prop_assert!(state.first >= before.first && state.first <= state.next);
                prop_assert_eq!(state.number(state.beginning().position), Some(state.first));
                prop_assert_eq!(state.log, Some(Uuid::from_u128(7)));
                let text = serde_json::to_vec(&state).unwrap();
                prop_assert_eq!(&serde_json::from_slice::<State>(&text).unwrap(), &state);
            }
        }

        #[test]
        fn positions_are_numbers(segment_entries in 1..9u32, number in 0..500u64) {
            let state = State { segment_entries, ..State::default() };
            prop_assert_eq!(state.number(state.position(number)), Some(number));
            prop_assert!(state.position(number + 1).follows(state.position(number)));
            prop_assert_eq!(state.number(state.position(number).next()), Some(number + 1));
        }
    }

    #[test]
    fn a_late_request_for_a_life_that_is_over_ends_no_other() {
        let mut state = State::default();
        state.apply(0, &found());
        let begin = |opener: u128| Note::Begin { replica: 1, opener: Uuid::from_u128(opener) };
        for opener in 1..=REMEMBERED as u128 + 2 {
            assert!(matches!(state.note(1, &begin(opener)), Outcome::Begun { .. }));
        }
        let before = state.clone();
        for opener in 2..=REMEMBERED as u128 + 1 {
            assert_eq!(state.note(9, &begin(opener)), Outcome::Fenced);
        }
        assert_eq!(state, before);
        let life = state.living().next().unwrap();
        assert_eq!(state.note(9, &Note::End { by: life, life }), Outcome::Done);
        assert_eq!(state.note(9, &begin(REMEMBERED as u128 + 2)), Outcome::Fenced);
        assert_eq!(state.living().count(), 0);
        assert_eq!(state.over[&1].len(), REMEMBERED);
    }

    #[test]
    fn a_life_is_begun_once_however_often_it_is_asked_for() {
        let mut state = State::default();
        let begin = |opener| Note::Begin { replica: 1, opener: Uuid::from_u128(opener) };
        assert_eq!(state.note(1, &begin(1)), Outcome::NoLog);
        state.apply(2, &found());
        let log = Uuid::from_u128(7);
        let first = Outcome::Begun { incarnation: Incarnation(5), log };
        assert_eq!(state.note(5, &begin(1)), first);
        assert_eq!(state.note(6, &begin(1)), first);
        assert_eq!(state.note(6, &begin(2)), Outcome::Begun { incarnation: Incarnation(6), log });
        assert_eq!(state.note(6, &begin(3)), Outcome::Begun { incarnation: Incarnation(7), log });
        assert_eq!(state.append((1, Incarnation(6))), Outcome::Fenced);
        let life = (1, Incarnation(7));
        assert_eq!(state.note(8, &Note::End { by: life, life }), Outcome::Done);
        assert_eq!(state.append(life), Outcome::Fenced);
    }
}
