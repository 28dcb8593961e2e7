//! `restore`: keyspaces of a checkpoint, through a replica.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use replicateddb_replica::checkpoint::Import;

use crate::args::RestoreArgs;

/// Pause between two lines about the progress of one table.
const PROGRESS: Duration = Duration::from_secs(5);

/// Restores a checkpoint and says what was in it, and on standard error how far it is.
///
/// # Errors
/// The checkpoint is damaged, a keyspace is there already, or the replica does not take something.
pub async fn run(args: RestoreArgs) -> anyhow::Result<()> {
    let replica = args.endpoint()?;
    let tls = args.tls.open()?;
    let import = Import::open(&args.input, &args.keyspaces).await?;
    let told = Mutex::new(HashMap::new());
    let restored = import.through(&replica, tls.as_ref(), now, |document, lines| {
        let mut told = told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let last = told.entry(document.table.clone()).or_insert_with(Instant::now);
        if last.elapsed() >= PROGRESS {
            eprintln!("{}: {lines} of {} lines", document.table, document.lines);
            *last = Instant::now();
        }
    });
    for document in restored.await? {
        println!("{:>10} lines  {}", document.lines, document.table);
    }
    println!("restored from {}", args.input.display());
    Ok(())
}

/// Seconds since 1970, by the clock of this machine; the first or last that CQL can say if it is beyond them.
fn now() -> i32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i32::try_from(since.as_secs()).unwrap_or(i32::MAX)
}
