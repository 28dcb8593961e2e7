//! What restore points cost while a replica is loaded at a given rate, and how long recovery takes from the worst moment
//! between two of them: the sub-command `restore-points`.

mod paced;
mod recovery;
mod report;
mod scrape;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use replicateddb_local::Stack;
use replicateddb_tests::load::session;
use scylla::statement::Consistency;

use self::paced::{Answer, Client, Paced};
use self::recovery::{Recovered, Victim};
use self::report::Report;
use self::scrape::{Asker, Counted, Point};
use crate::{
    run::Notes,
    side::REQUEST_LIMIT,
    work::{MAX_IN_FLIGHT, VALUE_BYTES},
};

/// Longest wait for the set to serve.
const UP_LIMIT: Duration = Duration::from_secs(240);
/// Load before anything is measured: the JVM compiles, the first files come to be.
const WARM_UP: Duration = Duration::from_secs(10);
/// Pause between two looks at what replicas have counted.
const LOOK: Duration = Duration::from_millis(100);
/// Acknowledged rows that are read again at the end.
const SAMPLE: usize = 2_000;
/// Beside load and recovery, seconds: as planned, not a limit.
const BESIDE_SECONDS: u64 = 60;

const SCHEMA: [&str; 2] = [
    "CREATE KEYSPACE points WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
    "CREATE TABLE points.inserted (k bigint PRIMARY KEY, v text)",
];
const INSERT: &str = "INSERT INTO points.inserted (k, v) VALUES (?, ?)";
const READ: &str = "SELECT v FROM points.inserted WHERE k = ?";

/// Starts a set of replicas, inserts rows at a given rate, and prints for each restore point how long each of its parts
/// took, how long lanes were held, and how long clients waited; then kills a replica and a Cassandra just before the
/// next restore point, still under load, and prints when they were ready again. Nothing else should run meanwhile.
#[derive(Clone, Debug, Args)]
pub struct PointsArgs {
    /// Replicas, each with a Cassandra of its own.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=3))]
    pub replicas: u8,
    /// ZooKeeper servers.
    #[arg(long, default_value_t = 1)]
    pub zookeepers: u8,
    /// Rows to insert in a second, over all replicas.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rate: u32,
    /// Requests on their way at once, at most; one that has to wait for a place is late, and its wait counts.
    #[arg(long, default_value_t = 512, value_parser = in_flight)]
    pub in_flight: usize,
    /// Length of the load in which restore points are measured, seconds.
    #[arg(long, default_value_t = 45, value_parser = clap::value_parser!(u64).range(5..=600))]
    pub seconds: u64,
    /// Time between restore points, seconds [default: the replica's]
    #[arg(long, value_name = "SECONDS")]
    pub interval: Option<u64>,
    /// Records between restore points.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(16..))]
    pub records: u64,
    /// Kills nothing.
    #[arg(long)]
    pub no_kills: bool,
    /// Heap of each Cassandra.
    #[arg(long, default_value = "512m", value_name = "SIZE")]
    pub heap: String,
    /// Tuning of the JVM of each Cassandra: small or default.
    #[arg(long, default_value = "small")]
    pub profile: String,
}

fn in_flight(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=4 * MAX_IN_FLIGHT).contains(number));
    number.ok_or_else(|| format!("expected 1 to {}", 4 * MAX_IN_FLIGHT))
}

impl PointsArgs {
    /// How long a run will take if nothing goes wrong.
    #[must_use]
    pub fn planned(&self) -> Duration {
        let kills = if self.no_kills { Duration::ZERO } else { recovery::PLANNED * 2 };
        Duration::from_secs(self.seconds + BESIDE_SECONDS) + WARM_UP + kills
    }

    /// What replicas are started with.
    #[must_use]
    pub fn replica_args(&self) -> Vec<String> {
        let mut args = vec!["--restore-point-records".to_owned(), self.records.to_string()];
        if let Some(interval) = self.interval {
            args.extend(["--restore-point-interval".to_owned(), format!("{interval}s")]);
        }
        args
    }
}

/// A set that runs.
struct Set<'a> {
    stack: &'a Stack,
    asker: Asker,
    clients: Vec<Client>,
}

impl<'a> Set<'a> {
    async fn start(stack: &'a Stack, notes: &Notes) -> Result<Self> {
        stack.up(UP_LIMIT, &mut |_, line| notes.say(line)).await.context("starting replicas")?;
        let (asker, mut clients) = (Asker::new()?, Vec::new());
        for replica in 0..stack.settings().replicas {
            let session = session(&[stack.cql(replica)], Consistency::LocalQuorum, REQUEST_LIMIT).await?;
            if replica == 0 {
                for text in SCHEMA {
                    session.query_unpaged(text, ()).await.context(text)?;
                }
            }
            let insert = session.prepare(INSERT).await.context(INSERT)?;
            let mut read = session.prepare(READ).await.context(READ)?;
            read.set_consistency(Consistency::One);
            clients.push(Client { session: Arc::new(session), insert, read });
        }
        Ok(Self { stack, asker, clients })
    }

    fn load(&self, args: &PointsArgs) -> Paced {
        Paced::begin(&self.clients, args.rate, args.in_flight, VALUE_BYTES)
    }

    async fn counted(&self) -> Result<Vec<Counted>> {
        let mut all = Vec::new();
        for replica in 0..self.stack.settings().replicas {
            all.push(self.asker.counted(self.stack.admin(replica)).await?);
        }
        Ok(all)
    }

    /// Watches for restore points until then. A restore point that had begun before counts with the parts that came later.
    async fn watch(&self, until: Instant, notes: &Notes) -> Result<Vec<Point>> {
        let (mut points, mut before) = (Vec::new(), self.counted().await?);
        while Instant::now() < until {
            tokio::time::sleep(LOOK).await;
            let (now, at) = (self.counted().await?, Instant::now());
            for (replica, (before, now)) in before.iter_mut().zip(now).enumerate() {
                if let Some(point) = Point::between(replica as u8, before, &now, at) {
                    notes.say(&format!("restore point of replica {replica}: {}", report::parts(&point)));
                    points.push(point);
                    *before = now;
                }
            }
        }
        Ok(points)
    }

    /// Reads some of the acknowledged rows again; how many.
    async fn check(&self, answers: &[Answer]) -> Result<usize> {
        // One of its own: the others may not have found back yet.
        let session = session(&[self.stack.cql(0)], Consistency::LocalQuorum, REQUEST_LIMIT).await?;
        let read = session.prepare(READ).await.context(READ)?;
        let step = answers.len().div_ceil(SAMPLE).max(1);
        let mut found = 0;
        for answer in answers.iter().step_by(step) {
            let rows = session.execute_unpaged(&read, (answer.key,)).await?.into_rows_result()?;
            ensure!(rows.rows_num() == 1, "the acknowledged row {} is not there", answer.key);
            found += 1;
        }
        Ok(found)
    }
}

/// Starts a set and measures. Whoever calls stops it, whatever comes of it.
///
/// # Errors
/// When a replica does not start or come back, or an acknowledged row is lost.
pub async fn run(args: &PointsArgs, stack: &Stack, notes: &Notes) -> Result<String> {
    let set = Set::start(stack, notes).await?;
    let load = set.load(args);
    notes.say("loading");
    set.watch(Instant::now() + WARM_UP, notes).await?;
    let measured = Instant::now();
    let points = set.watch(measured + Duration::from_secs(args.seconds), notes).await?;
    let until = Instant::now();
    let mut recovered: Vec<Recovered> = Vec::new();
    if !args.no_kills {
        for victim in [Victim::Replica, Victim::Cassandra] {
            let back = recovery::kill(&set, victim, args.records, notes).await?;
            notes.say(&back.line());
            recovered.push(back);
        }
    }
    let began = load.began();
    let found = load.end().await?;
    let checked = set.check(&found.answers).await?;
    let window = [measured, until].map(|at| at.duration_since(began).as_micros() as u64);
    Ok(Report { args, began, window, points, recovered, found, checked }.text())
}
