//! Writers that outlive a replica.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use anyhow::{Result, ensure};
use futures::{TryStreamExt, future::try_join_all};
use scylla::{
    response::query_result::QueryResult,
    statement::{Consistency, prepared::PreparedStatement},
};

use super::{Driver, LIMIT, LOOK_AGAIN, at, expect, until};

/// Rows, and requests, that are waited for.
const SOME: usize = 200;
/// Writers, each with one request in flight.
const WRITERS: i32 = 4;

#[derive(Default)]
struct Seen {
    acknowledged: BTreeSet<String>,
    /// How many requests each replica has answered.
    through: BTreeMap<IpAddr, usize>,
    errors: BTreeMap<String, usize>,
}

struct Writers<'a> {
    driver: &'a Driver<'a>,
    insert: PreparedStatement,
    select: PreparedStatement,
    stopped: AtomicBool,
    seen: Mutex<Seen>,
}

impl Driver<'_> {
    pub(super) async fn failover(&self) -> Result<String> {
        self.execute("CREATE TABLE failover (w int, s int, v text, PRIMARY KEY ((w, s)))").await?;
        let insert = self.session.prepare("INSERT INTO failover (w, s, v) VALUES (?, ?, ?)").await?;
        let select = at(Consistency::Quorum, "SELECT v FROM failover WHERE w = ? AND s = ?");
        let select = self.session.prepare(select).await?;
        let writers = Writers { driver: self, insert, select, stopped: AtomicBool::new(false), seen: Mutex::default() };
        let work = try_join_all((0..WRITERS).map(|writer| writers.work(writer)));
        let story = async {
            let outcome = writers.story().await;
            writers.stopped.store(true, Ordering::Relaxed);
            outcome
        };
        tokio::try_join!(work, story)?;
        let seen = writers.seen.into_inner().map_err(|_| anyhow::anyhow!("a writer panicked"))?;
        let every = at(Consistency::Quorum, "SELECT v FROM failover");
        let rows = self.session.query_iter(every, ()).await?.rows_stream::<(String,)>()?;
        let found: BTreeSet<String> = rows.map_ok(|row| row.0).try_collect().await?;
        let lost: Vec<_> = seen.acknowledged.difference(&found).take(3).collect();
        ensure!(lost.is_empty(), "acknowledged rows are lost: {lost:?}");
        Ok(format!("{} acknowledged rows, none lost; errors meanwhile: {:?}", seen.acknowledged.len(), seen.errors))
    }
}

impl Writers<'_> {
    /// A replica dies, is missed, and comes back.
    async fn story(&self) -> Result<()> {
        let (local, contact) = (self.driver.local, self.driver.contact);
        for host in local.addresses() {
            self.wait_through(host, 10).await?;
        }
        println!("    KILL {contact}"); // the one that the driver hears events from
        local.kill_replica(&contact.to_string()).await?;
        let before = self.look()?.acknowledged.len();
        until("rows acknowledged by the others", async || Ok(self.look()?.acknowledged.len() >= before + SOME)).await?;
        until("the driver knows", async || Ok(!self.driver.up().contains(&contact))).await?;
        println!("    START {contact}");
        local.start_replica(&contact.to_string()).await?;
        self.wait_through(contact, SOME).await
    }

    fn look(&self) -> Result<std::sync::MutexGuard<'_, Seen>> {
        self.seen.lock().map_err(|_| anyhow::anyhow!("a writer panicked"))
    }

    async fn wait_through(&self, host: IpAddr, more: usize) -> Result<()> {
        let through = || anyhow::Ok(self.look()?.through.get(&host).copied().unwrap_or_default());
        let target = through()? + more;
        until(&format!("{more} more answers of {host}"), async || Ok(through()? >= target)).await
    }

    /// Writes rows and reads each back. A write that fails is repeated, the same row, until it is acknowledged: it may have
    /// been executed.
    async fn work(&self, writer: i32) -> Result<()> {
        let mut sequence = 0;
        while !self.stopped.load(Ordering::Relaxed) {
            let value = format!("{writer}:{sequence}");
            self.until_answered(&self.insert, (writer, sequence, &value)).await?;
            let found = self.until_answered(&self.select, (writer, sequence)).await?;
            let (found,) = found.into_rows_result()?.single_row::<(String,)>()?;
            expect("a row, acknowledged and read", value.clone(), found)?;
            self.look()?.acknowledged.insert(value);
            sequence += 1;
        }
        Ok(())
    }

    async fn until_answered(
        &self,
        statement: &PreparedStatement,
        values: impl scylla::serialize::row::SerializeRow + Copy,
    ) -> Result<QueryResult> {
        let begin = Instant::now();
        loop {
            match self.driver.session.execute_unpaged(statement, values).await {
                Ok(answer) => {
                    let host = answer.request_coordinator().node().address.ip();
                    *self.look()?.through.entry(host).or_default() += 1;
                    return Ok(answer);
                }
                Err(error) => {
                    let kind = crate::local::error_kind(&error).to_owned();
                    *self.look()?.errors.entry(kind).or_default() += 1;
                    ensure!(begin.elapsed() < LIMIT, "no answer within {LIMIT:?}: {error}");
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
            }
        }
    }
}
