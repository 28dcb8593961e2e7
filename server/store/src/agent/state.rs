//! What the agent knows: on the disk, and in memory while it runs.

use std::collections::VecDeque;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::jolokia::Jolokia;
use super::layout::Layout;
use super::plan::Caller;
use super::points::Found;
use super::process::Process;
use super::{disk, plan};
use crate::api::{Clean, Code, Damaged, Jvm, Refusal, RestorePoint, Status};

/// How many aborted ids are remembered. A call can be overtaken by its own abort only while both are on their way.
const ABORTED_KEPT: usize = 256;

/// How many logs are remembered that the store belonged to before.
const EARLIER_LOGS: usize = 8;

/// The agent's numbers, on the disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Persisted {
    /// Born with the volume.
    pub store_id: Uuid,
    /// Number of the last start of the JVM.
    pub generation: u64,
    /// The log that the store belongs to.
    #[serde(default)]
    pub log_id: Option<Uuid>,
    /// The highest incarnation of that log that ever called.
    pub highest_incarnation: Option<i64>,
    /// The highest incarnations of logs that the store belonged to before, latest last.
    #[serde(default)]
    pub earlier: Vec<Caller>,
    /// Number of the last manifest.
    pub sequence: u64,
    /// The restore point that the last rewind put back.
    #[serde(default)]
    pub last_put_back: Option<String>,
    /// Why nothing that is here is to be used.
    #[serde(default)]
    pub distrusted: Option<String>,
    /// The directory is of a Cassandra that several replicas share.
    #[serde(default)]
    pub shared: bool,
    /// Its clients log in, ever since it was started so first.
    #[serde(default)]
    pub authentication: bool,
}

/// Bits of a generation that are random; those above are the time in seconds, for some hundred thousand years.
const GENERATION_RANDOM: u32 = 20;

impl Persisted {
    /// The numbers of a new volume.
    pub fn new(shared: bool) -> Self {
        Self {
            store_id: Uuid::new_v4(),
            generation: 0,
            log_id: None,
            highest_incarnation: None,
            earlier: Vec::new(),
            sequence: 0,
            last_put_back: None,
            distrusted: None,
            shared,
            authentication: false,
        }
    }

    /// The number of the next start of the JVM, at `now`, in seconds since 1970: higher than all before, and another one than any start
    /// on another volume, or on this one before it was put back to what it was. A replica that lives on over such a change
    /// tells by this number alone that what it knows of the store is void.
    pub fn next_generation(&self, now: u64) -> u64 {
        let random = Uuid::new_v4().as_u128() as u64 & ((1 << GENERATION_RANDOM) - 1);
        (now << GENERATION_RANDOM | random).max(self.generation + 1)
    }

    /// Who has called with the highest number, if anybody has.
    pub fn owner(&self) -> Option<Caller> {
        Some(Caller { log: self.log_id?, incarnation: self.highest_incarnation? })
    }

    /// The highest incarnation of a log that ever called.
    pub fn highest(&self, log: Uuid) -> Option<i64> {
        let known = self.owner().into_iter().chain(self.earlier.iter().copied());
        known.filter(|known| known.log == log).map(|known| known.incarnation).next()
    }

    /// The store is the caller's from now on.
    pub fn give_to(&mut self, caller: Caller) {
        if let Some(owner) = self.owner().filter(|owner| owner.log != caller.log) {
            self.earlier.retain(|known| known.log != owner.log && known.log != caller.log);
            if self.earlier.len() == EARLIER_LOGS {
                self.earlier.remove(0);
            }
            self.earlier.push(owner);
        }
        (self.log_id, self.highest_incarnation) = (Some(caller.log), Some(caller.incarnation));
    }

    /// Writes them, durably.
    pub fn save(&self, layout: &Layout) -> Result<()> {
        disk::write_json(&layout.state(), self)
    }
}

/// A JVM that was started and not yet found ended.
#[derive(Debug, Clone)]
pub struct Running {
    /// The number of its start.
    pub generation: u64,
    /// The process.
    pub process: Process,
    /// Its JMX.
    pub jolokia: Jolokia,
}

/// A snapshot that was taken and neither committed nor aborted.
#[derive(Debug, Clone)]
pub struct Pending {
    /// The restore point's id.
    pub id: String,
    /// Who took it.
    pub incarnation: i64,
    /// Cassandra's `now()` then, rounded up.
    pub now_ms: i64,
}

/// Everything that changes; behind one lock, held for the whole of each call.
#[derive(Debug)]
pub struct State {
    /// As on the disk.
    pub persisted: Persisted,
    /// The clean mark, as on the disk.
    pub clean: Option<Clean>,
    /// Committed restore points, oldest first.
    pub points: Vec<RestorePoint>,
    /// Those of them that the last rewind found damaged.
    pub damaged: Vec<Damaged>,
    /// Those that can't even be read: see [`Found::unreadable`].
    pub unreadable: Vec<Damaged>,
    /// The JVM.
    pub running: Option<Running>,
    /// What it is doing.
    pub jvm: Jvm,
    /// The uncommitted snapshot; at most one.
    pub pending: Option<Pending>,
    /// Ids that must not be snapshot any more.
    aborted: VecDeque<String>,
    /// Cassandra may hold snapshots that an earlier call did not clear.
    pub leftovers: bool,
}

impl State {
    /// The state at the agent's start: no JVM.
    pub fn new(persisted: Persisted, clean: Option<Clean>, found: Found) -> Self {
        Self {
            persisted,
            clean,
            points: found.points,
            damaged: Vec::new(),
            unreadable: found.unreadable,
            running: None,
            jvm: Jvm::Stopped,
            pending: None,
            aborted: VecDeque::new(),
            leftovers: true,
        }
    }

    /// Whether nothing is kept here that its log could not simply replay: no restore point, no clean mark beyond index 0.
    pub fn holds_nothing(&self) -> bool {
        self.points.is_empty()
            && self.unreadable.is_empty()
            && self.valid_mark().is_none_or(|clean| clean.manifest.is_none())
    }

    /// Every restore point that can't be put back, as far as is known.
    pub fn all_damaged(&self) -> Vec<Damaged> {
        self.damaged.iter().chain(&self.unreadable).cloned().collect()
    }

    /// The generation of the live JVM.
    fn live_generation(&self) -> Option<u64> {
        self.running.as_ref().filter(|running| running.process.is_alive()).map(|running| running.generation)
    }

    /// The clean mark, if it says the truth now.
    pub fn valid_mark(&self) -> Option<&Clean> {
        self.clean.as_ref().filter(|clean| plan::mark_holds(clean, self.live_generation()))
    }

    /// The JVM, if it answers CQL.
    ///
    /// # Errors
    /// If it does not.
    pub fn serving(&self) -> Result<Running, Refusal> {
        match &self.running {
            Some(running) if self.jvm == Jvm::Running && running.process.is_alive() => Ok(running.clone()),
            _ => Err(Refusal { code: Code::WrongState, message: format!("Cassandra is not running: {:?}", self.jvm) }),
        }
    }

    /// The JVM, if it answers CQL and is of this generation.
    ///
    /// # Errors
    /// If it does not, or is of another.
    pub fn serving_as(&self, generation: u64) -> Result<Running, Refusal> {
        let running = self.serving()?;
        if running.generation == generation {
            return Ok(running);
        }
        let message = format!("generation {} is running, not {generation}", running.generation);
        Err(Refusal { code: Code::WrongGeneration, message })
    }

    /// Remembers that an id must not be snapshot any more.
    pub fn remember_aborted(&mut self, id: &str) {
        if self.aborted.len() == ABORTED_KEPT {
            self.aborted.pop_front();
        }
        self.aborted.push_back(id.to_owned());
    }

    /// Whether an id was aborted.
    pub fn was_aborted(&self, id: &str) -> bool {
        self.aborted.iter().any(|aborted| aborted == id)
    }

    /// What `status` says.
    pub fn status(&self) -> Status {
        let clean = self.valid_mark().cloned();
        Status {
            store_id: self.persisted.store_id,
            generation: self.persisted.generation,
            jvm: self.jvm.clone(),
            jvm_pid: self.running.as_ref().filter(|r| r.process.is_alive()).map(|r| r.process.pid()),
            dirty: clean.is_none(),
            clean,
            restore_points: self.points.clone(),
            damaged: self.all_damaged(),
            distrusted: self.persisted.distrusted.clone(),
            shared: self.persisted.shared,
            log_id: self.persisted.log_id,
            highest_incarnation: self.persisted.highest_incarnation,
            // The agent itself knows.
            installing: None,
            stopping: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_starts_have_the_same_number() {
        let (one, other) = (Persisted::new(false), Persisted::new(false));
        let numbers: std::collections::BTreeSet<u64> =
            (0..100).flat_map(|_| [one.next_generation(1_800_000_000), other.next_generation(1_800_000_000)]).collect();
        assert!(numbers.len() > 190, "two volumes of one second: {} numbers", numbers.len());
        let later = Persisted { generation: u64::MAX >> 12, ..Persisted::new(true) };
        assert_eq!(later.next_generation(1_800_000_000), later.generation + 1, "the clock was set back");
        assert!(numbers.iter().all(|number| *number < 1 << 53), "exact in every reader of JSON");
    }

    #[test]
    fn the_highest_incarnation_is_kept_for_each_log_within_a_bound() {
        let mut numbers = Persisted::new(false);
        let caller = |log, incarnation| Caller { log: Uuid::from_u128(log), incarnation };
        for (log, incarnation) in [(7, 5), (7, 6), (8, 1), (7, 9)] {
            numbers.give_to(caller(log, incarnation));
        }
        assert_eq!(numbers.owner(), Some(caller(7, 9)));
        let highest = |numbers: &Persisted, logs: [u128; 3]| logs.map(|log| numbers.highest(Uuid::from_u128(log)));
        assert_eq!(highest(&numbers, [7, 8, 9]), [Some(9), Some(1), None]);
        for log in 100..200 {
            numbers.give_to(caller(log, 1));
        }
        assert_eq!(highest(&numbers, [199, 198, 7]), [Some(1), Some(1), None]);
        assert_eq!(numbers.earlier.len(), EARLIER_LOGS);
    }

    #[test]
    fn aborted_ids_are_remembered_within_a_bound() {
        let mut state = State::new(Persisted::new(false), None, Found::default());
        for number in 0..=ABORTED_KEPT {
            state.remember_aborted(&number.to_string());
        }
        assert!(!state.was_aborted("0"));
        assert!(state.was_aborted("1") && state.was_aborted(&ABORTED_KEPT.to_string()));
        assert_eq!(state.aborted.len(), ABORTED_KEPT);
    }
}
