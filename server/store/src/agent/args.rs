//! The agent's command line.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::memory::parse_size;
use crate::internal::InternalArgs;

/// How the JVM is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// Little memory and a quick start: tests, laptops. Slower under load.
    Small,
    /// Sized by its heap.
    Default,
}

/// Runs Cassandra for one replica: starts and stops it, takes restore points and rewinds to them. Or, with --shared, just
/// keeps one up that several replicas share.
#[derive(Debug, Clone, Args)]
pub struct AgentArgs {
    /// Folder of all data, on a volume of its own; nothing else is written, but for /tmp.
    #[arg(long, env = "RDB_DATA_DIR", default_value = "/data")]
    pub data_dir: PathBuf,
    /// Where the replica reaches the agent.
    #[arg(long, env = "RDB_LISTEN", default_value = "0.0.0.0:7070")]
    pub listen: SocketAddr,
    /// File with the token that the replica shows.
    #[arg(long, env = "RDB_TOKEN_FILE")]
    pub token_file: PathBuf,
    /// TLS with the replica, and with other agents.
    #[command(flatten)]
    pub internal: InternalArgs,
    /// Cassandra is shared by several replicas, each in a keyspace of its own: it is kept up, and that is all. No restore
    /// points, no rewinds; a data directory is made for one mode and keeps it.
    #[arg(long, env = "RDB_SHARED")]
    pub shared: bool,
    /// Clients log in: Cassandra has roles with passwords and permissions. The role that the replica uses is made at the first
    /// start, and has a password that follows from the token.
    #[arg(long, env = "RDB_AUTHENTICATION", conflicts_with = "shared")]
    pub authentication: bool,
    /// Folder of Cassandra's jars and the Jolokia agent's.
    #[arg(long, env = "RDB_CASSANDRA_LIB", default_value = "/opt/cassandra/lib")]
    pub cassandra_lib: PathBuf,
    /// Address on which Cassandra answers CQL.
    #[arg(long, env = "RDB_CQL_LISTEN_ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    pub cql_listen_address: IpAddr,
    /// Port on which Cassandra answers CQL.
    #[arg(long, env = "RDB_CQL_PORT", default_value_t = 9042)]
    pub cql_port: u16,
    /// The address Cassandra tells clients when it listens on all of them. Clients of the replicas never see it.
    #[arg(long, env = "RDB_BROADCAST_ADDRESS")]
    pub broadcast_address: Option<IpAddr>,
    /// Cassandra's port for other nodes, of which there are none; on loopback.
    #[arg(long, env = "RDB_STORAGE_PORT", default_value_t = 7000)]
    pub storage_port: u16,
    /// The port for managing the JVM; on loopback, with a password made anew at each start.
    #[arg(long, env = "RDB_JOLOKIA_PORT", default_value_t = 8778)]
    pub jolokia_port: u16,
    /// Java heap, such as 512m; by default chosen by the container's memory limit.
    #[arg(long, env = "RDB_HEAP", value_parser = parse_size)]
    pub heap: Option<u64>,
    /// Cassandra's cluster name; a data directory keeps the one it was made with.
    #[arg(long, env = "RDB_CLUSTER_NAME", default_value = "replicateddb")]
    pub cluster_name: String,
    /// The Java 17 to run.
    #[arg(long, env = "RDB_JAVA", default_value = "java")]
    pub java: PathBuf,
    /// How the JVM is set up.
    #[arg(long, env = "RDB_PROFILE", value_enum, default_value_t = Profile::Default)]
    pub profile: Profile,
    /// File with settings for cassandra.yaml, one a line: memory, concurrency, throughput, longer time-outs, warnings.
    /// Any other is refused: it could make replicas differ.
    #[arg(long, env = "RDB_EXTRA_CONFIG")]
    pub extra_config: Option<PathBuf>,
    /// Longest time a stop may take, seconds: draining, then killing. Below the pod's grace period.
    #[arg(long, env = "RDB_STOP_TIMEOUT", default_value = "25", value_parser = parse_seconds)]
    pub stop_timeout: Duration,
    /// Time without any CQL answer after which a running Cassandra is taken for hung and ended, seconds; the replica then
    /// has it rewound, or, if it is shared, it is started again.
    #[arg(long, env = "RDB_HANG_LIMIT", default_value = "60", value_parser = parse_seconds)]
    pub hang_limit: Duration,
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('s').unwrap_or(text);
    let seconds = number.parse().map_err(|_| format!("{text:?} is no number of seconds"))?;
    if (1..=3600).contains(&seconds) {
        Ok(Duration::from_secs(seconds))
    } else {
        Err("expected 1 to 3600 seconds".to_owned())
    }
}

impl AgentArgs {
    /// Cassandra's address for other nodes (itself): the loopback address that CQL is on, else 127.0.0.1, so that
    /// several of them can share one machine and none of them notices that its pod's address has changed.
    pub(crate) fn storage_address(&self) -> IpAddr {
        if self.cql_listen_address.is_loopback() { self.cql_listen_address } else { IpAddr::V4(Ipv4Addr::LOCALHOST) }
    }

    /// Where the agent itself reaches Cassandra's CQL port.
    pub(crate) fn cql(&self) -> SocketAddr {
        let address = if self.cql_listen_address.is_unspecified() {
            IpAddr::V4(Ipv4Addr::LOCALHOST)
        } else {
            self.cql_listen_address
        };
        SocketAddr::new(address, self.cql_port)
    }
}
