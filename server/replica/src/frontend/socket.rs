//! Sockets as streams of envelopes: a reader that says what it is about to read, and the task that writes what is queued.

use std::{io, time::Duration};

use bytes::BytesMut;
use futures::SinkExt;
use replicateddb_cql::{
    Version,
    frame::{Codec, Envelope, FrameError},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    sync::mpsc,
    time::timeout,
};
use tokio_util::codec::{Decoder, Framed, FramedWrite};

use crate::stream::{ReadSide, Stream, WriteSide};

use super::{
    handshake::Agreed,
    limits::{MAX_ANSWER, MAX_HANDSHAKE_BODY, SOCKET_BUFFER_KEPT, SOCKET_QUEUE, SOCKET_WRITE_TIMEOUT},
    shares::Share,
};

/// Bytes of a client that are read and thrown away after a fatal error, so that closing the socket doesn't destroy the
/// error that explains it.
const LINGER_BYTES: u64 = 1024 * 1024;
/// Time for the same.
const LINGER_TIME: Duration = Duration::from_secs(1);

/// What is written to a socket.
pub type Writer = FramedWrite<WriteSide, Codec>;

/// What is read from a socket. Everything here may be given up and called again: nothing read is lost.
pub struct Reader {
    socket: ReadSide,
    codec: Codec,
    buffer: BytesMut,
    /// The most that the buffer has held since it was made.
    held: usize,
}

impl Reader {
    fn new(socket: ReadSide, codec: Codec, buffer: BytesMut) -> Self {
        Self { socket, codec, held: buffer.len(), buffer }
    }

    /// STARTUP is being answered: from now on all is as agreed, and bodies may have up to `bytes`.
    pub fn begin(&mut self, agreed: Agreed, bytes: usize) {
        self.codec.begin(agreed.version, agreed.compression, bytes);
    }

    /// The connection's version, or, before there is one, the last message's.
    pub fn version(&self) -> Version {
        self.codec.version()
    }

    /// Waits for the next header and gives the bytes of its body, unpacked, before that is read; 0 if there is none, or if it
    /// breaks the protocol, which [`Reader::next`] tells.
    ///
    /// # Errors
    /// The socket broke.
    pub async fn next_length(&mut self) -> io::Result<usize> {
        loop {
            match self.codec.next_length(&mut self.buffer) {
                Ok(Some(length)) => return Ok(length),
                Ok(None) if self.read().await? > 0 => {}
                Ok(None) | Err(_) => return Ok(0),
            }
        }
    }

    async fn read(&mut self) -> io::Result<usize> {
        let read = self.socket.read_buf(&mut self.buffer).await?;
        self.held = self.held.max(self.buffer.len());
        Ok(read)
    }

    /// The next envelope; `None` if the peer has closed.
    ///
    /// # Errors
    /// The socket broke or the peer breaks the protocol: it can't be read on.
    pub async fn next(&mut self) -> Result<Option<Envelope>, FrameError> {
        loop {
            if let Some(envelope) = self.codec.decode(&mut self.buffer)? {
                if self.buffer.is_empty() && self.held > SOCKET_BUFFER_KEPT {
                    // Not to share a large body's memory as long as the connection lives.
                    self.buffer = BytesMut::new();
                    self.held = 0;
                }
                return Ok(Some(envelope));
            }
            if self.read().await? == 0 {
                return match self.buffer.is_empty() && !self.codec.holds_part() {
                    true => Ok(None),
                    false => Err(FrameError::Io(io::ErrorKind::UnexpectedEof.into())),
                };
            }
        }
    }

    /// The socket.
    pub fn into_inner(self) -> ReadSide {
        self.socket
    }
}

/// The halves of a client's connection, for its handshake.
pub fn client_halves(stream: Stream) -> (Reader, Writer) {
    let (read, write) = stream.into_split();
    let reader = Reader::new(read, Codec::server(MAX_HANDSHAKE_BODY), BytesMut::new());
    (reader, FramedWrite::new(write, Codec::server(MAX_ANSWER)))
}

/// The halves of a backend's connection, handshake done. What was read ahead is kept.
pub fn backend_halves(backend: Framed<Stream, Codec>) -> (Reader, Writer) {
    let parts = backend.into_parts();
    let (read, write) = parts.io.into_split();
    let reader = Reader::new(read, parts.codec.clone(), parts.read_buf);
    let mut writer = FramedWrite::new(write, parts.codec);
    *writer.write_buffer_mut() = parts.write_buf;
    (reader, writer)
}

/// Reads what a client still sends and throws it away, for a bounded time.
pub async fn linger(socket: impl AsyncRead + Unpin) {
    let mut rest = socket.take(LINGER_BYTES);
    let _ = timeout(LINGER_TIME, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
}

/// A message to write, and its share of a bound, given back once it is written.
#[derive(Debug)]
pub struct Queued {
    envelope: Envelope,
    share: Option<Share>,
    /// What is written after it is as agreed.
    then: Option<Agreed>,
}

/// The other end is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

/// Where messages for a socket are queued, [`SOCKET_QUEUE`] of them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Out(mpsc::Sender<Queued>);

impl Out {
    /// A queue, and what [`pump`] takes.
    pub fn new() -> (Self, mpsc::Receiver<Queued>) {
        let (sender, receiver) = mpsc::channel(SOCKET_QUEUE);
        (Self(sender), receiver)
    }

    /// Queues a message, once there is room.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn send(&self, envelope: Envelope) -> Result<(), Closed> {
        self.0.send(Queued { envelope, share: None, then: None }).await.map_err(|_| Closed)
    }

    /// Queues the answer to STARTUP: what is queued after it is written as agreed.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn send_ready(&self, envelope: Envelope, agreed: Agreed) -> Result<(), Closed> {
        self.0.send(Queued { envelope, share: None, then: Some(agreed) }).await.map_err(|_| Closed)
    }

    /// Queues a message that holds `share` until it is written.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn send_counted(&self, envelope: Envelope, share: Share) -> Result<(), Closed> {
        self.0.send(Queued { envelope, share: Some(share), then: None }).await.map_err(|_| Closed)
    }
}

/// Writes what is queued until the queue is closed, flushing whenever it is empty. The peer has
/// [`SOCKET_WRITE_TIMEOUT`] to take each part.
///
/// # Errors
/// The socket broke, or the peer takes nothing.
pub async fn pump<W>(mut queue: mpsc::Receiver<Queued>, mut sink: FramedWrite<W, Codec>) -> Result<(), FrameError>
where
    W: AsyncWrite + Unpin,
{
    let stalled = |_| FrameError::Io(io::ErrorKind::TimedOut.into());
    while let Some(first) = queue.recv().await {
        let mut shares = Vec::new();
        let mut next = Some(first);
        while let Some(Queued { envelope, share, then }) = next {
            shares.push(share);
            timeout(SOCKET_WRITE_TIMEOUT, sink.feed(envelope)).await.map_err(stalled)??;
            if let Some(Agreed { version, compression }) = then {
                sink.encoder_mut().begin(version, compression, MAX_ANSWER);
            }
            next = queue.try_recv().ok();
        }
        timeout(SOCKET_WRITE_TIMEOUT, sink.flush()).await.map_err(stalled)??;
        if sink.write_buffer().capacity() > SOCKET_BUFFER_KEPT {
            *sink.write_buffer_mut() = BytesMut::new();
        }
    }
    timeout(SOCKET_WRITE_TIMEOUT, sink.close()).await.map_err(stalled)?
}
