//! Operations of which a second copy would show, while what executes them is killed: appends to one list, and a counter.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use replicateddb_local::{Member, Target};
use scylla::{client::session::Session, statement::Consistency, value::Counter};
use tokio::task::JoinHandle;

use super::{Local, REPLICAS};
use crate::scenario::Scenario;

/// Elements of one writer start at its replica's multiple of this.
const SPREAD: i32 = 1_000_000;
/// Acknowledged appends to wait for before and after each kill.
const SOME: usize = 60;
/// Longest wait for them.
const LIMIT: Duration = Duration::from_secs(120);
/// Pause after an error, so that a writer without a server does not spin.
const AFTER_ERROR: Duration = Duration::from_millis(200);

pub fn scenarios() -> Vec<Scenario<Local>> {
    vec![Scenario {
        name: "lists",
        proves: "appends to a list and increments are executed once and in one order, whatever is killed meanwhile",
        run: lists,
    }]
}

/// What a writer was told.
#[derive(Default)]
struct Told {
    appended: Vec<i32>,
    unknown_appends: Vec<i32>,
    counted: i64,
    unknown_counts: i64,
}

/// A writer through each replica.
struct Writers {
    stop: Arc<AtomicBool>,
    appended: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<Result<Told>>>,
}

impl Writers {
    async fn start(local: &Local) -> Result<Self> {
        let mut writers = Self { stop: Arc::default(), appended: Arc::default(), tasks: Vec::new() };
        for replica in 0..REPLICAS {
            let session = local.session(replica, Consistency::One).await?;
            let (stop, appended) = (writers.stop.clone(), writers.appended.clone());
            writers.tasks.push(tokio::spawn(write(session, i32::from(replica) * SPREAD, stop, appended)));
        }
        Ok(writers)
    }

    async fn wait_for_more(&self) -> Result<()> {
        let (start, target) = (Instant::now(), self.appended.load(Ordering::Relaxed) + SOME);
        while self.appended.load(Ordering::Relaxed) < target {
            let now = self.appended.load(Ordering::Relaxed);
            ensure!(start.elapsed() < LIMIT, "only {now} of {target} appends acknowledged after {LIMIT:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    async fn finish(self) -> Result<Vec<Told>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut told = Vec::new();
        for task in self.tasks {
            told.push(task.await.context("a writer panicked")??);
        }
        Ok(told)
    }
}

async fn write(session: Session, first: i32, stop: Arc<AtomicBool>, appended: Arc<AtomicUsize>) -> Result<Told> {
    let append = session.prepare("UPDATE once.lists SET l = l + ? WHERE id = 1").await?;
    let count = session.prepare("UPDATE once.counts SET n = n + 1 WHERE id = 1").await?;
    let mut told = Told::default();
    let mut element = first;
    while !stop.load(Ordering::Relaxed) {
        let (done, counted) =
            futures::join!(session.execute_unpaged(&append, (vec![element],)), session.execute_unpaged(&count, ()));
        match done {
            Ok(_) => {
                told.appended.push(element);
                appended.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => told.unknown_appends.push(element),
        }
        match counted {
            Ok(_) => told.counted += 1,
            Err(_) => told.unknown_counts += 1,
        }
        if told.unknown_appends.last() == Some(&element) {
            tokio::time::sleep(AFTER_ERROR).await;
        }
        element += 1;
    }
    Ok(told)
}

fn lists(local: &mut Local) -> Result<()> {
    local.runtime.block_on(async {
        let session = local.session(0, Consistency::Quorum).await?;
        for text in [
            "CREATE KEYSPACE once WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
            "CREATE TABLE once.lists (id int PRIMARY KEY, l list<int>)",
            "CREATE TABLE once.counts (id int PRIMARY KEY, n counter)",
        ] {
            session.query_unpaged(text, ()).await?;
        }
        let writers = Writers::start(local).await?;
        writers.wait_for_more().await?;
        local.stack.kill(Member::Cassandra(0), Target::Jvm).await?;
        writers.wait_for_more().await?;
        local.stack.kill(Member::Replica(1), Target::Whole).await?;
        local.stack.start(Member::Replica(1)).await?;
        local.wait_ready().await?;
        writers.wait_for_more().await?;
        check(local, &writers.finish().await?).await
    })?;
    local.verify()
}

/// Every acknowledged element once, those of one writer in its order, and the same list and number on every replica.
async fn check(local: &Local, told: &[Told]) -> Result<()> {
    let mut first = None;
    for replica in 0..REPLICAS {
        let session = local.session(replica, Consistency::Quorum).await?;
        let rows = session.query_unpaged("SELECT l FROM once.lists WHERE id = 1", ()).await?.into_rows_result()?;
        let list = rows.single_row::<(Vec<i32>,)>()?.0;
        let rows = session.query_unpaged("SELECT n FROM once.counts WHERE id = 1", ()).await?.into_rows_result()?;
        let count = rows.single_row::<(Counter,)>()?.0.0;
        let elements: BTreeSet<i32> = list.iter().copied().collect();
        ensure!(elements.len() == list.len(), "replica-{replica} holds an element twice: {list:?}");
        for writer in told {
            let lost: Vec<_> = writer.appended.iter().filter(|element| !elements.contains(element)).collect();
            ensure!(lost.is_empty(), "replica-{replica} lost acknowledged elements: {lost:?}");
            let of_writer: BTreeSet<_> = writer.appended.iter().collect();
            let found: Vec<_> = list.iter().filter(|element| of_writer.contains(element)).collect();
            ensure!(found.is_sorted(), "replica-{replica} has the elements of one writer in another order: {found:?}");
        }
        let written: BTreeSet<_> = told.iter().flat_map(|w| w.appended.iter().chain(&w.unknown_appends)).collect();
        ensure!(elements.iter().all(|element| written.contains(element)), "replica-{replica} made elements up");
        let counted: i64 = told.iter().map(|writer| writer.counted).sum();
        let most = counted + told.iter().map(|writer| writer.unknown_counts).sum::<i64>();
        ensure!((counted..=most).contains(&count), "replica-{replica} counted {count}, not {counted} to {most}");
        println!("    replica-{replica}: {} elements, counted {count} of {counted} to {most}", list.len());
        let here = (list, count);
        ensure!(*first.get_or_insert_with(|| here.clone()) == here, "replica-{replica} has another list or number");
    }
    Ok(())
}
