//! Describing a stack before it exists.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::certificates::Authority;
use crate::find;
use crate::launch::Layout;
use crate::probe::Probe;
use crate::range::RangeClaim;
use crate::settings::Settings;
use crate::stack::{Stack, private_dir, private_file};

/// What a stack shall be. What is not said keeps the value of the stack already in the folder, else the standard one.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Builder {
    dir: Option<PathBuf>,
    replicas: Option<u8>,
    shared_cassandra: Option<bool>,
    zookeepers: Option<u8>,
    authentication: Option<bool>,
    tls: Option<bool>,
    engine: Option<String>,
    range: Option<u8>,
    free_range: bool,
    kill_on_drop: bool,
    cassandra_heap: Option<String>,
    cassandra_profile: Option<String>,
    agent_args: Option<Vec<String>>,
    replica_args: Option<Vec<String>>,
    server_bin: Option<PathBuf>,
    java: Option<PathBuf>,
    artifacts: Option<PathBuf>,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The folder of the stack; the one of [`default_dir`] if none is named.
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// How many replicas.
    pub fn replicas(mut self, replicas: u8) -> Self {
        self.replicas = Some(replicas);
        self
    }

    /// Whether the replicas share one Cassandra, each in a keyspace of its own, or have one each.
    pub fn shared_cassandra(mut self, shared: bool) -> Self {
        self.shared_cassandra = Some(shared);
        self
    }

    /// How many ZooKeeper servers.
    pub fn zookeepers(mut self, zookeepers: u8) -> Self {
        self.zookeepers = Some(zookeepers);
        self
    }

    /// Whether clients log in, once and for all; [`Stack::superuser`] is who they can log in as.
    pub fn authentication(mut self, authentication: bool) -> Self {
        self.authentication = Some(authentication);
        self
    }

    /// Whether clients use TLS; [`Stack::tls`] is what they go by.
    pub fn tls(mut self, tls: bool) -> Self {
        self.tls = Some(tls);
        self
    }

    /// How the replicas order their writes.
    pub fn engine(mut self, engine: impl Into<String>) -> Self {
        self.engine = Some(engine.into());
        self
    }

    /// Uses 127.`range`.x.y instead of 127.0.x.y.
    pub fn base_loopback(mut self, range: u8) -> Self {
        self.range = Some(range);
        self
    }

    /// Uses an address range that is free, and keeps others from it while the [`Stack`] lives. For tests.
    pub fn free_loopback(mut self) -> Self {
        self.free_range = true;
        self
    }

    /// Kills every process of the stack when the [`Stack`] is dropped. For tests.
    pub fn kill_on_drop(mut self) -> Self {
        self.kill_on_drop = true;
        self
    }

    /// Heap of each Cassandra, as the JVM writes it.
    pub fn cassandra_heap(mut self, heap: impl Into<String>) -> Self {
        self.cassandra_heap = Some(heap.into());
        self
    }

    /// Tuning of each Cassandra: `small` or `default`.
    pub fn cassandra_profile(mut self, profile: impl Into<String>) -> Self {
        self.cassandra_profile = Some(profile.into());
        self
    }

    /// Further arguments for every `replicateddb-server agent`.
    pub fn agent_args(mut self, args: Vec<String>) -> Self {
        self.agent_args = Some(args);
        self
    }

    /// Further arguments for every `replicateddb-server replica`.
    pub fn replica_args(mut self, args: Vec<String>) -> Self {
        self.replica_args = Some(args);
        self
    }

    /// The server executable.
    pub fn server_bin(mut self, path: impl Into<PathBuf>) -> Self {
        self.server_bin = Some(path.into());
        self
    }

    /// The `java` to run.
    pub fn java(mut self, path: impl Into<PathBuf>) -> Self {
        self.java = Some(path.into());
        self
    }

    /// The folder of the fetched jars.
    pub fn artifacts(mut self, path: impl Into<PathBuf>) -> Self {
        self.artifacts = Some(path.into());
        self
    }

    /// Makes the folder of the stack, or changes the settings of the one that is there; starts nothing.
    pub fn create(self) -> Result<Stack> {
        let dir = self.dir.clone().unwrap_or_else(default_dir);
        let before = Settings::load(&dir)?;
        if before.is_none() {
            check_ours(&dir)?;
        }
        let mut settings = self.settings(before.clone().unwrap_or_else(Settings::standard))?;
        settings.check()?;
        if let Some(before) = &before {
            settings.check_change(before)?;
        }
        let claim = if self.free_range { Some(RangeClaim::find(&settings)?) } else { None };
        if let Some(claim) = &claim {
            settings.range = claim.range();
        }
        let layout = Layout { dir: make(&dir)? };
        if settings.authentication {
            make_secret(&layout.superuser_password())?;
        }
        let changed = before.as_ref().is_some_and(|before| *before != settings);
        let stack = Stack { settings, layout, probe: Probe::new()?, kill_on_drop: self.kill_on_drop, _claim: claim };
        if changed && before.is_some_and(|before| !only_grows(&before, &stack.settings)) {
            let running = stack.all_processes().len();
            if running > 0 {
                bail!("this stack is running ({running} processes) with other settings: 'down' first");
            }
        }
        if stack.settings.tls {
            make_certificate(&stack.layout, &stack.settings)?;
        }
        stack.settings.save(stack.dir())?;
        Ok(stack)
    }

    fn settings(&self, base: Settings) -> Result<Settings> {
        let named = self.server_bin.as_deref().map(|path| find::server(Some(path))).transpose()?;
        let artifacts = self.artifacts.as_deref().map(absolute).transpose()?;
        Ok(Settings {
            replicas: self.replicas.unwrap_or(base.replicas),
            shared_cassandra: self.shared_cassandra.unwrap_or(base.shared_cassandra),
            zookeepers: self.zookeepers.unwrap_or(base.zookeepers),
            authentication: self.authentication.unwrap_or(base.authentication),
            tls: self.tls.unwrap_or(base.tls),
            engine: self.engine.clone().unwrap_or(base.engine),
            range: self.range.unwrap_or(base.range),
            cassandra_heap: self.cassandra_heap.clone().unwrap_or(base.cassandra_heap),
            cassandra_profile: self.cassandra_profile.clone().unwrap_or(base.cassandra_profile),
            agent_args: self.agent_args.clone().unwrap_or(base.agent_args),
            replica_args: self.replica_args.clone().unwrap_or(base.replica_args),
            server_bin: named.or(base.server_bin),
            java: self.java.clone().or(base.java),
            artifacts: artifacts.unwrap_or(base.artifacts),
        })
    }
}

/// `$REPLICATEDDB_CACHE/local`, else `~/.cache/replicateddb/local`.
#[must_use]
pub fn default_dir() -> PathBuf {
    find::cache_root().join("local")
}

/// Whether running members need not notice the change: replicas were added, or executables renamed.
fn only_grows(before: &Settings, after: &Settings) -> bool {
    let aligned = Settings {
        replicas: after.replicas,
        server_bin: after.server_bin.clone(),
        java: after.java.clone(),
        artifacts: after.artifacts.clone(),
        ..before.clone()
    };
    aligned == *after
}

fn absolute(path: &Path) -> Result<PathBuf> {
    path.canonicalize().with_context(|| format!("{} is not there", path.display()))
}

/// A folder with files of other origin is never made a stack's, for `down --delete` would meet them.
fn check_ours(dir: &Path) -> Result<()> {
    let mut entries = std::fs::read_dir(dir).into_iter().flatten();
    match entries.next() {
        Some(_) => bail!("{} is not empty and holds no stack: name another folder by --dir", dir.display()),
        None => Ok(()),
    }
}

fn make(dir: &Path) -> Result<PathBuf> {
    private_dir(dir)?;
    let dir = absolute(dir)?;
    let layout = Layout { dir };
    make_secret(&layout.token())?;
    Ok(layout.dir)
}

/// What the certificate that replicas and agents show each other names.
const INTERNAL: &str = "replicateddb.internal";

/// Makes an authority, unless there is one, and by it a certificate for all replicas, and one that they and the agents show each
/// other: anew each time, for addresses may be others.
fn make_certificate(layout: &Layout, settings: &Settings) -> Result<()> {
    let authority = Authority::make(&layout.tls())?;
    let internal = authority.issue(vec![INTERNAL.to_owned()])?;
    internal.save(&layout.internal_certificate(), &layout.internal_key())?;
    authority.issue(settings.client_names())?.save(&layout.tls_certificate(), &layout.tls_key())
}

/// Makes a secret that nobody guesses, unless there is one.
fn make_secret(file: &Path) -> Result<()> {
    if file.exists() {
        return Ok(());
    }
    let secret: [u8; 32] = rand::random();
    private_file(file, &secret.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_something_else_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("letters"), "").unwrap();
        assert!(Stack::builder().dir(dir.path()).create().is_err());
    }

    #[test]
    fn what_is_not_said_stays_and_the_secret_too() {
        let dir = tempfile::tempdir().unwrap();
        let first = Stack::builder().dir(dir.path()).replicas(2).zookeepers(3).create().unwrap();
        let secret = std::fs::read(first.token_file()).unwrap();
        assert_eq!(secret.len(), 64);
        let second = Stack::builder().dir(dir.path()).replicas(4).create().unwrap();
        assert_eq!((second.settings().replicas, second.settings().zookeepers), (4, 3));
        assert_eq!(std::fs::read(second.token_file()).unwrap(), secret);
        assert!(second.superuser().is_none() && !dir.path().join("superuser-password").exists());
        assert!(Stack::builder().dir(dir.path()).replicas(1).create().is_err());
        assert!(Stack::builder().dir(dir.path()).shared_cassandra(true).create().is_err());
    }

    #[test]
    fn the_superuser_has_one_password_for_good_and_nobody_else_reads_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let made = |authentication| Stack::builder().dir(dir.path()).authentication(authentication).create();
        assert_eq!(made(false).unwrap().superuser(), None);
        let superuser = made(true).unwrap().superuser().unwrap();
        let password = std::fs::read_to_string(&superuser.password_file).unwrap();
        assert!(password.len() == 64 && password.chars().all(|c| c.is_ascii_hexdigit()));
        assert_eq!(superuser.password_file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(made(false).is_err());
        assert_eq!(Stack::builder().dir(dir.path()).create().unwrap().superuser(), Some(superuser.clone()));
        assert_eq!(std::fs::read_to_string(&superuser.password_file).unwrap(), password);
    }

    #[test]
    fn clients_trust_the_same_authority_for_good() {
        let dir = tempfile::tempdir().unwrap();
        let made = |tls| Stack::builder().dir(dir.path()).tls(tls).create();
        assert!(made(false).unwrap().tls().is_none());
        let tls = made(true).unwrap().tls().unwrap();
        let authority = std::fs::read(tls.authority.certificate()).unwrap();
        let certificate = std::fs::read(&tls.certificate).unwrap();
        let again = Stack::builder().dir(dir.path()).base_loopback(7).create().unwrap().tls().unwrap();
        assert_eq!(std::fs::read(again.authority.certificate()).unwrap(), authority);
        assert_ne!(std::fs::read(&again.certificate).unwrap(), certificate, "for other addresses");
        assert!(made(false).unwrap().tls().is_none());
    }
}
