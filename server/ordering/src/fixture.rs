//! A real ZooKeeper server for tests, and a proxy that cuts connections.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream as StdStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// How long a server may take to answer after it was started.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// The server's tick; no session is shorter than two.
const TICK_MS: u32 = 200;
/// The longest session the server grants, in milliseconds.
const MAX_SESSION_MS: u32 = 60_000;

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum FixtureError {
    /// The jars are not in the cache.
    #[error("no ZooKeeper in {0}: run images/artifacts/fetch.sh zookeeper")]
    NoJars(PathBuf),
    /// A file or process could not be handled.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// It was started and did not come up.
    #[error("ZooKeeper did not start, its output:\n{0}")]
    NotStarted(String),
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> FixtureError {
    let what = what.into();
    move |source| FixtureError::Io { what, source }
}

/// A server in a folder of its own, killed when dropped.
#[derive(Debug)]
pub struct ZooKeeper {
    folder: TempDir,
    port: u16,
    /// Lines of its configuration that make it one of several.
    ensemble: String,
    process: Option<Child>,
}

impl ZooKeeper {
    /// Starts a standalone server on a free port of the loopback interface and waits until it answers.
    ///
    /// # Errors
    /// If the jars are missing, the message says how to get them.
    pub fn start() -> Result<Self, FixtureError> {
        let [port] = replicateddb_ports::reserve();
        let mut server = Self::prepare(port, String::new())?;
        server.resume()?;
        Ok(server)
    }

    /// Starts three servers that replicate each other, and waits until all of them answer.
    ///
    /// # Errors
    /// As [`ZooKeeper::start`].
    pub fn start_three() -> Result<[Self; 3], FixtureError> {
        let ports: [u16; 9] = replicateddb_ports::reserve();
        let mut ensemble = "initLimit=50\nsyncLimit=20\n".to_owned();
        for (id, [_, quorum, election]) in (1..).zip(ports.as_chunks().0) {
            ensemble += &format!("server.{id}=127.0.0.1:{quorum}:{election}\n");
        }
        let [one, two, three, ..] = [ports[0], ports[3], ports[6]];
        let mut servers = [
            Self::prepare(one, ensemble.clone())?,
            Self::prepare(two, ensemble.clone())?,
            Self::prepare(three, ensemble)?,
        ];
        for (id, server) in (1..).zip(&mut servers) {
            fs::write(server.folder.path().join("data").join("myid"), format!("{id}\n")).map_err(io_error("myid"))?;
            server.spawn()?;
        }
        servers.iter_mut().try_for_each(Self::await_answer)?;
        Ok(servers)
    }

    fn prepare(port: u16, ensemble: String) -> Result<Self, FixtureError> {
        let folder = tempfile::Builder::new().prefix("zookeeper-").tempdir().map_err(io_error("temporary folder"))?;
        let server = Self { folder, port, ensemble, process: None };
        server.write_config().map_err(io_error("zoo.cfg"))?;
        Ok(server)
    }

    /// `host:port` for clients.
    pub fn connect(&self) -> String {
        self.address().to_string()
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// Ends the server as a power cut would (kill -9), keeping its files.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Both fail only if it has gone already.
            process.kill().ok();
            process.wait().ok();
        }
    }

    /// Ends the server, and takes its data away, as when its volume is lost.
    ///
    /// # Errors
    /// If the data can't be deleted.
    pub fn wipe(&mut self) -> Result<(), FixtureError> {
        self.kill();
        fs::remove_dir_all(self.folder.path().join("data")).map_err(io_error("the server's data"))?;
        self.write_config().map_err(io_error("zoo.cfg"))
    }

    /// Starts the server again on its files and port, and waits until it answers.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn resume(&mut self) -> Result<(), FixtureError> {
        self.spawn()?;
        self.await_answer()
    }

    fn output(&self) -> PathBuf {
        self.folder.path().join("output.log")
    }

    fn spawn(&mut self) -> Result<(), FixtureError> {
        self.kill();
        let lib = jars()?;
        let output = self.output();
        let log = File::create(&output).map_err(io_error("output.log"))?;
        let log_too = log.try_clone().map_err(io_error("output.log"))?;
        let process = Command::new(java())
            .args(["-Xmx128m", "-Xss256k", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:+PerfDisableSharedMem"])
            .args(["-Djava.net.preferIPv4Stack=true", "-Dzookeeper.jmx.log4j.disable=true"])
            .arg("-Dzookeeper.nio.numWorkerThreads=0")
            .arg(format!("-Dlogback.configurationFile=file://{}", self.folder.path().join("logback.xml").display()))
            .arg("-cp")
            .arg(format!("{}/*", lib.display()))
            .arg("org.apache.zookeeper.server.quorum.QuorumPeerMain")
            .arg(self.folder.path().join("zoo.cfg"))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(log_too)
            .spawn()
            .map_err(io_error("java (17 or later is needed on PATH, or under JAVA_HOME)"))?;
        self.process = Some(process);
        Ok(())
    }

    fn await_answer(&mut self) -> Result<(), FixtureError> {
        let deadline = Instant::now() + START_TIMEOUT;
        while !self.status().is_some_and(|status| status.contains("Zxid:")) {
            let ended = self.process.as_mut().is_none_or(|process| !matches!(process.try_wait(), Ok(None)));
            if ended || Instant::now() > deadline {
                self.kill();
                return Err(FixtureError::NotStarted(fs::read_to_string(self.output()).unwrap_or_default()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// What the server answers to `srvr`.
    pub fn status(&self) -> Option<String> {
        let ask = || -> io::Result<String> {
            let mut stream = StdStream::connect_timeout(&self.address(), Duration::from_secs(1))?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream.write_all(b"srvr")?;
            let mut answer = String::new();
            stream.take(4096).read_to_string(&mut answer)?;
            Ok(answer)
        };
        ask().ok()
    }

    fn write_config(&self) -> io::Result<()> {
        let data = self.folder.path().join("data");
        fs::create_dir_all(&data)?;
        let config = format!(
            "dataDir={}\ntickTime={TICK_MS}\nmaxSessionTimeout={MAX_SESSION_MS}\nclientPortAddress=127.0.0.1\nclientPort={}\nmaxClientCnxns=0\n\
             admin.enableServer=false\n4lw.commands.whitelist=srvr,ruok\n{}",
            data.display(),
            self.port,
            self.ensemble
        );
        fs::write(self.folder.path().join("zoo.cfg"), config)?;
        let logback = "<configuration><appender name=\"O\" class=\"ch.qos.logback.core.ConsoleAppender\"><encoder>\
             <pattern>%d %level %msg%n</pattern></encoder></appender><root level=\"WARN\"><appender-ref ref=\"O\"/>\
             </root></configuration>";
        fs::write(self.folder.path().join("logback.xml"), logback)
    }
}

impl Drop for ZooKeeper {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The folder of ZooKeeper's jars in the project's cache.
fn jars() -> Result<PathBuf, FixtureError> {
    let cache = std::env::var_os("REPLICATEDDB_CACHE").map(PathBuf::from).unwrap_or_else(|| {
        PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache").join("replicateddb")
    });
    let lib = cache.join("artifacts").join("zookeeper-3.9.5").join("lib");
    match lib.join("zookeeper-3.9.5.jar").exists() {
        true => Ok(lib),
        false => Err(FixtureError::NoJars(lib)),
    }
}

fn java() -> PathBuf {
    match std::env::var_os("JAVA_HOME") {
        Some(home) => Path::new(&home).join("bin").join("java"),
        None => PathBuf::from("java"),
    }
}

/// A TCP proxy in front of one address, which can be cut: every connection ends, and new ones end at once.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    cut: watch::Sender<bool>,
    _task: AbortOnDropHandle<()>,
}

impl Proxy {
    /// Starts a proxy for `target` on a free port of the loopback interface.
    ///
    /// # Errors
    /// If no port can be had.
    pub async fn start(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (cut, is_cut) = watch::channel(false);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, target, is_cut.clone()));
            }
        });
        Ok(Self { address, cut, _task: AbortOnDropHandle::new(task) })
    }

    /// `host:port` for clients.
    pub fn connect(&self) -> String {
        self.address.to_string()
    }

    /// Cuts every connection, or lets them through again.
    pub fn set_cut(&self, cut: bool) {
        self.cut.send_replace(cut);
    }
}

/// Carries one connection until either side ends it or it is cut.
async fn carry(mut client: TcpStream, target: SocketAddr, mut is_cut: watch::Receiver<bool>) {
    let carried = async {
        let mut server = TcpStream::connect(target).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        tokio::io::copy_bidirectional(&mut client, &mut server).await
    };
    tokio::select! {
        // Its end is the whole message.
        _ = carried => {}
        _ = is_cut.wait_for(|cut| *cut) => {}
    }
}
