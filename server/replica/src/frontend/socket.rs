//! Sockets as streams of envelopes: halves, and the task that writes what is queued.

use futures::SinkExt;
use replicateddb_cql::frame::{Codec, Envelope, FrameError};
use tokio::{
    io::AsyncWrite,
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    time::timeout,
};
use tokio_util::codec::{Framed, FramedRead, FramedWrite};

use super::limits::{MAX_ANSWER, MAX_BODY, SOCKET_WRITE_TIMEOUT};

/// What is read from a socket.
pub type Reader = FramedRead<OwnedReadHalf, Codec>;
/// What is written to a socket.
pub type Writer = FramedWrite<OwnedWriteHalf, Codec>;

/// The halves of a client's connection.
pub fn client_halves(socket: TcpStream) -> (Reader, Writer) {
    let (read, write) = socket.into_split();
    (FramedRead::new(read, Codec::server(MAX_BODY)), FramedWrite::new(write, Codec::server(MAX_ANSWER)))
}

/// The halves of a backend's connection, handshake done. What was read ahead is kept.
pub fn backend_halves(backend: Framed<TcpStream, Codec>) -> (Reader, Writer) {
    let parts = backend.into_parts();
    let (read, write) = parts.io.into_split();
    let mut reader = FramedRead::new(read, Codec::client(MAX_ANSWER));
    *reader.read_buffer_mut() = parts.read_buf;
    let mut writer = FramedWrite::new(write, parts.codec);
    *writer.write_buffer_mut() = parts.write_buf;
    (reader, writer)
}

/// Writes what is queued until the queue is closed, flushing whenever it is empty. The peer has
/// [`SOCKET_WRITE_TIMEOUT`] to take each part.
///
/// # Errors
/// The socket broke, or the peer takes nothing.
pub async fn pump<W>(mut queue: mpsc::Receiver<Envelope>, mut sink: FramedWrite<W, Codec>) -> Result<(), FrameError>
where
    W: AsyncWrite + Unpin,
{
    let stalled = |_| FrameError::Io(std::io::ErrorKind::TimedOut.into());
    while let Some(first) = queue.recv().await {
        timeout(SOCKET_WRITE_TIMEOUT, sink.feed(first)).await.map_err(stalled)??;
        while let Ok(next) = queue.try_recv() {
            timeout(SOCKET_WRITE_TIMEOUT, sink.feed(next)).await.map_err(stalled)??;
        }
        timeout(SOCKET_WRITE_TIMEOUT, sink.flush()).await.map_err(stalled)??;
    }
    timeout(SOCKET_WRITE_TIMEOUT, sink.close()).await.map_err(stalled)?
}
