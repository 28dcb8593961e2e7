//! The records that this replica's Cassandra fails to execute, from the first failure to success or a verdict
//! ([`crate::verdict`]), through whatever rewinds come between; and the verdicts that were found ahead in the log.
//!
//! Executions say what happens and wait here; [`crate::look_ahead`] speaks to the log for them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use replicateddb_ordering::Position;
use tokio::sync::Notify;
use tokio::time::{Duration, Instant};

use crate::bell::found;
use crate::mutations::{Mutation, mutated};
use crate::record::{Entry, RecordKind};
use crate::state::{Admitted, State};
use crate::verdict::{Complaint, MAX_COMPLAINTS, normalised, skipped_because};
use crate::watermark::Executed;

/// Fewest attempts that must have failed with the same before the replica complains.
const FEWEST_ATTEMPTS: u32 = 3;
/// Records that are kept track of, the lowest, more than execute at once; of others nobody complains meanwhile.
const MAX_STUCK: usize = 512;
/// Verdicts that are remembered; one that is forgotten is found again.
const MAX_VERDICTS: usize = 1024;

/// An entry that was read, with its position and the log's time, in ms since 1970.
pub type Read = (Position, i64, Entry);

/// A record that fails.
#[derive(Debug)]
struct Case {
    failure: String,
    /// Attempts in a row that failed with this.
    attempts: u32,
    since: Instant,
    /// The last complaint, and when it was made.
    said: Option<(Complaint, Instant)>,
    /// Round of what is said of it and neither stands in the log nor was refused: one at a time, so that what takes a complaint
    /// back always finds room.
    on_its_way: Option<u64>,
    /// It could not be ordered, though an earlier one may have been.
    again: bool,
    withdrawal: Withdrawal,
}

/// Whether what was said is being taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Withdrawal {
    No,
    Wanted,
    /// By the complaint of this round.
    Sent(u64),
}

#[derive(Default)]
struct Inner {
    cases: BTreeMap<u64, Case>,
    verdicts: BTreeMap<u64, String>,
    /// Complaints made so far.
    rounds: u64,
    /// What clients may have been shown: of that this replica never complains.
    executed: Executed,
    /// What earlier lives have executed is in there, as far as they have made it known.
    knows_earlier: bool,
    /// The applier is to hand over a state to look ahead from.
    wanted: bool,
    handed: Option<State>,
    /// The index from which one looks ahead now.
    ahead_of: Option<u64>,
    /// The store was brought to an index before that, from which one has to look again.
    behind: bool,
    /// The log does not reach back to where one has to look from.
    cut_off: bool,
}

/// See the module's head.
#[derive(Default)]
pub struct Stuck {
    inner: Mutex<Inner>,
    changed: Notify,
}

impl Case {
    fn is_ripe(&self, after: Duration) -> bool {
        self.attempts >= FEWEST_ATTEMPTS && self.since.elapsed() >= after
    }
}

impl Stuck {
    /// Cassandra has answered an attempt at the record with this error.
    pub fn failed(&self, index: u64, reason: &str) {
        let failure = normalised(reason);
        let mut inner = self.lock();
        if inner.verdicts.contains_key(&index) {
            return;
        }
        if inner.cases.len() >= MAX_STUCK && !inner.cases.contains_key(&index) {
            // What is lowest is what everything waits for.
            let highest = inner.cases.iter().rev().find(|(_, case)| case.said.is_none()).map(|(highest, _)| *highest);
            let Some(highest) = highest.filter(|highest| *highest > index) else { return };
            inner.cases.remove(&highest);
        }
        let now = Instant::now();
        let case = inner.cases.entry(index).or_insert_with(|| Case {
            failure: failure.clone(),
            attempts: 0,
            since: now,
            said: None,
            on_its_way: None,
            again: false,
            withdrawal: Withdrawal::No,
        });
        if case.failure != failure {
            (case.failure, case.attempts, case.since) = (failure, 0, now);
        }
        case.attempts = case.attempts.saturating_add(1);
        self.tell(inner);
    }

    /// The record was executed after all. Completes when nothing that was complained of stands in the way: the complaint, if
    /// there is one, is taken back in the log before any verdict.
    ///
    /// # Errors
    /// There is a verdict: the record is not executed, and the store has to be rewound.
    pub async fn may_complete(&self, index: u64) -> Result<(), String> {
        found(&self.changed, || {
            let mut inner = self.lock();
            if let Some(failure) = inner.verdicts.get(&index) {
                return Some(Err(skipped_because(index, failure)));
            }
            let Some(case) = inner.cases.get_mut(&index) else { return Some(Ok(())) };
            if case.said.is_none() || mutated(Mutation::CompleteDespiteComplaint) {
                inner.cases.remove(&index);
                self.tell(inner);
                return Some(Ok(()));
            }
            if case.withdrawal == Withdrawal::No {
                case.withdrawal = Withdrawal::Wanted;
                self.tell(inner);
            }
            None
        })
        .await
    }

    /// The record was executed, and whoever wants to may be shown it. Should the store be put back to before it, and fail with
    /// it then, this replica does not complain: what a client was told is not taken back by a verdict.
    pub fn executed(&self, index: u64) {
        self.lock().executed.insert(index);
    }

    /// Everything up to this index may have been executed by this life or an earlier one.
    pub fn executed_upto(&self) -> u64 {
        self.lock().executed.upto()
    }

    /// Whether [`Stuck::earlier_executed`] was said.
    pub fn knows_earlier(&self) -> bool {
        self.lock().knows_earlier
    }

    /// Earlier lives of this replica have executed everything up to this index.
    pub fn earlier_executed(&self, upto: u64) {
        let mut inner = self.lock();
        inner.executed.raise(upto);
        inner.knows_earlier = true;
    }

    /// The verdict on the record, as soon as there is one. Cancel-safe.
    pub async fn verdict(&self, index: u64) -> String {
        let failure = found(&self.changed, || self.verdict_on(index)).await;
        skipped_because(index, &failure)
    }

    /// The failure in the verdict on a record, if there is one.
    pub fn verdict_on(&self, index: u64) -> Option<String> {
        self.lock().verdicts.get(&index).cloned()
    }

    /// Whether Cassandra has answered an attempt at the record with an error, before a rewind or after it, and the record has no
    /// result yet.
    pub fn is_failing(&self, index: u64) -> bool {
        self.lock().cases.contains_key(&index)
    }

    /// Whether the record has failed for so long that the replica complains.
    pub fn is_ripe(&self, index: u64, after: Duration) -> bool {
        self.lock().cases.get(&index).is_some_and(|case| case.is_ripe(after))
    }

    /// There is a verdict on a record.
    pub fn decided(&self, index: u64, failure: String) {
        let mut inner = self.lock();
        inner.cases.remove(&index);
        inner.verdicts.insert(index, failure);
        if inner.verdicts.len() > MAX_VERDICTS {
            // Not this one, which somebody waits for.
            match inner.verdicts.first_key_value().is_some_and(|(lowest, _)| *lowest == index) {
                true => inner.verdicts.pop_last(),
                false => inner.verdicts.pop_first(),
            };
        }
        self.tell(inner);
    }

    /// A record on which there is a verdict, and which a store at this state may hold something of.
    pub fn held_by(&self, state: &State) -> Option<u64> {
        self.lock().verdicts.keys().copied().find(|index| state.may_hold(*index))
    }

    /// The store was brought to this index, beyond records that this replica could not execute: what it complained of is taken
    /// back.
    pub fn passed(&self, index: u64) {
        let mut inner = self.lock();
        inner.executed.raise(index);
        inner.cut_off = false;
        if inner.ahead_of.is_some_and(|ahead_of| index < ahead_of) {
            (inner.behind, inner.handed) = (true, None);
        }
        for (_, case) in inner.cases.range_mut(..=index) {
            if case.withdrawal == Withdrawal::No {
                case.withdrawal = Withdrawal::Wanted;
            }
        }
        self.tell(inner);
    }

    /// Completes when nothing is complained of up to this index.
    pub async fn settled(&self, index: u64) {
        found(&self.changed, || self.lock().cases.range(..=index).next().is_none().then_some(())).await;
    }

    /// Whether the applier is to [hand over](Stuck::hand_over) its state.
    pub fn wants_state(&self) -> bool {
        self.lock().wanted
    }

    /// What was read of the log, to look ahead from: the entries in `read` follow the state.
    ///
    /// # Errors
    /// The log breaks its rules; for people.
    pub fn hand_over(&self, mut state: State, read: &VecDeque<Read>, own: (u32, i64)) -> Result<(), String> {
        for (at, commit_time_ms, entry) in read {
            let seen = state.admit(*at, *commit_time_ms, entry.clone());
            self.look(&seen.map_err(|error| format!("entry at {at}: {error}"))?, own);
        }
        let mut inner = self.lock();
        (inner.wanted, inner.handed) = (false, Some(state));
        self.tell(inner);
        Ok(())
    }

    /// The log was given up beyond what the applier has read of it: what it waits for can't be found any more.
    pub fn cut_off(&self) {
        self.lock().cut_off = true;
    }

    /// See [`Stuck::cut_off`].
    pub fn is_cut_off(&self) -> bool {
        self.lock().cut_off
    }

    /// A state to look ahead from, as soon as there is reason to. Withdrawals are made again: an earlier look may have
    /// missed them.
    pub async fn state(&self) -> State {
        found(&self.changed, || {
            let mut inner = self.lock();
            let Some(state) = inner.handed.take() else {
                inner.wanted = !inner.cases.is_empty();
                return None;
            };
            (inner.ahead_of, inner.behind) = (Some(state.index()), false);
            for case in inner.cases.values_mut().filter(|case| case.withdrawal != Withdrawal::No) {
                case.withdrawal = Withdrawal::Wanted;
            }
            Some(state)
        })
        .await
    }

    /// Nothing fails, or one has to look from further back: looking ahead begins anew.
    pub fn is_over(&self) -> bool {
        let inner = self.lock();
        inner.cases.is_empty() || inner.behind
    }

    /// How many records fail.
    pub fn cases(&self) -> usize {
        self.lock().cases.len()
    }

    /// Records were seen ahead in the log. `own`: this replica's number and incarnation.
    pub fn look(&self, seen: &[Admitted], own: (u32, i64)) {
        for admitted in seen.iter().filter(|admitted| admitted.record.kind == RecordKind::Complaint) {
            if let Some(verdict) = &admitted.verdict {
                self.decided(verdict.index, verdict.failure.clone());
            }
            let said = Complaint::of(&admitted.record).filter(|said| said.failure.is_none());
            if let Some(said) = said.filter(|_| (admitted.origin, admitted.incarnation) == own) {
                let index = admitted.record.argument;
                let mut inner = self.lock();
                let case = inner.cases.get(&index);
                if case.is_some_and(|case| matches!(case.withdrawal, Withdrawal::Sent(round) if said.round >= round)) {
                    inner.cases.remove(&index);
                    self.tell(inner);
                }
            }
        }
    }

    /// What is to be said now. `state`: what is in the log; `silent`: replicas that need not be waited for; `after`: see
    /// [`crate::config::Config::complain_after`].
    pub fn due(&self, state: &State, silent: &BTreeSet<u32>, own: u32, after: Duration) -> Vec<(u64, Complaint)> {
        let mut inner = self.lock();
        let Inner { cases, rounds, executed, .. } = &mut *inner;
        let mut due = Vec::new();
        // What nobody has heard of ends in silence.
        cases.retain(|_, case| case.withdrawal != Withdrawal::Wanted || case.said.is_some());
        let mut complained = 0;
        for (index, case) in cases {
            let failure = match case.withdrawal {
                Withdrawal::No if case.is_ripe(after) && !executed.contains(*index) => {
                    complained += 1;
                    if complained > MAX_COMPLAINTS && case.said.is_none() {
                        continue;
                    }
                    Some(case.failure.clone())
                }
                Withdrawal::Wanted => None,
                _ => continue,
            };
            if case.on_its_way.is_some() {
                continue;
            }
            let excused = if failure.is_some() { silent.clone() } else { BTreeSet::new() };
            let again = std::mem::take(&mut case.again)
                || case.said.as_ref().is_none_or(|(said, when)| {
                    let lost = when.elapsed() >= after && !state.says(*index, own, said);
                    said.failure != failure || said.excused != excused || lost
                });
            if again {
                *rounds += 1;
                case.on_its_way = Some(*rounds);
                let heard = excused.iter().map(|replica| (*replica, state.heard(*replica))).collect();
                let complaint = Complaint { failure, excused, heard, round: *rounds };
                match complaint.failure {
                    Some(_) => case.said = Some((complaint.clone(), Instant::now())),
                    None => case.withdrawal = Withdrawal::Sent(*rounds),
                }
                due.push((*index, complaint));
            }
        }
        self.tell(inner);
        due
    }

    /// What was said stands in the log; or it could not be said, and becomes due again.
    pub fn told(&self, index: u64, complaint: &Complaint, in_the_log: bool) {
        let mut inner = self.lock();
        let Some(case) = inner.cases.get_mut(&index) else { return };
        case.on_its_way.take_if(|round| *round == complaint.round);
        if in_the_log {
            return;
        }
        if case.withdrawal == Withdrawal::Sent(complaint.round) {
            case.withdrawal = Withdrawal::Wanted;
        }
        case.again |= case.said.as_ref().is_some_and(|(said, _)| said.round == complaint.round);
    }

    /// For people: each record that fails for long, and what is waited for before it is skipped.
    pub fn text(&self, state: &State, after: Duration) -> Option<String> {
        let inner = self.lock();
        let ripe = inner.cases.iter().filter(|(_, case)| case.is_ripe(after));
        let lines = ripe.map(|(index, case)| {
            if inner.executed.contains(*index) {
                return format!(
                    "record {index} fails: {}; this replica has executed it before, and a client may know: it is not \
                     skipped",
                    case.failure
                );
            }
            let waiting = state.waiting(*index).filter(|waiting| waiting.failure == case.failure);
            let missing = waiting.as_ref().map(|waiting| {
                let missing: Vec<_> = waiting.missing.iter().map(u32::to_string).collect();
                match (missing.is_empty(), waiting.majority) {
                    (true, false) => "waiting for the same failure on more than half of all replicas".to_owned(),
                    (true, true) => "all replicas fail".to_owned(),
                    _ => format!("waiting for the same failure on replicas {}", missing.join(", ")),
                }
            });
            let missing = missing.unwrap_or_else(|| "waiting for the same failure on the others".to_owned());
            format!("record {index} fails: {}; {missing} before it is skipped", case.failure)
        });
        let text = lines.collect::<Vec<_>>().join("; ");
        (!text.is_empty()).then_some(text)
    }

    fn tell(&self, inner: MutexGuard<'_, Inner>) {
        drop(inner);
        self.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change under the lock is complete before anything that may panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "stuck_tests.rs"]
mod tests;
