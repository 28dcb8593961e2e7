//! Committed entries, pushed from replica to replica, so that nobody has to ask ZooKeeper for each of them. In the other
//! direction the receiver asks what the sender has shown to its clients ([`crate::OrderedLog::ask`]), and hands over entries
//! that the sender appends for it ([`carry`]): so one replica, the lowest that is there, appends for all.
//!
//! A replica sends what it has appended, with its position, to all that are connected; who gets it keeps it like an entry of
//! its own ([`super::recent`]). The log is the fallback: whatever does not come in [`GRACE`], the tail reads there, so a
//! connection may lose anything, be late, or not be there.
//!
//! Where a replica leads ([`crate::zookeeper_leader`]) all entries are handed over to it: on the connection that it pushes by, or,
//! while there is none, on a [`Line`] that the others open, which is the same but for the pushes.
//!
//! What is pushed is believed, so it has to come from somebody who might have written the log itself: each frame carries a
//! MAC under a key that is kept in ZooKeeper, beside the log, and numbers of both sides that are used once.
//!
//! ```text
//! receiver → sender   nonce (16 bytes)
//! sender → receiver   MAC of what follows (16), "RDBp", version 4, log id (16), replica (4), incarnation (8), nonce (16)
//! sender → receiver   frames: MAC (16), kind (1), and for an entry: segment (4), sequence (4), commit time in ms (8), entry;
//!                     for an answer: the index (8), or nothing where there is none yet
//! receiver → sender   questions: MAC (16), kind (1); they are answered in their order; on a line also signs of life
//! both                entries that are handed over, and what became of them: MAC (16), then as in [`carry`]
//! ```
//! Each with its length (4 bytes) before it; numbers big-endian.

mod carry;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod wire;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::future::{pending, try_join_all};
use futures::stream::FuturesUnordered;
use futures::{Stream, StreamExt};
use hmac::Mac;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::codec::Framed;
use uuid::Uuid;

pub(super) use self::carry::Carry;
pub(crate) use self::carry::{Load, MAX_CARRIED_BYTES, Told};
use self::carry::{can_carry, parse_told, told};
use self::wire::{Frames, Keyed, MAC_BYTES, framed, keyed, next, next_by, opened, put, sealed};
use super::append::{Outcome, Writer};
use crate::{AppendError, Committed, Incarnation, Life, LogId, Position};

/// How long a tail waits for a pushed entry before it reads the log: well above the time that a push takes, and little
/// where one is lost.
pub(super) const GRACE: Duration = Duration::from_millis(25);
/// The largest entry that is pushed, bytes; a larger one is read in the log.
const MAX_ENTRY_BYTES: usize = 256 << 10;
/// Entries that a connection may lag behind before it loses some.
const QUEUE: usize = 128;
/// A silent sender says that it is there, and so does a silent receiver that has opened a line.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// A receiver that hears nothing for so long closes; so does the sender of a line.
const SILENCE: Duration = Duration::from_secs(2);
/// Longest time of the first exchange, and of a write that nobody reads.
const PATIENCE: Duration = Duration::from_secs(5);
/// Questions under way on a connection.
const QUESTIONS: usize = 16;
/// How long an answer is waited for: whoever asked has another way, which takes about as long.
const ANSWER_WAIT: Duration = Duration::from_millis(50);
/// Entries of another replica that are on their way through a connection.
const CARRIES: usize = 16;
/// How long a connection has to be there before entries are handed over: whoever starts again and again is left alone.
const SETTLED: Duration = Duration::from_secs(2);
/// How long an entry that was handed over is waited for. Then it is appended again, some other way.
const CARRY_WAIT: Duration = Duration::from_secs(1);
/// An append that takes longer is slow.
const SLOW: Duration = Duration::from_millis(100);
/// Slow appends in a row after which the next ones go another way: others may be near to ZooKeeper, or less busy.
const SLOW_APPENDS: u32 = 16;
/// How long nothing is handed over to a replica that has not appended what it was handed; doubles each time, up to the next.
const AVOIDED_FIRST: Duration = Duration::from_secs(10);
/// Longest time that nothing is handed over to a replica.
const AVOIDED_LAST: Duration = Duration::from_secs(300);
const MAGIC: &[u8; 4] = b"RDBp";
const VERSION: u8 = 4;
const NONCE_BYTES: usize = 16;
/// Position and commit time.
const HEAD_BYTES: usize = 16;
const HELLO_BYTES: usize = 4 + 1 + 16 + 4 + 8 + NONCE_BYTES;
const ALIVE: u8 = 0;
const ENTRY: u8 = 1;
const ANSWER: u8 = 2;
const QUESTION: u8 = 3;
const CARRY: u8 = 4;
const CARRIED: u8 = 5;
/// Frames are numbered in each direction; those of the receiver from here on, so that none passes for one of the other's.
const FROM_RECEIVER: u64 = 1 << 63;

/// Why a connection of pushed entries has ended.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// It was closed, or broke.
    #[error("the connection was lost: {0}")]
    Lost(#[from] std::io::Error),
    /// Nothing came, or nothing was taken, for too long.
    #[error("the other side is silent")]
    Silent,
    /// What came is not what a replica of this log sends.
    #[error("the other side is no replica of this log: {0}")]
    Foreign(&'static str),
}

/// What a log's handle knows of pushes.
#[derive(Debug)]
pub(super) struct Pushes {
    key: Vec<u8>,
    log: LogId,
    own_life: Life,
    own_writer: Writer,
    /// Entries that this handle has committed, with the replica whose they are.
    own: broadcast::Sender<(u32, Committed)>,
    /// What others are answered.
    shown: OnceLock<Arc<AtomicU64>>,
    peers: Mutex<Peers>,
    /// Changes whenever a connection from another one comes or goes.
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Peers {
    /// Whose entries are waited for.
    expected: BTreeSet<u32>,
    /// Nobody's: this handle appends all of them.
    all_own: bool,
    /// Connections from others.
    connected: Vec<Peer>,
    /// Connections there have been.
    count: u64,
    /// How replicas that entries were handed over to have done.
    carriers: BTreeMap<u32, Record>,
}

/// How a replica has done that entries were handed over to.
#[derive(Debug, Default)]
struct Record {
    /// Slow appends in a row.
    slow: u32,
    /// Times in a row that it was avoided.
    failures: u32,
    avoided_until: Option<Instant>,
}

impl Record {
    /// It has appended an entry in that time.
    fn appended(&mut self, took: Duration, now: Instant) {
        self.slow = if took > SLOW { self.slow + 1 } else { 0 };
        match self.slow {
            0 => self.failures = 0,
            SLOW_APPENDS.. => self.avoid(now),
            _ => {}
        }
    }

    /// It has not.
    fn avoid(&mut self, now: Instant) {
        let pause = AVOIDED_FIRST.saturating_mul(1 << self.failures.min(8)).min(AVOIDED_LAST);
        *self = Self { slow: 0, failures: self.failures.saturating_add(1), avoided_until: Some(now + pause) };
    }
}

impl Peers {
    /// Who appends for a replica of that number now: the lowest that serves, by the newest connection of its newest life.
    fn carrier(&self, below: u32, now: Instant) -> Option<&Peer> {
        let avoided = |peer: &Peer| {
            self.carriers.get(&peer.life.0).and_then(|record| record.avoided_until).is_some_and(|until| until > now)
        };
        let may = |peer: &&Peer| {
            peer.kind == Kind::Pushes
                && peer.life.0 < below
                && self.expected.contains(&peer.life.0)
                && peer.carries_from <= now
                && !avoided(peer)
        };
        self.connected.iter().filter(may).min_by_key(|peer| (peer.life.0, Reverse(peer.life.1), Reverse(peer.number)))
    }
}

/// Told the index of an answer.
type Asker = oneshot::Sender<u64>;

/// What a receiver wants of a sender.
#[derive(Debug)]
enum Call {
    Ask(Asker),
    Carry(Load, oneshot::Sender<Told>),
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The sender pushes what it commits.
    Pushes,
    /// It does not; the receiver has opened it to hand entries over.
    Line,
}

/// A way to hand own entries over.
#[derive(Clone, Debug)]
pub(crate) struct Line(mpsc::Sender<Call>);

impl Line {
    /// Hands one over, once there is room; where to hear what became of it. `None`: the connection has ended, and nothing was
    /// handed over.
    pub(crate) async fn hand_over(&self, load: Load) -> Option<oneshot::Receiver<Told>> {
        let (answer, told) = oneshot::channel();
        self.0.send(Call::Carry(load, answer)).await.ok()?;
        Some(told)
    }
}

/// A connection from another replica.
#[derive(Debug)]
struct Peer {
    number: u64,
    life: Life,
    kind: Kind,
    calls: mpsc::Sender<Call>,
    /// From when on entries are handed over.
    carries_from: Instant,
}

/// A connection from a replica, known while it lives.
struct Known<'a>(&'a Pushes, u64);

impl Drop for Known<'_> {
    fn drop(&mut self) {
        self.0.peers().connected.retain(|peer| peer.number != self.1);
        self.0.changes.send_modify(|count| *count += 1);
    }
}

impl Pushes {
    pub(super) fn new(key: Vec<u8>, log: LogId, own_life: Life, own_node: String) -> Self {
        let own = broadcast::Sender::new(QUEUE);
        let own_writer = Writer { replica: own_life.0, node: own_node };
        let (shown, peers, changes) = (OnceLock::new(), Mutex::default(), watch::Sender::new(0));
        Self { key, log, own_life, own_writer, own, shown, peers, changes }
    }

    /// This handle as a writer.
    pub(super) fn own_writer(&self) -> &Writer {
        &self.own_writer
    }

    /// This handle has committed an entry of that replica.
    pub(super) fn committed(&self, replica: u32, committed: &Committed) {
        if committed.entry.len() <= MAX_ENTRY_BYTES {
            // Nobody connected is fine.
            let _ = self.own.send((replica, committed.clone()));
        }
    }

    /// Has an own entry appended by the replica that appends for all: the lowest that serves, if it is lower than this one.
    /// `None`: nothing was proposed, append it here.
    pub(super) async fn carry(&self, entry: &Bytes, waits: bool) -> Option<Outcome> {
        let started = Instant::now();
        let (carrier, answer) = self.hand_over(entry, waits)?;
        let told = timeout(CARRY_WAIT, answer).await;
        let mut peers = self.peers();
        let record = peers.carriers.entry(carrier).or_default();
        match told {
            Ok(Ok(Told::At(appended))) => {
                record.appended(started.elapsed(), Instant::now());
                Some(Ok(appended))
            }
            Ok(Ok(Told::Nowhere)) => {
                record.avoid(Instant::now());
                None
            }
            Ok(Ok(Told::Unknown) | Err(_)) | Err(_) => {
                record.avoid(Instant::now());
                let detail = "the replica that appends for all did not say what became of it";
                Some(Err(AppendError::Unknown { detail: detail.into() }))
            }
        }
    }

    fn hand_over(&self, entry: &Bytes, waits: bool) -> Option<(u32, oneshot::Receiver<Told>)> {
        if entry.len() > MAX_CARRIED_BYTES || !can_carry(&self.own_writer) {
            return None;
        }
        let peers = self.peers();
        let carrier = peers.carrier(self.own_life.0, Instant::now())?;
        let (answer, told) = oneshot::channel();
        let load = Load { entry: entry.clone(), waits, stored_in: None };
        carrier.calls.try_send(Call::Carry(load, answer)).ok()?;
        Some((carrier.life.0, told))
    }

    /// The way to that life, if there is one: the connection that it pushes by, for what was handed over by that is not pushed back.
    pub(super) fn line(&self, life: Life) -> Option<Line> {
        let peers = self.peers();
        let to = peers.connected.iter().filter(|peer| peer.life == life);
        let best = to.max_by_key(|peer| (peer.kind == Kind::Pushes, peer.number))?;
        Some(Line(best.calls.clone()))
    }

    /// Tells of connections that come and go.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Whether there is one that own entries are handed over to.
    #[cfg(feature = "conformance")]
    pub(super) fn is_carried(&self) -> bool {
        self.peers().carrier(self.own_life.0, Instant::now()).is_some()
    }

    /// The other replicas that append; without a connection from each of them, no entry is waited for, and to others none is
    /// handed over.
    pub(super) fn expect(&self, replicas: BTreeSet<u32>) {
        let mut peers = self.peers();
        peers.carriers.retain(|replica, _| replicas.contains(replica));
        (peers.expected, peers.all_own) = (replicas, false);
    }

    /// All entries are this handle's own: none of another one is waited for.
    pub(super) fn expect_own(&self) {
        let mut peers = self.peers();
        (peers.expected, peers.all_own) = (BTreeSet::new(), true);
    }

    /// Whether every entry of the others is on its way.
    pub(super) fn complete(&self) -> bool {
        let peers = self.peers();
        let pushes = |peer: &Peer, replica| peer.kind == Kind::Pushes && peer.life.0 == replica;
        let connected = |replica: &u32| peers.connected.iter().any(|peer| pushes(peer, *replica));
        peers.all_own || !peers.expected.is_empty() && peers.expected.iter().all(connected)
    }

    /// See [`crate::OrderedLog::vouch`].
    pub(super) fn vouch(&self, shown: Arc<AtomicU64>) {
        // The first stays.
        let _ = self.shown.set(shown);
    }

    /// See [`crate::OrderedLog::ask`].
    pub(super) async fn ask(&self, lives: &BTreeSet<Life>) -> Option<u64> {
        let answers: Vec<oneshot::Receiver<u64>> = {
            let peers = self.peers();
            let ask = |life: &Life| {
                // The newest connection of that life.
                let peer = peers.connected.iter().rev().find(|peer| peer.life == *life)?;
                let (asker, answer) = oneshot::channel();
                peer.calls.try_send(Call::Ask(asker)).ok()?;
                Some(answer)
            };
            lives.iter().filter(|life| **life != self.own_life).map(ask).collect::<Option<_>>()?
        };
        let shown = timeout(ANSWER_WAIT, try_join_all(answers)).await.ok()?.ok()?;
        Some(shown.into_iter().max().unwrap_or(0))
    }

    /// Sends every entry that is committed from now on, answers, and has `carry` append what it is handed, until the
    /// connection ends. On a line no entry is sent; anybody may have opened it, so it ends unless the receiver proves soon, and then
    /// again and again, that it is there and one of this log's.
    pub(super) async fn send<S, F>(&self, stream: S, kind: Kind, carry: impl Fn(Carry) -> F) -> Result<(), PushError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
        F: Future<Output = Outcome>,
    {
        // Who does not take what it subscribes to keeps it in memory.
        let mut own = (kind == Kind::Pushes).then(|| self.own.subscribe());
        let mut framed = framed(stream);
        let theirs = next(&mut framed, PATIENCE).await?;
        if theirs.len() != NONCE_BYTES {
            return Err(PushError::Foreign("no number to begin with"));
        }
        let hello = self.hello();
        let session = self.session(&theirs, &hello);
        put(&mut framed, sealed(&session, 0, &[&hello])).await?;
        let (mut own_numbers, mut numbers) = (1u64.., FROM_RECEIVER..);
        let mut seal = |parts: &[&[u8]]| sealed(&session, own_numbers.next().unwrap_or_default(), parts);
        let mut carrying = FuturesUnordered::new();
        // Whose entries it knows without being sent them.
        let mut receiver = None;
        let mut said = Instant::now();
        let mut silent_at = (kind == Kind::Line).then(|| Instant::now() + PATIENCE);
        loop {
            let frame = tokio::select! {
                called = next_by(&mut framed, silent_at) => {
                    let mut call = opened(&session, numbers.next().unwrap_or(FROM_RECEIVER), called?)?;
                    silent_at = silent_at.map(|_| Instant::now() + SILENCE);
                    match (call.try_get_u8(), call.len()) {
                        (Ok(ALIVE), 0) => continue,
                        (Ok(QUESTION), 0) => {
                            let shown = self.shown.get().map(|shown| shown.load(Ordering::SeqCst).to_be_bytes());
                            seal(&[&[ANSWER], shown.as_ref().map_or(&[], |shown| &shown[..])])
                        }
                        (Ok(CARRY), _) => {
                            let entry = Carry::parse(call)?;
                            let number = entry.number;
                            if carrying.len() < CARRIES {
                                receiver = Some(entry.writer.replica);
                                let outcome = carry(entry);
                                carrying.push(async move { (number, Told::from(outcome.await)) });
                                continue;
                            }
                            seal(&[&told(number, Told::Nowhere)])
                        }
                        _ => return Err(PushError::Foreign("a question that asks nothing")),
                    }
                }
                Some((number, outcome)) = carrying.next(), if !carrying.is_empty() => seal(&[&told(number, outcome)]),
                committed = following(own.as_mut()) => match committed {
                    Ok((replica, _)) if receiver == Some(replica) => continue,
                    Ok((_, committed)) => seal(&[&head(&committed), &committed.entry]),
                    // Who lags reads the rest in the log.
                    Err(RecvError::Lagged(_)) => seal(&[&[ALIVE]]),
                    Err(RecvError::Closed) => return Ok(()),
                },
                () = sleep_until(said + HEARTBEAT) => seal(&[&[ALIVE]]),
            };
            put(&mut framed, frame).await?;
            said = Instant::now();
        }
    }

    /// Takes entries of another replica, asks it, and hands own ones over to it, until the connection ends.
    pub(super) async fn receive<S>(
        &self,
        stream: S,
        kind: Kind,
        mut take: impl FnMut(Committed),
    ) -> Result<(), PushError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let mut framed = framed(stream);
        let (session, life) = self.greeted(&mut framed).await?;
        let (calls, called) = mpsc::channel(QUESTIONS + CARRIES);
        let _known = self.known(life, kind, calls);
        let (mut sink, mut frames) = framed.split();
        // One that always reads keeps both sides from waiting for each other to read.
        let (outgoing, mut going) = mpsc::channel(QUESTIONS + CARRIES + 1);
        let writing = async {
            while let Some(frame) = going.recv().await {
                put(&mut sink, frame).await?;
            }
            Ok(())
        };
        tokio::select! {
            read = self.converse(&session, kind, &mut frames, called, outgoing, &mut take) => read,
            written = writing => written,
        }
    }

    /// The receiver's side behind the first exchange.
    async fn converse(
        &self,
        session: &Keyed,
        kind: Kind,
        frames: &mut (impl Stream<Item = std::io::Result<BytesMut>> + Unpin),
        mut called: mpsc::Receiver<Call>,
        outgoing: mpsc::Sender<Bytes>,
        take: &mut impl FnMut(Committed),
    ) -> Result<(), PushError> {
        let mut unanswered: VecDeque<Asker> = VecDeque::new();
        let mut carried: BTreeMap<u64, oneshot::Sender<Told>> = BTreeMap::new();
        let (mut numbers, mut own_numbers) = (1u64.., FROM_RECEIVER..);
        let mut heard = Instant::now();
        // At once: before that the other side does not know whose line it is.
        let mut says_at = Instant::now();
        loop {
            tokio::select! {
                frame = next_by(frames, Some(heard + SILENCE)) => {
                    heard = Instant::now();
                    let mut frame = opened(session, numbers.next().unwrap_or_default(), frame?)?;
                    match (frame.try_get_u8(), frame.len()) {
                        (Ok(ENTRY), HEAD_BYTES..) => {
                            let position = Position::new(frame.get_u32(), frame.get_u32());
                            take(Committed { position, commit_time_ms: frame.get_i64(), entry: frame });
                        }
                        (Ok(ANSWER), 0 | 8) => {
                            let asker = unanswered.pop_front().ok_or(PushError::Foreign("an answer to nothing"))?;
                            if let Ok(shown) = frame.try_get_u64() {
                                // Who asked may have gone.
                                let _ = asker.send(shown);
                            }
                        }
                        (Ok(CARRIED), _) => {
                            let (number, told) = parse_told(frame)?;
                            let writer = carried.remove(&number).ok_or(PushError::Foreign("an answer to nothing"))?;
                            let _ = writer.send(told);
                        }
                        (Ok(ALIVE), _) => {}
                        _ => return Err(PushError::Foreign("a frame that says nothing")),
                    }
                }
                Some(call) = called.recv(), if unanswered.len() < QUESTIONS && carried.len() < CARRIES => {
                    let number = own_numbers.next().unwrap_or(FROM_RECEIVER);
                    let frame = match call {
                        Call::Ask(asker) => {
                            unanswered.push_back(asker);
                            sealed(session, number, &[&[QUESTION]])
                        }
                        Call::Carry(load, writer) => {
                            carried.insert(number, writer);
                            sealed(session, number, &[&Carry::head(number, &load, &self.own_writer), &load.entry])
                        }
                    };
                    // As many have room as may be unanswered, and a sign of life: the other side has read those that were answered.
                    outgoing.try_send(frame).map_err(|_| PushError::Silent)?;
                    says_at = Instant::now() + HEARTBEAT;
                }
                () = sleep_until(says_at), if kind == Kind::Line => {
                    // What waits to be sent says as much.
                    if outgoing.capacity() == outgoing.max_capacity() {
                        let number = own_numbers.next().unwrap_or(FROM_RECEIVER);
                        outgoing.try_send(sealed(session, number, &[&[ALIVE]])).map_err(|_| PushError::Silent)?;
                    }
                    says_at = Instant::now() + HEARTBEAT;
                }
            }
        }
    }

    /// The first exchange, from the receiver's side: the connection's key, and whose it is.
    async fn greeted<S>(&self, framed: &mut Framed<S, Frames>) -> Result<(Keyed, Life), PushError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let nonce = Uuid::new_v4();
        put(framed, Bytes::copy_from_slice(nonce.as_bytes())).await?;
        let first = next(framed, PATIENCE).await?;
        let hello = first.get(MAC_BYTES..).unwrap_or_default();
        let session = self.session(nonce.as_bytes(), hello);
        let mut hello = opened(&session, 0, first.clone())?;
        if hello.len() != HELLO_BYTES || !hello.starts_with(MAGIC) {
            return Err(PushError::Foreign("it does not begin as one"));
        }
        hello.advance(MAGIC.len());
        if hello.get_u8() != VERSION {
            return Err(PushError::Foreign("it speaks another version"));
        }
        if hello.get_u128() != self.log.0.as_u128() {
            return Err(PushError::Foreign("it has another log"));
        }
        Ok((session, (hello.get_u32(), Incarnation(hello.get_i64()))))
    }

    fn known(&self, life: Life, kind: Kind, calls: mpsc::Sender<Call>) -> Known<'_> {
        let number = {
            let mut peers = self.peers();
            peers.count += 1;
            let number = peers.count;
            peers.connected.push(Peer { number, life, kind, calls, carries_from: Instant::now() + SETTLED });
            number
        };
        self.changes.send_modify(|count| *count += 1);
        Known(self, number)
    }

    fn hello(&self) -> BytesMut {
        let mut hello = BytesMut::with_capacity(HELLO_BYTES);
        hello.put_slice(MAGIC);
        hello.put_u8(VERSION);
        hello.put_u128(self.log.0.as_u128());
        hello.put_u32(self.own_life.0);
        hello.put_i64(self.own_life.1.0);
        hello.put_slice(Uuid::new_v4().as_bytes());
        hello
    }

    /// The key of one connection.
    fn session(&self, nonce: &[u8], hello: &[u8]) -> Keyed {
        let derived = keyed(&self.key).chain_update(nonce).chain_update(hello).finalize().into_bytes();
        keyed(&derived)
    }

    fn peers(&self) -> MutexGuard<'_, Peers> {
        // Nothing panics under the lock.
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The next entry, where there are any.
async fn following(own: Option<&mut broadcast::Receiver<(u32, Committed)>>) -> Result<(u32, Committed), RecvError> {
    match own {
        Some(own) => own.recv().await,
        None => pending().await,
    }
}

/// What the frame of an entry has before it.
fn head(committed: &Committed) -> BytesMut {
    let mut head = BytesMut::with_capacity(1 + HEAD_BYTES);
    head.put_u8(ENTRY);
    head.put_u32(committed.position.segment);
    head.put_u32(committed.position.sequence);
    head.put_i64(committed.commit_time_ms);
    head
}

#[cfg(test)]
mod tests;
