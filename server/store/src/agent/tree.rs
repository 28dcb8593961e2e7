//! Trees of hard links: gathering a snapshot, sealing it, checking it, putting it back.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::disk;
use crate::api::Files;

/// A file of a restore point.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entry {
    /// Path below the tree.
    pub path: PathBuf,
    /// Size in bytes.
    pub size: u64,
    /// CRC-32 of the content.
    pub crc: u32,
}

/// Files that a snapshot adds and a data directory must not hold.
const SNAPSHOT_ONLY: [&str; 2] = ["manifest.json", "schema.cql"];
/// End of the name of the one kind of file that Cassandra writes over in place (when an index is added), so that it
/// must not be shared between trees. All others are written once and replaced by renaming.
const WRITTEN_OVER: &str = "TOC.txt";
/// Deepest nesting of folders that is followed; Cassandra's own is four.
const MAX_DEPTH: usize = 16;
/// Bytes read at once for a checksum.
const READ_BUFFER: usize = 128 << 10;

/// Links every file of Cassandra's snapshot `tag`, found below `data`, into the new folder `tree`, at the place where
/// it belongs in a data directory.
pub fn gather(data: &Path, tag: &str, tree: &Path) -> Result<()> {
    fs::create_dir(tree).with_context(|| format!("can't create {}", tree.display()))?;
    for keyspace in subfolders(data)? {
        for table in subfolders(&keyspace)? {
            let snapshot = table.join("snapshots").join(tag);
            if !snapshot.is_dir() {
                continue;
            }
            let place = table.strip_prefix(data).context("a table lies below the data folder")?;
            let to = tree.join(place);
            fs::create_dir_all(&to).with_context(|| format!("can't create {}", to.display()))?;
            // Sealing makes it durable.
            link_all(&snapshot, &to, &SNAPSHOT_ONLY, |_| Ok(()))?;
        }
    }
    Ok(())
}

/// Links everything below `from` into the existing folder `to`, except files named in `without`. What has to be copied is
/// handed to `copied`.
fn link_all(from: &Path, to: &Path, without: &[&str], copied: impl Fn(&Path) -> std::io::Result<()>) -> Result<()> {
    let mut made_parent = to.to_owned();
    for path in files(from)? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if without.contains(&name) {
            continue;
        }
        let target = to.join(&path);
        if let Some(parent) = target.parent().filter(|parent| *parent != made_parent) {
            fs::create_dir_all(parent).with_context(|| format!("can't create {}", parent.display()))?;
            made_parent = parent.to_owned();
        }
        let source = from.join(&path);
        let made = if name.ends_with(WRITTEN_OVER) {
            fs::copy(&source, &target).and_then(|_| copied(&target))
        } else {
            fs::hard_link(&source, &target)
        };
        made.with_context(|| format!("can't link {} to {}", source.display(), target.display()))?;
    }
    Ok(())
}

/// Makes the tree durable (files, then folders) and lists it, in the order of paths. Files that an earlier, sealed
/// tree holds under the same path and inode are neither synced nor read again.
pub fn seal(tree: &Path, earlier: Option<(&Path, &[Entry])>) -> Result<Vec<Entry>> {
    let known: HashMap<&Path, &Entry> = match earlier {
        Some((_, entries)) => entries.iter().map(|entry| (entry.path.as_path(), entry)).collect(),
        None => HashMap::new(),
    };
    let mut entries = Vec::new();
    for path in files(tree)? {
        let full = tree.join(&path);
        let metadata = fs::metadata(&full).with_context(|| format!("can't stat {}", full.display()))?;
        let same_inode = |folder: &Path| {
            fs::metadata(folder.join(&path)).is_ok_and(|m| m.ino() == metadata.ino() && m.dev() == metadata.dev())
        };
        let crc = match (known.get(path.as_path()), earlier) {
            (Some(entry), Some((folder, _))) if entry.size == metadata.len() && same_inode(folder) => entry.crc,
            _ => {
                let file = File::open(&full).with_context(|| format!("can't open {}", full.display()))?;
                file.sync_all().with_context(|| format!("can't sync {}", full.display()))?;
                checksum(file).with_context(|| format!("can't read {}", full.display()))?
            }
        };
        entries.push(Entry { path, size: metadata.len(), crc });
    }
    sync_folders(tree)?;
    Ok(entries)
}

/// CRC-32 of the rest of a file.
pub fn checksum(mut file: File) -> std::io::Result<u32> {
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; READ_BUFFER];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize()),
            n => hasher.update(&buffer[..n]),
        }
    }
}

/// Count, size and digest of a list of files.
pub fn summary(entries: &[Entry]) -> Files {
    let mut hasher = Sha256::new();
    for entry in entries {
        hasher.update(format!("{} {} {:08x}\n", entry.path.display(), entry.size, entry.crc));
    }
    let digest = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Files { count: entries.len() as u64, bytes: entries.iter().map(|entry| entry.size).sum(), digest }
}

/// Checks that the tree holds exactly these files, by path and size; with `read`, by content, too.
///
/// # Errors
/// If it does not: the first difference, or why it can't be seen.
pub fn check(tree: &Path, entries: &[Entry], read: bool) -> Result<()> {
    let found = files(tree)?;
    for (path, entry) in found.iter().zip(entries) {
        if *path != entry.path {
            bail!("{} is there in place of {}", path.display(), entry.path.display());
        }
        let open = || format!("can't read {}", path.display());
        let file = File::open(tree.join(path)).with_context(open)?;
        let size = file.metadata().with_context(open)?.len();
        if size != entry.size {
            bail!("{} has {size} bytes in place of {}", path.display(), entry.size);
        }
        if read {
            let crc = checksum(file).with_context(open)?;
            if crc != entry.crc {
                bail!("the content of {} has the checksum {crc:08x} in place of {:08x}", path.display(), entry.crc);
            }
        }
    }
    if found.len() != entries.len() {
        bail!("it has {} files in place of {}", found.len(), entries.len());
    }
    Ok(())
}

/// Links a sealed tree into the new folder `to`, durably. What an earlier, interrupted attempt left there goes first.
pub fn copy(tree: &Path, to: &Path) -> Result<()> {
    disk::remove_tree(to)?;
    fs::create_dir(to).with_context(|| format!("can't create {}", to.display()))?;
    link_all(tree, to, &[], |path| File::open(path)?.sync_all())?;
    sync_folders(to)
}

fn subfolders(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = || -> std::io::Result<Vec<PathBuf>> {
        let mut folders = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            }
        }
        Ok(folders)
    };
    match list() {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        result => result.with_context(|| format!("can't list {}", folder.display())),
    }
}

/// Every file below a folder, as paths relative to it, in their order.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    fn walk(folder: &Path, below: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
        if depth > MAX_DEPTH {
            bail!("folders nested too deeply at {}", below.display());
        }
        let full = folder.join(below);
        let list = fs::read_dir(&full).with_context(|| format!("can't list {}", full.display()))?;
        for entry in list {
            let entry = entry.with_context(|| format!("can't list {}", full.display()))?;
            let path = below.join(entry.file_name());
            if entry.file_type().with_context(|| format!("can't stat {}", path.display()))?.is_dir() {
                walk(folder, &path, depth + 1, files)?;
            } else {
                files.push(path);
            }
        }
        Ok(())
    }
    let mut found = Vec::new();
    walk(folder, Path::new(""), 0, &mut found)?;
    found.sort();
    Ok(found)
}

/// Removes every file below a folder whose name ends so.
pub fn remove_all_ending(folder: &Path, end: &str) -> Result<()> {
    for path in files(folder)?.iter().filter(|path| path.to_string_lossy().ends_with(end)) {
        let path = folder.join(path);
        fs::remove_file(&path).with_context(|| format!("can't remove {}", path.display()))?;
    }
    Ok(())
}

/// Makes the names in a folder, and in all below it, durable.
pub fn sync_folders(folder: &Path) -> Result<()> {
    for child in subfolders(folder)? {
        sync_folders(&child)?;
    }
    disk::sync_dir(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, content: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    #[test]
    fn a_snapshot_comes_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let table = data.join("ks/t-1");
        let snapshot = table.join("snapshots/s");
        for (path, content) in
            [("nb-1-big-Data.db", "rows"), (".idx/nb-1-big-Data.db", "index"), ("nb-1-big-TOC.txt", "Data.db\n")]
        {
            write(&table.join(path), content);
            fs::create_dir_all(snapshot.join(path).parent().unwrap()).unwrap();
            fs::hard_link(table.join(path), snapshot.join(path)).unwrap();
        }
        write(&snapshot.join("manifest.json"), "{}");
        write(&table.join("nb-2-big-Data.db"), "later");
        write(&data.join("ks/u-2/nb-1-big-Data.db"), "not in the snapshot");

        let tree = dir.path().join("tree");
        gather(&data, "s", &tree).unwrap();
        let entries = seal(&tree, None).unwrap();
        let paths: Vec<_> = entries.iter().map(|entry| entry.path.to_str().unwrap()).collect();
        assert_eq!(paths, ["ks/t-1/.idx/nb-1-big-Data.db", "ks/t-1/nb-1-big-Data.db", "ks/t-1/nb-1-big-TOC.txt"]);
        check(&tree, &entries, true).unwrap();

        // Cassandra writes over the table of contents in place: neither tree may see it.
        fs::write(table.join("nb-1-big-TOC.txt"), "Data.db\nSAI.db\n").unwrap();
        let back = dir.path().join("back");
        write(&back.join("left/over"), "of an interrupted attempt");
        copy(&tree, &back).unwrap();
        assert_eq!(seal(&back, None).unwrap(), entries);
        fs::write(back.join("ks/t-1/nb-1-big-TOC.txt"), "x").unwrap();
        check(&tree, &entries, true).unwrap();
    }

    #[test]
    fn sealing_again_reuses_what_is_the_same_inode_only() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        write(&one.join("a"), "aaa");
        write(&one.join("b"), "bbb");
        let mut first = seal(&one, None).unwrap();
        fs::create_dir(&two).unwrap();
        fs::hard_link(one.join("a"), two.join("a")).unwrap();
        write(&two.join("b"), "BBB");
        let second = seal(&two, Some((&one, &first))).unwrap();
        assert_eq!(second[0], first[0]);
        assert_ne!(second[1].crc, first[1].crc);
        // A wrong checksum in the earlier list shows that it is taken over, not computed.
        first[0].crc ^= 1;
        assert_eq!(seal(&two, Some((&one, &first))).unwrap()[0].crc, first[0].crc);
    }

    #[test]
    fn missing_surplus_cut_and_changed_files_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        write(&tree.join("a"), "aaa");
        write(&tree.join("b"), "bbb");
        let entries = seal(&tree, None).unwrap();
        let damage = |read| check(&tree, &entries, read).map_err(|error| error.to_string());
        assert_eq!((damage(false), damage(true)), (Ok(()), Ok(())));
        write(&tree.join("b"), "bxb");
        assert_eq!(damage(false), Ok(()));
        assert!(damage(true).unwrap_err().contains("content of b"));
        write(&tree.join("c"), "");
        assert!(damage(false).unwrap_err().contains("3 files"));
        fs::remove_file(tree.join("c")).unwrap();
        write(&tree.join("b"), "bb");
        assert!(damage(false).unwrap_err().contains("b has 2 bytes"));
        fs::remove_file(tree.join("a")).unwrap();
        assert!(damage(false).unwrap_err().contains("in place of a"));
        assert!(check(&dir.path().join("nowhere"), &entries, false).is_err());
    }

    #[test]
    fn the_digest_covers_names_sizes_and_contents() {
        let entry = |path: &str, size, crc| Entry { path: path.into(), size, crc };
        let base = summary(&[entry("a", 1, 2)]);
        assert_eq!((base.count, base.bytes), (1, 1));
        for other in [entry("b", 1, 2), entry("a", 2, 2), entry("a", 1, 3)] {
            assert_ne!(summary(&[other]).digest, base.digest);
        }
    }
}
