//! Conditional writes and expiry, which every replica decides for itself and all must decide alike.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use scylla::{
    client::session::Session,
    serialize::row::SerializeRow,
    statement::{Consistency, prepared::PreparedStatement},
    value::{CqlValue, Row},
};

use super::{Local, REPLICAS, number, text};
use crate::{scenario::Scenario, wait::until_true};

pub fn scenarios() -> Vec<Scenario<Local>> {
    vec![Scenario {
        name: "conditions",
        proves: "conditional writes through all replicas at once have one winner each, and a TTL ends for all",
        run: conditions,
    }]
}

/// Longest wait for the end of a TTL of a second.
const LIMIT: Duration = Duration::from_secs(30);
/// Additions of each client, and names that it wants.
const ADDITIONS: i32 = 60;

/// One row, added to by compare-and-set through every replica at once, and names that only one client can take.
pub(super) fn conditions(local: &mut Local) -> Result<()> {
    local.runtime.block_on(async {
        let first = local.session(0, Consistency::Quorum).await?;
        local.make_keyspace(&first, "cas").await?;
        let (sums, names) = (local.table("cas", "sums"), local.table("cas", "names"));
        first.query_unpaged(format!("CREATE TABLE {sums} (id int PRIMARY KEY, n int)"), ()).await?;
        first.query_unpaged(format!("CREATE TABLE {names} (name text PRIMARY KEY, owner int)"), ()).await?;
        first.query_unpaged(format!("INSERT INTO {sums} (id, n) VALUES (1, 0)"), ()).await?;
        let client = async |replica: u8| {
            let session = local.session(replica, Consistency::Quorum).await?;
            let add = session.prepare(format!("UPDATE {sums} SET n = ? WHERE id = 1 IF n = ?")).await?;
            let take =
                session.prepare(format!("INSERT INTO {names} (name, owner) VALUES (?, ?) IF NOT EXISTS")).await?;
            let (mut known, mut lost, mut won) = (0, 0, 0);
            for i in 0..ADDITIONS {
                while let Some(there) = applied(&session, &add, (known + 1, known)).await? {
                    (known, lost) = (there, lost + 1);
                }
                known += 1;
                let name = format!("name {i}");
                won += i32::from(applied(&session, &take, (name, i32::from(replica))).await?.is_none());
            }
            anyhow::Ok((lost, won))
        };
        let told = futures::try_join!(client(0), client(1), client(2))?;
        let [(a, x), (b, y), (c, z)] = <[_; 3]>::from(told);
        println!("    {} additions, {} lost to another one; names: {x} + {y} + {z}", 3 * ADDITIONS, a + b + c);
        ensure!(x + y + z == ADDITIONS, "{} of {ADDITIONS} names were taken", x + y + z);
        ensure!(a + b + c > 0, "no two additions met");
        for replica in 0..REPLICAS {
            let session = local.session(replica, Consistency::Quorum).await?;
            let sum = number(&session, &format!("SELECT CAST(n AS bigint) FROM {sums} WHERE id = 1")).await?;
            ensure!(sum == i64::from(3 * ADDITIONS), "replica-{replica} shows {sum}");
        }
        let brief = format!("INSERT INTO {names} (name, owner) VALUES ('brief', 1) IF NOT EXISTS USING TTL 1");
        first.query_unpaged(brief, ()).await?;
        anyhow::Ok(())
    })?;
    local.verify()?;
    let owner = format!("SELECT CAST(owner AS text) FROM {} WHERE name = 'brief'", local.table("cas", "names"));
    for replica in 0..REPLICAS {
        until_true(&format!("'brief' is gone on replica-{replica}"), LIMIT, || {
            local.runtime.block_on(async {
                let session = local.session(replica, Consistency::Quorum).await?;
                Ok(text(&session, &owner).await?.is_none())
            })
        })?;
    }
    Ok(())
}

/// Executes a conditional write; what was there if it was not applied: the last column of the answer.
async fn applied(session: &Session, statement: &PreparedStatement, values: impl SerializeRow) -> Result<Option<i32>> {
    let rows = session.execute_unpaged(statement, values).await?.into_rows_result()?;
    let row = rows.first_row::<Row>()?;
    match (row.columns.first(), row.columns.last()) {
        (Some(Some(CqlValue::Boolean(true))), _) => Ok(None),
        (_, Some(Some(CqlValue::Int(there)))) => Ok(Some(*there)),
        _ => bail!("{row:?}"),
    }
}
