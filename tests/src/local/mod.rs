//! The suite on the local stack: the real servers as processes of this machine, killed, frozen, wiped and brought back.

mod backup;
mod clients;
mod clock;
mod conditions;
mod disk;
mod emptied;
mod faults;
mod freeze;
mod history;
mod led;
mod lists;
mod load;
mod roles;
mod shared;
mod statements;
mod tls;
mod truncation;
mod wiped;

pub(crate) use load::kind as error_kind;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use replicateddb_local::{ENGINES, Member, Stack};
use scylla::{client::session::Session, statement::Consistency};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::{
    digests,
    scenario::{self, Scenario, failure_dir},
};

/// From nothing to every replica ready, on two busy cores.
const UP_LIMIT: Duration = Duration::from_secs(240);
/// From a start of a member to every replica ready.
const READY_LIMIT: Duration = Duration::from_secs(180);
/// What a driver waits for an answer: longer than any bounded wait of the product.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);
/// The suite's name.
const SUITE: &str = "local";
/// Entries after which the log of the suite's stacks begins another segment.
const SEGMENT_ENTRIES: u32 = 60;
/// The engine of the scenarios about a leader.
const LED: &str = "ZooKeeperLeader";
/// Replicas of the suite's stacks.
pub(crate) const REPLICAS: u8 = 3;

/// What scenarios share: a stack, on addresses of its own, killed at the end.
pub struct Local {
    pub(crate) runtime: Runtime,
    pub(crate) stack: Stack,
    http: reqwest::Client,
    // Last, so that the folder is removed after the processes were killed.
    _dir: tempfile::TempDir,
}

/// Restore points often, segments of tens of entries, and a log that is kept short.
fn replica_args() -> Vec<String> {
    let (segment, behind) = (SEGMENT_ENTRIES.to_string(), truncation::BEHIND_RECORDS.to_string());
    let max_clients = clients::MAX_CLIENTS.to_string();
    let (behind_bytes, max_bytes) = (truncation::BEHIND_BYTES.to_string(), truncation::MAX_BYTES.to_string());
    let flags = [
        ["--restore-point-interval", "5s"],
        ["--log-keep-interval", "1s"],
        ["--log-away-after", "5s"],
        ["--log-step-entries", "20"],
        ["--log-segment-entries", &segment],
        ["--log-behind-records", &behind],
        ["--log-behind-bytes", &behind_bytes],
        ["--log-max-bytes", &max_bytes],
        ["--max-clients", &max_clients],
    ];
    flags.into_iter().flatten().map(str::to_owned).collect()
}

fn scenarios() -> Vec<Scenario<Local>> {
    let parts = [
        statements::scenarios(),
        conditions::scenarios(),
        lists::scenarios(),
        clients::scenarios(),
        faults::scenarios(),
        freeze::scenarios(),
        history::scenarios(),
        disk::scenarios(),
        clock::scenarios(),
        wiped::scenarios(),
        truncation::scenarios(),
        backup::scenarios(),
    ];
    parts.into_iter().flatten().collect()
}

/// Whose the Cassandras of a stack are.
#[derive(Clone, Copy)]
pub(crate) enum Cassandras {
    /// Each replica has its own.
    Own,
    /// So it is, and clients log in.
    WithLogins,
    /// So they do, and use TLS.
    WithTls,
    /// All replicas share one.
    Shared,
    /// Each replica has its own, and one of them leads the log.
    Led,
}

/// Runs the suite, or the scenarios named.
///
/// # Errors
/// When the stack does not come up or a scenario failed.
pub fn run(only: &[String]) -> Result<()> {
    let others = [roles::scenarios(), tls::scenarios(), shared::scenarios(), led::scenarios()];
    let all: Vec<_> = scenarios().into_iter().chain(others.into_iter().flatten()).collect();
    scenario::check_names(SUITE, &all, only)?;
    let parts = [
        run_on(Cassandras::Own, &scenarios(), only),
        run_on(Cassandras::WithLogins, &roles::scenarios(), only),
        run_on(Cassandras::WithTls, &tls::scenarios(), only),
        run_on(Cassandras::Shared, &shared::scenarios(), only),
        run_on(Cassandras::Led, &led::scenarios(), only),
    ];
    let failed: Vec<_> = parts.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect();
    match failed.is_empty() {
        true => Ok(()),
        false => bail!(failed.join("; ")),
    }
}

/// Runs those of the scenarios that are in `only` (all, when empty) on a stack of that kind; none, no stack.
fn run_on(cassandras: Cassandras, scenarios: &[Scenario<Local>], only: &[String]) -> Result<()> {
    let these = |name: &&String| scenarios.iter().any(|scenario| scenario.name == name.as_str());
    let mine: Vec<String> = only.iter().filter(these).cloned().collect();
    if mine.is_empty() && !only.is_empty() {
        return Ok(());
    }
    let mut local = Local::start(SUITE, cassandras, replica_args())?;
    let result = scenario::run(SUITE, scenarios, &mine, &mut local, |local, name| local.keep_logs(SUITE, name));
    local.down()?;
    result
}

/// The engine of a stack of that kind: `ENGINE`, unless scenarios are about another one.
fn engine(cassandras: Cassandras) -> String {
    match (cassandras, std::env::var("ENGINE")) {
        (Cassandras::Led, _) => LED.to_owned(),
        (_, Ok(engine)) if !engine.is_empty() => engine,
        _ => ENGINES[0].to_owned(),
    }
}

impl Local {
    /// Starts the stack of a suite, with these further arguments for its replicas.
    ///
    /// # Errors
    /// When it does not come up; the message names its logs.
    pub(crate) fn start(suite: &str, cassandras: Cassandras, replica_args: Vec<String>) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let stack = Stack::builder()
            .dir(dir.path().join("stack"))
            .replicas(REPLICAS)
            .shared_cassandra(matches!(cassandras, Cassandras::Shared))
            .authentication(matches!(cassandras, Cassandras::WithLogins | Cassandras::WithTls))
            .tls(matches!(cassandras, Cassandras::WithTls))
            .engine(engine(cassandras))
            .zookeepers(3)
            .free_loopback()
            .kill_on_drop()
            .replica_args(replica_args)
            .create()?;
        let runtime = Runtime::new()?;
        let mut progress = |time: Duration, line: &str| println!("    [{:>5.1} s] {line}", time.as_secs_f64());
        if let Err(error) = runtime.block_on(stack.up(UP_LIMIT, &mut progress)) {
            let kept =
                keep_logs(&stack, suite, "start").unwrap_or_else(|error| format!("could not be kept: {error:#}"));
            return Err(error.context(format!("the stack did not start; its logs: {kept}; again: make test-{suite}")));
        }
        let http = reqwest::Client::builder().timeout(Duration::from_secs(120)).build()?;
        Ok(Self { runtime, stack, http, _dir: dir })
    }

    /// Stops the stack.
    ///
    /// # Errors
    /// When a member does not end.
    pub(crate) fn down(&self) -> Result<()> {
        self.runtime.block_on(self.stack.down(&mut |_, _| ()))
    }

    /// Copies the members' logs to where a suite's failed scenarios' logs are; gives the folder.
    ///
    /// # Errors
    /// When they can't be copied.
    pub(crate) fn keep_logs(&self, suite: &str, name: &str) -> Result<String> {
        keep_logs(&self.stack, suite, name)
    }

    /// A table's name in statements: of a keyspace, or, where replicas are confined to one, of that.
    fn table(&self, keyspace: &str, table: &str) -> String {
        let separator = if self.stack.settings().shared_cassandra { '_' } else { '.' };
        format!("{keyspace}{separator}{table}")
    }

    /// Makes a keyspace for such tables, where it takes one.
    async fn make_keyspace(&self, session: &Session, name: &str) -> Result<()> {
        if !self.stack.settings().shared_cassandra {
            let replication = "{'class': 'SimpleStrategy', 'replication_factor': 3}";
            let text = format!("CREATE KEYSPACE IF NOT EXISTS {name} WITH replication = {replication}");
            session.query_unpaged(text, ()).await?;
        }
        Ok(())
    }

    fn members(&self) -> Vec<Member> {
        members(&self.stack)
    }

    /// A session that talks to replica `i` alone.
    async fn session(&self, i: u8, consistency: Consistency) -> Result<Session> {
        session_at(self.stack.cql(i), consistency).await.with_context(|| format!("replica-{i}"))
    }

    /// What replica `i` says of itself.
    async fn status(&self, i: u8) -> Result<Value> {
        Ok(self.http.get(format!("http://{}/status", self.stack.admin(i))).send().await?.json().await?)
    }

    /// Waits until ZooKeeper has its quorum again and every replica serves.
    pub(crate) async fn wait_ready(&self) -> Result<()> {
        let begin = Instant::now();
        self.stack.wait_ready(&self.members(), begin + READY_LIMIT, begin, &mut |_, _| ()).await
    }

    /// Digests of every table on every replica at one index, by the product's own tool (I1).
    pub(crate) fn verify(&self) -> Result<()> {
        let Compared { equal, text } = self.compare(&["--report-only"])?;
        ensure!(equal, "replicas differ:\n{text}");
        println!("{}", text.trim_end());
        digests::ensure_compared(&text)
    }

    /// What that tool says, with these flags.
    fn compare(&self, flags: &[&str]) -> Result<Compared> {
        let replicas: Vec<String> = (0..REPLICAS).map(|i| format!("--replica={}", self.stack.admin(i))).collect();
        let arguments = ["verify"].iter().chain(flags).copied().chain(replicas.iter().map(String::as_str));
        let (equal, text) = tool(arguments)?;
        Ok(Compared { equal, text })
    }
}

/// Runs the product's own tool: whether it has succeeded, and what it said.
fn tool<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Result<(bool, String)> {
    let server = std::env::current_exe()?.with_file_name("replicateddb-server");
    let done = std::process::Command::new(&server).args(arguments).output();
    let done = done.with_context(|| server.display().to_string())?;
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    Ok((done.status.success(), said))
}

/// What a comparison of all replicas says.
struct Compared {
    equal: bool,
    text: String,
}

/// A session that talks to this server alone.
async fn session_at(address: SocketAddr, consistency: Consistency) -> Result<Session> {
    crate::load::session(&[address], consistency, REQUEST_LIMIT).await
}

fn members(stack: &Stack) -> Vec<Member> {
    stack.settings().members()
}

/// Copies the members' logs to where failed scenarios' logs are; gives the folder. A member that never ran has none.
fn keep_logs(stack: &Stack, suite: &str, name: &str) -> Result<String> {
    let dir = failure_dir(suite, name)?;
    for (member, log) in members(stack).into_iter().map(|member| (member, stack.log(member))) {
        if log.exists() {
            std::fs::copy(&log, dir.join(format!("{member}.log"))).with_context(|| log.display().to_string())?;
        }
    }
    Ok(dir.display().to_string())
}

/// The one string of a result's first row.
async fn text(session: &Session, query: &str) -> Result<Option<String>> {
    let rows = session.query_unpaged(query, ()).await?.into_rows_result()?;
    Ok(rows.maybe_first_row::<(Option<String>,)>()?.and_then(|row| row.0))
}

/// The one number of a result's first row.
async fn number(session: &Session, query: &str) -> Result<i64> {
    let rows = session.query_unpaged(query, ()).await?.into_rows_result()?;
    Ok(rows.first_row::<(i64,)>()?.0)
}

/// The error's text; an answer without an error is the failure here.
async fn refused(session: &Session, statement: &str) -> Result<String> {
    match session.query_unpaged(statement, ()).await {
        Ok(_) => bail!("accepted: {statement}"),
        Err(error) => Ok(error.to_string()),
    }
}
