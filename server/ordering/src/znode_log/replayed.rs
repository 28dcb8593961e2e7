//! A tail's use of the state log: what was read before a restart comes from there, once it is certain that it is what the log holds.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use tracing::{info, warn};
use zookeeper_client::{Client, Error};

use super::{Inner, truncate};
use crate::framing::{self, Framed};
use crate::state_log::{Cursor, Newest, StateLog};
use crate::{Committed, LogError, Position};

/// Longest wait for the disk.
const READ_LIMIT: Duration = Duration::from_secs(10);

/// How far a tail reads in the state log.
pub(super) enum Replayed {
    /// It has not been compared with the log.
    Unknown(Arc<StateLog>),
    /// It is what the log holds, up to this position.
    Until(Arc<StateLog>, Position, Cursor),
    /// Not at all, or no further.
    Off,
}

impl Replayed {
    pub(super) fn new(inner: &Inner) -> Self {
        inner.state_log.clone().map_or(Self::Off, Self::Unknown)
    }

    /// The next entries from `next` on, in order, without gaps; none if they are to be read in the log.
    ///
    /// # Errors
    /// ZooKeeper did not answer; try again.
    pub(super) async fn read(
        &mut self,
        inner: &Inner,
        client: &Client,
        next: Position,
    ) -> Result<VecDeque<Committed>, Error> {
        let none = VecDeque::new();
        if let Self::Unknown(state_log) = self {
            if !state_log.has(next) && state_log.newest().is_none_or(|newest| newest.position < next) {
                *self = Self::Off;
                return Ok(none);
            }
            let state_log = state_log.clone();
            *self = match compare(inner, client, &state_log, next).await? {
                Some(until) => Self::Until(state_log, until, Cursor::default()),
                None => Self::Off,
            };
        }
        let Self::Until(state_log, until, cursor) = self else { return Ok(none) };
        if next > *until {
            *self = Self::Off;
            return Ok(none);
        }
        if !state_log.has(next) {
            return Ok(none);
        }
        let (state_log, until, mut taken) = (state_log.clone(), *until, std::mem::take(cursor));
        let read = tokio::task::spawn_blocking(move || {
            let read = state_log.read(&mut taken, next, until);
            (read, taken)
        });
        let trouble = match timeout(READ_LIMIT, read).await {
            Ok(Ok((Ok(entries), back))) => {
                *cursor = back;
                return Ok(entries.into());
            }
            Ok(Ok((Err(error), _))) => error.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("the disk did not answer within {READ_LIMIT:?}"),
        };
        warn!(%next, trouble, "the state log can't be read: the rest comes from ZooKeeper");
        *self = Self::Off;
        Ok(none)
    }
}

/// Up to where the state log is what the log holds: to its newest entry, if that is. What was given up counts as gone, whoever has it
/// still; and if the log ends before, it is the log that has lost something.
async fn compare(
    inner: &Inner,
    client: &Client,
    state_log: &StateLog,
    next: Position,
) -> Result<Option<Position>, Error> {
    let Some(newest) = state_log.newest() else { return Ok(None) };
    client.sync(&inner.layout.requests()).await?;
    match truncate::read_header(inner, client).await {
        Ok((header, _)) if header.first <= next && header.first <= newest.position => {}
        Ok(_) | Err(LogError::Lost | LogError::Corrupt { .. }) => return Ok(None),
        Err(error) => return Err(Error::UnexpectedError(error.to_string())),
    }
    let found = stands(inner, client, &newest).await?;
    if found {
        info!(from = %next, to = %newest.position, "reading the state log before ZooKeeper");
        return Ok(Some(newest.position));
    }
    // Unless it was given up meanwhile.
    warn!(position = %newest.position, "the state log is not what ZooKeeper holds: it is dropped");
    state_log.clear();
    Ok(None)
}

/// Whether ZooKeeper holds that entry where it was.
async fn stands(inner: &Inner, client: &Client, entry: &Newest) -> Result<bool, Error> {
    match client.get_data(&inner.layout.entry(entry.position)).await {
        Ok((data, stat)) => Ok(is_same(entry, &Bytes::from(data), stat.ctime)),
        Err(Error::NoNode) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Drops the state log if ZooKeeper no longer holds an entry that a tail has read: should ZooKeeper have lost entries, others may come to
/// stand where they stood, and what is kept of them would be believed for what comes behind. What was given up counts as gone, too:
/// then nothing that is kept before it is of use.
pub(super) async fn check_again(
    inner: &Inner,
    client: &Client,
    state_log: &StateLog,
    seen: &Newest,
) -> Result<(), Error> {
    client.sync(&inner.layout.requests()).await?;
    if !stands(inner, client, seen).await? {
        drop_lost(state_log, seen.position);
    }
    Ok(())
}

/// ZooKeeper no longer holds what was read up to there.
pub(super) fn drop_lost(state_log: &StateLog, position: Position) {
    warn!(%position, "ZooKeeper does not hold what this replica has read: the state log is dropped");
    state_log.clear();
}

/// Whether an entry's node holds that entry.
fn is_same(newest: &Newest, data: &Bytes, commit_time_ms: i64) -> bool {
    let same = match framing::decode(data) {
        Ok(Framed::Inline(entry)) => (entry.len(), crc32fast::hash(&entry)) == (newest.bytes, newest.crc),
        Ok(Framed::Side(body)) => (body.bytes as usize, body.crc) == (newest.bytes, newest.crc),
        Err(_) => false,
    };
    same && commit_time_ms == newest.commit_time_ms
}
