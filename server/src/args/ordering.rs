//! Where the order is kept, and how it is made.

use std::{path::PathBuf, time::Duration};

use anyhow::bail;
use clap::{Args, ValueEnum};
use replicateddb_ordering::{
    state_log::{self, StateLogConfig},
    znode_log,
};
use replicateddb_store::login::Login;

use super::{ReplicaArgs, parse_duration, read_token, with_id};

/// How the order is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "verbatim")]
pub enum Engine {
    /// Leaderless, in ZooKeeper.
    ZnodeLog,
    /// In ZooKeeper, by a leader that is elected there and appends for all.
    ZooKeeperLeader,
}

impl Engine {
    /// As written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::ZnodeLog => "ZnodeLog",
            Self::ZooKeeperLeader => "ZooKeeperLeader",
        }
    }
}

/// Where the order is kept.
#[derive(Debug, Clone, Args)]
pub struct OrderArgs {
    /// ZooKeeper servers: HOST:PORT,HOST:PORT,...
    #[arg(long, env = "RDB_ZOOKEEPER")]
    pub zookeeper: String,
    /// Path of the database in ZooKeeper.
    #[arg(long, env = "RDB_ROOT", default_value = "/replicateddb")]
    pub root: String,
    /// Path of the log itself in ZooKeeper; by default ROOT/requests. Another one only with --engine ZooKeeperLeader, for all
    /// replicas the same, for good.
    #[arg(long, env = "RDB_LOG_PATH", value_name = "PATH")]
    pub log_path: Option<String>,
    /// File with a token by which replicas and tools log in at ZooKeeper: nobody else may read or change what they keep there, also
    /// what they have kept there before. All of a database have the same, and without it the log can't be read any more.
    #[arg(long, env = "RDB_ZOOKEEPER_TOKEN_FILE", value_name = "FILE")]
    pub zookeeper_token_file: Option<PathBuf>,
    /// Everybody may in spite of it: while the replicas of a database are changed over.
    #[arg(long, env = "RDB_ZOOKEEPER_OPEN", requires_if("true", "zookeeper_token_file"))]
    pub zookeeper_open: bool,
    /// Time after which ZooKeeper takes a silent client for dead.
    #[arg(long, env = "RDB_SESSION_TIMEOUT", default_value = "6s", value_parser = parse_duration)]
    pub session_timeout: Duration,
}

impl OrderArgs {
    /// The log as this replica, or tool, opens it.
    ///
    /// # Errors
    /// The file with the token can't be read, or holds none.
    pub fn config(&self, replica: u32) -> anyhow::Result<znode_log::Config> {
        let auth = self.zookeeper_token_file.as_deref().map(read_token).transpose()?.map(|token| {
            let Login { user, password } = Login::at_zookeeper(&token);
            znode_log::DigestAuth { user, password }
        });
        Ok(znode_log::Config {
            log: self.log_path.clone(),
            session_timeout: self.session_timeout,
            auth,
            open_to_all: self.zookeeper_open,
            ..znode_log::Config::new(self.zookeeper.clone(), self.root.clone(), replica)
        })
    }
}

/// Where the leader is elected, with `--engine ZooKeeperLeader`.
#[derive(Debug, Clone, Default, Args)]
pub struct LeaderArgs {
    /// Path in ZooKeeper of the folder that replicas register in to be elected; by default ROOT/election. Only with --engine
    /// ZooKeeperLeader, for all replicas the same, for good.
    #[arg(long, env = "RDB_ELECTION_PATH", value_name = "PATH")]
    pub election_path: Option<String>,
    /// Path in ZooKeeper of the node of the replica that leads; by default ROOT/leader. Only with --engine ZooKeeperLeader, for all
    /// replicas the same, for good.
    #[arg(long, env = "RDB_LEADER_PATH", value_name = "PATH")]
    pub leader_path: Option<String>,
}

/// What a replica keeps of the order on a volume of its own.
#[derive(Debug, Clone, Args)]
pub struct StateLogArgs {
    /// Folder for entries of the order that were read, made if it is missing; {id} becomes the replica's number. After a restart they
    /// are read there, and no longer in ZooKeeper. No other replica's; whatever is lost or damaged of it is read in ZooKeeper.
    #[arg(long, env = "RDB_STATE_LOG", value_name = "FOLDER")]
    pub state_log: Option<String>,
    /// Most bytes in that folder: the newest entries are kept.
    #[arg(long, env = "RDB_STATE_LOG_BYTES", default_value_t = state_log::MAX_BYTES, value_parser = clap::value_parser!(u64).range(1 << 20..))]
    pub state_log_bytes: u64,
}

impl StateLogArgs {
    /// The state log of replica `id`, if there is to be one.
    pub fn config(&self, id: u32) -> Option<StateLogConfig> {
        let folder = PathBuf::from(with_id(self.state_log.as_deref()?, id));
        Some(StateLogConfig { folder, max_bytes: self.state_log_bytes })
    }
}

impl ReplicaArgs {
    /// Refuses settings of another engine.
    ///
    /// # Errors
    /// There are any; the message names one.
    pub fn check_engine(&self) -> anyhow::Result<()> {
        let paths = [
            ("--election-path", &self.leader.election_path),
            ("--leader-path", &self.leader.leader_path),
            ("--log-path", &self.order.log_path),
        ];
        match paths.into_iter().find(|(_, path)| path.is_some()) {
            Some((flag, _)) if self.engine != Engine::ZooKeeperLeader => {
                let engine = self.engine.name();
                bail!("{flag} is for --engine ZooKeeperLeader, and this replica uses {engine}: leave it out")
            }
            _ => Ok(()),
        }
    }
}
