//! `make demo`: the main job from nothing to equal data everywhere, on a real cluster, with figures and a picture.

use std::{
    path::PathBuf,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use replicateddb_tests::{
    client::{Ack, Client},
    cluster::{Cluster, project},
    database::Database,
    kind,
    progress::Progress,
    scenario::cache_dir,
    timeline::{Event, Span, Timeline},
};
use serde_json::Value;

/// Shows the whole of ReplicatedDB on a Kubernetes cluster, and fails when anything it shows is not so.
#[derive(Parser)]
struct Args {
    /// Namespace for the database and the client; it is made anew.
    #[arg(long, default_value = "demo")]
    namespace: String,
    /// Acknowledged writes per second that the client aims at.
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// Where the picture goes.
    #[arg(long, env = "DEMO_TIMELINE")]
    timeline: Option<PathBuf>,
}

const NAME: &str = "shop";
const MANIFEST: &str = include_str!("../../manifests/demo.yaml");
/// From apply to Available, images loaded, on two busy cores.
const AVAILABLE_LIMIT: Duration = Duration::from_secs(420);
/// From a pod's deletion to its successor's readiness.
const RECOVERY_LIMIT: Duration = Duration::from_secs(240);
/// Writes that are to be acknowledged after each recovery.
const WRITES_AFTER: usize = 100;

/// What was seen of one deletion.
struct Recovery {
    pod: String,
    deleted_ms: u64,
    ready_ms: u64,
    /// What each replica said of its last replay before, by its order.
    before: Vec<Value>,
    /// Polls of the replicas: time, replica and its `/status`.
    seen: Vec<(u64, String, Value)>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut progress = Progress::default();
    let cluster = Cluster::connect(&args.namespace)?;
    let result = demo(&args, &cluster, &mut progress);
    println!("\nsteps:");
    for (title, took) in progress.steps() {
        println!("  {:>7.1} s  {title}", took.as_secs_f64());
    }
    result.map_err(|error| {
        let kept = kind::keep_logs(&cluster, "demo").unwrap_or_else(|error| format!("could not be kept: {error:#}"));
        error.context(format!("the demonstration failed; logs: {kept}; again: make demo"))
    })
}

fn demo(args: &Args, cluster: &Cluster, progress: &mut Progress) -> Result<()> {
    progress.step("The operator, installed by Helm", |p| {
        kind::install_operator(cluster)?;
        p.note(&cluster.in_namespace(kind::OPERATOR_NAMESPACE).kubectl(&["get", "deployments"])?);
        Ok(())
    })?;
    let database = Database::new(cluster, NAME);
    progress.step("One ReplicatedDB applied; ZooKeeper, Cassandra and three replicas start", |p| {
        cluster.fresh_namespace()?;
        p.note(MANIFEST);
        let begin = Instant::now();
        cluster.apply(MANIFEST)?;
        database.wait_settled(AVAILABLE_LIMIT, |message| p.note(message))?;
        p.note(&format!("Available {:.1} s after kubectl apply", begin.elapsed().as_secs_f64()));
        p.note(&cluster.kubectl(&["get", "rdb,pods"])?);
        Ok(())
    })?;
    let client = progress.step("A client in the cluster writes through all replicas", |p| {
        let client = Client::start(cluster, &kind::image("client"))?;
        client.write(&database, args.rate)?;
        p.note(&format!("a table created, {} rows a second asked for, each write at QUORUM", args.rate));
        Ok(client)
    })?;
    let mut recoveries = Vec::new();
    let victims = ["a replica", "a Cassandra", "the ZooKeeper leader"];
    for (i, victim) in victims.into_iter().enumerate() {
        recoveries.push(progress.step(&format!("{victim} is deleted under load"), |p| {
            let pod = match i {
                0 => database.pods("replica")?.first().cloned().context("no replica")?,
                1 => database.pods("cassandra")?.get(1).cloned().context("no second Cassandra")?,
                _ => database.zookeeper_leader()?,
            };
            let recovery = delete_and_watch(&database, &pod)?;
            tell(&recovery, p);
            demand_replay(&recovery)?;
            client.wait_for(WRITES_AFTER, RECOVERY_LIMIT)?;
            p.note(&format!("{WRITES_AFTER} more writes acknowledged since"));
            Ok(recovery)
        })?);
    }
    let acks = progress.step("The writers stop", |p| {
        let acks = client.stop()?;
        ensure!(acks.len() > 100, "only {} writes were acknowledged", acks.len());
        p.note(&summary(&acks));
        for (kind, count) in client.errors()? {
            p.note(&format!("{count} writes of unknown outcome: {kind}"));
        }
        Ok(acks)
    })?;
    progress.step("Every acknowledged write, looked for on each replica", |p| {
        for pod in database.pods("replica")? {
            let found = client.check(&database.pod(&pod)?.ip)?;
            p.note(&format!(
                "{pod}: {} acknowledged, all found; {} rows in all",
                found["acknowledged"], found["found"]
            ));
        }
        Ok(())
    })?;
    progress.step("Digests of all cells, write times included, at one index of the log", |p| {
        p.note(&database.verify()?);
        Ok(())
    })?;
    let file = progress.step("The timeline of it", |p| {
        let file = args.timeline.clone().unwrap_or_else(|| cache_dir().join("demo/timeline.html"));
        if let Some(dir) = file.parent() {
            std::fs::create_dir_all(dir)?;
        }
        std::fs::write(&file, timeline(&acks, &recoveries).html()).with_context(|| file.display().to_string())?;
        p.note(&file.display().to_string());
        Ok(file)
    })?;
    farewell(&args.namespace, &database, &file)
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

fn delete_and_watch(database: &Database, pod: &str) -> Result<Recovery> {
    let replicas = database.pods("replica")?;
    let before = replicas.iter().map(|replica| Ok(database.replica_status(replica)?["replay"].clone()));
    let before = before.collect::<Result<_>>()?;
    let mut seen = Vec::new();
    let deleted_ms = now_ms();
    database.kill_pod(pod, RECOVERY_LIMIT, |database| {
        for replica in &replicas {
            if let Ok(status) = database.replica_status(replica) {
                seen.push((now_ms(), replica.clone(), status));
            }
        }
    })?;
    database.wait_settled(RECOVERY_LIMIT, |_| ())?;
    for replica in &replicas {
        seen.push((now_ms(), replica.clone(), database.replica_status(replica)?));
    }
    Ok(Recovery { pod: pod.to_owned(), deleted_ms, ready_ms: now_ms(), before, seen })
}

/// The replicas that recovered since the deletion, with their last `/status`.
fn replays(recovery: &Recovery) -> Vec<(&str, &Value)> {
    let last = recovery.seen.iter().rev().take(recovery.before.len()).rev();
    let last = last.map(|(_, replica, status)| (replica.as_str(), status)).zip(&recovery.before);
    last.filter(|((_, status), before)| status["replay"] != **before).map(|(last, _)| last).collect()
}

fn tell(recovery: &Recovery, progress: &Progress) {
    let seconds = (recovery.ready_ms - recovery.deleted_ms) as f64 / 1000.0;
    progress.note(&format!("{}: all Ready again after {seconds:.1} s", recovery.pod));
    for (replica, status) in replays(recovery) {
        let replay = &status["replay"];
        progress.note(&format!(
            "{replica}: restore point {}, rewound: {}, {} records replayed in {:.1} s",
            replay["restore_point"],
            replay["rewound"],
            replay["records"],
            replay["seconds"].as_f64().unwrap_or(0.0)
        ));
    }
}

/// Fails unless the replica whose pod, or whose Cassandra's pod, was deleted executed what came meanwhile: without that
/// the demonstration would have shown nothing.
fn demand_replay(recovery: &Recovery) -> Result<()> {
    let replica = recovery.pod.replace("-cassandra-", "-replica-");
    if !replica.contains("-replica-") {
        return Ok(());
    }
    let replays = replays(recovery);
    let (_, status) = replays
        .iter()
        .find(|(name, _)| *name == replica)
        .with_context(|| format!("{} was deleted under load, and {replica} tells of no recovery", recovery.pod))?;
    let records = status["replay"]["records"].as_u64();
    ensure!(records > Some(0), "{} was deleted under load, and {replica} replayed nothing: {status}", recovery.pod);
    Ok(())
}

fn summary(acks: &[Ack]) -> String {
    let mut latencies: Vec<u64> = acks.iter().map(|ack| ack.latency_us).collect();
    latencies.sort_unstable();
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize] as f64 / 1000.0;
    format!(
        "{} writes acknowledged; latency p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
        acks.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    )
}

fn timeline(acks: &[Ack], recoveries: &[Recovery]) -> Timeline {
    let mut timeline = Timeline {
        title: "ReplicatedDB: writes while pods are deleted".into(),
        writes_ms: acks.iter().map(|ack| ack.at_ms).collect(),
        ..Timeline::default()
    };
    for recovery in recoveries {
        timeline.events.push(Event { at_ms: recovery.deleted_ms, label: format!("{} deleted", recovery.pod) });
        timeline.events.push(Event { at_ms: recovery.ready_ms, label: "all Ready".into() });
        timeline.spans.push(Span {
            lane: recovery.pod.clone(),
            from_ms: recovery.deleted_ms,
            to_ms: recovery.ready_ms,
            label: "until all were Ready".into(),
            replaying: false,
        });
        for pair in recovery.seen.windows(1) {
            let (at, replica, status) = &pair[0];
            let state = status["state"].as_str().unwrap_or_default();
            if matches!(state, "recovering" | "replaying") {
                timeline.spans.push(Span {
                    lane: replica.clone(),
                    from_ms: *at,
                    to_ms: at + 400,
                    label: format!("{state}: {}", status["detail"].as_str().unwrap_or_default()),
                    replaying: true,
                });
            }
        }
    }
    timeline
}

fn farewell(namespace: &str, database: &Database, timeline: &std::path::Path) -> Result<()> {
    let script = cache_dir().join("demo/env");
    std::fs::write(&script, database.cluster.exports())?;
    let replica = database.pods("replica")?.first().cloned().context("no replica")?;
    println!("\nEverything shown above was checked. The database goes on running:");
    println!("  its environment          . {}", script.display());
    println!("  cqlsh                    make cqlsh     or kubectl -n {namespace} exec -it client -- cqlsh {NAME}");
    println!(
        "  for drivers              kubectl -n {namespace} port-forward service/{NAME} 9042     at 127.0.0.1:9042"
    );
    println!("  the global order         kubectl -n {namespace} exec {replica} -- replicateddb-server log --follow");
    println!("  equal data               kubectl -n {namespace} {}", database.verify_command()?.join(" "));
    println!("  what it says of itself   kubectl -n {namespace} get rdb {NAME} -o yaml");
    println!("  the picture              {}", timeline.display());
    println!("  clean up                 kubectl delete namespace {namespace}     or all of it: make cluster-down");
    println!("  (in {})", project().display());
    Ok(())
}
