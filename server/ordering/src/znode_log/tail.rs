//! Reading on for ever: watches ring the doorbell, reads find out, own entries and those that were pushed come from memory.

use std::collections::VecDeque;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, stream};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, warn};
use zookeeper_client::{Client, Error, MultiReadResult, OneshotWatcher};

use super::layout::{LogHeader, SegmentState};
use super::plan::{LogView, READ_TARGET_BYTES, ReadSize, Step, step};
use super::push::GRACE;
use super::replayed::{self, Replayed};
use super::{Inner, bodies, truncate};
use crate::connection::{Link, connected};
use crate::framing::{self, Framed};
use crate::state_log::Newest;
use crate::{Committed, Position, TailError};

/// A watch is a hint: without one, the log is looked at this often all the same.
const POLL: Duration = Duration::from_secs(1);
/// First and longest pause after a read that failed while ZooKeeper seems connected.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// See [`crate::OrderedLog::tail`].
pub(super) fn tail(
    inner: Arc<Inner>,
    from: Position,
) -> impl Stream<Item = Result<Committed, TailError>> + Send + 'static {
    stream::unfold(Some(Tailer::new(inner, from)), |tailer| async move {
        let mut tailer = tailer?;
        match tailer.next().await {
            Ok(committed) => Some((Ok(committed), Some(tailer))),
            Err(error) => Some((Err(error), None)),
        }
    })
}

/// A watch that was set and has not fired.
type Bell = Pin<Box<dyn Future<Output = ()> + Send>>;

fn bell(watcher: OneshotWatcher) -> Bell {
    Box::pin(async move {
        watcher.changed().await;
    })
}

struct Tailer {
    inner: Arc<Inner>,
    link: watch::Receiver<Link>,
    /// Where the tail began.
    from: Position,
    /// What the next item of the stream stands at, or `ready`'s first does.
    next: Position,
    ready: VecDeque<Committed>,
    /// The last item of the stream.
    last: Option<Position>,
    /// The last one that came while this connection was there, or the one before, as far as a state log keeps them; and that
    /// connection's epoch.
    seen: Option<(u64, Newest)>,
    replayed: Replayed,
    size: ReadSize,
    /// The connection's epoch in which the session was last brought up to its leader.
    synced: Option<u64>,
    /// Everything up to `next` was read or appended by us: wait before reading again.
    at_end: bool,
    /// Rings when the entry at that position comes.
    entry_bell: Option<(Position, Bell)>,
    /// Rings when that segment is sealed.
    seal_bell: Option<(u32, Bell)>,
    pause: Duration,
}

/// Why a round brought nothing.
enum Trouble {
    /// ZooKeeper did not answer; try again.
    Retry(Error),
    End(TailError),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Retry(error)
    }
}

/// What one read brought.
struct Found {
    view: LogView,
    /// Data and commit time of the entries from `view.next` on.
    entries: Vec<(Bytes, i64)>,
}

impl Tailer {
    fn new(inner: Arc<Inner>, from: Position) -> Self {
        let link = inner.control.link();
        Self {
            replayed: Replayed::new(&inner),
            last: None,
            seen: None,
            inner,
            link,
            from,
            next: from,
            ready: VecDeque::new(),
            size: ReadSize::new(),
            synced: None,
            at_end: false,
            entry_bell: None,
            seal_bell: None,
            pause: BACKOFF.0,
        }
    }

    async fn next(&mut self) -> Result<Committed, TailError> {
        loop {
            if let Some(committed) = self.ready.pop_front() {
                return Ok(self.passed(committed));
            }
            if let Some(committed) = self.inner.recent.get(self.next) {
                // Everything before it has been yielded, and it is committed.
                self.at_end = true;
                // An append's server may be ahead of this session's: what that one lacks is to be awaited, not missed.
                self.synced = None;
                return Ok(self.passed(committed));
            }
            match self.round().await {
                Ok(()) => self.pause = BACKOFF.0,
                Err(Trouble::End(error)) => return Err(error),
                Err(Trouble::Retry(error)) => {
                    debug!(%error, next = %self.next, "reading the log failed, trying again");
                    self.at_end = false;
                    sleep(self.pause).await;
                    self.pause = (self.pause * 2).min(BACKOFF.1);
                }
            }
        }
    }

    /// The next item.
    fn passed(&mut self, committed: Committed) -> Committed {
        if let Some(state_log) = &self.inner.state_log {
            let link = self.link.borrow();
            // What is pushed while there is no connection may be of a log that has lost what was before it.
            let is_known = self.seen.as_ref().is_none_or(|(epoch, _)| *epoch == link.epoch && link.client.is_some());
            if is_known {
                self.seen = Some((link.epoch, Newest::of(&committed)));
            }
            drop(link);
            state_log.offer(self.last, &committed);
        }
        self.last = Some(committed.position);
        self.next = committed.position.next();
        committed
    }

    /// One read, or one wait.
    async fn round(&mut self) -> Result<(), Trouble> {
        let client = connected(&mut self.link).await;
        let epoch = self.link.borrow_and_update().epoch;
        self.check_again(&client, epoch).await?;
        self.ready = self.replayed.read(&self.inner, &client, self.next).await?;
        if !self.ready.is_empty() {
            return Ok(());
        }
        if self.at_end {
            self.at_end = false;
            if self.is_pushed().await {
                return Ok(());
            }
            if self.arm(&client).await? {
                self.wait(epoch).await;
            }
            if self.inner.recent.get(self.next).is_some() {
                return Ok(());
            }
        }
        let found = self.read(&client, epoch).await?;
        self.act(&client, epoch, found).await
    }

    /// After a time without a connection: whether what was read before still stands.
    async fn check_again(&mut self, client: &Client, epoch: u64) -> Result<(), Trouble> {
        if let (Some((before, seen)), Some(state_log)) = (&mut self.seen, &self.inner.state_log)
            && *before != epoch
        {
            replayed::check_again(&self.inner, client, state_log, seen).await?;
            *before = epoch;
        }
        Ok(())
    }

    /// Reads the segment, the next entries, then the header: the order that [`step`] relies on.
    async fn read(&mut self, client: &Client, epoch: u64) -> Result<Found, Trouble> {
        let layout = &self.inner.layout;
        let next = self.next;
        let mut reader = client.new_multi_reader();
        reader.add_get_data(&layout.segment(next.segment))?;
        let wanted = u32::try_from(self.size.entries()).unwrap_or(1);
        for sequence in (next.sequence..).take(wanted as usize) {
            reader.add_get_data(&layout.entry(Position::new(next.segment, sequence)))?;
        }
        reader.add_get_data(&layout.requests())?;
        let mut results = reader.commit().await?.into_iter();
        let mut following = || match results.next() {
            Some(MultiReadResult::Data { data, stat }) => Ok(Some((data, stat))),
            Some(MultiReadResult::Error { err: Error::NoNode }) => Ok(None),
            Some(MultiReadResult::Error { err }) => Err(Trouble::Retry(err)),
            _ => Err(Trouble::Retry(Error::UnexpectedError("a read without an answer".into()))),
        };
        let segment = following()?
            .map(|(data, stat)| truncate::segment_view(&data, &stat))
            .transpose()
            .map_err(|detail| corrupt(next, detail))?;
        let mut entries = Vec::new();
        let mut hole = false;
        for _ in 0..wanted {
            match following()? {
                Some((data, stat)) if !hole => entries.push((Bytes::from(data), stat.ctime)),
                _ => hole = true,
            }
        }
        let (header, _) = following()?.ok_or(Trouble::End(TailError::Lost))?;
        let header = LogHeader::parse(&header).map_err(|detail| corrupt(next, detail))?;
        if header.id != self.inner.log_id {
            return Err(Trouble::End(TailError::Lost));
        }
        let first = header.first;
        let synced = self.synced == Some(epoch);
        let view = LogView { next, segment, found: entries.len(), first, synced };
        Ok(Found { view, entries })
    }

    async fn act(&mut self, client: &Client, epoch: u64, found: Found) -> Result<(), Trouble> {
        let next = self.next;
        match step(&found.view) {
            Step::Take => self.take(client, found.entries).await?,
            Step::Wait => self.at_end = true,
            Step::NextSegment => {
                self.next = next.next_segment();
                self.inner.saw_segment(self.next.segment);
            }
            Step::Sync => {
                client.sync(&self.inner.layout.requests()).await?;
                self.synced = Some(epoch);
            }
            Step::Truncated { first } => return Err(Trouble::End(TailError::Truncated { first })),
            Step::Ahead { end } if next == self.from => return Err(Trouble::End(TailError::Ahead { end })),
            Step::Ahead { .. } => {
                // What was yielded up to here is committed, so it is this session's server that lags; or ZooKeeper has lost it.
                self.synced = None;
                if let Some(state_log) = &self.inner.state_log {
                    replayed::drop_lost(state_log, next);
                }
                return Err(Trouble::Retry(Error::UnexpectedError("the server lags behind the log".into())));
            }
            Step::Corrupt(detail) => return Err(corrupt(next, detail)),
        }
        Ok(())
    }

    /// Makes entries ready, in order; stops at one that can't be, unless it is the first.
    async fn take(&mut self, client: &Client, entries: Vec<(Bytes, i64)>) -> Result<(), Trouble> {
        let wanted = self.size.entries();
        self.size.learn(entries.len(), entries.iter().map(|(data, _)| data.len()).sum());
        self.at_end = entries.len() < wanted;
        let (mut position, mut bytes) = (self.next, 0);
        for (data, commit_time_ms) in entries {
            match read_entry(&self.inner, client, position, &data).await {
                Ok(entry) => {
                    bytes += entry.len();
                    self.ready.push_back(Committed { position, commit_time_ms, entry });
                    if bytes >= READ_TARGET_BYTES {
                        // Bodies beside the entries may be many times their size; the rest is read again.
                        self.at_end = false;
                        break;
                    }
                }
                Err(trouble) if self.ready.is_empty() => return Err(trouble),
                Err(_) => {
                    // What is ready goes out first; then this one is read again, and speaks for itself.
                    self.at_end = false;
                    break;
                }
            }
            position = position.next();
        }
        Ok(())
    }

    /// Whether the next entry is pushed in time; not if there is a watch on it already, or not everybody pushes.
    async fn is_pushed(&mut self) -> bool {
        let watched = self.entry_bell.as_ref().is_some_and(|(at, _)| *at == self.next);
        if watched || !self.inner.pushes.complete() {
            return false;
        }
        let pushed = async {
            loop {
                let put = self.inner.recent.bell().notified();
                let mut put = std::pin::pin!(put);
                put.as_mut().enable();
                if self.inner.recent.get(self.next).is_some() {
                    return;
                }
                put.await;
            }
        };
        tokio::time::timeout(GRACE, pushed).await.is_ok()
    }

    /// Sets the watches for what comes next. `false` if it is there already.
    async fn arm(&mut self, client: &Client) -> Result<bool, Trouble> {
        let next = self.next;
        let entry_path = self.inner.layout.entry(next);
        let segment_path = self.inner.layout.segment(next.segment);
        let entry_armed = self.entry_bell.as_ref().is_some_and(|(at, _)| *at == next);
        let seal_armed = self.seal_bell.as_ref().is_some_and(|(at, _)| *at == next.segment);
        // Both requests are on their way before the first answer is awaited.
        let entry = (!entry_armed).then(|| client.check_and_watch_stat(&entry_path));
        let seal = (!seal_armed).then(|| client.get_and_watch_data(&segment_path));
        if let Some(entry) = entry {
            let (stat, watcher) = entry.await?;
            if stat.is_some() {
                return Ok(false);
            }
            self.entry_bell = Some((next, bell(watcher)));
        }
        if let Some(seal) = seal {
            match seal.await {
                Ok((data, _, watcher)) if SegmentState::parse(&data) == Some(SegmentState::Open) => {
                    self.seal_bell = Some((next.segment, bell(watcher)));
                }
                Ok(_) | Err(Error::NoNode) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    /// Waits until there may be something to read: a watch, an own entry, a new connection, or [`POLL`].
    async fn wait(&mut self, epoch: u64) {
        let own = self.inner.recent.bell().notified();
        let mut own = std::pin::pin!(own);
        own.as_mut().enable();
        if self.inner.recent.get(self.next).is_some() {
            return;
        }
        let reconnected = async {
            if self.link.wait_for(|link| link.epoch != epoch).await.is_err() {
                pending::<()>().await;
            }
        };
        let entry = self.entry_bell.as_mut().map(|(_, bell)| bell);
        let seal = self.seal_bell.as_mut().map(|(_, bell)| bell);
        tokio::select! {
            () = rung(entry) => self.entry_bell = None,
            () = rung(seal) => self.seal_bell = None,
            () = own => {}
            () = reconnected => {
                self.entry_bell = None;
                self.seal_bell = None;
            }
            () = sleep(POLL) => {}
        }
    }
}

/// The entry in a znode's data, with the body it names.
async fn read_entry(inner: &Inner, client: &Client, position: Position, data: &Bytes) -> Result<Bytes, Trouble> {
    let body = match framing::decode(data).map_err(|error| corrupt(position, error.to_string()))? {
        Framed::Inline(entry) => return Ok(entry),
        Framed::Side(body) => body,
    };
    match bodies::read(inner, client, position.segment, &body).await {
        Ok(entry) => Ok(entry),
        Err(bodies::ReadError::Trouble(error)) => Err(Trouble::Retry(error)),
        Err(bodies::ReadError::Damaged(detail)) => {
            // It may have been given up between the two reads.
            let (data, _) = client.get_data(&inner.layout.requests()).await?;
            let header = LogHeader::parse(&data).map_err(|detail| corrupt(position, detail))?;
            match position < header.first {
                true => Err(Trouble::End(TailError::Truncated { first: header.first })),
                false => Err(corrupt(position, detail)),
            }
        }
    }
}

async fn rung(bell: Option<&mut Bell>) {
    match bell {
        Some(bell) => bell.await,
        None => pending().await,
    }
}

fn corrupt(position: Position, detail: String) -> Trouble {
    warn!(%position, detail, "the log is corrupt");
    Trouble::End(TailError::Corrupt { position, detail })
}
