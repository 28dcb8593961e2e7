//! Read barriers, shared: everybody who asked before a barrier record was proposed is answered by it.

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, oneshot};

use crate::propose::Proposer;
use crate::record::{Record, RecordKind};
use crate::replica::ProposeError;

/// Readers that may wait to join a barrier.
const QUEUE: usize = 16_384;
/// Barrier records on their way at once: a reader that comes too late for one need not wait for its end.
const IN_FLIGHT: usize = 3;

/// What a reader is told: the barrier's index.
pub type Passed = Result<u64, ProposeError>;

/// Where readers ask. Cheap to clone.
#[derive(Clone)]
pub struct Barriers(mpsc::Sender<oneshot::Sender<Passed>>);

impl Barriers {
    /// A barrier service and the task that has to run for it.
    pub fn new(proposer: Proposer) -> (Self, impl Future<Output = ()> + Send) {
        let (sender, queue) = mpsc::channel(QUEUE);
        (Self(sender), run(proposer, queue))
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

async fn run(proposer: Proposer, mut queue: mpsc::Receiver<oneshot::Sender<Passed>>) {
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
                let proposer = proposer.clone();
                in_flight.push(async move {
                    let answer = proposer.propose(Record::bare(RecordKind::Barrier)).await;
                    let passed = answer.map(|outcome| outcome.index);
                    for reader in readers {
                        let _ = reader.send(passed.clone());
                    }
                });
            }
        }
    }
}
