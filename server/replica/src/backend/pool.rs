//! The connections to one generation of the local Cassandra: a few shared ones, and one for each keyspace that
//! unqualified names are resolved in (a connection can't take back a USE).

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use replicateddb_cql::frame::Opcode;
use replicateddb_cql::request::{self, Params, Values};
use replicateddb_cql::statement::Ident;
use replicateddb_cql::{Consistency, Version};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::connection::Connection;
use super::outcome::{Failure, Meaning, judge};
use super::{BackendError, Endpoint, Opened, connect_v5_named, open};
use crate::site::Health;

/// Shared connections, and connections for each keyspace.
const SHARED: usize = 2;
/// Connections with a keyspace of their own; the one used longest ago goes.
const WITH_KEYSPACE: usize = 32;
/// Pause between attempts to connect.
const RETRY: Duration = Duration::from_millis(250);
/// Pause between heartbeats, which find a peer that is gone without a word.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Longest wait for a heartbeat's answer.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Slot {
    connection: Option<Connection>,
    failed: Option<(Instant, String)>,
}

impl Slot {
    /// Its connection, if it is open. Hundreds may ask while the backend is away: one attempt in a while answers all.
    fn usable(&self) -> Result<Option<Connection>, Failure> {
        if let Some(connection) = self.connection.as_ref().filter(|connection| connection.is_open()) {
            return Ok(Some(connection.clone()));
        }
        match self.failed.as_ref().filter(|(at, _)| at.elapsed() < RETRY) {
            Some((_, reason)) => Err(Failure::Retry { reason: reason.clone(), ambiguous: false }),
            None => Ok(None),
        }
    }

    /// Remembers that an attempt failed.
    fn keep(&mut self, attempt: Result<Connection, Failure>) -> Result<Connection, Failure> {
        self.connection = None;
        self.failed = match &attempt {
            Ok(_) => None,
            Err(failure) => Some((Instant::now(), failure.clone().reason())),
        };
        attempt
    }
}

#[derive(Default)]
struct Keyspaces {
    slots: HashMap<(String, usize), Keyspace>,
}

struct Keyspace {
    slot: Arc<Mutex<Slot>>,
    used: Instant,
}

impl Keyspaces {
    /// The place of a keyspace's connection; whoever fills it holds up nobody else.
    fn slot(&mut self, key: (String, usize)) -> Arc<Mutex<Slot>> {
        if !self.slots.contains_key(&key)
            && self.slots.len() >= WITH_KEYSPACE
            && let Some(oldest) = self.slots.iter().min_by_key(|(_, known)| known.used).map(|(name, _)| name.clone())
        {
            self.slots.remove(&oldest);
        }
        let known = self.slots.entry(key).or_insert_with(|| Keyspace { slot: Arc::default(), used: Instant::now() });
        known.used = Instant::now();
        known.slot.clone()
    }
}

struct Shared {
    at: Endpoint,
    generation: u64,
    name: Option<String>,
    logins: bool,
    slots: [Mutex<Slot>; SHARED],
    next: AtomicUsize,
    keyspaces: std::sync::Mutex<Keyspaces>,
    health: watch::Sender<Health>,
}

/// See the module's head. Cheap to clone.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
    _watchman: Arc<AbortOnDropHandle<()>>,
}

impl Pool {
    /// Connects to this generation; the connections tell Cassandra the name of their application, if there is one.
    ///
    /// # Errors
    /// It can't be reached, or is another one.
    pub async fn connect(at: &Endpoint, generation: u64, name: Option<&str>) -> Result<Self, BackendError> {
        let first = Connection::new(connect_v5_named(at, Some(generation), name).await?);
        let logins = matches!(open(Version::V4, at).await?, Opened::Login(..));
        let slots: [Mutex<Slot>; SHARED] = Default::default();
        slots[0].lock().await.connection = Some(first);
        let shared = Arc::new(Shared {
            at: at.clone(),
            generation,
            name: name.map(str::to_owned),
            logins,
            slots,
            next: AtomicUsize::new(0),
            keyspaces: Default::default(),
            health: watch::Sender::new(Health::Healthy),
        });
        let watchman = tokio::spawn(watch_over(shared.clone()));
        Ok(Self { shared, _watchman: Arc::new(AbortOnDropHandle::new(watchman)) })
    }

    /// Whether it asks who connects, so that there are roles.
    pub fn asks_for_logins(&self) -> bool {
        self.shared.logins
    }

    /// Whether the backend can be reached.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.shared.health.subscribe()
    }

    /// A connection that uses no keyspace.
    ///
    /// # Errors
    /// There is none now, or the generation is over.
    pub async fn any(&self) -> Result<Connection, Failure> {
        self.shared.slot(self.shared.next_number()).await
    }

    /// A connection that uses this keyspace; if there is no such keyspace one that uses none, on which qualified names
    /// mean the same and unqualified ones are refused.
    ///
    /// # Errors
    /// There is none now, or the generation is over.
    pub async fn using(&self, keyspace: Option<&str>) -> Result<Connection, Failure> {
        let Some(keyspace) = keyspace else { return self.any().await };
        let key = (keyspace.to_owned(), self.shared.next_number());
        let slot = self.shared.keyspaces.lock().unwrap_or_else(PoisonError::into_inner).slot(key);
        // One attempt to connect answers all who wait for it.
        let mut slot = slot.lock().await;
        if let Some(connection) = slot.usable()? {
            return Ok(connection);
        }
        let connection = slot.keep(self.shared.connect().await)?;
        let text = format!("USE {}", Ident::new(keyspace).to_cql());
        let query = request::v5::query(&text, &Params::new(Consistency::One, Values::none()), None);
        let query = query.map_err(|e| Failure::Retry { reason: e.to_string(), ambiguous: false })?;
        // A lost USE has no effect on data.
        let answer = connection.ask(Opcode::Query, query).await;
        let answer = answer.map_err(|lost| Failure::Retry { reason: lost.reason, ambiguous: false })?;
        match judge(answer) {
            Meaning::Reply(reply) if !reply.is_result() => return self.any().await,
            Meaning::Reply(_) => {}
            Meaning::Failure(Failure::Gone { reason }) => return Err(Failure::Gone { reason }),
            Meaning::Failure(_) | Meaning::Unprepared => {
                return Err(Failure::Retry {
                    reason: "USE is not answered as it should be".to_owned(),
                    ambiguous: false,
                });
            }
        }
        slot.connection = Some(connection.clone());
        Ok(connection)
    }
}

impl Shared {
    /// Takes turns.
    fn next_number(&self) -> usize {
        self.next.fetch_add(1, Ordering::Relaxed) % SHARED
    }

    async fn slot(&self, number: usize) -> Result<Connection, Failure> {
        let mut slot = self.slots[number].lock().await;
        if let Some(connection) = slot.usable()? {
            return Ok(connection);
        }
        let connection = slot.keep(self.connect().await)?;
        slot.connection = Some(connection.clone());
        Ok(connection)
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        match connect_v5_named(&self.at, Some(self.generation), self.name.as_deref()).await {
            Ok(framed) => Ok(Connection::new(framed)),
            Err(error @ BackendError::WrongGeneration { .. }) => {
                let reason = error.to_string();
                self.health.send_replace(Health::Gone { reason: reason.clone() });
                Err(Failure::Gone { reason })
            }
            Err(error) => Err(Failure::Retry { reason: error.to_string(), ambiguous: false }),
        }
    }

    /// `Gone` is for good.
    fn set_health(&self, health: Health) {
        self.health.send_if_modified(|known| {
            let change = !matches!(known, Health::Gone { .. }) && *known != health;
            if change {
                *known = health;
            }
            change
        });
    }
}

/// Keeps the health true: notices the loss of the first connection at once, and makes it again.
async fn watch_over(shared: Arc<Shared>) {
    loop {
        let connection = match shared.slot(0).await {
            Ok(connection) => connection,
            Err(Failure::Gone { .. }) => return,
            Err(failure) => {
                shared.set_health(Health::Lost { reason: failure.reason() });
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        shared.set_health(Health::Healthy);
        tokio::select! {
            () = connection.closed() => {
                shared.set_health(Health::Lost { reason: "the connection to the local Cassandra was lost".to_owned() });
            }
            () = tokio::time::sleep(HEARTBEAT) => {
                let beat = connection.ask(Opcode::Options, bytes::Bytes::new());
                if !matches!(tokio::time::timeout(HEARTBEAT_TIMEOUT, beat).await, Ok(Ok(_))) {
                    connection.give_up();
                    let reason = "the local Cassandra does not answer a heartbeat".to_owned();
                    shared.set_health(Health::Lost { reason });
                }
            }
        }
    }
}
