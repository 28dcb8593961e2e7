//! Appending: bounded, fenced, and honest about what is not known.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use replicateddb_faults::{Fault, once_sent, pass};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Instant, timeout_at};
use tracing::{debug, warn};
use zookeeper_client::{Client, CreateMode, Error, MultiWriteError};

use super::bodies::{self, BodyError};
use super::layout::SegmentState;
use super::plan::{self, AppendVerdict};
use super::{Inner, open, truncate};
use crate::connection::Connection;
use crate::{AppendError, Appended, Committed, LogError, Position, framing};

/// A session that carries appends.
#[derive(Debug)]
pub(super) struct AppendLane {
    connection: Arc<Connection>,
    /// Appends under way in it.
    in_flight: AtomicUsize,
}

impl AppendLane {
    pub(super) fn new(connection: Connection) -> Self {
        Self { connection: Arc::new(connection), in_flight: AtomicUsize::new(0) }
    }

    pub(super) fn connection(&self) -> Arc<Connection> {
        self.connection.clone()
    }
}

/// Counts an append in its lane while it lives.
struct Boarded {
    inner: Arc<Inner>,
    lane: usize,
}

impl Drop for Boarded {
    fn drop(&mut self) {
        self.inner.lanes[self.lane].in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

/// See [`crate::OrderedLog::append`].
pub(super) async fn append(inner: Arc<Inner>, entry: Bytes) -> Result<Appended, AppendError> {
    let limit = inner.config.max_body_bytes;
    if entry.len() > limit {
        return Err(AppendError::TooLarge { bytes: entry.len(), limit });
    }
    if inner.is_fenced() {
        return Err(AppendError::Fenced);
    }
    let deadline = Instant::now() + inner.config.append_timeout;
    let permit = timeout_at(deadline, inner.permits.clone().acquire_owned()).await;
    let Ok(Ok(permit)) = permit else {
        return Err(unavailable("too many appends are under way"));
    };
    // A task of its own: the permit is held until ZooKeeper has answered, whatever becomes of the caller, since a
    // request that was handed to the client is sent even if its future is dropped.
    let (answer, outcome) = oneshot::channel();
    tokio::spawn(Append { inner, entry, deadline, answer: Some(answer), _permit: permit }.run());
    match outcome.await {
        Ok(outcome) => outcome,
        Err(_) => Err(AppendError::Unknown { detail: "the append was given up".into() }),
    }
}

fn unavailable(reason: impl Into<String>) -> AppendError {
    AppendError::Unavailable { reason: reason.into() }
}

/// One append under way.
struct Append {
    inner: Arc<Inner>,
    entry: Bytes,
    deadline: Instant,
    answer: Option<oneshot::Sender<Result<Appended, AppendError>>>,
    _permit: OwnedSemaphorePermit,
}

impl Append {
    async fn run(mut self) {
        let outcome = self.propose().await;
        self.reply(outcome);
    }

    /// Answers the caller, once.
    fn reply(&mut self, outcome: Result<Appended, AppendError>) {
        if let Some(answer) = self.answer.take() {
            // A caller who has gone away does not care.
            answer.send(outcome).ok();
        }
    }

    /// Proposes until a segment takes the entry; each round but the last ends with a newer segment known.
    async fn propose(&mut self) -> Result<Appended, AppendError> {
        let inner = self.inner.clone();
        loop {
            let (client, _boarded) = self.board().await?;
            let segment = inner.segment();
            let frame = match self.frame(&client, segment).await {
                Ok(frame) => frame,
                Err(BodyError::SegmentClosed) => {
                    self.find_segment(segment).await?;
                    continue;
                }
                Err(BodyError::Fenced) => return Err(self.over(&client).await),
                Err(BodyError::Failed(detail)) => {
                    return Err(unavailable(format!("the entry's body could not be stored: {detail}")));
                }
            };
            match self.commit(&client, segment, &frame).await {
                AppendVerdict::Committed { sequence, commit_time_ms } => {
                    pass(Fault::AppendAcknowledged);
                    return Ok(self.committed(Position::new(segment, sequence), commit_time_ms));
                }
                AppendVerdict::Sealed => inner.saw_segment(segment.saturating_add(1)),
                AppendVerdict::NoSegment => self.find_segment(segment).await?,
                AppendVerdict::Fenced => return Err(self.over(&client).await),
                AppendVerdict::Refused(reason) => return Err(unavailable(reason)),
                AppendVerdict::Unknown(detail) => return Err(AppendError::Unknown { detail }),
            }
        }
    }

    /// The connected session with the fewest appends under way, waiting for one if there is none.
    async fn board(&self) -> Result<(Client, Boarded), AppendError> {
        loop {
            let lanes = self.inner.lanes.iter().enumerate();
            let connected = lanes.filter_map(|(index, lane)| Some((index, lane, lane.connection.connected()?)));
            let quietest = connected.min_by_key(|(_, lane, _)| lane.in_flight.load(Ordering::Acquire));
            if let Some((index, lane, client)) = quietest {
                lane.in_flight.fetch_add(1, Ordering::AcqRel);
                return Ok((client, Boarded { inner: self.inner.clone(), lane: index }));
            }
            let waits = self.inner.lanes.iter().map(|lane| Box::pin(lane.connection.client()));
            if timeout_at(self.deadline, futures::future::select_all(waits)).await.is_err() {
                return Err(unavailable("not connected to ZooKeeper"));
            }
        }
    }

    /// What the entry's znode will hold; stores a large body first.
    async fn frame(&self, client: &Client, segment: u32) -> Result<Vec<u8>, BodyError> {
        if self.entry.len() <= self.inner.config.max_entry_bytes {
            return Ok(framing::encode_inline(&self.entry));
        }
        let store = bodies::store(&self.inner, client, segment, &self.entry);
        match timeout_at(self.deadline, store).await {
            Ok(stored) => stored.map(|body| framing::encode_side(&body)),
            Err(_) => Err(BodyError::Failed("ZooKeeper did not answer in time".into())),
        }
    }

    /// The transaction. Past the deadline the caller is told that nobody knows, and the answer is awaited all the same.
    async fn commit(&mut self, client: &Client, segment: u32, frame: &[u8]) -> AppendVerdict {
        let inner = self.inner.clone();
        let options = CreateMode::PersistentSequential.with_acls(inner.access.acls());
        let mut writer = client.new_multi_writer();
        // In the order that `plan::append_verdict` reads.
        let added = writer
            .add_check_version(&inner.layout.segment(segment), SegmentState::OPEN_VERSION)
            .and_then(|()| writer.add_check_version(&inner.incarnation_path, 0))
            .and_then(|()| writer.add_create(&inner.layout.entry_prefix(segment), frame, &options));
        if let Err(error) = added {
            return AppendVerdict::Refused(error.to_string());
        }
        pass(Fault::AppendUnsent);
        let mut answer = std::pin::pin!(once_sent(Fault::AppendSent, writer.commit()));
        if let Ok(answer) = timeout_at(self.deadline, &mut answer).await {
            return plan::append_verdict(answer);
        }
        let detail = format!("ZooKeeper did not answer within {:?}", inner.config.append_timeout);
        self.reply(Err(AppendError::Unknown { detail }));
        plan::append_verdict(answer.await)
    }

    fn committed(&self, position: Position, commit_time_ms: i64) -> Appended {
        let inner = &self.inner;
        let committed = Committed { position, commit_time_ms, entry: self.entry.clone() };
        inner.pushes.committed(&committed);
        inner.recent.put(committed);
        if position.sequence.saturating_add(1) >= inner.config.segment_entries {
            start_seal(inner, position.segment);
        }
        Appended { position, commit_time_ms }
    }

    /// Nothing was appended, for ZooKeeper does not know the incarnation.
    async fn over(&self, client: &Client) -> AppendError {
        match truncate::over(&self.inner, client).await {
            LogError::Fenced => AppendError::Fenced,
            error => unavailable(error.to_string()),
        }
    }

    /// Looks for a newer segment than one that was closed, or given up.
    async fn find_segment(&self, closed: u32) -> Result<(), AppendError> {
        let inner = &self.inner;
        if inner.segment() > closed {
            return Ok(());
        }
        let look = async {
            let client = inner.control.client().await;
            open::newest_segment(&client, &inner.layout).await
        };
        match timeout_at(self.deadline, look).await {
            Ok(Ok(Some(newest))) if newest > closed => {
                inner.saw_segment(newest);
                Ok(())
            }
            Ok(Ok(_)) => Err(unavailable(format!("segment {closed} takes no entries and none follows it"))),
            Ok(Err(error)) => Err(unavailable(error.to_string())),
            Err(_) => Err(unavailable("ZooKeeper did not answer in time")),
        }
    }
}

/// Seals a full segment in the background, unless this handle is at it already. Should it fail, the next append into
/// the segment starts it again.
fn start_seal(inner: &Arc<Inner>, segment: u32) {
    if inner.segment() > segment || inner.sealing.swap(true, Ordering::AcqRel) {
        return;
    }
    let inner = inner.clone();
    tokio::spawn(async move {
        let limit = inner.config.append_timeout;
        match tokio::time::timeout(limit, seal(&inner, segment)).await {
            Ok(Ok(())) => inner.saw_segment(segment.saturating_add(1)),
            Ok(Err(error)) => warn!(segment, %error, "segment not sealed, the next append tries again"),
            Err(_) => warn!(segment, "segment not sealed within {limit:?}, the next append tries again"),
        }
        inner.sealing.store(false, Ordering::Release);
    });
}

/// Seals a segment and opens the next one, in one transaction. `Ok` if that has been done, by whomever.
fn seal(inner: &Arc<Inner>, segment: u32) -> impl Future<Output = Result<(), Error>> + Send {
    let inner = inner.clone();
    async move {
        let client = inner.control.client().await;
        let options = CreateMode::Persistent.with_acls(inner.access.acls());
        let mut writer = client.new_multi_writer();
        writer.add_check_version(&inner.incarnation_path, 0)?;
        writer.add_set_data(
            &inner.layout.segment(segment),
            SegmentState::Sealed.data(),
            Some(SegmentState::OPEN_VERSION),
        )?;
        writer.add_create(&inner.layout.segment(segment.saturating_add(1)), SegmentState::Open.data(), &options)?;
        pass(Fault::SegmentFull);
        match writer.commit().await {
            Ok(_) => {
                pass(Fault::SegmentSealed);
                debug!(segment, "segment sealed");
                Ok(())
            }
            // The next append finds out what that means.
            Err(MultiWriteError::OperationFailed { index: 0, source: Error::NoNode }) => Err(Error::NoNode),
            Err(MultiWriteError::OperationFailed {
                source: Error::BadVersion | Error::NoNode | Error::NodeExists,
                ..
            }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
