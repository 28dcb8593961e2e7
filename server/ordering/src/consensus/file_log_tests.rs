use openraft::EntryPayload;
use proptest::prelude::*;

use super::super::command::{Batch, Command};
use super::super::record::tests::entry;
use super::super::types::log_id;
use super::*;
use crate::Incarnation;

/// Small, so that files follow each other.
const SMALL: u64 = 400;

fn append_of(index: u64, bytes: usize) -> RaftEntry {
    let append = Command::Append { life: (0, Incarnation(1)), entry: vec![7; bytes].into() };
    let batch = Batch { at_ms: 1, commands: vec![append] };
    RaftEntry { log_id: log_id(1, 1, index), payload: EntryPayload::Normal(batch) }
}

fn read_all(log: &FileLog) -> Vec<RaftEntry> {
    let read = |item| match item {
        Item::Here(entry) => entry,
        Item::There(place) => place.read().unwrap(),
    };
    log.items(.., usize::MAX).into_iter().map(read).collect()
}

/// What is done to a log.
#[derive(Clone, Debug)]
enum Step {
    Append(Vec<RaftEntry>),
    /// From so many entries before the end on.
    Truncate(u64),
    /// Up to so many entries behind the beginning.
    Purge(u64),
    Reopen,
    /// The process dies with so many bytes of an append written.
    Torn(Vec<RaftEntry>, prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    let entries = || prop::collection::vec(entry(), 1..5);
    prop_oneof![
        4 => entries().prop_map(Step::Append),
        1 => (0..6u64).prop_map(Step::Truncate),
        1 => (0..6u64).prop_map(Step::Purge),
        1 => Just(Step::Reopen),
        1 => (entries(), any::<prop::sample::Index>()).prop_map(|(entries, at)| Step::Torn(entries, at)),
    ]
}

/// Gives entries their places behind `last`.
fn placed(entries: Vec<RaftEntry>, next: u64) -> Vec<RaftEntry> {
    let place = |(number, mut entry): (usize, RaftEntry)| {
        entry.log_id.index = next + number as u64;
        entry
    };
    entries.into_iter().enumerate().map(place).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is done, in whatever order, the log holds what a list would.
    #[test]
    fn it_holds_what_a_list_would(steps in prop::collection::vec(step(), 1..25)) {
        let folder = tempfile::tempdir().unwrap();
        let mut purged: Option<u64> = None;
        let mut log = FileLog::open_with(folder.path(), purged, SMALL).unwrap();
        let mut model: Vec<RaftEntry> = Vec::new();
        for step in steps {
            let first = purged.map_or(0, |purged| purged + 1);
            let next = first + model.len() as u64;
            match step {
                Step::Append(entries) => {
                    let entries = placed(entries, next);
                    log.append(entries.clone()).unwrap();
                    model.extend(entries);
                }
                Step::Truncate(back) => {
                    let since = next.saturating_sub(back).max(first);
                    log.truncate(since).unwrap();
                    model.truncate((since - first) as usize);
                }
                Step::Purge(forward) if forward > 0 => {
                    let upto = first + forward - 1;
                    purged = Some(upto);
                    log.purge(upto).unwrap();
                    model = model.split_off(model.len().min(forward as usize));
                }
                Step::Purge(_) => {}
                Step::Reopen => {
                    drop(log);
                    log = FileLog::open_with(folder.path(), purged, SMALL).unwrap();
                }
                Step::Torn(entries, at) => {
                    let entries = placed(entries, next);
                    let whole = tear(&mut log, entries.clone(), at);
                    drop(log);
                    log = FileLog::open_with(folder.path(), purged, SMALL).unwrap();
                    model.extend(entries.into_iter().take(whole));
                }
            }
            prop_assert_eq!(&read_all(&log), &model);
            prop_assert_eq!(log.last(), model.last().map(|entry| entry.log_id));
        }
    }
}

/// Writes a part of what an append writes; how many entries of it are whole.
fn tear(log: &mut FileLog, entries: Vec<RaftEntry>, at: prop::sample::Index) -> usize {
    let write = entries[0].log_id.index;
    let first = log.current_file(write).unwrap();
    let target = &log.files[&first];
    let (mut data, mut ends) = (BytesMut::new(), Vec::new());
    for entry in &entries {
        put_record(&mut data, write, entry);
        ends.push(data.len());
    }
    let cut = at.index(data.len());
    target.file.write_all_at(&data[..cut], target.length).unwrap();
    ends.iter().filter(|end| **end <= cut).count()
}

/// A log of ten entries in several files, closed.
fn written(folder: &Path) -> Vec<PathBuf> {
    let mut log = FileLog::open_with(folder, None, SMALL).unwrap();
    for index in 0..10 {
        log.append(vec![append_of(index, 100)]).unwrap();
    }
    assert!(log.files.len() > 2);
    log.files.values().map(|file| file.path.clone()).collect()
}

fn flip(path: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 4], offset).unwrap();
}

#[test]
fn a_flipped_bit_is_named_with_file_and_offset() {
    for at in [0, 1] {
        let folder = tempfile::tempdir().unwrap();
        let paths = written(folder.path());
        // The last file as well: its entries were synced.
        let path = if at == 0 { &paths[0] } else { &paths[paths.len() - 1] };
        flip(path, 50);
        let error = FileLog::open_with(folder.path(), None, SMALL).unwrap_err();
        let VolumeError::Damaged { path: said, offset, .. } = &error else { panic!("{error}") };
        assert_eq!((said, *offset), (path, MAGIC.len() as u64), "{error}");
    }
}

#[test]
fn a_missing_end_is_missed() {
    let folder = tempfile::tempdir().unwrap();
    let paths = written(folder.path());
    fs::remove_file(&paths[paths.len() - 1]).unwrap();
    let error = FileLog::open_with(folder.path(), None, SMALL).unwrap_err().to_string();
    assert!(error.contains("entries up to 9 were written"), "{error}");
}

#[test]
fn a_missing_file_in_the_middle_is_missed() {
    let folder = tempfile::tempdir().unwrap();
    let paths = written(folder.path());
    fs::remove_file(&paths[1]).unwrap();
    let error = FileLog::open_with(folder.path(), None, SMALL).unwrap_err().to_string();
    assert!(error.contains("stands in the place of"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let paths = written(folder.path());
    fs::remove_file(&paths[0]).unwrap();
    let error = FileLog::open_with(folder.path(), Some(0), SMALL).unwrap_err().to_string();
    assert!(error.contains("are missing"), "{error}");
}

#[test]
fn giving_up_that_was_interrupted_is_finished() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path());
    // Beyond the end, as when a snapshot was installed.
    let mut log = FileLog::open_with(folder.path(), Some(20), SMALL).unwrap();
    assert!(log.files.is_empty() && log.last().is_none());
    log.append(vec![append_of(21, 100)]).unwrap();
    drop(log);
    let log = FileLog::open_with(folder.path(), Some(20), SMALL).unwrap();
    assert_eq!(read_all(&log), [append_of(21, 100)]);
}

#[test]
fn a_damaged_entry_is_noticed_when_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let paths = written(folder.path());
    let log = FileLog::open_with(folder.path(), None, SMALL).unwrap();
    flip(&paths[0], 60);
    let items = log.items(0..1, usize::MAX);
    let Some(Item::There(place)) = items.first() else { panic!("{items:?}") };
    assert!(matches!(place.read(), Err(VolumeError::Damaged { .. })));
}

#[test]
fn a_range_is_bounded_in_bytes_but_not_empty() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = FileLog::open(folder.path(), None).unwrap();
    log.append((0..10).map(|index| append_of(index, 100)).collect()).unwrap();
    assert_eq!(log.items(2..9, 1).len(), 1);
    assert_eq!(log.items(2..9, 500).len(), 2);
    assert_eq!(log.items(2..9, usize::MAX).len(), 7);
    assert!(log.items(4..4, 500).is_empty() && log.items(20.., 500).is_empty());
}
