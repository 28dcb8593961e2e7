//! A store that crashes, forgets, answers late and lies about outcomes as a real one may, and its agent.
//!
//! Rows are `(table, value) → timestamp`: the same write twice shows only if its timestamp differs. Lists keep every
//! append: a second copy shows. Whatever was not in a restore point may be lost or half there after a crash.
#![allow(dead_code, reason = "each test program uses a part")]
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as the tests do")]

mod backend;
pub mod cluster;
pub mod replaced;

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

#[derive(Clone)]
pub struct ModelAgent {
    store: ModelStore,
    incarnation: i64,
    stores: Vec<ModelStore>,
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

impl ModelAgent {
    /// The store whose agent is at a source; it answers or does not.
    async fn ask<T>(
        &self,
        source: &str,
        look: impl FnOnce(&mut World) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let store = source.parse::<usize>().ok().and_then(|n| self.stores.get(n));
        let reachable = |world: &mut World| if world.down { Err(unreachable()) } else { look(world) };
        store.expect("a source that was made known").world(reachable)
    }

    async fn call<T>(
        &self,
        steps: u32,
        act: impl FnOnce(&mut World) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.call_to_drain(steps, |world| if world.stopping { Err(refused(Code::Stopping)) } else { act(world) }).await
    }

    async fn call_to_drain<T>(
        &self,
        steps: u32,
        act: impl FnOnce(&mut World) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        tokio::time::sleep(Duration::from_millis(u64::from(self.store.dice(steps.max(1))))).await;
        let lost_before = self.store.dice(100) < self.store.world(|world| world.trouble.min(4) / 2);
        let lost_after = self.store.dice(100) < self.store.world(|world| world.trouble.min(4) / 2);
        if lost_before {
            return Err(unreachable());
        }
        let done = self.store.world(|world| {
            if world.down {
                return Err(unreachable());
            }
            if self.incarnation < world.highest {
                return Err(refused(Code::StaleIncarnation));
            }
            world.highest = self.incarnation;
            act(world)
        });
        if lost_after { Err(StoreError::Unreachable("model: the answer was lost".into())) } else { done }
    }
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

impl Agent for ModelAgent {
    async fn status(&self) -> Result<Status, StoreError> {
        tokio::time::sleep(Duration::from_millis(1)).await;
        if self.store.world(|world| world.down) {
            return Err(unreachable());
        }
        Ok(self.store.world(|world| {
            let clean = world
                .clean
                .clone()
                .filter(|(_, generation)| (world.running && *generation == world.generation) || *generation == 0);
            Status {
                store_id: Uuid::nil(),
                generation: world.generation,
                jvm_pid: None,
                jvm: if world.running { Jvm::Running } else { Jvm::Failed { detail: "killed".into() } },
                dirty: clean.is_none(),
                clean: clean.map(|(manifest, generation)| Clean {
                    manifest,
                    held: if generation == 0 { Held::Drained } else { Held::Generation { generation } },
                }),
                restore_points: world.points.iter().map(|(manifest, _)| point(manifest)).collect(),
                damaged: Vec::new(),
                distrusted: world.distrusted.clone(),
                shared: false,
                log_id: None,
                highest_incarnation: Some(world.highest),
                installing: None,
                stopping: world.stopping,
            }
        }))
    }

    async fn claim(&self) -> Result<(), StoreError> {
        self.call(3, |_| Ok(())).await
    }

    async fn flush(&self) -> Result<Rest, StoreError> {
        self.call(50, |world| {
            if !world.running {
                return Err(refused(Code::WrongState));
            }
            world.flushed = world.data.clone();
            world.switches += 1;
            Ok(Rest { builds: Vec::new(), memtable_switches: Some(world.switches) })
        })
        .await
    }

    async fn snapshot(&self, id: &str, generation: u64, _: i64, switches: Option<u64>) -> Result<(), StoreError> {
        self.call(50, |world| {
            if !world.running || world.generation != generation {
                return Err(refused(Code::WrongGeneration));
            }
            if world.aborted.contains(id) {
                return Err(refused(Code::UnknownRestorePoint));
            }
            if switches.is_some_and(|flushed| flushed != world.switches) {
                world.aborted.insert(id.to_owned());
                return Err(refused(Code::MemtableSwitched));
            }
            world.snapshots.insert(id.to_owned(), (generation, world.flushed.clone(), now_ms(world)));
            Ok(())
        })
        .await
    }

    async fn commit(&self, id: &str, mark: Mark) -> Result<(), StoreError> {
        // Long: records are applied meanwhile.
        self.call(self.store.world(|world| world.commit_ms), |world| {
            let (_, data, at_ms) = world.snapshots.remove(id).ok_or_else(|| refused(Code::UnknownRestorePoint))?;
            let manifest = manifest(world, id, mark, at_ms);
            world.keep(manifest, data);
            world.points_made += 1;
            Ok(())
        })
        .await
    }

    async fn abort(&self, id: &str) -> Result<(), StoreError> {
        self.call_to_drain(5, |world| {
            world.snapshots.remove(id);
            world.aborted.insert(id.to_owned());
            Ok(())
        })
        .await
    }

    async fn rewind(&self, to: Rewind) -> Result<Rewound, StoreError> {
        let step_ms = i64::from(self.store.dice(2)) * i64::from(self.store.dice(4000));
        self.call(500, |world| {
            if to == Rewind::Empty {
                (world.points, world.distrusted) = (Vec::new(), None);
            } else if world.distrusted.is_some() {
                return Err(refused(Code::Distrusted));
            }
            if let Some(health) = world.health.take() {
                health.send_replace(Health::Lost { reason: "rewound".into() });
            }
            let (manifest, data) = match world.points.last() {
                Some((manifest, data)) => (Some(manifest.clone()), data.clone()),
                None => (None, Data::default()),
            };
            if !mutated(Mutation::ReplayWithoutRewind) {
                world.data = data;
            }
            world.appended_ms = manifest.as_ref().map_or(0, |manifest| manifest.cassandra_now_ms);
            // Its node's clock was set back, or forward again.
            world.clock_ms = -step_ms;
            world.clean = None;
            world.snapshots.clear();
            world.rewinds += 1;
            start(world);
            Ok(Rewound { generation: world.generation, manifest })
        })
        .await
    }

    async fn distrust(&self, reason: &str) -> Result<(), StoreError> {
        self.call(5, |world| {
            world.distrusted = Some(reason.to_owned());
            world.clean = None;
            Ok(())
        })
        .await
    }

    async fn start(&self) -> Result<u64, StoreError> {
        self.call(200, |world| match world.clean {
            Some((_, generation)) if world.running && generation == world.generation => {
                world.starts_without_rewind += 1;
                Ok(generation)
            }
            Some((ref manifest, 0)) => {
                let manifest = manifest.clone();
                start(world);
                // The mark now holds for the JVM that was started on the clean files.
                world.clean = Some((manifest, world.generation));
                Ok(world.generation)
            }
            _ => Err(refused(Code::Dirty)),
        })
        .await
    }

    async fn mark_clean(&self, generation: u64, mark: Mark) -> Result<(), StoreError> {
        self.call_to_drain(5, |world| {
            if !world.running || world.generation != generation {
                return Err(refused(Code::WrongGeneration));
            }
            let at_ms = now_ms(world);
            let manifest = manifest(world, "clean", mark, at_ms);
            world.clean = Some((Some(manifest), generation));
            Ok(())
        })
        .await
    }

    async fn clear_clean(&self) -> Result<(), StoreError> {
        self.call(5, |world| {
            world.clean = None;
            Ok(())
        })
        .await
    }

    async fn autocompaction(&self, _enabled: bool, _tables: Option<Vec<Table>>) -> Result<(), StoreError> {
        self.call(5, |_| Ok(())).await
    }

    fn source(&self) -> String {
        let own = self.stores.iter().position(|store| Arc::ptr_eq(&store.world, &self.store.world));
        own.expect("its own store is one of them").to_string()
    }

    async fn restore_points_of(&self, source: &str) -> Result<Vec<RestorePoint>, StoreError> {
        self.ask(source, |world| {
            let points = world.points.iter().filter(|_| world.distrusted.is_none());
            Ok(points.map(|(manifest, _)| point(manifest)).collect())
        })
        .await
    }

    async fn manifest_of(&self, source: &str, id: &str) -> Result<Manifest, StoreError> {
        self.ask(source, |world| world.point(id).map(|(manifest, _)| manifest)).await
    }

    async fn install(&self, source: &str, id: &str, replace: bool) -> Result<(), StoreError> {
        let (mut manifest, data) = self.ask(source, |world| world.point(id)).await?;
        self.call(2000, |world| {
            if world.point(id).is_ok() {
                return Ok(());
            }
            world.sequence += 1;
            manifest.sequence = world.sequence;
            if replace {
                (world.points, world.distrusted) = (Vec::new(), None);
            }
            world.keep(manifest, data);
            world.installs += 1;
            Ok(())
        })
        .await
    }

    async fn cassandra_now_ms(&self) -> Result<i64, StoreError> {
        self.call(2, |world| Ok(now_ms(world))).await
    }
}
