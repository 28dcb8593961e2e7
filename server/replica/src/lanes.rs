//! The lane scheduler: which records may execute now. Pure.
//!
//! A record takes all its lanes at once, in the order of the log, so there is no deadlock and every lane is in log
//! order. Lanes form a tree: everything > a table > a partition key of it. Taking a lane shares those above it and
//! excludes everything below it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

/// A place in the tree. Names are hashed: a collision costs parallelism, never order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Lane {
    All,
    Table(u64),
    Key(u64, u64),
}

/// The lanes of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lanes {
    /// Exclusive ones are `true`; ancestors are shared.
    held: BTreeMap<Lane, bool>,
}

impl Lanes {
    /// No lane: conflicts only with [`Lanes::all`].
    pub fn none() -> Self {
        Self { held: BTreeMap::from([(Lane::All, false)]) }
    }

    /// Every lane: waits for all before it, and all after it wait.
    pub fn all() -> Self {
        Self { held: BTreeMap::from([(Lane::All, true)]) }
    }

    /// Adds a whole table.
    pub fn add_table(&mut self, keyspace: &str, table: &str) {
        self.take(Lane::Table(hash(&(keyspace, table))));
    }

    /// Adds one partition of a table; `key` is any injective encoding of its partition key.
    pub fn add_key(&mut self, keyspace: &str, table: &str, key: &[u8]) {
        let table = hash(&(keyspace, table));
        self.held.entry(Lane::Table(table)).or_insert(false);
        self.take(Lane::Key(table, hash(key)));
    }

    fn take(&mut self, lane: Lane) {
        self.held.insert(lane, true);
    }

    /// Whether it is the lane of everything.
    pub fn is_all(&self) -> bool {
        self.held.get(&Lane::All) == Some(&true)
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
    shared: usize,
    exclusive: bool,
    waiting: VecDeque<(u64, bool)>,
}

impl Queue {
    fn admits(&self, exclusive: bool) -> bool {
        !self.exclusive && (!exclusive || self.shared == 0)
    }

    fn hold(&mut self, exclusive: bool) {
        if exclusive {
            self.exclusive = true;
        } else {
            self.shared += 1;
        }
    }
}

#[derive(Debug)]
struct Task {
    lanes: Lanes,
    /// Lanes not held yet.
    missing: usize,
}

/// See the module's head. Tickets are indexes of the log: unique, submitted in increasing order.
#[derive(Debug, Default)]
pub struct Scheduler {
    queues: HashMap<Lane, Queue>,
    tasks: HashMap<u64, Task>,
    last: Option<u64>,
}

impl Scheduler {
    /// Submits the next record. Returns whether it may execute at once; otherwise [`Scheduler::complete`] of others
    /// will name it.
    pub fn submit(&mut self, ticket: u64, lanes: Lanes) -> bool {
        assert!(self.last.is_none_or(|last| last < ticket), "I3: records are scheduled in the order of the log");
        self.last = Some(ticket);
        let mut missing = 0;
        for (lane, exclusive) in &lanes.held {
            let queue = self.queues.entry(*lane).or_default();
            if queue.waiting.is_empty() && queue.admits(*exclusive) {
                queue.hold(*exclusive);
            } else {
                queue.waiting.push_back((ticket, *exclusive));
                missing += 1;
            }
        }
        self.tasks.insert(ticket, Task { lanes, missing });
        missing == 0
    }

    /// A record has executed: frees its lanes and returns those that may execute now, in the order of the log.
    pub fn complete(&mut self, ticket: u64) -> Vec<u64> {
        let task = self.tasks.remove(&ticket).expect("only submitted records complete, and once (I3)");
        assert_eq!(task.missing, 0, "only records that hold their lanes execute");
        let mut ready = Vec::new();
        for (lane, exclusive) in task.lanes.held {
            let queue = self.queues.get_mut(&lane).expect("a held lane has a queue");
            match exclusive {
                true => queue.exclusive = false,
                false => queue.shared -= 1,
            }
            while let Some((next, exclusive)) = queue.waiting.front().copied()
                && queue.admits(exclusive)
            {
                queue.hold(exclusive);
                queue.waiting.pop_front();
                let task = self.tasks.get_mut(&next).expect("who waits was submitted");
                task.missing -= 1;
                if task.missing == 0 {
                    ready.push(next);
                }
            }
            if queue.shared == 0 && !queue.exclusive && queue.waiting.is_empty() {
                self.queues.remove(&lane);
            }
        }
        ready.sort_unstable();
        ready
    }

    /// Records submitted and not completed.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether nothing is submitted that has not completed.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Lanes held or waited for, the one of everything included.
    pub fn lanes(&self) -> usize {
        self.queues.len()
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
    }

    fn want() -> impl Strategy<Value = Want> {
        prop_oneof![
            1 => Just(Want::All),
            1 => Just(Want::None),
            2 => (0u8..3).prop_map(Want::Table),
            8 => proptest::collection::vec((0u8..3, 0u8..3), 1..4).prop_map(Want::Keys),
        ]
    }

    fn lanes(want: &Want) -> Lanes {
        let mut lanes = Lanes::none();
        match want {
            Want::All => return Lanes::all(),
            Want::None => {}
            Want::Table(table) => lanes.add_table("k", &table.to_string()),
            Want::Keys(keys) => keys.iter().for_each(|(table, key)| lanes.add_key("k", &table.to_string(), &[*key])),
        }
        lanes
    }

    fn conflict(a: &Want, b: &Want) -> bool {
        match (a, b) {
            (Want::All, _) | (_, Want::All) => true,
            (Want::None, _) | (_, Want::None) => false,
            (Want::Table(a), Want::Table(b)) => a == b,
            (Want::Table(t), Want::Keys(keys)) | (Want::Keys(keys), Want::Table(t)) => keys.iter().any(|k| k.0 == *t),
            (Want::Keys(a), Want::Keys(b)) => a.iter().any(|key| b.contains(key)),
        }
    }

    proptest! {
        /// Conflicting records execute in the order of the log, none waits without a reason, and all finish.
        #[test]
        fn order_parallelism_progress(wants in proptest::collection::vec(want(), 1..40), picks: [u8; 64]) {
            let mut scheduler = Scheduler::default();
            let mut running: Vec<u64> = Vec::new();
            let mut done = vec![false; wants.len()];
            let (mut next, mut pick) = (0usize, 0usize);
            while done.iter().any(|d| !d) {
                pick += 1;
                let choice = usize::from(picks[pick % picks.len()]);
                if next < wants.len() && (running.is_empty() || choice % 2 == 0) {
                    if scheduler.submit(next as u64, lanes(&wants[next])) {
                        running.push(next as u64);
                    }
                    next += 1;
                } else {
                    prop_assert!(!running.is_empty(), "deadlock");
                    let ticket = running.swap_remove(choice % running.len());
                    done[ticket as usize] = true;
                    running.extend(scheduler.complete(ticket));
                }
                for n in 0..next {
                    let blocked = (0..n).any(|m| !done[m] && conflict(&wants[m], &wants[n]));
                    let is_running = running.contains(&(n as u64));
                    prop_assert!(!(blocked && (is_running || done[n])), "{} overtook a conflicting record", n);
                    // Waiting is justified by a conflict, directly or through waiting lanes shared with one that waits.
                    let reason = (0..n).any(|m| !done[m] && (conflict(&wants[m], &wants[n]) || !running.contains(&(m as u64))));
                    prop_assert!(done[n] || is_running || reason, "{} waits for nothing", n);
                }
            }
            prop_assert!(scheduler.is_empty() && scheduler.lanes() == 0);
        }
    }
}
