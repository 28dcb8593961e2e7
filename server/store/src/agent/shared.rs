//! A Cassandra that several replicas share, each in a keyspace of its own. What a keyspace holds, its replica knows by what
//! it keeps there and by the generation; here Cassandra is started, started again when it ends, and drained at last.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use super::state::State;
use super::supervisor::{Agent, Locked};
use crate::api::Jvm;

/// Pause before a start that follows an end, the first time and at most: as long as a replica's between its attempts
/// to recover.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));
/// A JVM that lived so long has nothing to do with the ends before it.
const LASTED: Duration = Duration::from_secs(120);

/// Decides how long to wait before the next start: `last` before the one that ended after `lived`.
fn next_pause(last: Option<Duration>, lived: Duration) -> Duration {
    match last {
        Some(last) if lived < LASTED => (last * 2).min(PAUSE.1),
        _ => PAUSE.0,
    }
}

impl Agent {
    /// Starts Cassandra for the first time, and from then on whenever it has ended.
    ///
    /// # Errors
    /// If the disk fails or there is no `java`: later that may pass, but now it is likely the settings.
    pub(super) async fn start_shared(self, mut state: Locked) -> Result<()> {
        let begin = Instant::now();
        self.launch(&mut state, None).await.map_err(|refusal| anyhow!(refusal))?;
        drop(state);
        tokio::spawn(self.keep_up(begin));
        Ok(())
    }

    /// Starts Cassandra again and again, until the agent shuts down.
    async fn keep_up(self, mut begin: Instant) {
        let mut status = self.status.subscribe();
        let mut pause = None;
        loop {
            let ended = status.wait_for(|status| matches!(status.jvm, Jvm::Failed { .. } | Jvm::Stopped)).await.is_ok();
            if !ended || self.is_stopping() {
                return;
            }
            let wait = next_pause(pause, begin.elapsed());
            pause = Some(wait);
            tracing::warn!(?wait, "Cassandra is started again");
            tokio::time::sleep(wait).await;
            let mut state = self.lock().await;
            // Seen with the lock held: a shut-down under way waits for it, and finds what was started before.
            if self.is_stopping() {
                return;
            }
            begin = Instant::now();
            if let Err(refusal) = self.launch(&mut state, None).await {
                tracing::error!("Cassandra can't be started: {refusal}");
            }
        }
    }

    /// Drains Cassandra, if it serves, and ends it.
    ///
    /// # Errors
    /// If it can't be drained or does not end; if there was a commit log left, the next start reads it.
    pub(super) async fn stop_shared(&self, state: &mut State) -> Result<()> {
        let drained = match state.serving() {
            Ok(running) => running.jolokia.drain(self.setup.args.stop_timeout).await,
            Err(_) => Ok(()),
        };
        self.stop_jvm(state).await?;
        if drained.is_ok() {
            tracing::info!("stopped");
        }
        drained
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_while_ends_follow_each_other() {
        let short = Duration::from_secs(3);
        let mut pause = None;
        let mut pauses = Vec::new();
        for _ in 0..7 {
            let next = next_pause(pause, short);
            pauses.push(next.as_millis());
            pause = Some(next);
        }
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 15_000, 15_000]);
        assert_eq!(next_pause(pause, LASTED), PAUSE.0);
    }
}
