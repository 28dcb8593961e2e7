//! Appending: bounded, fenced, and honest about what is not known. Which entries go together is in [`super::gather`].

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use replicateddb_faults::{Fault, once_sent, pass};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{debug, warn};
use zookeeper_client::{Client, CreateMode, Error, MultiWriteError};

use super::bodies::{Attempt, BodyError};
use super::layout::SegmentState;
use super::plan::{self, AppendVerdict, Place};
use super::push::{Carry, MAX_CARRIED_BYTES};
use super::{Authority, Fence, Inner, gather, open, truncate};
use crate::connection::{Connection, lost};
use crate::{AppendError, Appended, Committed, LogError, Position, framing};

/// A session that carries appends.
#[derive(Debug)]
pub(super) struct AppendLane {
    connection: Arc<Connection>,
    /// Appends under way in it.
    in_flight: AtomicUsize,
}

impl AppendLane {
    pub(super) fn new(connection: Connection) -> Self {
        Self { connection: Arc::new(connection), in_flight: AtomicUsize::new(0) }
    }

    pub(super) fn connection(&self) -> Arc<Connection> {
        self.connection.clone()
    }
}

/// Counts an append in its lane while it lives.
struct Boarded {
    inner: Arc<Inner>,
    lane: usize,
}

impl Drop for Boarded {
    fn drop(&mut self) {
        self.inner.lanes[self.lane].in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Whose entry it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Writer {
    /// The replica.
    pub(super) replica: u32,
    /// The name of its incarnation's node, which must be there when the entry is committed (I6).
    pub(super) node: String,
}

/// What became of an entry.
pub(crate) type Outcome = Result<Appended, AppendError>;

/// An entry on its way.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) writer: Writer,
    /// The entry; what its node is to hold, if its body is stored.
    pub(super) entry: Bytes,
    /// The segment that its body is stored with, by its writer: it goes in there or nowhere.
    stored_in: Option<u32>,
    /// Whether it waits for others, and they for the next one of its writer: it has many requests.
    pub(super) waits: bool,
    deadline: Instant,
    claimed: Arc<AtomicBool>,
    answer: Option<oneshot::Sender<Outcome>>,
}

/// Where the outcome of an entry comes.
pub(super) struct Coming {
    deadline: Instant,
    claimed: Arc<AtomicBool>,
    outcome: oneshot::Receiver<Outcome>,
}

impl Part {
    /// With where its outcome comes.
    pub(super) fn new(writer: Writer, entry: Bytes, waits: bool, deadline: Instant) -> (Self, Coming) {
        let (answer, outcome) = oneshot::channel();
        let claimed = Arc::new(AtomicBool::new(false));
        let coming = Coming { deadline, claimed: claimed.clone(), outcome };
        (Self { writer, entry, stored_in: None, waits, deadline, claimed, answer: Some(answer) }, coming)
    }

    /// Takes it for a transaction. `false`: it was given up, and its caller told so.
    fn claim(&self) -> bool {
        !self.claimed.swap(true, Ordering::AcqRel)
    }

    /// Answers the caller, once.
    fn reply(&mut self, outcome: Outcome) {
        if let Some(answer) = self.answer.take() {
            // A caller who has gone away does not care.
            answer.send(outcome).ok();
        }
    }
}

impl Coming {
    /// Waits for it. What no transaction has taken by the deadline is given up.
    async fn outcome(mut self) -> Outcome {
        if let Ok(outcome) = timeout_at(self.deadline, &mut self.outcome).await {
            return outcome.unwrap_or_else(|_| Err(given_up()));
        }
        match self.claimed.swap(true, Ordering::AcqRel) {
            false => Err(too_many()),
            true => self.outcome.await.unwrap_or_else(|_| Err(given_up())),
        }
    }
}

/// Refuses what no append of this handle can bring into the log.
pub(super) fn check(inner: &Inner, entry: &Bytes) -> Result<(), AppendError> {
    let limit = inner.config.max_body_bytes;
    match entry.len() > limit {
        true => Err(AppendError::TooLarge { bytes: entry.len(), limit }),
        false if inner.is_fenced() => Err(AppendError::Fenced),
        false => Ok(()),
    }
}

/// See [`crate::OrderedLog::append_requests`]. It waits for others if it has many requests.
pub(super) async fn append(inner: Arc<Inner>, entry: Bytes, waits: bool) -> Outcome {
    check(&inner, &entry)?;
    let deadline = Instant::now() + inner.config.append_timeout;
    let alone = entry.len() > inner.config.max_entry_bytes;
    let may_carry = !alone && matches!(inner.authority, Authority::Everybody);
    if may_carry && let Some(outcome) = inner.pushes.carry(&entry, waits).await {
        if let Ok(appended) = outcome {
            learn(&inner, appended, entry);
            // Whoever appended it seals, unless it can't.
            let Position { segment, sequence } = appended.position;
            if sequence as usize >= inner.config.segment_entries as usize + gather::ENTRIES {
                start_seal(&inner, segment);
            }
        }
        return outcome;
    }
    here(inner, entry, waits, deadline).await
}

/// Another replica has appended this entry for this one.
pub(super) fn learn(inner: &Inner, Appended { position, commit_time_ms }: Appended, entry: Bytes) {
    inner.saw_segment(position.segment);
    inner.recent.put(Committed { position, commit_time_ms, entry });
}

/// Appends an own entry by this handle itself.
pub(super) async fn here(inner: Arc<Inner>, entry: Bytes, waits: bool, deadline: Instant) -> Outcome {
    let alone = entry.len() > inner.config.max_entry_bytes;
    let (part, coming) = Part::new(inner.pushes.own_writer().clone(), entry, waits, deadline);
    // By another task: it lasts until ZooKeeper has answered or its connection is lost, whatever becomes of the caller, since a
    // request that was handed to the client is sent even if its future is dropped.
    let taken = match alone {
        true => spawn_alone(&inner, part).await,
        false => timeout_at(deadline, inner.gather.send(part)).await.is_ok_and(|sent| sent.is_ok()),
    };
    if !taken {
        return Err(too_many());
    }
    coming.outcome().await
}

/// An own entry whose body is stored already: what another replica is handed instead of it. Kept until it is known what became of
/// it.
pub(crate) struct Stored {
    attempt: Attempt,
    /// What the entry's node is to hold.
    pub(crate) frame: Bytes,
    /// Where it has to go.
    pub(crate) segment: u32,
}

impl Stored {
    /// An entry names the body, or might.
    pub(crate) fn set_named(&mut self, named: bool) {
        self.attempt.set_named(named);
    }
}

/// Stores the body of an own entry with the newest segment known, or with the one after it if that is sealed by then.
pub(super) async fn store(inner: &Arc<Inner>, entry: &Bytes, deadline: Instant) -> Result<Stored, AppendError> {
    loop {
        let (client, _boarded) = board(inner, deadline).await?;
        let segment = inner.segment();
        let attempt = Attempt::new(inner, &client, segment);
        match timeout_at(deadline, attempt.store(entry)).await {
            Ok(Ok(body)) => return Ok(Stored { attempt, frame: framing::encode_side(&body).into(), segment }),
            Ok(Err(BodyError::SegmentClosed)) => find_segment(inner, segment, deadline).await?,
            Ok(Err(BodyError::Fenced)) => return Err(over(inner, &client).await),
            Ok(Err(BodyError::Failed(detail))) => return Err(not_stored(&detail)),
            Err(_) => return Err(not_stored("ZooKeeper did not answer in time")),
        }
    }
}

/// Looks for the segment after the one that a body was stored with for nothing, if that is sealed.
pub(super) async fn look_beyond(inner: &Arc<Inner>, segment: u32, deadline: Instant) {
    // That there is none means that it was refused for another reason.
    find_segment(inner, segment, deadline).await.ok();
}

/// Appends an entry of another replica, together with others.
pub(super) async fn carried(inner: Arc<Inner>, Carry { writer, entry, waits, stored_in, .. }: Carry) -> Outcome {
    // What its own replica takes for small enough may be more than what this one does.
    let limit = inner.config.max_entry_bytes.max(MAX_CARRIED_BYTES);
    if entry.len() > limit {
        return Err(AppendError::TooLarge { bytes: entry.len(), limit });
    }
    if inner.is_fenced() {
        return Err(unavailable("a newer incarnation of the replica that appends for all has taken over"));
    }
    if inner.lanes.iter().all(|lane| lane.connection.connected().is_none()) {
        return Err(unavailable("not connected to ZooKeeper"));
    }
    let (mut part, coming) = Part::new(writer, entry, waits, Instant::now() + inner.config.append_timeout);
    part.stored_in = stored_in;
    if inner.gather.try_send(part).is_err() {
        return Err(too_many());
    }
    drop(inner);
    coming.outcome().await
}

/// Starts the append of an entry with a body. `false`: too many are under way.
async fn spawn_alone(inner: &Arc<Inner>, part: Part) -> bool {
    let permit = timeout_at(part.deadline, inner.permits.clone().acquire_owned()).await;
    let Ok(Ok(permit)) = permit else { return false };
    tokio::spawn(Transaction::new(inner.clone(), vec![part], Some(permit)).run());
    true
}

fn too_many() -> AppendError {
    unavailable("too many appends are under way")
}

fn given_up() -> AppendError {
    AppendError::Unknown { detail: "the append was given up".into() }
}

pub(super) fn unavailable(reason: impl Into<String>) -> AppendError {
    AppendError::Unavailable { reason: reason.into() }
}

fn not_stored(detail: &str) -> AppendError {
    unavailable(format!("the entry's body could not be stored: {detail}"))
}

/// Entries that are appended together.
pub(super) struct Transaction {
    inner: Arc<Inner>,
    parts: Vec<Part>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Transaction {
    /// The permit, where there is one, is held until ZooKeeper has answered.
    pub(super) fn new(inner: Arc<Inner>, parts: Vec<Part>, permit: Option<OwnedSemaphorePermit>) -> Self {
        Self { inner, parts, _permit: permit }
    }

    /// Appends them; each has its outcome at the end.
    pub(super) async fn run(mut self) {
        self.parts.retain(Part::claim);
        self.expire(&too_many());
        self.parts.retain(|part| part.answer.is_some());
        if let Err(error) = self.propose().await {
            self.reply(&error);
        }
    }

    /// The same to all that have no answer yet.
    fn reply(&mut self, error: &AppendError) {
        self.parts.iter_mut().for_each(|part| part.reply(Err(error.clone())));
    }

    /// Tells those whose deadline is over.
    fn expire(&mut self, error: &AppendError) {
        let now = Instant::now();
        for part in self.parts.iter_mut().filter(|part| part.deadline <= now) {
            part.reply(Err(error.clone()));
        }
    }

    /// The last of the entries' deadlines.
    fn deadline(&self) -> Instant {
        self.parts.iter().map(|part| part.deadline).max().unwrap_or_else(Instant::now)
    }

    /// The first deadline of those that have no answer yet.
    fn next_deadline(&self) -> Option<Instant> {
        self.parts.iter().filter(|part| part.answer.is_some()).map(|part| part.deadline).min()
    }

    /// The writers, each once, and first this handle: nothing of an ended life goes into the log, not even what is others' (I6).
    fn writers(&self) -> Vec<Writer> {
        let mut writers: Vec<Writer> = vec![self.inner.pushes.own_writer().clone()];
        for part in &self.parts {
            if !writers.contains(&part.writer) {
                writers.push(part.writer.clone());
            }
        }
        writers
    }

    /// Proposes until a segment takes the entries; each round but the last ends with a newer segment known, or a writer less.
    async fn propose(&mut self) -> Result<(), AppendError> {
        let inner = self.inner.clone();
        loop {
            let fence = inner.fence()?;
            let (client, _boarded) = board(&inner, self.deadline()).await?;
            let segment = inner.segment();
            let is_ahead = |part: &Part| part.stored_in.is_some_and(|stored| stored > segment);
            // Its writer may know of a segment that this one has not heard of.
            if self.parts.iter().any(is_ahead) && find_segment(&inner, segment, self.deadline()).await.is_ok() {
                continue;
            }
            self.refuse_stored_elsewhere(segment);
            if self.parts.is_empty() {
                return Ok(());
            }
            let (frames, mut bodies) = match self.frames(&client, segment).await {
                Ok(stored) => stored,
                Err(BodyError::SegmentClosed) => {
                    find_segment(&inner, segment, self.deadline()).await?;
                    continue;
                }
                Err(BodyError::Fenced) => return Err(over(&inner, &client).await),
                Err(BodyError::Failed(detail)) => return Err(not_stored(&detail)),
            };
            let writers = self.writers();
            bodies.iter_mut().for_each(|body| body.set_named(true));
            let verdict = self.commit(&client, segment, &writers, fence.as_ref(), &frames).await;
            let named = matches!(verdict, AppendVerdict::Committed(_) | AppendVerdict::Unknown(_));
            bodies.iter_mut().for_each(|body| body.set_named(named));
            match verdict {
                AppendVerdict::Committed(places) => {
                    pass(Fault::AppendAcknowledged);
                    self.committed(segment, &places);
                    return Ok(());
                }
                AppendVerdict::Sealed => inner.saw_segment(segment.saturating_add(1)),
                AppendVerdict::NoSegment => find_segment(&inner, segment, self.deadline()).await?,
                AppendVerdict::Deposed => {
                    inner.deposed(fence.as_ref());
                    return Err(unavailable("another replica leads by now"));
                }
                AppendVerdict::Fenced(0) => {
                    let error = over(&inner, &client).await;
                    let own = inner.pushes.own_writer();
                    self.parts
                        .iter_mut()
                        .filter(|part| part.writer == *own)
                        .for_each(|part| part.reply(Err(error.clone())));
                    return Err(unavailable("the life of the replica that appends for all is over"));
                }
                AppendVerdict::Fenced(writer) => match writers.get(writer) {
                    Some(writer) => self.leave_out(writer),
                    None => return Err(unavailable("ZooKeeper refuses what was not asked")),
                },
                AppendVerdict::Refused(reason) => return Err(unavailable(reason)),
                AppendVerdict::Unknown(detail) => return Err(AppendError::Unknown { detail }),
            }
        }
    }

    /// What names a body of another segment would name none in this one.
    fn refuse_stored_elsewhere(&mut self, segment: u32) {
        for mut part in self.parts.extract_if(.., |part| part.stored_in.is_some_and(|stored| stored != segment)) {
            part.reply(Err(unavailable("the segment that the entry's body is stored with is sealed")));
        }
    }

    /// The life of this writer is over: nothing of it was appended, and the others go without it. It finds out by itself what
    /// that means.
    fn leave_out(&mut self, writer: &Writer) {
        for mut part in self.parts.extract_if(.., |part| part.writer == *writer) {
            part.reply(Err(unavailable("ZooKeeper does not know the writer's incarnation")));
        }
    }

    /// What the entries' znodes will hold; stores large bodies first.
    async fn frames(&self, client: &Client, segment: u32) -> Result<(Vec<Vec<u8>>, Vec<Attempt>), BodyError> {
        let (mut frames, mut bodies) = (Vec::with_capacity(self.parts.len()), Vec::new());
        for Part { entry, stored_in, .. } in &self.parts {
            frames.push(if stored_in.is_some() {
                entry.to_vec()
            } else if entry.len() <= self.inner.config.max_entry_bytes {
                framing::encode_inline(entry)
            } else {
                let attempt = Attempt::new(&self.inner, client, segment);
                let stored = timeout_at(self.deadline(), attempt.store(entry)).await;
                bodies.push(attempt);
                match stored {
                    Ok(stored) => framing::encode_side(&stored?),
                    Err(_) => return Err(BodyError::Failed("ZooKeeper did not answer in time".into())),
                }
            });
        }
        Ok((frames, bodies))
    }

    /// The transaction. Past its deadline a caller is told that nobody knows, and the answer is awaited all the same, until the
    /// connection is lost: a session that has none may keep what it is given for longer than another takes to be there.
    async fn commit(
        &mut self,
        client: &Client,
        segment: u32,
        writers: &[Writer],
        fence: Option<&Fence>,
        frames: &[Vec<u8>],
    ) -> AppendVerdict {
        let inner = self.inner.clone();
        let options = CreateMode::PersistentSequential.with_acls(inner.access.acls());
        let mut writer = client.new_multi_writer();
        // In the order that `plan::append_verdict` reads.
        let added = writer
            .add_check_version(&inner.layout.segment(segment), SegmentState::OPEN_VERSION)
            .and_then(|()| {
                let mut paths = writers.iter().map(|life| inner.layout.incarnation(life.replica, &life.node));
                paths.try_for_each(|path| writer.add_check_version(&path, 0))
            })
            .and_then(|()| match fence {
                Some(fence) => writer.add_check_version(&fence.path, fence.version),
                None => Ok(()),
            })
            .and_then(|()| {
                let prefix = inner.layout.entry_prefix(segment);
                frames.iter().try_for_each(|frame| writer.add_create(&prefix, frame, &options))
            });
        if let Err(error) = added {
            return AppendVerdict::Refused(error.to_string());
        }
        pass(Fault::AppendUnsent);
        let mut answer = std::pin::pin!(once_sent(Fault::AppendSent, writer.commit()));
        let detail = format!("ZooKeeper did not answer within {:?}", inner.config.append_timeout);
        let mut lost = std::pin::pin!(lost(client));
        loop {
            let deadline = self.next_deadline();
            tokio::select! {
                biased;
                answer = &mut answer => return plan::append_verdict(answer, writers.len(), fence.is_some(), frames.len()),
                () = &mut lost => return AppendVerdict::Unknown("the connection to ZooKeeper was lost".to_owned()),
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    self.expire(&AppendError::Unknown { detail: detail.clone() });
                }
            }
        }
    }

    fn committed(&mut self, segment: u32, places: &[Place]) {
        let inner = &self.inner;
        for (part, place) in self.parts.iter_mut().zip(places) {
            let (position, commit_time_ms) = (Position::new(segment, place.sequence), place.commit_time_ms);
            // What names a body is not the entry: that is read in the log.
            if part.stored_in.is_none() {
                let committed = Committed { position, commit_time_ms, entry: part.entry.clone() };
                inner.pushes.committed(part.writer.replica, &committed);
                inner.recent.put(committed);
            }
            part.reply(Ok(Appended { position, commit_time_ms }));
        }
        let end = places.last().map_or(0, |place| place.sequence.saturating_add(1));
        if end >= inner.config.segment_entries {
            start_seal(inner, segment);
        }
    }
}

/// The connected session with the fewest appends under way, waiting for one if there is none.
async fn board(inner: &Arc<Inner>, deadline: Instant) -> Result<(Client, Boarded), AppendError> {
    loop {
        let lanes = inner.lanes.iter().enumerate();
        let connected = lanes.filter_map(|(index, lane)| Some((index, lane, lane.connection.connected()?)));
        let quietest = connected.min_by_key(|(_, lane, _)| lane.in_flight.load(Ordering::Acquire));
        if let Some((index, lane, client)) = quietest {
            lane.in_flight.fetch_add(1, Ordering::AcqRel);
            return Ok((client, Boarded { inner: inner.clone(), lane: index }));
        }
        let waits = inner.lanes.iter().map(|lane| Box::pin(lane.connection.client()));
        if timeout_at(deadline, futures::future::select_all(waits)).await.is_err() {
            return Err(unavailable("not connected to ZooKeeper"));
        }
    }
}

/// Nothing was appended, for ZooKeeper does not know the incarnation.
async fn over(inner: &Inner, client: &Client) -> AppendError {
    match truncate::over(inner, client).await {
        LogError::Fenced => AppendError::Fenced,
        error => unavailable(error.to_string()),
    }
}

/// Looks for a newer segment than one that was closed, or given up.
async fn find_segment(inner: &Inner, closed: u32, deadline: Instant) -> Result<(), AppendError> {
    if inner.segment() > closed {
        return Ok(());
    }
    let look = async {
        let client = inner.control.client().await;
        open::newest_segment(&client, &inner.layout).await
    };
    match timeout_at(deadline, look).await {
        Ok(Ok(Some(newest))) if newest > closed => {
            inner.saw_segment(newest);
            Ok(())
        }
        Ok(Ok(_)) => Err(unavailable(format!("segment {closed} takes no entries and none follows it"))),
        Ok(Err(error)) => Err(unavailable(error.to_string())),
        Err(_) => Err(unavailable("ZooKeeper did not answer in time")),
    }
}

/// Seals a full segment in the background, unless this handle is at it already. Should it fail, the next append into
/// the segment starts it again.
fn start_seal(inner: &Arc<Inner>, segment: u32) {
    if inner.segment() > segment || inner.sealing.swap(true, Ordering::AcqRel) {
        return;
    }
    let inner = inner.clone();
    tokio::spawn(async move {
        let limit = inner.config.append_timeout;
        match tokio::time::timeout(limit, seal(&inner, segment)).await {
            Ok(Ok(())) => inner.saw_segment(segment.saturating_add(1)),
            Ok(Err(error)) => warn!(segment, %error, "segment not sealed, the next append tries again"),
            Err(_) => warn!(segment, "segment not sealed within {limit:?}, the next append tries again"),
        }
        inner.sealing.store(false, Ordering::Release);
    });
}

/// Seals a segment and opens the next one, in one transaction. `Ok` if that has been done, by whomever.
fn seal(inner: &Arc<Inner>, segment: u32) -> impl Future<Output = Result<(), Error>> + Send {
    let inner = inner.clone();
    async move {
        // One that leads no longer leaves it to the one that does.
        let deposed = || Error::UnexpectedError("another replica leads by now".into());
        let fence = inner.fence().map_err(|_| deposed())?;
        let client = inner.control.client().await;
        let options = CreateMode::Persistent.with_acls(inner.access.acls());
        let mut writer = client.new_multi_writer();
        writer.add_check_version(&inner.incarnation_path, 0)?;
        if let Some(Fence { path, version }) = &fence {
            writer.add_check_version(path, *version)?;
        }
        writer.add_set_data(
            &inner.layout.segment(segment),
            SegmentState::Sealed.data(),
            Some(SegmentState::OPEN_VERSION),
        )?;
        writer.add_create(&inner.layout.segment(segment.saturating_add(1)), SegmentState::Open.data(), &options)?;
        pass(Fault::SegmentFull);
        match writer.commit().await {
            Ok(_) => {
                pass(Fault::SegmentSealed);
                debug!(segment, "segment sealed");
                Ok(())
            }
            Err(MultiWriteError::OperationFailed { index: 0, source: Error::NoNode }) => {
                // So that this handle appends nothing more, for others neither.
                truncate::over(&inner, &client).await;
                Err(Error::NoNode)
            }
            Err(MultiWriteError::OperationFailed { index: 1, .. }) if fence.is_some() => Err(deposed()),
            Err(MultiWriteError::OperationFailed {
                source: Error::BadVersion | Error::NoNode | Error::NodeExists,
                ..
            }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
