//! Killing a replica or its Cassandra at the worst moment, and how long it is away.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use replicateddb_local::{Member, Target};

use super::Set;
use super::scrape::{Replay, Status};
use crate::run::Notes;

/// Which replica is hit.
const HIT: u8 = 0;
/// How much of the way to the next restore point has been gone when it is: records since the last one, by the records
/// between two.
const SHARE: f64 = 0.97;
/// How long a moment like that may take to come.
const MOMENT_LIMIT: Duration = Duration::from_secs(120);
/// How long the replica may take until it is ready again.
const BACK_LIMIT: Duration = Duration::from_secs(120);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(20);
/// What one takes, as planned.
pub const PLANNED: Duration = Duration::from_secs(45);

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// The replica's process; it is started again at once.
    Replica,
    /// The JVM of its Cassandra; its agent starts another when the replica asks for it.
    Cassandra,
}

impl Victim {
    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Replica => "replica",
            Self::Cassandra => "Cassandra",
        }
    }
}

/// A recovery.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// What was killed.
    pub victim: Victim,
    /// Records since the newest restore point, when it was.
    pub since_point: u64,
    /// From then until the replica was ready, seconds.
    pub seconds: f64,
    /// What the replica says of it.
    pub replay: Replay,
}

impl Recovered {
    /// For people.
    #[must_use]
    pub fn line(&self) -> String {
        let Replay { records, seconds, rewound } = self.replay;
        let rewound = if rewound { "rewound" } else { "not rewound" };
        format!(
            "{} killed {} records after the restore point: ready after {:.1} s; {rewound}, {records} records replayed, \
             recovery took {seconds:.1} s",
            self.victim.name(),
            self.since_point,
            self.seconds
        )
    }
}

/// Waits for the worst moment, kills, and waits until the replica is ready.
///
/// # Errors
/// When the moment does not come, or the replica does not come back.
pub async fn kill(set: &Set<'_>, victim: Victim, records: u64, notes: &Notes) -> Result<Recovered> {
    let admin = set.stack.admin(HIT);
    let before = set.asker.status(admin).await?;
    let since_point = worst_moment(set, records).await?;
    notes.say(&format!("killing the {}", victim.name()));
    let begin = Instant::now();
    match victim {
        Victim::Replica => {
            set.stack.kill(Member::Replica(HIT), Target::Whole).await?;
            set.stack.start(Member::Replica(HIT)).await?;
        }
        Victim::Cassandra => set.stack.kill(Member::Cassandra(HIT), Target::Jvm).await?,
    }
    let another = |now: &Status| match victim {
        Victim::Replica => now.incarnation != before.incarnation,
        Victim::Cassandra => now.generation != before.generation,
    };
    loop {
        // The status first: it must be of the life that is ready.
        let status = set.asker.status(admin).await;
        if let Some(status) = status.ok().filter(another)
            && set.asker.ready(admin).await
        {
            let seconds = begin.elapsed().as_secs_f64();
            let replay = set.asker.status(admin).await?.replay.or(status.replay).context("it has replayed nothing")?;
            return Ok(Recovered { victim, since_point, seconds, replay });
        }
        ensure!(begin.elapsed() < BACK_LIMIT, "the replica is not ready {BACK_LIMIT:?} after the kill");
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until almost as many records as there are between two restore points have come since the last one; how many.
async fn worst_moment(set: &Set<'_>, records: u64) -> Result<u64> {
    let begin = Instant::now();
    let enough = (records as f64 * SHARE) as u64;
    loop {
        let counted = set.asker.counted(set.stack.admin(HIT)).await?;
        let since = counted.applied.saturating_sub(counted.point_index);
        if since >= enough && since < records {
            return Ok(since);
        }
        ensure!(begin.elapsed() < MOMENT_LIMIT, "no moment just before a restore point came in {MOMENT_LIMIT:?}");
        tokio::time::sleep(LOOK).await;
    }
}
