//! Reading the log: from this node's own files, and then as it grows.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::{Stream, stream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::core::Core;
use super::machine::{Progress, ReadError};
use crate::{Committed, Position, TailError};

/// A tail, between two items.
struct Reading {
    core: Arc<Core>,
    progress: watch::Receiver<Progress>,
    from: Position,
    /// Number of the next entry, once that is known.
    next: Option<u64>,
    /// Entries that were read with the one before.
    ready: VecDeque<Committed>,
}

/// See [`crate::OrderedLog::tail`].
pub(super) fn tail(
    core: Arc<Core>,
    from: Position,
) -> impl Stream<Item = Result<Committed, TailError>> + Send + 'static {
    let progress = core.machine.progress();
    let reading = Reading { core, progress, from, next: None, ready: VecDeque::new() };
    stream::unfold(Some(reading), |reading| async move {
        let mut reading = reading?;
        match reading.next().await {
            Ok(committed) => Some((Ok(committed), Some(reading))),
            Err(error) => Some((Err(error), None)),
        }
    })
}

impl Reading {
    async fn next(&mut self) -> Result<Committed, TailError> {
        loop {
            if let Some(committed) = self.ready.pop_front() {
                return Ok(committed);
            }
            let next = match self.next {
                Some(next) => next,
                None => self.find().await?,
            };
            let waited = self.progress.wait_for(|progress| progress.next > next || progress.first > next).await;
            let first = waited.map(|progress| progress.first).unwrap_or_default();
            if first > next {
                return Err(TailError::Truncated { first: self.core.machine.first_position() });
            }
            match self.core.machine.read(next).await {
                Ok(read) => {
                    self.next = Some(next + read.len() as u64);
                    self.ready.extend(read);
                }
                // The first one has moved by now.
                Err(ReadError::GivenUp) => tokio::task::yield_now().await,
                Err(ReadError::Volume(error)) => {
                    let position = self.core.machine.look(|state| state.position(next));
                    return Err(TailError::Corrupt { position, detail: error.to_string() });
                }
            }
        }
    }

    /// The number of the first entry that is asked for. Only the end of the log as it is everywhere tells that it lies beyond.
    async fn find(&mut self) -> Result<u64, TailError> {
        loop {
            let (number, end) = self.core.machine.look(|state| (state.number(self.from), state.next()));
            if let Some(number) = number.filter(|number| *number <= end) {
                self.next = Some(number);
                return Ok(number);
            }
            let deadline = Instant::now() + self.core.config.admin_timeout;
            match self.core.catch_up(deadline).await {
                Ok(()) => {
                    let (number, next, end) =
                        self.core.machine.look(|state| (state.number(self.from), state.next(), state.end()));
                    if number.is_none_or(|number| number > next) {
                        return Err(TailError::Ahead { end });
                    }
                }
                Err(reason) => {
                    tracing::debug!(reason, "the end of the log is not known, trying again");
                    sleep(super::RETRY_PAUSE).await;
                }
            }
        }
    }
}
