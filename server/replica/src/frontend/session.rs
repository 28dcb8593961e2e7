//! One client's connection: handshake, then requests until either side ends.
//!
//! A session belongs to one generation of the backend (I5): when the replica stops serving it, the session is dropped.
//! Writes are answered after they are applied here, and the backend's connection is only read from after that, so a
//! session's reads are never older than the writes it got an answer for.

use std::{net::SocketAddr, pin::pin, sync::Arc};

use replicateddb_cql::{
    Consistency, Version,
    frame::{Envelope, FLAG_CUSTOM_PAYLOAD, FrameError, Opcode},
    request::{self, Params, Values},
    response::{self, ErrorCode},
    statement::{RoleChange, Statement, classify, is_system_keyspace},
};
use replicateddb_faults::{Fault, pass};
use replicateddb_store::generation;
use tokio::{
    net::TcpStream,
    sync::{Semaphore, oneshot, watch},
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};

use super::{
    answer,
    core::Core,
    early::read_early,
    events::{self, Interest},
    handshake::{handshake, log_in, readable},
    levels::Levels,
    limits::{
        BODY_TIMEOUT, DRAIN_TIMEOUT, HANDSHAKE_TIMEOUT, LOGIN_TIMEOUT, MAX_BODY, MAX_HANDSHAKE_BODY,
        MAX_IN_FLIGHT_BYTES, MAX_IN_FLIGHT_PER_CLIENT,
    },
    metrics::{RequestClass, Ticket},
    plan::{self, Plan, Refusal},
    prepared::Prepared,
    relay::{Expect, Relay, RelayError},
    select::Select,
    service::Service,
    socket::{self, Out, Reader, linger},
    tls::Accepted,
    write::{self, Write},
};
use crate::backend::{self, BackendError, Opened};
use crate::keyspace::confine;
use crate::stream::Stream;

/// Whether sessions may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// Go on.
    Open,
    /// Finish what is in flight, then close.
    Drain,
    /// Close at once: nothing more may be answered (I5).
    Now,
}

/// Why a session ends.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// The client left, or the server is stopping.
    #[error("closed")]
    Closed,
    /// What the client sent can't be read on; it has been told.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The backend's side ended or can't be used.
    #[error(transparent)]
    Relay(#[from] RelayError),
}

/// Serves a client until it leaves, breaks the protocol, its backend ends, or `closing` says so.
pub async fn serve<C: Core>(
    service: Arc<Service<C>>,
    socket: TcpStream,
    peer: SocketAddr,
    mut closing: watch::Receiver<Closing>,
) {
    let mut stop = closing.clone();
    let now = async move { stop.wait_for(|closing| *closing == Closing::Now).await.map(drop) };
    tokio::select! {
        _ = now => {}
        () = run(service, socket, peer, &mut closing) => {}
    }
}

async fn run<C: Core>(
    service: Arc<Service<C>>,
    socket: TcpStream,
    peer: SocketAddr,
    closing: &mut watch::Receiver<Closing>,
) {
    // Answers are small and someone waits for each: not to be held back for more.
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "a client's socket takes no options");
    }
    let Some(Accepted { stream, open: _open }) = accept(&service, socket, peer, closing).await else { return };
    let (mut reader, writer) = socket::client_halves(stream);
    let (out, queue) = Out::new();
    // One task reads, relays and writes: what was read in one go is passed on in one write, and no thread wakes another.
    let mut pump = pin!(socket::pump(queue, writer));
    let end = tokio::select! {
        biased;
        end = converse(service, &mut reader, out, closing) => end,
        _ = &mut pump => return,
    };
    if let Err(End::Frame(error)) = &end {
        tracing::debug!(%error, "a client's connection can't be read on");
    }
    // All senders are gone: the pump writes what is queued and closes.
    let _ = timeout(DRAIN_TIMEOUT, pump).await;
    if matches!(end, Err(End::Frame(_))) {
        linger(reader.into_inner()).await;
    }
}

/// What CQL is spoken on: TLS, where clients use it. `None`: the client was not let in, or nobody is any more.
async fn accept<C: Core>(
    service: &Service<C>,
    socket: TcpStream,
    peer: SocketAddr,
    closing: &mut watch::Receiver<Closing>,
) -> Option<Accepted> {
    let Some(tls) = &service.tls else { return Some(Accepted { stream: Stream::Plain(socket), open: None }) };
    tokio::select! {
        // In a box: it is large, and done before the session begins, whose memory it would be part of.
        accepted = Box::pin(tls.accept(socket, peer)) => accepted,
        _ = closing.wait_for(|closing| *closing != Closing::Open) => None,
    }
}

async fn converse<C: Core>(
    service: Arc<Service<C>>,
    reader: &mut Reader,
    out: Out,
    closing: &mut watch::Receiver<Closing>,
) -> Result<(), End> {
    let (stream, agreed) = tokio::select! {
        started = timeout(HANDSHAKE_TIMEOUT, handshake(reader, &out)) => started.map_err(|_| End::Closed)??,
        _ = closing.wait_for(|closing| *closing != Closing::Open) => return Ok(()),
    };
    let version = agreed.version;
    let begun = async {
        let opened = backend::open(version, &service.backend).await.map_err(|error| unavailable(&error))?;
        let mut backend = match (opened, service.authentication) {
            (Opened::Login(backend, asked), true) => {
                of_serving(&service).await?;
                return Ok(Begun::Asked(backend, asked));
            }
            (Opened::Ready(_), true) => {
                return Err(
                    "this replica's Cassandra lets everybody in: it is not started with --authentication yet".into()
                );
            }
            (Opened::Ready(backend), false) => backend,
            (Opened::Login(backend, _), false) => {
                backend::log_in_in_time(&service.backend, backend).await.map_err(|error| unavailable(&error))?
            }
        };
        backend =
            backend::of_generation(&service.backend, backend, service.generation).await.map_err(|e| unavailable(&e))?;
        confined(&service, backend).await.map(Begun::Ready)
    };
    let (backend, role) = match begun.await {
        Err(message) => {
            let refusal = answer::error(stream, ErrorCode::Bootstrapping, &message);
            let _ = out.send(Envelope { version: version.code(), ..refusal }).await;
            return Ok(());
        }
        Ok(Begun::Ready(backend)) => {
            reader.begin(agreed, MAX_BODY);
            let ready = Envelope::response(stream, Opcode::Ready, response::ready());
            let _ = out.send_ready(Envelope { version: version.code(), ..ready }, agreed).await;
            (backend, None)
        }
        Ok(Begun::Asked(mut backend, asked)) => {
            reader.begin(agreed, MAX_HANDSHAKE_BODY);
            let asked = Envelope { version: version.code(), stream, ..asked };
            out.send_ready(asked, agreed).await.map_err(|_| End::Closed)?;
            let role = tokio::select! {
                role = timeout(LOGIN_TIMEOUT, log_in(reader, &out, &mut backend, version, &service.logins)) => role.map_err(|_| End::Closed)??,
                _ = closing.wait_for(|closing| *closing != Closing::Open) => return Ok(()),
            };
            reader.begin(agreed, MAX_BODY);
            let confined = confined(&service, backend).await.map_err(|error| {
                tracing::warn!(error, "a client that has logged in is let go");
                End::Closed
            })?;
            (confined, Some(role))
        }
    };
    let (backend_reader, backend_writer) = socket::backend_halves(backend);
    let (to_backend, backend_queue) = Out::new();
    let relay = Arc::new(Relay::new(to_backend, service.prepared.clone(), service.keyspace.as_deref()));
    let answers = relay.answers(backend_reader, out.clone(), service.answers.of_session());
    let (tasks, events) = (JoinSet::new(), JoinSet::new());
    let mut session = Session { service, role, version, relay: relay.clone(), out, tasks, events, interest: None };
    tokio::select! {
        biased;
        end = session.requests(reader, closing) => end,
        _ = socket::pump(backend_queue, backend_writer) => Err(End::Closed),
        () = answers => Err(End::Closed),
    }
}

/// A client's own connection to the local Cassandra, in the client's version, so that answers are passed on as they are.
enum Begun {
    /// It may be used.
    Ready(backend::Framed),
    /// As soon as the client has answered this AUTHENTICATE.
    Asked(backend::Framed, Envelope),
}

/// For the client.
fn unavailable(error: &BackendError) -> String {
    tracing::warn!(%error, "no backend connection for a client");
    format!("this replica's Cassandra is not available: {error}")
}

/// Whether the connection of a client that is yet to log in, made before, is to the right generation: another one's Cassandra, which is
/// not recovered, must not judge passwords either. A role may not read the generation. The replica's may, and one JVM
/// follows another: if it is the right one now, the connection was made to that, or to one that has taken it along. The error is
/// for the client.
async fn of_serving<C: Core>(service: &Service<C>) -> Result<(), String> {
    let answer = service.control.query(generation::QUERY, Values::none()).await;
    answer.map(drop).map_err(|error| {
        tracing::warn!(%error, "no backend connection for a client");
        format!("this replica's Cassandra is not available: {error}")
    })
}

/// In the keyspace that clients are confined to, if they are. The error is for the client.
async fn confined<C: Core>(service: &Service<C>, backend: backend::Framed) -> Result<backend::Framed, String> {
    match service.keyspace.as_deref() {
        None => Ok(backend),
        Some(keyspace) => {
            backend::in_keyspace(&service.backend, backend, keyspace).await.map_err(|error| error.to_string())
        }
    }
}

struct Session<C> {
    service: Arc<Service<C>>,
    /// Who has logged in, where clients do.
    role: Option<Arc<str>>,
    /// Of the connection.
    version: Version,
    relay: Arc<Relay>,
    out: Out,
    /// Requests that wait for something; bounded by the permits of their tickets.
    tasks: JoinSet<Result<(), End>>,
    /// Pushes events, if the client wants some: when it ends, so does the session.
    events: JoinSet<()>,
    interest: Option<watch::Sender<Interest>>,
}

impl<C: Core> Session<C> {
    async fn requests(&mut self, reader: &mut Reader, closing: &mut watch::Receiver<Closing>) -> Result<(), End> {
        let in_flight = Arc::new(Semaphore::new(MAX_IN_FLIGHT_PER_CLIENT));
        let mut body_due = None;
        loop {
            let step = async {
                // Nothing is lost when this is given up: the permits go back, what was read stays in the reader.
                let permit = in_flight.clone().acquire_owned().await.map_err(|_| End::Closed)?;
                let length = reader.next_length().await.map_err(FrameError::from)?;
                let bytes = u32::try_from(length.clamp(1, MAX_BODY)).unwrap_or(u32::MAX);
                let budget = self.service.budget.clone().acquire_many_owned(bytes).await.map_err(|_| End::Closed)?;
                let due = *body_due.get_or_insert_with(|| Instant::now() + BODY_TIMEOUT);
                let late = |_| End::Frame(FrameError::Io(std::io::ErrorKind::TimedOut.into()));
                let item = timeout_at(due, reader.next()).await.map_err(late)?;
                Ok::<_, End>((vec![permit, budget], item))
            };
            let (permits, item) = tokio::select! {
                step = step => step?,
                _ = closing.wait_for(|closing| *closing != Closing::Open) => break,
                Some(_) = self.events.join_next() => return Err(End::Closed),
                Some(done) = self.tasks.join_next() => match done {
                    Ok(Ok(())) => continue,
                    Ok(Err(end)) => return Err(end),
                    Err(_) => return Err(End::Closed),
                },
            };
            let envelope = readable(item, self.version, &self.out).await?;
            body_due = None;
            let ticket = self.service.metrics.ticket(permits);
            self.request(envelope, ticket).await?;
        }
        let all = u32::try_from(MAX_IN_FLIGHT_PER_CLIENT).unwrap_or(u32::MAX);
        // Whether all are answered or the time is up: the connection closes.
        let _ = timeout(DRAIN_TIMEOUT, in_flight.acquire_many(all)).await;
        Ok(())
    }

    async fn request(&mut self, envelope: Envelope, ticket: Ticket) -> Result<(), End> {
        let stream = envelope.stream;
        let handled = match envelope.opcode {
            _ if self.version < Version::V4 && envelope.flags & FLAG_CUSTOM_PAYLOAD != 0 => {
                Err(Stop::Refused("Received frame with CUSTOM_PAYLOAD flag for native protocol version < 4".to_owned()))
            }
            Opcode::Query => self.query(envelope, ticket).await,
            Opcode::Prepare => self.prepare(envelope, ticket).await,
            Opcode::Execute => self.execute(envelope, ticket).await,
            Opcode::Batch => self.batch(envelope, ticket).await,
            Opcode::Options => self.answer(answer::supported(stream), ticket.class(RequestClass::Own)).await,
            Opcode::Register => self.register(envelope, ticket).await,
            other => Err(Stop::Refused(format!("Unexpected message {other:?} after STARTUP"))),
        };
        match handled {
            Ok(()) => Ok(()),
            Err(Stop::End(end)) => Err(end),
            Err(Stop::Refused(message)) => {
                let answer = answer::error(stream, ErrorCode::Protocol, &message);
                self.out.send(answer).await.map_err(|_| End::Closed)
            }
        }
    }

    async fn query(&mut self, envelope: Envelope, ticket: Ticket) -> Result<(), Stop> {
        let query = request::parse_query(&envelope.message()?, self.version)?;
        let keyspace = match self.keyspace(query.own.keyspace) {
            Ok(keyspace) => keyspace,
            Err(refusal) => return self.refuse(envelope.stream, &refusal, ticket).await,
        };
        let plan = plan::plan(&query.text, keyspace.as_deref());
        let bound = Bound::of(query.params);
        let statement = Prepared { text: query.text, keyspace, plan };
        self.carry_out(envelope, Arc::new(statement), bound, ticket).await
    }

    async fn prepare(&mut self, envelope: Envelope, ticket: Ticket) -> Result<(), Stop> {
        let prepare = request::parse_prepare(&envelope.message()?, self.version)?;
        let keyspace = match self.keyspace(prepare.keyspace) {
            Ok(keyspace) => keyspace,
            Err(refusal) => return self.refuse(envelope.stream, &refusal, ticket).await,
        };
        let text = prepare.text;
        let plan = plan::plan(&text, keyspace.as_deref());
        if has_password(&plan) {
            let refusal = Refusal::invalid(
                "a statement with a password can't be prepared: Cassandra would keep its text; execute it as it is",
            );
            return self.refuse(envelope.stream, &refusal, ticket).await;
        }
        let expect = match plan {
            Plan::Unknown => Expect::Verdict,
            plan => Expect::Prepared(Prepared { text, keyspace, plan }),
        };
        self.relay.send(envelope, expect, ticket.class(RequestClass::Prepare)).await?;
        Ok(())
    }

    async fn execute(&mut self, envelope: Envelope, ticket: Ticket) -> Result<(), Stop> {
        let execute = request::parse_execute(&envelope.message()?, self.version)?;
        let Some(statement) = self.service.prepared.get(&execute.id) else {
            return self.answer(answer::unprepared(envelope.stream, execute.id), ticket).await;
        };
        let bound = Bound::of(execute.params);
        self.carry_out(envelope, statement, bound, ticket).await
    }

    /// The keyspace of names without one, in a request that may have asked for one of its own.
    fn keyspace(&self, asked: Option<String>) -> Result<Option<String>, Refusal> {
        let (Some(asked), confined) = (asked, self.service.keyspace.as_deref()) else {
            return Ok(self.relay.keyspace());
        };
        match confined {
            Some(confined) if confined != asked && !is_system_keyspace(&asked) => {
                Err(Refusal::invalid(confine::elsewhere(confined, Some(&asked))))
            }
            _ => Ok(Some(asked)),
        }
    }

    async fn carry_out(
        &mut self,
        envelope: Envelope,
        statement: Arc<Prepared>,
        bound: Bound,
        ticket: Ticket,
    ) -> Result<(), Stop> {
        let stream = envelope.stream;
        if let Some(refusal) = self.confined(&statement) {
            return self.refuse(stream, &refusal, ticket).await;
        }
        match &statement.plan {
            Plan::Refuse(refusal) => self.refuse(stream, refusal, ticket).await,
            Plan::Local if bound.levels.consistency == Consistency::Any => {
                self.refuse(stream, &Refusal::any_read(), ticket).await
            }
            Plan::Local => {
                let envelope = request::with_consistency(envelope, Consistency::One, self.version)?;
                Ok(self.relay.send(envelope, Expect::Answer, ticket).await?)
            }
            Plan::Read(select) => {
                self.read(envelope, select, statement.keyspace.as_deref(), bound.levels.consistency, ticket).await
            }
            Plan::Use => {
                let envelope = request::with_consistency(envelope, Consistency::One, self.version)?;
                Ok(self.relay.send(envelope, Expect::Keyspace, ticket).await?)
            }
            Plan::Unknown => self.unknown(stream, &statement, ticket).await,
            Plan::Topology(select) => {
                self.topology(stream, select.clone(), bound.values, ticket.class(RequestClass::Own));
                Ok(())
            }
            Plan::Write(_) => {
                let write = Write::single(statement, bound.values);
                self.write(stream, write, bound.levels, ticket).await
            }
        }
    }

    /// Has a text that is not understood prepared, for the error that Cassandra gives.
    async fn unknown(&mut self, stream: i16, statement: &Prepared, ticket: Ticket) -> Result<(), Stop> {
        let prepare = match (self.version, statement.keyspace.as_deref()) {
            (Version::V5, Some(keyspace)) => request::v5::prepare_in(&statement.text, keyspace)?,
            (Version::V5, None) => request::v5::prepare(&statement.text)?,
            _ => request::prepare(&statement.text)?,
        };
        let prepare = Envelope::request(stream, Opcode::Prepare, prepare);
        Ok(self.relay.send(prepare, Expect::Verdict, ticket.class(RequestClass::Refused)).await?)
    }

    /// Why a statement that is not ordered reaches out of the keyspace that clients are confined to.
    fn confined(&self, statement: &Prepared) -> Option<Refusal> {
        let own = self.service.keyspace.as_deref()?;
        if !matches!(statement.plan, Plan::Read(_) | Plan::Use) {
            return None;
        }
        match confine::judge(own, &statement.text, &classify(&statement.text)) {
            confine::Verdict::Refused(reason) => Some(Refusal::invalid(reason)),
            confine::Verdict::Fine | confine::Verdict::Nothing => None,
        }
    }

    async fn batch(&mut self, envelope: Envelope, ticket: Ticket) -> Result<(), Stop> {
        let stream = envelope.stream;
        let (batch, own) = request::parse_batch(&envelope.message()?, self.version)?;
        let levels = Levels { consistency: batch.consistency, serial: batch.serial_consistency };
        let keyspace = match self.keyspace(own.keyspace) {
            Ok(keyspace) => keyspace,
            Err(refusal) => return self.refuse(stream, &refusal, ticket).await,
        };
        match write::batch(batch, keyspace, &self.service.prepared) {
            Ok(write) => self.write(stream, write, levels, ticket).await,
            Err(write::BatchError::Unprepared(id)) => self.answer(answer::unprepared(stream, id), ticket).await,
            Err(write::BatchError::Refused(refusal)) => self.refuse(stream, &refusal, ticket).await,
            Err(write::BatchError::Unknown(member)) => self.unknown(stream, &member, ticket).await,
        }
    }

    /// Levels up to THREE are answered from this replica's state at once, the others in their place in the order.
    async fn read(
        &mut self,
        envelope: Envelope,
        select: &Arc<Statement>,
        keyspace: Option<&str>,
        consistency: Consistency,
        ticket: Ticket,
    ) -> Result<(), Stop> {
        use Consistency as Level;
        let envelope = request::with_consistency(envelope, Level::One, self.version)?;
        match consistency {
            Level::Any => return self.refuse(envelope.stream, &Refusal::any_read(), ticket).await,
            Level::One | Level::Two | Level::Three | Level::LocalOne => {
                return Ok(self.relay.send(envelope, Expect::Answer, ticket).await?);
            }
            Level::Quorum | Level::LocalQuorum | Level::EachQuorum | Level::All => {}
            // The last is no level that a client can name.
            Level::Serial | Level::LocalSerial | Level::NodeLocal => {}
        }
        let (service, relay, out) = (self.service.clone(), self.relay.clone(), self.out.clone());
        let ticket = ticket.class(RequestClass::LinearizableRead);
        if let Some(early) = service.early(select, keyspace) {
            let (reader, answered) = oneshot::channel();
            self.relay.send(envelope.clone(), Expect::Early(reader), ticket).await?;
            self.tasks.spawn(read_early(service, relay, out, envelope, consistency, early, answered));
            return Ok(());
        }
        let (select, keyspace) = (select.clone(), keyspace.map(str::to_owned));
        self.tasks.spawn(async move {
            match service.place(&select, keyspace.as_deref(), consistency).await {
                Ok(placed) => Ok(relay.send(envelope, Expect::Placed(placed), ticket).await?),
                Err(body) => out.send(answer::error_body(envelope.stream, body)).await.map_err(|_| End::Closed),
            }
        });
        Ok(())
    }

    fn topology(&mut self, stream: i16, select: Arc<Select>, values: Values, ticket: Ticket) {
        let (service, out, version) = (self.service.clone(), self.out.clone(), self.version);
        self.tasks.spawn(async move {
            let answer = service.topology(stream, &select, &values).await;
            let answer = answer::in_version(answer, version);
            let sent = out.send(answer).await.map_err(|_| End::Closed);
            drop(ticket);
            sent
        });
    }

    async fn write(&mut self, stream: i16, write: Write, levels: Levels, ticket: Ticket) -> Result<(), Stop> {
        if let Err(refusal) = levels.allow(&write) {
            return self.refuse(stream, &refusal, ticket).await;
        }
        let consistency = levels.consistency;
        let (service, out, version, role) = (self.service.clone(), self.out.clone(), self.version, self.role.clone());
        let ticket = ticket.class(write.class());
        self.tasks.spawn(async move {
            let answer = service.write(stream, write, consistency, role.as_deref()).await;
            let answer = answer::in_version(answer, version);
            let sent = out.send(answer).await.map_err(|_| End::Closed);
            pass(Fault::AnswerQueued);
            drop(ticket);
            sent
        });
        Ok(())
    }

    async fn register(&mut self, envelope: Envelope, ticket: Ticket) -> Result<(), Stop> {
        let names = request::parse_register(&envelope.message()?)?.events;
        let wanted = Interest::parse(&names).map_err(|name| Stop::Refused(format!("Invalid event type: {name}")))?;
        match &self.interest {
            Some(sender) => sender.send_modify(|interest| *interest = interest.and(wanted)),
            None => {
                let (sender, interest) = watch::channel(wanted);
                let (schema, members) = (self.service.core.events(), self.service.peers.members());
                self.events.spawn(events::push(interest, schema, members, self.version, self.out.clone()));
                self.interest = Some(sender);
            }
        }
        let ready = Envelope::response(envelope.stream, Opcode::Ready, response::ready());
        self.answer(ready, ticket.class(RequestClass::Own)).await
    }

    async fn refuse(&mut self, stream: i16, refusal: &Refusal, ticket: Ticket) -> Result<(), Stop> {
        self.answer(refusal.answer(stream), ticket.class(RequestClass::Refused)).await
    }

    async fn answer(&mut self, envelope: Envelope, ticket: Ticket) -> Result<(), Stop> {
        let sent = self.out.send(envelope).await.map_err(|_| Stop::End(End::Closed));
        drop(ticket);
        sent
    }
}

fn has_password(plan: &Plan) -> bool {
    let Plan::Write(write) = plan else { return false };
    let role = write.statement.role.as_deref();
    role.is_some_and(|role| matches!(role, RoleChange::Role { options, .. } if options.password.is_some()))
}

/// What a request carries besides its statement.
struct Bound {
    levels: Levels,
    values: Values,
}

impl Bound {
    fn of(params: Params) -> Self {
        let levels = Levels { consistency: params.consistency, serial: params.serial_consistency };
        Self { levels, values: params.values }
    }
}

/// Why a request was not taken up.
enum Stop {
    /// The session ends.
    End(End),
    /// It breaks the protocol; the session goes on.
    Refused(String),
}

impl From<replicateddb_cql::ProtocolError> for Stop {
    fn from(error: replicateddb_cql::ProtocolError) -> Self {
        Self::Refused(error.to_string())
    }
}

impl From<RelayError> for Stop {
    fn from(error: RelayError) -> Self {
        Self::End(error.into())
    }
}

const _: () =
    assert!(MAX_BODY <= MAX_IN_FLIGHT_BYTES, "the largest request must fit the budget, or it would wait for ever");
