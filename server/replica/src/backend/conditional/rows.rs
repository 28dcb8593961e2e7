//! Rows read for conditional writes, together: one request for those of a query that are wanted at the same moment. At
//! `NODE_LOCAL` Cassandra reads them one after another in the thread that took the request.
//!
//! A single one is not read at all: Cassandra decides the write that wants it in one request.

use std::collections::HashMap;

use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{FuturesUnordered, StreamExt};
use replicateddb_cql::Consistency;
use replicateddb_cql::frame::Opcode;
use replicateddb_cql::request::{self, Params, Values};
use replicateddb_cql::response::{self, ResultBody, Row};
use replicateddb_cql::wire::Value;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::super::outcome::{Failure, Meaning, judge};
use super::super::pool::Pool;

/// Rows in one request.
const ROWS: usize = 64;
/// The same with a clustering column, of which each value is looked for in each partition.
const CLUSTERED_ROWS: usize = 10;
/// Requests on their way at once. What comes meanwhile makes the next ones larger.
const IN_FLIGHT: usize = 2;
/// Wishes taken at once, and waiting to be; more wait before it.
const QUEUE: usize = 1024;

/// A row that is wanted.
#[derive(Debug)]
pub struct Wish {
    /// The id of the prepared query.
    pub id: Bytes,
    /// What it was prepared with.
    pub metadata_id: Bytes,
    /// The second that expiry counts to.
    pub now_s: i32,
    /// The partition key.
    pub partition: Bytes,
    /// The clustering column, if the query asks for it.
    pub clustering: Option<Bytes>,
}

/// What is known of a row that was wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Its columns behind those of the key; none if it is not there.
    Row(Option<Row>),
    /// Nothing: Cassandra has to decide.
    Nothing,
    /// Nothing: it does not know the query any more.
    Unprepared,
}

struct Waiting {
    wish: Wish,
    found: oneshot::Sender<Found>,
}

/// Where wishes are handed in. Ends with its last clone.
#[derive(Debug)]
pub struct Rows {
    queue: mpsc::Sender<Waiting>,
    _task: AbortOnDropHandle<()>,
}

impl Rows {
    /// On the connections of one generation.
    pub fn new(pool: Pool) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        Self { queue, _task: AbortOnDropHandle::new(tokio::spawn(run(pool, waiting))) }
    }

    /// Has a row read with others that are wanted now.
    pub async fn find(&self, wish: Wish) -> Found {
        let (found, answer) = oneshot::channel();
        match self.queue.send(Waiting { wish, found }).await {
            Ok(()) => answer.await.unwrap_or(Found::Nothing),
            Err(_) => Found::Nothing,
        }
    }
}

async fn run(pool: Pool, mut queue: mpsc::Receiver<Waiting>) {
    let mut in_flight = FuturesUnordered::new();
    let mut groups: Vec<Vec<Waiting>> = Vec::new();
    loop {
        while in_flight.len() < IN_FLIGHT
            && let Some(group) = groups.pop()
        {
            in_flight.push(send(&pool, group));
        }
        tokio::select! {
            biased;
            Some(()) = in_flight.next(), if !in_flight.is_empty() => {}
            first = queue.recv(), if in_flight.len() < IN_FLIGHT => {
                let Some(first) = first else { return };
                // Whoever made this one ready may be about to make more ready.
                tokio::task::yield_now().await;
                let mut waiting = vec![first];
                while waiting.len() < QUEUE
                    && let Ok(next) = queue.try_recv()
                {
                    waiting.push(next);
                }
                groups = grouped(waiting);
            }
        }
    }
}

/// Those of the same query and second together, as many as go into a request; the last ones come first.
fn grouped(waiting: Vec<Waiting>) -> Vec<Vec<Waiting>> {
    let mut groups: Vec<Vec<Waiting>> = Vec::new();
    let mut open: HashMap<(Bytes, i32), usize> = HashMap::new();
    for one in waiting {
        let key = (one.wish.id.clone(), one.wish.now_s);
        let most = if one.wish.clustering.is_some() { CLUSTERED_ROWS } else { ROWS };
        match open.get(&key).and_then(|at| groups.get_mut(*at)).filter(|group| group.len() < most) {
            Some(group) => group.push(one),
            None => {
                open.insert(key, groups.len());
                groups.push(vec![one]);
            }
        }
    }
    groups.reverse();
    groups
}

async fn send(pool: &Pool, group: Vec<Waiting>) {
    let answer = match group.len() {
        1 => Answer::Nothing,
        _ => ask(pool, &group).await.unwrap_or(Answer::Nothing),
    };
    for Waiting { wish, found } in group {
        let what = match &answer {
            Answer::Rows(rows) => Found::Row(rows.get(&(wish.partition, wish.clustering)).cloned()),
            Answer::Nothing => Found::Nothing,
            Answer::Unprepared => Found::Unprepared,
        };
        // Whoever does not wait any more has gone with the generation.
        let _ = found.send(what);
    }
}

enum Answer {
    /// By partition key and clustering column.
    Rows(HashMap<(Bytes, Option<Bytes>), Row>),
    Nothing,
    Unprepared,
}

async fn ask(pool: &Pool, group: &[Waiting]) -> Result<Answer, Failure> {
    let Some(Waiting { wish: first, .. }) = group.first() else { return Ok(Answer::Nothing) };
    let keys = std::iter::once(list(group.iter().map(|one| Some(&one.wish.partition))));
    let clustering = first.clustering.is_some().then(|| list(group.iter().map(|one| one.wish.clustering.as_ref())));
    let values: Option<Vec<Value>> = keys.chain(clustering).collect();
    let Some(values) = values.and_then(|values| Values::positional(&values).ok()) else { return Ok(Answer::Nothing) };
    let params = Params::new(Consistency::NodeLocal, values);
    let body = request::v5::execute(&first.id, &first.metadata_id, &params, Some(first.now_s));
    let Ok(body) = body else { return Ok(Answer::Nothing) };
    match judge(pool.any().await?.ask(Opcode::Execute, body).await?) {
        Meaning::Reply(reply) if reply.is_result() => {
            let rows = reply.message().and_then(|message| response::parse_result_v5(&message).ok());
            Ok(match rows {
                Some(ResultBody::Rows(rows)) if rows.paging_state.is_none() => {
                    by_key(rows.rows, clustering_columns(first)).map_or(Answer::Nothing, Answer::Rows)
                }
                _ => Answer::Nothing,
            })
        }
        Meaning::Unprepared => Ok(Answer::Unprepared),
        Meaning::Reply(_) | Meaning::Failure(_) => Ok(Answer::Nothing),
    }
}

fn clustering_columns(wish: &Wish) -> usize {
    usize::from(wish.clustering.is_some())
}

/// A list as a value; `None` if an element is missing.
fn list<'a>(elements: impl ExactSizeIterator<Item = Option<&'a Bytes>>) -> Option<Value> {
    let mut out = BytesMut::new();
    out.put_i32(i32::try_from(elements.len()).ok()?);
    for element in elements {
        let element = element?;
        out.put_i32(i32::try_from(element.len()).ok()?);
        out.put_slice(element);
    }
    Some(Value::Bytes(out.freeze()))
}

/// Rows by their key, which comes first in them; `None` if one has none.
fn by_key(rows: Vec<Row>, clustering: usize) -> Option<HashMap<(Bytes, Option<Bytes>), Row>> {
    let keyed = rows.into_iter().map(|mut row| {
        if row.len() < 1 + clustering {
            return None;
        }
        let cells = row.split_off(1 + clustering);
        let mut key = row.into_iter();
        let partition = key.next()??;
        let of_row = match clustering {
            0 => None,
            _ => Some(key.next()??),
        };
        Some(((partition, of_row), cells))
    });
    keyed.collect()
}
