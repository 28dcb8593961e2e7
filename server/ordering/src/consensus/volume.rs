//! The small files of a node's folder: who the node is and whom it voted for, the snapshot, and a hint of what was synced.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::record::{put_log_id, take_log_id};
use super::types::{NodeId, RaftLogId, Vote, node_id, replica_of};

/// The file that says who the node is.
const IDENTITY: &str = "node";
/// The snapshot's file.
pub(super) const SNAPSHOT: &str = "snapshot";
/// See [`Hint`].
const HINT: &str = "hint";
/// Held while the folder is used.
const LOCK: &str = "lock";
/// How the names of files of the log end.
pub(super) const LOG_SUFFIX: &str = ".log";
/// What stands before the text of a small file; then comes its checksum, and a line's end.
const HEAD: &str = "replicateddb-consensus 1 ";
/// Bytes of a hint.
const HINT_BYTES: usize = 40;

/// Why a folder can't be used.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// Reading or writing failed.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// Another process has it.
    #[error("{path} is in use by another process")]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// A file is not what was written.
    #[error(
        "{path} is damaged at byte {offset}: {detail}. A node must not forget what it has promised: give the replica an \
             empty volume, as whose node it is taken in anew by the others, or bring the file back"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        detail: String,
    },
    /// The folder belongs to another replica.
    #[error("{path} is the folder of replica {found}, and not of replica {expected}")]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        found: u32,
        /// Whose it should be.
        expected: u32,
    },
}

impl VolumeError {
    /// Names the file that something went wrong with.
    pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        |source| Self::Io { path, source }
    }

    /// Names the file that is damaged.
    pub(super) fn damaged(path: &Path, offset: u64, detail: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), offset, detail: detail.into() }
    }
}

/// Who a node is, and what it must not forget beside its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// The node.
    pub(super) node: NodeId,
    /// Its last vote.
    pub(super) vote: Option<Vote>,
    /// The last entry that its log no longer has.
    pub(super) purged: Option<RaftLogId>,
}

/// A node's folder, held by this process.
#[derive(Debug)]
pub(super) struct Volume {
    folder: PathBuf,
    identity: Identity,
    lock: Option<File>,
}

impl Volume {
    /// Opens the folder of `replica`, or makes it, with a node of its own.
    pub(super) fn open(folder: &Path, replica: u32) -> Result<Self, VolumeError> {
        fs::create_dir_all(folder).map_err(VolumeError::at(folder))?;
        let path = folder.join(LOCK);
        let lock = File::create(&path).map_err(VolumeError::at(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(VolumeError::InUse { path: folder.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(VolumeError::Io { path, source }),
        }
        let identity = match read_text(&folder.join(IDENTITY))? {
            Some(identity) => identity,
            None => Self::begin(folder, replica)?,
        };
        let found = replica_of(identity.node);
        if found != replica {
            return Err(VolumeError::Foreign { path: folder.to_owned(), found, expected: replica });
        }
        Ok(Self { folder: folder.to_owned(), identity, lock: Some(lock) })
    }

    fn begin(folder: &Path, replica: u32) -> Result<Identity, VolumeError> {
        for item in fs::read_dir(folder).map_err(VolumeError::at(folder))? {
            let name = item.map_err(VolumeError::at(folder))?.file_name();
            let name = name.to_string_lossy();
            if name.ends_with(LOG_SUFFIX) || name == SNAPSHOT {
                let detail = format!("it is missing, and {name} is there");
                return Err(VolumeError::damaged(&folder.join(IDENTITY), 0, detail));
            }
        }
        let (volume, _) = Uuid::new_v4().as_u64_pair();
        let identity = Identity { node: node_id(replica, volume), vote: None, purged: None };
        write_text(&folder.join(IDENTITY), &identity)?;
        sync_ancestors(folder)?;
        Ok(identity)
    }

    /// The folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Who the node is.
    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    /// Lets go of the folder: another process may have it.
    pub(super) fn close(&mut self) {
        self.lock = None;
    }

    /// Changes what must not be forgotten; durable when it returns.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Identity)) -> Result<(), VolumeError> {
        let mut identity = self.identity;
        change(&mut identity);
        write_text(&self.folder.join(IDENTITY), &identity)?;
        self.identity = identity;
        Ok(())
    }
}

/// Reads a small file, if it is there.
pub(super) fn read_text<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, VolumeError> {
    let mut data = Vec::new();
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(VolumeError::at(path)(error)),
        Ok(mut file) => file.read_to_end(&mut data).map_err(VolumeError::at(path))?,
    };
    parse_text(&data).map(Some).map_err(|detail| VolumeError::damaged(path, 0, detail))
}

/// Replaces a small file as a whole; durable when it returns.
pub(super) fn write_text(path: &Path, value: &impl Serialize) -> Result<(), VolumeError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let new = path.with_extension("new");
    let write = || {
        let mut file = File::create(&new)?;
        file.write_all(&format_text(value)?)?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().map_err(VolumeError::at(&new))?;
    sync_folder(folder)
}

fn format_text(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let text = serde_json::to_vec(value)?;
    let mut data = format!("{HEAD}{:08x}\n", crc32fast::hash(&text)).into_bytes();
    data.extend(text);
    Ok(data)
}

fn parse_text<T: DeserializeOwned>(data: &[u8]) -> Result<T, String> {
    let end = data.iter().position(|byte| *byte == b'\n').ok_or("it has no head")?;
    let (head, text) = (&data[..end], &data[end + 1..]);
    if head != format!("{HEAD}{:08x}", crc32fast::hash(text)).as_bytes() {
        return Err("its head is another program's, or its checksum does not match".into());
    }
    serde_json::from_slice(text).map_err(|error| error.to_string())
}

/// Makes names in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> Result<(), VolumeError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(VolumeError::at(folder))
}

/// Has a new folder found again after a crash: it and those above it, which may be new as well, up to where a volume is mounted.
fn sync_ancestors(folder: &Path) -> Result<(), VolumeError> {
    let folder = fs::canonicalize(folder).map_err(VolumeError::at(folder))?;
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).map_err(VolumeError::at(path));
    let own = device(&folder)?;
    for (above, parent) in folder.ancestors().skip(1).enumerate() {
        if device(parent)? != own {
            break;
        }
        match sync_folder(parent) {
            // One that may not be read here was not made here.
            Err(VolumeError::Io { source, .. }) if above > 0 && source.kind() == io::ErrorKind::PermissionDenied => {
                break;
            }
            synced => synced?,
        }
    }
    Ok(())
}

/// What was synced, and what is committed: written in place after it is so, and synced only where it goes back. What it says
/// is true whatever crashes, but may be old after the machine has.
#[derive(Debug)]
pub(super) struct HintFile {
    path: PathBuf,
    file: File,
}

/// See [`HintFile`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Hint {
    /// Entries up to this one were synced.
    pub(super) synced: Option<u64>,
    /// Entries up to this one are committed.
    pub(super) committed: Option<RaftLogId>,
}

impl HintFile {
    /// Opens it. One that can't be read says nothing.
    pub(super) fn open(folder: &Path) -> Result<(Self, Hint), VolumeError> {
        let path = folder.join(HINT);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(VolumeError::at(&path))?;
        let mut data = [0; HINT_BYTES];
        let hint = match file.read_exact_at(&mut data, 0) {
            Ok(()) => parse_hint(&data).unwrap_or_default(),
            Err(_) => Hint::default(),
        };
        Ok((Self { path, file }, hint))
    }

    /// Writes it.
    pub(super) fn write(&self, hint: Hint, durably: bool) -> Result<(), VolumeError> {
        let written = self.file.write_all_at(&format_hint(hint), 0);
        let written = written.and_then(|()| if durably { self.file.sync_all() } else { Ok(()) });
        written.map_err(VolumeError::at(&self.path))
    }
}

fn format_hint(hint: Hint) -> BytesMut {
    let mut fields = BytesMut::with_capacity(HINT_BYTES);
    // Plus one: 0 is none.
    fields.put_u64(hint.synced.map_or(0, |index| index + 1));
    // The index of no entry is the greatest.
    put_log_id(&mut fields, hint.committed.unwrap_or(super::types::log_id(0, 0, u64::MAX)));
    let mut out = BytesMut::with_capacity(HINT_BYTES);
    out.put_u32(u32::from_be_bytes(*b"RDBh"));
    out.put_u32(crc32fast::hash(&fields));
    out.put_slice(&fields);
    out
}

fn parse_hint(data: &[u8; HINT_BYTES]) -> Option<Hint> {
    let mut fields = Bytes::copy_from_slice(&data[8..]);
    let mut head = &data[..8];
    if head.get_u32() != u32::from_be_bytes(*b"RDBh") || head.get_u32() != crc32fast::hash(&fields) {
        return None;
    }
    let synced = fields.get_u64().checked_sub(1);
    let committed = take_log_id(&mut fields).ok()?;
    Some(Hint { synced, committed: (committed.index != u64::MAX).then_some(committed) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::types::log_id;
    use super::*;

    proptest! {
        #[test]
        fn a_hint_is_what_was_written_or_nothing(
            synced in any::<Option<u32>>(), term in 0..9u64, index in any::<Option<u32>>(), at in 0..HINT_BYTES, flip: u8,
        ) {
            let committed = index.map(|index| log_id(term, 7, index.into()));
            let hint = Hint { synced: synced.map(u64::from), committed };
            let mut data: [u8; HINT_BYTES] = format_hint(hint)[..].try_into().unwrap();
            data[at] ^= flip;
            prop_assert_eq!(parse_hint(&data), (flip == 0).then_some(hint));
        }

        #[test]
        fn a_small_file_is_what_was_written_or_refused(at: prop::sample::Index, flip: u8) {
            let identity = Identity { node: 5, vote: Some(Vote::new(3, 4)), purged: None };
            let mut data = format_text(&identity).unwrap();
            let at = at.index(data.len());
            data[at] ^= flip;
            prop_assert_eq!(parse_text::<Identity>(&data).ok(), (flip == 0).then_some(identity));
        }
    }

    #[test]
    fn a_folder_is_one_nodes_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("consensus");
        let mut volume = Volume::open(&path, 3).unwrap();
        let node = volume.identity().node;
        assert_eq!(replica_of(node), 3);
        assert!(matches!(Volume::open(&path, 3), Err(VolumeError::InUse { .. })));
        volume.change(|identity| identity.vote = Some(Vote::new(8, 9))).unwrap();
        drop(volume);
        let again = Volume::open(&path, 3).unwrap().identity();
        assert_eq!((again.node, again.vote), (node, Some(Vote::new(8, 9))));
        assert!(matches!(Volume::open(&path, 4), Err(VolumeError::Foreign { found: 3, expected: 4, .. })));

        fs::remove_dir_all(&path).unwrap();
        let emptied = Volume::open(&path, 3).unwrap().identity();
        assert_ne!(emptied.node, node, "an emptied volume is another node");
        assert_eq!(replica_of(emptied.node), 3);
    }

    #[test]
    fn a_folder_without_its_vote_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        drop(Volume::open(folder.path(), 0).unwrap());
        fs::write(folder.path().join("1.log"), b"").unwrap();
        fs::remove_file(folder.path().join(IDENTITY)).unwrap();
        let error = Volume::open(folder.path(), 0).unwrap_err().to_string();
        assert!(error.contains("1.log is there") && error.contains("node"), "{error}");
    }
}
