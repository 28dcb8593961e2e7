//! The CQL port: open only while the replica serves (I5).

use std::{net::SocketAddr, sync::Arc};

use futures::SinkExt;
use replicateddb_cql::{frame::Codec, response::ErrorCode};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::{codec::FramedWrite, sync::CancellationToken};

use super::{
    access::Roles,
    answer,
    control::Control,
    core::Core,
    limits::{
        DRAIN_TIMEOUT, HASHING, LISTEN_RETRY, LOGINS, MAX_ANSWER, MAX_ANSWER_BYTES, MAX_IN_FLIGHT_BYTES,
        PREPARED_BYTES, PREPARED_ENTRIES,
    },
    metrics::Metrics,
    peers::Peers,
    prepared::PreparedCache,
    schema::SchemaCache,
    service::Service,
    session::{self, Closing},
    shares::Shares,
    socket::linger,
    tls::{Tls, speaks_plain},
    topology::{Identity, Topology},
};
use crate::backend::Endpoint;
use crate::replica::Serving;

/// Connections, one too many, that are told so at once; further ones are closed without a word.
const FAREWELLS: usize = 64;
/// Time a connection that is one too many is given to take the explanation; tests don't depend on how busy their machine is.
const FAREWELL: std::time::Duration = std::time::Duration::from_millis(if cfg!(test) { 10_000 } else { 100 });

/// Configuration of the front end.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen for CQL clients.
    pub listen: SocketAddr,
    /// Client connections at once.
    pub max_clients: usize,
    /// Who this replica is to drivers.
    pub identity: Identity,
    /// Clients log in, and this is the superuser to begin with ([`superuser`](super::superuser)).
    pub superuser: Option<Arc<str>>,
    /// The keyspace that clients are confined to, if the replica shares its Cassandra with others.
    pub keyspace: Option<Arc<str>>,
    /// Clients use TLS.
    pub tls: Option<Arc<Tls>>,
}

/// The front end of a replica.
pub struct Frontend<C> {
    core: C,
    config: Config,
    peers: Arc<Peers>,
    metrics: Arc<Metrics>,
    prepared: Arc<PreparedCache>,
    budget: Arc<Semaphore>,
    answers: Shares,
}

impl<C: Core> Frontend<C> {
    /// In front of `core`.
    pub fn new(core: C, config: Config, peers: Arc<Peers>, metrics: Arc<Metrics>) -> Self {
        let prepared = Arc::new(PreparedCache::new(PREPARED_ENTRIES, PREPARED_BYTES));
        let budget = Arc::new(Semaphore::new(MAX_IN_FLIGHT_BYTES));
        let answers = Shares::new(MAX_ANSWER_BYTES);
        Self { core, config, peers, metrics, prepared, budget, answers }
    }

    /// Serves whenever the replica does, until `stop`; then finishes what is in flight, bounded, and returns.
    pub async fn run(self, stop: CancellationToken) {
        let mut serving = self.core.serving();
        while !stop.is_cancelled() {
            let now = serving.borrow_and_update().clone();
            if let Serving::Yes { generation, backend } = now {
                self.serve(generation, backend, &mut serving, &stop).await;
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = serving.changed() => if changed.is_err() { return },
            }
        }
    }

    /// One serving period: from opening the port until the replica serves something else, or the server stops.
    async fn serve(
        &self,
        generation: u64,
        backend: Endpoint,
        serving: &mut watch::Receiver<Serving>,
        stop: &CancellationToken,
    ) {
        let listener = tokio::select! {
            listener = self.listen() => listener,
            _ = serving.changed() => return,
            () = stop.cancelled() => return,
        };
        let tls = self.config.tls.as_deref().map_or("none", Tls::describe);
        tracing::info!(address = %self.config.listen, generation, tls, "the CQL port is open");
        let service = Arc::new(self.service(generation, backend));
        let (closing, _) = watch::channel(Closing::Open);
        let mut sessions = JoinSet::new();
        let mut farewells = JoinSet::new();
        let closed = loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((socket, _)) if sessions.len() >= self.config.max_clients => self.turn_away(socket, &mut farewells),
                    Ok((socket, peer)) => {
                        sessions.spawn(session::serve(service.clone(), socket, peer, closing.subscribe()));
                        self.count(&sessions);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a client could not be accepted");
                        sleep(LISTEN_RETRY).await;
                    }
                },
                Some(_) = sessions.join_next() => self.count(&sessions),
                Some(_) = farewells.join_next() => {}
                _ = serving.changed() => break Closing::Now,
                () = stop.cancelled() => break Closing::Drain,
            }
        };
        drop(listener);
        tracing::info!(address = %self.config.listen, how = ?closed, clients = sessions.len(), "the CQL port is closed");
        closing.send_replace(closed);
        let drained = async { while sessions.join_next().await.is_some() {} };
        tokio::select! {
            _ = timeout(DRAIN_TIMEOUT * 2, drained) => {}
            // Whoever is still draining must not answer once the replica serves no more.
            _ = serving.changed() => { closing.send_replace(Closing::Now); }
        }
        sessions.shutdown().await;
        self.count(&sessions);
    }

    async fn listen(&self) -> TcpListener {
        loop {
            match TcpListener::bind(self.config.listen).await {
                Ok(listener) => return listener,
                Err(error) => tracing::warn!(address = %self.config.listen, %error, "the CQL port can't be opened"),
            }
            sleep(LISTEN_RETRY).await;
        }
    }

    fn service(&self, generation: u64, backend: Endpoint) -> Service<C> {
        Service {
            core: self.core.clone(),
            control: Control::new(backend.clone(), generation),
            backend,
            generation,
            prepared: self.prepared.clone(),
            schema: SchemaCache::default(),
            roles: Roles::default(),
            hashing: Semaphore::new(HASHING),
            logins: Semaphore::new(LOGINS),
            topology: Topology::new(self.config.identity.clone(), self.peers.clone()),
            peers: self.peers.clone(),
            metrics: self.metrics.clone(),
            superuser: self.config.superuser.clone(),
            keyspace: self.config.keyspace.clone(),
            tls: self.config.tls.clone(),
            budget: self.budget.clone(),
            answers: self.answers.clone(),
        }
    }

    /// Tells a client that it is one too many, beside whoever else comes.
    fn turn_away(&self, socket: TcpStream, farewells: &mut JoinSet<()>) {
        let limit = self.config.max_clients;
        self.metrics.clients_refused.inc();
        tracing::warn!(limit, "a client is turned away: too many are connected");
        if farewells.len() >= FAREWELLS {
            return;
        }
        let tls = self.config.tls.is_some();
        farewells.spawn(async move {
            let told = async {
                // Who speaks TLS is let go without a word: to say one would cost a handshake.
                if tls && !speaks_plain(&socket).await {
                    return;
                }
                let mut sink = FramedWrite::new(socket, Codec::server(MAX_ANSWER));
                let message = format!("this replica serves {limit} clients at once, and they are here");
                let _ = sink.send(answer::error(0, ErrorCode::Overloaded, &message)).await;
                if sink.close().await.is_ok() {
                    linger(sink.into_inner()).await;
                }
            };
            let _ = timeout(FAREWELL, told).await;
        });
    }

    fn count(&self, sessions: &JoinSet<()>) {
        self.metrics.clients.set(i64::try_from(sessions.len()).unwrap_or(i64::MAX));
    }
}
