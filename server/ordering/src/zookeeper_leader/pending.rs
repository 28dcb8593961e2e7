//! Appends that have no outcome yet: how many there may be, and what each does next. No IO.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::znode_log::Outcome;
use crate::{AppendError, Appended};

/// Appends that have no outcome yet, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// All of them.
    pub pending: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Those of them that a leader has, and has not acknowledged.
    pub unacknowledged: usize,
}

/// Room for appends (I7).
#[derive(Clone, Debug)]
pub(super) struct Room {
    entries: usize,
    bytes: usize,
    backlog: Arc<Mutex<Backlog>>,
}

impl Room {
    pub(super) fn new(entries: usize, bytes: usize) -> Self {
        Self { entries, bytes, backlog: Arc::default() }
    }

    pub(super) fn backlog(&self) -> Backlog {
        *self.lock()
    }

    /// A place for an entry of so many bytes. One alone has always room.
    pub(super) fn enter(&self, bytes: usize) -> Result<Place, AppendError> {
        let mut backlog = self.lock();
        let full = backlog.pending >= self.entries || backlog.pending > 0 && backlog.bytes + bytes > self.bytes;
        if full {
            let Backlog { pending, bytes, .. } = *backlog;
            let reason = format!("{pending} entries of {bytes} bytes wait for the leader already; try again later");
            return Err(AppendError::Unavailable { reason });
        }
        backlog.pending += 1;
        backlog.bytes += bytes;
        drop(backlog);
        Ok(Place { room: self.clone(), bytes, sent: false })
    }

    fn lock(&self) -> MutexGuard<'_, Backlog> {
        // Nothing panics under the lock.
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one append, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    room: Room,
    bytes: usize,
    sent: bool,
}

impl Place {
    /// Whether a leader has it.
    pub(super) fn set_sent(&mut self, sent: bool) {
        if sent != self.sent {
            let mut backlog = self.room.lock();
            backlog.unacknowledged = if sent { backlog.unacknowledged + 1 } else { backlog.unacknowledged - 1 };
            self.sent = sent;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.set_sent(false);
        let mut backlog = self.room.lock();
        backlog.pending -= 1;
        backlog.bytes -= self.bytes;
    }
}

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    /// Whoever appended says so.
    Told(Outcome),
    /// Nobody said anything: the leader, or the way to it, is gone.
    Untold(String),
}

/// What an append does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It is over.
    Answer(Outcome),
    /// Once more, with whoever leads then.
    Again,
}

/// The attempts of one append so far. What a leader may have brought into the log before it was gone is sent to the next one all the
/// same: whoever reads the log drops second copies. But it is never said of it again that it was not committed.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    /// Why it may stand in the log.
    doubt: Option<String>,
    /// Why the last attempt came to nothing.
    reason: Option<String>,
}

impl Attempts {
    /// After an attempt.
    pub(super) fn after(&mut self, attempt: Attempt) -> Next {
        match attempt {
            Attempt::Told(Ok(appended)) => Next::Answer(Ok(appended)),
            // Whoever leads is there, and does not know: its caller decides what to do.
            Attempt::Told(Err(error @ AppendError::Unknown { .. })) => Next::Answer(Err(error)),
            Attempt::Told(Err(AppendError::Unavailable { reason })) => {
                self.reason = Some(reason);
                Next::Again
            }
            Attempt::Told(Err(error @ (AppendError::Fenced | AppendError::TooLarge { .. }))) => {
                Next::Answer(Err(self.unless_in_doubt(error)))
            }
            Attempt::Untold(detail) => {
                self.doubt = Some(detail);
                Next::Again
            }
        }
    }

    /// There is no time for another one.
    pub(super) fn given_up(self, reason: &str) -> Result<Appended, AppendError> {
        let reason = self.reason.clone().unwrap_or_else(|| reason.to_owned());
        Err(self.unless_in_doubt(AppendError::Unavailable { reason }))
    }

    fn unless_in_doubt(&self, error: AppendError) -> AppendError {
        match &self.doubt {
            Some(detail) => AppendError::Unknown { detail: format!("{detail}; then: {error}") },
            None => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Position;

    #[test]
    fn room_is_bounded_and_given_back() {
        let room = Room::new(3, 100);
        let mut one = room.enter(60).expect("room");
        let two = room.enter(40).expect("room");
        let refused = room.enter(1).expect_err("too many bytes");
        assert!(refused.to_string().contains("2 entries of 100 bytes wait for the leader"), "{refused}");
        one.set_sent(true);
        one.set_sent(true);
        assert_eq!(room.backlog(), Backlog { pending: 2, bytes: 100, unacknowledged: 1 });
        drop((one, two));
        assert_eq!(room.backlog(), Backlog::default());
        let large = room.enter(1000).expect("one alone has always room");
        assert!(room.enter(0).is_err());
        drop(large);
        let _all: Vec<_> = (0..3).map(|_| room.enter(0).expect("room")).collect();
        assert!(room.enter(0).is_err(), "too many entries");
    }

    fn any_attempt() -> impl Strategy<Value = Attempt> {
        let told = |outcome| Just(Attempt::Told(outcome));
        prop_oneof![
            told(Ok(Appended { position: Position::START, commit_time_ms: 1 })),
            told(Err(AppendError::Unknown { detail: "u".into() })),
            told(Err(AppendError::Unavailable { reason: "n".into() })),
            told(Err(AppendError::Fenced)),
            told(Err(AppendError::TooLarge { bytes: 2, limit: 1 })),
            Just(Attempt::Untold("gone".into())),
        ]
    }

    proptest! {
        /// Nobody is told that an entry is nowhere which a leader may have appended; nor is one in doubt that is not.
        #[test]
        fn what_may_stand_in_the_log_is_never_said_to_be_nowhere(tried in prop::collection::vec(any_attempt(), 0..6)) {
            let mut attempts = Attempts::default();
            let mut in_doubt = false;
            let mut answer = None;
            for attempt in tried {
                in_doubt |= matches!(attempt, Attempt::Untold(_) | Attempt::Told(Err(AppendError::Unknown { .. })));
                if let Next::Answer(outcome) = attempts.after(attempt) {
                    answer = Some(outcome);
                    break;
                }
            }
            match answer.unwrap_or_else(|| attempts.given_up("no time")) {
                Ok(_) => {}
                Err(AppendError::Unknown { .. }) => prop_assert!(in_doubt),
                Err(_) => prop_assert!(!in_doubt),
            }
        }
    }
}
