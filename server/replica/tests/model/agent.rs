//! The store's agent, as the replica sees it.

use super::*;

#[derive(Clone)]
pub struct ModelAgent {
    pub(super) store: ModelStore,
    pub(super) incarnation: i64,
    pub(super) stores: Vec<ModelStore>,
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
