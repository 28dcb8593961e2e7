//! The backend's side of a session: requests go out with the client's own stream ids, answers come back byte for byte.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use replicateddb_cql::{
    Consistency,
    frame::{Envelope, Opcode},
    response::{self, ErrorCode, ResultBody, ResultKind},
};
use tokio::sync::Semaphore;

use super::{
    answer,
    limits::MAX_ANSWER_BYTES,
    metrics::Ticket,
    plan::Plan,
    prepared::{Prepared, PreparedCache},
    socket::{Out, Reader},
};
use crate::reads::Hold;

/// What the answer to a relayed request means to the session.
#[derive(Debug)]
pub enum Expect {
    /// Nothing: it is passed on.
    Answer,
    /// Rows read at this level while lanes were held.
    Snapshot(Hold, Consistency),
    /// A statement is prepared, to be remembered under the id that the answer names.
    Prepared(Prepared),
    /// The session uses another keyspace.
    Keyspace,
    /// The text was not understood here, and PREPARE was sent instead: the answer ought to say what is wrong with it.
    Verdict,
}

#[derive(Debug)]
struct Waiting {
    expect: Expect,
    _ticket: Ticket,
}

/// Requests under way to the backend, by stream.
#[derive(Debug)]
pub struct Relay {
    backend: Out,
    waiting: Mutex<HashMap<i16, Waiting>>,
    keyspace: Mutex<Option<String>>,
    prepared: Arc<PreparedCache>,
}

/// A request could not be relayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RelayError {
    /// The client uses a stream that still waits for an answer.
    #[error("stream {0} is in use")]
    StreamInUse(i16),
    /// The backend's connection has ended.
    #[error("the backend's connection has ended")]
    Closed,
}

impl Relay {
    /// Over a queue that is written to the backend,
    /// of a session that uses `keyspace`.
    pub fn new(backend: Out, prepared: Arc<PreparedCache>, keyspace: Option<&str>) -> Self {
        Self { backend, waiting: Mutex::default(), keyspace: Mutex::new(keyspace.map(str::to_owned)), prepared }
    }

    /// The keyspace set by USE, not quoted.
    pub fn keyspace(&self) -> Option<String> {
        lock(&self.keyspace).clone()
    }

    /// Sends a request; its answer goes to the client by itself.
    ///
    /// # Errors
    /// See [`RelayError`]: the session has to end.
    pub async fn send(&self, envelope: Envelope, expect: Expect, ticket: Ticket) -> Result<(), RelayError> {
        let stream = envelope.stream;
        match lock(&self.waiting).entry(stream) {
            Entry::Occupied(_) => return Err(RelayError::StreamInUse(stream)),
            Entry::Vacant(free) => free.insert(Waiting { expect, _ticket: ticket }),
        };
        self.backend.send(envelope).await.map_err(|_| RelayError::Closed)
    }

    /// Passes answers on until the backend's connection or the client's queue ends. Each holds its share of `bytes`, all
    /// clients' bound, from before it is read until it is written.
    pub async fn answers(&self, mut backend: Reader, out: Out, bytes: Arc<Semaphore>) {
        loop {
            let length = match backend.next_length().await {
                Ok(length) => u32::try_from(length.min(MAX_ANSWER_BYTES)).unwrap_or(u32::MAX),
                Err(error) => return tracing::debug!(%error, "a backend connection broke"),
            };
            let Ok(share) = bytes.clone().acquire_many_owned(length).await else { return };
            let envelope = match backend.next().await {
                Ok(Some(envelope)) => envelope,
                Err(error) => return tracing::debug!(%error, "a backend connection broke"),
                Ok(None) => return,
            };
            // An answer to no request: the connection can't be trusted any more.
            let Some(waiting) = lock(&self.waiting).remove(&envelope.stream) else { return };
            let answer = self.noted(envelope, waiting.expect);
            if out.send_counted(answer, share).await.is_err() {
                return;
            }
        }
    }

    /// Takes from an answer what the session has to know, and gives what the client is to get.
    fn noted(&self, envelope: Envelope, expect: Expect) -> Envelope {
        match expect {
            Expect::Answer => envelope,
            Expect::Snapshot(hold, consistency) => match hold.finish() {
                true => envelope,
                false => answer::error_body(envelope.stream, answer::late_read(consistency)),
            },
            Expect::Keyspace => {
                if let Some(ResultBody::SetKeyspace(name)) = result(&envelope, ResultKind::SetKeyspace) {
                    *lock(&self.keyspace) = Some(name);
                }
                envelope
            }
            Expect::Prepared(prepared) => {
                let Some(ResultBody::Prepared(answer)) = result(&envelope, ResultKind::Prepared) else {
                    return envelope;
                };
                if let Plan::Refuse(refusal) = &prepared.plan {
                    return refusal.answer(envelope.stream);
                }
                self.prepared.insert(&answer.id, prepared);
                envelope
            }
            Expect::Verdict if envelope.opcode == Opcode::Error => envelope,
            Expect::Verdict => {
                let message = "this statement is not understood by ReplicatedDB, so it is not executed: what it would \
                               change is unknown";
                answer::error(envelope.stream, ErrorCode::Invalid, message)
            }
        }
    }
}

/// The parsed RESULT of an answer, if it is of this kind.
fn result(envelope: &Envelope, kind: ResultKind) -> Option<ResultBody> {
    if envelope.opcode != Opcode::Result {
        return None;
    }
    let message = envelope.message().ok()?;
    let found = response::result_kind(&message).ok()?;
    if found == kind { response::parse_result(&message).ok() } else { None }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
