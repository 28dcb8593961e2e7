//! An ordered log in the memory of one process: for tests, and for the faults a real one is too good to show on demand.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use uuid::Uuid;

use crate::truncation::Published;
use crate::{
    AppendError, Appended, Beginning, Committed, Incarnation, Life, LogError, LogHealth, LogId, OrderedLog, Position,
    TailError,
};

/// Of so many questions to other replicas one is lost.
const LOST_QUESTION: u32 = 11;

/// Limits of a log in memory.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Entries per segment, at least 1.
    pub segment_entries: u32,
    /// The largest entry taken, in bytes.
    pub max_body_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { segment_entries: 10_000, max_body_bytes: 17 << 20 }
    }
}

/// What happens to one append instead of success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Committed, but the answer is lost: appending again makes a second copy.
    UnknownCommitted,
    /// Neither committed nor answered.
    UnknownLost,
    /// The answer is lost at once; the entry is committed only after that many later entries, unless it was fenced by
    /// then.
    UnknownLate(u32),
    /// Not committed, and the answer says so.
    Unavailable,
}

/// The log itself, of which [`MemoryLog`]s are handles.
#[derive(Clone, Debug)]
pub struct MemoryStorage {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    state: Mutex<State>,
    /// Rung on every change that a tail may wait for. It wakes tails in the order in which they wait (a `watch` channel
    /// shuffles them), so that a simulated run is the same again.
    bell: Notify,
}

#[derive(Debug)]
struct State {
    /// Entries from index `first` on.
    entries: VecDeque<Committed>,
    /// Index of the first retained entry.
    first: u64,
    /// Where it stands, as it was given: the end of a segment and the start of the next are the same place.
    beginning: Beginning,
    /// Entries whose answer was lost and that come after `.0` further ones.
    late: Vec<(u32, u32, Incarnation, Bytes)>,
    /// The newest incarnation of each replica.
    incarnations: BTreeMap<u32, Incarnation>,
    last_incarnation: i64,
    published: BTreeMap<u32, Published>,
    /// What each life vouches for, as long as it lives.
    shown: BTreeMap<Life, Weak<AtomicU64>>,
    /// Questions there have been.
    questions: u32,
    /// Lives that the log can't be reached from.
    cut_off: BTreeSet<Life>,
    /// Lives whose tails stand still.
    held_tails: BTreeSet<Life>,
    faults: VecDeque<Fault>,
    health: LogHealth,
    /// Each with one receiver, for the same reason.
    health_watchers: Vec<watch::Sender<LogHealth>>,
    /// A clock for tests; the real one when there is none.
    clock_ms: Option<i64>,
}

impl MemoryStorage {
    /// An empty log.
    pub fn new(config: Config) -> Self {
        let config = Config { segment_entries: config.segment_entries.max(1), ..config };
        let state = State {
            entries: VecDeque::new(),
            first: 0,
            beginning: Beginning::START,
            late: Vec::new(),
            incarnations: BTreeMap::new(),
            last_incarnation: 0,
            published: BTreeMap::new(),
            shown: BTreeMap::new(),
            questions: 0,
            cut_off: BTreeSet::new(),
            held_tails: BTreeSet::new(),
            faults: VecDeque::new(),
            health: LogHealth::Connected,
            health_watchers: Vec::new(),
            clock_ms: None,
        };
        let shared = Shared { config, state: Mutex::new(state), bell: Notify::new() };
        Self { shared: Arc::new(shared) }
    }

    /// A handle for `replica`, with a new incarnation; the handles of its earlier ones are fenced.
    pub fn open(&self, replica: u32) -> (MemoryLog, Incarnation) {
        let mut state = self.shared.state();
        state.last_incarnation += 1;
        let incarnation = Incarnation(state.last_incarnation);
        state.incarnations.insert(replica, incarnation);
        drop(state);
        (MemoryLog { shared: self.shared.clone(), replica, incarnation }, incarnation)
    }

    /// Makes the next append that no earlier fault waits for fail in this way.
    pub fn inject(&self, fault: Fault) {
        self.shared.state().faults.push_back(fault);
    }

    /// Forgets the faults that no append has met yet.
    pub fn clear_faults(&self) {
        self.shared.state().faults.clear();
    }

    /// Takes the log away, or gives it back: meanwhile appends are `Unavailable` and tails stand still.
    pub fn set_available(&self, available: bool) {
        let health = match available {
            true => LogHealth::Connected,
            false => LogHealth::Disconnected { since: Instant::now(), detail: "taken away by a test".into() },
        };
        let mut state = self.shared.state();
        state.health_watchers.retain(|watcher| watcher.send(health.clone()).is_ok());
        state.health = health;
        drop(state);
        self.shared.ring();
    }

    /// Takes the log away from these lives alone, until the next call: what they ask each other still arrives.
    pub fn cut_off(&self, lives: BTreeSet<Life>) {
        self.shared.state().cut_off = lives;
        self.shared.ring();
    }

    /// Lets the tails of these lives alone stand still, until the next call.
    pub fn hold_tails(&self, lives: BTreeSet<Life>) {
        self.shared.state().held_tails = lives;
        self.shared.ring();
    }

    /// Sets the clock that commit times come from, in milliseconds since 1970; `None` is the system's.
    pub fn set_clock(&self, now_ms: Option<i64>) {
        self.shared.state().clock_ms = now_ms;
    }

    /// The lives that may append.
    pub fn living(&self) -> BTreeSet<Life> {
        self.shared.state().living()
    }

    /// Every retained entry.
    pub fn entries(&self) -> Vec<Committed> {
        self.shared.state().entries.iter().cloned().collect()
    }
}

impl Default for MemoryStorage {
    fn default() -> Self {
        Self::new(Config::default())
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is complete before anything that may panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        self.bell.notify_waiters();
    }

    fn position(&self, index: u64) -> Position {
        let per_segment = u64::from(self.config.segment_entries);
        let segment = u32::try_from(index / per_segment).unwrap_or(u32::MAX);
        let sequence = u32::try_from(index % per_segment).unwrap_or(u32::MAX);
        Position { segment, sequence }
    }

    /// The index that `position` reads on from; `None` if no segment has that many entries.
    fn index(&self, position: Position) -> Option<u64> {
        let per_segment = self.config.segment_entries;
        (position.sequence <= per_segment)
            .then(|| u64::from(position.segment) * u64::from(per_segment) + u64::from(position.sequence))
    }

    fn commit(&self, state: &mut State, entry: Bytes) -> Appended {
        let appended = self.push(state, entry);
        let mut due = Vec::new();
        state.late.retain_mut(|(after, replica, incarnation, entry)| {
            *after = after.saturating_sub(1);
            if *after == 0 {
                due.push((*replica, *incarnation, entry.clone()));
            }
            *after != 0
        });
        for (replica, incarnation, entry) in due {
            if state.incarnations.get(&replica) == Some(&incarnation) {
                self.push(state, entry);
            }
        }
        self.ring();
        appended
    }

    fn push(&self, state: &mut State, entry: Bytes) -> Appended {
        let position = self.position(state.end());
        let commit_time_ms = state.clock_ms.unwrap_or_else(system_time_ms);
        state.entries.push_back(Committed { position, commit_time_ms, entry });
        Appended { position, commit_time_ms }
    }

    /// The entry that `from` reads on with, `None` if it is not committed yet.
    fn read(&self, from: Position) -> Result<Option<Committed>, TailError> {
        let state = self.state();
        let ahead = || TailError::Ahead { end: self.position(state.end()) };
        let index = self.index(from).ok_or_else(ahead)?;
        if index < state.first {
            return Err(TailError::Truncated { first: state.beginning.position });
        }
        if index > state.end() {
            return Err(ahead());
        }
        let offset = usize::try_from(index - state.first).unwrap_or(usize::MAX);
        Ok(state.entries.get(offset).cloned())
    }
}

impl State {
    /// Index of the next entry.
    fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    fn living(&self) -> BTreeSet<Life> {
        self.incarnations.iter().map(|(replica, incarnation)| (*replica, *incarnation)).collect()
    }
}

pub(crate) fn system_time_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}

/// A handle on a [`MemoryStorage`].
#[derive(Clone, Debug)]
pub struct MemoryLog {
    shared: Arc<Shared>,
    replica: u32,
    incarnation: Incarnation,
}

impl MemoryLog {
    /// The log that this is a handle of.
    pub fn storage(&self) -> MemoryStorage {
        MemoryStorage { shared: self.shared.clone() }
    }

    fn append_now(&self, entry: Bytes) -> Result<Appended, AppendError> {
        let limit = self.shared.config.max_body_bytes;
        if entry.len() > limit {
            return Err(AppendError::TooLarge { bytes: entry.len(), limit });
        }
        let mut state = self.shared.state();
        if !self.is_reachable(&state) {
            return Err(AppendError::Unavailable { reason: "the log is taken away".into() });
        }
        if self.is_fenced(&state) {
            return Err(AppendError::Fenced);
        }
        let unknown = || AppendError::Unknown { detail: "the answer was lost".into() };
        match state.faults.pop_front() {
            None => Ok(self.shared.commit(&mut state, entry)),
            Some(Fault::Unavailable) => Err(AppendError::Unavailable { reason: "refused by a test".into() }),
            Some(Fault::UnknownLost) => Err(unknown()),
            Some(Fault::UnknownCommitted) => {
                self.shared.commit(&mut state, entry);
                Err(unknown())
            }
            Some(Fault::UnknownLate(after)) => {
                state.late.push((after.max(1), self.replica, self.incarnation, entry));
                Err(unknown())
            }
        }
    }

    fn is_reachable(&self, state: &State) -> bool {
        state.health.is_connected() && !state.cut_off.contains(&(self.replica, self.incarnation))
    }

    fn is_tailing(&self, state: &State) -> bool {
        self.is_reachable(state) && !state.held_tails.contains(&(self.replica, self.incarnation))
    }

    fn is_fenced(&self, state: &State) -> bool {
        state.incarnations.get(&self.replica) != Some(&self.incarnation)
    }
}

impl OrderedLog for MemoryLog {
    fn append_requests(
        &self,
        entry: Bytes,
        _requests: usize,
    ) -> impl Future<Output = Result<Appended, AppendError>> + Send + 'static {
        let log = self.clone();
        async move {
            // A real log never answers within the caller's own poll.
            tokio::task::yield_now().await;
            log.append_now(entry)
        }
    }

    fn tail(&self, from: Position) -> impl Stream<Item = Result<Committed, TailError>> + Send + Unpin + 'static {
        let start = Some((self.clone(), from));
        stream::unfold(start, |tail| async move {
            let (log, from) = tail?;
            let shared = &log.shared;
            loop {
                // Before reading, so that no ring falls in between.
                let mut rung = pin!(shared.bell.notified());
                rung.as_mut().enable();
                let available = log.is_tailing(&shared.state());
                match available.then(|| shared.read(from)).transpose() {
                    Err(error) => return Some((Err(error), None)),
                    Ok(Some(Some(committed))) => {
                        let next = committed.position.next();
                        return Some((Ok(committed), Some((log.clone(), next))));
                    }
                    Ok(_) => rung.await,
                }
            }
        })
        .boxed()
    }

    async fn truncate(&self, below: Beginning) -> Result<(), LogError> {
        let mut state = self.shared.state();
        if self.is_fenced(&state) {
            return Err(LogError::Fenced);
        }
        let end = self.shared.position(state.end());
        let position = below.position;
        let index = self.shared.index(position).filter(|index| *index <= state.end());
        let index = index.ok_or(LogError::OutOfRange { position, end })?;
        while state.first < index {
            state.entries.pop_front();
            state.first += 1;
            state.beginning = below;
        }
        drop(state);
        self.shared.ring();
        Ok(())
    }

    async fn beginning(&self) -> Result<Beginning, LogError> {
        Ok(self.shared.state().beginning)
    }

    async fn end(&self) -> Result<Position, LogError> {
        Ok(self.shared.position(self.shared.state().end()))
    }

    async fn publish(&self, published: Published) -> Result<(), LogError> {
        let mut state = self.shared.state();
        if !self.is_reachable(&state) {
            return Err(LogError::Unavailable { reason: "the log is taken away".into() });
        }
        if self.is_fenced(&state) {
            return Err(LogError::Fenced);
        }
        state.published.insert(published.replica, published);
        Ok(())
    }

    async fn published(&self) -> Result<Vec<Published>, LogError> {
        Ok(self.shared.state().published.values().cloned().collect())
    }

    async fn living(&self) -> Result<BTreeSet<Life>, LogError> {
        let state = self.shared.state();
        if !self.is_reachable(&state) {
            return Err(LogError::Unavailable { reason: "the log is taken away".into() });
        }
        if self.is_fenced(&state) {
            return Err(LogError::Fenced);
        }
        Ok(state.living())
    }

    async fn resign(&self) -> Result<(), LogError> {
        let mut state = self.shared.state();
        if !self.is_reachable(&state) {
            return Err(LogError::Unavailable { reason: "the log is taken away".into() });
        }
        if self.is_fenced(&state) {
            return Err(LogError::Fenced);
        }
        state.incarnations.remove(&self.replica);
        Ok(())
    }

    async fn retire(&self, (replica, incarnation): Life) -> Result<(), LogError> {
        let mut state = self.shared.state();
        if !self.is_reachable(&state) {
            return Err(LogError::Unavailable { reason: "the log is taken away".into() });
        }
        if self.is_fenced(&state) {
            return Err(LogError::Fenced);
        }
        if state.incarnations.get(&replica) == Some(&incarnation) {
            state.incarnations.remove(&replica);
        }
        Ok(())
    }

    fn vouch(&self, shown: Arc<AtomicU64>) {
        self.shared.state().shown.insert((self.replica, self.incarnation), Arc::downgrade(&shown));
    }

    async fn ask(&self, lives: &BTreeSet<Life>) -> Option<u64> {
        let own = (self.replica, self.incarnation);
        let mut highest = 0;
        for life in lives.iter().filter(|life| **life != own) {
            let question = {
                let mut state = self.shared.state();
                state.questions = state.questions.wrapping_add(1);
                state.questions
            };
            if question % LOST_QUESTION == 0 {
                return None;
            }
            // On its way there, and back.
            sleep(Duration::from_millis(u64::from(question % 3))).await;
            let shown = self.shared.state().shown.get(life)?.upgrade()?.load(Ordering::SeqCst);
            sleep(Duration::from_millis(u64::from(question % 2))).await;
            highest = highest.max(shown);
        }
        Some(highest)
    }

    fn health(&self) -> watch::Receiver<LogHealth> {
        let mut state = self.shared.state();
        let (sender, receiver) = watch::channel(state.health.clone());
        state.health_watchers.retain(|watcher| !watcher.is_closed());
        state.health_watchers.push(sender);
        receiver
    }

    fn log_id(&self) -> LogId {
        LogId(Uuid::from_u128(1))
    }

    fn incarnation(&self) -> Incarnation {
        self.incarnation
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
