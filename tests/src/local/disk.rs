//! A volume without room. A replica keeps nothing on a volume of its own: the one to fill is its Cassandra's.

use std::{
    fs::File,
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use replicateddb_local::{Member, Target};

use super::{
    Local,
    faults::{SOME, SOME_EACH, WRITES_LIMIT},
    load::Load,
};
use crate::scenario::Scenario;

/// Size of the small volume: several times what a Cassandra of this suite has, and filled in a moment.
const VOLUME: &str = "size=1g";
/// What the filling file is made of.
static BLOCK: [u8; 1 << 20] = [0; 1 << 20];
/// Longest wait for a replica to say that there is no room: Cassandra meets it at the next flush or commit log segment.
const NOTICED_LIMIT: Duration = Duration::from_secs(90);
/// The system's words for it, which the condition must have.
const NO_ROOM: &str = "No space left on device";
/// Which replica's Cassandra.
const VICTIM: u8 = 1;

pub fn scenarios() -> Vec<Scenario<Local>> {
    vec![Scenario {
        name: "disk-full",
        proves: "a replica whose Cassandra's volume is full leaves readiness and says so; with room it catches up",
        run: disk_full,
    }]
}

/// A small volume in the place of a member's data, until it is dropped.
struct Volume {
    data: PathBuf,
}

impl Volume {
    /// Moves the data of a stopped member to a volume of [`VOLUME`]; none where mounting is not permitted.
    fn mount(data: &Path) -> Result<Option<Self>> {
        let aside = data.with_extension("aside");
        std::fs::rename(data, &aside).with_context(|| data.display().to_string())?;
        std::fs::create_dir(data)?;
        let mount = ["-t", "tmpfs", "-o", VOLUME, "tmpfs"];
        if let Err(error) = run(Command::new("mount").args(mount).arg(data)) {
            std::fs::remove_dir(data)?;
            std::fs::rename(&aside, data)?;
            println!("    SKIPPED: no volume can be mounted here (are you root?): {error:#}");
            return Ok(None);
        }
        let volume = Self { data: data.to_owned() };
        run(Command::new("cp").arg("-a").arg(aside.join(".")).arg(data))?;
        std::fs::remove_dir_all(&aside)?;
        Ok(Some(volume))
    }

    fn ballast(&self) -> PathBuf {
        self.data.join("ballast")
    }

    /// Takes all the room that is left.
    fn fill(&self) -> Result<()> {
        let mut file = File::create(self.ballast())?;
        loop {
            match file.write(&BLOCK) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error).context("filling the volume"),
            }
        }
    }

    fn make_room(&self) -> Result<()> {
        std::fs::remove_file(self.ballast()).context("emptying the volume")
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Whoever still has files open on it keeps them; the folder of the stack can be removed.
        if let Err(error) = run(Command::new("umount").arg("--lazy").arg(&self.data)) {
            println!("    {} stays mounted: {error:#}", self.data.display());
        }
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

fn disk_full(local: &mut Local) -> Result<()> {
    let (replica, cassandra) = (Member::Replica(VICTIM), Member::Cassandra(VICTIM));
    for member in [replica, cassandra] {
        local.runtime.block_on(local.stack.stop(member))?;
    }
    let Some(volume) = Volume::mount(&local.stack.data(cassandra))? else {
        return local.runtime.block_on(start(local, &[cassandra, replica]));
    };
    let result = local.runtime.block_on(async {
        start(local, &[cassandra, replica]).await?;
        filled(local, &volume).await
    });
    // The volume goes, and its data with it: what comes next finds a lost one, and takes over another's restore point.
    local.runtime.block_on(async {
        local.stack.kill(replica, Target::Whole).await?;
        local.stack.kill(cassandra, Target::Whole).await?;
        drop(volume);
        start(local, &[cassandra, replica]).await
    })?;
    result?;
    local.verify()
}

async fn start(local: &Local, members: &[Member]) -> Result<()> {
    for member in members {
        local.stack.start(*member).await?;
    }
    local.wait_ready().await
}

async fn filled(local: &Local, volume: &Volume) -> Result<()> {
    let load = Load::start(local, "disk_full").await?;
    load.wait_each(SOME_EACH, WRITES_LIMIT).await?;
    volume.fill()?;
    println!("    replica-{VICTIM}: {}", says_so(local).await?);
    load.wait_for(SOME, WRITES_LIMIT).await.context("the others, while a volume is full")?;
    volume.make_room()?;
    local.wait_ready().await?;
    load.wait_each(SOME_EACH, WRITES_LIMIT).await?;
    load.finish(local).await?;
    tokio::task::block_in_place(|| local.verify())
}

/// Waits until the replica serves nobody and one of its conditions names the reason.
async fn says_so(local: &Local) -> Result<String> {
    let start = Instant::now();
    loop {
        let status = local.status(VICTIM).await?;
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let named = conditions.iter().filter_map(|text| text.as_str()).find(|text| text.contains(NO_ROOM));
        if let Some(text) = named.filter(|_| status["state"] != "serving") {
            return Ok(text.to_owned());
        }
        if start.elapsed() > NOTICED_LIMIT {
            bail!("replica-{VICTIM} does not say that its volume is full: {status}");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
