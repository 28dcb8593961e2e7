//! The command line. Every flag of a server can also be given as an environment variable, `RDB_` and its name, or in a file
//! ([`crate::config_file`]).

mod ordering;
mod tls;

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    num::ParseIntError,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use replicateddb_replica::config::{AWAY_SHARE, LOG_MAX_BYTES, POINT_SHARE, PRESENT_SHARE};
use replicateddb_replica::{backend::Endpoint, checkpoint::Points, frontend::superuser::Superuser};
use replicateddb_store::{agent::AgentArgs, internal::InternalArgs, login::Login};

pub use ordering::{Engine, LeaderArgs, OrderArgs, StateLogArgs};
pub use tls::{ClientTlsArgs, TlsArgs};

/// A CQL database whose every write is in one global order: the replica, its store agent, and tools.
#[derive(Debug, Parser)]
#[command(name = "replicateddb-server", version)]
pub struct Cli {
    /// Format of the log on standard error.
    #[arg(long, global = true, env = "RDB_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// YAML file with further settings: names of flags, without the dashes before them, and values. What is also on the
    /// command line, or in the environment, counts as it stands there.
    #[arg(long, global = true, env = "RDB_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to run.
    #[command(subcommand)]
    pub command: Command,
}

/// What to run.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// A replica: orders writes, applies them to its Cassandra, serves CQL clients.
    Replica(Box<ReplicaArgs>),
    /// The store agent beside a Cassandra: starts it, stops it, takes restore points, rewinds.
    Agent(Box<AgentArgs>),
    /// Prints the global order, one line per record.
    Log(LogArgs),
    /// Compares the data of replicas at one index of the order; exit code 1 if they differ, 2 if there is no table.
    Verify(VerifyArgs),
    /// Has a replica make a checkpoint, and copies it: what it holds at one index of the order, as JSON documents.
    Checkpoint(CheckpointArgs),
    /// Restores the keyspaces of a checkpoint, which must not be there, through a replica: all replicas get them.
    Restore(RestoreArgs),
}

/// Format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Flags of a replica.
#[derive(Debug, Clone, Args)]
pub struct ReplicaArgs {
    /// Number of the replica; by default the number that the host name ends with.
    #[arg(long, env = "RDB_ID")]
    pub id: Option<u32>,
    /// Where the order is kept.
    #[command(flatten)]
    pub order: OrderArgs,
    /// How the order is made.
    #[arg(long, env = "RDB_ENGINE", value_enum, default_value_t = Engine::ZnodeLog)]
    pub engine: Engine,
    /// Where the leader is elected.
    #[command(flatten)]
    pub leader: LeaderArgs,
    /// What is kept of the order.
    #[command(flatten)]
    pub state_log: StateLogArgs,
    /// HOST:PORT of the replica's own Cassandra; {id} becomes the replica's number. With --keyspace: of the shared one.
    #[arg(long, env = "RDB_CASSANDRA")]
    pub cassandra: String,
    /// URL of the store agent beside it; {id} becomes the replica's number.
    #[arg(long, env = "RDB_AGENT", required_unless_present = "keyspace")]
    pub agent: Option<String>,
    /// File with the token that the agent asks for.
    #[arg(long, env = "RDB_AGENT_TOKEN_FILE", required_unless_present = "keyspace")]
    pub agent_token_file: Option<PathBuf>,
    /// Share the Cassandra with other replicas, confined to this keyspace; {id} becomes the replica's number. For
    /// development: after every end but a graceful one, and whenever the Cassandra was restarted, the keyspace is
    /// built anew, from a checkpoint and the log behind it, or from the whole log without --checkpoint-dir. Its Cassandra
    /// runs under `agent --shared`.
    #[arg(long, env = "RDB_KEYSPACE", conflicts_with_all = ["agent", "agent_token_file"])]
    pub keyspace: Option<String>,
    /// Folder for the replica's checkpoints (JSON documents), made if it is missing; {id} becomes the replica's number. With
    /// --keyspace the replica recovers by them: it must be durable and no other replica's, and one is taken as often as
    /// a restore point, with the writes of this replica held for as long as its tables are read, at most 10 s. Without
    /// --keyspace one is taken when it is asked for (`checkpoint`).
    #[arg(long, env = "RDB_CHECKPOINT_DIR")]
    pub checkpoint_dir: Option<String>,
    /// Clients log in, and this role is the superuser to begin with: it is made if it is not there, may log in, and has the
    /// password in --superuser-password-file. Cassandra has to be started with `agent --authentication`.
    #[arg(long, env = "RDB_SUPERUSER", requires = "superuser_password_file", conflicts_with = "keyspace")]
    pub superuser: Option<String>,
    /// File with the superuser's password; read again every 10 s, so that the password can be changed there.
    #[arg(long, env = "RDB_SUPERUSER_PASSWORD_FILE", requires = "superuser")]
    pub superuser_password_file: Option<PathBuf>,
    /// Where CQL clients are served.
    #[arg(long, env = "RDB_LISTEN", default_value = "0.0.0.0:9042")]
    pub listen: SocketAddr,
    /// TLS of that port.
    #[command(flatten)]
    pub tls: TlsArgs,
    /// TLS with the other replicas, and with the store agent.
    #[command(flatten)]
    pub internal: InternalArgs,
    /// Address that drivers find this replica under; each replica needs its own. By default that of --listen.
    #[arg(long, env = "RDB_ADVERTISE")]
    pub advertise: Option<IpAddr>,
    /// Where the admin interface is served (HTTP).
    #[arg(long, env = "RDB_ADMIN_LISTEN", default_value = "0.0.0.0:9470")]
    pub admin_listen: SocketAddr,
    /// Client connections at once.
    #[arg(long, env = "RDB_MAX_CLIENTS", default_value_t = replicateddb_replica::frontend::limits::DEFAULT_MAX_CLIENTS)]
    pub max_clients: usize,
    /// Most records in one entry of the log.
    #[arg(long, env = "RDB_BATCH_MAX_RECORDS", default_value_t = 1024, value_parser = parse_positive::<usize>)]
    pub batch_max_records: usize,
    /// Bytes after which no further record is added to an entry of the log; 24 KiB at most.
    #[arg(long, env = "RDB_BATCH_MAX_BYTES", default_value_t = 24 * 1024, value_parser = parse_positive::<usize>)]
    pub batch_max_bytes: usize,
    /// Entries of this replica on their way to the log at once. With more, a request waits less for the one before it, and
    /// entries are smaller, which costs ZooKeeper more for each request.
    #[arg(long, env = "RDB_BATCHES_IN_FLIGHT", default_value_t = 1, value_parser = parse_positive::<usize>)]
    pub batches_in_flight: usize,
    /// Time between restore points.
    #[arg(long, env = "RDB_RESTORE_POINT_INTERVAL", default_value = "60s", value_parser = parse_duration)]
    pub restore_point_interval: Duration,
    /// Records between restore points.
    #[arg(long, env = "RDB_RESTORE_POINT_RECORDS", default_value_t = 100_000)]
    pub restore_point_records: u64,
    /// Bytes of the log between restore points: ZooKeeper holds what two of them are apart in memory, on each of its servers.
    /// At most a quarter of --log-max-bytes counts.
    #[arg(long, env = "RDB_RESTORE_POINT_BYTES", default_value_t = 24 << 20, value_parser = clap::value_parser!(u64).range(1 << 20..))]
    pub restore_point_bytes: u64,
    /// Records that a replica that is away may be behind the others' restore points before the log no longer waits for it;
    /// when it comes back it takes over a restore point of another one. Ten times as many for one that is there.
    #[arg(long, env = "RDB_LOG_BEHIND_RECORDS", default_value_t = 500_000)]
    pub log_behind_records: u64,
    /// Bytes of the log that a replica that is away may be behind the others' restore points before the log no longer waits
    /// for it, however few the records; half of --log-max-bytes for one that is there, and at most. By default a third of
    /// --log-max-bytes.
    #[arg(long, env = "RDB_LOG_BEHIND_BYTES", value_parser = clap::value_parser!(u64).range(1 << 20..))]
    pub log_behind_bytes: Option<u64>,
    /// Bytes that the log may hold, 300 for each entry included: ZooKeeper has all of it in memory, on each of its servers.
    /// From seven eighths on writes are slowed, and beyond it they are refused (OVERLOADED) until the beginning of the log is
    /// given up; reads go on. Three eighths of the servers' heap are safe.
    #[arg(long, env = "RDB_LOG_MAX_BYTES", default_value_t = LOG_MAX_BYTES, value_parser = clap::value_parser!(u64).range(16 << 20..))]
    pub log_max_bytes: u64,
    /// Silence after which a replica is away. After ten times as long the others take it for gone: reads ask it no longer.
    #[arg(long, env = "RDB_LOG_AWAY_AFTER", default_value = "60s", value_parser = parse_duration)]
    pub log_away_after: Duration,
    /// How long Cassandra must have answered one record with the same error, which may be anything's, before this replica
    /// complains of it in the log. A record that every replica complains of is skipped, and its client gets the error; until
    /// then all wait for it. A replica that has been silent for ten times --log-away-after need not have complained.
    #[arg(long, env = "RDB_COMPLAIN_AFTER", default_value = "60s", value_parser = parse_duration)]
    pub complain_after: Duration,
    /// Fewest entries at the beginning of the log that are given up at once.
    #[arg(long, env = "RDB_LOG_STEP_ENTRIES", default_value_t = 1000, value_parser = parse_positive::<u32>)]
    pub log_step_entries: u32,
    /// Time between two looks at what of the log is still needed.
    #[arg(long, env = "RDB_LOG_KEEP_INTERVAL", default_value = "10s", value_parser = parse_duration)]
    pub log_keep_interval: Duration,
    /// Entries after which a segment of the log is sealed.
    #[arg(long, env = "RDB_LOG_SEGMENT_ENTRIES", default_value_t = 10_000, value_parser = parse_positive::<u32>)]
    pub log_segment_entries: u32,
    /// Data centre shown to drivers.
    #[arg(long, env = "RDB_DATA_CENTER", default_value = "datacenter1")]
    pub data_center: String,
    /// Rack shown to drivers.
    #[arg(long, env = "RDB_RACK", default_value = "rack1")]
    pub rack: String,
}

/// Flags of `log`.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// Where the order is kept.
    #[command(flatten)]
    pub order: OrderArgs,
    /// Go on printing as records are added.
    #[arg(long)]
    pub follow: bool,
    /// First index to print.
    #[arg(long, default_value_t = 0)]
    pub from: u64,
}

/// Flags of `verify`.
#[derive(Debug, Clone, Args)]
pub struct VerifyArgs {
    /// HOST:PORT of a replica's admin interface; once for each replica.
    #[arg(long = "replica", required = true, value_delimiter = ',')]
    pub replicas: Vec<String>,
    /// TLS, where the replicas use it between each other.
    #[command(flatten)]
    pub internal: InternalArgs,
    /// How long to wait for all digests.
    #[arg(long, default_value = "120s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Leave a replica that differs from most of the others as it is. Without, it serves nobody from then on until its store
    /// is built anew, from the log or from a restore point of another replica.
    #[arg(long)]
    pub report_only: bool,
}

/// Flags of `checkpoint`.
#[derive(Debug, Clone, Args)]
pub struct CheckpointArgs {
    /// HOST:PORT of the replica's admin interface. The replica runs with --checkpoint-dir.
    #[arg(long)]
    pub replica: String,
    /// TLS, where the replicas use it between each other.
    #[command(flatten)]
    pub internal: InternalArgs,
    /// Folder that the checkpoint becomes; it must not be there yet.
    #[arg(long)]
    pub output: PathBuf,
    /// File with the token that the replica shows its agent, and asks for: a checkpoint is all of its data. Not with --keyspace.
    #[arg(long, env = "RDB_AGENT_TOKEN_FILE")]
    pub agent_token_file: Option<PathBuf>,
}

/// Flags of `restore`.
#[derive(Debug, Clone, Args)]
pub struct RestoreArgs {
    /// Folder of the checkpoint.
    #[arg(long)]
    pub input: PathBuf,
    /// HOST:PORT where a replica answers CQL.
    #[arg(long)]
    pub contact: String,
    /// Log in as this role.
    #[arg(long, env = "RDB_USER", requires = "password_file")]
    pub user: Option<String>,
    /// File with its password.
    #[arg(long, env = "RDB_PASSWORD_FILE", requires = "user")]
    pub password_file: Option<PathBuf>,
    /// TLS, where the replica's clients use it.
    #[command(flatten)]
    pub tls: ClientTlsArgs,
    /// Restore this keyspace alone; once for each of several.
    #[arg(long = "keyspace", value_delimiter = ',')]
    pub keyspaces: Vec<String>,
}

impl RestoreArgs {
    /// The replica, and how to log in there.
    ///
    /// # Errors
    /// The file with the password can't be read.
    pub fn endpoint(&self) -> anyhow::Result<Endpoint> {
        let login = match (&self.user, &self.password_file) {
            (Some(user), Some(file)) => {
                let password = fs::read_to_string(file)
                    .with_context(|| format!("reading the password from {}", file.display()))?;
                Some(Login { user: user.clone(), password: password.trim_end_matches(['\r', '\n']).to_owned() })
            }
            _ => None,
        };
        Ok(Endpoint::new(self.contact.clone(), login))
    }
}

impl ReplicaArgs {
    /// The superuser, if clients log in.
    ///
    /// # Errors
    /// Its name can't be used, or the file holds no password.
    pub fn superuser(&self) -> anyhow::Result<Option<Superuser>> {
        let (Some(name), Some(file)) = (&self.superuser, &self.superuser_password_file) else { return Ok(None) };
        Superuser::new(name, file).map(Some).map_err(|error| anyhow::anyhow!("--superuser: {error}"))
    }

    /// The replica's number.
    ///
    /// # Errors
    /// None is given, and the host name ends with none.
    pub fn id(&self) -> anyhow::Result<u32> {
        if let Some(id) = self.id {
            return Ok(id);
        }
        let name = match std::env::var("HOSTNAME") {
            Ok(name) => name,
            Err(_) => fs::read_to_string("/proc/sys/kernel/hostname").context("reading the host name")?,
        };
        ordinal(name.trim()).with_context(|| format!("the host name {name} ends with no number: give --id"))
    }

    /// The address that drivers find this replica under.
    ///
    /// # Errors
    /// None is given, and it listens on all addresses.
    pub fn advertised(&self) -> anyhow::Result<IpAddr> {
        let address = self.advertise.unwrap_or(self.listen.ip());
        if address.is_unspecified() {
            bail!("--listen {} names no address that drivers could use: give --advertise", self.listen);
        }
        Ok(address)
    }

    /// The checkpoints of replica `id`, in a folder that is there; `None` if there is to be none.
    ///
    /// # Errors
    /// The folder can't be made.
    pub fn checkpoints(&self, id: u32) -> anyhow::Result<Option<Points>> {
        let Some(template) = &self.checkpoint_dir else { return Ok(None) };
        let dir = PathBuf::from(with_id(template, id));
        fs::create_dir_all(&dir).with_context(|| format!("making the folder {} of --checkpoint-dir", dir.display()))?;
        Ok(Some(Points::new(&dir)))
    }

    /// Bytes of the log between restore points: so many that both of those that are kept leave half of what the log may hold.
    pub fn restore_point_stride(&self) -> u64 {
        self.restore_point_bytes.min(self.log_max_bytes / POINT_SHARE)
    }

    /// Bytes of the log that one that is away is waited for.
    pub fn log_behind(&self) -> u64 {
        let wished = self.log_behind_bytes.unwrap_or(self.log_max_bytes / AWAY_SHARE);
        wished.min(self.log_max_bytes / PRESENT_SHARE)
    }

    /// The token that the agent asks for.
    ///
    /// # Errors
    /// The file can't be read or is empty.
    pub fn agent_token(&self) -> anyhow::Result<String> {
        read_token(self.agent_token_file.as_deref().context("--agent-token-file is missing")?)
    }
}

/// The token in a file.
///
/// # Errors
/// The file can't be read or is empty.
pub fn read_token(file: &Path) -> anyhow::Result<String> {
    let text =
        fs::read_to_string(file).with_context(|| format!("reading the agent's token from {}", file.display()))?;
    match text.trim() {
        "" => bail!("{} is empty", file.display()),
        token => Ok(token.to_owned()),
    }
}

/// Puts the replica's number in place of `{id}`.
pub fn with_id(template: &str, id: u32) -> String {
    template.replace("{id}", &id.to_string())
}

fn ordinal(host: &str) -> Option<u32> {
    let (_, number) = host.split('.').next()?.rsplit_once('-')?;
    number.parse().ok()
}

fn parse_positive<T>(text: &str) -> Result<T, String>
where
    T: FromStr<Err = ParseIntError> + From<u8> + PartialEq,
{
    match text.parse::<T>() {
        Ok(number) if number == T::from(0) => Err("must be at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(error) => Err(error.to_string()),
    }
}

/// `500ms`, `60s`, `5m`, `1h`; not zero.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is no duration, such as 60s"))?;
    let seconds = |factor: u64| number.checked_mul(factor).map(Duration::from_secs);
    let duration = match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" | "" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(3600),
        _ => return Err(format!("{unit:?} is no unit of time: ms, s, m or h")),
    };
    duration.filter(|duration| !duration.is_zero()).ok_or_else(|| format!("{text:?} is out of range"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "0s", "x", "1d", "-1s", "99999999999999999999s", "18446744073709551615h"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_of_hosts() {
        assert_eq!(ordinal("demo-replica-12"), Some(12));
        assert_eq!(ordinal("demo-replica-0.demo-replica-nodes"), Some(0));
        assert_eq!(ordinal("laptop"), None);
        assert_eq!(with_id("http://c-{id}.c:7070", 3), "http://c-3.c:7070");
    }

    #[test]
    fn a_replica_as_started_by_scripts() {
        let cli = Cli::try_parse_from([
            "replicateddb-server",
            "replica",
            "--id",
            "1",
            "--engine",
            "ZnodeLog",
            "--zookeeper",
            "a:1,b:2",
            "--cassandra",
            "127.0.0.2:9142",
            "--agent",
            "http://127.0.0.2:7070",
            "--agent-token-file",
            "/t",
            "--listen",
            "127.0.0.2:9042",
            "--restore-point-interval",
            "5s",
            "--log-format",
            "json",
        ]);
        let cli = cli.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(cli.log_format, LogFormat::Json);
        let Command::Replica(args) = cli.command else { panic!("another command") };
        assert_eq!(args.advertised().ok(), Some([127, 0, 0, 2].into()));
        assert_eq!(args.restore_point_interval, Duration::from_secs(5));
        assert_eq!((args.restore_point_stride(), args.log_behind()), (24 << 20, 32 << 20));
        assert_eq!(args.check_engine().ok(), Some(()));
    }

    #[test]
    fn paths_of_a_leader_belong_to_its_engine() {
        let with = |more: &[&str]| {
            let least =
                ["replicateddb-server", "replica", "--zookeeper", "a:1", "--cassandra", "b:2", "--keyspace", "k"];
            match Cli::try_parse_from(least.iter().chain(more)).unwrap_or_else(|error| panic!("{error}")).command {
                Command::Replica(args) => args.check_engine().map_err(|error| error.to_string()),
                other => panic!("{other:?}"),
            }
        };
        for path in ["--election-path", "--leader-path", "--log-path"] {
            let error = with(&[path, "/x"]).expect_err(path);
            assert!(error.contains(path) && error.contains("--engine ZooKeeperLeader"), "{error}");
            assert_eq!(with(&[path, "/x", "--engine", "ZooKeeperLeader"]), Ok(()));
        }
        assert_eq!(with(&["--state-log", "/x"]), Ok(()), "of any engine in ZooKeeper");
    }

    #[test]
    fn bounds_of_the_log_leave_room_for_each_other() {
        let bounds = |more: &[&str]| {
            let least =
                ["replicateddb-server", "replica", "--zookeeper", "a:1", "--cassandra", "b:2", "--keyspace", "k"];
            match Cli::try_parse_from(least.iter().chain(more)).map(|cli| cli.command) {
                Ok(Command::Replica(args)) => Some((args.restore_point_stride() >> 20, args.log_behind() >> 20)),
                _ => None,
            }
        };
        let max = ["--log-max-bytes", "50331648"];
        assert_eq!(bounds(&max), Some((12, 16)));
        assert_eq!(bounds(&[&max[..], &["--restore-point-bytes", "1048576"]].concat()), Some((1, 16)));
        assert_eq!(bounds(&[&max[..], &["--log-behind-bytes", "1048576"]].concat()), Some((12, 1)));
        assert_eq!(bounds(&[&max[..], &["--log-behind-bytes", "50331648"]].concat()), Some((12, 24)));
        assert_eq!(bounds(&["--log-max-bytes", "1048576"]), None, "a restore point for each record or two");
    }
}
