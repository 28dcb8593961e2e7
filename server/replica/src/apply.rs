//! Applying the log: the tail's entries are admitted ([`crate::state`]), get lanes ([`crate::lanes`]), execute on the
//! local Cassandra, and answer whoever waits. One task decides; executions run beside it.
//!
//! ```text
//! tail → intake → admit (index, ts) → plan → lanes → execute → done → applied index
//!        whole entries   in order     in order        parallel        dense
//! ```
//! Nothing is planned while a record that excludes everything (DDL, TRUNCATE, digest) is under way, so that each
//! statement is prepared against the schema at its own index. A restore point or a stop waits at an entry's end until
//! all lanes are free: then the store is exactly at the state's index.

mod told;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, Stream, StreamExt};
use replicateddb_faults::{Fault, pass};
use replicateddb_ordering::{Committed, Position, TailError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Duration, Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::command::{Command, Exit};
use crate::execute::{Executed, Execution, plan_until_known};
use crate::lag::Lag;
use crate::lanes::{Lanes, Scheduler, Ticket};
use crate::look_ahead::look_on;
use crate::mutations::{Mutation, mutated};
use crate::premise;
use crate::reads::{Hold, Reads};
use crate::record::{Entry, RecordKind, flags};
use crate::restore_point::{RestorePoints, Step};
use crate::shared::Shared;
use crate::site::{Agent, Backend, Failure, Plan, Reply};
use crate::state::{Admitted, State};
use crate::verdict::skipped_because;
use crate::watermark::Watermark;

/// How often due restore points are looked for and progress is published without other events.
const BEAT: Duration = Duration::from_millis(250);

/// A record that holds or waits for its lanes.
struct Waiting {
    admitted: Arc<Admitted>,
    repeatable: bool,
}

type Planned = (Arc<Admitted>, Result<Plan, Failure>);

/// See the module's head. One life of it per generation of the backend.
pub struct Applier<B, A, T> {
    shared: Arc<Shared>,
    backend: B,
    agent: A,
    tail: T,
    state: State,
    intake: VecDeque<(Position, i64, Entry)>,
    intake_records: usize,
    /// As the log counts them.
    intake_bytes: u64,
    lag: Lag,
    /// Admitted and not planned; all of one entry.
    feeding: VecDeque<Arc<Admitted>>,
    planning: Option<BoxFuture<'static, Planned>>,
    scheduler: Scheduler,
    /// Bytes of the records in the scheduler.
    in_lanes_bytes: usize,
    /// In the scheduler and not executing.
    waiting: HashMap<u64, Waiting>,
    /// Holding their lanes and not executing.
    ready: VecDeque<u64>,
    executing: FuturesUnordered<BoxFuture<'static, Executed>>,
    /// The record in the scheduler that excludes everything, if there is one.
    excluding: Option<u64>,
    reads: Reads,
    /// An attempt of unknown outcome may still land, harmless unless DDL or TRUNCATE comes between (design 4.5).
    stray: bool,
    done: Watermark,
    /// Own barriers by index: answered once everything up to them is applied.
    barriers: BTreeMap<u64, u64>,
    restore_points: RestorePoints<A>,
    /// A verdict has it rewound.
    by_verdict: bool,
    logged: Instant,
}

impl<B, A, T> Applier<B, A, T>
where
    B: Backend,
    A: Agent,
    T: Stream<Item = Result<Committed, TailError>> + Send + Unpin,
{
    /// An applier that goes on from `state`, which the backend's store is exactly at. `tail` starts there.
    pub fn new(
        shared: Arc<Shared>,
        backend: B,
        agent: A,
        restore_points: RestorePoints<A>,
        state: State,
        tail: T,
    ) -> Self {
        let done = Watermark::at(state.index());
        let (replica, incarnation) = shared.own();
        shared.log_room.all_arrived(|first| state.contains(replica, incarnation, first));
        shared.has_schema(&state);
        Self {
            shared,
            backend,
            agent,
            tail,
            state,
            intake: VecDeque::new(),
            intake_records: 0,
            intake_bytes: 0,
            lag: Lag::default(),
            feeding: VecDeque::new(),
            planning: None,
            scheduler: Scheduler::default(),
            in_lanes_bytes: 0,
            waiting: HashMap::new(),
            ready: VecDeque::new(),
            executing: FuturesUnordered::new(),
            excluding: None,
            reads: Reads::default(),
            stray: false,
            done,
            barriers: BTreeMap::new(),
            restore_points,
            by_verdict: false,
            logged: Instant::now(),
        }
    }

    /// Applies until there is a reason not to.
    pub async fn run(mut self, commands: &mut mpsc::Receiver<Command>, stop: &CancellationToken) -> Exit {
        let exit = self.apply(commands, stop).await;
        if self.by_verdict {
            // What it holds the others have left out: nobody is shown it while the rest of the log is read.
            self.shared.stop_serving("a verdict leaves out a record that this store has: it is rewound");
            look_on(&self.shared, self.state, self.intake, self.tail).await;
        }
        exit
    }

    async fn apply(&mut self, commands: &mut mpsc::Receiver<Command>, stop: &CancellationToken) -> Exit {
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let holding = stop.is_cancelled() || self.restore_points.holds_lanes();
            if let Err(exit) = self.advance(holding) {
                return exit;
            }
            if holding && (self.is_drained() || mutated(while_executing(stop))) {
                if stop.is_cancelled() && !self.restore_points.is_busy() {
                    self.publish();
                    if self.stray && !mutated(Mutation::MarkDespiteStray) {
                        let reason = "an earlier write of unknown outcome could land later";
                        return Exit::Rewind(reason.to_owned());
                    }
                    return Exit::Stopped(Box::new(self.state.clone()));
                }
                self.restore_points.drained(&self.state);
            }
            let room = self.intake_records < self.shared.config.intake_records
                && self.intake_bytes < self.shared.config.intake_bytes;
            tokio::select! {
                // The same history decides alike each time. Nothing starves: what comes first feeds on what comes last.
                biased;
                Some(executed) = self.executing.next(), if !self.executing.is_empty() => {
                    if let Err(exit) = self.finish(executed) {
                        return exit;
                    }
                }
                planned = async { self.planning.as_mut().expect("guarded").await }, if self.planning.is_some() => {
                    self.planning = None;
                    if let Err(exit) = self.plan(planned) {
                        return exit;
                    }
                }
                step = self.restore_points.step() => {
                    if let Step::Lost(reason) = step {
                        return Exit::Rewind(reason);
                    }
                }
                Some(command) = commands.recv() => match command {
                    Command::RestorePoint(reply) => self.restore_points.ask(reply),
                    Command::Rebuild(rebuild) => return Exit::Rebuild(rebuild),
                    Command::Read(lanes, reader) => self.read(lanes, reader),
                },
                Some(number) = self.reads.over() => self.free(Ticket::Read(number)),
                () = stop.cancelled(), if !holding => {}
                _ = beat.tick() => {
                    self.restore_points.look(self.state.index());
                    self.publish();
                    if let Err(exit) = self.look_ahead() {
                        return exit;
                    }
                }
                committed = self.tail.next(), if room => {
                    if let Err(exit) = self.take(committed) {
                        return exit;
                    }
                }
            }
        }
    }

    /// Everything admitted is applied, and it is whole entries.
    fn is_drained(&self) -> bool {
        self.feeding.is_empty() && self.planning.is_none() && self.scheduler.records() == 0 && {
            assert_eq!(self.done.upto(), self.state.index(), "I3: drained means applied up to the state's index");
            true
        }
    }

    /// Takes one entry from the tail.
    fn take(&mut self, committed: Option<Result<Committed, TailError>>) -> Result<(), Exit> {
        let committed = match committed {
            Some(Ok(committed)) => committed,
            // Recovery knows what to do about that.
            Some(Err(error @ (TailError::Truncated { .. } | TailError::Lost))) => {
                return Err(Exit::Rewind(error.to_string()));
            }
            Some(Err(error)) => return Err(Exit::Fatal(error.to_string())),
            None => return Err(Exit::Fatal("the log's tail has ended".to_owned())),
        };
        let at = committed.position;
        let entry = Entry::decode(committed.entry).map_err(|e| Exit::Fatal(format!("entry at {at}: {e} (I8)")))?;
        self.shared.committed(&entry);
        self.shared.saw_entry(entry.records.iter().all(|record| record.kind == RecordKind::Tick));
        self.intake_records += entry.records.len();
        self.intake_bytes += entry.log_bytes();
        self.shared.log_room.read_to(self.state.bytes().map(|bytes| bytes.saturating_add(self.intake_bytes)));
        if (entry.origin, entry.incarnation) == self.shared.own()
            && let Some(first) = entry.records.iter().map(|record| record.sequence).min()
        {
            self.shared.log_room.arrived(first);
        }
        self.intake.push_back((at, committed.commit_time_ms, entry));
        Ok(())
    }

    /// Does whatever needs no waiting: admits, plans, starts.
    fn advance(&mut self, holding: bool) -> Result<(), Exit> {
        loop {
            while self.executing.len() < self.shared.config.executing.max(1)
                && let Some(ticket) = self.ready.pop_front()
            {
                self.start(ticket)?;
            }
            let full = self.scheduler.records() >= self.shared.config.in_lanes.max(1)
                || self.in_lanes_bytes >= self.shared.config.in_lanes_bytes;
            if self.planning.is_some() || self.excluding.is_some() || full {
                return Ok(());
            }
            if self.restore_points.holds_tables()
                && self.feeding.front().is_some_and(|next| changes_tables(next.record.kind))
            {
                return Ok(());
            }
            match self.feeding.pop_front() {
                Some(admitted) => self.feed(admitted)?,
                None if holding || self.restore_points.holds_back(self.state.index()) => return Ok(()),
                None => match self.intake.pop_front() {
                    Some((at, commit_time_ms, entry)) => self.admit(at, commit_time_ms, entry)?,
                    None => return Ok(()),
                },
            }
        }
    }

    fn admit(&mut self, at: Position, commit_time_ms: i64, entry: Entry) -> Result<(), Exit> {
        self.intake_records -= entry.records.len();
        self.intake_bytes -= entry.log_bytes();
        self.restore_points.passed(entry.log_bytes());
        let admitted = self.state.admit(at, commit_time_ms, entry);
        let admitted = admitted.map_err(|error| Exit::Fatal(format!("entry at {at}: {error}")))?;
        for verdict in admitted.iter().filter_map(|admitted| admitted.verdict.as_ref()) {
            let reason = skipped_because(verdict.index, &verdict.failure);
            tracing::warn!(left_out = verdict.skipped, "{reason}");
            if !verdict.skipped && !mutated(Mutation::SkipWithoutRewind) {
                self.shared.stuck.look(&admitted, self.shared.own());
                self.by_verdict = true;
                return Err(Exit::Rewind(reason));
            }
        }
        self.shared.admitted(self.state.index());
        self.lag.admitted(self.state.index(), commit_time_ms);
        self.feeding.extend(admitted.into_iter().map(Arc::new));
        Ok(())
    }

    /// While a record can't be executed: hands over the state behind everything that was read of the log. What of that is not
    /// admitted yet the log may have given up already.
    fn look_ahead(&self) -> Result<(), Exit> {
        let stuck = &self.shared.stuck;
        if stuck.is_cut_off() {
            let reason = "the log was given up beyond records that can't be executed here";
            return Err(Exit::Rewind(reason.to_owned()));
        }
        if stuck.wants_state() {
            stuck.hand_over(self.state.clone(), &self.intake, self.shared.own()).map_err(Exit::Fatal)?;
        }
        Ok(())
    }

    /// Leaves a record out, by a verdict that is ahead in the log: nothing of it was ever done to this store.
    fn skip(&mut self, admitted: &Admitted, failure: &str) {
        let reason = skipped_because(admitted.index, failure);
        tracing::warn!("{reason}");
        self.shared.metrics.skipped.inc();
        self.state.skip(admitted.index);
        self.answer(admitted, Reply::invalid(&reason));
        self.complete(admitted);
    }

    fn feed(&mut self, admitted: Arc<Admitted>) -> Result<(), Exit> {
        if let Some(failure) = self.shared.stuck.verdict_on(admitted.index) {
            self.skip(&admitted, &failure);
            return Ok(());
        }
        match admitted.record.kind {
            // No effect on the store: they take no lane.
            RecordKind::Barrier | RecordKind::Tick | RecordKind::Semantics | RecordKind::Complaint => {
                if (admitted.origin, admitted.incarnation) == self.shared.own() {
                    self.barriers.insert(admitted.index, admitted.record.sequence);
                    if !self.shared.is_current() {
                        pass(Fault::BarrierAppended);
                    }
                }
                self.complete(&admitted);
            }
            // Everything before it is applied, so this is the schema at its place, and the same on every replica.
            RecordKind::Ddl if !premise::holds(&admitted.record, self.state.schema_index()) => {
                self.answer(&admitted, premise::moved());
                self.complete(&admitted);
            }
            RecordKind::Ddl | RecordKind::Truncate | RecordKind::Digest => {
                let repeatable = admitted.record.kind == RecordKind::Digest;
                let lanes = if mutated(Mutation::DdlDoesNotDrain) { Lanes::none() } else { Lanes::all() };
                return self.plan((admitted, Ok(Plan::Execute { lanes, repeatable })));
            }
            RecordKind::Dml | RecordKind::Batch => {
                let backend = self.backend.clone();
                let shared = self.shared.clone();
                let mut planning: BoxFuture<'static, Planned> = Box::pin(async move {
                    let plan = plan_until_known(&shared, &backend, &admitted).await;
                    (admitted, plan)
                });
                // What is prepared already need not wait for its turn among everything else that happens.
                match planning.as_mut().now_or_never() {
                    Some(planned) => return self.plan(planned),
                    None => self.planning = Some(planning),
                }
            }
        }
        Ok(())
    }

    fn plan(&mut self, (admitted, plan): Planned) -> Result<(), Exit> {
        match plan {
            Err(failure) => Err(self.rewind(admitted.index, failure.reason())),
            Ok(Plan::Answer(reply)) => {
                self.answer(&admitted, reply);
                self.complete(&admitted);
                Ok(())
            }
            Ok(Plan::Execute { lanes, repeatable }) => {
                let index = admitted.index;
                let counts = admitted.record.flags & flags::COUNTERS != 0;
                let repeatable = repeatable || (counts && mutated(Mutation::RepeatCounter));
                self.excluding = lanes.is_all().then_some(index);
                self.in_lanes_bytes += admitted.record.encoded_len();
                self.waiting.insert(index, Waiting { admitted, repeatable });
                if self.scheduler.submit(index, lanes) {
                    self.ready.push_back(index);
                }
                Ok(())
            }
        }
    }

    fn start(&mut self, ticket: u64) -> Result<(), Exit> {
        let Waiting { admitted, repeatable } = self.waiting.remove(&ticket).expect("a ready record waits");
        if self.stray && changes_tables(admitted.record.kind) && !mutated(Mutation::DdlDespiteStray) {
            let reason = "an earlier write of unknown outcome could land after a schema change or TRUNCATE";
            return Err(Exit::Rewind(reason.to_owned()));
        }
        let execution = Execution {
            shared: self.shared.clone(),
            backend: self.backend.clone(),
            agent: self.agent.clone(),
            table_id: self.state.table_id(ticket),
            admitted,
            repeatable,
        };
        self.executing.push(Box::pin(execution.run()));
        Ok(())
    }

    /// Somebody wants to read: behind every record in the lanes, before those that come.
    fn read(&mut self, lanes: Lanes, reader: oneshot::Sender<Hold>) {
        let (number, ready) = self.scheduler.submit_read(lanes);
        self.reads.wait(number, reader);
        if ready {
            self.reads.begin(number);
        }
    }

    /// Frees the lanes of a record or a read; whoever waited for them goes on.
    fn free(&mut self, ticket: Ticket) {
        for next in self.scheduler.complete(ticket) {
            match next {
                Ticket::Record(index) => self.ready.push_back(index),
                Ticket::Read(number) => self.reads.begin(number),
            }
        }
    }

    fn finish(&mut self, executed: Executed) -> Result<(), Exit> {
        let Executed { admitted, result, ambiguous } = executed;
        let reply = result.map_err(|reason| self.rewind(admitted.index, reason))?;
        self.stray |= ambiguous;
        if admitted.record.kind == RecordKind::Ddl {
            self.schema_applied(&admitted, &reply);
        }
        self.excluding.take_if(|index| *index == admitted.index);
        self.in_lanes_bytes -= admitted.record.encoded_len();
        self.free(Ticket::Record(admitted.index));
        self.restore_points.wrote(self.state.index());
        self.answer(&admitted, reply);
        self.complete(&admitted);
        Ok(())
    }

    /// The store has to be rewound because of this record.
    fn rewind(&mut self, index: u64, reason: String) -> Exit {
        self.by_verdict = self.shared.stuck.verdict_on(index).is_some();
        Exit::Rewind(reason)
    }
}

/// Whether files of tables come and go with it, not only rows.
fn changes_tables(kind: RecordKind) -> bool {
    matches!(kind, RecordKind::Ddl | RecordKind::Truncate)
}

/// The mistake of not waiting for the lanes to drain.
fn while_executing(stop: &CancellationToken) -> Mutation {
    if stop.is_cancelled() { Mutation::MarkWithoutDraining } else { Mutation::RestorePointWithoutDraining }
}
