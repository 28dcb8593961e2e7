//! An append's way into the log: by this replica if it leads, else by the one that does.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use super::pending::{Attempt, Attempts, Next, Place};
use super::{Leader, Shared, Standing};
use crate::AppendError;
use crate::znode_log::{Line, Load, Outcome, Stored, Told};

/// First and longest pause after an attempt that came to nothing.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(320));
/// How often an append that comes to nothing asks whether its life is over, and how long it waits for that: there is the next attempt, and
/// many ask at once when a leader goes.
const LIFE_CHECK: (Duration, Duration) = (Duration::from_secs(1), Duration::from_millis(500));
/// How long the answer of one that leads no longer is waited for.
pub(super) const LAST_ANSWERS: Duration = Duration::from_millis(200);

/// Who appends.
enum Route {
    Own,
    To(Leader, Line),
}

/// The way to whoever appends, and until when.
#[derive(Clone, Copy)]
struct Way<'a> {
    leader: &'a Leader,
    line: &'a Line,
    deadline: Instant,
}

/// See [`crate::OrderedLog::append_requests`].
pub(super) async fn append(shared: Arc<Shared>, entry: Bytes, requests: usize) -> Outcome {
    shared.log.check(&entry)?;
    let mut place = shared.room.enter(entry.len())?;
    let deadline = Instant::now() + shared.log.config().append_timeout;
    let mut attempts = Attempts::default();
    let (mut stored, mut judged, mut pause) = (None, None, RETRY_PAUSE.0);
    loop {
        let attempt = match timeout_at(deadline, shared.route()).await {
            Ok(Ok(Route::Own)) => Attempt::Told(shared.log.append_here(entry.clone(), requests, deadline).await),
            Ok(Ok(Route::To(leader, line))) => {
                let way = Way { leader: &leader, line: &line, deadline };
                let attempt = shared.hand_over(way, &entry, requests, &mut place, &mut stored).await;
                place.set_sent(false);
                shared.judge(attempt, &entry, &mut judged, deadline).await
            }
            Ok(Err(error)) => Attempt::Told(Err(error)),
            Err(_) => return attempts.given_up(&shared.why_nobody()),
        };
        if let Next::Answer(outcome) = attempts.after(attempt) {
            return outcome;
        }
        if Instant::now() >= deadline {
            return attempts.given_up("there was no time left");
        }
        sleep(pause).await;
        pause = (pause * 2).min(RETRY_PAUSE.1);
    }
}

impl Shared {
    /// Waits until there is somebody to append.
    async fn route(&self) -> Result<Route, AppendError> {
        let (mut standing, mut lines) = (self.standing.subscribe(), self.log.line_changes());
        loop {
            if self.log.is_over() {
                return Err(AppendError::Fenced);
            }
            lines.mark_unchanged();
            let Standing { leader, leads } = standing.borrow_and_update().clone();
            match leader {
                Some(_) if leads => return Ok(Route::Own),
                Some(leader) => {
                    if let Some(line) = self.log.line(leader.life()) {
                        return Ok(Route::To(leader, line));
                    }
                }
                None => {}
            }
            tokio::select! {
                _ = standing.changed() => {}
                _ = lines.changed() => {}
            }
        }
    }

    /// Why there is nobody.
    fn why_nobody(&self) -> String {
        match &self.standing.borrow().leader {
            Some(Leader { replica, epoch, .. }) => {
                format!("replica {replica} leads in epoch {epoch}, and there is no connection to it")
            }
            None => "no replica leads".to_owned(),
        }
    }

    /// An attempt. What is stored for one that came to nothing is there for the next.
    async fn hand_over(
        &self,
        way: Way<'_>,
        entry: &Bytes,
        requests: usize,
        place: &mut Place,
        kept: &mut Option<Stored>,
    ) -> Attempt {
        if let Some(load) = self.log.load(entry, requests) {
            return self.tell(way, load, place).await;
        }
        // What is too large for a frame is stored, and its name handed over.
        let mut stored = match kept.take().filter(|stored| self.log.is_newest(stored.segment)) {
            Some(stored) => stored,
            None => match self.log.store(entry, way.deadline).await {
                Ok(stored) => stored,
                Err(error) => return Attempt::Told(Err(error)),
            },
        };
        let load = Load { entry: stored.frame.clone(), waits: false, stored_in: Some(stored.segment) };
        stored.set_named(true);
        let attempt = self.tell(way, load, place).await;
        if let Attempt::Told(Err(AppendError::Unavailable { .. })) = attempt {
            stored.set_named(false);
            self.log.look_beyond(stored.segment, way.deadline).await;
            *kept = Some(stored);
        }
        attempt
    }

    /// Hands it over, and waits for the answer as long as one may come.
    async fn tell(&self, Way { leader, line, deadline }: Way<'_>, load: Load, place: &mut Place) -> Attempt {
        let nowhere = |reason: &str| Attempt::Told(Err(AppendError::Unavailable { reason: reason.to_owned() }));
        let answer = match timeout_at(deadline, line.hand_over(load)).await {
            Ok(Some(answer)) => answer,
            Ok(None) => return nowhere("the connection to the leader has ended"),
            Err(_) => return nowhere("the leader takes no more entries now"),
        };
        place.set_sent(true);
        let mut standing = self.standing.subscribe();
        tokio::select! {
            told = timeout_at(deadline, answer) => match told {
                Ok(Ok(Told::At(appended))) => Attempt::Told(Ok(appended)),
                Ok(Ok(Told::Nowhere)) => nowhere("the leader did not append it"),
                Ok(Ok(Told::Unknown)) => {
                    Attempt::Told(Err(AppendError::Unknown { detail: "the leader does not know what became of it".into() }))
                }
                Ok(Err(_)) => Attempt::Untold("the connection to the leader was lost".into()),
                Err(_) => Attempt::Untold("the leader did not answer in time".into()),
            },
            () = deposed(&mut standing, leader) => Attempt::Untold("the leader leads no longer, and did not answer".into()),
        }
    }

    /// What was appended is known; what was not may be so for the end of this life, which the leader does not tell.
    async fn judge(&self, attempt: Attempt, entry: &Bytes, judged: &mut Option<Instant>, deadline: Instant) -> Attempt {
        match attempt {
            Attempt::Told(Ok(appended)) => self.log.learn(appended, entry.clone()),
            Attempt::Told(Err(AppendError::Unavailable { .. }))
                if judged.is_none_or(|judged| judged.elapsed() >= LIFE_CHECK.0) =>
            {
                let now = *judged.insert(Instant::now());
                let limit = deadline.min(now + LIFE_CHECK.1);
                if let Ok(Err(AppendError::Fenced)) = timeout_at(limit, self.log.check_life()).await {
                    return Attempt::Told(Err(AppendError::Fenced));
                }
            }
            _ => {}
        }
        attempt
    }
}

/// Completes when another one leads, or none, and this one has had time for its last answers.
async fn deposed(standing: &mut watch::Receiver<Standing>, leader: &Leader) {
    if standing.wait_for(|standing| standing.leader.as_ref() != Some(leader)).await.is_ok() {
        sleep(LAST_ANSWERS).await;
    }
}
