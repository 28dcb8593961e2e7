//! The log's side of Raft's storage: entries and the vote.

use std::fmt::Debug;
use std::ops::RangeBounds;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{AnyError, LogState, OptionalSend, RaftLogReader};
use tokio::task::spawn_blocking;

use super::file_log::{FileLog, Item};
use super::types::{NodeId, RaftEntry, RaftLogId, StorageError, StorageIOError, Types, Vote};
use super::volume::{Identity, Volume, VolumeError};

/// Bytes of entries that are sent to another node at once, unless a single one has more.
const REPLICATED_BYTES: usize = 1 << 20;

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
}

impl LogStore {
    /// Opens the log in the folder of `replica`. Blocks.
    pub(super) fn open(folder: &Path, replica: u32) -> Result<Self, VolumeError> {
        let volume = Volume::open(folder, replica)?;
        let purged = volume.identity().purged.map(|purged| purged.index);
        let files = FileLog::open(volume.folder(), purged)?;
        let folder = volume.folder().to_owned();
        Ok(Self { shared: Arc::new(Shared { folder, volume: Mutex::new(volume), files: Mutex::new(files) }) })
    }

    /// The node that the folder is.
    pub(super) fn node(&self) -> NodeId {
        self.identity().node
    }

    /// The folder.
    pub(super) fn folder(&self) -> &Path {
        &self.shared.folder
    }

    /// The entries of a range that are there, as many as `max_bytes` hold, but one at least.
    pub(super) async fn read(
        &self,
        range: impl RangeBounds<u64>,
        max_bytes: usize,
    ) -> Result<Vec<RaftEntry>, VolumeError> {
        let items = self.files().items(range, max_bytes);
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
            self.remember(move |identity| identity.purged = Some(log_id)).await?;
            self.change(move |files| files.purge(log_id.index)).await
        };
        Ok(purge.await.map_err(|error| StorageIOError::write_logs(any(&error)))?)
    }
}
