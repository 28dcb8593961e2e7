//! What the store agent does for a replica with a Cassandra of its own, done by CQL in a keyspace of a shared one.
//!
//! One row says which log and incarnation the keyspace belongs to (claimed by compare-and-set, I6), which build of it
//! this is, and whether it was left clean. A clean mark holds for the JVM that it was made in and no other. Everything
//! else is an unclean start: what the log made is dropped, and the log is executed from its beginning.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use replicateddb_cql::response::cell;
use replicateddb_cql::statement::Ident;
use replicateddb_cql::wire::Value;
use replicateddb_store::api::{
    Code, Files, Jvm, Manifest, Mark, Refusal, RestorePoint, Rewind, Rewound, Status, Table,
};
use replicateddb_store::client::StoreError;
use replicateddb_store::internal::Internal;
use uuid::Uuid;

use super::landing::{self, landed};
use super::open::{DISTRUSTED, Open, bigint, failed, signed};
use super::{FENCE_WATCH, STATE_TABLE};
use crate::backend::connection::Connection;
use crate::backend::executor::Cassandra;
use crate::backend::{Endpoint, connect_named};
use crate::checkpoint::exchange::{self, Peer};
use crate::checkpoint::points::{Points, on_disk};
use crate::checkpoint::{CheckpointError, Manifest as Checkpoint, Scope, Target, checkpoint_of, restore};
use crate::site::{Agent, Rest};

/// See the module's head. Cheap to clone.
#[derive(Clone)]
pub struct KeyspaceStore {
    pub(super) at: Endpoint,
    pub(super) keyspace: Arc<str>,
    pub(super) replica: u32,
    pub(super) log: Uuid,
    pub(super) incarnation: i64,
    build: Arc<Mutex<Uuid>>,
    points: Option<Points>,
    /// Where others get the checkpoints from.
    source: Arc<str>,
    peer: Peer,
}

impl KeyspaceStore {
    /// The keyspace of that Cassandra, for one incarnation of a replica in a log.
    pub fn new(at: Endpoint, keyspace: &str, replica: u32, log: Uuid, incarnation: i64) -> Self {
        let keyspace = keyspace.into();
        Self {
            at,
            keyspace,
            replica,
            log,
            incarnation,
            build: Arc::default(),
            points: None,
            source: "".into(),
            peer: Peer::default(),
        }
    }

    /// The same, with the other replicas over TLS, where the processes of the database use it.
    #[must_use]
    pub fn over(self, internal: Internal) -> Self {
        Self { peer: self.peer.clone().over(internal), ..self }
    }

    /// With checkpoints, which others get from `source`, an `http` URL, where [`exchange::router`] is served.
    pub fn with_checkpoints(self, points: Points, source: &str) -> Self {
        Self { points: Some(points), source: source.into(), ..self }
    }

    /// The shared Cassandra.
    pub fn endpoint(&self) -> &Endpoint {
        &self.at
    }

    /// The keyspace.
    pub fn keyspace(&self) -> &str {
        &self.keyspace
    }

    /// The build of the keyspace that was begun or found clean last.
    pub fn build(&self) -> Uuid {
        *self.build.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_build(&self, build: Uuid) {
        *self.build.lock().unwrap_or_else(PoisonError::into_inner) = build;
    }

    async fn open(&self) -> Result<Open<'_>, StoreError> {
        let name = self.connection_name();
        let framed = connect_named(&self.at, None, &name).await;
        let framed = framed.map_err(|error| StoreError::Keyspace(error.to_string()))?;
        Ok(Open::new(self, Connection::new(framed), name))
    }

    /// A name for connections on which this life of the replica writes, another each time.
    pub fn connection_name(&self) -> String {
        landing::name(&self.keyspace, format_args!("{:x}/{}", self.incarnation, Uuid::new_v4()))
    }

    fn points(&self) -> Result<&Points, StoreError> {
        self.points.as_ref().ok_or_else(Self::none)
    }

    /// The checkpoint that a rewind restores; to be empty, all are removed.
    /// What stands in place of the clean mark, whatever stood there.
    async fn set_clean(&self, clean: Value) -> Result<(), StoreError> {
        let open = self.open().await?;
        let set = format!("UPDATE {} SET clean = ? WHERE id = 0 IF incarnation = ?", self.row());
        match open.applied(&set, &[clean, bigint(self.incarnation)]).await? {
            true => Ok(()),
            false => Err(self.fenced(open.ours().await?.incarnation)),
        }
    }

    async fn checkpoint_for(&self, to: Rewind) -> Result<Option<(PathBuf, Checkpoint)>, StoreError> {
        let Some(points) = self.points.clone() else { return Ok(None) };
        on_disk(move || match to {
            Rewind::Empty => points.clear(None).map(|()| None),
            Rewind::Latest | Rewind::RestorePoint { .. } => points.newest_whole(),
        })
        .await
    }

    async fn restore(
        &self,
        folder: &Path,
        manifest: &Checkpoint,
        generation: u64,
        build: Uuid,
    ) -> Result<(), StoreError> {
        let backend = Cassandra::connect(&self.at, generation, Some(&self.connection_name())).await;
        let backend = backend.map_err(|error| StoreError::Keyspace(error.to_string()))?;
        let target = Target { backend: &backend, keyspace: &self.keyspace, without: STATE_TABLE, build };
        match restore(&target, folder, manifest).await {
            Err(error @ CheckpointError::Damaged { .. }) => {
                // The next attempt uses another one.
                if let Some(points) = &self.points {
                    points.found_damaged(&manifest.point.id, error.to_string());
                }
                Err(error.into())
            }
            restored => Ok(restored?),
        }
    }

    /// Completes when a newer incarnation has claimed the keyspace, or it can't be seen whether one has.
    async fn watch_claims(&self, open: &Open<'_>) -> StoreError {
        loop {
            tokio::time::sleep(FENCE_WATCH).await;
            if let Err(error) = open.ours().await {
                return error;
            }
        }
    }

    pub(super) fn row(&self) -> String {
        format!("{}.{STATE_TABLE}", Ident::new(&*self.keyspace).to_cql())
    }

    pub(super) fn fenced(&self, found: i64) -> StoreError {
        let message = format!("the keyspace {} was claimed by the newer incarnation {found:#x}", self.keyspace);
        StoreError::Refused(Refusal { code: Code::StaleIncarnation, message })
    }

    fn none() -> StoreError {
        let message =
            "this replica has no --checkpoint-dir, so that it can be built from the whole log only: give it one";
        StoreError::Refused(Refusal { code: Code::WrongState, message: message.to_owned() })
    }
}

impl Agent for KeyspaceStore {
    async fn status(&self) -> Result<Status, StoreError> {
        let open = self.open().await?;
        let generation = open.generation().await?;
        let known = open.ours().await?;
        let clean = open.clean(&known, generation).await?;
        Ok(Status {
            store_id: known.build.unwrap_or_default(),
            generation,
            jvm: Jvm::Running,
            jvm_pid: None,
            dirty: clean.is_none(),
            clean,
            restore_points: Vec::new(),
            damaged: self.points.as_ref().map(Points::damaged).unwrap_or_default(),
            distrusted: known.distrusted(),
            shared: true,
            log_id: Some(known.log),
            highest_incarnation: Some(known.incarnation),
            installing: None,
            stopping: false,
        })
    }

    async fn claim(&self) -> Result<(), StoreError> {
        self.open().await?.claim().await
    }

    async fn flush(&self) -> Result<Rest, StoreError> {
        // There are no files to be complete; the rows are read while none is written.
        Ok(Rest::default())
    }

    /// Writes the documents of a checkpoint.
    async fn snapshot(&self, id: &str, generation: u64, timestamp_us: i64, _: Option<u64>) -> Result<(), StoreError> {
        let points = self.points()?;
        let scope = Scope::Keyspace { name: &self.keyspace, without: STATE_TABLE };
        let saved = checkpoint_of(&self.at, generation, scope, &points.folder(id), timestamp_us).await?;
        // Nobody has claimed the keyspace before this: nobody else has written to it while it was read.
        self.open().await?.ours().await?;
        points.taken(id, saved);
        Ok(())
    }

    async fn commit(&self, id: &str, mark: Mark) -> Result<(), StoreError> {
        let (points, id) = (self.points()?.clone(), id.to_owned());
        on_disk(move || points.commit(&id, mark)).await
    }

    async fn abort(&self, id: &str) -> Result<(), StoreError> {
        let (points, id) = (self.points()?.clone(), id.to_owned());
        on_disk(move || {
            points.abort(&id);
            Ok(())
        })
        .await
    }

    fn source(&self) -> String {
        self.source.to_string()
    }

    async fn restore_points_of(&self, source: &str) -> Result<Vec<RestorePoint>, StoreError> {
        if source != &*self.source {
            return self.peer.list(source).await;
        }
        let Some(points) = self.points.clone() else { return Ok(Vec::new()) };
        let known = on_disk(move || points.list()).await?;
        Ok(known.into_iter().rev().map(|known| exchange::restore_point(known.point)).collect())
    }

    async fn manifest_of(&self, source: &str, id: &str) -> Result<Manifest, StoreError> {
        if source != &*self.source {
            return Ok(self.peer.manifest(source, id).await?.point);
        }
        let (points, wanted) = (self.points()?.clone(), id.to_owned());
        let known = on_disk(move || points.list()).await?;
        let found = known.into_iter().find(|known| known.point.id == wanted).map(|known| known.point);
        let message = format!("there is no checkpoint {id}");
        found.ok_or(StoreError::Refused(Refusal { code: Code::UnknownRestorePoint, message }))
    }

    async fn install(&self, source: &str, id: &str, replace: bool) -> Result<(), StoreError> {
        let (points, wanted) = (self.points()?.clone(), id.to_owned());
        let (folder, sequence) = on_disk(move || points.make_room(&wanted)).await?;
        self.peer.install(source, id, folder, sequence).await?;
        let (points, id) = (self.points()?.clone(), id.to_owned());
        on_disk(move || if replace { points.clear(Some(&id)) } else { points.prune(&id) }).await
    }

    /// Empties the keyspace, and restores the newest checkpoint that is whole unless it is to stay empty.
    async fn rewind(&self, to: Rewind) -> Result<Rewound, StoreError> {
        let open = self.open().await?;
        let generation = open.generation().await?;
        let known = open.ours().await?;
        if known.build.is_some() && known.generation == Some(generation) {
            landed(&open, &self.keyspace).await;
        }
        let whole = self.checkpoint_for(to).await?;
        let build = Uuid::new_v4();
        let begin = format!(
            "UPDATE {} SET build = ?, generation = ?, clean = null WHERE id = 0 IF incarnation = ?",
            self.row()
        );
        let values = [Value::Bytes(cell::uuid(build)), bigint(signed(generation)), bigint(self.incarnation)];
        if !open.applied(&begin, &values).await? {
            let found = open.ours().await?.incarnation;
            return Err(failed(&begin, format!("the keyspace is claimed by the incarnation {found:#x}")));
        }
        tracing::info!(keyspace = &*self.keyspace, "rebuilding the keyspace");
        open.drop_everything().await?;
        self.set_build(build);
        let Some((folder, whole)) = whole else { return Ok(Rewound { generation, manifest: None }) };
        tracing::info!(id = whole.point.id, index = whole.point.mark.index, "restoring a checkpoint");
        tokio::select! {
            restored = self.restore(&folder, &whole, generation, build) => restored?,
            fenced = self.watch_claims(&open) => return Err(fenced),
        }
        Ok(Rewound { generation, manifest: Some(whole.point) })
    }

    /// Says so in place of the clean mark, which a rewind takes away.
    async fn distrust(&self, reason: &str) -> Result<(), StoreError> {
        self.set_clean(Value::Bytes(cell::text(&format!("{DISTRUSTED}{reason}")))).await
    }

    async fn start(&self) -> Result<u64, StoreError> {
        let open = self.open().await?;
        let known = open.ours().await?;
        self.set_build(known.build.unwrap_or_default());
        open.generation().await
    }

    async fn mark_clean(&self, generation: u64, mark: Mark) -> Result<(), StoreError> {
        let open = self.open().await?;
        let footprint = Some(open.footprint().await?);
        let manifest = Manifest {
            id: "clean".to_owned(),
            sequence: 0,
            mark,
            // It holds for this JVM only, whose clock does not go back.
            cassandra_now_ms: 0,
            created_ms: 0,
            files: Files::default(),
            footprint,
        };
        let text = serde_json::to_string(&manifest).map_err(|error| StoreError::Keyspace(error.to_string()))?;
        let set = format!("UPDATE {} SET clean = ? WHERE id = 0 IF incarnation = ? AND generation = ?", self.row());
        let values = [Value::Bytes(cell::text(&text)), bigint(self.incarnation), bigint(signed(generation))];
        match open.applied(&set, &values).await? {
            true => Ok(()),
            false => Err(failed(&set, "another incarnation or another JVM")),
        }
    }

    async fn clear_clean(&self) -> Result<(), StoreError> {
        self.set_clean(Value::Null).await
    }

    async fn autocompaction(&self, _: bool, _: Option<Vec<Table>>) -> Result<(), StoreError> {
        // Its agent leaves it on: nothing here expires.
        Ok(())
    }

    async fn cassandra_now_ms(&self) -> Result<i64, StoreError> {
        let rows = self.open().await?.rows("SELECT toUnixTimestamp(now()) FROM system.local", &[]).await?;
        Ok(rows.first().and_then(|row| row.first()?.as_deref().and_then(cell::as_bigint)).unwrap_or_default())
    }
}
