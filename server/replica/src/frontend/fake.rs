//! Stand-ins for the replica and for Cassandra that fail on demand: what a real one can't be made to do in a test.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, atomic::AtomicBool, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use md5::Digest as _;
use replicateddb_cql::{
    Compression, Consistency, Version,
    frame::{Codec, Envelope, Opcode},
    request::{self, Params, Values},
    response::{self, Column, ColumnType, ErrorBody, ErrorCode, Prepared, Rows, cell},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, broadcast, watch},
    time::timeout,
};
use tokio_util::{codec::Framed, sync::CancellationToken, task::AbortOnDropHandle};
use uuid::Uuid;

use super::{Config, Core, Frontend, Identity, Metrics, Peers, tls::Tls};
use crate::frontier::Standing;
use crate::lanes::Lanes;
use crate::reads::{Early, Hold};
use crate::replica::{Outcome, ProposeError, Request, SchemaEvent, SchemaVersion, Serving};

/// What no statement may have in it.
pub const WRONG: &str = "WRONG";
/// Longest wait for anything that has to happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A read that has an answer of [`LARGE_BYTES`].
pub const LARGE: &str = "SELECT v FROM a.large";
/// Bytes of the value that [`LARGE`] reads.
pub const LARGE_BYTES: usize = 1_000_000;

/// A replica that does as it is told.
#[derive(Clone)]
pub struct FakeCore {
    pub serving: watch::Sender<Serving>,
    schema: watch::Sender<SchemaVersion>,
    pub events: broadcast::Sender<SchemaEvent>,
    pub proposed: Arc<Mutex<Vec<Request>>>,
    pub fail: Arc<Mutex<Option<ProposeError>>>,
    /// The body of the ERROR that all proposals end with, if they do.
    pub answer: Arc<Mutex<Option<Bytes>>>,
    /// Where reads begin before their barrier; its index is 1.
    pub early: Arc<Mutex<Option<Early>>>,
    /// Lanes held by reads, ever; and whether they are held too long.
    pub held: Arc<Mutex<Vec<Lanes>>>,
    pub expired: Arc<AtomicBool>,
    /// Whether the replica still is; a barrier does not say so if it is forgotten.
    pub standing: Standing,
    pub forgotten: Arc<AtomicBool>,
    /// Whether the log says that it is no more.
    pub unproved: Arc<AtomicBool>,
    /// Each proposal takes one; as many as there will ever be, unless a test takes them away.
    pub gate: Arc<Semaphore>,
}

impl FakeCore {
    fn new() -> Self {
        Self {
            serving: watch::Sender::new(Serving::No { reason: "starting".into() }),
            schema: watch::Sender::new(Uuid::nil()),
            events: broadcast::Sender::new(16),
            proposed: Arc::default(),
            early: Arc::default(),
            fail: Arc::default(),
            answer: Arc::default(),
            held: Arc::default(),
            expired: Arc::default(),
            standing: Standing::default(),
            forgotten: Arc::default(),
            unproved: Arc::default(),
            gate: Arc::new(Semaphore::new(1000)),
        }
    }

    fn failure(&self) -> Result<(), ProposeError> {
        self.fail.lock().unwrap().clone().map_or(Ok(()), Err)
    }
}

impl Core for FakeCore {
    fn serving(&self) -> watch::Receiver<Serving> {
        self.serving.subscribe()
    }

    async fn propose(&self, request: Request) -> Result<Outcome, ProposeError> {
        self.proposed.lock().unwrap().push(request);
        self.gate.acquire().await.unwrap().forget();
        self.failure()?;
        Ok(match self.answer.lock().unwrap().clone() {
            Some(body) => Outcome { index: 1, flags: 0, opcode: Opcode::Error.code(), body },
            None => Outcome { index: 1, flags: 0, opcode: Opcode::Result.code(), body: response::void() },
        })
    }

    async fn propose_judged(&self, request: Request, _schema: u64) -> Result<Outcome, ProposeError> {
        self.propose(request).await
    }

    async fn barrier(&self) -> Result<u64, ProposeError> {
        self.failure()?;
        if !self.forgotten.load(Ordering::SeqCst) {
            self.standing.at(tokio::time::Instant::now());
        }
        Ok(1)
    }

    fn early(&self) -> Option<Early> {
        *self.early.lock().unwrap()
    }

    async fn hold(&self, lanes: Lanes) -> Result<Hold, ProposeError> {
        self.failure()?;
        self.held.lock().unwrap().push(lanes);
        Ok(Hold::new(self.expired.clone()))
    }

    fn standing(&self) -> Standing {
        self.standing.clone()
    }

    async fn prove(&self) -> Result<(), ProposeError> {
        match self.unproved.load(Ordering::SeqCst) {
            true => Err(ProposeError::NotServing { reason: "replaced".into(), maybe_written: false }),
            false => Ok(()),
        }
    }

    fn schema(&self) -> watch::Receiver<SchemaVersion> {
        self.schema.subscribe()
    }

    fn schema_index(&self) -> u64 {
        0
    }

    fn last_ddl(&self) -> u64 {
        0
    }

    fn events(&self) -> broadcast::Receiver<SchemaEvent> {
        self.events.subscribe()
    }
}

/// A Cassandra with one table `a.t (k int, l list<int>)`. Notes the levels of the reads it gets.
pub struct FakeCassandra {
    pub address: SocketAddr,
    pub generation: Arc<Mutex<u64>>,
    pub levels: Arc<Mutex<Vec<Consistency>>>,
    _server: AbortOnDropHandle<()>,
}

impl FakeCassandra {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (generation, levels) = (Arc::new(Mutex::new(1)), Arc::<Mutex<Vec<_>>>::default());
        let shared = (generation.clone(), levels.clone());
        let server = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (generation, levels) = shared.clone();
                tokio::spawn(async move {
                    let mut framed = Framed::new(socket, Codec::server(1 << 20));
                    while let Some(Ok(envelope)) = framed.next().await {
                        let (opcode, body) = reply(&envelope, &generation, &levels);
                        let answer = Envelope::response(envelope.stream, opcode, body);
                        if framed.send(Envelope { version: envelope.version, ..answer }).await.is_err() {
                            return;
                        }
                        if envelope.opcode == Opcode::Startup {
                            framed.codec_mut().begin(version(&envelope), None, 1 << 20);
                        }
                    }
                });
            }
        });
        Self { address, generation, levels, _server: AbortOnDropHandle::new(server) }
    }
}

fn column(name: &str, kind: ColumnType) -> Column {
    Column { keyspace: "x".into(), table: "y".into(), name: name.into(), kind }
}

fn text_rows(names: &[&str], rows: &[&[&str]]) -> Bytes {
    let columns = names.iter().map(|name| column(name, ColumnType::Text)).collect();
    let rows = rows.iter().map(|row| row.iter().map(|text| Some(cell::text(text))).collect()).collect();
    response::rows(&Rows { columns, paging_state: None, rows }, false).unwrap()
}

fn version(envelope: &Envelope) -> Version {
    Version::from_code(envelope.version).unwrap()
}

fn reply(envelope: &Envelope, generation: &Mutex<u64>, levels: &Mutex<Vec<Consistency>>) -> (Opcode, Bytes) {
    match envelope.opcode {
        Opcode::Startup => (Opcode::Ready, response::ready()),
        Opcode::Prepare => {
            let text = request::parse_prepare(&envelope.body, version(envelope)).unwrap().text;
            if let Some(at) = text.find(WRONG) {
                let message = format!("line 1:{at} no viable alternative at input '{WRONG}'");
                return (Opcode::Error, response::error_text(ErrorCode::Syntax, &message));
            }
            let prepared = Prepared {
                id: id_of(&text),
                metadata_id: Bytes::new(),
                pk_indices: vec![],
                bind: vec![],
                result: vec![],
            };
            (Opcode::Result, response::prepared(&prepared).unwrap())
        }
        Opcode::Query => {
            let query = request::parse_query(&envelope.body, version(envelope)).unwrap();
            let body = if query.text == replicateddb_store::generation::QUERY {
                text_rows(&["value"], &[&[&generation.lock().unwrap().to_string()]])
            } else if query.text.contains("system_schema.columns") {
                let rows: [&[&str]; 2] = [&["k", "int", "partition_key"], &["l", "list<int>", "regular"]];
                text_rows(&["column_name", "type", "kind"], &rows)
            } else if query.text.contains("system_schema.views") {
                text_rows(&["base_table_name"], &[])
            } else if query.text == LARGE {
                text_rows(&["v"], &[&["x".repeat(LARGE_BYTES).as_str()]])
            } else if let Some(keyspace) = query.text.strip_prefix("USE ") {
                response::set_keyspace(keyspace)
            } else {
                levels.lock().unwrap().push(query.params.consistency);
                response::void()
            };
            (Opcode::Result, body)
        }
        _ => (Opcode::Result, response::void()),
    }
}

/// A front end between the two.
pub struct Bed {
    pub core: FakeCore,
    pub cassandra: FakeCassandra,
    pub address: SocketAddr,
    pub stop: CancellationToken,
    pub metrics: Arc<Metrics>,
    pub frontend: AbortOnDropHandle<()>,
    _members: watch::Sender<Vec<replicateddb_ordering::members::Member>>,
}

impl Bed {
    pub async fn start(max_clients: usize) -> Self {
        Self::start_with(max_clients, None).await
    }

    /// The same, whose clients use TLS.
    pub async fn start_with(max_clients: usize, tls: Option<Arc<Tls>>) -> Self {
        let (core, cassandra) = (FakeCore::new(), FakeCassandra::start().await);
        let address = free_address();
        let identity = Identity {
            id: 0,
            host_id: Uuid::nil(),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            cql_port: address.port(),
            data_center: "dc".into(),
            rack: "r".into(),
        };
        let members = watch::Sender::new(Vec::new());
        let peers = Arc::new(Peers::new(0, members.subscribe()));
        let config = Config { listen: address, max_clients, identity, superuser: None, keyspace: None, tls };
        let metrics = Arc::new(Metrics::default());
        let frontend = Frontend::new(core.clone(), config, peers, metrics.clone());
        let stop = CancellationToken::new();
        let frontend = AbortOnDropHandle::new(tokio::spawn(frontend.run(stop.clone())));
        Self { core, cassandra, address, stop, metrics, frontend, _members: members }
    }

    pub fn serve(&self, generation: u64) {
        *self.cassandra.generation.lock().unwrap() = generation;
        self.core
            .serving
            .send_replace(Serving::Yes { generation, backend: self.cassandra.address.to_string().as_str().into() });
    }

    pub fn fail(&self, error: ProposeError) {
        *self.core.fail.lock().unwrap() = Some(error);
    }

    /// A client's connection as soon as the port is open.
    pub async fn connect(&self) -> Client {
        self.connect_in(Version::V4, None).await
    }

    /// The same, of a client that speaks this version and will ask for this compression.
    pub async fn connect_in(&self, version: Version, compression: Option<Compression>) -> Client {
        let codec = Codec::client_of(version, compression, 1 << 20);
        Client { framed: Framed::new(self.socket().await, codec) }
    }

    /// A socket as soon as the port is open.
    pub async fn socket(&self) -> TcpStream {
        let connected = async {
            loop {
                match TcpStream::connect(self.address).await {
                    Ok(socket) => return socket,
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        };
        timeout(PATIENCE, connected).await.expect("the port opens")
    }

    /// A client's connection after the handshake.
    pub async fn client(&self) -> Client {
        let mut client = self.connect().await;
        client.start().await;
        client
    }
}

/// The id that the stand-in for Cassandra gives to a statement, whose keyspace does not matter to it.
pub fn id_of(text: &str) -> Bytes {
    md5::Md5::digest(text.as_bytes()).to_vec().into()
}

fn free_address() -> SocketAddr {
    let [port] = replicateddb_ports::reserve();
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// A client.
pub struct Client<S = TcpStream> {
    pub framed: Framed<S, Codec>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// Says STARTUP.
    pub async fn start(&mut self) {
        let body = request::startup(&[("CQL_VERSION", "3.0.0")]).unwrap();
        assert_eq!(self.ask(0, Opcode::Startup, body).await.opcode, Opcode::Ready);
    }

    pub async fn send(&mut self, stream: i16, opcode: Opcode, body: Bytes) {
        self.framed.send(Envelope::request(stream, opcode, body)).await.unwrap();
    }

    /// The next message; `None` at the end of the connection.
    pub async fn next(&mut self) -> Option<Envelope> {
        timeout(PATIENCE, self.framed.next()).await.expect("an answer or the end").and_then(Result::ok)
    }

    pub async fn ask(&mut self, stream: i16, opcode: Opcode, body: Bytes) -> Envelope {
        self.send(stream, opcode, body).await;
        let answer = self.next().await.expect("an answer");
        assert_eq!(answer.stream, stream);
        answer
    }

    pub async fn query(&mut self, text: &str, level: Consistency) -> Envelope {
        self.ask(5, Opcode::Query, query(text, level)).await
    }

    pub async fn error(&mut self, text: &str, level: Consistency) -> ErrorBody {
        let answer = self.query(text, level).await;
        assert_eq!(answer.opcode, Opcode::Error, "{text}");
        response::parse_error(&answer.body).unwrap()
    }
}

pub fn query(text: &str, level: Consistency) -> Bytes {
    request::query(text, &Params::new(level, Values::none())).unwrap()
}

/// Names of what was proposed: keyspace and texts.
pub fn proposed(core: &FakeCore) -> BTreeMap<String, Option<String>> {
    let proposed = core.proposed.lock().unwrap();
    proposed.iter().flat_map(|r| r.statements.iter().map(|s| (s.text.clone(), r.keyspace.clone()))).collect()
}
