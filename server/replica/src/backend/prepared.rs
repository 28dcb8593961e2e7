//! What this generation of Cassandra has prepared for the applier.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use replicateddb_cql::frame::Opcode;
use replicateddb_cql::request;
use replicateddb_cql::response::{self, Column, ColumnType, Prepared, ResultBody};
use replicateddb_cql::statement::{Statement, classify};
use replicateddb_cql::{lex, rewrite};
use tokio::sync::OnceCell;

use super::conditional::{Candidate, Eligible, candidate};
use super::nulls::names_null;
use super::outcome::{Failure, Meaning, Reply, judge};
use super::pool::Pool;
use super::vectors::{Suspect, in_text};

/// Statements kept; a text beyond that empties the cache, which costs a PREPARE each.
const ENTRIES: usize = 4096;
/// Bytes of text kept.
const BYTES: usize = 16 << 20;

/// A prepared statement.
#[derive(Debug)]
pub struct Known {
    /// What Cassandra says of it.
    pub prepared: Prepared,
    /// What its text says.
    pub said: Statement,
    /// See [`names_null`].
    pub names_null: bool,
    /// See [`in_text`].
    pub suspects: Vec<Suspect>,
    /// See [`is_repeatable`].
    pub repeatable: bool,
    /// The text with a marker for its write time, and that marker's place; see [`rewrite::with_timestamp_marker`].
    pub timed: Option<(String, usize)>,
    /// The conditional write that it may be.
    pub candidate: Option<Candidate>,
    /// What that is by the schema, once that was asked for.
    pub eligible: OnceCell<Option<Arc<Eligible>>>,
}

impl Known {
    /// The text and what Cassandra says of it.
    pub fn new(text: &str, prepared: Prepared) -> Self {
        let said = classify(text);
        let repeatable = is_repeatable(text, &said, &prepared.bind);
        let (names_null, suspects) = (names_null(text), in_text(text));
        let (timed, candidate) = (rewrite::with_timestamp_marker(text, &said), candidate(text, &said));
        let eligible = OnceCell::new();
        Self { prepared, said, names_null, suspects, repeatable, timed, candidate, eligible }
    }

    /// The keyspace that it has to be executed in: Cassandra wants the one that an unqualified statement was prepared in.
    pub fn needs<'a>(&self, keyspace: Option<&'a str>) -> Option<&'a str> {
        keyspace.filter(|_| self.said.each().any(|each| each.keyspace.is_none()))
    }
}

/// Keyspace and text.
type Key = (Option<String>, String);

#[derive(Default)]
struct Cache {
    statements: HashMap<Key, Arc<Known>>,
    bytes: usize,
}

/// Prepared statements by keyspace and text: bounded, forgotten whenever the schema changes.
#[derive(Default)]
pub struct PreparedCache {
    cache: Mutex<Cache>,
}

/// What preparing a text gives.
pub enum Preparing {
    /// Prepared.
    Done(Arc<Known>),
    /// The text is wrong, on every replica.
    Refused(Reply),
}

impl PreparedCache {
    /// Forgets everything.
    pub fn clear(&self) {
        *self.lock() = Cache::default();
    }

    /// Forgets one text, which Cassandra no longer knows.
    pub fn forget(&self, keyspace: Option<&str>, text: &str) {
        let mut cache = self.lock();
        if cache.statements.remove(&key(keyspace, text)).is_some() {
            cache.bytes -= text.len();
        }
    }

    /// The statement, prepared now if it was not before.
    ///
    /// # Errors
    /// Cassandra can't be asked now.
    pub async fn get(&self, pool: &Pool, keyspace: Option<&str>, text: &str) -> Result<Preparing, Failure> {
        if let Some(known) = self.lock().statements.get(&key(keyspace, text)) {
            return Ok(Preparing::Done(known.clone()));
        }
        let strange = |reason: String| Failure::Retry { reason, ambiguous: false };
        let connection = pool.using(keyspace).await?;
        let body = request::v5::prepare(text).map_err(|e| strange(e.to_string()))?;
        // A lost PREPARE has no effect on data.
        let answer = connection.ask(Opcode::Prepare, body).await.map_err(|lost| strange(lost.reason))?;
        match judge(answer) {
            Meaning::Reply(reply) if reply.is_result() => {
                let message: Bytes =
                    reply.message().ok_or_else(|| strange("a RESULT that can't be read".to_owned()))?;
                match response::parse_result_v5(&message) {
                    Ok(ResultBody::Prepared(prepared)) => Ok(Preparing::Done(self.keep(keyspace, text, prepared))),
                    Ok(_) => Err(strange("no prepared statement in the answer to PREPARE".to_owned())),
                    // Cassandra says so on every replica, each time.
                    Err(error) if error.is_of_nesting() => Ok(Preparing::Refused(Reply::invalid(&error.to_string()))),
                    Err(error) => Err(strange(error.to_string())),
                }
            }
            Meaning::Reply(reply) => Ok(Preparing::Refused(reply)),
            Meaning::Unprepared => Err(strange("UNPREPARED to PREPARE".to_owned())),
            Meaning::Failure(failure) => Err(failure.without_effect()),
        }
    }

    fn keep(&self, keyspace: Option<&str>, text: &str, prepared: Prepared) -> Arc<Known> {
        let known = Arc::new(Known::new(text, prepared));
        let mut cache = self.lock();
        if cache.statements.len() >= ENTRIES || cache.bytes + text.len() > BYTES {
            *cache = Cache::default();
        }
        if cache.statements.insert(key(keyspace, text), known.clone()).is_none() {
            cache.bytes += text.len();
        }
        known
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a second copy of a statement, with the same write time, reaches the same state without showing; `bind` are its
/// markers by the schema at its index. In doubt it does not. The proposer says what it knows by the schema that it saw
/// (`NOT_REPEATABLE`), which may have been another one.
pub fn is_repeatable(text: &str, said: &Statement, bind: &[Column]) -> bool {
    // Appends to lists and counters look like operations on sets and maps: all count. A whole list gets new element ids.
    let literal_list = lex::tokens(text).any(|token| token.is_symbol(b'['));
    let bound_list = bind.iter().any(|column| matches!(column.kind, ColumnType::List(_)));
    said.conditional.is_none()
        && !literal_list
        && !bound_list
        && said.each().all(|each| !each.json && each.operations.is_empty())
}

fn key(keyspace: Option<&str>, text: &str) -> Key {
    (keyspace.map(str::to_owned), text.to_owned())
}
