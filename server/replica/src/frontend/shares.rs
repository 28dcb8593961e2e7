//! Shares of the bytes of answers that all clients together may have between the local Cassandra and their sockets.
//!
//! Clients that read slowly must not hold all of it, however many they are. So a session that holds some already gets more only as
//! long as it holds no more than a part of what is free: the more they hold, the less each of them may, and something is always
//! left for a session that holds nothing. (Dynamic thresholds: A. K. Choudhury, E. L. Hahne, "Dynamic queue length thresholds
//! for shared-memory packet switches", IEEE/ACM Transactions on Networking 6 (2), 1998.)

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// A session that holds bytes gets more while it holds at most this part of what is free.
const PART: usize = 4;

/// All clients' bound. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shares {
    free: Arc<Semaphore>,
    bytes: usize,
}

impl Shares {
    /// Of so many bytes, at most [`Semaphore::MAX_PERMITS`] and `u32::MAX`.
    pub fn new(bytes: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(bytes)), bytes }
    }

    /// For a session, which holds nothing yet.
    pub fn of_session(&self) -> SessionShares {
        SessionShares { all: self.clone(), held: Arc::default() }
    }
}

/// What one session may hold.
#[derive(Debug)]
pub struct SessionShares {
    all: Shares,
    held: Arc<Held>,
}

#[derive(Debug, Default)]
struct Held {
    bytes: AtomicUsize,
    returned: Notify,
}

impl SessionShares {
    /// Waits for a share of so many bytes, or of all there are if that is less: until the session holds few enough, and so many
    /// are free. May be given up and asked again.
    pub async fn take(&self, bytes: usize) -> Share {
        let bytes = bytes.min(self.all.bytes);
        // What is returned between the look and the wait is not missed: `Notify` keeps one.
        while !self.may_hold(bytes) {
            self.held.returned.notified().await;
        }
        let permits = self.all.free.clone().acquire_many_owned(u32::try_from(bytes).unwrap_or(u32::MAX)).await;
        self.held.bytes.fetch_add(bytes, Ordering::AcqRel);
        // Nobody closes the semaphore.
        Share { bytes, held: self.held.clone(), _permits: permits.ok() }
    }

    fn may_hold(&self, bytes: usize) -> bool {
        let held = self.held.bytes.load(Ordering::Acquire);
        held == 0 || held + bytes <= self.all.free.available_permits() / PART
    }
}

/// Bytes that are given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    bytes: usize,
    held: Arc<Held>,
    _permits: Option<OwnedSemaphorePermit>,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.held.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        self.held.returned.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_holds_some_gets_a_part_of_what_is_free() {
        let all = Shares::new(1000);
        let (slow, other) = (all.of_session(), all.of_session());
        let now = |session: &SessionShares, bytes| session.take(bytes).now_or_never();
        let first = now(&slow, 900).expect("who holds nothing may hold all that is free");
        assert!(now(&slow, 1).is_none());
        let small = now(&other, 100).expect("there is room");
        assert!(now(&other, 1).is_none() && now(&all.of_session(), 1).is_none(), "there is none");
        drop(first);
        assert!(now(&other, 126).is_none(), "226 would be more than a quarter of 900");
        let more = now(&other, 125).expect("225 is a quarter of 900");
        drop((small, more));
        let everything = now(&slow, 5000).expect("one that is larger than all passes alone");
        assert!(now(&other, 1).is_none());
        drop(everything);
        assert!(now(&other, 1000).is_some());
    }

    #[tokio::test]
    async fn what_is_returned_is_seen() {
        let all = Shares::new(100);
        let session = all.of_session();
        let share = session.take(80).await;
        let waiting = session.take(80);
        tokio::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(share);
        drop(waiting.await);
        assert_eq!(all.free.available_permits(), 100);
    }

    proptest! {
        /// Sessions that take all they get, by small answers, and never give any back leave something for one more.
        #[test]
        fn something_is_left(sessions in 1usize..30, answer in 1usize..50, order in any::<u64>()) {
            let all = Shares::new(1_000_000);
            let slow: Vec<_> = (0..sessions).map(|_| all.of_session()).collect();
            let mut shares = Vec::new();
            let mut stuck = 0;
            let mut next = usize::try_from(order % 1000).unwrap();
            while stuck < sessions {
                next = (next + 7919) % sessions;
                match slow[next].take(answer).now_or_never() {
                    Some(share) => { shares.push(share); stuck = 0; }
                    None => { next += 1; stuck += 1; }
                }
            }
            // Each holds at most a quarter of what is left when it takes its last: at least (4/5)^n of all is left.
            let least = 1_000_000.0 * 0.8f64.powi(i32::try_from(sessions).unwrap()) - (sessions * answer) as f64;
            prop_assert!(all.free.available_permits() as f64 >= least);
            prop_assert!(all.of_session().take(answer).now_or_never().is_some());
        }
    }
}
