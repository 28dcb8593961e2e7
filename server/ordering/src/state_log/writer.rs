//! Writing the state log, in a thread of its own: a disk that stalls stalls nobody.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use super::record::{HEADER_BYTES, encode, file_name, header};
use super::{FILES, Index, Kept, Newest, Shared, StateLogConfig, Told};
use crate::{Committed, LogId, Position};

/// First and longest time that nothing is written after a failure.
const REST: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The one who writes.
pub(super) struct Writer {
    config: StateLogConfig,
    log: LogId,
    shared: Arc<Shared>,
    /// The newest file, once something was written to it.
    file: Option<File>,
    /// The last entry written by this writer, or found.
    last: Option<Position>,
    /// The [`Shared::cleared`] that it has seen.
    cleared: u64,
    /// Until when nothing is written after one or more failures, and how long that is.
    rests: Option<(Instant, Duration)>,
    /// Held for as long as it writes.
    _lock: File,
}

impl Writer {
    pub(super) fn new(config: StateLogConfig, log: LogId, shared: Arc<Shared>, lock: File) -> Self {
        let last = shared.index().newest.map(|newest| newest.position);
        Self { config, log, shared, file: None, last, cleared: 0, rests: None, _lock: lock }
    }

    /// Writes what it is told until there is nobody to tell it anything.
    pub(super) fn run(mut self, told: Receiver<Told>) {
        while let Ok(told) = told.recv() {
            let cleared = self.shared.cleared.load(Ordering::Acquire);
            let is_new = std::mem::replace(&mut self.cleared, cleared) != cleared;
            let done = match told {
                Told::Clear => self.clear(),
                Told::Keep(of, after, committed) => {
                    let emptied = if is_new { self.clear() } else { Ok(()) };
                    let kept = match of == cleared && !self.is_resting() {
                        true => emptied.and_then(|()| self.keep(after, &committed)),
                        false => emptied,
                    };
                    self.shared.queued_bytes.fetch_sub(committed.entry.len(), Ordering::AcqRel);
                    kept
                }
            };
            if let Err(error) = done {
                self.failed(&error);
            }
        }
    }

    fn is_resting(&self) -> bool {
        self.rests.is_some_and(|(until, _)| Instant::now() < until)
    }

    /// What comes now does not follow what is kept. A disk that is full or broken is left alone for a while, and complained of once.
    fn failed(&mut self, error: &io::Error) {
        let pause = match self.rests {
            None => {
                let folder = self.config.folder.display();
                warn!(%folder, %error, "the state log can't be written: it begins anew once it can");
                REST.0
            }
            Some((_, pause)) => (pause * 2).min(REST.1),
        };
        self.rests = Some((Instant::now() + pause, pause));
        self.clear().unwrap_or_else(|error| debug!(%error, "nor can it be deleted"));
    }

    /// Deletes all that can be deleted; the first error, if anything can't.
    fn clear(&mut self) -> io::Result<()> {
        (self.file, self.last) = (None, None);
        let Index { files, .. } = std::mem::take(&mut *self.shared.index());
        files.iter().map(|kept| fs::remove_file(&kept.path)).fold(Ok(()), io::Result::and)
    }

    fn keep(&mut self, after: Option<Position>, committed: &Committed) -> io::Result<()> {
        if after != self.last {
            // Something before it was not written: it would not be found to follow.
            self.clear()?;
        }
        let record = encode(self.last, committed);
        let bytes = record.len() as u64;
        let mut file = self.file_for(committed.position, bytes)?;
        file.write_all(&record)?;
        self.file = Some(file);
        self.last = Some(committed.position);
        self.rests = None;
        let mut index = self.shared.index();
        index.newest = Some(Newest::of(committed));
        if let Some(kept) = index.files.back_mut() {
            kept.last = committed.position;
            kept.bytes += bytes;
        }
        Ok(())
    }

    /// The newest file if it has room, else the next one; then the oldest ones go, as far as they are too much.
    fn file_for(&mut self, position: Position, bytes: u64) -> io::Result<File> {
        let room = self.config.max_bytes / FILES;
        let newest = self.shared.index().files.back().cloned();
        if let Some(kept) = newest.filter(|kept| kept.bytes + bytes <= room) {
            return match self.file.take() {
                Some(file) => Ok(file),
                None => OpenOptions::new().append(true).open(&kept.path),
            };
        }
        let path = self.config.folder.join(file_name(position));
        let mut file = File::create(&path)?;
        file.write_all(&header(self.log))?;
        // Deleted once nobody waits for the index, for that may take long.
        let oldest = {
            let mut index = self.shared.index();
            index.files.push_back(Kept { path, first: position, last: position, bytes: HEADER_BYTES as u64 });
            let mut total = index.files.iter().map(|kept| kept.bytes).sum::<u64>() + bytes;
            let mut oldest = Vec::new();
            while index.files.len() > 1 && total > self.config.max_bytes {
                let Some(kept) = index.files.pop_front() else { break };
                total -= kept.bytes;
                oldest.push(kept.path);
            }
            oldest
        };
        oldest.iter().map(fs::remove_file).fold(Ok(()), io::Result::and)?;
        Ok(file)
    }
}
