//! `replicateddb-local`: the whole stack as processes on this machine.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use replicateddb_local::{Ended, Member, MemberStatus, ROOT, Running, Stack, Target, default_dir};

/// Runs ReplicatedDB on this machine: ZooKeeper, Cassandras and replicas as processes.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Folder of the stack: data, logs, settings [default: local in the cache folder]
    #[arg(long, global = true, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start everything that does not run, and wait until every replica serves clients
    Up(Box<Up>),
    /// Stop everything: replicas, then Cassandras, then ZooKeeper. The data stays
    Down {
        /// Remove data, logs and settings as well
        #[arg(long)]
        delete: bool,
    },
    /// Show every member; exit status 1 unless all are ready
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Kill a member without warning (SIGKILL)
    Kill(Part),
    /// Ask a member to stop, and wait for it
    Stop {
        /// replica-N, cassandra-N or zookeeper-N
        member: Member,
    },
    /// Start a member and wait until it is ready
    Start {
        /// replica-N, cassandra-N or zookeeper-N
        member: Member,
        /// Longest wait, in seconds
        #[arg(long, default_value_t = 300, value_name = "SECONDS")]
        timeout: u64,
    },
    /// Freeze a member (SIGSTOP): it keeps its connections and does nothing
    Freeze(Part),
    /// Let a frozen member go on
    Thaw(Part),
    /// Remove the data of a stopped member
    Wipe {
        /// replica-N, cassandra-N or zookeeper-N
        member: Member,
    },
}

#[derive(Args)]
struct Part {
    /// replica-N, cassandra-N or zookeeper-N
    member: Member,
    /// Of a Cassandra its JVM alone, not the agent that runs it
    #[arg(long)]
    jvm: bool,
}

impl Part {
    fn target(&self) -> Target {
        if self.jvm { Target::Jvm } else { Target::Whole }
    }
}

/// What is not given stays as it is in the stack of the folder.
#[derive(Args)]
struct Up {
    /// Replicas: 1 to 9 [default: 3]
    #[arg(long)]
    replicas: Option<u8>,
    /// One Cassandra for all replicas, each in a keyspace of its own, instead of one for each: less memory, but one point
    /// of failure [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    shared_cassandra: Option<bool>,
    /// ZooKeeper servers: 1, 3 or 5 [default: 1]
    #[arg(long)]
    zookeepers: Option<u8>,
    /// Clients log in: a superuser admin is made, and a file with its password. It can be switched on while the stack is
    /// down, and not off [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    authentication: Option<bool>,
    /// Clients use TLS: an authority is made, and a certificate for the replicas [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    tls: Option<bool>,
    /// How writes are ordered [default: ZnodeLog]
    #[arg(long)]
    engine: Option<String>,
    /// Use 127.RANGE.x.y, so that several stacks can run side by side [default: 0]
    #[arg(long)]
    range: Option<u8>,
    /// Heap of each Cassandra [default: 512m]
    #[arg(long, value_name = "SIZE")]
    heap: Option<String>,
    /// Tuning of each Cassandra: small starts fast, default is for benchmarks [default: small]
    #[arg(long)]
    profile: Option<String>,
    /// A further argument for every store agent; may be repeated
    #[arg(long = "agent-arg", value_name = "ARG", allow_hyphen_values = true)]
    agent_args: Vec<String>,
    /// A further argument for every replica; may be repeated
    #[arg(long = "replica-arg", value_name = "ARG", allow_hyphen_values = true)]
    replica_args: Vec<String>,
    /// The server executable [default: the one beside this program]
    #[arg(long, value_name = "FILE")]
    server_bin: Option<PathBuf>,
    /// The java to run [default: a Java 17 from JAVA_HOME, /usr/lib/jvm or the path]
    #[arg(long, value_name = "FILE")]
    java: Option<PathBuf>,
    /// Folder of the fetched jars [default: artifacts in the cache folder]
    #[arg(long, value_name = "DIR")]
    artifacts: Option<PathBuf>,
    /// Longest wait, in seconds
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    timeout: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let dir = cli.dir.unwrap_or_else(default_dir);
    match run(cli.command, dir).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("replicateddb-local: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command, dir: PathBuf) -> Result<ExitCode> {
    let command = match command {
        Command::Up(up) => return bring_up(*up, dir).await,
        other => other,
    };
    let Some(stack) = Stack::open(&dir)? else {
        if matches!(command, Command::Down { .. }) {
            println!("There is no stack in {}.", dir.display());
            return Ok(ExitCode::SUCCESS);
        }
        bail!("there is no stack in {}: 'up' makes one", dir.display());
    };
    match command {
        Command::Up(_) => {}
        Command::Down { delete } => take_down(stack, delete).await?,
        Command::Status { json } => return show_status(&stack, json).await,
        Command::Kill(part) => {
            stack.kill(part.member, part.target()).await?;
            println!("{} killed", part.member);
        }
        Command::Stop { member } => stop(&stack, member).await?,
        Command::Start { member, timeout } => start(&stack, member, Duration::from_secs(timeout)).await?,
        Command::Freeze(part) => {
            stack.freeze(part.member, part.target()).await?;
            println!("{} frozen", part.member);
        }
        Command::Thaw(part) => {
            stack.thaw(part.member, part.target()).await?;
            println!("{} thawed", part.member);
        }
        Command::Wipe { member } => {
            stack.wipe(member).await?;
            println!("{member} wiped");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn say(time: Duration, line: &str) {
    println!("{:6.1} s  {line}", time.as_secs_f64());
}

async fn bring_up(up: Up, dir: PathBuf) -> Result<ExitCode> {
    let begin = Instant::now();
    let mut builder = Stack::builder().dir(dir);
    macro_rules! set {
        ($($option:expr => $method:ident),*) => { $(if let Some(value) = $option { builder = builder.$method(value); })* };
    }
    set!(
        up.replicas => replicas, up.shared_cassandra => shared_cassandra, up.zookeepers => zookeepers,
        up.authentication => authentication, up.tls => tls, up.engine => engine, up.range => base_loopback,
        up.heap => cassandra_heap, up.profile => cassandra_profile, up.server_bin => server_bin, up.java => java,
        up.artifacts => artifacts, some(up.agent_args) => agent_args, some(up.replica_args) => replica_args
    );
    let stack = builder.create()?;
    println!("Stack in {}: {}", stack.dir().display(), sizes(&stack));
    stack.up(Duration::from_secs(up.timeout), &mut say).await?;
    println!("Every replica serves clients after {:.1} s.\n{}", begin.elapsed().as_secs_f64(), how_to_use(&stack));
    Ok(ExitCode::SUCCESS)
}

fn some(list: Vec<String>) -> Option<Vec<String>> {
    (!list.is_empty()).then_some(list)
}

fn sizes(stack: &Stack) -> String {
    let settings = stack.settings();
    let shared = if settings.shared_cassandra { " that share a Cassandra" } else { "" };
    format!("{} ZooKeeper, {} replica(s){shared}, engine {}", settings.zookeepers, settings.replicas, settings.engine)
}

fn how_to_use(stack: &Stack) -> String {
    let settings = stack.settings();
    let all = |address: &dyn Fn(u8) -> String| (0..settings.replicas).map(address).collect::<Vec<_>>();
    let hosts = all(&|i| stack.cql(i).ip().to_string()).join(", ");
    let admins = all(&|i| format!("--replica {}", stack.admin(i))).join(" ");
    let (first, zookeeper) = (stack.cql(0), settings.zookeeper_connect());
    let superuser = stack.superuser();
    let login =
        superuser.as_ref().map(|user| format!(" -u {} -p \"$(cat '{}')\"", user.name, user.password_file.display()));
    let user = superuser.map(|user| format!("; user {}, password in {}", user.name, user.password_file.display()));
    let (login, user) = (login.unwrap_or_default(), user.unwrap_or_default());
    let authority = stack.tls().map(|tls| tls.authority.certificate().display().to_string());
    let trusting = authority.as_ref().map(|file| format!("SSL_CERTFILE='{file}' ")).unwrap_or_default();
    let ssl = if authority.is_some() { " --ssl" } else { "" };
    let trusted = authority.map(|file| format!("; TLS, trusting {file}")).unwrap_or_default();
    format!(
        "  cqlsh         {trusting}cqlsh {} {}{ssl}{login}\n  \
           drivers       contact points {hosts}; port {}{user}{trusted}\n  \
           global order  replicateddb-server log --follow --zookeeper {zookeeper} --root {ROOT}\n  \
           compare       replicateddb-server verify {admins}\n  \
           break it      replicateddb-local kill replica-0 (or cassandra-0, zookeeper-0; stop, freeze, thaw, start)\n  \
           logs          {}\n  \
           end           replicateddb-local down",
        first.ip(),
        first.port(),
        first.port(),
        stack.dir().join("logs").display()
    )
}

async fn take_down(stack: Stack, delete: bool) -> Result<()> {
    stack.down(&mut say).await?;
    if delete {
        let dir = stack.dir().to_owned();
        stack.delete().await?;
        println!("Nothing runs; {} is deleted.", dir.display());
    } else {
        println!("Nothing runs; the data stays in {} ('down --delete' removes it).", stack.dir().display());
    }
    Ok(())
}

async fn stop(stack: &Stack, member: Member) -> Result<()> {
    match stack.stop(member).await? {
        Ended::WasNotRunning => println!("{member} was not running"),
        Ended::Gracefully => println!("{member} stopped"),
        Ended::Killed => println!("{member} killed: it did not stop by itself"),
    }
    Ok(())
}

async fn start(stack: &Stack, member: Member, limit: Duration) -> Result<()> {
    let begin = Instant::now();
    if !stack.start(member).await? {
        println!("{member} runs already");
    }
    stack.wait_ready(&[member], begin + limit, begin, &mut say).await
}

async fn show_status(stack: &Stack, json: bool) -> Result<ExitCode> {
    let all = stack.status_all().await;
    if json {
        let lines: Vec<_> = all.iter().map(|status| as_json(stack, status)).collect();
        println!("{}", serde_json::to_string_pretty(&lines).context("writing JSON")?);
    } else {
        println!("{:<12} {:<8} {:>8} {:>9}  {:<22} DETAIL", "NAME", "STATE", "PID", "MEMORY", "ADDRESS");
        for status in &all {
            println!("{}", as_line(stack, status).trim_end());
        }
    }
    let ready = all.iter().all(|status| status.answer.ready);
    Ok(if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn state(status: &MemberStatus) -> &'static str {
    match status.running {
        Running::Yes if status.answer.ready => "ready",
        Running::Yes => "running",
        Running::Frozen => "frozen",
        Running::No => "stopped",
        Running::Died => "died",
    }
}

fn address(stack: &Stack, member: Member) -> String {
    let settings = stack.settings();
    match member {
        Member::Zookeeper(i) => settings.zookeeper_client(i),
        Member::Cassandra(i) => settings.agent(i),
        Member::Replica(i) => settings.replica_cql(i),
    }
    .to_string()
}

fn as_line(stack: &Stack, status: &MemberStatus) -> String {
    let pid = status.pid.map(|pid| pid.to_string()).unwrap_or_default();
    let memory = format!("{} MiB", status.memory_bytes >> 20);
    let (name, state, address) = (status.member.to_string(), state(status), address(stack, status.member));
    format!("{name:<12} {state:<8} {pid:>8} {memory:>9}  {address:<22} {}", status.answer.detail)
}

fn as_json(stack: &Stack, status: &MemberStatus) -> serde_json::Value {
    serde_json::json!({
        "name": status.member.to_string(),
        "state": state(status),
        "pid": status.pid,
        "memory_bytes": status.memory_bytes,
        "address": address(stack, status.member),
        "detail": status.answer.detail,
        "log": stack.log(status.member),
    })
}
