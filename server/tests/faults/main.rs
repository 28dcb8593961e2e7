//! I2, I3, I10: a replica's process is crashed at every fault point, and what is beside it in the middle of its work, under
//! clients of every kind of statement; started again, it holds exactly what the log says, and what a replica holds that was
//! never crashed.
//!
//! `FAULTS="NAME ..."` runs these cases alone.

#![allow(clippy::unwrap_used, reason = "in a test a failure is a panic, in its helpers too")]

mod bed;
mod cases;
mod compare;
mod kinds;
mod load;
mod model;

use std::{
    net::SocketAddr,
    os::unix::process::ExitStatusExt,
    sync::{Arc, atomic::AtomicI64},
    time::{Duration, Instant},
};

use bed::{Armed, Bed, PATIENCE, session, until};
use cases::{Case, Trigger, Victim};
use kinds::{Kind, SCHEMA};
use load::{Load, Stories};
use model::{Effect, Model};
use nix::sys::signal::Signal;
use replicateddb_faults::Fault;
use replicateddb_ordering::Position;
use replicateddb_replica::admin::RestorePoint;
use replicateddb_replica::record::{Record, RecordKind, StatementText, Values};
use replicateddb_store::api::Jvm;
use serde_json::json;
use tokio::time::timeout;

/// Acknowledged requests before a point counts, with clients of every kind, and of one.
const BEFORE: usize = 100;
const BEFORE_ONE: usize = 8;
/// Kinds of the clients of the replica that is never crashed: the two meet in the same rows.
const ELSEWHERE: [Kind; 4] = [Kind::Insert, Kind::Append, Kind::Counter, Kind::UnloggedBatch];

struct Run {
    bed: Bed,
    model: Model,
    ids: Arc<AtomicI64>,
    /// What clients were told since the last comparison.
    stories: Vec<Stories>,
    /// Cases since the last comparison.
    uncompared: Vec<String>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_crashes_on_the_way_of_a_request_the_tables_are_what_the_log_says() {
    crash_in_turn(cases::of_requests()).await;
}

/// Beside the other test: most of a case is the start of a Cassandra, which takes one processor.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_crashes_at_a_restore_point_the_tables_are_what_the_log_says() {
    crash_in_turn(cases::of_restore_points()).await;
}

async fn crash_in_turn(cases: Vec<Case>) {
    let only = std::env::var("FAULTS").ok();
    let only: Option<Vec<_>> = only.as_ref().map(|only| only.split_whitespace().collect());
    let known = |name: &&str| cases::all().any(|case| case.name() == **name);
    let unknown = only.iter().flatten().find(|name| !known(name));
    assert_eq!(unknown, None, "no case is called that");
    let wanted = |case: &Case| only.as_ref().is_none_or(|only| only.contains(&case.name().as_str()));
    let cases: Vec<_> = cases.into_iter().filter(wanted).collect();
    if cases.is_empty() {
        return;
    }
    let began = Instant::now();
    let mut run = Run::start().await;
    eprintln!("{:6.1} s: both replicas serve", began.elapsed().as_secs_f32());
    for case in cases {
        let _told = Again(run.uncompared.iter().cloned().chain([case.name()]).collect());
        match case {
            Case::Replica { at, by: Trigger::Start, .. } => run.crash_at_start(at).await,
            Case::Replica { at, by, kind } => run.crash_under_load(at, by, kind).await,
            Case::Beside { victim, at } => run.crash_beside(victim, at).await,
        }
        eprintln!("{:6.1} s: {}", began.elapsed().as_secs_f32(), case.name());
    }
    let _told = Again(run.uncompared.clone());
    run.serve(&Armed::default()).await;
    eprintln!("{:6.1} s: the end", began.elapsed().as_secs_f32());
}

impl Run {
    async fn start() -> Self {
        let bed = Bed::start().await;
        let model = Model::start(&bed.zookeeper.connect()).await;
        let session = session(bed.sites[1].cql()).await;
        for text in SCHEMA {
            let statements = vec![StatementText { text: text.into(), values: Values::none() }];
            let effect: Effect = match text.starts_with("INSERT INTO f.cas") {
                true => Box::new(|state, _| {
                    state.row("cas", &[("k", 0)]).insert("v".into(), json!(0));
                    None
                }),
                false => Box::new(|_, _| None),
            };
            model.expect(model::name_of(&Record { statements, ..Record::bare(RecordKind::Ddl) }), effect);
            session.query_unpaged(text, ()).await.unwrap_or_else(|error| panic!("{text}: {error}"));
        }
        Self { bed, model, ids: Arc::new(AtomicI64::new(1)), stories: Vec::new(), uncompared: Vec::new() }
    }

    /// The replica serves, started like this; what it holds is compared if it was crashed before.
    async fn serve(&mut self, armed: &Armed) {
        let site = &mut self.bed.sites[0];
        if site.is_running() {
            site.signal_replica(Signal::SIGTERM);
            assert!(site.ended().await.success(), "it stops gracefully");
        }
        site.start_replica(armed);
        site.ready().await;
        self.compare().await;
    }

    async fn compare(&mut self) {
        let state = self.model.caught_up().await;
        for stories in self.stories.drain(..) {
            let (acknowledged, untold) = stories.check();
            eprintln!("          {acknowledged} acknowledged, {untold} in the log and nobody was told");
        }
        let [crashed, whole] = &self.bed.sites;
        let digest = crashed.digest().await;
        assert_eq!(whole.digest_at(digest.index).await, digest, "I1");
        compare::compare(crashed.cql(), &state).await;
        self.uncompared.clear();
    }

    async fn load(&self, kind: Option<Kind>) -> Load {
        let kind = kind.map(|kind| [kind]);
        let here: &[Kind] = kind.as_ref().map_or(&Kind::EVERY[..], |kind| kind);
        let elsewhere: &[Kind] = if kind.is_some() { &[] } else { &ELSEWHERE };
        let servers: [(SocketAddr, &[Kind]); 2] =
            [(self.bed.sites[0].cql(), here), (self.bed.sites[1].cql(), elsewhere)];
        let load = Load::start(&self.model, &self.ids, &servers).await;
        load.acknowledged(if kind.is_some() { BEFORE_ONE } else { BEFORE }).await;
        load
    }

    /// The process has aborted at the point, and no other way.
    async fn crashed(&mut self, at: &str, passings: usize) {
        let status = self.bed.sites[0].ended().await;
        assert_eq!(status.signal(), Some(Signal::SIGABRT as i32), "{at}: {status}");
        assert_eq!(self.bed.sites[0].passings(at), passings + 1, "{at} was passed");
    }

    async fn crash_under_load(&mut self, at: Fault, by: Trigger, kind: Option<Kind>) {
        let armed = Armed { fault: Some(at.name()), ..Armed::default() };
        self.serve(&armed).await;
        self.uncompared.push(Case::Replica { at, by, kind }.name());
        if at == Fault::TakeOverHeld {
            self.truncate().await;
        }
        let passings = self.bed.sites[0].passings(at.name());
        let load = self.load(kind).await;
        if matches!(by, Trigger::RestorePoint | Trigger::Truncation) {
            load.slow_down();
        }
        if by == Trigger::Truncation {
            self.other_ahead().await;
        }
        let site = &self.bed.sites[0];
        site.fire();
        match by {
            Trigger::Load | Trigger::Start => {}
            // Until it dies of one: the first answer may be of a restore point that was under way before the point was armed.
            Trigger::RestorePoint | Trigger::Truncation => {
                let asked = async { while site.post("restore-point", "").await.is_some() {} };
                timeout(PATIENCE, asked).await.expect("a restore point comes to the point");
            }
            Trigger::Stop => site.signal_replica(Signal::SIGTERM),
            Trigger::Rebuild => {
                let past_the_log = session(site.cassandra()).await;
                past_the_log.query_unpaged("INSERT INTO f.plain (k, v) VALUES (-1, -1)", ()).await.unwrap();
                site.post("rebuild", "it differs").await;
            }
        }
        self.crashed(at.name(), passings).await;
        self.stories.push(load.end().await);
    }

    /// The other replica no longer needs what is in the log now: the one that is crashed gives it up.
    async fn other_ahead(&self) {
        let other = &self.bed.sites[1];
        let made = other.post("restore-point", "").await.expect("it serves");
        let index = made.json::<RestorePoint>().await.unwrap().index;
        other.post("restore-point", "").await.expect("it serves");
        let published = async || (self.model.needed_by(1).await >= Some(index)).then_some(());
        until("a position of the other replica", published).await;
    }

    /// Until the log's beginning is given up.
    async fn truncate(&self) {
        until("a log without its beginning", async || {
            for site in &self.bed.sites {
                site.post("restore-point", "").await;
            }
            (self.model.first().await > Position::START).then_some(())
        })
        .await;
    }

    async fn crash_at_start(&mut self, at: Fault) {
        self.uncompared.push(at.name().to_owned());
        if self.bed.sites[0].is_running() {
            let load = self.load(None).await;
            self.bed.sites[0].signal_replica(Signal::SIGKILL);
            self.bed.sites[0].ended().await;
            self.stories.push(load.end().await);
        }
        let passings = self.bed.sites[0].passings(at.name());
        self.bed.sites[0].start_replica(&Armed { fault: Some(at.name()), at_once: true, ..Armed::default() });
        self.crashed(at.name(), passings).await;
    }

    async fn crash_beside(&mut self, victim: Victim, at: Fault) {
        self.serve(&Armed { told: Some(at.name()), ..Armed::default() }).await;
        self.uncompared.push(Case::Beside { victim, at }.name());
        let before = self.bed.sites[0].status().await.unwrap().generation;
        let passings = self.bed.sites[0].passings(at.name());
        let load = self.load(None).await;
        load.slow_down();
        let jvm = self.bed.sites[0].agent_status().await.unwrap().jvm_pid;
        let site = &mut self.bed.sites[0];
        site.fire();
        {
            let site = &*site;
            let passed = || site.passings(at.name()) > passings;
            // The answer to the first may be of a restore point that was under way before the point was armed.
            let asked = async { while site.post("restore-point", "").await.is_some() && !passed() {} };
            // A restore point may take a few tens of milliseconds only; one that was quicker than we are is killed just behind it.
            let told = async {
                while !passed() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            let come = async {
                tokio::select! {
                    () = told => {}
                    () = asked => {}
                }
            };
            timeout(PATIENCE, come).await.expect("a restore point comes to the point");
            assert!(passed(), "it does not make restore points");
        }
        match victim {
            Victim::Cassandra => {
                site.kill_jvm().await;
                let starting = async || {
                    let status = site.agent_status().await?;
                    (status.jvm == Jvm::Starting && status.jvm_pid.is_some() && status.jvm_pid != jvm).then_some(())
                };
                until("a rewound Cassandra that starts", starting).await;
                site.kill_jvm().await;
            }
            Victim::Agent(again) => {
                site.kill_agent();
                site.start_agent(Some(again));
                site.agent_ended().await;
                site.start_agent(None);
            }
        }
        self.stories.push(load.end().await);
        let site = &mut self.bed.sites[0];
        until("another generation", async || {
            (site.status().await.is_some_and(|status| status.generation > before)).then_some(())
        })
        .await;
        site.ready().await;
        self.compare().await;
    }
}

/// Says how to repeat what fails while it lives.
struct Again(Vec<String>);

impl Drop for Again {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "again: FAULTS=\"{}\" cargo test -p replicateddb-server --features fault-points --test faults whatever",
                self.0.join(" ")
            );
        }
    }
}
