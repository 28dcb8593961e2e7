//! The replica's side of the store agent.

use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};

use crate::api::{
    Abort, Autocompaction, Code, Commit, Done, Flushed, INCARNATION_HEADER, Jvm, Manifest, Mark, MarkClean, NowReply,
    Refusal, Rewind, Rewound, Snapshot, Status, Table,
};

/// Longest wait for a connection to the agent.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for a short call: status, marks, claims.
const SHORT_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest wait for a call that works on the data: flush, snapshot, commit, rewind.
const LONG_TIMEOUT: Duration = Duration::from_secs(180);
/// Longest wait for a JVM to answer CQL after it was started.
const START_TIMEOUT: Duration = Duration::from_secs(660);
/// Pause between two looks at a starting JVM.
const START_POLL: Duration = Duration::from_millis(200);

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
    base: String,
    token: String,
    incarnation: i64,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("base", &self.base)
            .field("incarnation", &self.incarnation)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// A client of the agent at `base` (`http://host:7070`); connects at the first call.
    ///
    /// # Errors
    /// If no HTTP client can be made on this system.
    pub fn new(base: &str, token: &str, incarnation: i64) -> Result<Self, StoreError> {
        let http = reqwest::Client::builder()
            // The token is for the agent alone.
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .build()
            .map_err(|e| StoreError::Unreachable(chain(&e)))?;
        let base = base.trim_end_matches('/').to_owned();
        Ok(Self { http, base, token: token.trim().to_owned(), incarnation })
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

    /// Takes a snapshot, without flushing, into an uncommitted tree. One at a time: a new one replaces an older.
    /// After an error that is not a refusal the outcome is unknown: call [`Store::abort`] and use another id.
    ///
    /// # Errors
    /// As for every call; also if the generation is not the running one, or the id is taken or aborted.
    pub async fn snapshot(&self, id: &str, generation: u64) -> Result<Done, StoreError> {
        self.post("snapshot", &Snapshot { id: id.to_owned(), generation }, LONG_TIMEOUT).await
    }

    /// Makes the snapshot a restore point, durably, and drops all but the last two.
    ///
    /// # Errors
    /// As for every call; also if the snapshot is not there (any more) or its JVM is gone.
    pub async fn commit(&self, id: &str, mark: Mark) -> Result<Manifest, StoreError> {
        self.post("commit", &Commit { id: id.to_owned(), mark }, LONG_TIMEOUT).await
    }

    /// Gives up a snapshot, whether or not it was (or is being) taken. Idempotent; refused once committed.
    ///
    /// # Errors
    /// As for every call.
    pub async fn abort(&self, id: &str) -> Result<Done, StoreError> {
        self.post("abort", &Abort { id: id.to_owned() }, LONG_TIMEOUT).await
    }

    /// Stops the JVM, puts a restore point back, starts the JVM anew, and waits until it answers CQL.
    ///
    /// # Errors
    /// As for every call; also if the restore points are damaged or the JVM does not come up. May be repeated.
    pub async fn rewind(&self, to: Rewind) -> Result<Rewound, StoreError> {
        let rewound: Rewound = self.post("rewind", &to, LONG_TIMEOUT).await?;
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
            loop {
                match self.status().await {
                    Ok(status) if status.generation != generation => {
                        let other = status.generation;
                        return Err(StoreError::NotStarted(format!("generation {other} was started meanwhile")));
                    }
                    Ok(Status { jvm: Jvm::Running, .. }) => return Ok(()),
                    Ok(Status { jvm: Jvm::Starting, .. }) => {}
                    Ok(Status { jvm: Jvm::Stopped, .. }) => {
                        return Err(StoreError::NotStarted("it was stopped".to_owned()));
                    }
                    Ok(Status { jvm: Jvm::Failed { detail }, .. }) => return Err(StoreError::NotStarted(detail)),
                    Err(error) => return Err(error),
                }
                tokio::time::sleep(START_POLL).await;
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
        let unreachable = |e: reqwest::Error| StoreError::Unreachable(chain(&e));
        let request =
            request.timeout(timeout).bearer_auth(&self.token).header(INCARNATION_HEADER, self.incarnation.to_string());
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let body = response.bytes().await.map_err(unreachable)?;
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
