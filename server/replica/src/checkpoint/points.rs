//! The folder of a replica's checkpoints: the last few of them.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use std::{fs, io};

use replicateddb_store::api::{self, Code, Damaged, Files, Mark, RESTORE_POINTS_KEPT, Refusal};
use replicateddb_store::client::StoreError;
use sha2::{Digest as _, Sha256};

use super::folder::{CheckpointError, FORMAT, MANIFEST, Manifest, complete, read_manifest, verify};
use super::save::Saved;

/// See the module's head. Cheap to clone; every function but the first waits for the disk.
#[derive(Clone)]
pub struct Points {
    dir: Arc<Path>,
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    /// Written, and not committed or aborted yet.
    taken: Option<(String, Saved)>,
    damaged: Vec<Damaged>,
    /// When another replica last began to read a file of it.
    read: BTreeMap<String, Instant>,
}

/// Time for which a checkpoint stays after another replica began to read a file of it.
const READERS_TIME: Duration = Duration::from_secs(600);

impl From<CheckpointError> for StoreError {
    fn from(error: CheckpointError) -> Self {
        Self::Keyspace(error.to_string())
    }
}

fn disk(file: &Path, error: io::Error) -> CheckpointError {
    CheckpointError::Disk { file: file.to_owned(), error }
}

impl Points {
    /// Those in this folder.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.into(), known: Arc::default() }
    }

    /// Where the checkpoint of this id lies, or is to be written.
    pub fn folder(&self, id: &str) -> PathBuf {
        self.dir.join(id)
    }

    /// Those that were found to be damaged.
    pub fn damaged(&self) -> Vec<Damaged> {
        self.lock().damaged.clone()
    }

    /// Remembers what was written under this id.
    pub fn taken(&self, id: &str, saved: Saved) {
        self.lock().taken = Some((id.to_owned(), saved));
    }

    /// What is no checkpoint of this id, and never becomes one, goes.
    pub fn abort(&self, id: &str) {
        self.lock().taken.take_if(|(taken, _)| taken == id);
        let folder = self.folder(id);
        if !folder.join(MANIFEST).exists()
            && let Err(error) = remove(&folder)
        {
            // The next one that is committed takes it along.
            tracing::debug!(%error, "an aborted checkpoint is not gone yet");
        }
    }

    /// Makes what was written under this id a checkpoint, and removes all but the newest.
    ///
    /// # Errors
    /// Nothing was, or the disk.
    pub fn commit(&self, id: &str, mark: Mark) -> Result<(), StoreError> {
        let taken = self.lock().taken.take_if(|(taken, _)| taken == id);
        match taken {
            Some((_, saved)) => self.complete(id, mark, saved),
            None => {
                let message = format!("no checkpoint {id} was taken, or it was aborted");
                Err(StoreError::Refused(Refusal { code: Code::UnknownRestorePoint, message }))
            }
        }
    }

    /// As [`Points::commit`], if there is something.
    ///
    /// # Errors
    /// The disk.
    pub fn commit_if_taken(&self, id: &str, mark: Mark) -> Result<(), StoreError> {
        let taken = self.lock().taken.take_if(|(taken, _)| taken == id);
        match taken {
            Some((_, saved)) => self.complete(id, mark, saved),
            None => Ok(()),
        }
    }

    fn complete(&self, id: &str, mark: Mark, saved: Saved) -> Result<(), StoreError> {
        let Saved { folder, as_of, schema, documents } = saved;
        let mut digest = Sha256::new();
        documents.iter().for_each(|document| digest.update(&document.sha256));
        let files = Files {
            count: documents.len() as u64,
            bytes: documents.iter().map(|document| document.bytes).sum(),
            digest: digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect(),
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let point = api::Manifest {
            id: id.to_owned(),
            sequence: self.next_sequence()?,
            mark,
            // Restored cells are made by the clock of then.
            cassandra_now_ms: 0,
            created_ms: i64::try_from(now.as_millis()).unwrap_or(i64::MAX),
            files,
            footprint: None,
        };
        let manifest = Manifest { format: FORMAT, point, timestamp_us: as_of.timestamp_us, schema, documents };
        complete(&folder, &manifest)?;
        self.prune(id)
    }

    /// The path of a file of a checkpoint that another replica wants to read; the checkpoint stays for a while.
    ///
    /// # Errors
    /// The disk.
    pub fn file(&self, id: &str, file: &str) -> Result<Option<PathBuf>, StoreError> {
        let Some(known) = self.list()?.into_iter().find(|known| known.point.id == id) else { return Ok(None) };
        self.lock().read.insert(id.to_owned(), Instant::now());
        let is_part = file == MANIFEST || known.documents.iter().any(|document| document.file == file);
        Ok(is_part.then(|| self.folder(id).join(file)))
    }

    /// Removes what is in the way of a copy of this id; gives its folder and number.
    ///
    /// # Errors
    /// The disk.
    pub fn make_room(&self, id: &str) -> Result<(PathBuf, u64), StoreError> {
        let folder = self.folder(id);
        remove(&folder)?;
        Ok((folder, self.next_sequence()?))
    }

    fn next_sequence(&self) -> Result<u64, StoreError> {
        Ok(self.list()?.iter().map(|known| known.point.sequence).max().unwrap_or(0) + 1)
    }

    /// The manifests that can be read, of those that are not known to be damaged, newest first.
    ///
    /// # Errors
    /// The disk.
    pub fn list(&self) -> Result<Vec<Manifest>, StoreError> {
        let damaged = self.damaged();
        let mut whole = Vec::new();
        for id in self.ids()?.into_iter().filter(|id| damaged.iter().all(|one| one.id != *id)) {
            match read_manifest(&self.folder(&id)) {
                Ok(Some(manifest)) if manifest.point.id == id => whole.push(manifest),
                Ok(Some(_)) => self.found_damaged(&id, "it was moved here from elsewhere".to_owned()),
                Ok(None) => {}
                Err(error) => self.found_damaged(&id, error.to_string()),
            }
        }
        whole.sort_by_key(|known| Reverse(known.point.sequence));
        Ok(whole)
    }

    /// The newest that is whole from its first byte to its last; every damaged one before it is named.
    ///
    /// # Errors
    /// The disk.
    pub fn newest_whole(&self) -> Result<Option<(PathBuf, Manifest)>, StoreError> {
        for manifest in self.list()? {
            let folder = self.folder(&manifest.point.id);
            match verify(&folder, &manifest) {
                Ok(()) => return Ok(Some((folder, manifest))),
                Err(error) => self.found_damaged(&manifest.point.id, error.to_string()),
            }
        }
        Ok(None)
    }

    /// From now on this one is not used.
    pub fn found_damaged(&self, id: &str, detail: String) {
        let damaged = Damaged { id: id.to_owned(), detail };
        tracing::error!("{damaged}");
        self.lock().damaged.push(damaged);
    }

    /// Removes all, but for one.
    ///
    /// # Errors
    /// The disk.
    pub fn clear(&self, but: Option<&str>) -> Result<(), StoreError> {
        for id in self.ids()?.iter().filter(|id| but != Some(id.as_str())) {
            remove(&self.folder(id))?;
        }
        self.lock().damaged.clear();
        Ok(())
    }

    /// Removes all but the newest, of which `id` is one, and those that are being read: damaged ones, too, and what was never
    /// completed.
    ///
    /// # Errors
    /// The disk.
    pub fn prune(&self, id: &str) -> Result<(), StoreError> {
        let kept: Vec<String> =
            self.list()?.into_iter().take(RESTORE_POINTS_KEPT).map(|known| known.point.id).collect();
        let read = {
            let mut known = self.lock();
            known.read.retain(|_, at| at.elapsed() < READERS_TIME);
            known.read.clone()
        };
        let goes = |other: &String| other != id && !kept.contains(other) && !read.contains_key(other);
        for other in self.ids()?.into_iter().filter(goes) {
            remove(&self.folder(&other))?;
            self.lock().damaged.retain(|damaged| damaged.id != other);
        }
        Ok(())
    }

    /// The names of all folders.
    fn ids(&self) -> Result<Vec<String>, StoreError> {
        let names = || -> io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in fs::read_dir(&self.dir)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    names.extend(entry.file_name().into_string());
                }
            }
            Ok(names)
        };
        names().map_err(|error| disk(&self.dir, error).into())
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes a folder; what is left of it, if that is interrupted, is no checkpoint.
fn remove(folder: &Path) -> Result<(), StoreError> {
    let gone = |done: io::Result<()>| match done {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(disk(folder, error)),
        _ => Ok(()),
    };
    gone(fs::remove_file(folder.join(MANIFEST)))?;
    Ok(gone(fs::remove_dir_all(folder))?)
}

/// Waits for the disk beside the other tasks.
///
/// # Errors
/// Those of `work`.
pub async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(StoreError::Keyspace(format!("the program is ending: {error}"))))
}
