//! Taking over a restore point of another replica's store: copied file by file into a folder of its own, each checked,
//! then put among the store's own restore points. Interrupted anywhere, it goes on with what is whole already (I10).

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::exchange::is_plain;
use super::faults::Faults;
use super::layout::Layout;
use super::supervisor::blocking;
use super::tree::Entry;
use super::{disk, points, tree};
use crate::api::{Files, Installing, Manifest, Refusal};
use crate::bounded;
use crate::internal::Internal;

/// Longest wait for a connection to the other agent.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest silence of the other agent while it sends.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Attempts to copy one file.
const ATTEMPTS: usize = 3;
/// Pause between two attempts.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(500);
/// Files copied at once.
const AT_ONCE: usize = 8;
/// Most files of a restore point that is taken over.
const MAX_FILES: usize = 1_000_000;
/// End of the name of a file that is not whole.
const PART: &str = ".part";

/// A restore point as another agent describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// Its manifest.
    pub manifest: Manifest,
    /// Its files.
    pub files: Vec<Entry>,
}

impl Description {
    /// Whether it is of this id and whole in itself; nothing of it is used before.
    fn check(&self, id: &str) -> Result<()> {
        ensure!(self.manifest.id == id, "the other agent describes {} in place of {id}", self.manifest.id);
        ensure!(self.files.len() <= MAX_FILES, "it has {} files, more than {MAX_FILES}", self.files.len());
        if let Some(entry) = self.files.iter().find(|entry| !is_plain(&entry.path)) {
            bail!("{} is not a path of a restore point's file", entry.path.display());
        }
        ensure!(tree::summary(&self.files) == self.manifest.files, "its list of files is not that of its manifest");
        Ok(())
    }
}

/// Another agent.
#[derive(Debug, Clone)]
pub struct Source {
    http: reqwest::Client,
    internal: Internal,
    base: String,
    token: String,
}

impl Source {
    /// The agent at `base`, and the way to it; connects at the first call.
    ///
    /// # Errors
    /// If no HTTP client can be made on this system.
    pub fn new(base: &str, token: &str, internal: Internal) -> Result<Self> {
        let http = reqwest::Client::builder()
            // The token is for agents alone.
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .build()
            .context("no HTTP client")?;
        Ok(Self { http, internal, base: base.trim_end_matches('/').to_owned(), token: token.to_owned() })
    }

    async fn get(&self, path: &str) -> Result<reqwest::Response> {
        let url = format!("{}{path}", self.base);
        let asked = self.internal.send(self.http.get(&url).bearer_auth(&self.token));
        let response = tokio::time::timeout(READ_TIMEOUT, asked).await.with_context(|| format!("{url} is silent"))?;
        let response = response.with_context(|| format!("{url} does not answer"))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let text = bounded::text(response).await;
        let said = serde_json::from_str::<Refusal>(&text).map_or(text, |refusal| refusal.message);
        bail!("{url} answers {status}: {}", said.chars().take(300).collect::<String>())
    }

    async fn json<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        bounded::json(self.get(path).await?).await.with_context(|| format!("reading {}{path}", self.base))
    }

    async fn describe(&self, id: &str) -> Result<Description> {
        let manifest = self.json(&format!("/v1/restore-points/{id}")).await?;
        let files = self.json(&format!("/v1/restore-points/{id}/files")).await?;
        Ok(Description { manifest, files })
    }

    /// Copies a file next to where it belongs, checks it, and puts it there, durably.
    async fn copy(&self, id: &str, entry: &Entry, to: &Path) -> Result<()> {
        let name = percent(entry.path.to_str().context("a path that is no text")?);
        let mut response = self.get(&format!("/v1/restore-points/{id}/files/{name}")).await?;
        let part = PathBuf::from(format!("{}{PART}", to.display()));
        let mut file = File::create(&part).with_context(|| format!("can't create {}", part.display()))?;
        let (mut size, mut hasher) = (0, crc32fast::Hasher::new());
        while let Some(chunk) = response.chunk().await.with_context(|| format!("reading {name}"))? {
            size += chunk.len() as u64;
            hasher.update(&chunk);
            ensure!(size <= entry.size, "{name} has more than {} bytes", entry.size);
            file.write_all(&chunk).with_context(|| format!("can't write {}", part.display()))?;
        }
        let crc = hasher.finalize();
        ensure!(size == entry.size, "{name} came with {size} bytes in place of {}", entry.size);
        ensure!(crc == entry.crc, "{name} came with the checksum {crc:08x} in place of {:08x}", entry.crc);
        let (to, part) = (to.to_owned(), part);
        blocking(move || {
            file.sync_all().with_context(|| format!("can't sync {}", part.display()))?;
            fs::rename(&part, &to).with_context(|| format!("can't put {} in place", to.display()))
        })
        .await
    }
}

/// A path as a part of a URL.
fn percent(path: &str) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'/' => text.push(byte.into()),
            _ => {
                let _ = write!(text, "%{byte:02X}");
            }
        }
    }
    text
}

/// Copies the restore point `id` of another store into the staging folder, going on with what lies there of it already;
/// `tell` hears how far it is. What lies there of any other goes first.
///
/// # Errors
/// If the other agent does not answer, sends what does not fit its checksums three times, has deleted it meanwhile, or
/// the disk fails. It may be called again.
pub async fn stage(
    layout: &Layout,
    source: &Source,
    id: &str,
    faults: &Faults,
    tell: impl Fn(Installing),
) -> Result<Description> {
    let description = source.describe(id).await?;
    description.check(id)?;
    let (folders, described) = (layout.clone(), description.clone());
    blocking(move || prepare(&folders, &described)).await?;
    copy_all(layout, source, &description, faults, tell).await?;
    let tree = layout.staged_tree();
    let (files, checked) = (description.files.clone(), tree.clone());
    blocking(move || {
        tree::sync_folders(&checked)?;
        tree::check(&checked, &files, false)
    })
    .await?;
    faults.pass("install-staged");
    Ok(description)
}

/// Copies what is not there yet, some files at once: most are small, and each alone would be a round trip and a sync.
async fn copy_all(
    layout: &Layout,
    source: &Source,
    description: &Description,
    faults: &Faults,
    tell: impl Fn(Installing),
) -> Result<()> {
    let Manifest { id, files: Files { bytes: total, .. }, .. } = description.manifest.clone();
    // Each has its own of everything: the compiler can't prove borrowed futures to be `Send` here.
    let one = Copying { tree: layout.staged_tree(), source: source.clone(), id: id.clone(), faults: faults.clone() };
    let copies = stream::iter(description.files.clone()).map(move |entry| one.clone().copy(entry));
    let mut copies = pin!(copies.buffer_unordered(AT_ONCE));
    let mut done = 0;
    while let Some(size) = copies.try_next().await? {
        done += size;
        tell(Installing { id: id.clone(), done_bytes: done, total_bytes: total });
    }
    Ok(())
}

/// What it takes to copy a file.
#[derive(Clone)]
struct Copying {
    tree: PathBuf,
    source: Source,
    id: String,
    faults: Faults,
}

impl Copying {
    /// Copies the file unless it is there; gives its size, in bytes.
    async fn copy(self, entry: Entry) -> Result<u64> {
        let target = self.tree.join(&entry.path);
        let (looked, wanted) = (target.clone(), entry.clone());
        if !blocking(move || is_there(&looked, &wanted)).await? {
            copy_patiently(&self.source, &self.id, &entry, &target).await?;
            self.faults.pass("install-file-staged");
        }
        Ok(entry.size)
    }
}

async fn copy_patiently(source: &Source, id: &str, entry: &Entry, target: &Path) -> Result<()> {
    let mut attempt = 1;
    loop {
        match source.copy(id, entry, target).await {
            Ok(()) => return Ok(()),
            Err(error) if attempt == ATTEMPTS => return Err(error),
            Err(error) => tracing::warn!(id, attempt, "copying a file of a restore point: {error:#}"),
        }
        attempt += 1;
        tokio::time::sleep(ATTEMPT_PAUSE).await;
    }
}

/// Makes the folders, keeping what an earlier attempt has left that belongs to this restore point, too; and takes from the store's own
/// what they have of it. Where the log moves on faster than everything is copied, each attempt costs only what is new.
fn prepare(layout: &Layout, description: &Description) -> Result<()> {
    // What can't be understood is no reason to stay without a restore point.
    match disk::read_json::<Description>(&layout.staged_description()).ok().flatten() {
        Some(before) if before == *description => {}
        Some(before) => keep_common(layout, &before, description)?,
        None => disk::remove_tree(&layout.staging())?,
    }
    disk::create_dir(&layout.staging())?;
    disk::write_json(&layout.staged_description(), description)?;
    let tree = layout.staged_tree();
    for entry in &description.files {
        let folder = tree.join(entry.path.parent().unwrap_or(Path::new("")));
        fs::create_dir_all(&folder).with_context(|| format!("can't create {}", folder.display()))?;
    }
    fs::create_dir_all(&tree).with_context(|| format!("can't create {}", tree.display()))?;
    tree::remove_all_ending(&tree, PART)?;
    link_own(layout, &description.files)
}

/// Removes what is staged of a restore point and not part of another one.
fn keep_common(layout: &Layout, before: &Description, wanted: &Description) -> Result<()> {
    let wanted: HashSet<&Entry> = wanted.files.iter().collect();
    for entry in before.files.iter().filter(|entry| is_plain(&entry.path) && !wanted.contains(entry)) {
        let path = layout.staged_tree().join(&entry.path);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("can't remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Links the files that the store's own restore points have, by their lists; like all that is staged they are read before they count.
fn link_own(layout: &Layout, wanted: &[Entry]) -> Result<()> {
    let staged = layout.staged_tree();
    let mut missing: HashSet<&Entry> = wanted.iter().filter(|entry| !staged.join(&entry.path).exists()).collect();
    for point in points::load(layout)?.points {
        // One without a list that can be read has nothing to give.
        let Some(own) = disk::read_json::<Vec<Entry>>(&layout.files(&point.id)).ok().flatten() else { continue };
        for entry in own.iter().filter(|entry| missing.contains(entry)).cloned().collect::<Vec<_>>() {
            let (from, to) = (layout.tree(&point.id).join(&entry.path), staged.join(&entry.path));
            match fs::hard_link(&from, &to) {
                Ok(()) => drop(missing.remove(&entry)),
                Err(error) => tracing::debug!(%error, path = %from.display(), "not linked: it is copied"),
            }
        }
    }
    Ok(())
}

/// Whether an earlier attempt has left this file whole.
fn is_there(path: &Path, entry: &Entry) -> Result<bool> {
    match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("can't open {}", path.display())),
        Ok(file) => {
            let read = || format!("can't read {}", path.display());
            Ok(file.metadata().with_context(read)?.len() == entry.size
                && tree::checksum(file).with_context(read)? == entry.crc)
        }
    }
}

/// Puts the staged copy among the store's own restore points, under the number `sequence`.
///
/// # Errors
/// If the disk fails; then it is not among them, and has to be copied again.
pub fn adopt(layout: &Layout, description: Description, sequence: u64, faults: &Faults) -> Result<Manifest> {
    let Description { manifest, files } = description;
    let manifest = Manifest { sequence, ..manifest };
    let id = &manifest.id;
    disk::remove_tree(&layout.restore_point(id))?;
    disk::create_dir(&layout.restore_point(id))?;
    fs::rename(layout.staged_tree(), layout.tree(id)).context("can't put the copied tree in place")?;
    disk::sync_dir(&layout.restore_point(id))?;
    faults.pass("install-tree-moved");
    disk::write_json(&layout.files(id), &files)?;
    disk::write_json(&layout.manifest(id), &manifest)?;
    faults.pass("install-manifest-renamed");
    disk::remove_tree(&layout.staging())?;
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Mark;

    fn description(files: Vec<Entry>) -> Description {
        let manifest = Manifest {
            id: "a".into(),
            sequence: 1,
            mark: Mark { index: 7, replica_state: serde_json::Value::Null },
            cassandra_now_ms: 1,
            created_ms: 1,
            files: tree::summary(&files),
            footprint: None,
        };
        Description { manifest, files }
    }

    fn entry(path: &str, content: &str) -> Entry {
        Entry { path: path.into(), size: content.len() as u64, crc: crc32fast::hash(content.as_bytes()) }
    }

    #[test]
    fn only_a_description_that_is_whole_is_used() {
        let good = description(vec![entry("ks/t/x", "rows")]);
        assert!(good.check("a").is_ok());
        assert!(good.check("b").is_err());
        assert!(description(vec![entry("../x", "rows")]).check("a").is_err());
        let mut other = good.clone();
        other.files[0].crc ^= 1;
        assert!(other.check("a").unwrap_err().to_string().contains("not that of its manifest"));
    }

    #[test]
    fn an_interrupted_copy_goes_on_and_another_starts_anew() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        fs::create_dir_all(layout.restore_points()).unwrap();
        let wanted = description(vec![entry("ks/t/x", "rows"), entry("ks/t/y", "more")]);
        prepare(&layout, &wanted).unwrap();
        let x = layout.staged_tree().join("ks/t/x");
        fs::write(&x, "rows").unwrap();
        fs::write(layout.staged_tree().join("ks/t/y.part"), "mo").unwrap();
        prepare(&layout, &wanted).unwrap();
        assert!(is_there(&x, &wanted.files[0]).unwrap());
        assert!(!is_there(&layout.staged_tree().join("ks/t/y"), &wanted.files[1]).unwrap());
        assert!(!layout.staged_tree().join("ks/t/y.part").exists());
        fs::write(&x, "rowz").unwrap();
        assert!(!is_there(&x, &wanted.files[0]).unwrap(), "what does not fit its checksum is copied again");
        prepare(&layout, &description(vec![entry("ks/t/x", "rowz")])).unwrap();
        assert!(!x.exists());
    }

    #[test]
    fn what_the_store_has_already_is_not_copied_again() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        fs::create_dir_all(layout.restore_points()).unwrap();
        let first = description(vec![entry("ks/t/x", "rows"), entry("ks/t/y", "more")]);
        prepare(&layout, &first).unwrap();
        for (name, content) in [("x", "rows"), ("y", "more")] {
            fs::write(layout.staged_tree().join("ks/t").join(name), content).unwrap();
        }
        adopt(&layout, first, 1, &Faults::default()).unwrap();
        let mut second = description(vec![entry("ks/t/x", "rows"), entry("ks/t/y", "less"), entry("ks/t/z", "new")]);
        second.manifest.id = "b".into();
        prepare(&layout, &second).unwrap();
        let there = |of: &Description| -> Vec<bool> {
            of.files.iter().map(|entry| is_there(&layout.staged_tree().join(&entry.path), entry).unwrap()).collect()
        };
        assert_eq!(there(&second), [true, false, false], "linked from its own restore point");
        fs::write(layout.staged_tree().join("ks/t/z"), "new").unwrap();
        let mut third = description(vec![entry("ks/t/z", "new"), entry("ks/t/w", "other")]);
        third.manifest.id = "c".into();
        prepare(&layout, &third).unwrap();
        assert_eq!(there(&third), [true, false], "left by the attempt before");
        assert!(!layout.staged_tree().join("ks/t/x").exists(), "what does not belong to it is gone");
        assert!(layout.tree("a").join("ks/t/x").exists(), "and stays where it was linked from");
    }

    #[test]
    fn an_adopted_copy_is_a_restore_point() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        fs::create_dir_all(layout.restore_points()).unwrap();
        let wanted = description(vec![entry("ks/t/x", "rows")]);
        for sequence in [4, 5] {
            prepare(&layout, &wanted).unwrap();
            fs::write(layout.staged_tree().join("ks/t/x"), "rows").unwrap();
            let manifest = adopt(&layout, wanted.clone(), sequence, &Faults::default()).unwrap();
            assert_eq!((manifest.sequence, manifest.mark.index), (sequence, 7));
            super::super::points::check(&layout, "a", true).unwrap();
            assert!(!layout.staging().exists());
        }
        assert_eq!(super::super::points::load(&layout).unwrap().points.len(), 1);
    }

    #[test]
    fn paths_in_urls() {
        assert_eq!(percent("ks/t-1/.i%x/nb 1.db"), "ks/t-1/.i%25x/nb%201.db");
    }
}
