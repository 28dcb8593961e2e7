//! Whether what was acknowledged is there: nothing is measured that did not happen.

use std::sync::atomic::Ordering::Relaxed;

use anyhow::{Context, Result, ensure};
use scylla::statement::Consistency;

use crate::{side::Side, work::Written};

/// Parts in which a table is counted, so that none takes a node long.
const PARTS: u64 = 32;

/// Counts rows and sums values on a side, and compares with what was acknowledged; gives a line for each table.
///
/// A request that failed may have been executed or not: there may be as many rows more as requests failed.
///
/// # Errors
/// When a count does not agree, or can't be made.
pub async fn verify(side: &Side) -> Result<Vec<String>> {
    let requests = &side.requests;
    let mut lines = Vec::new();
    for (table, written) in [("inserted", &requests.inserted), ("claimed", &requests.claimed)] {
        let found = count(side, table).await.with_context(|| format!("{}: counting {table}", side.name))?;
        lines.push(compare(side, table, "rows", written, found)?);
    }
    let mut sum = 0;
    for worker in 0..requests.workers() {
        sum += requests.look(worker).await.with_context(|| format!("{}: reading what was set", side.name))?;
    }
    lines.push(compare(side, "compared", "updates", &requests.compared, sum)?);
    Ok(lines)
}

fn compare(side: &Side, table: &str, what: &str, written: &Written, found: i64) -> Result<String> {
    let (acknowledged, tried) = (written.acknowledged.load(Relaxed), written.tried.load(Relaxed));
    let text = format!(
        "{}: {what} of `{table}`: {acknowledged} acknowledged, {} failed, {found} found",
        side.name,
        tried - acknowledged
    );
    ensure!((acknowledged..=tried).contains(&found), "not what was acknowledged: {text}");
    Ok(text)
}

async fn count(side: &Side, table: &str) -> Result<i64> {
    let session = &side.requests.session;
    let text = format!("SELECT count(*) FROM bench.{table} WHERE token(k) > ? AND token(k) <= ?");
    let mut statement = session.prepare(text).await?;
    statement.set_consistency(Consistency::Quorum);
    let step = u64::MAX / PARTS + 1;
    let mut sum = 0;
    for part in 0..PARTS {
        let after = i64::MIN.wrapping_add_unsigned(part * step);
        let last = if part + 1 == PARTS { i64::MAX } else { i64::MIN.wrapping_add_unsigned((part + 1) * step) };
        let result = session.execute_unpaged(&statement, (after, last)).await?.into_rows_result()?;
        sum += result.single_row::<(i64,)>()?.0;
    }
    Ok(sum)
}
