//! What the front end needs of the replica behind it.

use std::future::Future;

use tokio::sync::{broadcast, watch};

use crate::frontier::Standing;
use crate::lanes::Lanes;
use crate::reads::{Early, Hold};
use crate::replica::{Outcome, ProposeError, ReplicaHandle, Request, SchemaEvent, SchemaVersion, Serving};

/// The replica as sessions see it: [`crate::ReplicaHandle`], or a stand-in that fails on demand in tests.
pub trait Core: Clone + Send + Sync + 'static {
    /// Whether clients may be answered, and by which backend (I5).
    fn serving(&self) -> watch::Receiver<Serving>;
    /// Orders a request; completes when it is applied here. Bounded in time.
    fn propose(&self, request: Request) -> impl Future<Output = Result<Outcome, ProposeError>> + Send;
    /// The same for a schema statement that was judged at the schema of this index, and is executed at no other one.
    fn propose_judged(
        &self,
        request: Request,
        schema: u64,
    ) -> impl Future<Output = Result<Outcome, ProposeError>> + Send;
    /// Completes when everything acknowledged anywhere before the call is applied here; gives the index. Bounded.
    fn barrier(&self) -> impl Future<Output = Result<u64, ProposeError>> + Send;
    /// What is applied here now, if a read of one partition may begin before its barrier has passed.
    fn early(&self) -> Option<Early>;
    /// Holds lanes for a read, as soon as the records in them now have executed. Bounded in time.
    fn hold(&self, lanes: Lanes) -> impl Future<Output = Result<Hold, ProposeError>> + Send;
    /// Whether what was read at a linearizable level may be shown.
    fn standing(&self) -> Standing;
    /// Finds out from the log whether this life of the replica has not ended. Bounded in time.
    fn prove(&self) -> impl Future<Output = Result<(), ProposeError>> + Send;
    /// The version of the schema applied here.
    fn schema(&self) -> watch::Receiver<SchemaVersion>;
    /// The index of the record that made it, or of an earlier one.
    fn schema_index(&self) -> u64;
    /// The index of the last record applied here that may have changed the schema, roles or permissions.
    fn last_ddl(&self) -> u64;
    /// Schema changes as they are applied here.
    fn events(&self) -> broadcast::Receiver<SchemaEvent>;
}

impl Core for ReplicaHandle {
    fn serving(&self) -> watch::Receiver<Serving> {
        ReplicaHandle::serving(self)
    }

    async fn propose(&self, request: Request) -> Result<Outcome, ProposeError> {
        ReplicaHandle::propose(self, request).await
    }

    async fn propose_judged(&self, request: Request, schema: u64) -> Result<Outcome, ProposeError> {
        ReplicaHandle::propose_judged(self, request, schema).await
    }

    async fn barrier(&self) -> Result<u64, ProposeError> {
        ReplicaHandle::barrier(self).await
    }

    fn early(&self) -> Option<Early> {
        ReplicaHandle::early(self)
    }

    async fn hold(&self, lanes: Lanes) -> Result<Hold, ProposeError> {
        ReplicaHandle::hold(self, lanes).await
    }

    fn standing(&self) -> Standing {
        ReplicaHandle::standing(self)
    }

    async fn prove(&self) -> Result<(), ProposeError> {
        ReplicaHandle::prove(self).await
    }

    fn schema(&self) -> watch::Receiver<SchemaVersion> {
        ReplicaHandle::schema(self)
    }

    fn schema_index(&self) -> u64 {
        ReplicaHandle::schema_index(self)
    }

    fn last_ddl(&self) -> u64 {
        ReplicaHandle::last_ddl(self)
    }

    fn events(&self) -> broadcast::Receiver<SchemaEvent> {
        ReplicaHandle::events(self)
    }
}
