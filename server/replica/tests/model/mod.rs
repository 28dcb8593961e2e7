//! A store that crashes, forgets, answers late and lies about outcomes as a real one may, and its agent.
//!
//! Rows are `(table, value) → timestamp`: the same write twice shows only if its timestamp differs. Lists keep every
//! append: a second copy shows. Whatever was not in a restore point may be lost or half there after a crash.
#![allow(dead_code, reason = "each test program uses a part")]
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as the tests do")]

mod agent;
mod backend;
pub mod cluster;
pub mod replaced;

pub use agent::ModelAgent;
pub use backend::ModelConnector;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use replicateddb_replica::mutations::{Mutation, mutated};
use replicateddb_replica::site::{Agent, Health, Rest};
use replicateddb_store::api::{
    Clean, Code, Files, Held, Jvm, Manifest, Mark, Refusal, RestorePoint, Rewind, Rewound, Status, Table,
};
use replicateddb_store::client::StoreError;
use tokio::sync::watch;
use uuid::Uuid;

/// What Cassandra holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Data {
    /// Tables and their ids.
    pub tables: BTreeMap<String, Uuid>,
    /// Plain writes.
    pub rows: BTreeMap<(String, String), i64>,
    /// Appends, in the order of execution.
    pub lists: BTreeMap<String, Vec<String>>,
    /// Timestamp of the last TRUNCATE.
    pub truncated_us: i64,
}

/// ms that Cassandra's clock shows at the beginning.
const CLOCK_MS: i64 = 100_000;

#[derive(Default)]
struct World {
    data: Data,
    generation: u64,
    running: bool,
    highest: i64,
    clean: Option<(Option<Manifest>, u64)>,
    number: u32,
    began: Option<tokio::time::Instant>,
    /// What was flushed last: a snapshot takes no more.
    flushed: Data,
    /// How often memtables were replaced, and when they are without being asked.
    switches: u64,
    full: Option<StdRng>,
    /// ms that Cassandra's clock is ahead of the simulated time; it steps when the JVM starts.
    clock_ms: i64,
    /// What the last element of a list was named after, by that clock.
    appended_ms: i64,
    snapshots: BTreeMap<String, (u64, Data, i64)>,
    aborted: BTreeSet<String>,
    /// The last two restore points.
    points: Vec<(Manifest, Data)>,
    /// Why nothing that is here is to be used.
    distrusted: Option<String>,
    points_made: u64,
    installs: u64,
    sequence: u64,
    /// Probability of trouble, in percent.
    trouble: u32,
    health: Option<watch::Sender<Health>>,
    /// The agent shuts down.
    stopping: bool,
    /// Neither agent nor JVM is there.
    down: bool,
    /// Longest time of a commit.
    commit_ms: u32,
    rewinds: u64,
    starts_without_rewind: u64,
    /// Values whose writes it answers with an error that may be anything's.
    refuses: BTreeSet<String>,
    /// Of the flaky values, those that it has written once, and so always can.
    managed: BTreeSet<String>,
}

/// One store with its agent. Cheap to clone.
#[derive(Clone)]
pub struct ModelStore {
    world: Arc<Mutex<World>>,
    random: Arc<Mutex<StdRng>>,
}

impl ModelStore {
    /// `number`: of its replica.
    pub fn new(seed: u64, number: u32) -> Self {
        let began = Some(tokio::time::Instant::now());
        let full = Some(StdRng::seed_from_u64(seed ^ MEMTABLES));
        let world = World { clean: Some((None, 0)), began, number, commit_ms: 2000, full, ..World::default() };
        Self { world: Arc::new(Mutex::new(world)), random: Arc::new(Mutex::new(StdRng::seed_from_u64(seed))) }
    }

    fn world<T>(&self, with: impl FnOnce(&mut World) -> T) -> T {
        with(&mut self.world.lock().unwrap())
    }

    fn dice(&self, sides: u32) -> u32 {
        self.random.lock().unwrap().random_range(0..sides)
    }

    pub fn set_trouble(&self, percent: u32) {
        self.world(|world| world.trouble = percent);
    }

    /// Answers writes of this value with an error that may be anything's, or does no longer.
    pub fn refuse(&self, value: &str, refuse: bool) {
        self.world(|world| {
            match refuse {
                true => world.refuses.insert(value.to_owned()),
                false => world.refuses.remove(value),
            };
        });
    }

    pub fn set_commit_ms(&self, at_most: u32) {
        self.world(|world| world.commit_ms = at_most);
    }

    /// Snapshots that are not committed.
    pub fn uncommitted(&self) -> usize {
        self.world(|world| world.snapshots.len())
    }

    pub fn data(&self) -> Data {
        self.world(|world| world.data.clone())
    }

    pub fn rewinds(&self) -> u64 {
        self.world(|world| world.rewinds)
    }

    pub fn restore_points(&self) -> u64 {
        self.world(|world| world.points_made)
    }

    pub fn generation(&self) -> u64 {
        self.world(|world| world.generation)
    }

    pub fn is_stopping(&self) -> bool {
        self.world(|world| world.stopping)
    }

    pub fn is_running(&self) -> bool {
        self.world(|world| world.running)
    }

    pub fn starts_without_rewind(&self) -> u64 {
        self.world(|world| world.starts_without_rewind)
    }

    /// kill -9 of the JVM: what is on the disk afterwards is anybody's guess.
    pub fn kill_jvm(&self) {
        let lose = self.dice(3);
        self.world(|world| {
            world.running = false;
            for _ in 0..lose {
                world.data.rows.pop_last();
                world.data.lists.values_mut().for_each(|list| drop(list.pop()));
            }
            if let Some(health) = world.health.take() {
                health.send_replace(Health::Lost { reason: "killed".into() });
            }
        });
    }

    /// Agent and JVM die, and stay away; or are there again.
    pub fn set_down(&self, down: bool) {
        if down {
            self.kill_jvm();
        }
        self.world(|world| world.down = down);
    }

    /// SIGTERM to the agent, and its start after a while.
    pub async fn restart_agent(&self) {
        const MARK_WAIT: Duration = Duration::from_secs(15);
        const POLL: Duration = Duration::from_millis(50);
        self.world(|world| world.stopping = true);
        let marked = |world: &mut World| world.clean.as_ref().is_some_and(|(_, of)| *of == world.generation);
        let deadline = tokio::time::Instant::now() + MARK_WAIT;
        while self.world(|world| world.running && !marked(world)) && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(POLL).await;
        }
        let drained = self.world(|world| {
            let drained = world.running && marked(world);
            world.clean = world.clean.take().filter(|_| drained).map(|(manifest, _)| (manifest, 0));
            world.snapshots.clear();
            drained
        });
        if drained {
            self.world(|world| {
                world.running = false;
                if let Some(health) = world.health.take() {
                    health.send_replace(Health::Lost { reason: "stopped".into() });
                }
            });
        } else {
            self.kill_jvm();
        }
        tokio::time::sleep(Duration::from_millis(u64::from(self.dice(3000)))).await;
        self.world(|world| {
            world.stopping = false;
            if drained {
                start(world);
                let generation = world.generation;
                world.clean = world.clean.take().map(|(manifest, _)| (manifest, generation));
            }
        });
    }

    /// Restore points taken over from other stores.
    pub fn installs(&self) -> u64 {
        self.world(|world| world.installs)
    }

    /// What it holds, in restore points too, is another thing than what the log made.
    pub fn corrupt(&self) {
        self.world(|world| {
            for data in world.points.iter_mut().map(|(_, data)| data).chain([&mut world.data, &mut world.flushed]) {
                data.rows.insert(("t0".into(), "bogus".into()), 1);
            }
        });
    }

    /// The volume is lost; the agent starts on an empty one.
    pub fn lose_volume(&self) {
        self.kill_jvm();
        self.world(|world| {
            world.data = Data::default();
            world.appended_ms = 0;
            (world.points, world.distrusted) = (Vec::new(), None);
            world.snapshots.clear();
            world.clean = Some((None, 0));
        });
    }

    /// The agent, for one incarnation of the replica; it can reach those of all `stores`.
    pub fn agent(&self, incarnation: i64, stores: &[Self]) -> ModelAgent {
        ModelAgent { store: self.clone(), incarnation, stores: stores.to_vec() }
    }
}

/// Writes that fill a memtable, on average.
const WRITES_PER_MEMTABLE: u32 = 30;
/// Makes another seed of a seed.
const MEMTABLES: u64 = 0x6d65_6d74;
/// Restore points that an agent keeps.
const KEPT: usize = 2;

impl World {
    /// After a write: now and then Cassandra flushes by itself. Changes of tables write and delete files, too, and a table
    /// that is dropped takes its count with it: as many as had been counted.
    fn replace_memtables(&mut self, tables_changed: bool) {
        let full = self.full.as_mut().is_some_and(|random| random.random_range(0..WRITES_PER_MEMTABLE) == 0);
        if full || tables_changed {
            self.flushed = self.data.clone();
            self.switches += u64::from(full);
        }
    }

    fn point(&self, id: &str) -> Result<(Manifest, Data), StoreError> {
        let found = self.points.iter().find(|(manifest, _)| manifest.id == id);
        found.cloned().ok_or_else(|| refused(Code::UnknownRestorePoint))
    }

    fn keep(&mut self, manifest: Manifest, data: Data) {
        self.points.push((manifest, data));
        let surplus = self.points.len().saturating_sub(KEPT);
        self.points.drain(..surplus);
    }
}

fn point(manifest: &Manifest) -> RestorePoint {
    RestorePoint {
        id: manifest.id.clone(),
        sequence: manifest.sequence,
        index: manifest.mark.index,
        created_ms: manifest.created_ms,
        files: Files::default(),
    }
}

fn unreachable() -> StoreError {
    StoreError::Unreachable("model".into())
}

fn refused(code: Code) -> StoreError {
    StoreError::Refused(Refusal { code, message: format!("{code:?}") })
}

/// What Cassandra's clock says, in ms.
fn now_ms(world: &World) -> i64 {
    let simulated = tokio::time::Instant::now().duration_since(world.began.expect("it has an agent"));
    i64::try_from(simulated.as_millis()).unwrap() + CLOCK_MS + world.clock_ms
}

fn start(world: &mut World) {
    world.generation += 1;
    world.running = true;
}

fn manifest(world: &mut World, id: &str, mark: Mark, cassandra_now_ms: i64) -> Manifest {
    world.sequence += 1;
    let (sequence, id) = (world.sequence, id.to_owned());
    Manifest { id, sequence, mark, cassandra_now_ms, created_ms: 0, files: Files::default(), footprint: None }
}
