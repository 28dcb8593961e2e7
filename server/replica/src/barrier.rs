//! Read barriers, shared: everybody who asked before the other replicas are asked what they have shown
//! ([`crate::frontier`]), or before a barrier record is proposed, is answered by that.

use std::sync::Arc;

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
pub struct Barriers(mpsc::Sender<oneshot::Sender<Passed>>);

impl Barriers {
    /// A barrier service and the task that has to run for it, which ends with the reason when nobody may be served any more.
    pub fn new<L: OrderedLog>(
        shared: Arc<Shared>,
        log: L,
        proposer: Proposer,
    ) -> (Self, impl Future<Output = String> + Send) {
        let (sender, queue) = mpsc::channel(QUEUE);
        let frontier = Frontier::new(shared.clone(), log);
        (Self(sender), run(shared, frontier, proposer, queue))
    }

    /// Completes when everything acknowledged before the call is applied here (I4). Bounded in time.
    pub async fn pass(&self) -> Passed {
        let (sender, passed) = oneshot::channel();
        self.0.try_send(sender).map_err(|_| ProposeError::Overloaded)?;
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
) -> String {
    let keeping = frontier.keep(proposer.clone());
    tokio::select! {
        biased;
        () = rounds(&shared, &frontier, &proposer, queue) => "nobody holds the replica any more".to_owned(),
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
                    let passed = round(shared, frontier, proposer).await;
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
