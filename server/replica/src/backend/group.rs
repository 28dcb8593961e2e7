//! Plain writes of different partitions, sent together: one request for as many as [`Bounds`] allow. Cassandra's cost of a
//! request is far above that of a row (its threads are woken, and spin before they sleep), so what is ready at the same
//! moment goes as one unlogged batch in which each statement says its own write time.
//!
//! Only writes that may be repeated go in: where the answer to a batch is anything but a plain success, each of its members
//! is executed alone, and has its answer from that. So one that Cassandra fails holds up nobody else.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use replicateddb_cql::Consistency;
use replicateddb_cql::frame::Opcode;
use replicateddb_cql::request::{self, Batch, BatchBody, BatchKind, BatchStatement, Values};
use replicateddb_cql::wire::Value;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::outcome::{Failure, Meaning, Reply, judge};
use super::pool::Pool;
use super::prepared::Known;
use crate::site::Place;

/// What one batch holds.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Writes.
    records: usize,
    /// Bytes of values, keys and what Cassandra counts for each row.
    bytes: usize,
}

impl Bounds {
    /// For a Cassandra that the store agent configures: far below what that lets it warn of, and lets nobody
    /// set lower (`batch_size_warn_threshold`, `unlogged_batch_across_partitions_warn_threshold`).
    pub const CONFIGURED: Self = Self { records: 64, bytes: 64 << 10 };
    /// For any: Cassandra by itself warns of more than ten partitions (`unlogged_batch_across_partitions_warn_threshold`) and
    /// from 5 KiB on (`batch_size_warn_threshold`).
    pub const ANY: Self = Self { records: 10, bytes: 4 << 10 };
}

/// What a row has beside its values, bytes: generous.
const ROW_BYTES: usize = 64;
/// Batches on their way at once. What comes meanwhile makes the next ones larger.
const IN_FLIGHT: usize = 2;
/// Writes waiting for a batch; more wait before it.
const QUEUE: usize = 1024;
/// Writes remembered to have been in a batch that failed: more than execute at once.
const APART: usize = 4096;

/// What a write that was handed in is told.
#[derive(Debug, Clone)]
pub enum Told {
    /// It is executed, without anything to say.
    Done,
    /// Execute it alone.
    Alone,
    /// Cassandra does not know one of the group's texts any more: prepare this one again, and execute it alone.
    Unprepared,
    /// Nobody knows.
    Failed(Failure),
}

/// A write that may go with others.
#[derive(Debug)]
pub struct Member {
    /// The id of its text, which says its write time.
    pub id: Bytes,
    /// All its values, the write time among them.
    pub values: Values,
    /// The keyspace that its text was prepared in and needs.
    pub keyspace: Option<String>,
    /// The write time of its record, µs: no other record has it.
    pub timestamp_us: i64,
    /// The second that expiry counts from.
    pub now_s: i32,
}

impl Member {
    /// A write by its text with a marker for its write time, that marker's place and the write time in µs that goes there, and its
    /// other values. `None` if there are too many of them, or too few.
    pub fn new(
        timed: &Known,
        (marker, written_us): (usize, i64),
        mut values: Vec<Value>,
        keyspace: Option<&str>,
        place: Place,
    ) -> Option<Self> {
        if marker > values.len() {
            return None;
        }
        values.insert(marker, Value::Bytes(Bytes::copy_from_slice(&written_us.to_be_bytes())));
        Some(Self {
            id: timed.prepared.id.clone(),
            values: Values::positional(&values).ok()?,
            keyspace: timed.needs(keyspace).map(str::to_owned),
            timestamp_us: place.timestamp_us,
            now_s: place.now_s(),
        })
    }

    fn bytes(&self) -> usize {
        self.values.raw().len() + ROW_BYTES
    }

    /// Whether both can be in one batch.
    fn fits(&self, other: &Self) -> bool {
        self.now_s == other.now_s && self.keyspace == other.keyspace
    }
}

struct Waiting {
    member: Member,
    told: oneshot::Sender<Told>,
}

/// Where writes are handed in. Ends with its last clone.
#[derive(Debug)]
pub struct Groups {
    /// Write times of those whose batch failed: they go alone from then on.
    apart: Mutex<BTreeSet<i64>>,
    queue: mpsc::Sender<Waiting>,
    _task: AbortOnDropHandle<()>,
}

impl Groups {
    /// On the connections of one generation.
    pub fn new(pool: Pool, bounds: Bounds) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        Self { apart: Mutex::default(), queue, _task: AbortOnDropHandle::new(tokio::spawn(run(pool, bounds, waiting))) }
    }

    /// Has a write executed with others that are ready now.
    pub async fn execute(&self, member: Member) -> Told {
        let key = member.timestamp_us;
        if self.apart().contains(&key) {
            return Told::Alone;
        }
        let (told, answer) = oneshot::channel();
        if self.queue.send(Waiting { member, told }).await.is_err() {
            return Told::Alone;
        }
        // The task ends with this value: while somebody waits, it is there.
        let told = answer.await.unwrap_or(Told::Alone);
        if matches!(told, Told::Failed(_)) {
            let mut apart = self.apart();
            apart.insert(key);
            if apart.len() > APART {
                // The earliest was done long ago.
                apart.pop_first();
            }
        }
        told
    }

    fn apart(&self) -> MutexGuard<'_, BTreeSet<i64>> {
        self.apart.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn run(pool: Pool, bounds: Bounds, mut queue: mpsc::Receiver<Waiting>) {
    let mut in_flight = FuturesUnordered::new();
    let mut left: Option<Waiting> = None;
    loop {
        tokio::select! {
            biased;
            Some(()) = in_flight.next(), if !in_flight.is_empty() => {}
            first = next(&mut left, &mut queue), if in_flight.len() < IN_FLIGHT => {
                let Some(first) = first else { return };
                // Whoever made this one ready may be about to make more ready.
                tokio::task::yield_now().await;
                let group = collect(first, bounds, &mut left, &mut queue);
                in_flight.push(send(&pool, group));
            }
        }
    }
}

async fn next(left: &mut Option<Waiting>, queue: &mut mpsc::Receiver<Waiting>) -> Option<Waiting> {
    match left.take() {
        Some(waiting) => Some(waiting),
        None => queue.recv().await,
    }
}

/// The first and those behind it that go with it; one that does not is left for the next group.
fn collect(
    first: Waiting,
    bounds: Bounds,
    left: &mut Option<Waiting>,
    queue: &mut mpsc::Receiver<Waiting>,
) -> Vec<Waiting> {
    let mut bytes = first.member.bytes();
    let mut group = vec![first];
    while group.len() < bounds.records
        && let Ok(waiting) = queue.try_recv()
    {
        bytes += waiting.member.bytes();
        let fits = bytes <= bounds.bytes && group.first().is_some_and(|first| first.member.fits(&waiting.member));
        if !fits {
            *left = Some(waiting);
            break;
        }
        group.push(waiting);
    }
    group
}

async fn send(pool: &Pool, group: Vec<Waiting>) {
    let told = match group.len() {
        1 => Told::Alone,
        _ => ask(pool, &group).await.unwrap_or_else(Told::Failed),
    };
    for waiting in group {
        // Whoever does not wait any more has gone with the generation.
        let _ = waiting.told.send(told.clone());
    }
}

async fn ask(pool: &Pool, group: &[Waiting]) -> Result<Told, Failure> {
    let Some(first) = group.first() else { return Ok(Told::Done) };
    let statements = group.iter().map(|Waiting { member, .. }| BatchStatement {
        body: BatchBody::Id(member.id.clone()),
        values: member.values.clone(),
    });
    let batch = Batch {
        kind: BatchKind::Unlogged,
        statements: statements.collect(),
        consistency: Consistency::One,
        serial_consistency: None,
        timestamp: None,
    };
    let Ok(body) = request::v5::batch(&batch, Some(first.member.now_s)) else { return Ok(Told::Alone) };
    let connection = pool.using(first.member.keyspace.as_deref()).await?;
    match judge(connection.ask(Opcode::Batch, body).await?) {
        Meaning::Reply(reply) if reply == Reply::void() => Ok(Told::Done),
        // An error, or a warning: whose?
        Meaning::Reply(_) => Ok(Told::Alone),
        Meaning::Unprepared => Ok(Told::Unprepared),
        // Of one of them, perhaps: which?
        Meaning::Failure(failure) => Err(failure.of_another()),
    }
}
