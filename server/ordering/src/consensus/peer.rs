//! Connections to other replicas, and calls over them.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Duration, Instant, sleep, timeout, timeout_at};
use tokio_util::codec::{Encoder, FramedRead, LengthDelimitedCodec};

use super::frames::{Answer, MAX_FRAME, PREFACE, Request, frame, unframe};

/// Calls that wait for a connection, or on it.
const CALLS: usize = 256;
/// Longest time to connect.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// Pause after a connection could not be made: meanwhile calls fail at once.
const CONNECT_PAUSE: Duration = Duration::from_millis(100);
/// A connection on which a call has been unanswered for so long since it took the last of it is given up, and made anew: the other side may be at another
/// address by now, and this one may swallow everything. Whatever is called answers within less.
const STALL: Duration = Duration::from_secs(5);
/// How often that is looked at.
const STALL_CHECK: Duration = Duration::from_millis(250);
/// The longest that the other side takes over an answer.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(4);

/// Where replicas are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// `host:port`; `{id}` becomes the replica's number.
    Pattern(String),
    /// `host:port` of each replica.
    Listed(BTreeMap<u32, String>),
}

impl Addresses {
    fn of(&self, replica: u32) -> Option<String> {
        match self {
            Self::Pattern(pattern) => Some(pattern.replace("{id}", &replica.to_string())),
            Self::Listed(listed) => listed.get(&replica).cloned(),
        }
    }
}

/// What waits for what: entries may be large, and must not hold up a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    /// What is small.
    Control,
    /// What may be large.
    Bulk,
}

/// A call that was not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub(super) struct CallError {
    /// It may have come to the other side.
    pub(super) sent: bool,
    /// What happened.
    pub(super) detail: String,
}

impl CallError {
    fn unsent(detail: impl Into<String>) -> Self {
        Self { sent: false, detail: detail.into() }
    }
}

/// What comes back.
pub(super) type Reply = oneshot::Receiver<Result<Bytes, CallError>>;

struct Call {
    body: Bytes,
    reply: oneshot::Sender<Result<Bytes, CallError>>,
}

/// Connections to all the others, made when they are needed, and closed when this is dropped.
#[derive(Debug)]
pub(super) struct Peers {
    addresses: Addresses,
    links: Mutex<BTreeMap<(u32, Lane), mpsc::Sender<Call>>>,
}

impl Peers {
    /// To replicas at these addresses.
    pub(super) fn new(addresses: Addresses) -> Arc<Self> {
        Arc::new(Self { addresses, links: Mutex::default() })
    }

    /// Begins a call.
    pub(super) fn begin(&self, replica: u32, lane: Lane, request: &Request) -> Result<Reply, CallError> {
        let Some(address) = self.addresses.of(replica) else {
            return Err(CallError::unsent(format!("no address of replica {replica} is known")));
        };
        let (reply, receiver) = oneshot::channel();
        let call = Call { body: request.encode(), reply };
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let link = links.entry((replica, lane)).or_insert_with(|| {
            let (sender, calls) = mpsc::channel(CALLS);
            tokio::spawn(keep(address, calls));
            sender
        });
        match link.try_send(call) {
            Ok(()) => Ok(receiver),
            Err(_) => Err(CallError::unsent(format!("too many calls wait for replica {replica}"))),
        }
    }

    /// Calls and waits for the answer.
    pub(super) async fn call(
        &self,
        replica: u32,
        lane: Lane,
        request: &Request,
        deadline: Instant,
    ) -> Result<Answer, CallError> {
        let mut reply = self.begin(replica, lane, request)?;
        match timeout_at(deadline, answer(&mut reply)).await {
            Ok(answer) => answer,
            Err(_) => Err(CallError { sent: true, detail: format!("replica {replica} does not answer in time") }),
        }
    }
}

/// Waits for an answer. May be dropped, and begun anew with the same reply.
pub(super) async fn answer(reply: &mut Reply) -> Result<Answer, CallError> {
    let lost = |_| CallError { sent: true, detail: "the connection has ended".into() };
    let body = reply.await.map_err(lost)??;
    Answer::decode(&body).map_err(|error| CallError { sent: true, detail: format!("an answer can't be read: {error}") })
}

/// Carries the calls to one address, over one connection at a time.
async fn keep(address: String, mut calls: mpsc::Receiver<Call>) {
    while let Some(call) = calls.recv().await {
        let connected = timeout(CONNECT_LIMIT, connect(&address)).await;
        let connected =
            connected.unwrap_or_else(|_| Err(io::Error::other(format!("no answer within {CONNECT_LIMIT:?}"))));
        match connected {
            Ok(stream) => carry(stream, call, &mut calls).await,
            Err(error) => {
                let failed = CallError::unsent(format!("{address} is not reached: {error}"));
                let until = Instant::now() + CONNECT_PAUSE;
                let _ = call.reply.send(Err(failed.clone()));
                while let Ok(Some(call)) = timeout_at(until, calls.recv()).await {
                    let _ = call.reply.send(Err(failed.clone()));
                }
            }
        }
    }
}

async fn connect(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The codec of both ends of a connection.
pub(super) fn codec() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().max_frame_length(MAX_FRAME).new_codec()
}

/// Calls that were sent and not answered, and when the connection last took something of them.
type Unanswered = BTreeMap<u64, (Instant, oneshot::Sender<Result<Bytes, CallError>>)>;
type Pending = Mutex<Unanswered>;

/// Carries calls until the connection ends; those that were sent are then of unknown outcome.
async fn carry(stream: TcpStream, first: Call, calls: &mut mpsc::Receiver<Call>) {
    let (read, write) = stream.into_split();
    let pending = Pending::default();
    let ended = tokio::select! {
        ended = send(write, first, calls, &pending) => ended,
        ended = receive(read, &pending) => ended,
        stalled = stall(&pending) => stalled,
    };
    let detail = match ended {
        Ok(()) => "the connection was closed".to_owned(),
        Err(error) => error.to_string(),
    };
    tracing::debug!(detail, "a connection to another replica has ended");
    let pending = pending.into_inner().unwrap_or_else(PoisonError::into_inner);
    for (_, reply) in pending.into_values() {
        let _ = reply.send(Err(CallError { sent: true, detail: detail.clone() }));
    }
}

async fn send(
    mut write: OwnedWriteHalf,
    first: Call,
    calls: &mut mpsc::Receiver<Call>,
    pending: &Pending,
) -> io::Result<()> {
    let (mut codec, mut data) = (codec(), BytesMut::new());
    codec.encode(frame(0, PREFACE), &mut data)?;
    write.write_all_buf(&mut data).await?;
    let (mut next, mut number) = (Some(first), 0);
    while let Some(call) = next {
        // Nobody waits for it any more.
        if !call.reply.is_closed() {
            number += 1;
            let body = frame(number, &call.body);
            lock(pending).insert(number, (Instant::now(), call.reply));
            // Not one buffer for all: one large call would hold its memory for ever.
            let mut data = BytesMut::new();
            codec.encode(body, &mut data)?;
            while !data.is_empty() {
                if write.write_buf(&mut data).await? == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                // However slow: it gets on.
                if let Some((since, _)) = lock(pending).get_mut(&number) {
                    *since = Instant::now();
                }
            }
        }
        next = calls.recv().await;
    }
    Ok(())
}

async fn receive(read: OwnedReadHalf, pending: &Pending) -> io::Result<()> {
    let mut stream = FramedRead::new(read, codec());
    while let Some(data) = stream.next().await {
        let (number, body) = unframe(data?.freeze()).map_err(io::Error::other)?;
        let answered = lock(pending).remove(&number);
        if let Some((_, reply)) = answered {
            let _ = reply.send(Ok(body));
        }
    }
    Ok(())
}

async fn stall(pending: &Pending) -> io::Result<()> {
    loop {
        sleep(STALL_CHECK).await;
        let oldest = lock(pending).first_key_value().map(|(_, (sent, _))| *sent);
        if oldest.is_some_and(|sent| sent.elapsed() > STALL) {
            return Err(io::Error::other(format!("no answer within {STALL:?}")));
        }
    }
}

fn lock(pending: &Pending) -> MutexGuard<'_, Unanswered> {
    // Single steps of a map.
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}
