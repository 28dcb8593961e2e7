//! One multiplexed connection: many requests in flight, each with its own stream. Bodies are of the version that the
//! connection was opened with.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use replicateddb_cql::frame::{Codec, Envelope, Opcode};
use replicateddb_faults::{Fault, pass};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio_util::codec::Framed;

/// Requests in flight on one connection (Cassandra queues at most 128 per connection before it stops reading).
pub const STREAMS: usize = 512;
/// Requests waiting for the writer.
const QUEUE: usize = 64;
/// A request without an answer for so long counts as lost. Cassandra's own time-outs are well below it.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// The connection broke, or the answer took too long: the request may or may not have been carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Lost {
    /// For people.
    pub reason: String,
    /// False: the request was never sent.
    pub sent: bool,
}

struct Ask {
    opcode: Opcode,
    body: Bytes,
    answer: oneshot::Sender<Envelope>,
}

/// A handle; the connection closes with the last one. Cheap to clone.
#[derive(Clone)]
pub struct Connection {
    asks: mpsc::Sender<Ask>,
    open: Arc<AtomicBool>,
}

impl Connection {
    /// Takes over a connection on which no request is in flight.
    pub fn new<S>(framed: Framed<S, Codec>) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (asks, queue) = mpsc::channel(QUEUE);
        let open = Arc::new(AtomicBool::new(true));
        let flag = open.clone();
        tokio::spawn(async move {
            // Dropping what is in flight tells the callers.
            if let Err(reason) = carry(framed, queue).await {
                tracing::debug!(%reason, "backend connection lost");
            }
            flag.store(false, Ordering::Release);
        });
        Self { asks, open }
    }

    /// Whether the connection was usable a moment ago.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Completes when the connection is closed.
    pub async fn closed(&self) {
        self.asks.closed().await;
    }

    /// Uses the connection no more.
    pub fn give_up(&self) {
        self.open.store(false, Ordering::Release);
    }

    /// Sends a request and waits for its answer, at most [`REQUEST_TIMEOUT`].
    ///
    /// # Errors
    /// See [`Lost`].
    pub async fn ask(&self, opcode: Opcode, body: Bytes) -> Result<Envelope, Lost> {
        let closed = |sent| Lost { reason: "the connection to the local Cassandra was lost".to_owned(), sent };
        let (answer, answered) = oneshot::channel();
        self.asks.send(Ask { opcode, body, answer }).await.map_err(|_| closed(false))?;
        match tokio::time::timeout(REQUEST_TIMEOUT, answered).await {
            Ok(Ok(envelope)) => Ok(envelope),
            Ok(Err(_)) => Err(closed(true)),
            Err(_) => {
                // A connection that loses answers is not used again; its streams are not known to be free.
                self.give_up();
                Err(Lost {
                    reason: format!("the local Cassandra gave no answer within {REQUEST_TIMEOUT:?}"),
                    sent: true,
                })
            }
        }
    }
}

async fn carry<S>(framed: Framed<S, Codec>, mut queue: mpsc::Receiver<Ask>) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sink, mut stream) = framed.split();
    let mut waiting: HashMap<i16, oneshot::Sender<Envelope>> = HashMap::new();
    let mut free: Vec<i16> = (0..STREAMS as i16).rev().collect();
    loop {
        tokio::select! {
            ask = queue.recv(), if !free.is_empty() => {
                let Some(first) = ask else { return Ok(()) };
                let mut next = Some(first);
                // Whatever is queued goes out in one write.
                while let Some(ask) = next {
                    let stream = free.pop().ok_or("no free stream")?;
                    waiting.insert(stream, ask.answer);
                    let envelope = Envelope::request(stream, ask.opcode, ask.body);
                    sink.feed(envelope).await.map_err(|e| e.to_string())?;
                    next = if free.is_empty() { None } else { queue.try_recv().ok() };
                }
                sink.flush().await.map_err(|e| e.to_string())?;
                pass(Fault::RecordSent);
            }
            answer = stream.next() => {
                let envelope = answer.ok_or("closed by Cassandra")?.map_err(|e| e.to_string())?;
                if let Some(answer) = waiting.remove(&envelope.stream) {
                    free.push(envelope.stream);
                    // The caller may have gone.
                    let _ = answer.send(envelope);
                } else if envelope.stream >= 0 {
                    return Err(format!("an answer on stream {} that nobody asked for", envelope.stream));
                }
            }
        }
    }
}
