//! The state machine's side of Raft's storage: the bookkeeping, and where in Raft's log the entries are.
//!
//! The entries themselves stay in Raft's log, which every node keeps from the first one that was not given up on: they are
//! written once, and read where they are. So a snapshot is the bookkeeping alone, taken not at the last batch that was
//! applied, but **at the last one that only has entries that were given up**; Raft purges its log up to there. A node that is far behind
//! installs that, a few kilobytes, and then gets every entry that is still in the log by Raft's own replication, in pieces, as
//! any follower does. The state at that place is computed from the snapshot before it and the log between the two.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use openraft::storage::RaftStateMachine;
use openraft::{AnyError, EntryPayload, LogIdOptionExt, OptionalSend, RaftSnapshotBuilder};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::command::{Command, Outcomes};
use super::state::{Placed, State};
use super::storage::{Kept, LogStore, any, blocking};
use super::types::{
    RaftEntry, RaftLogId, Snapshot, SnapshotMeta, StorageError, StorageIOError, StoredMembership, Types,
};
use super::volume::{SNAPSHOT, VolumeError, read_text, write_text};
use crate::{Committed, Position};

/// Bytes of the log that are read at once while a snapshot is computed.
const REPLAYED_BYTES: usize = 4 << 20;
/// Fewest of Raft's entries that a new snapshot is worth.
const SNAPSHOT_STEP: u64 = 64;

/// The state at one place of Raft's log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Point {
    state: State,
    applied: Option<RaftLogId>,
    membership: StoredMembership,
}

impl Point {
    /// Applies an entry; what it has brought.
    fn apply(&mut self, entry: &RaftEntry) -> (Outcomes, Option<Placed>) {
        self.applied = Some(entry.log_id);
        match &entry.payload {
            EntryPayload::Blank => (Outcomes::default(), None),
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                (Outcomes::default(), None)
            }
            EntryPayload::Normal(batch) => {
                let applied = self.state.apply(entry.log_id.index, batch);
                (Outcomes(applied.outcomes), applied.placed)
            }
        }
    }
}

/// How far the state is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Index of the last of Raft's entries that was applied.
    pub(super) applied: Option<u64>,
    /// Number of the next entry of the log.
    pub(super) next: u64,
    /// Number of the first one that can be read here.
    pub(super) first: u64,
    /// There is enough to be left out of Raft's log for a new snapshot.
    pub(super) purgeable: bool,
}

#[derive(Debug, Default)]
struct Inner {
    now: Point,
    /// The snapshot, and what it is called.
    base: Point,
    snapshot: Option<String>,
    /// Where the entries are, by the number of the first one of each batch.
    places: BTreeMap<u64, (u64, Placed)>,
}

impl Inner {
    fn apply(&mut self, entry: &RaftEntry) -> Outcomes {
        let (outcomes, placed) = self.now.apply(entry);
        if let Some(placed) = placed {
            self.places.insert(placed.first, (entry.log_id.index, placed));
        }
        // What was given up is not looked for; the batch that the first entry is in is.
        let first = self.now.state.first();
        let kept = self.places.range(..=first).next_back().map_or(first, |(number, _)| *number);
        while self.places.first_key_value().is_some_and(|(number, _)| *number < kept) {
            self.places.pop_first();
        }
        outcomes
    }

    /// Number of the first entry that can be read.
    fn first(&self) -> u64 {
        let held = self.places.keys().next().copied().unwrap_or(self.now.state.next());
        self.now.state.first().max(held)
    }

    /// The last place in Raft's log that a snapshot may be taken at.
    fn target(&self) -> Option<u64> {
        let first = self.now.state.first();
        let holder =
            self.places.range(..=first).next_back().filter(|(_, (_, placed))| first < placed.first + placed.count);
        match holder.or_else(|| self.places.range(first..).next()) {
            Some((_, (index, _))) => index.checked_sub(1),
            None => self.now.applied.index(),
        }
    }

    fn progress(&self) -> Progress {
        Progress {
            applied: self.now.applied.index(),
            next: self.now.state.next(),
            first: self.first(),
            purgeable: self.target().is_some_and(|target| target >= self.base.applied.next_index() + SNAPSHOT_STEP),
        }
    }
}

/// Handles share everything.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    progress: watch::Sender<Progress>,
    log: LogStore,
    path: PathBuf,
    /// Held while a snapshot is written. Whether none is to be any more.
    keeping: tokio::sync::Mutex<bool>,
}

/// Why an entry can't be read.
#[derive(Debug)]
pub(super) enum ReadError {
    /// It was given up.
    GivenUp,
    /// The volume does not give it.
    Volume(VolumeError),
}

impl Machine {
    /// Begins at the snapshot in the log's folder. Blocks.
    pub(super) fn open(log: LogStore) -> Result<Self, VolumeError> {
        let path = log.folder().join(SNAPSHOT);
        let found: Option<(String, Point)> = read_text(&path)?;
        let inner = match found {
            Some((name, base)) => Inner { now: base.clone(), base, snapshot: Some(name), places: BTreeMap::new() },
            None => Inner::default(),
        };
        let applied = inner.base.applied;
        if let Some(purged) = log.purged().filter(|purged| Some(purged.index) > applied.index()) {
            let upto = applied.map_or("none".into(), |applied| format!("entry {}", applied.index));
            let detail =
                format!("the log has given up its entries up to {}, the snapshot ends after {upto}", purged.index);
            return Err(VolumeError::damaged(&path, 0, detail));
        }
        log.set_kept(Kept::Upto(applied.index()));
        let progress = watch::Sender::new(inner.progress());
        let keeping = tokio::sync::Mutex::new(false);
        Ok(Self { shared: Arc::new(Shared { inner: Mutex::new(inner), progress, log, path, keeping }) })
    }

    /// How far the state is, and changes of it.
    pub(super) fn progress(&self) -> watch::Receiver<Progress> {
        self.shared.progress.subscribe()
    }

    /// Looks at the state.
    pub(super) fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.inner().now.state)
    }

    /// Whether the node has taken no part in anything yet. What it has promised or acknowledged is known here before anybody
    /// hears of it, and from the start.
    pub(super) fn is_pristine(&self) -> bool {
        self.shared.log.is_pristine() && self.inner().snapshot.is_none()
    }

    /// Where the first entry that can be read here stands.
    pub(super) fn first_position(&self) -> Position {
        let inner = self.inner();
        let (first, said) = (inner.first(), inner.now.state.beginning().position);
        if first == inner.now.state.first() { said } else { inner.now.state.position(first) }
    }

    /// The entries from the number `from` on that came in the same batch; it has been applied.
    pub(super) async fn read(&self, from: u64) -> Result<Vec<Committed>, ReadError> {
        let found = {
            let inner = self.inner();
            if from < inner.first() {
                return Err(ReadError::GivenUp);
            }
            inner.places.range(..=from).next_back().map(|(_, (index, placed))| (*index, placed.clone()))
        };
        let Some((index, placed)) = found else { return Err(ReadError::GivenUp) };
        let entries = self.shared.log.read(index..=index, usize::MAX).await.map_err(ReadError::Volume)?;
        let Some(EntryPayload::Normal(batch)) = entries.into_iter().next().map(|entry| entry.payload) else {
            // Given up since it was looked for.
            return Err(ReadError::GivenUp);
        };
        let appended = batch.commands.into_iter().enumerate().filter_map(|(number, command)| match command {
            Command::Append { entry, .. } if !placed.refused.contains(&number) => Some(entry),
            _ => None,
        });
        let inner = self.inner();
        let committed = |(number, entry): (u64, Bytes)| Committed {
            position: inner.now.state.position(number),
            commit_time_ms: placed.at_ms,
            entry,
        };
        Ok((placed.first..).zip(appended).filter(|(number, _)| *number >= from).map(committed).collect())
    }

    /// Leaves the folder to whoever opens it next, when Raft has stopped. What is in memory stays.
    pub(super) async fn close(&self) {
        *self.shared.keeping.lock().await = true;
        self.shared.log.set_kept(Kept::Ended);
        self.shared.log.close();
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Applying does not panic; what did would stop Raft.
        self.shared.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Under the lock, so that the last word is the newest.
    fn tell(&self, inner: &Inner) {
        let progress = inner.progress();
        self.shared.progress.send_if_modified(|current| {
            let changed = *current != progress;
            *current = progress;
            changed
        });
    }

    fn current_snapshot(&self) -> Result<Option<Snapshot>, serde_json::Error> {
        let inner = self.inner();
        let Some(name) = &inner.snapshot else { return Ok(None) };
        let data = serde_json::to_vec(&inner.base)?;
        Ok(Some(Snapshot { meta: meta(name, &inner.base), snapshot: Box::new(Cursor::new(data)) }))
    }

    /// The state at the place for a snapshot, if that lies beyond the last one.
    async fn compute(&self) -> Result<Option<Point>, VolumeError> {
        let (mut point, target) = {
            let inner = self.inner();
            let target = inner.target();
            if inner.snapshot.is_some() && target <= inner.base.applied.index() {
                return Ok(None);
            }
            if target == inner.now.applied.index() {
                return Ok(Some(inner.now.clone()));
            }
            (inner.base.clone(), target)
        };
        let Some(target) = target else { return Ok(Some(point)) };
        loop {
            let next = point.applied.next_index();
            if next > target {
                return Ok(Some(point));
            }
            let entries = self.shared.log.read(next..=target, REPLAYED_BYTES).await?;
            // Given up meanwhile: another node's snapshot was installed, which goes farther.
            if entries.first().is_none_or(|entry| entry.log_id.index != next) {
                return Ok(None);
            }
            for entry in &entries {
                point.apply(entry);
            }
        }
    }

    /// Keeps a point as the snapshot, unless there is a later one; durable when it returns. An error if the folder was left.
    async fn keep(&self, name: String, point: Point) -> Result<(), VolumeError> {
        let closed = self.shared.keeping.lock().await;
        let path = self.shared.path.clone();
        if *closed {
            return Err(VolumeError::at(&path)(std::io::Error::other("the node has stopped")));
        }
        let later = {
            let inner = self.inner();
            inner.snapshot.is_some() && inner.base.applied > point.applied
        };
        if later {
            return Ok(());
        }
        let kept = (name, point);
        let kept = blocking(move || write_text(&path, &kept).map(|()| kept)).await?;
        let mut inner = self.inner();
        (inner.snapshot, inner.base) = (Some(kept.0), kept.1);
        self.shared.log.set_kept(Kept::Upto(inner.base.applied.index()));
        self.tell(&inner);
        Ok(())
    }

    /// Takes over another node's state.
    async fn install(&self, name: String, data: &[u8]) -> Result<(), StorageError> {
        let point: Point = serde_json::from_slice(data).map_err(|error| read_error(&error))?;
        self.keep(name, point.clone()).await.map_err(|error| write_error(&error))?;
        let mut inner = self.inner();
        inner.now = point;
        inner.places.clear();
        self.tell(&inner);
        Ok(())
    }
}

/// What Raft knows of a snapshot.
fn meta(name: &str, point: &Point) -> SnapshotMeta {
    SnapshotMeta { last_log_id: point.applied, last_membership: point.membership.clone(), snapshot_id: name.to_owned() }
}

fn name(point: &Point) -> String {
    point.applied.map_or_else(|| "empty".to_owned(), |applied| format!("{}-{}", applied.leader_id.term, applied.index))
}

fn write_error(error: &VolumeError) -> StorageIOError {
    StorageIOError::write_snapshot(None, any(error))
}

fn read_error(error: &serde_json::Error) -> StorageIOError {
    StorageIOError::read_snapshot(None, AnyError::error(error))
}

impl RaftSnapshotBuilder<Types> for Machine {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        if let Some(point) = self.compute().await.map_err(|error| write_error(&error))? {
            self.keep(name(&point), point).await.map_err(|error| write_error(&error))?;
        }
        let snapshot = self.current_snapshot().map_err(|error| read_error(&error))?;
        let missing = || StorageIOError::read_snapshot(None, AnyError::error("there is no snapshot"));
        Ok(snapshot.ok_or_else(missing)?)
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<RaftLogId>, StoredMembership), StorageError> {
        let inner = self.inner();
        Ok((inner.now.applied, inner.now.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Outcomes>, StorageError>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut inner = self.inner();
        let outcomes = entries.into_iter().map(|entry| inner.apply(&entry)).collect();
        self.tell(&inner);
        Ok(outcomes)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let installed = self.install(meta.snapshot_id.clone(), snapshot.get_ref()).await;
        if installed.is_err() {
            // Raft itself may be waiting for it, and could not be told otherwise.
            self.shared.log.set_kept(Kept::Ended);
        }
        installed
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        Ok(self.current_snapshot().map_err(|error| read_error(&error))?)
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
