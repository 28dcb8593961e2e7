//! Either end of a connection, with one at the other that knows the key and says anything. For fuzz targets.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::join_all;
use tokio::io::{AsyncWriteExt, DuplexStream};

use super::*;
use crate::Appended;

const KEY: &[u8] = b"a key of the log";
/// Bytes on their way.
const PIPE: usize = 64 << 10;
/// Turns in which a connection comes to be known.
const TURNS: usize = 64;

/// What is said once the first exchange is done.
#[derive(Debug, Clone)]
pub enum Said<'a> {
    /// These bytes, as they are.
    Bytes(&'a [u8]),
    /// These frames, each proved as the next one of the connection.
    Frames(Vec<&'a [u8]>),
}

fn end(replica: u32) -> Pushes {
    let life = (replica, Incarnation(70 + i64::from(replica)));
    Pushes::new(KEY.into(), LogId(Uuid::nil()), life, format!("i-{replica}"))
}

/// Tells a sender, as its receiver; returns how many entries it was to append.
pub async fn sender(said: Said<'_>) -> usize {
    let sender = end(0);
    sender.vouch(Arc::new(AtomicU64::new(5)));
    let appended = AtomicUsize::new(0);
    let (near, far) = tokio::io::duplex(PIPE);
    let append = |carry: Carry| {
        let number = appended.fetch_add(1, Ordering::Relaxed);
        async move {
            match number % 3 {
                0 => Ok(Appended { position: Position::new(1, carry.writer.replica), commit_time_ms: 9 }),
                1 => Err(AppendError::Fenced),
                _ => Err(AppendError::Unknown { detail: String::new() }),
            }
        }
    };
    let other = async {
        let mut framed = framed(far);
        let nonce = [7; NONCE_BYTES];
        put(&mut framed, Bytes::copy_from_slice(&nonce)).await.ok()?;
        let first = next(&mut framed, PATIENCE).await.ok()?;
        let session = sender.session(&nonce, first.get(MAC_BYTES..)?);
        say(framed, &session, FROM_RECEIVER, said).await;
        Some(())
    };
    let (sent, _) = tokio::join!(sender.send(near, Kind::Pushes, append), other);
    assert!(sent.is_err(), "the other end has gone");
    appended.into_inner()
}

/// Tells a receiver, as its sender; returns how many entries it has taken.
pub async fn receiver(said: Said<'_>) -> usize {
    let (receiver, other) = (end(1), end(0));
    receiver.expect([0].into());
    let mut taken = 0;
    let (near, far) = tokio::io::duplex(PIPE);
    let telling = async {
        let mut framed = framed(near);
        let nonce = next(&mut framed, PATIENCE).await.ok()?;
        let hello = other.hello();
        let session = other.session(&nonce, &hello);
        put(&mut framed, sealed(&session, 0, &[&hello])).await.ok()?;
        say(framed, &session, 1, said).await;
        Some(())
    };
    // Answers to nothing are refused: so it asks something.
    let asking = async {
        for _ in 0..TURNS {
            if receiver.complete() {
                break;
            }
            tokio::task::yield_now().await;
        }
        let lives = [(0, Incarnation(70))].into();
        join_all((0..4).map(|_| receiver.ask(&lives))).await
    };
    let (received, _, _) = tokio::join!(receiver.receive(far, Kind::Pushes, |_| taken += 1), telling, asking);
    assert!(received.is_err(), "the other end has gone");
    assert!(!receiver.complete());
    taken
}

/// Says it, and listens until the other end has gone.
async fn say(framed: Framed<DuplexStream, Frames>, session: &Keyed, first: u64, said: Said<'_>) {
    let frames = match said {
        Said::Frames(frames) => frames,
        Said::Bytes(bytes) => {
            let mut stream = framed.into_inner();
            // It may have had enough.
            let _ = stream.write_all(bytes).await;
            let _ = stream.shutdown().await;
            let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
            return;
        }
    };
    let (mut sink, mut stream) = framed.split();
    let saying = async {
        for (number, frame) in (first..).zip(frames) {
            if put(&mut sink, sealed(session, number, &[frame])).await.is_err() {
                break;
            }
        }
        let _ = futures::SinkExt::<Bytes>::close(&mut sink).await;
    };
    let listening = async { while let Some(Ok(_)) = stream.next().await {} };
    tokio::join!(saying, listening);
}
