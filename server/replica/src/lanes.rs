//! The lane scheduler: which records and snapshot reads may execute now. Pure.
//!
//! A record takes all its lanes at once, in the order of the log, so there is no deadlock and every lane is in log
//! order. Lanes form a tree: everything > a table > a partition key of it. Writing in a lane passes through those above
//! it and excludes everything below it. Reading a lane excludes every write in it and below it, but no other read: the
//! modes are those of hierarchical locking (Gray, Lorie, Putzolu, Traiger: Granularity of Locks, 1976): IS, IX, S, X.
//! A read queues like a record, behind all that was submitted before it: what it sees is a prefix of the log.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::mutations::{Mutation, mutated};

/// A place in the tree. Names are hashed: a collision costs parallelism, never order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Lane {
    /// Everything.
    All,
    /// A table.
    Table(u64),
    /// A partition key of a table.
    Key(u64, u64),
}

/// How a lane is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Something below it is read.
    ReadBelow,
    /// Something below it is written.
    WriteBelow,
    /// Nothing in it may change.
    Read,
    /// It is written.
    Write,
}

/// The lanes of one record or read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lanes {
    held: BTreeMap<Lane, Mode>,
}

impl Lanes {
    /// No lane: conflicts only with [`Lanes::all`] and [`Lanes::read_all`].
    pub fn none() -> Self {
        Self { held: BTreeMap::from([(Lane::All, Mode::WriteBelow)]) }
    }

    /// Every lane: waits for all before it, and all after it wait.
    pub fn all() -> Self {
        Self { held: BTreeMap::from([(Lane::All, Mode::Write)]) }
    }

    /// To read a table: waits for the records before it that write there, and those after it wait.
    pub fn read_table(keyspace: &str, table: &str) -> Self {
        let table = Lane::Table(hash(&(keyspace, table)));
        Self { held: BTreeMap::from([(Lane::All, Mode::ReadBelow), (table, Mode::Read)]) }
    }

    /// To read anything: waits for all records before it, and all after it wait.
    pub fn read_all() -> Self {
        Self { held: BTreeMap::from([(Lane::All, Mode::Read)]) }
    }

    /// Adds a whole table.
    pub fn add_table(&mut self, keyspace: &str, table: &str) {
        self.take(Lane::Table(hash(&(keyspace, table))));
    }

    /// Adds one partition of a table; `key` is any injective encoding of its partition key.
    pub fn add_key(&mut self, keyspace: &str, table: &str, key: &[u8]) {
        let table = hash(&(keyspace, table));
        self.held.entry(Lane::Table(table)).or_insert(Mode::WriteBelow);
        self.take(Lane::Key(table, hash(key)));
    }

    fn take(&mut self, lane: Lane) {
        self.held.insert(lane, Mode::Write);
    }

    /// The lanes that are written: whatever may change is in them or below them.
    pub(crate) fn written(&self) -> impl Iterator<Item = Lane> {
        self.held.iter().filter(|(_, mode)| **mode == Mode::Write).map(|(lane, _)| *lane)
    }

    /// Whether it writes in the lane of everything.
    pub fn is_all(&self) -> bool {
        self.held.get(&Lane::All) == Some(&Mode::Write)
    }
}

fn hash<T: Hash + ?Sized>(value: &T) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Who holds a lane and who waits for it, first come first served.
#[derive(Debug, Default)]
struct Queue {
    reads_below: usize,
    writes_below: usize,
    reads: usize,
    written: bool,
    waiting: VecDeque<(Ticket, Mode)>,
}

impl Queue {
    fn admits(&self, mode: Mode) -> bool {
        !self.written
            && match mode {
                Mode::ReadBelow => true,
                Mode::WriteBelow => self.reads == 0,
                Mode::Read => self.writes_below == 0,
                Mode::Write => self.reads_below == 0 && self.writes_below == 0 && self.reads == 0,
            }
    }

    fn hold(&mut self, mode: Mode) {
        match mode {
            Mode::ReadBelow => self.reads_below += 1,
            Mode::WriteBelow => self.writes_below += 1,
            Mode::Read => self.reads += 1,
            Mode::Write => self.written = true,
        }
    }

    fn free(&mut self, mode: Mode) {
        match mode {
            Mode::ReadBelow => self.reads_below -= 1,
            Mode::WriteBelow => self.writes_below -= 1,
            Mode::Read => self.reads -= 1,
            Mode::Write => self.written = false,
        }
    }

    fn is_free(&self) -> bool {
        let held = self.reads_below + self.writes_below + self.reads;
        held == 0 && !self.written && self.waiting.is_empty()
    }
}

/// Who takes lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ticket {
    /// The record of this index.
    Record(u64),
    /// A read, by a number of its own.
    Read(u64),
}

#[derive(Debug)]
struct Task {
    lanes: Lanes,
    /// Lanes not held yet.
    missing: usize,
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct Scheduler {
    queues: HashMap<Lane, Queue>,
    tasks: HashMap<Ticket, Task>,
    /// Of the tasks, those of records.
    records: usize,
    last: Option<u64>,
    reads: u64,
}

impl Scheduler {
    /// Submits the next record. Returns whether it may execute at once; otherwise [`Scheduler::complete`] of others
    /// will name it.
    pub fn submit(&mut self, index: u64, lanes: Lanes) -> bool {
        assert!(self.last.is_none_or(|last| last < index), "I3: records are scheduled in the order of the log");
        self.last = Some(index);
        self.records += 1;
        let lanes = if mutated(Mutation::WrongLane) && !lanes.is_all() { Lanes::none() } else { lanes };
        self.enqueue(Ticket::Record(index), lanes)
    }

    /// Submits a read, behind every record submitted before. Returns its number, and whether it may read at once;
    /// otherwise [`Scheduler::complete`] of others will name it.
    pub fn submit_read(&mut self, lanes: Lanes) -> (u64, bool) {
        self.reads += 1;
        let lanes = if mutated(Mutation::ReadWithoutLanes) { Lanes { held: BTreeMap::new() } } else { lanes };
        (self.reads, self.enqueue(Ticket::Read(self.reads), lanes))
    }

    fn enqueue(&mut self, ticket: Ticket, lanes: Lanes) -> bool {
        let mut missing = 0;
        for (lane, mode) in &lanes.held {
            let queue = self.queues.entry(*lane).or_default();
            if queue.waiting.is_empty() && queue.admits(*mode) {
                queue.hold(*mode);
            } else {
                queue.waiting.push_back((ticket, *mode));
                missing += 1;
            }
        }
        self.tasks.insert(ticket, Task { lanes, missing });
        missing == 0
    }

    /// A record has executed, or a read is over: frees its lanes and returns those that may go on now, records in the
    /// order of the log.
    pub fn complete(&mut self, ticket: Ticket) -> Vec<Ticket> {
        let task = self.tasks.remove(&ticket).expect("only what was submitted completes, and once (I3)");
        assert_eq!(task.missing, 0, "only what holds its lanes executes");
        self.records -= usize::from(matches!(ticket, Ticket::Record(_)));
        let mut ready = Vec::new();
        for (lane, mode) in task.lanes.held {
            let queue = self.queues.get_mut(&lane).expect("a held lane has a queue");
            queue.free(mode);
            while let Some((next, mode)) = queue.waiting.front().copied()
                && queue.admits(mode)
            {
                queue.hold(mode);
                queue.waiting.pop_front();
                let task = self.tasks.get_mut(&next).expect("who waits was submitted");
                task.missing -= 1;
                if task.missing == 0 {
                    ready.push(next);
                }
            }
            if queue.is_free() {
                self.queues.remove(&lane);
            }
        }
        ready.sort_unstable();
        ready
    }

    /// Records submitted and not completed.
    pub fn records(&self) -> usize {
        self.records
    }

    /// Reads submitted and not over.
    #[cfg(test)]
    fn reads(&self) -> usize {
        self.tasks.len() - self.records
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Want {
        All,
        None,
        Table(u8),
        Keys(Vec<(u8, u8)>),
        ReadTable(u8),
        ReadAll,
    }

    impl Want {
        fn reads(&self) -> bool {
            matches!(self, Want::ReadTable(_) | Want::ReadAll)
        }
    }

    fn want() -> impl Strategy<Value = Want> {
        prop_oneof![
            1 => Just(Want::All),
            1 => Just(Want::None),
            2 => (0u8..3).prop_map(Want::Table),
            2 => (0u8..3).prop_map(Want::ReadTable),
            1 => Just(Want::ReadAll),
            8 => proptest::collection::vec((0u8..3, 0u8..3), 1..4).prop_map(Want::Keys),
        ]
    }

    fn lanes(want: &Want) -> Lanes {
        let mut lanes = Lanes::none();
        match want {
            Want::All => return Lanes::all(),
            Want::ReadAll => return Lanes::read_all(),
            Want::ReadTable(table) => return Lanes::read_table("k", &table.to_string()),
            Want::None => {}
            Want::Table(table) => lanes.add_table("k", &table.to_string()),
            Want::Keys(keys) => keys.iter().for_each(|(table, key)| lanes.add_key("k", &table.to_string(), &[*key])),
        }
        lanes
    }

    fn conflict(a: &Want, b: &Want) -> bool {
        match (a, b) {
            (Want::All, _) | (_, Want::All) => true,
            (a, b) if a.reads() && b.reads() => false,
            // A record without lanes changes nothing that a read of everything must not see; it may still wait for it.
            (Want::ReadAll, _) | (_, Want::ReadAll) => true,
            (Want::None, _) | (_, Want::None) => false,
            (Want::ReadTable(table), other) | (other, Want::ReadTable(table)) => conflict(&Want::Table(*table), other),
            (Want::Table(a), Want::Table(b)) => a == b,
            (Want::Table(t), Want::Keys(keys)) | (Want::Keys(keys), Want::Table(t)) => keys.iter().any(|k| k.0 == *t),
            (Want::Keys(a), Want::Keys(b)) => a.iter().any(|key| b.contains(key)),
        }
    }

    proptest! {
        /// What conflicts executes in the order of submission, none waits without a reason, and all finish.
        #[test]
        fn order_parallelism_progress(wants in proptest::collection::vec(want(), 1..40), picks: [u8; 64]) {
            let mut scheduler = Scheduler::default();
            let mut tickets: Vec<Ticket> = Vec::new();
            let mut running: Vec<Ticket> = Vec::new();
            let mut done = vec![false; wants.len()];
            let mut pick = 0usize;
            while done.iter().any(|d| !d) {
                pick += 1;
                let choice = usize::from(picks[pick % picks.len()]);
                let next = tickets.len();
                if next < wants.len() && (running.is_empty() || choice % 2 == 0) {
                    let (ticket, ready) = if wants[next].reads() {
                        let (number, ready) = scheduler.submit_read(lanes(&wants[next]));
                        (Ticket::Read(number), ready)
                    } else {
                        (Ticket::Record(next as u64), scheduler.submit(next as u64, lanes(&wants[next])))
                    };
                    tickets.push(ticket);
                    if ready {
                        running.push(ticket);
                    }
                } else {
                    prop_assert!(!running.is_empty(), "deadlock");
                    let ticket = running.swap_remove(choice % running.len());
                    let n = tickets.iter().position(|t| *t == ticket).expect("submitted");
                    done[n] = true;
                    running.extend(scheduler.complete(ticket));
                }
                for n in 0..tickets.len() {
                    let blocked = (0..n).any(|m| !done[m] && conflict(&wants[m], &wants[n]));
                    let is_running = running.contains(&tickets[n]);
                    prop_assert!(!(blocked && is_running), "{n} overtook what it conflicts with");
                    // Waiting is justified by a conflict, directly or through waiting lanes shared with one that waits.
                    let reason = (0..n).any(|m| !done[m] && (conflict(&wants[m], &wants[n]) || !running.contains(&tickets[m])));
                    prop_assert!(done[n] || is_running || reason, "{n} waits for nothing");
                }
                let open = |reads: bool| (0..tickets.len()).filter(|n| !done[*n] && wants[*n].reads() == reads).count();
                prop_assert_eq!((scheduler.records(), scheduler.reads()), (open(false), open(true)));
            }
            prop_assert!(scheduler.queues.is_empty());
        }
    }
}
