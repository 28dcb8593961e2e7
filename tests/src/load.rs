//! Load for measurements: a session with given servers, and a closed loop that keeps so many requests in flight.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use scylla::{
    client::{execution_profile::ExecutionProfile, session::Session, session_builder::SessionBuilder},
    policies::{host_filter::AllowListHostFilter, retry::FallthroughRetryPolicy},
    statement::Consistency,
};
use tokio::task::JoinSet;

/// Pause of a worker after an error, so that a server that refuses everything is not asked without end.
const AFTER_ERROR: Duration = Duration::from_millis(50);
/// Kinds of errors that one worker tells apart; more are counted as [`OTHERS`].
const MAX_KINDS: usize = 8;
/// Longest text of an error that is kept, characters.
const ERROR_CHARS: usize = 160;
/// What errors beyond [`MAX_KINDS`] are counted as.
const OTHERS: &str = "other errors";

/// A session with these servers alone, one connection to each; a request is at this level unless its statement says
/// otherwise, is not repeated by the driver, and fails after `request_limit`.
///
/// # Errors
/// When none of them answers.
pub async fn session(servers: &[SocketAddr], level: Consistency, request_limit: Duration) -> Result<Session> {
    let profile = ExecutionProfile::builder()
        .consistency(level)
        .request_timeout(Some(request_limit))
        .retry_policy(Arc::new(FallthroughRetryPolicy::new()))
        .build();
    SessionBuilder::new()
        .known_nodes_addr(servers)
        .host_filter(Arc::new(AllowListHostFilter::new(servers)?))
        .default_execution_profile_handle(profile.into_handle())
        .build()
        .await
        .with_context(|| format!("a session with {servers:?}"))
}

/// When a loop ends, and which of its requests count.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Requests sent earlier are not counted: they warm up.
    pub from: Instant,
    /// No request is sent later.
    pub until: Instant,
}

/// What a loop has found.
#[derive(Debug, Default)]
pub struct Loaded {
    /// From sending to the answer, of each request that counts and was answered; sorted, µs.
    pub latencies: Vec<u64>,
    /// What the others failed with, and how many did.
    pub errors: BTreeMap<String, usize>,
    /// From the beginning of the window to the last answer.
    pub elapsed: Duration,
}

impl Loaded {
    /// Answered requests in a second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// The latency that this share of the requests did not exceed, ms; 0 when there were none.
    #[must_use]
    pub fn at(&self, share: f64) -> f64 {
        let index = (self.latencies.len().saturating_sub(1)) as f64 * share;
        self.latencies.get(index as usize).map_or(0.0, |micros| *micros as f64 / 1000.0)
    }

    /// Requests that failed.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.errors.values().sum()
    }

    fn count(&mut self, kind: String, times: usize) {
        let known = self.errors.contains_key(&kind) || self.errors.len() < MAX_KINDS;
        *self.errors.entry(if known { kind } else { OTHERS.to_owned() }).or_default() += times;
    }

    fn add(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        self.elapsed = self.elapsed.max(other.elapsed);
        other.errors.into_iter().for_each(|(kind, times)| self.count(kind, times));
    }
}

/// Runs `in_flight` workers, numbered from 0; each makes its next request when the last was answered, until the window
/// ends. Ends the workers when it is dropped.
///
/// # Errors
/// When a worker panics. Requests that fail are counted instead.
pub async fn closed_loop<R, F>(in_flight: usize, window: Window, request: R) -> Result<Loaded>
where
    R: Fn(usize) -> F + Clone + Send + 'static,
    F: Future<Output = Result<()>> + Send + 'static,
{
    let mut workers = JoinSet::new();
    for number in 0..in_flight {
        workers.spawn(work(number, window, request.clone()));
    }
    let mut all = Loaded::default();
    while let Some(found) = workers.join_next().await {
        all.add(found.context("a worker")?);
    }
    all.latencies.sort_unstable();
    Ok(all)
}

async fn work<R, F>(number: usize, window: Window, request: R) -> Loaded
where
    R: Fn(usize) -> F,
    F: Future<Output = Result<()>>,
{
    let mut found = Loaded::default();
    loop {
        let begin = Instant::now();
        if begin >= window.until {
            return found;
        }
        let outcome = request(number).await;
        let failed = outcome.is_err();
        if begin >= window.from {
            found.elapsed = window.from.elapsed();
            match outcome {
                Ok(()) => found.latencies.push(begin.elapsed().as_micros() as u64),
                Err(error) => found.count(format!("{error:#}").chars().take(ERROR_CHARS).collect(), 1),
            }
        }
        if failed {
            tokio::time::sleep(AFTER_ERROR).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    fn window(warm_ms: u64, counted_ms: u64) -> Window {
        let from = Instant::now() + Duration::from_millis(warm_ms);
        Window { from, until: from + Duration::from_millis(counted_ms) }
    }

    #[tokio::test]
    async fn what_is_in_flight_and_when_it_began_decide_what_counts() {
        let request = |_| async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(())
        };
        let found = closed_loop(4, window(100, 400), request).await.unwrap();
        assert!((4..=80).contains(&found.latencies.len()), "{}", found.latencies.len());
        assert!(found.at(0.0) >= 20.0 && found.at(0.5) <= found.at(1.0));
        assert_eq!(found.failed(), 0);
    }

    #[tokio::test]
    async fn errors_are_counted_by_kind_and_are_no_answers() {
        let request = |number| async move { bail!("kind {number}") };
        let found = closed_loop(2 * MAX_KINDS, window(0, 60), request).await.unwrap();
        assert!(found.latencies.is_empty());
        assert_eq!(found.errors.len(), MAX_KINDS + 1);
        assert!(found.errors.contains_key(OTHERS) && found.failed() >= 2 * MAX_KINDS);
        assert_eq!((found.at(0.5), found.per_second()), (0.0, 0.0));
    }
}
