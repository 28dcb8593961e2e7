//! The state log: entries of the log that this replica has seen, in files on a volume of its own, so that a restart reads them there
//! and not in ZooKeeper.
//!
//! It is a cache and never the truth. What it holds is believed only for the log whose id it names, and only once its newest entry is
//! found to be the one that stands at that position in ZooKeeper: an entry once committed stays what it is, so all before it are, too.
//! A ZooKeeper that has lost entries while this replica ran breaks that: tails look for it whenever they are connected again.
//! Whatever is wrong with it, it is cut or dropped, and read in ZooKeeper. Nothing waits for it: entries that come faster than the
//! disk takes them are not kept, and it begins anew behind them.
//!
//! The newest [`StateLogConfig::max_bytes`] are kept, in [`FILES`] files; `record` has what stands in them.

mod record;
mod writer;

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::{debug, warn};

use self::record::{HEADER_BYTES, Record, read_header, read_record};
use self::writer::Writer;
use crate::znode_log::READ_TARGET_BYTES;
use crate::{Committed, LogId, Position};

/// Files that the bytes are spread over; the oldest goes as a whole.
pub const FILES: u64 = 4;
/// Entries that wait for the disk.
const QUEUE: usize = 1024;
/// Their bytes.
const QUEUE_BYTES: usize = 32 << 20;
/// The usual [`StateLogConfig::max_bytes`].
pub const MAX_BYTES: u64 = 128 << 20;
const LOCK: &str = "lock";

/// Where a state log is, and how large.
#[derive(Clone, Debug)]
pub struct StateLogConfig {
    /// Its folder, made if it is missing; no other replica's.
    pub folder: PathBuf,
    /// Bytes that its files may have together.
    pub max_bytes: u64,
}

/// The newest entry, for comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Newest {
    pub(crate) position: Position,
    pub(crate) commit_time_ms: i64,
    /// Length of the entry, bytes.
    pub(crate) bytes: usize,
    /// CRC-32 of the entry.
    pub(crate) crc: u32,
}

impl Newest {
    /// What there is to compare of an entry.
    pub(crate) fn of(Committed { position, commit_time_ms, entry }: &Committed) -> Self {
        let (position, commit_time_ms) = (*position, *commit_time_ms);
        Self { position, commit_time_ms, bytes: entry.len(), crc: crc32fast::hash(entry) }
    }
}

/// A file and what it holds.
#[derive(Clone, Debug)]
struct Kept {
    path: PathBuf,
    first: Position,
    last: Position,
    bytes: u64,
}

/// What is written.
#[derive(Debug, Default)]
struct Index {
    files: VecDeque<Kept>,
    newest: Option<Newest>,
}

#[derive(Debug)]
struct Shared {
    index: Mutex<Index>,
    queued_bytes: AtomicUsize,
    read: AtomicU64,
    /// Counts how often everything was found to be wrong: what was queued before is not written any more.
    cleared: AtomicU64,
}

impl Shared {
    fn index(&self) -> MutexGuard<'_, Index> {
        // Nothing panics under the lock.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the writer is told.
enum Told {
    /// Keep this one, which comes after that one, or first of all; unless everything was cleared more often since.
    Keep(u64, Option<Position>, Committed),
    /// Drop everything.
    Clear,
}

/// A state log that is open.
#[derive(Debug)]
pub(crate) struct StateLog {
    shared: Arc<Shared>,
    queue: SyncSender<Told>,
    /// The last entry that was queued.
    last: Mutex<Option<Position>>,
}

impl StateLog {
    /// Opens it for a log; what is another log's, or damaged, is dropped. Reads all of it.
    ///
    /// # Errors
    /// The folder can't be used, or another process uses it.
    pub(crate) fn open(config: &StateLogConfig, log: LogId) -> io::Result<Self> {
        fs::create_dir_all(&config.folder)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(config.folder.join(LOCK))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(io::Error::other("another process uses it")),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let index = scan(&config.folder, log)?;
        let last = index.newest.map(|newest| newest.position);
        let shared = Arc::new(Shared {
            index: Mutex::new(index),
            queued_bytes: AtomicUsize::new(0),
            read: AtomicU64::new(0),
            cleared: AtomicU64::new(0),
        });
        let (queue, told) = sync_channel(QUEUE);
        let writer = Writer::new(config.clone(), log, shared.clone(), lock);
        std::thread::Builder::new().name("state-log".into()).spawn(move || writer.run(told))?;
        Ok(Self { shared, queue, last: Mutex::new(last) })
    }

    /// Offers an entry that a tail has read right after that one. It is kept if it comes after the last one that is; if there are some
    /// in between it begins anew.
    pub(crate) fn offer(&self, after: Option<Position>, committed: &Committed) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let position = committed.position;
        if last.is_some_and(|last| position <= last) {
            return;
        }
        let follows = last.is_some_and(|last| after == Some(last) || position == last.next());
        let bytes = committed.entry.len();
        if self.shared.queued_bytes.load(Ordering::Acquire) + bytes > QUEUE_BYTES {
            return debug!(%position, "the disk does not follow: the state log will begin anew");
        }
        if !follows && last.is_some() && self.queue.try_send(Told::Clear).is_err() {
            return;
        }
        let before = last.filter(|_| follows);
        self.shared.queued_bytes.fetch_add(bytes, Ordering::AcqRel);
        let cleared = self.shared.cleared.load(Ordering::Acquire);
        match self.queue.try_send(Told::Keep(cleared, before, committed.clone())) {
            Ok(()) => *last = Some(position),
            Err(_) => {
                self.shared.queued_bytes.fetch_sub(bytes, Ordering::AcqRel);
                if !follows {
                    *last = None;
                }
            }
        }
    }

    /// The newest entry that is written.
    pub(crate) fn newest(&self) -> Option<Newest> {
        self.shared.index().newest
    }

    /// Drops everything: it is not what the log holds.
    pub(crate) fn clear(&self) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = None;
        self.shared.cleared.fetch_add(1, Ordering::AcqRel);
        self.shared.index().newest = None;
        // The writer learns of it by whatever it is told next: with a queue that is full that is something else.
        let _ = self.queue.try_send(Told::Clear);
    }

    /// Whether it has an entry at that position.
    pub(crate) fn has(&self, position: Position) -> bool {
        let index = self.shared.index();
        index.newest.is_some() && index.files.iter().any(|file| (file.first..=file.last).contains(&position))
    }

    /// The entries that were read from it.
    #[cfg(feature = "conformance")]
    pub(crate) fn entries_read(&self) -> u64 {
        self.shared.read.load(Ordering::Relaxed)
    }

    /// Entries from `from` on, about a mebibyte of them at most, up to that one; none if it does not have the first. Blocks on the disk.
    pub(crate) fn read(&self, cursor: &mut Cursor, from: Position, until: Position) -> io::Result<Vec<Committed>> {
        let mut found: Vec<Committed> = Vec::new();
        let mut bytes = 0;
        while bytes < READ_TARGET_BYTES && found.last().is_none_or(|one| one.position < until) {
            let wanted = match (&cursor.open, found.last()) {
                (Some(open), None) if open.next == from => None,
                (Some(_), Some(_)) => None,
                (_, None) => Some(from),
                (None, Some(last)) => match self.file_after(last.position) {
                    Some(first) => Some(first),
                    None => break,
                },
            };
            if let Some(position) = wanted
                && !self.seek(cursor, position)?
            {
                break;
            }
            let Some(open) = &mut cursor.open else { break };
            // The end of what is written of the newest file is no damage, nor is that of an older one.
            match read_record(&mut open.file)? {
                Some(Record { committed, .. }) if open.last >= committed.position => {
                    open.next = committed.position.next();
                    bytes += committed.entry.len();
                    let done = open.last == committed.position;
                    found.push(committed);
                    if done {
                        cursor.open = None;
                    }
                }
                _ => {
                    cursor.open = None;
                    break;
                }
            }
        }
        self.shared.read.fetch_add(found.len() as u64, Ordering::Relaxed);
        Ok(found)
    }

    /// The first position of the file after the one that ends there.
    fn file_after(&self, last: Position) -> Option<Position> {
        let index = self.shared.index();
        let at = index.files.iter().position(|file| file.last == last)?;
        index.files.get(at + 1).map(|file| file.first)
    }

    /// Opens the file that has that entry, right before it.
    fn seek(&self, cursor: &mut Cursor, position: Position) -> io::Result<bool> {
        cursor.open = None;
        let kept = {
            let index = self.shared.index();
            index.files.iter().find(|file| (file.first..=file.last).contains(&position)).cloned()
        };
        let Some(kept) = kept else { return Ok(false) };
        let mut file = BufReader::new(File::open(&kept.path)?);
        file.seek(SeekFrom::Start(HEADER_BYTES as u64))?;
        loop {
            let before = file.stream_position()?;
            match read_record(&mut file)? {
                Some(Record { committed, .. }) if committed.position < position => {}
                Some(Record { committed, .. }) if committed.position == position => {
                    file.seek(SeekFrom::Start(before))?;
                    cursor.open = Some(Open { file, next: position, last: kept.last });
                    return Ok(true);
                }
                _ => return Ok(false),
            }
        }
    }
}

/// Where a reader is.
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: BufReader<File>,
    /// What it is right before, as far as it is in this file.
    next: Position,
    /// The last entry of the file when it was opened.
    last: Position,
}

/// Reads what is in the folder. What does not belong there, or does not come after what is before it, is deleted; a file is cut where
/// it stops making sense.
fn scan(folder: &Path, log: LogId) -> io::Result<Index> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == record::EXTENSION));
    paths.sort_unstable();
    let mut index = Index::default();
    let mut broken = false;
    for path in paths {
        match scan_file(&path, log, index.newest.map(|newest| newest.position))? {
            Some((kept, newest, whole)) if !broken => {
                index.files.push_back(kept);
                index.newest = Some(newest);
                broken = !whole;
            }
            _ => {
                warn!(path = %path.display(), "a file of the state log is of no use: deleted, its entries are read in ZooKeeper");
                fs::remove_file(&path)?;
                broken |= index.newest.is_some();
            }
        }
    }
    Ok(index)
}

/// What is good in a file, and whether that is all of it; `None` if nothing is.
fn scan_file(path: &Path, log: LogId, mut before: Option<Position>) -> io::Result<Option<(Kept, Newest, bool)>> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    let mut reader = BufReader::new(&file);
    if read_header(&mut reader)? != Some(log) {
        return Ok(None);
    }
    let mut good = HEADER_BYTES as u64;
    let mut found: Option<(Position, Newest)> = None;
    while let Some(Record { committed, after }) = read_record(&mut reader)? {
        // Before the first of all there may have been others, which are given up.
        if before.is_some() && after != before {
            break;
        }
        before = Some(committed.position);
        good = reader.stream_position()?;
        let first = found.map_or(committed.position, |(first, _)| first);
        found = Some((first, Newest::of(&committed)));
    }
    let Some((first, newest)) = found else { return Ok(None) };
    if good < length {
        warn!(path = %path.display(), good, length, "the end of a file of the state log is damaged: cut");
        file.set_len(good)?;
    }
    let kept = Kept { path: path.to_owned(), first, last: newest.position, bytes: good };
    Ok(Some((kept, newest, good == length)))
}

/// What is read from files, for fuzz targets.
#[cfg(feature = "fuzzing")]
pub mod fuzzing {
    use super::record::{encode, read_header, read_record};

    /// The first entry, as it is written again; `None` if it can't be read.
    pub fn record(mut bytes: &[u8]) -> Option<Vec<u8>> {
        let record = read_record(&mut bytes).ok()??;
        Some(encode(record.after, &record.committed).to_vec())
    }

    /// Whether it is a file's header.
    pub fn is_header(mut bytes: &[u8]) -> bool {
        matches!(read_header(&mut bytes), Ok(Some(_)))
    }
}

#[cfg(test)]
mod tests;
