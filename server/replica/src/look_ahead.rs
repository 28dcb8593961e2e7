//! Looking ahead in the log while a record can't be executed: the verdict on it stands behind it, where the applier, which
//! executes in order, does not come. Reads the log a second time, from what the applier has read on, for complaints
//! alone, and makes this replica's own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, Stream, StreamExt};
use replicateddb_ordering::{Committed, OrderedLog, TailError};
use tokio::time::{Duration, Instant, MissedTickBehavior, timeout};

use crate::propose::{Proposer, Said};
use crate::record::Entry;
use crate::shared::{Condition, Shared};
use crate::state::{Admitted, State};
use crate::stuck::Read;
use crate::verdict::Complaint;

/// How often it is looked at what has to be said.
const ROUND: Duration = Duration::from_millis(250);
/// Pause before the log is read again where that has failed; the applier meets the same, and does what is to be done.
const PAUSE: Duration = Duration::from_secs(1);
/// Silence in the log after which a [look on](look_on) ends.
const QUIET: Duration = Duration::from_millis(250);
/// Longest look on.
const LOOK_ON: Duration = Duration::from_secs(5);

/// See the module's head.
pub struct LookAhead<L> {
    shared: Arc<Shared>,
    log: L,
    proposer: Proposer,
    /// The last sign of life of each replica, and when it was seen first.
    heard: BTreeMap<u32, (Option<(i64, u64)>, Instant)>,
    looked: Option<Instant>,
    /// Own complaints on their way into the log.
    said: FuturesUnordered<BoxFuture<'static, (u64, Complaint, Said)>>,
}

impl<L: OrderedLog> LookAhead<L> {
    /// Nothing is wrong yet.
    pub fn new(shared: Arc<Shared>, log: L, proposer: Proposer) -> Self {
        Self { shared, log, proposer, heard: BTreeMap::new(), looked: None, said: FuturesUnordered::new() }
    }

    /// Looks ahead whenever there is a record that fails, until none does.
    pub async fn run(mut self) -> Infallible {
        loop {
            let state = self.shared.stuck.state().await;
            if let Err(reason) = self.follow(state).await {
                tracing::info!(%reason, "looking ahead in the log, again soon");
                tokio::time::sleep(PAUSE).await;
            }
            self.heard.clear();
            self.shared.condition(Condition::Verdict, None);
            self.shared.metrics.failing.set(0);
        }
    }

    async fn follow(&mut self, mut state: State) -> Result<(), String> {
        let mut tail = self.log.tail(state.next_position());
        let own = self.shared.own();
        let mut round = tokio::time::interval(ROUND);
        round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.shared.stuck.is_over() {
            tokio::select! {
                biased;
                Some((index, complaint, said)) = self.said.next(), if !self.said.is_empty() => {
                    self.shared.stuck.told(index, &complaint, said.is_ok());
                }
                _ = round.tick() => {
                    let silent = self.silent(&state).await;
                    self.speak(&state, &silent);
                }
                committed = tail.next() => {
                    let committed = committed.ok_or("the log's tail has ended")?;
                    if let Err(TailError::Truncated { .. }) = committed {
                        self.shared.stuck.cut_off();
                    }
                    let committed = committed.map_err(|error| error.to_string())?;
                    self.shared.stuck.look(&self.admit(&mut state, committed)?, own);
                }
            }
        }
        Ok(())
    }

    fn speak(&mut self, state: &State, silent: &BTreeSet<u32>) {
        let (config, stuck) = (&self.shared.config, &self.shared.stuck);
        for (index, complaint) in stuck.due(state, silent, config.replica, config.complain_after) {
            tracing::warn!(index, ?complaint, "complaining of a record, or taking that back");
            match self.proposer.complain(complaint.record(index)) {
                Ok(said) => self.said.push(Box::pin(async move { (index, complaint, said.await) })),
                Err(error) => {
                    tracing::warn!(%error, index, "the complaint can't be made now");
                    stuck.told(index, &complaint, false);
                }
            }
        }
        self.shared.condition(Condition::Verdict, stuck.text(state, config.complain_after));
        self.shared.metrics.failing.set(stuck.cases() as u64);
    }

    /// Replicas that have given no sign of life for very long ([`crate::config::Config::silent_after`]), since this replica began
    /// to look.
    async fn silent(&mut self, state: &State) -> BTreeSet<u32> {
        let (config, now) = (&self.shared.config, Instant::now());
        if self.looked.is_none_or(|looked| now - looked >= config.log_keep_interval) {
            self.looked = Some(now);
            match self.log.published().await {
                Ok(all) => {
                    for one in all {
                        let sign = Some((one.incarnation.0, one.beat));
                        let heard = self.heard.entry(one.replica).or_insert((sign, now));
                        if heard.0 != sign {
                            *heard = (sign, now);
                        }
                    }
                }
                // While the log is away nobody can be heard.
                Err(_) => self.heard.clear(),
            }
        }
        for origin in state.known_origins() {
            self.heard.entry(origin).or_insert((None, now));
        }
        let limit = config.silent_after();
        let silent = |(replica, (_, since)): (&u32, &(_, Instant))| {
            (*replica != config.replica && now - *since > limit).then_some(*replica)
        };
        self.heard.iter().filter_map(silent).collect()
    }

    fn admit(&self, state: &mut State, committed: Committed) -> Result<Vec<Admitted>, String> {
        let Committed { position, commit_time_ms, entry } = committed;
        let entry = Entry::decode(entry).map_err(|error| format!("entry at {position}: {error}"))?;
        // The proposer may wait for that, with what takes a complaint back behind it, and the applier does not come here.
        self.shared.committed(&entry);
        state.admit(position, commit_time_ms, entry).map_err(|error| format!("entry at {position}: {error}"))
    }
}

/// Before a store is rewound for a verdict: finds the others that stand in the log by now, so that one rewind does for all of
/// them. `state`: the applier's, which the entries in `read` follow, and those the `tail` gives. Bounded in time.
pub async fn look_on<T>(shared: &Shared, mut state: State, mut read: VecDeque<Read>, mut tail: T)
where
    T: Stream<Item = Result<Committed, TailError>> + Unpin,
{
    let (own, began) = (shared.own(), Instant::now());
    while began.elapsed() < LOOK_ON {
        while let Some((at, commit_time_ms, entry)) = read.pop_front() {
            // Whatever breaks the log's rules is met again, by who has to say so.
            let Ok(seen) = state.admit(at, commit_time_ms, entry) else { return };
            shared.stuck.look(&seen, own);
        }
        let Ok(Some(Ok(committed))) = timeout(QUIET, tail.next()).await else { return };
        let Ok(entry) = Entry::decode(committed.entry) else { return };
        read.push_back((committed.position, committed.commit_time_ms, entry));
    }
}
