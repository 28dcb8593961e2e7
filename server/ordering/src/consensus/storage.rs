//! The log's side of Raft's storage: entries and the vote.

use std::fmt::Debug;
use std::ops::RangeBounds;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{AnyError, LogState, OptionalSend, RaftLogReader};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Duration, timeout};

use super::file_log::{FileLog, Item};
use super::types::{NodeId, RaftEntry, RaftLogId, StorageError, StorageIOError, Types, Vote};
use super::volume::{Identity, SNAPSHOT, Volume, VolumeError};

/// Bytes of entries that are sent to another node at once, unless a single one has more.
const REPLICATED_BYTES: usize = 1 << 20;

/// How long the log waits for the snapshot that stands for what it gives up. A few kilobytes are written.
const KEPT_LIMIT: Duration = Duration::from_secs(60);

/// What the snapshot on disk stands for: never less than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kept {
    /// The entries up to this index.
    Upto(Option<u64>),
    /// No more is written.
    Ended,
}

/// Handles share everything.
#[derive(Clone, Debug)]
pub(super) struct LogStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    volume: Mutex<Volume>,
    files: Mutex<FileLog>,
    kept: watch::Sender<Kept>,
}

impl LogStore {
    /// Opens the log in the folder of `replica`. Blocks.
    pub(super) fn open(folder: &Path, replica: u32) -> Result<Self, VolumeError> {
        let volume = Volume::open(folder, replica)?;
        let purged = volume.identity().purged.map(|purged| purged.index);
        let files = FileLog::open(volume.folder(), purged)?;
        let folder = volume.folder().to_owned();
        let (volume, files, kept) = (Mutex::new(volume), Mutex::new(files), watch::Sender::new(Kept::Upto(None)));
        Ok(Self { shared: Arc::new(Shared { folder, volume, files, kept }) })
    }

    /// The node that the folder is.
    pub(super) fn node(&self) -> NodeId {
        self.identity().node
    }

    /// The folder.
    pub(super) fn folder(&self) -> &Path {
        &self.shared.folder
    }

    /// The last entry that was given up.
    pub(super) fn purged(&self) -> Option<RaftLogId> {
        self.identity().purged
    }

    /// Whether the node has promised nothing and been told nothing, ever.
    pub(super) fn is_pristine(&self) -> bool {
        let Identity { vote, purged, .. } = self.identity();
        // Without a vote there are no writes that the files would be busy with.
        vote.unwrap_or_default() == Vote::default() && purged.is_none() && self.files().last().is_none()
    }

    /// Takes note of what the snapshot on disk stands for.
    pub(super) fn set_kept(&self, kept: Kept) {
        self.shared.kept.send_modify(|before| *before = kept.max(*before));
    }

    /// Waits until the snapshot on disk stands for the entries up to `index`.
    async fn wait_kept(&self, index: u64) -> Result<(), VolumeError> {
        let mut kept = self.shared.kept.subscribe();
        let enough = kept.wait_for(|kept| match kept {
            Kept::Upto(upto) => *upto >= Some(index),
            Kept::Ended => true,
        });
        match timeout(KEPT_LIMIT, enough).await {
            Ok(Ok(kept)) if *kept != Kept::Ended => Ok(()),
            Ok(_) => Err(self.not_kept(index, "it was not written")),
            Err(_) => Err(self.not_kept(index, "it was not written in time")),
        }
    }

    fn not_kept(&self, index: u64, detail: &str) -> VolumeError {
        let source = std::io::Error::other(format!("{detail}, so the log keeps its entries up to {index}"));
        VolumeError::at(&self.shared.folder.join(SNAPSHOT))(source)
    }

    /// The entries of a range that are there, as many as `max_bytes` hold, but one at least.
    pub(super) async fn read(
        &self,
        range: impl RangeBounds<u64>,
        max_bytes: usize,
    ) -> Result<Vec<RaftEntry>, VolumeError> {
        let range = (range.start_bound().cloned(), range.end_bound().cloned());
        let found = self.shared.files.try_lock().ok().map(|files| files.items(range, max_bytes));
        let items = match found {
            Some(items) => items,
            // Something is written and synced just now.
            None => {
                let store = self.clone();
                blocking(move || store.files().items(range, max_bytes)).await
            }
        };
        let there = |item: &Item| matches!(item, Item::There(_));
        if !items.iter().any(there) {
            return Ok(items.into_iter().filter_map(here).collect());
        }
        let store = self.clone();
        blocking(move || store.read_items(items)).await
    }

    /// Lets go of the folder.
    pub(super) fn close(&self) {
        self.volume().close();
    }

    fn read_items(&self, items: Vec<Item>) -> Result<Vec<RaftEntry>, VolumeError> {
        let mut entries = Vec::with_capacity(items.len());
        for item in items {
            match item {
                Item::Here(entry) => entries.push(entry),
                Item::There(place) => match place.read() {
                    Ok(entry) => entries.push(entry),
                    // It was cut off, or given up, since its place was looked up.
                    Err(_) if !self.files().has(&place) => break,
                    Err(error) => return Err(error),
                },
            }
        }
        Ok(entries)
    }

    fn identity(&self) -> Identity {
        self.volume().identity()
    }

    fn volume(&self) -> MutexGuard<'_, Volume> {
        // What is in memory changes after the disk has, in one step.
        self.shared.volume.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn files(&self) -> MutexGuard<'_, FileLog> {
        // Raft stops at the first error and never writes again.
        self.shared.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a change of the files where it may block.
    async fn change(
        &self,
        change: impl FnOnce(&mut FileLog) -> Result<(), VolumeError> + Send + 'static,
    ) -> Result<(), VolumeError> {
        let store = self.clone();
        blocking(move || change(&mut store.files())).await
    }

    /// Runs a change of what must not be forgotten where it may block.
    async fn remember(&self, change: impl FnOnce(&mut Identity) + Send + 'static) -> Result<(), VolumeError> {
        let store = self.clone();
        blocking(move || store.volume().change(change)).await
    }
}

fn here(item: Item) -> Option<RaftEntry> {
    match item {
        Item::Here(entry) => Some(entry),
        Item::There(_) => None,
    }
}

/// Runs what may block. A panic in it is passed on.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going down, and whoever waits with it.
            Err(_) => std::future::pending().await,
        },
    }
}

pub(super) fn any(error: &VolumeError) -> AnyError {
    AnyError::error(error)
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<RaftEntry>, StorageError> {
        let read = self.read(range, usize::MAX).await;
        Ok(read.map_err(|error| StorageIOError::read_logs(any(&error)))?)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<RaftEntry>, StorageError> {
        let read = self.read(start..end, REPLICATED_BYTES).await;
        Ok(read.map_err(|error| StorageIOError::read_logs(any(&error)))?)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let purged = self.identity().purged;
        Ok(LogState { last_purged_log_id: purged, last_log_id: self.files().last().max(purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let vote = *vote;
        let saved = self.remember(move |identity| identity.vote = Some(vote)).await;
        Ok(saved.map_err(|error| StorageIOError::write_vote(any(&error)))?)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.identity().vote)
    }

    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> Result<(), StorageError> {
        // A few bytes into the page cache: no worth of a thread.
        let saved = self.files().commit(committed);
        Ok(saved.map_err(|error| StorageIOError::write_logs(any(&error)))?)
    }

    async fn read_committed(&mut self) -> Result<Option<RaftLogId>, StorageError> {
        Ok(self.files().hint().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<RaftEntry> = entries.into_iter().collect();
        let appended = self.change(|files| files.append(entries)).await;
        let appended = appended.map_err(|error| std::io::Error::other(error.to_string()));
        callback.log_io_completed(appended);
        Ok(())
    }

    async fn truncate(&mut self, log_id: RaftLogId) -> Result<(), StorageError> {
        let truncated = self.change(move |files| files.truncate(log_id.index)).await;
        Ok(truncated.map_err(|error| StorageIOError::write_logs(any(&error)))?)
    }

    async fn purge(&mut self, log_id: RaftLogId) -> Result<(), StorageError> {
        let purge = async {
            // The library has a snapshot installed and the log given up at the same time. Were the log the first, a crash
            // would leave a node with neither.
            self.wait_kept(log_id.index).await?;
            self.remember(move |identity| identity.purged = Some(log_id)).await?;
            self.change(move |files| files.purge(log_id.index)).await
        };
        Ok(purge.await.map_err(|error| StorageIOError::write_logs(any(&error)))?)
    }
}
