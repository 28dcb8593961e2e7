//! One generation of a shared Cassandra, as a replica that is confined to its keyspace uses it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::store::KeyspaceStore;
use super::{FENCE_WATCH, STATE_TABLE};
use crate::backend::executor::Cassandra;
use crate::backend::{BackendError, Endpoint};
use crate::record::Record;
use crate::replica::TableDigest;
use crate::site::{Agent, Backend, Connector, Failure, Health, Place, Plan, Reply};

/// Connects [`KeyspaceBackend`]s.
#[derive(Clone)]
pub struct KeyspaceConnector {
    store: KeyspaceStore,
}

impl KeyspaceConnector {
    /// To the Cassandra and keyspace of `store`.
    pub fn new(store: KeyspaceStore) -> Self {
        Self { store }
    }
}

impl Connector for KeyspaceConnector {
    type Backend = KeyspaceBackend;

    fn endpoint(&self) -> Endpoint {
        self.store.endpoint().clone()
    }

    async fn connect(&self, generation: u64) -> Result<KeyspaceBackend, BackendError> {
        let name = self.store.connection_name();
        let inner = Cassandra::connect(self.store.endpoint(), generation, Some(&name)).await?;
        let (health, _) = watch::channel(Health::Healthy);
        let watching = tokio::spawn(watch_fence(self.store.clone(), inner.health(), health.clone()));
        Ok(KeyspaceBackend {
            inner,
            keyspace: self.store.keyspace().into(),
            build: self.store.build(),
            health,
            _watching: Arc::new(AbortOnDropHandle::new(watching)),
        })
    }
}

/// Passes the connections' health on, until a newer incarnation has the keyspace (I6).
async fn watch_fence(store: KeyspaceStore, mut inner: watch::Receiver<Health>, outer: watch::Sender<Health>) {
    loop {
        let now = inner.borrow_and_update().clone();
        outer.send_if_modified(|known| std::mem::replace(known, now.clone()) != now);
        if matches!(now, Health::Gone { .. }) {
            return;
        }
        if let Ok(changed) = tokio::time::timeout(FENCE_WATCH, inner.changed()).await {
            if changed.is_err() {
                return;
            }
            continue;
        }
        if store.status().await.is_err_and(|error| error.is_stale()) {
            let reason = "a newer incarnation of this replica has its keyspace".to_owned();
            outer.send_replace(Health::Gone { reason });
            return;
        }
    }
}

/// See the module's head. Cheap to clone.
#[derive(Clone)]
pub struct KeyspaceBackend {
    inner: Cassandra,
    keyspace: Arc<str>,
    /// Tells the tables of this build of the keyspace from those of every other.
    build: Uuid,
    health: watch::Sender<Health>,
    _watching: Arc<AbortOnDropHandle<()>>,
}

impl KeyspaceBackend {
    /// The record in this replica's keyspace. `Err` answers one that names another: it was written by a replica that
    /// is not confined.
    fn confined(&self, record: &Record) -> Result<Record, Reply> {
        match &record.keyspace {
            None => Ok(Record { keyspace: Some(self.keyspace.to_string()), ..record.clone() }),
            Some(other) => {
                let message = format!("the record belongs to the keyspace {other}: this replica has only its own");
                Err(Reply::invalid(&message))
            }
        }
    }
}

impl Backend for KeyspaceBackend {
    async fn plan(&self, record: &Record) -> Result<Plan, Failure> {
        match self.confined(record) {
            Ok(record) => self.inner.plan(&record).await,
            Err(reply) => Ok(Plan::Answer(reply)),
        }
    }

    async fn execute(&self, place: Place, record: &Record) -> Result<Reply, Failure> {
        let table_id = Uuid::new_v5(&place.table_id, format!("{}/{}", self.keyspace, self.build).as_bytes());
        match self.confined(record) {
            Ok(record) => self.inner.execute(Place { table_id, ..place }, &record).await,
            Err(reply) => Ok(reply),
        }
    }

    fn is_decided(&self, place: Place) -> bool {
        self.inner.is_decided(place)
    }

    fn settle(&self, place: Place) -> bool {
        self.inner.settle(place)
    }

    fn forget_prepared(&self) {
        self.inner.forget_prepared();
    }

    /// Of the tables in its own keyspace, by names without it, so that replicas compare equal.
    async fn digest(&self, now_s: i32) -> Result<BTreeMap<String, TableDigest>, Failure> {
        let qualified = self.inner.digest_of(Some(&self.keyspace), now_s).await?;
        let unqualified = qualified.into_iter().filter_map(|(name, digest)| {
            let name = name.strip_prefix(&*self.keyspace)?.strip_prefix('.')?.to_owned();
            (name != STATE_TABLE).then_some((name, digest))
        });
        Ok(unqualified.collect())
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }
}
