//! The replica's side of the store agent.

use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

use crate::api::{
    Abort, Autocompaction, Code, Commit, Distrust, Done, Flushed, INCARNATION_HEADER, Install, Jvm, LOG_HEADER,
    Manifest, Mark, MarkClean, NowReply, Refusal, RestorePoint, Rewind, Rewound, Snapshot, Status, Table,
};
use crate::bounded;
use crate::internal::{CallError, Internal};

/// Longest wait for a connection to the agent.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for a short call: status, marks, claims.
const SHORT_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest wait for a call that works on the data: flush, snapshot.
const LONG_TIMEOUT: Duration = Duration::from_secs(180);
/// Longest wait for a commit, which reads every file that is new, or a rewind, which may have to read two whole restore
/// points to see whether they are damaged.
const READING_TIMEOUT: Duration = Duration::from_secs(3600);
/// Longest wait for a copy of another store's restore point.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// Silence after which the connection of a call under way is probed: an agent that is gone does not take so long.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Probes without an answer after which it counts as gone.
const KEEPALIVE_RETRIES: u32 = 4;
/// Longest wait for a JVM to answer CQL after it was started.
const START_TIMEOUT: Duration = Duration::from_secs(660);
/// Pause between two looks at a starting JVM.
const START_POLL: Duration = Duration::from_millis(200);
/// Looks in a row that may fail while a JVM starts: another rewind, for one lost answer, would end that start.
const START_MISSES: u32 = 10;
/// Pause after a look that failed.
const MISS_PAUSE: Duration = Duration::from_secs(2);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The agent answered and said no.
    #[error("the store agent refused: {0}")]
    Refused(#[from] Refusal),
    /// The agent did not answer; the call may or may not have been carried out.
    #[error("the store agent did not answer: {0}")]
    Unreachable(String),
    /// The JVM ended, or another was started, while this one was waited for.
    #[error("Cassandra did not start: {0}")]
    NotStarted(String),
    /// Of a replica that is confined to a keyspace of a shared Cassandra and has no agent: what it met there.
    #[error("{0}")]
    Keyspace(String),
}

impl StoreError {
    /// The code of a refusal.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused(refusal) => Some(refusal.code),
            _ => None,
        }
    }

    /// The store belongs to another log: only people can help.
    #[must_use]
    pub fn is_of_another_log(&self) -> bool {
        self.code() == Some(Code::OtherLog)
    }

    /// A newer incarnation of this replica lives: stop, and touch nothing more.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.code() == Some(Code::StaleIncarnation)
    }
}

/// A handle on one agent, on behalf of one incarnation of its replica. Cheap to clone.
///
/// Calls are carried out one after the other by the agent, and to their end even if the caller goes away.
#[derive(Clone)]
pub struct Store {
    http: reqwest::Client,
    internal: Internal,
    base: String,
    token: String,
    log: Uuid,
    incarnation: i64,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("base", &self.base)
            .field("log", &self.log)
            .field("incarnation", &self.incarnation)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// A client of the agent at `base` (`http://host:7070`), for an incarnation of a replica of a log; connects at the
    /// first call.
    ///
    /// # Errors
    /// If no HTTP client can be made on this system.
    pub fn new(base: &str, token: &str, log: Uuid, incarnation: i64) -> Result<Self, StoreError> {
        let http = reqwest::Client::builder()
            // The token is for the agent alone.
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_keepalive(KEEPALIVE)
            .tcp_keepalive_interval(KEEPALIVE)
            .tcp_keepalive_retries(KEEPALIVE_RETRIES)
            .build()
            .map_err(|e| StoreError::Unreachable(chain(&e)))?;
        let base = base.trim_end_matches('/').to_owned();
        Ok(Self { http, internal: Internal::default(), base, token: token.trim().to_owned(), log, incarnation })
    }

    /// The same over TLS, where the processes of the database use it.
    #[must_use]
    pub fn over(self, internal: Internal) -> Self {
        Self { internal, ..self }
    }

    /// What the agent and its JVM are doing. Needs no claim and waits for no other call.
    ///
    /// # Errors
    /// If the agent can't be reached or refuses the token.
    pub async fn status(&self) -> Result<Status, StoreError> {
        let request = self.http.get(format!("{}/v1/status", self.base));
        self.send(request, SHORT_TIMEOUT).await
    }

    /// Makes this incarnation the agent's highest: lower ones are refused from now on.
    ///
    /// # Errors
    /// As for every call; stale if a higher one has called.
    pub async fn claim(&self) -> Result<Done, StoreError> {
        self.post("claim", &(), SHORT_TIMEOUT).await
    }

    /// Flushes all memtables of all keyspaces.
    ///
    /// # Errors
    /// As for every call; also if the JVM is not running or too slow.
    pub async fn flush(&self) -> Result<Flushed, StoreError> {
        self.post("flush", &(), LONG_TIMEOUT).await
    }

    /// Takes a snapshot, without flushing, into an uncommitted tree. One at a time: a new one replaces an older. If rows are
    /// written meanwhile, `memtable_switches` is what the flush before it has answered ([`Snapshot::memtable_switches`]).
    /// After an error that is not a refusal the outcome is unknown: call [`Store::abort`] and use another id.
    ///
    /// # Errors
    /// As for every call; also if the generation is not the running one, the id is taken or aborted, or a memtable was
    /// replaced ([`Code::MemtableSwitched`]).
    pub async fn snapshot(
        &self,
        id: &str,
        generation: u64,
        memtable_switches: Option<u64>,
    ) -> Result<Done, StoreError> {
        let request = Snapshot { id: id.to_owned(), generation, memtable_switches };
        self.post("snapshot", &request, LONG_TIMEOUT).await
    }

    /// Makes the snapshot a restore point, durably, and drops all but the last two.
    ///
    /// # Errors
    /// As for every call; also if the snapshot is not there (any more) or its JVM is gone.
    pub async fn commit(&self, id: &str, mark: Mark) -> Result<Manifest, StoreError> {
        self.post("commit", &Commit { id: id.to_owned(), mark }, READING_TIMEOUT).await
    }

    /// Gives up a snapshot, whether or not it was (or is being) taken. Idempotent; refused once committed.
    ///
    /// # Errors
    /// As for every call.
    pub async fn abort(&self, id: &str) -> Result<Done, StoreError> {
        self.post("abort", &Abort { id: id.to_owned() }, LONG_TIMEOUT).await
    }

    /// The URL of this agent.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.base
    }

    /// The restore points of the agent at `source` (this one's or another's) that are not known to be damaged, oldest
    /// first; none of a store that is distrusted.
    ///
    /// # Errors
    /// If that agent can't be reached or refuses the token.
    pub async fn restore_points_of(&self, source: &str) -> Result<Vec<RestorePoint>, StoreError> {
        let status: Status = self.send(self.http.get(format!("{source}/v1/status")), SHORT_TIMEOUT).await?;
        if status.distrusted.is_some() {
            return Ok(Vec::new());
        }
        let damaged = |point: &RestorePoint| status.damaged.iter().any(|damaged| damaged.id == point.id);
        Ok(status.restore_points.iter().filter(|point| !damaged(point)).cloned().collect())
    }

    /// The manifest of a restore point of the agent at `source`, who keeps it for a minute from then on.
    ///
    /// # Errors
    /// If that agent can't be reached, refuses the token or has no such restore point (any more).
    pub async fn manifest_of(&self, source: &str, id: &str) -> Result<Manifest, StoreError> {
        self.send(self.http.get(format!("{source}/v1/restore-points/{id}")), SHORT_TIMEOUT).await
    }

    /// Copies a restore point of the agent at `source`; it is this store's newest afterwards, and with
    /// `replace` the only one. Puts nothing back. Called
    /// again after an error it goes on with what is here already.
    ///
    /// # Errors
    /// As for every call; also if the other agent can't be reached by this one, or has no such restore point any more.
    pub async fn install(&self, source: &str, id: &str, replace: bool) -> Result<Done, StoreError> {
        let request = Install { source: source.to_owned(), id: id.to_owned(), replace };
        self.post("install", &request, INSTALL_TIMEOUT).await
    }

    /// Has nothing that this store holds used any more, durably, until it is emptied by a rewind or replaced by an
    /// install.
    ///
    /// # Errors
    /// As for every call.
    pub async fn distrust(&self, reason: &str) -> Result<Done, StoreError> {
        self.post("distrust", &Distrust { reason: reason.to_owned() }, SHORT_TIMEOUT).await
    }

    /// Stops the JVM, puts a restore point back, starts the JVM anew, and waits until it answers CQL.
    ///
    /// # Errors
    /// As for every call; also if the restore points are damaged or the JVM does not come up. May be repeated.
    pub async fn rewind(&self, to: Rewind) -> Result<Rewound, StoreError> {
        let rewound: Rewound = self.post("rewind", &to, READING_TIMEOUT).await?;
        self.wait_running(rewound.generation).await?;
        Ok(rewound)
    }

    /// Starts the JVM on a clean directory, or finds it started, and waits until it answers CQL.
    ///
    /// # Errors
    /// As for every call; refused as dirty when only a rewind helps.
    pub async fn start(&self) -> Result<u64, StoreError> {
        let done: Done = self.post("start", &(), LONG_TIMEOUT).await?;
        self.wait_running(done.generation).await?;
        Ok(done.generation)
    }

    /// Waits until the JVM of this generation answers CQL.
    ///
    /// # Errors
    /// If it ends, another one is started, or it takes longer than eleven minutes.
    pub async fn wait_running(&self, generation: u64) -> Result<(), StoreError> {
        let wait = async {
            let mut misses = 0;
            loop {
                if let Some(result) = judge_start(self.status().await, generation, &mut misses) {
                    return result;
                }
                tokio::time::sleep(if misses == 0 { START_POLL } else { MISS_PAUSE }).await;
            }
        };
        let late = |_| StoreError::NotStarted(format!("no answer within {START_TIMEOUT:?}"));
        tokio::time::timeout(START_TIMEOUT, wait).await.map_err(late)?
    }

    /// Marks the directory clean, durably, for the running generation.
    ///
    /// # Errors
    /// As for every call; also if another generation is running.
    pub async fn mark_clean(&self, generation: u64, mark: Mark) -> Result<Manifest, StoreError> {
        self.post("mark-clean", &MarkClean { generation, mark }, SHORT_TIMEOUT).await
    }

    /// Removes the clean mark; when this returns it is gone from the disk. To be called before anything is applied.
    ///
    /// # Errors
    /// As for every call.
    pub async fn clear_clean(&self) -> Result<Done, StoreError> {
        self.post("clear-clean", &(), SHORT_TIMEOUT).await
    }

    /// Turns compaction on or off, for all tables or for some.
    ///
    /// # Errors
    /// As for every call; also if the JVM is not running or a table does not exist.
    pub async fn autocompaction(&self, enabled: bool, tables: Option<Vec<Table>>) -> Result<Done, StoreError> {
        self.post("autocompaction", &Autocompaction { enabled, tables }, LONG_TIMEOUT).await
    }

    /// Cassandra's clock, as it makes time UUIDs.
    ///
    /// # Errors
    /// As for every call; also if the JVM is not running.
    pub async fn cassandra_now(&self) -> Result<NowReply, StoreError> {
        self.post("cassandra-now", &(), SHORT_TIMEOUT).await
    }

    async fn post<T: DeserializeOwned>(
        &self,
        call: &str,
        body: &impl Serialize,
        timeout: Duration,
    ) -> Result<T, StoreError> {
        let request = self.http.post(format!("{}/v1/{call}", self.base)).json(body);
        self.send(request, timeout).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        request: reqwest::RequestBuilder,
        timeout: Duration,
    ) -> Result<T, StoreError> {
        let unreachable = |e: CallError| StoreError::Unreachable(chain(&e));
        let request = request
            .timeout(timeout)
            .bearer_auth(&self.token)
            .header(LOG_HEADER, self.log.to_string())
            .header(INCARNATION_HEADER, self.incarnation.to_string());
        let response = self.internal.send(request).await.map_err(unreachable)?;
        let status = response.status();
        let body = bounded::body(response).await.map_err(|e| StoreError::Unreachable(chain(&e)))?;
        if status.is_success() {
            return serde_json::from_slice(&body)
                .map_err(|e| StoreError::Unreachable(format!("an answer that can't be read: {e}")));
        }
        match serde_json::from_slice::<Refusal>(&body) {
            Ok(refusal) => Err(StoreError::Refused(refusal)),
            Err(_) => Err(StoreError::Unreachable(format!("HTTP status {status}"))),
        }
    }
}

/// Whether the start of this generation has come to an end, and to which, by one more look at the agent; counts the
/// looks that failed in a row.
fn judge_start(look: Result<Status, StoreError>, generation: u64, misses: &mut u32) -> Option<Result<(), StoreError>> {
    let not = |reason: String| Some(Err(StoreError::NotStarted(reason)));
    let status = match look {
        Ok(status) => status,
        Err(StoreError::Unreachable(_)) if *misses < START_MISSES => {
            *misses += 1;
            return None;
        }
        // What the agent refuses it would refuse again.
        Err(error) => return Some(Err(error)),
    };
    *misses = 0;
    if status.generation != generation {
        return not(format!("generation {} was started meanwhile", status.generation));
    }
    match status.jvm {
        Jvm::Running => Some(Ok(())),
        Jvm::Starting => None,
        Jvm::Stopped => not("it was stopped".to_owned()),
        Jvm::Failed { detail } => not(detail),
    }
}

/// An error with its causes: reqwest's own text leaves out the one that matters.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn status(jvm: Jvm) -> Result<Status, StoreError> {
        Ok(Status {
            store_id: Uuid::nil(),
            generation: 3,
            jvm,
            jvm_pid: None,
            dirty: true,
            clean: None,
            restore_points: Vec::new(),
            damaged: Vec::new(),
            distrusted: None,
            shared: false,
            log_id: None,
            highest_incarnation: None,
            installing: None,
            stopping: false,
        })
    }

    fn lost() -> Result<Status, StoreError> {
        Err(StoreError::Unreachable("lost".into()))
    }

    #[test]
    fn lost_answers_do_not_end_a_start_and_an_agent_that_stays_away_does() {
        let mut misses = 0;
        for _round in 0..2 {
            for _ in 0..START_MISSES {
                assert!(judge_start(lost(), 3, &mut misses).is_none());
            }
            assert!(judge_start(status(Jvm::Starting), 3, &mut misses).is_none());
        }
        assert!(matches!(judge_start(status(Jvm::Running), 3, &mut misses), Some(Ok(()))));
        for _ in 0..START_MISSES {
            assert!(judge_start(lost(), 3, &mut misses).is_none());
        }
        assert!(matches!(judge_start(lost(), 3, &mut misses), Some(Err(StoreError::Unreachable(_)))));
    }

    #[test]
    fn ends_and_refusals_are_told_at_once() {
        let refused = Err(StoreError::Refused(Refusal { code: Code::Unauthorized, message: String::new() }));
        for (look, generation) in [
            (status(Jvm::Running), 2),
            (status(Jvm::Stopped), 3),
            (status(Jvm::Failed { detail: "dead".into() }), 3),
            (refused, 3),
        ] {
            assert!(matches!(judge_start(look, generation, &mut 0), Some(Err(_))));
        }
    }
}
