//! Read barriers, shared: everybody who asked before the other replicas are asked what they have shown
//! ([`crate::frontier`]), or before a barrier record is proposed, is answered by that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::stream::{FuturesUnordered, StreamExt};
use replicateddb_ordering::OrderedLog;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::frontier::Frontier;
use crate::propose::{FENCED, Proposer};
use crate::record::{Record, RecordKind};
use crate::replica::ProposeError;
use crate::shared::Shared;

/// Readers that may wait to join a barrier.
const QUEUE: usize = 16_384;
/// Rounds on their way at once. What comes meanwhile makes the next one larger: messages cost more than the wait.
const IN_FLIGHT: usize = 1;

/// What a reader is told: the barrier's index.
pub type Passed = Result<u64, ProposeError>;

/// Where readers ask. Cheap to clone.
#[derive(Clone)]
pub struct Barriers {
    readers: mpsc::Sender<oneshot::Sender<Passed>>,
    /// The last barrier found nothing that was not applied when it began.
    quiet: Arc<AtomicBool>,
}

impl Barriers {
    /// A barrier service and the task that has to run for it, which ends with the reason when nobody may be served any more.
    pub fn new<L: OrderedLog>(
        shared: Arc<Shared>,
        log: L,
        proposer: Proposer,
    ) -> (Self, impl Future<Output = String> + Send) {
        let (sender, queue) = mpsc::channel(QUEUE);
        let frontier = Frontier::new(shared.clone(), log);
        let quiet = Arc::new(AtomicBool::new(false));
        (Self { readers: sender, quiet: quiet.clone() }, run(shared, frontier, proposer, queue, quiet))
    }

    /// Whether a read that begins before its barrier has passed is likely to be of use: little is written now.
    pub fn are_quiet(&self) -> bool {
        self.quiet.load(Ordering::Relaxed)
    }

    /// Completes when everything acknowledged before the call is applied here (I4). Bounded in time.
    pub async fn pass(&self) -> Passed {
        let (sender, passed) = oneshot::channel();
        self.readers.try_send(sender).map_err(|_| ProposeError::Overloaded)?;
        let stopped =
            || ProposeError::NotServing { reason: "the replica has stopped".to_owned(), maybe_written: false };
        passed.await.unwrap_or_else(|_| Err(stopped()))
    }
}

async fn run<L: OrderedLog>(
    shared: Arc<Shared>,
    frontier: Frontier<L>,
    proposer: Proposer,
    queue: mpsc::Receiver<oneshot::Sender<Passed>>,
    quiet: Arc<AtomicBool>,
) -> String {
    let keeping = frontier.keep(proposer.clone());
    tokio::select! {
        biased;
        () = rounds(&shared, &frontier, &proposer, queue, &quiet) => "nobody holds the replica any more".to_owned(),
        () = keeping => {
            shared.fail(FENCED);
            FENCED.to_owned()
        }
    }
}

async fn rounds<L: OrderedLog>(
    shared: &Shared,
    frontier: &Frontier<L>,
    proposer: &Proposer,
    mut queue: mpsc::Receiver<oneshot::Sender<Passed>>,
    quiet: &AtomicBool,
) {
    let mut in_flight = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some(()) = in_flight.next(), if !in_flight.is_empty() => {}
            first = queue.recv(), if in_flight.len() < IN_FLIGHT => {
                let Some(first) = first else { return };
                let mut readers = vec![first];
                while let Ok(reader) = queue.try_recv() {
                    readers.push(reader);
                }
                in_flight.push(async move {
                    let before = shared.applied();
                    let passed = round(shared, frontier, proposer).await;
                    quiet.store(passed.as_ref().is_ok_and(|index| *index <= before), Ordering::Relaxed);
                    for reader in readers {
                        let _ = reader.send(passed.clone());
                    }
                });
            }
        }
    }
}

async fn round<L: OrderedLog>(shared: &Shared, frontier: &Frontier<L>, proposer: &Proposer) -> Passed {
    match frontier.ask().await {
        Some(index) => {
            shared.metrics.asked_barriers.inc();
            shared.reached(index).await.map(|()| index)
        }
        None => through_log(shared, proposer).await,
    }
}

/// A barrier that is a record in the log: everything before it is applied here, and this life had not ended when it was begun.
pub async fn through_log(shared: &Shared, proposer: &Proposer) -> Passed {
    let begun = Instant::now();
    let outcome = proposer.propose(Record::bare(RecordKind::Barrier)).await?;
    shared.standing.at(begun);
    Ok(outcome.index)
}
