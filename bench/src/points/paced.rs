//! Load at a given rate: each request has a moment at which it is due, whatever became of the ones before it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use scylla::{client::session::Session, statement::prepared::PreparedStatement};
use tokio::task::JoinSet;

/// A request that could not be sent so long after it was due is left out, and counted: a server that is away must not
/// find the requests of its whole absence waiting.
const TOO_LATE: Duration = Duration::from_secs(2);
/// Pause of a worker after an error.
const AFTER_ERROR: Duration = Duration::from_millis(50);
/// Time between two reads at `ONE` through each replica: they tell whether reads go on while writes stand.
const READ_EVERY: Duration = Duration::from_millis(10);

/// A session with one replica and what it is asked.
#[derive(Clone)]
pub struct Client {
    /// The session.
    pub session: Arc<Session>,
    /// Inserts a row.
    pub insert: PreparedStatement,
    /// Reads a row by its key, at `ONE`.
    pub read: PreparedStatement,
}

/// An answered request; µs since the load began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Which replica was asked.
    pub replica: u8,
    /// When it was to be sent.
    pub due: u64,
    /// When it was answered.
    pub done: u64,
    /// The row's key.
    pub key: i64,
}

/// What has become of a load.
#[derive(Debug, Default)]
pub struct Found {
    /// Of inserts, sorted by the time of the answer.
    pub answers: Vec<Answer>,
    /// Of reads at `ONE`, in no order.
    pub reads: Vec<Answer>,
    /// Requests that failed.
    pub failed: u64,
    /// Requests that were too late to be sent.
    pub left_out: u64,
}

struct Plan {
    begin: Instant,
    rate: f64,
    next: AtomicU64,
    ended: AtomicBool,
    value: String,
}

/// A load that goes on until it is ended or dropped.
pub struct Paced {
    plan: Arc<Plan>,
    workers: JoinSet<Found>,
}

impl Paced {
    /// Begins to insert new rows, `rate` in a second in all, with at most `in_flight` on their way, in equal shares
    /// through each client: that of replica 0, of replica 1, ...; and a few reads through each.
    #[must_use]
    pub fn begin(clients: &[Client], rate: u32, in_flight: usize, bytes: usize) -> Self {
        let (next, ended, value) = (AtomicU64::new(0), AtomicBool::new(false), "x".repeat(bytes));
        let plan = Arc::new(Plan { begin: Instant::now(), rate: f64::from(rate), next, ended, value });
        let mut workers = JoinSet::new();
        for (number, (replica, client)) in (0..clients.len() as u8).zip(clients).cycle().take(in_flight).enumerate() {
            workers.spawn(insert(plan.clone(), replica, client.clone()));
            if number < clients.len() {
                workers.spawn(read(plan.clone(), replica, client.clone()));
            }
        }
        Self { plan, workers }
    }

    /// When it began.
    #[must_use]
    pub fn began(&self) -> Instant {
        self.plan.begin
    }

    /// Ends it, once what is on its way is answered.
    ///
    /// # Errors
    /// When a worker panicked.
    pub async fn end(mut self) -> Result<Found> {
        self.plan.ended.store(true, Relaxed);
        let mut all = Found::default();
        while let Some(found) = self.workers.join_next().await {
            let found = found.context("a worker")?;
            all.answers.extend(found.answers);
            all.reads.extend(found.reads);
            (all.failed, all.left_out) = (all.failed + found.failed, all.left_out + found.left_out);
        }
        all.answers.sort_unstable_by_key(|answer| answer.done);
        Ok(all)
    }
}

async fn insert(plan: Arc<Plan>, replica: u8, client: Client) -> Found {
    let mut found = Found::default();
    while !plan.ended.load(Relaxed) {
        let number = plan.next.fetch_add(1, Relaxed);
        let due = Duration::from_secs_f64(number as f64 / plan.rate);
        tokio::time::sleep_until((plan.begin + due).into()).await;
        if plan.begin.elapsed() > due + TOO_LATE {
            found.left_out += 1;
            continue;
        }
        let key = number as i64;
        match client.session.execute_unpaged(&client.insert, (key, &plan.value)).await {
            Ok(_) => {
                let (due, done) = (due.as_micros() as u64, plan.begin.elapsed().as_micros() as u64);
                found.answers.push(Answer { replica, due, done, key });
            }
            Err(_) => {
                found.failed += 1;
                tokio::time::sleep(AFTER_ERROR).await;
            }
        }
    }
    found
}

/// Reads one row after the other, and some that are not there: one on its way at a time.
async fn read(plan: Arc<Plan>, replica: u8, client: Client) -> Found {
    let (mut found, mut key) = (Found::default(), 0_i64);
    while !plan.ended.load(Relaxed) {
        tokio::time::sleep(READ_EVERY).await;
        let due = plan.begin.elapsed().as_micros() as u64;
        if client.session.execute_unpaged(&client.read, (key,)).await.is_ok() {
            let done = plan.begin.elapsed().as_micros() as u64;
            found.reads.push(Answer { replica, due, done, key });
        }
        key += 1;
    }
    found
}

/// The longest time without an answer of a replica, in a window of µs since the beginning; ms. What was on its way when
/// the window began or ended counts with its whole gap.
#[must_use]
pub fn longest_gap(answers: &[Answer], replica: u8, from: u64, to: u64) -> f64 {
    let of_replica = answers.iter().filter(|answer| answer.replica == replica).map(|answer| answer.done);
    let (mut last, mut longest) = (None, 0);
    for done in of_replica {
        if let Some(last) = last
            && done >= from
            && last <= to
        {
            longest = longest.max(done - last);
        }
        last = Some(done);
    }
    longest as f64 / 1000.0
}

/// Latencies, from when a request was due to its answer.
#[derive(Clone, Debug, Default)]
pub struct Latencies(Vec<u64>);

impl Latencies {
    /// Of these.
    pub fn of<'a>(answers: impl Iterator<Item = &'a Answer>) -> Self {
        let mut all: Vec<u64> = answers.map(|answer| answer.done.saturating_sub(answer.due)).collect();
        all.sort_unstable();
        Self(all)
    }

    /// The one that this share of the requests did not exceed, ms; 0 when there were none.
    #[must_use]
    pub fn at(&self, share: f64) -> f64 {
        let index = (self.0.len().saturating_sub(1)) as f64 * share;
        self.0.get(index as usize).map_or(0.0, |micros| *micros as f64 / 1000.0)
    }

    /// p50, p99 and the longest, for people.
    #[must_use]
    pub fn line(&self) -> String {
        format!("{:.1}, {:.1}, {:.1}", self.at(0.5), self.at(0.99), self.at(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(replica: u8, due: u64, done: u64) -> Answer {
        Answer { replica, due, done, key: 0 }
    }

    #[test]
    fn a_gap_is_between_answers_of_one_replica_and_counts_where_it_lies() {
        let answers = [(0, 1_000), (1, 1_500), (0, 2_000), (1, 9_000), (0, 52_000), (0, 53_000), (0, 153_000)];
        let answers: Vec<_> = answers.iter().map(|(replica, done)| answer(*replica, 0, *done)).collect();
        assert_eq!(longest_gap(&answers, 0, 0, 60_000), 100.0, "it begins in the window");
        assert_eq!(longest_gap(&answers, 0, 0, 52_500), 50.0);
        assert_eq!(longest_gap(&answers, 0, 10_000, 20_000), 50.0, "the window lies in it");
        assert_eq!(longest_gap(&answers, 1, 0, 60_000), 7.5);
        assert_eq!(longest_gap(&answers, 2, 0, 60_000), 0.0);
    }

    #[test]
    fn latencies_begin_when_a_request_was_due() {
        let answers: Vec<_> = (1..=100).map(|n| answer(0, 5_000, 5_000 + n * 1_000)).collect();
        let latencies = Latencies::of(answers.iter());
        assert_eq!((latencies.at(0.5), latencies.at(1.0)), (50.0, 100.0));
        assert_eq!(Latencies::default().line(), "0.0, 0.0, 0.0");
    }
}
