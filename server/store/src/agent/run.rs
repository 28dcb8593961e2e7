//! The agent's life: lock, look, serve, stop.

use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::task::AbortOnDropHandle;

use super::args::AgentArgs;
use super::faults::Faults;
use super::layout::Layout;
use super::plan::{self, AtStart, Observed};
use super::state::{Persisted, State};
use super::supervisor::{Agent, Setup, blocking, keystore};
use super::{config, disk, http, java, memory, points};
use crate::api::Clean;
use crate::internal::{Internal, Keystores};

/// Longest wait for the data directory's last user to be gone: a JVM dies with its agent, but not in the same instant.
const LOCK_WAIT: Duration = Duration::from_secs(30);
/// Pause between two attempts at the lock.
const LOCK_POLL: Duration = Duration::from_millis(100);
/// Time after which a keystore that could not be written is written again.
const KEYSTORE_RETRY: Duration = Duration::from_secs(10);
/// Shortest token, in bytes.
const MIN_TOKEN: usize = 16;

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// If the settings are wrong, the data directory is in use or damaged, a port is taken, or there is no `java`.
pub async fn run(args: AgentArgs) -> Result<()> {
    run_with_faults(args, Faults::default()).await
}

/// [`run`], for tests of crashes.
///
/// # Errors
/// As [`run`].
pub async fn run_with_faults(args: AgentArgs, faults: Faults) -> Result<()> {
    // Before anything else: a signal that comes while starting must not be lost.
    let mut terminate = signal(SignalKind::terminate()).context("can't listen for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("can't listen for signals")?;
    let layout = prepare_folders(&args.data_dir)?;
    let internal = Internal::open(&args.internal).await?;
    let setup = prepare(args, layout, internal, faults)?;
    // Held until the process is gone: work on the directory goes on in threads that outlive a cancelled future.
    std::mem::forget(lock(&setup.layout).await?);
    let listener =
        TcpListener::bind(setup.args.listen).await.with_context(|| format!("can't listen on {}", setup.args.listen))?;
    let (state, decision) = look(&setup.layout, setup.args.shared, setup.args.authentication)?;
    let agent = Agent::new(setup, state)?;
    let mut asked = pin!(async {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM"),
            _ = interrupt.recv() => tracing::info!("SIGINT"),
        }
    });
    tokio::select! {
        result = agent.first_steps(decision) => result?,
        () = &mut asked => {
            agent.shut_down().await;
            return Ok(());
        }
    }
    let internal = agent.setup.internal.clone();
    let _keystores = internal
        .keystores()
        .map(|keystores| AbortOnDropHandle::new(tokio::spawn(keep_keystore(agent.setup.layout.clone(), keystores))));
    let mut serving = pin!(internal.serve(listener, http::router(agent.clone()), http::OPEN));
    tokio::select! {
        result = &mut serving => return result.context("the agent's HTTP server ended"),
        () = &mut asked => {}
    }
    let mut stopped = pin!(agent.shut_down());
    tokio::select! {
        () = &mut stopped => {}
        // It is served on meanwhile: a live replica sees the stop, drains and marks.
        _ = &mut serving => stopped.await,
    }
    Ok(())
}

/// Has Cassandra show what the agent shows, too: it looks at the file every ten minutes.
async fn keep_keystore(layout: Layout, mut keystores: Keystores) {
    let mut next = keystores.next().await;
    while let Some(wanted) = next.take() {
        let mut told = false;
        next = loop {
            let (layout, wanted) = (layout.clone(), wanted.clone());
            let Err(error) = blocking(move || keystore(&layout, &wanted)).await else { break keystores.next().await };
            if !std::mem::replace(&mut told, true) {
                tracing::warn!("Cassandra goes on with the certificate that it has, trying again: {error:#}");
            }
            if let Ok(changed) = tokio::time::timeout(KEYSTORE_RETRY, keystores.next()).await {
                break changed;
            }
        };
    }
}

fn prepare_folders(data_dir: &Path) -> Result<Layout> {
    let create = |path: &Path| fs::create_dir_all(path).with_context(|| format!("can't create {}", path.display()));
    create(data_dir)?;
    let root = data_dir.canonicalize().with_context(|| format!("can't resolve {}", data_dir.display()))?;
    Ok(Layout::new(&root))
}

/// Checks everything that can be checked before the data directory is touched.
fn prepare(args: AgentArgs, layout: Layout, internal: Internal, faults: Faults) -> Result<Setup> {
    let read = |path: &Path| fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()));
    let token = read(&args.token_file)?.trim().to_owned();
    if token.len() < MIN_TOKEN {
        bail!("the token in {} is shorter than {MIN_TOKEN} characters", args.token_file.display());
    }
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let machine = memory::machine(&meminfo).unwrap_or_default();
    let memory = memory::choose(args.heap, memory::limit(Path::new("/sys/fs/cgroup")), machine);
    let memory = memory.map_err(|e| anyhow!(e))?;
    let extra = args.extra_config.as_deref().map(read).transpose()?.unwrap_or_default();
    let yaml =
        config::cassandra_yaml(&args, &layout, &extra).map_err(|e| anyhow!("extra configuration of Cassandra: {e}"))?;
    let lib = &args.cassandra_lib;
    let mut jars = Vec::new();
    for entry in fs::read_dir(lib).with_context(|| format!("can't list {}", lib.display()))? {
        jars.push(entry.with_context(|| format!("can't list {}", lib.display()))?.path());
    }
    let agents = java::find_agents(&jars).map_err(|e| anyhow!("{e} in {}", lib.display()))?;
    Ok(Setup { args, layout, memory, agents, yaml, token, internal, faults })
}

/// Takes the data directory. The lock is inherited by the JVM, so that it is free only when both are gone.
async fn lock(layout: &Layout) -> Result<File> {
    let path = layout.lock();
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("can't open {}", path.display()))?;
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => tokio::time::sleep(LOCK_POLL).await,
            Err(TryLockError::WouldBlock) => {
                bail!("{} is in use by another agent or its Cassandra", layout.root().display())
            }
            Err(TryLockError::Error(e)) => return Err(e).with_context(|| format!("can't lock {}", path.display())),
        }
    }
    fcntl(&file, FcntlArg::F_SETFD(FdFlag::empty())).context("can't pass the lock on")?;
    Ok(file)
}

fn other_mode(layout: &Layout, shared: bool) -> String {
    let root = layout.root().display();
    match shared {
        true => format!(
            "{root} was not made for a shared Cassandra: give the agent an empty one, or start it without --shared"
        ),
        false => {
            format!("{root} was made for a shared Cassandra: give the agent an empty one, or start it with --shared")
        }
    }
}

/// Reads what is on the disk, deletes what never became a restore point, and decides what to do.
fn look(layout: &Layout, shared: bool, authentication: bool) -> Result<(State, AtStart)> {
    disk::create_dir(&layout.agent())?;
    disk::create_dir(&layout.restore_points())?;
    let persisted: Option<Persisted> = disk::read_json(&layout.state())?;
    let fresh = persisted.is_none() && !layout.cassandra().exists();
    let found = points::load(layout)?;
    let observed = Observed {
        fresh: fresh && found.is_empty(),
        intent: disk::read_json(&layout.intent())?,
        clean: clean_mark(layout)?,
        shared,
    };
    let decision = plan::at_start(&observed);
    let mut persisted = match persisted {
        Some(persisted) if persisted.shared == shared => persisted,
        // Replicas that share a Cassandra must not find the data of one that had it for itself, nor the other way round.
        Some(_) => bail!("{}", other_mode(layout, shared)),
        None if shared && !observed.fresh => bail!("{}", other_mode(layout, shared)),
        None => {
            let persisted = Persisted::new(shared);
            persisted.save(layout)?;
            persisted
        }
    };
    match (persisted.authentication, authentication) {
        // What was ordered about roles could not be executed.
        (true, false) => bail!("{} has roles: start the agent with --authentication", layout.root().display()),
        (false, true) => {
            persisted.authentication = true;
            persisted.save(layout)?;
        }
        _ => {}
    }
    tracing::info!(store_id = %persisted.store_id, generation = persisted.generation, ?decision, "data directory");
    Ok((State::new(persisted, observed.clean, found), decision))
}

/// The clean mark. One that can't be understood marks nothing: the store is put back to a restore point, as after any unclean end.
fn clean_mark(layout: &Layout) -> Result<Option<Clean>> {
    let Some(bytes) = disk::read_bytes(&layout.clean())? else { return Ok(None) };
    let mark = serde_json::from_slice(&bytes);
    mark.map_or_else(
        |error| {
            tracing::error!("{} can't be understood: {error}; the directory counts as dirty", layout.clean().display());
            Ok(None)
        },
        Ok,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_data_directory_has_one_agent() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let first = lock(&layout).await.unwrap();
        let again = File::options().write(true).open(layout.lock()).unwrap();
        assert!(matches!(again.try_lock(), Err(TryLockError::WouldBlock)));
        drop(first);
        lock(&layout).await.unwrap();
    }

    #[test]
    fn a_new_volume_is_known_once_and_keeps_its_id() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let (first, decision) = look(&layout, false, false).unwrap();
        assert!(matches!(decision, AtStart::Rewind(intent) if intent.restore_point.is_none()));
        let (second, decision) = look(&layout, false, false).unwrap();
        assert_eq!(decision, AtStart::WaitForRewind);
        assert_eq!(second.persisted.store_id, first.persisted.store_id);
    }

    #[test]
    fn a_directory_keeps_its_mode() {
        for shared in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let layout = Layout::new(dir.path());
            let (first, decision) = look(&layout, shared, false).unwrap();
            assert_eq!(decision == AtStart::KeepUp, shared);
            let refused = look(&layout, !shared, false).unwrap_err().to_string();
            assert!(refused.contains("--shared"), "{refused}");
            let (again, _) = look(&layout, shared, false).unwrap();
            assert_eq!(again.persisted.generation, first.persisted.generation);
        }
    }

    #[test]
    fn one_whose_clients_log_in_stays_so() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        look(&layout, false, false).unwrap();
        look(&layout, false, true).unwrap();
        let refused = look(&layout, false, false).unwrap_err().to_string();
        assert!(refused.contains("--authentication"), "{refused}");
        look(&layout, false, true).unwrap();
    }

    #[test]
    fn lost_numbers_beside_data_are_no_new_volume() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        fs::create_dir(layout.cassandra()).unwrap();
        assert_eq!(look(&layout, false, false).unwrap().1, AtStart::WaitForRewind);
        assert!(look(&layout, true, false).is_err());
    }
}
