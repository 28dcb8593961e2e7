//! Waiting until nothing that an earlier life of the replica has sent can take effect any more.
//!
//! A request that was sent before the replica died may still wait in Cassandra, or be carried out there. A write that names
//! its table by id meets none once the tables are dropped, but a text names it by its name: sent before, and executed
//! after the table was made anew, it would show. Cassandra tells when that is over:
//!
//! 1. Every connection on which the replica writes says whose it is (`APPLICATION_NAME`). One that is in
//!    `system_views.clients` no longer was closed, and Cassandra reads a connection to its end before it is closed: what it
//!    has read of it is in the queue for requests, or out of it.
//! 2. That queue is first in, first out. When a request that was sent after 1 is answered, all before it have left
//!    the queue: they are done or are being carried out.
//! 3. What is being carried out is in `system_views.queries`, each since when. Once none is there that began before
//!    2, all are done. Between its leaving the queue and its being there a thread does nothing that could hold it up, but it
//!    may be kept from the processor: hence the margin.
//!
//! A connection that stays (its host is gone without a word, or the earlier life still runs) is waited for no longer than
//! Cassandra lets a request wait and a write last.

use std::time::Duration;

use replicateddb_cql::response::cell;
use replicateddb_store::client::StoreError;
use tokio::time::{Instant, sleep, timeout};

use super::open::{Open, text_of};

/// What the names of the replicas' writing connections begin with.
const NAME: &str = "replicateddb/";
/// Longest time that a request of an earlier life of the replica may go on in the same JVM: above what a shared Cassandra
/// lets one wait in its queue (20 s), and the time-out of its writes (20 s, counted from their arrival).
const LANDING_WAIT: Duration = Duration::from_secs(25);
/// Longest time that a request is out of the queue and not shown as running.
const MARGIN: Duration = Duration::from_secs(1);
/// Pause between two looks.
const POLL: Duration = Duration::from_millis(100);

/// What connections of the replica with this keyspace begin their names with.
fn prefix(keyspace: &str) -> String {
    format!("{NAME}{keyspace}/")
}

/// A name for the connections of one use of a keyspace, told from all others by `tag`.
pub fn name(keyspace: &str, tag: impl std::fmt::Display) -> String {
    format!("{}{tag}", prefix(keyspace))
}

/// Completes when nothing sent on another connection than `open`, by whatever life of the replica with this keyspace, can
/// take effect any more.
pub async fn landed(open: &Open<'_>, keyspace: &str) {
    let started = Instant::now();
    tracing::info!(at_most = ?LANDING_WAIT, "waiting until nothing of an earlier life of this replica can land");
    match timeout(LANDING_WAIT, seen_to_land(open, keyspace)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, "Cassandra does not show what is under way");
            sleep(LANDING_WAIT.saturating_sub(started.elapsed())).await;
        }
        Err(_) => tracing::info!("a connection of an earlier life is still open, and nothing it sent can be under way"),
    }
    tracing::info!(waited = ?started.elapsed(), "nothing can land any more");
}

async fn seen_to_land(open: &Open<'_>, keyspace: &str) -> Result<(), StoreError> {
    let prefix = prefix(keyspace);
    while connected(open, &prefix).await? {
        sleep(POLL).await;
    }
    sleep(MARGIN).await;
    // The first answer has passed the queue behind all of them.
    running(open).await?;
    let passed = Instant::now();
    loop {
        let asked = Instant::now();
        let longest = running(open).await?;
        if longest < asked - passed {
            return Ok(());
        }
        sleep(POLL).await;
    }
}

/// Whether another connection of this replica's is open.
async fn connected(open: &Open<'_>, prefix: &str) -> Result<bool, StoreError> {
    let rows = open.rows("SELECT client_options FROM system_views.clients", &[]).await?;
    let named = |options: &[u8]| {
        let parts = cell::as_elements(options);
        let texts: Vec<_> = parts.into_iter().filter_map(cell::as_text).collect();
        let name = texts.chunks(2).find(|pair| pair.first() == Some(&"APPLICATION_NAME")).and_then(|pair| pair.get(1));
        name.is_some_and(|name| name.starts_with(prefix) && *name != open.name())
    };
    Ok(rows.iter().any(|row| row.first().and_then(Option::as_deref).is_some_and(named)))
}

/// For how long the request that is being carried out for longest has been.
async fn running(open: &Open<'_>) -> Result<Duration, StoreError> {
    let rows = open.rows("SELECT running_micros, thread_id FROM system_views.queries", &[]).await?;
    let micros = |row: &replicateddb_cql::response::Row| row.first()?.as_deref().and_then(cell::as_bigint);
    if let Some(row) = rows.iter().find(|row| micros(row).is_none()) {
        tracing::debug!(thread = ?text_of(row, 1), "a request without a time");
    }
    let longest = rows.iter().filter_map(micros).max().unwrap_or_default();
    Ok(Duration::from_micros(u64::try_from(longest).unwrap_or_default()))
}
