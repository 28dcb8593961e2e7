//! What a stack is made of, kept in its folder as `stack.json`, and the addresses that follow from it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::member::Member;

/// Most replicas in one stack; the ports of the Cassandras are laid out for that many.
pub const MAX_REPLICAS: u8 = 9;
/// Sizes of a ZooKeeper ensemble that make sense: an even one tolerates no more failures than the odd one below.
pub const ZOOKEEPER_SIZES: [u8; 3] = [1, 3, 5];
/// The engines a replica can be started with.
pub const ENGINES: [&str; 2] = ["ZnodeLog", "ZooKeeperLeader"];

/// The name of the settings file in the folder of a stack.
const FILE: &str = "stack.json";

/// What a stack is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Replicas: 1 to [`MAX_REPLICAS`].
    pub replicas: u8,
    /// One Cassandra for all replicas, each in a keyspace of its own, instead of one for each.
    #[serde(default)]
    pub shared_cassandra: bool,
    /// ZooKeeper servers: one of [`ZOOKEEPER_SIZES`].
    pub zookeepers: u8,
    /// Clients log in by user name and password.
    #[serde(default)]
    pub authentication: bool,
    /// Clients use TLS.
    #[serde(default)]
    pub tls: bool,
    /// How the replicas order their writes: one of [`ENGINES`].
    pub engine: String,
    /// The second number of every address used: 0 stands for 127.0.x.y, 7 for 127.7.x.y.
    pub range: u8,
    /// Heap of each Cassandra, as the JVM writes it (`512m`).
    pub cassandra_heap: String,
    /// Tuning of each Cassandra: `small` or `default`.
    pub cassandra_profile: String,
    /// Further arguments for every `replicateddb-server agent`.
    #[serde(default)]
    pub agent_args: Vec<String>,
    /// Further arguments for every `replicateddb-server replica`.
    #[serde(default)]
    pub replica_args: Vec<String>,
    /// The server executable; found beside the running one if none is named.
    #[serde(default)]
    pub server_bin: Option<PathBuf>,
    /// The `java` to run; looked for if none is named.
    #[serde(default)]
    pub java: Option<PathBuf>,
    /// The folder of the fetched jars.
    pub artifacts: PathBuf,
}

impl Settings {
    /// A stack of one ZooKeeper and three replicas on 127.0.x.y.
    #[must_use]
    pub fn standard() -> Self {
        Self {
            replicas: 3,
            shared_cassandra: false,
            zookeepers: 1,
            authentication: false,
            tls: false,
            engine: ENGINES[0].to_owned(),
            range: 0,
            cassandra_heap: "512m".to_owned(),
            cassandra_profile: "small".to_owned(),
            agent_args: Vec::new(),
            replica_args: Vec::new(),
            server_bin: None,
            java: None,
            artifacts: crate::find::cache_root().join("artifacts"),
        }
    }

    /// Refuses sizes and names that can't work, naming the remedy.
    pub fn check(&self) -> Result<()> {
        ensure!(
            (1..=MAX_REPLICAS).contains(&self.replicas),
            "{} replicas: a local stack has 1 to {MAX_REPLICAS}",
            self.replicas
        );
        ensure!(
            ZOOKEEPER_SIZES.contains(&self.zookeepers),
            "{} ZooKeeper servers: use one of {ZOOKEEPER_SIZES:?}, an even number tolerates no more failures",
            self.zookeepers
        );
        ensure!(
            !(self.authentication && self.shared_cassandra),
            "replicas that share a Cassandra would share its roles, too: use one of authentication and shared Cassandra"
        );
        ensure!(
            ENGINES.contains(&self.engine.as_str()),
            "engine '{}' does not exist: use one of {ENGINES:?}",
            self.engine
        );
        ensure!(
            ["small", "default"].contains(&self.cassandra_profile.as_str()),
            "Cassandra profile '{}' does not exist: use small or default",
            self.cassandra_profile
        );
        Ok(())
    }

    /// Refuses to turn a stack that has data into one that its data does not fit.
    pub fn check_change(&self, from: &Self) -> Result<()> {
        let remedy = "remove the old one with 'down --delete', or give the new one another --dir and --range";
        if self.replicas < from.replicas {
            bail!("this stack has {} replicas and can't shrink to {}: {remedy}", from.replicas, self.replicas);
        }
        if self.shared_cassandra != from.shared_cassandra {
            let kind =
                |shared| if shared { "one Cassandra that its replicas share" } else { "a Cassandra for each replica" };
            bail!("this stack has {}, not {}: {remedy}", kind(from.shared_cassandra), kind(self.shared_cassandra));
        }
        if from.authentication && !self.authentication {
            bail!("this stack has roles, and no Cassandra starts over them without logins: {remedy}");
        }
        if self.zookeepers != from.zookeepers {
            bail!("this stack has {} ZooKeeper servers, not {}: {remedy}", from.zookeepers, self.zookeepers);
        }
        if self.engine != from.engine {
            bail!("this stack orders by {}, not {}: {remedy}", from.engine, self.engine);
        }
        Ok(())
    }

    /// Reads the settings of the stack in `dir`; `None` if there is none.
    pub fn load(dir: &Path) -> Result<Option<Self>> {
        let file = dir.join(FILE);
        let text = match std::fs::read(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("reading {}", file.display())),
        };
        let settings: Self = serde_json::from_slice(&text)
            .with_context(|| format!("{} is damaged; remove {} to begin anew", file.display(), dir.display()))?;
        settings.check()?;
        Ok(Some(settings))
    }

    /// Writes the settings into `dir`, whole or not at all.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let file = dir.join(FILE);
        crate::process::write_whole(&file, &serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("writing {}", file.display()))
    }

    /// Every member, in the order in which they are started.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        Member::all(self.replicas, self.cassandras(), self.zookeepers)
    }

    /// How many Cassandras there are.
    #[must_use]
    pub fn cassandras(&self) -> u8 {
        if self.shared_cassandra { 1 } else { self.replicas }
    }

    /// The number of the Cassandra that replica `i` works with.
    #[must_use]
    pub fn cassandra_of(&self, i: u8) -> u8 {
        if self.shared_cassandra { 0 } else { i }
    }

    /// What clients may call the replicas: their addresses, of as many as there can be.
    #[must_use]
    pub fn client_names(&self) -> Vec<String> {
        let addresses = (0..MAX_REPLICAS).map(|i| self.replica_cql(i).ip().to_string());
        addresses.chain(["localhost".to_owned()]).collect()
    }

    fn address(&self, net: u8, index: u8, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, self.range, net, 1 + index)), port)
    }

    /// Where clients of replica `i` connect (CQL).
    #[must_use]
    pub fn replica_cql(&self, i: u8) -> SocketAddr {
        self.address(0, i, 9042)
    }

    /// The admin HTTP server of replica `i`.
    #[must_use]
    pub fn replica_admin(&self, i: u8) -> SocketAddr {
        self.address(0, i, 9470)
    }

    /// CQL of Cassandra `i` itself, past the log: for tests that look at cells, never for writing.
    #[must_use]
    pub fn cassandra_cql(&self, i: u8) -> SocketAddr {
        self.address(1, i, 9042)
    }

    /// HTTP of store agent `i`.
    #[must_use]
    pub fn agent(&self, i: u8) -> SocketAddr {
        self.address(1, i, 7070)
    }

    /// The storage port of Cassandra `i`: its own in the whole machine.
    #[must_use]
    pub fn storage_port(&self, i: u8) -> u16 {
        20_000 + u16::from(self.range) * 20 + u16::from(i)
    }

    /// The port of the JMX bridge of Cassandra `i`: its own in the whole machine, for all listen on 127.0.0.1.
    #[must_use]
    pub fn jolokia_port(&self, i: u8) -> u16 {
        self.storage_port(i) + 10
    }

    /// Client address of ZooKeeper server `i`.
    #[must_use]
    pub fn zookeeper_client(&self, i: u8) -> SocketAddr {
        self.address(0, 0, 2181 + u16::from(i))
    }

    /// Admin HTTP server (`/commands/...`) of ZooKeeper server `i`.
    #[must_use]
    pub fn zookeeper_admin(&self, i: u8) -> SocketAddr {
        self.address(2, i, 8080)
    }

    /// Prometheus metrics of ZooKeeper server `i`.
    #[must_use]
    pub fn zookeeper_metrics(&self, i: u8) -> SocketAddr {
        self.address(2, i, 7000)
    }

    /// Between the servers: data and election of ZooKeeper server `i`.
    #[must_use]
    pub fn zookeeper_peer(&self, i: u8) -> [SocketAddr; 2] {
        [self.address(2, i, 2888), self.address(2, i, 3888)]
    }

    /// The connect string of the ensemble.
    #[must_use]
    pub fn zookeeper_connect(&self) -> String {
        let servers: Vec<String> = (0..self.zookeepers).map(|i| self.zookeeper_client(i).to_string()).collect();
        servers.join(",")
    }

    /// Every address that a member listens on; all must be free before it starts.
    #[must_use]
    pub fn listens(&self, member: Member) -> Vec<SocketAddr> {
        match member {
            Member::Zookeeper(i) => {
                let mut all = vec![self.zookeeper_client(i), self.zookeeper_admin(i), self.zookeeper_metrics(i)];
                all.extend(self.zookeeper_peer(i));
                all
            }
            Member::Cassandra(i) => {
                let cql = self.cassandra_cql(i);
                let storage = SocketAddr::new(cql.ip(), self.storage_port(i));
                let jolokia = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), self.jolokia_port(i));
                vec![cql, self.agent(i), storage, jolokia]
            }
            Member::Replica(i) => vec![self.replica_cql(i), self.replica_admin(i)],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn largest(range: u8) -> Settings {
        Settings { replicas: MAX_REPLICAS, zookeepers: 5, range, ..Settings::standard() }
    }

    #[test]
    fn no_two_members_share_an_address_in_any_range() {
        let mut seen = BTreeSet::new();
        for range in 0..=255 {
            let settings = largest(range);
            for member in settings.members() {
                for address in settings.listens(member) {
                    assert!(seen.insert(address), "{member} in range {range}: {address} is taken");
                    assert!(address.port() < 32_768, "{address} lies among the ports of outgoing connections");
                }
            }
        }
    }

    #[test]
    fn clients_connect_to_127_0_0_n() {
        let settings = Settings::standard();
        assert_eq!(settings.replica_cql(0).to_string(), "127.0.0.1:9042");
        assert_eq!(settings.replica_cql(2).to_string(), "127.0.0.3:9042");
        assert_eq!(settings.zookeeper_connect(), "127.0.0.1:2181");
    }

    #[test]
    fn wrong_sizes_and_names_are_refused() {
        let base = Settings::standard();
        assert!(base.check().is_ok());
        for wrong in [
            Settings { replicas: 0, ..base.clone() },
            Settings { replicas: 10, ..base.clone() },
            Settings { zookeepers: 2, ..base.clone() },
            Settings { engine: "Paxos".into(), ..base.clone() },
            Settings { cassandra_profile: "huge".into(), ..base.clone() },
            Settings { authentication: true, shared_cassandra: true, ..base.clone() },
        ] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_stack_grows_but_does_not_shrink_or_change_its_log() {
        let three = Settings::standard();
        assert!(Settings { replicas: 5, ..three.clone() }.check_change(&three).is_ok());
        assert!(Settings { replicas: 2, ..three.clone() }.check_change(&three).is_err());
        assert!(Settings { zookeepers: 3, ..three.clone() }.check_change(&three).is_err());
        let closed = Settings { authentication: true, ..three.clone() };
        assert!(closed.check_change(&three).is_ok());
        assert!(three.check_change(&closed).unwrap_err().to_string().contains("down --delete"), "its roles stay");
    }

    #[test]
    fn replicas_share_one_cassandra_or_have_their_own_for_good() {
        let own = Settings::standard();
        let shared = Settings { shared_cassandra: true, ..own.clone() };
        let cassandras = |settings: &Settings| {
            settings.members().into_iter().filter(|member| matches!(member, Member::Cassandra(_))).collect::<Vec<_>>()
        };
        assert_eq!(cassandras(&own), [0, 1, 2].map(Member::Cassandra));
        assert_eq!(cassandras(&shared), [Member::Cassandra(0)]);
        assert_eq!((own.cassandra_of(2), shared.cassandra_of(2)), (2, 0));
        for (from, to) in [(&own, &shared), (&shared, &own)] {
            let refused = to.check_change(from).unwrap_err().to_string();
            assert!(refused.contains("share") && refused.contains("down --delete"), "{refused}");
        }
    }

    #[test]
    fn settings_survive_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Settings::load(dir.path()).unwrap(), None);
        let settings = largest(7);
        settings.save(dir.path()).unwrap();
        assert_eq!(Settings::load(dir.path()).unwrap(), Some(settings));
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(Settings::load(dir.path()).is_err());
    }
}
