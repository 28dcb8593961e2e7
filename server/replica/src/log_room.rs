//! How much the log holds, and how much more it may (I7): its servers have all of it in memory.
//!
//! Bytes are counted from the log's beginning, by the state ([`State::bytes`]); what is held is the difference between what was
//! read of the log and what was given up of it, which stands beside the log's first position. Both are the same on every
//! replica, and after a restart, too. As long as one of them is not known nothing is refused. What this replica has sent to the log
//! and not read there yet counts, too: while its applier is behind, or many entries are large, that may be much.
//!
//! ```text
//! 0 ... three quarters ....... seven eighths .......... limit
//!    nothing      restore points,   writers are           writers wait for
//!                 rounds of the     slowed, the more      a moment, and are
//!                 keeper, sooner    the fuller it is      refused
//! ```
//! Restore points are a quarter of the limit apart at most, and the older of two is needed: half of it, and what comes while one
//! is made, is held all the time by a replica that has nothing to hurry for.
//! What only orders (barriers, ticks, complaints, digests) is never kept back: reads, recovery and the giving up of the
//! log's beginning go on, so that there is room again.
//!
//! [`State::bytes`]: crate::state::State::bytes

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::bell::found;
use crate::metrics::Metrics;
use crate::replica::ProposeError;

/// Longest that a write is kept back while there is room.
const SLOWEST: Duration = Duration::from_millis(200);
/// How long a write waits for room before it is refused.
const ROOM_WAIT: Duration = Duration::from_secs(2);
/// Restore points after which what a replica needs of the log has moved to the older of them.
const POINTS: u32 = 2;

#[derive(Debug, Default)]
struct Known {
    /// Bytes up to the end of what was read.
    end: Option<u64>,
    /// Bytes that were given up.
    first: Option<u64>,
    /// Bytes before what this replica's restore points need.
    own: Option<u64>,
    /// Restore points since then.
    points: u32,
    /// Bytes of this replica's entries that are on their way, or stand in the log and were not read, by their first number.
    sent: BTreeMap<u64, u64>,
}

/// See the module's head.
#[derive(Debug)]
pub struct LogRoom {
    limit: u64,
    metrics: Metrics,
    known: Mutex<Known>,
    /// Rung when the log holds more than three quarters, and whenever some of it was given up.
    bell: Notify,
}

impl LogRoom {
    /// The log may hold so many bytes; nothing is known of it yet.
    pub fn new(limit: u64, metrics: Metrics) -> Self {
        metrics.log_bytes_limit.set(limit);
        Self { limit, metrics, known: Mutex::default(), bell: Notify::new() }
    }

    /// The log was read up to here. A replay begins anew, and tells nothing of its end.
    pub fn read_to(&self, bytes: Option<u64>) {
        let before = self.held().unwrap_or(0);
        let mut known = self.lock();
        known.end = known.end.max(bytes);
        drop(known);
        let now = self.show();
        if before <= self.much() && now > self.much() {
            self.bell.notify_waiters();
        }
    }

    /// An entry of this replica, whose first number this is, is sent to the log.
    pub fn sends(&self, first: u64, bytes: u64) {
        self.lock().sent.insert(first, bytes);
    }

    /// It was read, and counts with that, or it comes to stand nowhere.
    pub fn arrived(&self, first: u64) {
        if self.lock().sent.remove(&first).is_some() {
            self.bell.notify_waiters();
        }
    }

    /// The same of all those whose first number is one of these: a state holds them that was not read here.
    pub fn all_arrived(&self, is_held: impl Fn(u64) -> bool) {
        self.lock().sent.retain(|first, _| !is_held(*first));
        self.bell.notify_waiters();
    }

    /// The log begins behind so many bytes.
    pub fn begins(&self, bytes: Option<u64>) {
        let mut known = self.lock();
        known.first = bytes;
        // What was given up was there: whoever has read nothing yet knows that much of the end.
        known.end = known.end.max(bytes);
        drop(known);
        self.show();
        self.bell.notify_waiters();
    }

    /// Restore points of this replica need the log from behind so many bytes on.
    pub fn needs(&self, bytes: Option<u64>) {
        let mut known = self.lock();
        if known.own != bytes {
            (known.own, known.points) = (bytes, 0);
        }
    }

    /// One more restore point was made.
    pub fn made_point(&self) {
        let mut known = self.lock();
        known.points = known.points.saturating_add(1);
    }

    /// Whether it is this replica's restore points that more than three quarters of what may be held is kept for, and others would help.
    pub fn wants_point(&self) -> bool {
        let known = self.lock();
        let (Some(end), Some(own)) = (known.end, known.own) else { return false };
        end.saturating_sub(own) > self.much() && known.points < POINTS
    }

    /// Bytes that the log holds, if that is known.
    pub fn held(&self) -> Option<u64> {
        let known = self.lock();
        Some(known.end?.saturating_sub(known.first?))
    }

    /// Bytes that the log holds or is sent, if that is known.
    fn taken(&self) -> Option<u64> {
        let held = self.held()?;
        Some(self.lock().sent.values().fold(held, |sum, bytes| sum.saturating_add(*bytes)))
    }

    /// Why a write can't be taken, if it can't.
    pub fn refusal(&self) -> Option<ProposeError> {
        let held = self.taken().filter(|taken| *taken >= self.limit)?;
        Some(ProposeError::LogFull { held, limit: self.limit })
    }

    /// Keeps a write back for as long as what the log holds asks for; bounded in time.
    ///
    /// # Errors
    /// [`ProposeError::LogFull`]: there is no room.
    pub async fn enter(&self) -> Result<(), ProposeError> {
        let pause = pause(self.taken().unwrap_or(0), self.limit);
        if !pause.is_zero() {
            sleep(pause).await;
        }
        let Some(refusal) = self.refusal() else { return Ok(()) };
        let room = found(&self.bell, || self.refusal().is_none().then_some(()));
        timeout(ROOM_WAIT, room).await.map_err(|_| self.refusal().unwrap_or(refusal))
    }

    /// Completes when the log holds more than three quarters of what it may.
    pub async fn pressed(&self) {
        found(&self.bell, || self.held().is_some_and(|held| held > self.much()).then_some(())).await;
    }

    fn much(&self) -> u64 {
        self.limit - self.limit / 4
    }

    fn show(&self) -> u64 {
        let held = self.held().unwrap_or(0);
        self.metrics.log_bytes_held.set(held);
        held
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Every change under the lock is complete before anything that may panic.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a write is kept back while the log holds so much: from seven eighths on, the fuller the longer.
fn pause(held: u64, limit: u64) -> Duration {
    let slow = limit / 8;
    let over = held.saturating_sub(limit - slow).min(slow);
    if over == 0 { Duration::ZERO } else { SLOWEST.mul_f64(over as f64 / slow as f64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(end: u64, first: u64) -> LogRoom {
        let room = LogRoom::new(1000, Metrics::default());
        room.read_to(Some(end));
        room.begins(Some(first));
        room
    }

    #[test]
    fn writes_are_slowed_before_they_are_refused() {
        let ms = |held| pause(held, 1000).as_millis();
        assert_eq!([ms(0), ms(875), ms(925), ms(1000), ms(u64::MAX)], [0, 0, 80, 200, 200]);
        assert_eq!(pause(5, 0), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_room_again_when_some_is_given_up() {
        let room = room(5000, 4000);
        let full = ProposeError::LogFull { held: 1000, limit: 1000 };
        assert_eq!(room.enter().await, Err(full.clone()));
        let given_up = async {
            sleep(ROOM_WAIT).await;
            room.begins(Some(4001));
        };
        let (entered, ()) = tokio::join!(room.enter(), given_up);
        assert_eq!((entered, room.held(), room.refusal()), (Ok(()), Some(999), None));
        assert_eq!(room.metrics.log_bytes_held.get(), 999);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_sent_and_not_read_takes_room() {
        let room = room(900, 0);
        room.sends(7, 60);
        room.sends(9, 40);
        let full = ProposeError::LogFull { held: 1000, limit: 1000 };
        assert_eq!((room.refusal(), room.held()), (Some(full), Some(900)));
        let gone = async {
            sleep(ROOM_WAIT / 2).await;
            room.arrived(7);
        };
        let (entered, ()) = tokio::join!(room.enter(), gone);
        assert_eq!(entered, Ok(()));
        // Read: it is at the end now, and nothing has changed.
        room.read_to(Some(940));
        room.arrived(9);
        room.arrived(9);
        assert_eq!((room.taken(), room.held()), (Some(940), Some(940)));
        room.sends(11, 10);
        room.sends(12, 20);
        room.all_arrived(|first| first == 11);
        assert_eq!(room.taken(), Some(960));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_known_is_not_held_against_writers() {
        let room = LogRoom::new(1000, Metrics::default());
        assert_eq!((room.enter().await, room.held()), (Ok(()), None));
        room.read_to(Some(1 << 40));
        assert_eq!((room.enter().await, room.held()), (Ok(()), None));
        room.begins(None);
        assert_eq!((room.enter().await, room.held()), (Ok(()), None));
        // After a restart what was given up may be known first.
        room.begins(Some(1 << 41));
        assert_eq!((room.enter().await, room.held()), (Ok(()), Some(0)));
    }

    #[tokio::test(start_paused = true)]
    async fn much_of_it_presses_once_it_is_there() {
        let room = room(1150, 400);
        assert!(timeout(ROOM_WAIT, room.pressed()).await.is_err());
        let read = async {
            sleep(ROOM_WAIT).await;
            room.read_to(Some(1151));
        };
        tokio::join!(room.pressed(), read);
        room.read_to(Some(100));
        assert_eq!(room.held(), Some(751), "a replay takes nothing back");
    }

    #[test]
    fn restore_points_are_wanted_where_they_help() {
        let room = room(1150, 0);
        assert!(!room.wants_point(), "what this replica needs is not known");
        room.needs(Some(400));
        assert!(!room.wants_point());
        room.needs(Some(399));
        assert!(room.wants_point());
        room.made_point();
        assert!(room.wants_point(), "the older one of two counts");
        room.made_point();
        assert!(!room.wants_point(), "what it needs will soon be known to be less");
        room.needs(Some(398));
        assert!(room.wants_point());
        room.needs(None);
        assert!(!room.wants_point());
    }
}
