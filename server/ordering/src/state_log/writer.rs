//! Writing the state log, in a thread of its own: a disk that stalls stalls nobody.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;

use tracing::{debug, warn};

use super::record::{HEADER_BYTES, encode, file_name, header};
use super::{FILES, Index, Kept, Newest, Shared, StateLogConfig, Told};
use crate::{Committed, LogId, Position};

/// The one who writes.
pub(super) struct Writer {
    config: StateLogConfig,
    log: LogId,
    shared: Arc<Shared>,
    /// The newest file, once something was written to it.
    file: Option<File>,
    /// The last entry written by this writer, or found.
    last: Option<Position>,
    /// Held for as long as it writes.
    _lock: File,
}

impl Writer {
    pub(super) fn new(config: StateLogConfig, log: LogId, shared: Arc<Shared>, lock: File) -> Self {
        let last = shared.index().newest.map(|newest| newest.position);
        Self { config, log, shared, file: None, last, _lock: lock }
    }

    /// Writes what it is told until there is nobody to tell it anything.
    pub(super) fn run(mut self, told: Receiver<Told>) {
        while let Ok(told) = told.recv() {
            let done = match told {
                Told::Clear => self.clear(),
                Told::Keep(after, committed) => {
                    let kept = self.keep(after, &committed);
                    self.shared.queued_bytes.fetch_sub(committed.entry.len(), Ordering::AcqRel);
                    kept
                }
            };
            if let Err(error) = done {
                warn!(folder = %self.config.folder.display(), %error, "the state log can't be written: it begins anew");
                // What comes now does not follow what is kept.
                self.clear().unwrap_or_else(|error| debug!(%error, "nor can it be deleted"));
            }
        }
    }

    fn clear(&mut self) -> io::Result<()> {
        (self.file, self.last) = (None, None);
        let Index { files, .. } = std::mem::take(&mut *self.shared.index());
        files.iter().try_for_each(|kept| fs::remove_file(&kept.path))
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
        let mut index = self.shared.index();
        index.files.push_back(Kept { path, first: position, last: position, bytes: HEADER_BYTES as u64 });
        let total = |index: &Index| index.files.iter().map(|kept| kept.bytes).sum::<u64>() + bytes;
        while index.files.len() > 1 && total(&index) > self.config.max_bytes {
            let Some(oldest) = index.files.pop_front() else { break };
            fs::remove_file(&oldest.path)?;
        }
        Ok(file)
    }
}
