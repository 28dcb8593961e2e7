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
    /// Rows of this query in one request, at most.
    pub at_once: usize,
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

/// Those of the same query, second and clustering column together, as many as go into a request; the last ones come first. The
/// partition is another one for each: what may change one executes alone.
fn grouped(waiting: Vec<Waiting>) -> Vec<Vec<Waiting>> {
    let mut groups: Vec<Vec<Waiting>> = Vec::new();
    let mut open: HashMap<(Bytes, i32, Option<Bytes>), usize> = HashMap::new();
    for one in waiting {
        let key = (one.wish.id.clone(), one.wish.now_s, one.wish.clustering.clone());
        match open.get(&key).and_then(|at| groups.get_mut(*at)).filter(|group| group.len() < one.wish.at_once) {
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
    let Some(keys) = list(group.iter().map(|one| &one.wish.partition)) else { return Ok(Answer::Nothing) };
    let clustering = first.clustering.clone().map(Value::Bytes);
    let values: Vec<Value> = std::iter::once(keys).chain(clustering).collect();
    let Ok(values) = Values::positional(&values) else { return Ok(Answer::Nothing) };
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

/// A list as a value; `None` if it is too long for one.
fn list<'a>(elements: impl ExactSizeIterator<Item = &'a Bytes>) -> Option<Value> {
    let mut out = BytesMut::new();
    out.put_i32(i32::try_from(elements.len()).ok()?);
    for element in elements {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(id: u8, now_s: i32, at_once: usize, partition: u8, clustering: Option<u8>) -> Waiting {
        let bytes = |byte: u8| Bytes::copy_from_slice(&[byte]);
        let (id, partition, clustering) = (bytes(id), bytes(partition), clustering.map(bytes));
        let wish = Wish { id, metadata_id: Bytes::new(), now_s, at_once, partition, clustering };
        Waiting { wish, found: oneshot::channel().0 }
    }

    fn partitions(groups: &[Vec<Waiting>]) -> Vec<Vec<u8>> {
        groups.iter().map(|group| group.iter().map(|one| one.wish.partition[0]).collect()).collect()
    }

    #[test]
    fn a_request_asks_for_no_row_but_those_wanted() {
        let all = [
            waiting(1, 5, 9, 1, Some(7)),
            waiting(1, 5, 9, 2, Some(8)),
            waiting(1, 5, 9, 3, Some(7)),
            waiting(1, 6, 9, 4, Some(7)),
            waiting(2, 5, 9, 5, None),
            waiting(2, 5, 9, 6, None),
        ];
        assert_eq!(partitions(&grouped(all.into())), [vec![5, 6], vec![4], vec![2], vec![1, 3]]);
    }

    #[test]
    fn a_request_asks_for_no_more_rows_than_its_query_may() {
        let all = (0..5).map(|partition| waiting(1, 5, 2, partition, None)).collect();
        assert_eq!(partitions(&grouped(all)), [vec![4], vec![2, 3], vec![0, 1]]);
    }
}
