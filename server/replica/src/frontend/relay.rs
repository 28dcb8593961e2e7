//! The backend's side of a session: requests go out with the client's own stream ids, answers come back byte for byte.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use md5::{Digest as _, Md5};
use replicateddb_cql::{
    Consistency,
    frame::{Envelope, Opcode},
    response::{self, ErrorCode, ResultBody, ResultKind},
};
use tokio::{sync::oneshot, task::JoinSet};

use super::{
    answer,
    early::Answered,
    metrics::Ticket,
    plan::Plan,
    prepared::{Prepared, PreparedCache},
    shares::SessionShares,
    socket::{Out, Reader},
};
use crate::{frontier::Standing, reads::Hold};

/// What the answer to a relayed request means to the session.
#[derive(Debug)]
pub enum Expect {
    /// Nothing: it is passed on.
    Answer,
    /// Rows read in their place in the order.
    Placed(Placed),
    /// Rows read before their place is known: for whoever waits for that.
    Early(oneshot::Sender<Answered>),
    /// A statement is prepared, to be remembered under the id that the answer names.
    Prepared(Prepared),
    /// The session uses another keyspace.
    Keyspace,
    /// The text was not understood here, and PREPARE was sent instead: the answer ought to say what is wrong with it.
    Verdict,
}

/// A read at a linearizable level that has its place in the order.
pub struct Placed {
    /// Lanes that are held for it, if it reads more than a partition.
    pub hold: Option<Hold>,
    /// Of the replica.
    pub standing: Standing,
    /// Finds out from the log whether the replica's life had not ended, when it is not known at the read's end.
    pub proof: BoxFuture<'static, bool>,
    /// The level.
    pub consistency: Consistency,
}

impl fmt::Debug for Placed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Placed").field("hold", &self.hold).field("consistency", &self.consistency).finish()
    }
}

impl Placed {
    /// What the client gets when this has come from Cassandra: now, or, if the replica may have been replaced meanwhile and
    /// the read be newer than what others read by now, when that is known. Bounded as proposing is.
    pub fn shown(self, envelope: Envelope) -> Result<Envelope, BoxFuture<'static, Envelope>> {
        let Self { hold, standing, proof, consistency } = self;
        let envelope = match hold.is_none_or(Hold::finish) {
            true => envelope,
            false => return Ok(answer::error_body(envelope.stream, answer::late_read(consistency))),
        };
        if standing.holds() {
            return Ok(envelope);
        }
        Err(Box::pin(async move {
            match proof.await {
                true => envelope,
                false => answer::error_body(envelope.stream, answer::unsure_read(consistency)),
            }
        }))
    }
}

/// What becomes of an answer.
enum Noted {
    Now(Envelope),
    /// As soon as it is known what the client is to get.
    Later(BoxFuture<'static, Envelope>),
    /// Somebody else decides.
    For(oneshot::Sender<Answered>, Envelope),
}

#[derive(Debug)]
struct Waiting {
    expect: Expect,
    ticket: Ticket,
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
            Entry::Vacant(free) => free.insert(Waiting { expect, ticket }),
        };
        self.backend.send(envelope).await.map_err(|_| RelayError::Closed)
    }

    /// Passes answers on until the backend's connection or the client's queue ends. Each holds its share of all
    /// clients' bound from before it is read until it is written.
    pub async fn answers(&self, mut backend: Reader, out: Out, shares: SessionShares) {
        let mut unproved = JoinSet::new();
        loop {
            let length = match backend.next_length().await {
                Ok(length) => length,
                Err(error) => return tracing::debug!(%error, "a backend connection broke"),
            };
            let share = shares.take(length).await;
            let envelope = match backend.next().await {
                Ok(Some(envelope)) => envelope,
                Err(error) => return tracing::debug!(%error, "a backend connection broke"),
                Ok(None) => return,
            };
            // An answer to no request: the connection can't be trusted any more.
            let Some(waiting) = lock(&self.waiting).remove(&envelope.stream) else { return };
            let Waiting { expect, ticket } = waiting;
            let answer = match self.noted(envelope, expect) {
                Noted::Now(answer) => answer,
                Noted::For(reader, envelope) => {
                    // Who is gone has ended with the session.
                    let _ = reader.send(Answered { envelope, share, ticket });
                    continue;
                }
                Noted::Later(later) => {
                    // Bounded by the requests of the session, whose tickets go with them.
                    let out = out.clone();
                    unproved.spawn(async move {
                        let _ = out.send_counted(later.await, share).await;
                        drop(ticket);
                    });
                    continue;
                }
            };
            while unproved.try_join_next().is_some() {}
            if out.send_counted(answer, share).await.is_err() {
                return;
            }
        }
    }

    /// Takes from an answer what the session has to know, and gives what the client is to get, now or later.
    fn noted(&self, envelope: Envelope, expect: Expect) -> Noted {
        Noted::Now(match expect {
            Expect::Answer => envelope,
            Expect::Placed(placed) => return placed.shown(envelope).map_or_else(Noted::Later, Noted::Now),
            Expect::Early(reader) => return Noted::For(reader, envelope),
            Expect::Keyspace => {
                if let Some(name) = keyspace_set(&envelope) {
                    *lock(&self.keyspace) = Some(name);
                }
                envelope
            }
            Expect::Prepared(prepared) => {
                let Some(id) = prepared_id(&envelope) else { return Noted::Now(envelope) };
                if let Plan::Refuse(refusal) = &prepared.plan {
                    return Noted::Now(refusal.answer(envelope.stream));
                }
                if !is_id_of(&id, &prepared) {
                    let message = "the session has changed its keyspace while this was prepared: prepare it again";
                    return Noted::Now(answer::error(envelope.stream, ErrorCode::Invalid, message));
                }
                match self.prepared.insert(&id, prepared) {
                    Ok(()) => envelope,
                    // It would be unknown as soon as it is executed, and prepared again, for ever.
                    Err(error) => answer::error(envelope.stream, ErrorCode::Invalid, &error.to_string()),
                }
            }
            Expect::Verdict if envelope.opcode == Opcode::Error => envelope,
            Expect::Verdict => {
                let message = "this statement is not understood by ReplicatedDB, so it is not executed: what it would \
                               change is unknown";
                answer::error(envelope.stream, ErrorCode::Invalid, message)
            }
        })
    }
}

/// The keyspace that an answer says is used from now on.
fn keyspace_set(answer: &Envelope) -> Option<String> {
    let message = result(answer)?;
    if response::result_kind(&message).ok()? != ResultKind::SetKeyspace {
        return None;
    }
    match response::parse_result(&message) {
        Ok(ResultBody::SetKeyspace(name)) => Some(name),
        _ => None,
    }
}

/// The id that an answer gives to a statement.
fn prepared_id(answer: &Envelope) -> Option<Bytes> {
    response::prepared_id(&result(answer)?).ok().flatten()
}

/// Whether Cassandra has prepared the statement in the keyspace that it was taken to be in: an id is the digest of both, or of the
/// text alone where the keyspace does not matter (`QueryProcessor.computeId`). Otherwise it would be executed elsewhere.
fn is_id_of(id: &[u8], prepared: &Prepared) -> bool {
    let with_keyspace = prepared.keyspace.as_ref().map(|keyspace| {
        let mut digest = Md5::new();
        digest.update(keyspace.as_bytes());
        digest.update(prepared.text.as_bytes());
        digest.finalize()
    });
    let alone = Md5::digest(prepared.text.as_bytes());
    alone.as_slice() == id || with_keyspace.is_some_and(|digest| digest.as_slice() == id)
}

/// The message of an answer, if it is a RESULT.
fn result(answer: &Envelope) -> Option<Bytes> {
    if answer.opcode == Opcode::Result { answer.message().ok() } else { None }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
