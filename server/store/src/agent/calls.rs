//! The calls of the replica, but for starting and rewinding.

use std::sync::PoisonError;
use std::time::{SystemTime, UNIX_EPOCH};

use uuid::Uuid;

use super::plan::Caller;
use super::state::{Pending, Persisted, Running, State};
use super::supervisor::{Agent, Locked, blocking, failed};
use super::{disk, faults, footprint, install, plan, points};
use crate::api::{
    Abort, Autocompaction, Clean, Code, Commit, Distrust, Done, Files, Flushed, Held, Install, Installing, Manifest,
    MarkClean, NowReply, RESTORE_POINTS_KEPT, Refusal, Rewind, Rewound, Snapshot,
};

/// Why a call is refused at the end.
const STOPPING: &str = "the agent is shutting down";
/// Id of a clean mark's manifest.
const CLEAN_ID: &str = "clean";

fn refuse<T>(code: Code, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { code, message: message.into() })
}

/// The agent's clock, ms since the epoch.
fn clock_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Removes Cassandra's copies of snapshots: what was linked from them is kept, and what was not is of no use.
async fn clear_snapshots(state: &mut State, running: &Running) {
    match running.jolokia.clear_snapshot("").await {
        Ok(()) => state.leftovers = false,
        Err(error) => tracing::warn!("clearing the snapshot: {error:#}; tried again with the next"),
    }
}

fn done(state: &State) -> Done {
    Done { generation: state.persisted.generation }
}

impl Agent {
    /// Lets a caller in, unless the agent is shutting down.
    async fn enter(&self, caller: Caller) -> Result<Locked, Refusal> {
        let state = self.enter_to_drain(caller).await?;
        match self.is_stopping() {
            true => refuse(Code::Stopping, STOPPING),
            false => Ok(state),
        }
    }

    /// Lets a caller in (I6): remembers its incarnation, durably, if it is the highest so far.
    async fn enter_to_drain(&self, caller: Caller) -> Result<Locked, Refusal> {
        let state = self.lock().await;
        let holds_nothing = state.holds_nothing();
        self.admit(state, caller, holds_nothing).await
    }

    async fn admit(&self, mut state: Locked, caller: Caller, holds_nothing: bool) -> Result<Locked, Refusal> {
        let persisted = &state.persisted;
        plan::admit(caller, persisted.log_id, persisted.highest(caller.log), holds_nothing)?;
        if state.persisted.owner() != Some(caller) {
            let mut persisted = state.persisted.clone();
            persisted.give_to(caller);
            let (layout, saved) = (self.setup.layout.clone(), persisted.clone());
            blocking(move || saved.save(&layout)).await.map_err(|e| failed(&e))?;
            state.persisted = persisted;
        }
        self.hear();
        Ok(state)
    }

    /// Only makes the incarnation the highest.
    pub async fn claim(self, caller: Caller, (): ()) -> Result<Done, Refusal> {
        let state = self.enter(caller).await?;
        Ok(done(&state))
    }

    /// Starts the JVM on a clean directory, or finds it started.
    pub async fn call_start(self, caller: Caller, (): ()) -> Result<Done, Refusal> {
        let mut state = self.enter(caller).await?;
        if state.running.as_ref().is_none_or(|running| !running.process.is_alive()) {
            self.start_jvm(&mut state, true).await?;
        }
        Ok(done(&state))
    }

    /// Has nothing that is here used any more. The flag first: with the mark gone, too, a crash leaves either both or a
    /// flag that says enough.
    pub async fn distrust(self, caller: Caller, request: Distrust) -> Result<Done, Refusal> {
        let mut state = self.enter(caller).await?;
        tracing::error!(reason = request.reason, "what the store holds is not used any more");
        self.set_distrusted(&mut state, Some(request.reason)).await?;
        state.clean = None;
        let layout = self.setup.layout.clone();
        blocking(move || disk::remove_file(&layout.clean())).await.map_err(|e| failed(&e))?;
        Ok(done(&state))
    }

    /// Says, durably, whether what is here may be used.
    pub(super) async fn set_distrusted(&self, state: &mut State, reason: Option<String>) -> Result<(), Refusal> {
        if state.persisted.distrusted == reason {
            return Ok(());
        }
        let persisted = Persisted { distrusted: reason, ..state.persisted.clone() };
        let (layout, saved) = (self.setup.layout.clone(), persisted.clone());
        blocking(move || saved.save(&layout)).await.map_err(|e| failed(&e))?;
        state.persisted = persisted;
        Ok(())
    }

    /// Rewinds and starts the JVM.
    pub async fn call_rewind(self, caller: Caller, to: Rewind) -> Result<Rewound, Refusal> {
        let state = self.lock().await;
        if self.is_stopping() {
            return refuse(Code::Stopping, STOPPING);
        }
        // Emptying is how people give a store to another log.
        let holds_nothing = to == Rewind::Empty || state.holds_nothing();
        let mut state = self.admit(state, caller, holds_nothing).await?;
        self.rewind(&mut state, &to).await
    }

    /// Flushes everything.
    pub async fn flush(self, caller: Caller, (): ()) -> Result<Flushed, Refusal> {
        let state = self.enter(caller).await?;
        let jolokia = state.serving()?.jolokia;
        jolokia.flush().await.map_err(|e| failed(&e))
    }

    /// Takes a snapshot into an uncommitted tree.
    pub async fn snapshot(self, caller: Caller, request: Snapshot) -> Result<Done, Refusal> {
        let mut state = self.enter(caller).await?;
        let Snapshot { id, generation, memtable_switches } = request;
        plan::check_id(&id)?;
        let running = state.serving_as(generation)?;
        if state.was_aborted(&id) {
            return refuse(Code::UnknownRestorePoint, format!("restore point {id} was aborted"));
        }
        if state.points.iter().any(|point| point.id == id) {
            return refuse(Code::BadRequest, format!("restore point {id} exists"));
        }
        self.drop_pending(&mut state).await?;
        match self.take_snapshot(&mut state, &running, &id).await {
            Ok((_, switches)) if memtable_switches.is_some_and(|flushed| flushed != switches) => {
                state.remember_aborted(&id);
                self.remove_tree(&id).await?;
                // Now, and not with the next one, which is taken with the replica's writes held.
                clear_snapshots(&mut state, &running).await;
                refuse(Code::MemtableSwitched, "a memtable was replaced between the flush and the snapshot")
            }
            Ok((now_ms, _)) => {
                state.pending = Some(Pending { id, incarnation: caller.incarnation, now_ms });
                Ok(done(&state))
            }
            Err(error) => {
                // Cassandra may finish it later, under a tag that nobody will look for.
                state.leftovers = true;
                state.remember_aborted(&id);
                self.remove_tree(&id).await?;
                Err(failed(&error))
            }
        }
    }

    /// Gives Cassandra's clock and its count of memtables that were replaced, both of after everything in the snapshot.
    async fn take_snapshot(&self, state: &mut State, running: &Running, id: &str) -> anyhow::Result<(i64, u64)> {
        if state.leftovers {
            running.jolokia.clear_snapshot("").await?;
            state.leftovers = false;
        }
        // A tag of this attempt's own: what an earlier one, timed out, leaves behind late is never taken for it.
        let tag = format!("{id}-{}", Uuid::new_v4().simple());
        state.leftovers = true;
        // What is in the snapshot was applied before this: the clock is as good as one that is read afterwards.
        let now_ms = async { anyhow::Ok(self.setup.probe().now_ms().await? + 1) };
        let (switches, now_ms) = tokio::try_join!(running.jolokia.snapshot(&tag), now_ms)?;
        let (layout, id) = (self.setup.layout.clone(), id.to_owned());
        blocking(move || points::gather(&layout, &id, &tag)).await?;
        Ok((now_ms, switches))
    }

    /// Commits a snapshot. The caller gets its answer as soon as the restore point is durable; older ones and
    /// Cassandra's own copy of the snapshot go after that, while the next call waits.
    pub async fn commit(self, caller: Caller, request: Commit) -> Result<Manifest, Refusal> {
        let mut state = self.enter(caller).await?;
        let id = request.id;
        let pending = state.pending.clone().filter(|p| p.id == id && p.incarnation == caller.incarnation);
        let Some(pending) = pending else {
            return refuse(Code::UnknownRestorePoint, format!("there is no snapshot {id} of this incarnation"));
        };
        let manifest = self.manifest(&mut state, id, request.mark, pending.now_ms).await?;
        let earlier = state.points.last().map(|point| point.id.clone());
        let setup = self.setup.clone();
        let committed =
            blocking(move || points::commit(&setup.layout, manifest, earlier.as_deref(), &setup.faults)).await;
        let manifest = match committed {
            Ok(manifest) => manifest,
            Err(error) => {
                self.drop_pending(&mut state).await?;
                return Err(failed(&error));
            }
        };
        state.pending = None;
        state.points.push(points::point(&manifest));
        state.publish();
        tokio::spawn(self.clone().clean_up(state));
        Ok(manifest)
    }

    /// Deletes what a new restore point supersedes.
    async fn clean_up(self, mut state: Locked) {
        let leased = self.leases.current();
        let unreadable = state.unreadable.iter().map(|damaged| damaged.id.clone());
        let superseded = plan::superseded(&state.points, &state.damaged, RESTORE_POINTS_KEPT, &leased);
        for id in unreadable.chain(superseded).collect::<Vec<_>>() {
            if let Err(error) = self.drop_point(&mut state, &id).await {
                tracing::warn!(id, %error, "deleting an old restore point; tried again after the next");
            }
        }
        self.setup.faults.pass("commit-old-dropped");
        // A copy that was given up: the replica has a base without it.
        if let Ok(_none) = self.installing.try_lock() {
            let layout = self.setup.layout.clone();
            if let Err(error) = blocking(move || disk::remove_tree(&layout.staging())).await {
                tracing::warn!("deleting half a copy: {error:#}; tried again after the next");
            }
        }
        if let Ok(running) = state.serving() {
            clear_snapshots(&mut state, &running).await;
        }
    }

    /// Copies a restore point of another store, which becomes the newest of this one. Other calls go on meanwhile, but for
    /// another copy, which waits.
    pub async fn install(self, caller: Caller, request: Install) -> Result<Done, Refusal> {
        let Install { source, id, replace } = request;
        plan::check_id(&id)?;
        drop(self.enter(caller).await?);
        let _one_at_a_time = self.installing.clone().lock_owned().await;
        let mut state = self.enter(caller).await?;
        if state.points.iter().any(|point| point.id == id) {
            let (layout, wanted) = (self.setup.layout.clone(), id.clone());
            let whole = blocking(move || Ok(points::check(&layout, &wanted, true))).await.map_err(|e| failed(&e))?;
            match whole {
                Ok(()) => {
                    // A crash came between the two.
                    let layout = self.setup.layout.clone();
                    blocking(move || disk::remove_tree(&layout.staging())).await.map_err(|e| failed(&e))?;
                    if replace {
                        self.replace_by(&mut state, &id).await?;
                    }
                    return Ok(done(&state));
                }
                Err(error) => {
                    tracing::warn!(id, "it was taken over before, and is damaged: {error:#}; it is copied again");
                    self.drop_point(&mut state, &id).await?;
                    state.publish();
                }
            }
        }
        drop(state);
        let staged = self.stage(&source, &id).await;
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let staged = staged.map_err(|e| failed(&e))?;
        // Whoever has taken over meanwhile decides anew.
        let mut state = self.enter(caller).await?;
        let sequence = self.next_sequence(&mut state).await?;
        let setup = self.setup.clone();
        let adopted = blocking(move || install::adopt(&setup.layout, staged, sequence, &setup.faults)).await;
        let manifest = adopted.map_err(|e| failed(&e))?;
        tracing::info!(id, source, index = manifest.mark.index, "took over a restore point of another replica");
        state.points.push(points::point(&manifest));
        if replace {
            self.replace_by(&mut state, &id).await?;
        }
        let answer = done(&state);
        state.publish();
        tokio::spawn(self.clone().clean_up(state));
        Ok(answer)
    }

    /// Deletes every restore point but this one, which came from another store: what is here may be used again.
    async fn replace_by(&self, state: &mut State, id: &str) -> Result<(), Refusal> {
        let unreadable = state.unreadable.iter().map(|damaged| damaged.id.clone());
        let others = state.points.iter().map(|point| point.id.clone()).chain(unreadable);
        let others: Vec<_> = others.filter(|other| other != id).collect();
        for other in others {
            self.drop_point(state, &other).await?;
        }
        state.damaged.retain(|damaged| damaged.id == id);
        self.setup.faults.pass(faults::REPLACE);
        self.set_distrusted(state, None).await
    }

    async fn stage(&self, source: &str, id: &str) -> anyhow::Result<install::Description> {
        let from = install::Source::new(source, &self.setup.token, self.setup.internal.clone())?;
        let tell = |installing: Installing| {
            *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = Some(installing);
        };
        install::stage(&self.setup.layout, &from, id, &self.setup.faults, tell).await
    }

    /// Gives up a snapshot; also while the agent is shutting down, or draining would wait for it in vain.
    pub async fn abort(self, caller: Caller, request: Abort) -> Result<Done, Refusal> {
        let mut state = self.enter_to_drain(caller).await?;
        let id = request.id;
        plan::check_id(&id)?;
        if state.points.iter().any(|point| point.id == id) {
            return refuse(Code::BadRequest, format!("restore point {id} is committed"));
        }
        state.remember_aborted(&id);
        if state.pending.as_ref().is_some_and(|pending| pending.id == id) {
            self.drop_pending(&mut state).await?;
        }
        Ok(done(&state))
    }

    async fn drop_pending(&self, state: &mut State) -> Result<(), Refusal> {
        match state.pending.take() {
            Some(pending) => self.remove_tree(&pending.id).await,
            None => Ok(()),
        }
    }

    /// Deletes a committed restore point.
    async fn drop_point(&self, state: &mut State, id: &str) -> Result<(), Refusal> {
        self.remove_tree(id).await?;
        state.points.retain(|point| point.id != id);
        state.damaged.retain(|damaged| damaged.id != id);
        state.unreadable.retain(|damaged| damaged.id != id);
        Ok(())
    }

    async fn remove_tree(&self, id: &str) -> Result<(), Refusal> {
        let (layout, id) = (self.setup.layout.clone(), id.to_owned());
        blocking(move || points::remove(&layout, &id)).await.map_err(|e| failed(&e))
    }

    /// A number for a manifest that none had before, even if that one comes to nothing.
    async fn next_sequence(&self, state: &mut State) -> Result<u64, Refusal> {
        let mut persisted = state.persisted.clone();
        persisted.sequence += 1;
        let (layout, saved) = (self.setup.layout.clone(), persisted.clone());
        blocking(move || saved.save(&layout)).await.map_err(|e| failed(&e))?;
        state.persisted = persisted;
        Ok(state.persisted.sequence)
    }

    /// Makes a manifest, with a number that was never used before, even if this one comes to nothing.
    async fn manifest(
        &self,
        state: &mut State,
        id: String,
        mark: crate::api::Mark,
        cassandra_now_ms: i64,
    ) -> Result<Manifest, Refusal> {
        let sequence = self.next_sequence(state).await?;
        Ok(Manifest {
            id,
            sequence,
            mark,
            cassandra_now_ms,
            created_ms: clock_ms(),
            files: Files::default(),
            footprint: None,
        })
    }

    /// Marks the directory clean for the running generation; also while the agent is shutting down, which then drains.
    pub async fn mark_clean(self, caller: Caller, request: MarkClean) -> Result<Manifest, Refusal> {
        let mut state = self.enter_to_drain(caller).await?;
        let generation = state.serving_as(request.generation)?.generation;
        let now_ms = self.setup.probe().now_ms().await.map_err(|e| failed(&e))? + 1;
        let footprint = footprint::read(&self.setup.probe()).await.map_err(|e| failed(&e))?;
        let mut manifest = self.manifest(&mut state, CLEAN_ID.to_owned(), request.mark, now_ms).await?;
        manifest.footprint = Some(footprint);
        let clean = Clean { manifest: Some(manifest.clone()), held: Held::Generation { generation } };
        let (layout, written) = (self.setup.layout.clone(), clean.clone());
        blocking(move || disk::write_json(&layout.clean(), &written)).await.map_err(|e| failed(&e))?;
        state.clean = Some(clean);
        Ok(manifest)
    }

    /// Removes the clean mark, durably. It counts as gone even if that fails: then the caller must not go on. Nor if the
    /// store is found to have been changed since it was marked: then only a rewind helps.
    pub async fn clear_clean(self, caller: Caller, (): ()) -> Result<Done, Refusal> {
        let mut state = self.enter(caller).await?;
        let changed = self.changed_since_marked(&state).await?;
        state.clean = None;
        let layout = self.setup.layout.clone();
        blocking(move || disk::remove_file(&layout.clean())).await.map_err(|e| failed(&e))?;
        match changed {
            None => Ok(done(&state)),
            Some(change) => {
                tracing::error!(change, "Cassandra was changed past the log while the replica was stopped");
                refuse(
                    Code::Dirty,
                    format!("Cassandra was changed past the log while the replica was stopped: {change}"),
                )
            }
        }
    }

    /// What somebody has done to a store that is marked clean.
    async fn changed_since_marked(&self, state: &State) -> Result<Option<String>, Refusal> {
        let (Some(mark), Ok(_running)) = (state.valid_mark(), state.serving()) else { return Ok(None) };
        let now = footprint::read(&self.setup.probe()).await.map_err(|e| failed(&e))?;
        let then = mark.manifest.as_ref().map(|manifest| manifest.footprint.as_ref());
        Ok(match then {
            // A restore point that was just put back, or a mark of an agent that took none.
            Some(None) => None,
            Some(then @ Some(_)) => footprint::difference(then, &now),
            None => footprint::difference(None, &now),
        })
    }

    /// Turns compaction on or off.
    pub async fn autocompaction(self, caller: Caller, request: Autocompaction) -> Result<Done, Refusal> {
        let state = self.enter(caller).await?;
        let jolokia = state.serving()?.jolokia;
        jolokia.autocompaction(request.enabled, request.tables.as_deref()).await.map_err(|e| failed(&e))?;
        Ok(done(&state))
    }

    /// Cassandra's clock.
    pub async fn cassandra_now(self, caller: Caller, (): ()) -> Result<NowReply, Refusal> {
        let state = self.enter(caller).await?;
        let generation = state.serving()?.generation;
        let now_ms = self.setup.probe().now_ms().await.map_err(|e| failed(&e))?;
        Ok(NowReply { now_ms, generation })
    }
}
