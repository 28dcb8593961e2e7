//! Barriers that cost no round through the log: each other replica is asked what it has shown.
//!
//! A linearizable read has to see whatever any replica had acknowledged, or shown in a read, before it was asked (I4). The
//! replicas themselves know that best: each keeps the highest index that it may have shown to anybody. A reader asks all
//! of them, waits until the highest answer is applied here, and reads.
//!
//! *All of them* is what needs care: a replica that nobody asked may acknowledge writes. Therefore the lives to ask are
//! looked up again and again ([`OrderedLog::living`]), and what was found is good for a [`LEASE`]; a new life serves
//! nobody before every lease that does not know it is over ([`SETTLE`]). A life that has left the list may show what it
//! reads as long as it can believe that it is in it, for a lease, too ([`Standing`]); so questions begin after a change
//! only behind a barrier in the log that was begun when that was over: what the life acknowledged or showed is before it.
//! Whatever is missing, an answer or a lease, the barrier goes through the log.
//!
//! This holds as long as the clocks of two replicas, which measure these times each for itself, do not differ in speed by a
//! factor of `SETTLE / LEASE`. A machine that is suspended has a clock that stands still.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use replicateddb_ordering::{Life, LogError, OrderedLog};
use tokio::sync::Notify;
use tokio::time::{Duration, Instant, sleep_until};

use crate::barrier::through_log;
use crate::mutations::{Mutation, mutated};
use crate::propose::Proposer;
use crate::shared::Shared;

/// How long the list of lives is good for, from before it was asked for.
const LEASE: Duration = Duration::from_secs(1);
/// How often it is asked for.
const RENEW: Duration = Duration::from_millis(600);
/// How long after its beginning a life serves nobody, and how long after the list has changed no question is asked.
pub const SETTLE: Duration = Duration::from_secs(2);
/// Without reads for so long, the list is left to grow old: the reads of the seconds after that go through the log.
const IDLE: Duration = Duration::from_secs(600);

/// Whom to ask, and until when.
#[derive(Debug, Clone)]
struct Lease {
    lives: Arc<BTreeSet<Life>>,
    /// Just before the list was asked for.
    from: Instant,
    /// When it was first seen like this; it was never out of date since.
    since: Instant,
    /// A barrier was begun in the log after it had settled, and is applied here.
    passed: bool,
}

impl Lease {
    /// Whether whoever may have shown anything by `now` is in the list.
    fn holds(&self, now: Instant) -> bool {
        let fresh = now < self.from + LEASE || mutated(Mutation::EndlessLease);
        fresh && self.settled(now) && self.passed
    }

    /// Whether no life that had left the list before can believe any more that it is in it.
    fn settled(&self, now: Instant) -> bool {
        now >= self.since + SETTLE
    }

    /// The same list, asked for again at `from`; `None` if it is another one, or may have been in between.
    fn renewed(&self, lives: &BTreeSet<Life>, from: Instant) -> Option<Self> {
        (*self.lives == *lives && from < self.from + LEASE).then(|| Self { from, ..self.clone() })
    }
}

/// Since when it is known that this life has not ended. What it has read it may show for a [`LEASE`] from then on.
#[derive(Debug, Clone)]
pub struct Standing(Arc<Mutex<Instant>>);

impl Default for Standing {
    /// Of a life that begins now.
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

impl Standing {
    /// The life had not ended at that time, nor before it.
    pub fn at(&self, time: Instant) {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *since = (*since).max(time);
    }

    /// Whether a read at a linearizable level may be shown that has been made.
    pub fn holds(&self) -> bool {
        let since = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        since.elapsed() < LEASE || mutated(Mutation::StandForEver)
    }
}

/// See the module's head.
pub struct Frontier<L> {
    shared: Arc<Shared>,
    log: L,
    lease: Mutex<(Option<Lease>, Instant)>,
    wanted: Notify,
}

impl<L: OrderedLog> Frontier<L> {
    /// Of a replica that begins now.
    pub fn new(shared: Arc<Shared>, log: L) -> Self {
        log.vouch(shared.shown.clone());
        Self { shared, log, lease: Mutex::new((None, Instant::now())), wanted: Notify::new() }
    }

    /// An index that covers everything shown anywhere before the call. `None`: the log has to be asked.
    pub async fn ask(&self) -> Option<u64> {
        let lease = self.wanted();
        let lease = lease.filter(|lease| lease.holds(Instant::now()))?;
        if mutated(Mutation::AskNobody) {
            return Some(self.shared.applied());
        }
        // Of what this replica has shown some may be ahead of what is applied.
        let own = self.shared.shown.load(Ordering::SeqCst);
        let shown = self.log.ask(&lease.lives).await?.max(own);
        lease.holds(Instant::now()).then_some(shown)
    }

    /// Keeps the list of lives good while there are reads. Completes when this life has ended.
    pub async fn keep(&self, proposer: Proposer) {
        loop {
            let idle = {
                let lease = self.lock();
                lease.1.elapsed() >= IDLE || lease.0.is_none()
            };
            if idle {
                self.wanted.notified().await;
            }
            let from = Instant::now();
            match self.renew(from, &proposer).await {
                Ok(()) => {}
                Err(LogError::Fenced) => return,
                Err(error) => tracing::debug!(%error, "reads go through the log"),
            }
            sleep_until(from + RENEW).await;
        }
    }

    async fn renew(&self, from: Instant, proposer: &Proposer) -> Result<(), LogError> {
        let lives = self.log.living().await?;
        self.shared.standing.at(from);
        let now = Instant::now();
        let before = self.lock().0.clone();
        let mut lease = before.and_then(|lease| lease.renewed(&lives, from)).unwrap_or(Lease {
            lives: Arc::new(lives),
            from,
            since: now,
            passed: false,
        });
        self.lock().0 = Some(lease.clone());
        if !lease.passed && (lease.settled(now) || mutated(Mutation::BarrierBeforeSettled)) {
            let barrier = through_log(&self.shared, proposer).await;
            barrier.map_err(|error| LogError::Unavailable { reason: error.to_string() })?;
            lease.passed = true;
            self.lock().0 = Some(lease);
        }
        Ok(())
    }

    /// The lease as it is; somebody wants to read.
    fn wanted(&self) -> Option<Lease> {
        let mut lease = self.lock();
        lease.1 = Instant::now();
        self.wanted.notify_one();
        lease.0.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (Option<Lease>, Instant)> {
        // Nothing panics under the lock.
        self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use replicateddb_ordering::Incarnation;

    use super::*;

    fn lives(incarnations: &[i64]) -> BTreeSet<Life> {
        (0u32..).zip(incarnations.iter().map(|incarnation| Incarnation(*incarnation))).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_is_good_between_settling_and_its_age() {
        let from = Instant::now();
        let mut lease = Lease { lives: Arc::new(lives(&[1, 2])), from, since: from, passed: true };
        let at = |ms| from + Duration::from_millis(ms);
        assert!(!lease.holds(at(999)), "others may have older lists");
        for renewed in (600..=2400).step_by(600) {
            lease = lease.renewed(&lives(&[1, 2]), at(renewed)).expect("the same list, in time");
        }
        assert!(lease.holds(at(2400)) && lease.holds(at(3399)));
        assert!(!Lease { passed: false, ..lease.clone() }.holds(at(2400)), "no barrier is behind what others showed");
        assert!(!lease.holds(at(3400)), "too old");
        assert!(lease.renewed(&lives(&[1, 2]), at(3400)).is_none(), "it may have been another in between");
        assert!(lease.renewed(&lives(&[1, 3]), at(2500)).is_none(), "another life");
        assert!(lease.renewed(&lives(&[1]), at(2500)).is_none(), "one less");
        assert!(lease.renewed(&lives(&[1, 2, 3]), at(2500)).is_none(), "one more");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_read_is_shown_only_by_a_life_that_stands() {
        let standing = Standing::default();
        let early = Instant::now();
        tokio::time::advance(LEASE).await;
        assert!(!standing.holds(), "it may have ended");
        standing.at(Instant::now());
        standing.at(early);
        assert!(standing.holds(), "what was known earlier takes nothing back");
        tokio::time::advance(LEASE).await;
        assert!(!standing.holds());
    }

    #[test]
    fn a_new_life_waits_for_longer_than_any_lease() {
        assert!(SETTLE >= 2 * LEASE, "clocks may differ in speed");
        assert!(RENEW < LEASE, "a list is renewed before it is too old");
    }
}
