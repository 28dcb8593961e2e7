//! Raft's entries on disk: files of records, one after the other, each named by the index of its first one.
//!
//! An append is written and synced as a whole before it is acknowledged; a new file's head and name are synced before
//! anything is written to it. Everything here may block: it is called where that is allowed.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::ops::{Bound, RangeBounds};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::BytesMut;

use super::record::{Expected, MAGIC, Scan, decode_entry, put_record, read_record, scan};
use super::types::{RaftEntry, RaftLogId};
use super::volume::{Hint, HintFile, LOG_SUFFIX, VolumeError, sync_folder};

/// Bytes after which a file is followed by the next one.
const FILE_BYTES: u64 = 16 << 20;
/// Bytes of the newest entries that are kept in memory: what is applied and replicated now.
const RECENT_BYTES: usize = 16 << 20;

/// One file.
#[derive(Clone, Debug)]
struct LogFile {
    path: PathBuf,
    file: Arc<File>,
    /// Bytes that are whole.
    length: u64,
}

/// Where an entry is.
#[derive(Clone, Debug)]
pub(super) struct Place {
    path: PathBuf,
    file: Arc<File>,
    offset: u64,
    length: usize,
    log_id: RaftLogId,
}

/// What is known of an entry.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// First index of its file, which is the file's name.
    file: u64,
    offset: u64,
    length: usize,
    log_id: RaftLogId,
}

/// An entry, or where it is to be read.
#[derive(Clone, Debug)]
pub(super) enum Item {
    /// It is in memory.
    Here(RaftEntry),
    /// It is on disk.
    There(Place),
}

/// The log of one node.
#[derive(Debug)]
pub(super) struct FileLog {
    folder: PathBuf,
    /// By the index of their first record.
    files: BTreeMap<u64, LogFile>,
    known: BTreeMap<u64, Known>,
    recent: BTreeMap<u64, (RaftEntry, usize)>,
    recent_bytes: usize,
    hint_file: HintFile,
    hint: Hint,
    file_bytes: u64,
}

impl FileLog {
    /// Opens the log in a folder. What a crash left unfinished is cut; anything else that is not as it was written, or is
    /// missing, is an error. Entries up to `purged` are given up.
    pub(super) fn open(folder: &Path, purged: Option<u64>) -> Result<Self, VolumeError> {
        Self::open_with(folder, purged, FILE_BYTES)
    }

    fn open_with(folder: &Path, purged: Option<u64>, file_bytes: u64) -> Result<Self, VolumeError> {
        let (hint_file, hint) = HintFile::open(folder)?;
        let mut log = Self {
            folder: folder.to_owned(),
            files: BTreeMap::new(),
            known: BTreeMap::new(),
            recent: BTreeMap::new(),
            recent_bytes: 0,
            hint_file,
            hint,
            file_bytes,
        };
        let names = list(folder)?;
        let mut next = None;
        for (number, first) in names.iter().enumerate() {
            let last = number + 1 == names.len();
            next = log.open_file(*first, Expected { next, last, synced: hint.synced })?;
        }
        if let Some(purged) = purged {
            log.known = log.known.split_off(&(purged + 1));
        }
        log.check_ends(purged, names.first().copied())?;
        if let Some(purged) = purged {
            // A crash may have kept it from being done: nothing may be written behind what is no longer there.
            log.purge(purged)?;
        }
        // The process may have died before it synced what it had written: from here on that counts.
        if let Some(file) = log.files.values().last() {
            file.file.sync_all().map_err(VolumeError::at(&file.path))?;
        }
        log.write_hint(Hint { synced: log.last().map(|last| last.index), ..hint }, false)?;
        Ok(log)
    }

    /// Reads one file and cuts what a crash left in it; the index that follows.
    fn open_file(&mut self, first: u64, expected: Expected) -> Result<Option<u64>, VolumeError> {
        let path = file_path(&self.folder, first);
        let mut data = Vec::new();
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(VolumeError::at(&path))?;
        (&file).read_to_end(&mut data).map_err(VolumeError::at(&path))?;
        let scanned = scan(&data, Expected { next: expected.next.or(Some(first)), ..expected });
        let Scan { records, end } =
            scanned.map_err(|damage| VolumeError::damaged(&path, damage.offset, damage.detail))?;
        if end == 0 {
            // Its head was not synced, so nothing was written to it.
            fs::remove_file(&path).map_err(VolumeError::at(&path))?;
            sync_folder(&self.folder)?;
            return Ok(expected.next);
        }
        if end < data.len() as u64 {
            let lost = data.len() as u64 - end;
            tracing::warn!(path = %path.display(), offset = end, lost, "an unfinished write at the end of the log is cut off");
            file.set_len(end).and_then(|()| file.sync_all()).map_err(VolumeError::at(&path))?;
        }
        if let Some(last) = records.last().filter(|_| expected.last) {
            // What the last write has left may be in the page cache alone, after a sync that failed: the system then takes it
            // for clean, and no later sync writes it.
            let begins = records.iter().find(|found| found.write == last.write).map_or(end, |found| found.offset);
            let span = usize::try_from(begins).ok().zip(usize::try_from(end).ok());
            let rest = span.and_then(|(begins, end)| data.get(begins..end)).unwrap_or_default();
            file.write_all_at(rest, begins).map_err(VolumeError::at(&path))?;
        }
        let next = records.last().map_or(expected.next.unwrap_or(first), |found| found.log_id.index + 1);
        for found in records {
            let known = Known { file: first, offset: found.offset, length: found.length, log_id: found.log_id };
            self.known.insert(found.log_id.index, known);
        }
        self.files.insert(first, LogFile { path, file: Arc::new(file), length: end });
        Ok(Some(next))
    }

    /// Misses what must be there.
    fn check_ends(&self, purged: Option<u64>, first: Option<u64>) -> Result<(), VolumeError> {
        let last = self.last().map(|last| last.index).max(purged);
        if self.hint.synced > last {
            let path = self.files.values().last().map_or(&self.folder, |file| &file.path);
            let length = self.files.values().last().map_or(0, |file| file.length);
            let detail = format!(
                "entries up to {} were written, the log ends after {}",
                self.hint.synced.unwrap_or(0),
                last.map_or("none".into(), |last| format!("entry {last}")),
            );
            return Err(VolumeError::damaged(path, length, detail));
        }
        let due = purged.map_or(0, |purged| purged + 1);
        match self.known.first_key_value() {
            Some((&begins, _)) if begins != due => {
                let path = file_path(&self.folder, first.unwrap_or(begins));
                Err(VolumeError::damaged(&path, 0, format!("the entries from {due} to {begins} are missing")))
            }
            _ => Ok(()),
        }
    }

    /// What was synced and is committed.
    pub(super) fn hint(&self) -> Hint {
        self.hint
    }

    /// The last entry's id.
    pub(super) fn last(&self) -> Option<RaftLogId> {
        self.known.last_key_value().map(|(_, known)| known.log_id)
    }

    /// Appends entries; durable when it returns.
    pub(super) fn append(&mut self, entries: Vec<RaftEntry>) -> Result<(), VolumeError> {
        let Some(write) = entries.first().map(|entry| entry.log_id.index) else { return Ok(()) };
        let first = self.current_file(write)?;
        let Some(target) = self.files.get_mut(&first) else { return Ok(()) };
        let mut data = BytesMut::new();
        let mut known = Vec::with_capacity(entries.len());
        for entry in &entries {
            let before = data.len();
            put_record(&mut data, write, entry);
            let (offset, length) = (target.length + before as u64, data.len() - before);
            known.push(Known { file: first, offset, length, log_id: entry.log_id });
        }
        let written = target.file.write_all_at(&data, target.length).and_then(|()| target.file.sync_data());
        written.map_err(VolumeError::at(&target.path))?;
        target.length += data.len() as u64;
        for (entry, known) in entries.into_iter().zip(known) {
            self.known.insert(known.log_id.index, known);
            self.remember(entry, known.length);
        }
        self.write_hint(Hint { synced: self.last().map(|last| last.index), ..self.hint }, false)
    }

    /// The file that the entry at `index` goes into, made if need be.
    fn current_file(&mut self, index: u64) -> Result<u64, VolumeError> {
        if let Some((first, file)) = self.files.last_key_value()
            && file.length < self.file_bytes
        {
            return Ok(*first);
        }
        let path = file_path(&self.folder, index);
        let make = || {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
            file.write_all_at(&MAGIC, 0)?;
            file.sync_all()?;
            Ok(file)
        };
        let file = Arc::new(make().map_err(VolumeError::at(&path))?);
        sync_folder(&self.folder)?;
        // After the machine has crashed, what is known to be committed is this old at most: what lies behind it is applied
        // in one piece, and must fit into memory.
        self.write_hint(self.hint, true)?;
        self.files.insert(index, LogFile { path, file, length: MAGIC.len() as u64 });
        Ok(index)
    }

    fn remember(&mut self, entry: RaftEntry, length: usize) {
        self.recent_bytes += length;
        if let Some((_, before)) = self.recent.insert(entry.log_id.index, (entry, length)) {
            self.recent_bytes -= before;
        }
        while self.recent_bytes > RECENT_BYTES {
            let Some((_, (_, length))) = self.recent.pop_first() else { break };
            self.recent_bytes -= length;
        }
    }

    /// Cuts the log off from `since` on; durable when it returns.
    pub(super) fn truncate(&mut self, since: u64) -> Result<(), VolumeError> {
        let Some((_, first)) = self.known.range(since..).next().map(|(index, known)| (*index, *known)) else {
            return Ok(());
        };
        // What is said to be synced goes back before it is gone.
        let before = self.known.range(..since).next_back().map(|(index, _)| *index);
        self.write_hint(Hint { synced: before, ..self.hint }, true)?;
        // The last file first: whatever crashes leaves no gap.
        while let Some((name, file)) = self.files.last_key_value().map(|(name, file)| (*name, file.clone())) {
            if name < first.file || (name == first.file && first.offset > MAGIC.len() as u64) {
                break;
            }
            self.files.remove(&name);
            fs::remove_file(&file.path).map_err(VolumeError::at(&file.path))?;
            sync_folder(&self.folder)?;
        }
        if let Some(file) = self.files.get_mut(&first.file) {
            let cut = file.file.set_len(first.offset).and_then(|()| file.file.sync_all());
            cut.map_err(VolumeError::at(&file.path))?;
            file.length = first.offset;
        }
        self.known.split_off(&since);
        for (_, (_, length)) in self.recent.split_off(&since) {
            self.recent_bytes -= length;
        }
        Ok(())
    }

    /// Frees what is held up to `upto`, which is durably given up.
    pub(super) fn purge(&mut self, upto: u64) -> Result<(), VolumeError> {
        self.known = self.known.split_off(&(upto + 1));
        let kept = self.recent.split_off(&(upto + 1));
        for (_, (_, length)) in std::mem::replace(&mut self.recent, kept) {
            self.recent_bytes -= length;
        }
        let needed = self.known.first_key_value().map(|(_, known)| known.file);
        let before = self.files.len();
        // From the beginning, so that no gap is left.
        while let Some((name, file)) = self.files.first_key_value() {
            if needed.is_some_and(|needed| *name >= needed) {
                break;
            }
            fs::remove_file(&file.path).map_err(VolumeError::at(&file.path))?;
            self.files.pop_first();
        }
        if self.files.len() != before {
            sync_folder(&self.folder)?;
        }
        Ok(())
    }

    /// Says what is committed; not durable.
    pub(super) fn commit(&mut self, committed: Option<RaftLogId>) -> Result<(), VolumeError> {
        self.write_hint(Hint { committed, ..self.hint }, false)
    }

    fn write_hint(&mut self, hint: Hint, durably: bool) -> Result<(), VolumeError> {
        self.hint_file.write(hint, durably)?;
        self.hint = hint;
        Ok(())
    }

    /// The entries of a range, as many as `max_bytes` hold, but one at least.
    pub(super) fn items(&self, range: impl RangeBounds<u64>, max_bytes: usize) -> Vec<Item> {
        if is_empty(&range) {
            return Vec::new();
        }
        let (mut items, mut bytes) = (Vec::new(), 0_usize);
        for (index, known) in self.known.range(range) {
            bytes = bytes.saturating_add(known.length);
            if bytes > max_bytes && !items.is_empty() {
                break;
            }
            let place = |file: &LogFile| Place {
                path: file.path.clone(),
                file: file.file.clone(),
                offset: known.offset,
                length: known.length,
                log_id: known.log_id,
            };
            match self.recent.get(index) {
                Some((entry, _)) => items.push(Item::Here(entry.clone())),
                None => items.extend(self.files.get(&known.file).map(place).map(Item::There)),
            }
        }
        items
    }

    /// Whether an entry is still the one that [`FileLog::items`] told of.
    pub(super) fn has(&self, place: &Place) -> bool {
        self.known.get(&place.log_id.index).is_some_and(|known| known.log_id == place.log_id)
    }
}

impl Place {
    /// Reads the entry.
    pub(super) fn read(&self) -> Result<RaftEntry, VolumeError> {
        let mut data = vec![0; self.length];
        self.file.read_exact_at(&mut data, self.offset).map_err(VolumeError::at(&self.path))?;
        let damaged = |detail: String| VolumeError::damaged(&self.path, self.offset, detail);
        let (found, payload) = read_record(&data, 0).map_err(damaged)?;
        if found.log_id != self.log_id {
            return Err(damaged(format!("{} stands in the place of {}", found.log_id, self.log_id)));
        }
        decode_entry(payload).map_err(|error| damaged(error.to_string()))
    }
}

/// Whether a range holds nothing; a map panics when it is asked for some of these.
fn is_empty(range: &impl RangeBounds<u64>) -> bool {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    match range.end_bound() {
        Bound::Included(end) => *end < start,
        Bound::Excluded(end) => *end <= start,
        Bound::Unbounded => false,
    }
}

fn file_path(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("{first:020}{LOG_SUFFIX}"))
}

/// First indexes of the files in a folder, in order.
fn list(folder: &Path) -> Result<Vec<u64>, VolumeError> {
    let mut firsts = Vec::new();
    for item in fs::read_dir(folder).map_err(VolumeError::at(folder))? {
        let name = item.map_err(VolumeError::at(folder))?.file_name();
        let first =
            name.to_str().and_then(|name| name.strip_suffix(LOG_SUFFIX)).and_then(|name| name.parse::<u64>().ok());
        firsts.extend(first);
    }
    firsts.sort_unstable();
    Ok(firsts)
}

#[cfg(test)]
#[path = "file_log_tests.rs"]
mod tests;
