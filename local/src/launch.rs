//! The command line of each member. Pure: settings and found paths in, [`Launch`] out.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::certificates::Authority;
use crate::find;
use crate::member::Member;
use crate::process::Launch;
use crate::settings::Settings;

/// The variable that marks every process of a stack; its value is the folder of the stack.
pub const STACK_VARIABLE: &str = "REPLICATEDDB_LOCAL_STACK";
/// The variable that names the member to which a process belongs.
pub const MEMBER_VARIABLE: &str = "REPLICATEDDB_LOCAL_MEMBER";
/// The keyspace of each replica in a shared Cassandra: the replica puts its own number in the place of {id}.
const SHARED_KEYSPACE: &str = "replica_{id}";
/// The superuser of a stack whose clients log in.
pub const SUPERUSER: &str = "admin";
/// The variable by which tokio is told how many threads to work with: one for each processor otherwise, as if a replica had
/// the machine for itself.
const WORKER_THREADS: &str = "TOKIO_WORKER_THREADS";
/// The engine whose replicas keep a state log.
const LED: &str = "ZooKeeperLeader";
/// The znode below which a local stack keeps everything.
pub const ROOT: &str = "/replicateddb";

/// What a member is run from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Programs {
    /// A ZooKeeper server.
    Zookeeper {
        /// `java`.
        java: PathBuf,
        /// The folder of ZooKeeper's jars.
        jars: PathBuf,
    },
    /// A store agent.
    Cassandra {
        /// `replicateddb-server`.
        server: PathBuf,
        /// `java`.
        java: PathBuf,
        /// The folder of Cassandra's jars.
        jars: PathBuf,
    },
    /// A replica.
    Replica {
        /// `replicateddb-server`.
        server: PathBuf,
        /// Threads that work for it.
        threads: usize,
    },
}

impl Programs {
    /// Looks for what `member` is run from; an error says what is missing and how to get it.
    pub fn find(settings: &Settings, member: Member) -> Result<Self> {
        let java = || find::java(settings.java.as_deref());
        let server = || find::server(settings.server_bin.as_deref());
        let jars = |product| find::jars(&settings.artifacts, product);
        Ok(match member {
            Member::Zookeeper(_) => Self::Zookeeper { java: java()?, jars: jars("zookeeper")? },
            Member::Cassandra(_) => Self::Cassandra { server: server()?, java: java()?, jars: jars("cassandra")? },
            Member::Replica(_) => Self::Replica { server: server()?, threads: find::threads(settings.replicas) },
        })
    }
}

/// Where things lie in the folder of a stack.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The folder itself, absolute.
    pub dir: PathBuf,
}

impl Layout {
    /// Everything of one member except its log and its pid file.
    #[must_use]
    pub fn member(&self, member: Member) -> PathBuf {
        self.dir.join(member.to_string())
    }

    /// What `wipe` removes.
    #[must_use]
    pub fn data(&self, member: Member) -> PathBuf {
        self.member(member).join("data")
    }

    /// The folder of all logs.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    /// The log of one member.
    #[must_use]
    pub fn log(&self, member: Member) -> PathBuf {
        self.logs().join(format!("{member}.log"))
    }

    /// The pid file of one member.
    #[must_use]
    pub fn pid_file(&self, member: Member) -> PathBuf {
        self.member(member).join("pid.json")
    }

    /// The secret between replicas and store agents.
    #[must_use]
    pub fn token(&self) -> PathBuf {
        self.dir.join("agent-token")
    }

    /// The password of [`SUPERUSER`].
    #[must_use]
    pub fn superuser_password(&self) -> PathBuf {
        self.dir.join("superuser-password")
    }

    /// The folder of what TLS goes by.
    #[must_use]
    pub fn tls(&self) -> PathBuf {
        self.dir.join("tls")
    }

    /// The certificate of all replicas.
    #[must_use]
    pub fn tls_certificate(&self) -> PathBuf {
        self.tls().join("server.pem")
    }

    /// Its key.
    #[must_use]
    pub fn tls_key(&self) -> PathBuf {
        self.tls().join("server.key")
    }

    /// The certificate that replicas and agents show each other.
    #[must_use]
    pub fn internal_certificate(&self) -> PathBuf {
        self.tls().join("internal.pem")
    }

    /// Its key.
    #[must_use]
    pub fn internal_key(&self) -> PathBuf {
        self.tls().join("internal.key")
    }

    /// The environment that marks the processes of one member.
    #[must_use]
    pub fn marks(&self, member: Member) -> Vec<(String, String)> {
        vec![
            (STACK_VARIABLE.to_owned(), self.dir.display().to_string()),
            (MEMBER_VARIABLE.to_owned(), member.to_string()),
        ]
    }
}

/// The launch of the member with that number, of the tier that `programs` belongs to.
#[must_use]
pub fn launch(settings: &Settings, layout: &Layout, programs: &Programs, i: u8) -> Launch {
    let (member, program, args) = match programs {
        Programs::Zookeeper { java, jars } => {
            (Member::Zookeeper(i), java, zookeeper_args(layout, jars, Member::Zookeeper(i)))
        }
        Programs::Cassandra { server, java, jars } => {
            (Member::Cassandra(i), server, agent_args(settings, layout, java, jars, i))
        }
        Programs::Replica { server, .. } => (Member::Replica(i), server, replica_args(settings, layout, i)),
    };
    let program = program.clone();
    let mut env = layout.marks(member);
    if let Programs::Replica { threads, .. } = programs {
        env.push((WORKER_THREADS.to_owned(), threads.to_string()));
    }
    Launch { program, args, env, dir: layout.member(member), log: layout.log(member) }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn strings<const N: usize>(args: [&str; N]) -> Vec<String> {
    args.map(str::to_owned).to_vec()
}

fn flag(args: &mut Vec<String>, name: &str, value: impl ToString) {
    args.extend([name.to_owned(), value.to_string()]);
}

/// What replicas and agents speak TLS with each other by. People and tools on the machine come without.
fn internal(args: &mut Vec<String>, layout: &Layout) {
    flag(args, "--internal-certificate", text(&layout.internal_certificate()));
    flag(args, "--internal-key", text(&layout.internal_key()));
    flag(args, "--internal-ca", text(&Authority::at(&layout.tls()).certificate()));
    args.push("--internal-optional".to_owned());
}

fn agent_args(settings: &Settings, layout: &Layout, java: &Path, jars: &Path, i: u8) -> Vec<String> {
    let cql = settings.cassandra_cql(i);
    let mut args = strings(["agent"]);
    flag(&mut args, "--data-dir", text(&layout.data(Member::Cassandra(i))));
    flag(&mut args, "--listen", settings.agent(i));
    flag(&mut args, "--token-file", text(&layout.token()));
    flag(&mut args, "--cassandra-lib", text(jars));
    flag(&mut args, "--java", text(java));
    flag(&mut args, "--cql-listen-address", cql.ip());
    flag(&mut args, "--cql-port", cql.port());
    flag(&mut args, "--broadcast-address", cql.ip());
    flag(&mut args, "--storage-port", settings.storage_port(i));
    flag(&mut args, "--jolokia-port", settings.jolokia_port(i));
    flag(&mut args, "--heap", &settings.cassandra_heap);
    flag(&mut args, "--profile", &settings.cassandra_profile);
    if settings.shared_cassandra {
        args.push("--shared".to_owned());
    }
    if settings.authentication {
        args.push("--authentication".to_owned());
    }
    if settings.tls {
        internal(&mut args, layout);
    }
    args.extend(settings.agent_args.iter().cloned());
    args
}

fn replica_args(settings: &Settings, layout: &Layout, i: u8) -> Vec<String> {
    let mut args = strings(["replica"]);
    flag(&mut args, "--id", i);
    flag(&mut args, "--engine", &settings.engine);
    flag(&mut args, "--zookeeper", settings.zookeeper_connect());
    flag(&mut args, "--root", ROOT);
    flag(&mut args, "--cassandra", settings.cassandra_cql(settings.cassandra_of(i)));
    if settings.shared_cassandra {
        flag(&mut args, "--keyspace", SHARED_KEYSPACE);
    } else {
        flag(&mut args, "--agent", format!("http://{}", settings.agent(i)));
        flag(&mut args, "--agent-token-file", text(&layout.token()));
    }
    if settings.authentication {
        flag(&mut args, "--superuser", SUPERUSER);
        flag(&mut args, "--superuser-password-file", text(&layout.superuser_password()));
    }
    if settings.tls {
        flag(&mut args, "--tls-certificate", text(&layout.tls_certificate()));
        flag(&mut args, "--tls-key", text(&layout.tls_key()));
        internal(&mut args, layout);
    }
    flag(&mut args, "--checkpoint-dir", text(&layout.data(Member::Replica(i)).join("checkpoints")));
    if settings.engine == LED {
        flag(&mut args, "--state-log", text(&layout.data(Member::Replica(i)).join("state-log")));
    }
    flag(&mut args, "--listen", settings.replica_cql(i));
    flag(&mut args, "--advertise", settings.replica_cql(i).ip());
    flag(&mut args, "--admin-listen", settings.replica_admin(i));
    args.extend(settings.replica_args.iter().cloned());
    args
}

fn zookeeper_args(layout: &Layout, jars: &Path, member: Member) -> Vec<String> {
    let conf = layout.member(member).join("conf");
    let mut args = strings([
        "-Xms32m",
        // What the log may hold by default is three eighths of it.
        "-Xmx256m",
        "-Xss256k",
        "-XX:+UseSerialGC",
        // The quick compiler alone: these servers are small, and start and memory matter more than peak speed.
        "-XX:TieredStopAtLevel=1",
        "-XX:+ExitOnOutOfMemoryError",
        "-XX:+PerfDisableSharedMem",
        "-Djava.net.preferIPv4Stack=true",
        "-Djute.maxbuffer=4194304",
        // Selector threads do the work themselves: several times the throughput of pipelined small requests.
        // Threads that requests would be handed to cost more than what they do.
        "-Dzookeeper.nio.numWorkerThreads=0",
        "-Dzookeeper.commitProcessor.numWorkerThreads=0",
        "-Dzookeeper.jmx.log4j.disable=true",
    ]);
    args.push(format!("-Dlogback.configurationFile=file://{}", text(&conf.join("logback.xml"))));
    flag(&mut args, "-cp", format!("{}/*", text(jars)));
    args.push("org.apache.zookeeper.server.quorum.QuorumPeerMain".to_owned());
    args.push(text(&conf.join("zoo.cfg")));
    args
}

/// The files that a ZooKeeper server reads, by name relative to its folder; written anew at each start. The
/// ensemble of a stack never changes, so that the dynamic part is written anew as well.
#[must_use]
pub fn zookeeper_files(settings: &Settings, layout: &Layout, i: u8) -> Vec<(&'static str, String)> {
    let member = Member::Zookeeper(i);
    let conf = layout.member(member).join("conf");
    vec![
        ("conf/zoo.cfg", zoo_cfg(settings, &layout.data(member), &conf, i)),
        ("conf/zoo.cfg.dynamic", zoo_cfg_dynamic(settings)),
        ("conf/logback.xml", LOGBACK.to_owned()),
        ("data/myid", format!("{}\n", i + 1)),
    ]
}

fn zoo_cfg(settings: &Settings, data: &Path, conf: &Path, i: u8) -> String {
    let (admin, metrics) = (settings.zookeeper_admin(i), settings.zookeeper_metrics(i));
    let (data, conf) = (text(data), text(conf));
    format!(
        "dataDir={data}\n\
         dataLogDir={data}/log\n\
         tickTime=500\n\
         initLimit=20\n\
         syncLimit=4\n\
         maxClientCnxns=0\n\
         standaloneEnabled=false\n\
         reconfigEnabled=true\n\
         skipACL=yes\n\
         cnxTimeout=2000\n\
         electionPortBindRetry=0\n\
         autopurge.snapRetainCount=3\n\
         autopurge.purgeInterval=1\n\
         4lw.commands.whitelist=srvr,ruok,mntr,stat,conf\n\
         admin.enableServer=true\n\
         admin.serverAddress={}\n\
         admin.serverPort={}\n\
         metricsProvider.className=org.apache.zookeeper.metrics.prometheus.PrometheusMetricsProvider\n\
         metricsProvider.httpHost={}\n\
         metricsProvider.httpPort={}\n\
         metricsProvider.numWorkerThreads=0\n\
         dynamicConfigFile={conf}/zoo.cfg.dynamic\n",
        admin.ip(),
        admin.port(),
        metrics.ip(),
        metrics.port(),
    )
}

fn zoo_cfg_dynamic(settings: &Settings) -> String {
    (0..settings.zookeepers).fold(String::new(), |mut lines, i| {
        let [peer, election] = settings.zookeeper_peer(i);
        let (id, ports) = (i + 1, format!("{}:{}", peer.port(), election.port()));
        // Writing to a String can't fail.
        let _ = writeln!(lines, "server.{id}={}:{ports};{}", peer.ip(), settings.zookeeper_client(i));
        lines
    })
}

const LOGBACK: &str = r#"<configuration>
  <appender name="OUT" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%d{yyyy-MM-dd'T'HH:mm:ss.SSS} %-5level [%thread] %logger{0} %msg%n%ex{6}</pattern></encoder>
  </appender>
  <root level="INFO"><appender-ref ref="OUT"/></root>
</configuration>
"#;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::MAX_REPLICAS;

    fn parts() -> (Settings, Layout) {
        (Settings { zookeepers: 3, ..Settings::standard() }, Layout { dir: "/stack".into() })
    }

    fn replica() -> Programs {
        Programs::Replica { server: "/bin/server".into(), threads: 2 }
    }

    fn cassandra() -> Programs {
        Programs::Cassandra { server: "/bin/server".into(), java: "/bin/java".into(), jars: "/jars".into() }
    }

    fn value<'a>(launch: &'a Launch, name: &str) -> &'a str {
        let at = launch.args.iter().position(|arg| arg == name).unwrap();
        &launch.args[at + 1]
    }

    #[test]
    fn replicas_share_the_processors_of_the_machine() {
        let (settings, layout) = parts();
        let env = |programs| launch(&settings, &layout, &programs, 0).env;
        assert!(env(replica()).contains(&(WORKER_THREADS.to_owned(), "2".to_owned())));
        assert!(env(cassandra()).iter().all(|(name, _)| name != WORKER_THREADS));
        assert_eq!(find::threads(MAX_REPLICAS), find::threads(1).div_euclid(MAX_REPLICAS.into()).max(1));
    }

    #[test]
    fn a_replica_is_given_its_own_cassandra_and_the_whole_ensemble() {
        let (settings, layout) = parts();
        let replica = launch(&settings, &layout, &replica(), 2);
        let agent = launch(&settings, &layout, &cassandra(), 2);
        assert_eq!(value(&replica, "--zookeeper"), "127.0.0.1:2181,127.0.0.1:2182,127.0.0.1:2183");
        assert_eq!(value(&replica, "--agent"), format!("http://{}", value(&agent, "--listen")));
        let cassandra = format!("{}:{}", value(&agent, "--cql-listen-address"), value(&agent, "--cql-port"));
        assert_eq!(value(&replica, "--cassandra"), cassandra);
        assert_eq!(value(&replica, "--agent-token-file"), value(&agent, "--token-file"));
        assert_ne!(replica.log, agent.log);
    }

    #[test]
    fn replicas_that_share_a_cassandra_have_keyspaces_and_no_agent() {
        let (mut settings, layout) = parts();
        settings.shared_cassandra = true;
        let agent = launch(&settings, &layout, &cassandra(), 0);
        assert!(agent.args.iter().any(|arg| arg == "--shared"));
        let replica = launch(&settings, &layout, &replica(), 2);
        let cassandra = format!("{}:{}", value(&agent, "--cql-listen-address"), value(&agent, "--cql-port"));
        assert_eq!(value(&replica, "--cassandra"), cassandra);
        assert_eq!(value(&replica, "--keyspace"), "replica_{id}");
        assert_eq!(value(&replica, "--checkpoint-dir"), "/stack/replica-2/data/checkpoints");
        assert!(!replica.args.iter().any(|arg| arg.starts_with("--agent")));
    }

    /// Both halves of it, or none: a Cassandra that asks for passwords and replicas that know of none would shut everybody out.
    #[test]
    fn clients_log_in_where_that_is_asked_for() {
        let (open, layout) = parts();
        let closed = Settings { authentication: true, ..open.clone() };
        let more = [cassandra(), replica()].map(|programs: Programs| -> Vec<String> {
            let before = launch(&open, &layout, &programs, 1).args;
            launch(&closed, &layout, &programs, 1).args.into_iter().filter(|arg| !before.contains(arg)).collect()
        });
        let superuser = ["--superuser", "admin", "--superuser-password-file", "/stack/superuser-password"];
        assert_eq!(more, [strings(["--authentication"]), strings(superuser)]);
    }

    #[test]
    fn replicas_take_tls_where_that_is_asked_for() {
        let (open, layout) = parts();
        let more = |programs: &Programs| -> Vec<String> {
            let args = |tls| launch(&Settings { tls, ..open.clone() }, &layout, programs, 1).args;
            args(true).into_iter().filter(|arg| !args(false).contains(arg)).collect()
        };
        let files = ["--tls-certificate", "/stack/tls/server.pem", "--tls-key", "/stack/tls/server.key"];
        let internal = [
            "--internal-certificate",
            "/stack/tls/internal.pem",
            "--internal-key",
            "/stack/tls/internal.key",
            "--internal-ca",
            "/stack/tls/ca.pem",
            "--internal-optional",
        ];
        assert_eq!(more(&replica()), [strings(files), strings(internal)].concat());
        assert_eq!(more(&cassandra()), strings(internal));
    }

    #[test]
    fn further_arguments_come_last() {
        let (mut settings, layout) = parts();
        settings.replica_args = strings(["--restore-point-interval", "5s"]);
        let replica = launch(&settings, &layout, &replica(), 0);
        assert!(replica.args.ends_with(&settings.replica_args));
    }

    #[test]
    fn every_zookeeper_knows_the_others() {
        let (settings, layout) = parts();
        let files = zookeeper_files(&settings, &layout, 1);
        let text = |name| files.iter().find(|(file, _)| *file == name).unwrap().1.as_str();
        assert_eq!(
            text("conf/zoo.cfg.dynamic"),
            "server.1=127.0.2.1:2888:3888;127.0.0.1:2181\n\
             server.2=127.0.2.2:2888:3888;127.0.0.1:2182\n\
             server.3=127.0.2.3:2888:3888;127.0.0.1:2183\n"
        );
        assert_eq!(text("data/myid"), "2\n");
        assert!(text("conf/zoo.cfg").contains("admin.serverAddress=127.0.2.2\n"));
    }
}
