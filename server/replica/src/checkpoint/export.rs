//! Checkpoints of a replica with a Cassandra of its own, for whoever asks for one: it recovers by restore points, and a
//! checkpoint is written beside one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use replicateddb_store::api::{Manifest, Mark, RestorePoint, Rewind, Rewound, Status, Table};
use replicateddb_store::client::StoreError;

use super::points::{Points, on_disk};
use super::save::{Scope, checkpoint_of};
use crate::backend::Endpoint;
use crate::site::{Agent, Rest};

/// An agent beside which the documents of a checkpoint are written, with the next restore point after it was asked for.
#[derive(Clone)]
pub struct Exporting<A> {
    inner: A,
    at: Endpoint,
    points: Points,
    asked: Arc<AtomicBool>,
}

impl<A: Agent> Exporting<A> {
    /// Of that Cassandra.
    pub fn new(inner: A, at: Endpoint, points: Points) -> Self {
        Self { inner, at, points, asked: Arc::default() }
    }

    /// Set: a checkpoint is wanted.
    pub fn asked(&self) -> Arc<AtomicBool> {
        self.asked.clone()
    }

    async fn write(&self, id: &str, generation: u64, timestamp_us: i64) -> Result<(), StoreError> {
        let folder = self.points.folder(id);
        let saved = checkpoint_of(&self.at, generation, Scope::Everything, &folder, timestamp_us).await?;
        self.points.taken(id, saved);
        Ok(())
    }
}

impl<A: Agent> Agent for Exporting<A> {
    async fn status(&self) -> Result<Status, StoreError> {
        self.inner.status().await
    }

    async fn claim(&self) -> Result<(), StoreError> {
        self.inner.claim().await
    }

    /// If a checkpoint is wanted, no row may be written until all are read.
    async fn flush(&self) -> Result<Rest, StoreError> {
        let rest = self.inner.flush().await?;
        let wanted = self.asked.load(Ordering::SeqCst);
        Ok(Rest { memtable_switches: rest.memtable_switches.filter(|_| !wanted), ..rest })
    }

    async fn snapshot(
        &self,
        id: &str,
        generation: u64,
        timestamp_us: i64,
        memtable_switches: Option<u64>,
    ) -> Result<(), StoreError> {
        self.inner.snapshot(id, generation, timestamp_us, memtable_switches).await?;
        let lanes_are_held = memtable_switches.is_none();
        if lanes_are_held
            && self.asked.swap(false, Ordering::SeqCst)
            && let Err(error) = self.write(id, generation, timestamp_us).await
        {
            // The restore point is none the worse for it; whoever asked finds none.
            tracing::warn!(%error, "no checkpoint could be written");
            let (points, id) = (self.points.clone(), id.to_owned());
            tokio::task::spawn_blocking(move || points.abort(&id));
        }
        Ok(())
    }

    async fn commit(&self, id: &str, mark: Mark) -> Result<(), StoreError> {
        let (points, same, marked) = (self.points.clone(), id.to_owned(), mark.clone());
        self.inner.commit(id, mark).await?;
        on_disk(move || points.commit_if_taken(&same, marked)).await
    }

    async fn abort(&self, id: &str) -> Result<(), StoreError> {
        let (points, same) = (self.points.clone(), id.to_owned());
        on_disk(move || {
            points.abort(&same);
            Ok(())
        })
        .await?;
        self.inner.abort(id).await
    }

    async fn rewind(&self, to: Rewind) -> Result<Rewound, StoreError> {
        self.inner.rewind(to).await
    }

    async fn start(&self) -> Result<u64, StoreError> {
        self.inner.start().await
    }

    async fn mark_clean(&self, generation: u64, mark: Mark) -> Result<(), StoreError> {
        self.inner.mark_clean(generation, mark).await
    }

    async fn distrust(&self, reason: &str) -> Result<(), StoreError> {
        self.inner.distrust(reason).await
    }

    async fn clear_clean(&self) -> Result<(), StoreError> {
        self.inner.clear_clean().await
    }

    async fn autocompaction(&self, enabled: bool, tables: Option<Vec<Table>>) -> Result<(), StoreError> {
        self.inner.autocompaction(enabled, tables).await
    }

    fn source(&self) -> String {
        self.inner.source()
    }

    async fn restore_points_of(&self, source: &str) -> Result<Vec<RestorePoint>, StoreError> {
        self.inner.restore_points_of(source).await
    }

    async fn manifest_of(&self, source: &str, id: &str) -> Result<Manifest, StoreError> {
        self.inner.manifest_of(source, id).await
    }

    async fn install(&self, source: &str, id: &str, replace: bool) -> Result<(), StoreError> {
        self.inner.install(source, id, replace).await
    }

    async fn cassandra_now_ms(&self) -> Result<i64, StoreError> {
        self.inner.cassandra_now_ms().await
    }
}
