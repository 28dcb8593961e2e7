use std::time::{Duration, Instant};

use tempfile::TempDir;
use uuid::Uuid;

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

fn log(number: u128) -> LogId {
    LogId(Uuid::from_u128(number))
}

fn committed(segment: u32, sequence: u32, bytes: usize) -> Committed {
    let entry = vec![u8::try_from(sequence % 251).expect("small"); bytes].into();
    Committed { position: Position::new(segment, sequence), commit_time_ms: i64::from(sequence) + 7, entry }
}

fn config(folder: &TempDir, max_bytes: u64) -> StateLogConfig {
    StateLogConfig { folder: folder.path().join("state"), max_bytes }
}

/// Opens it, once the one before has let go of it.
fn open(config: &StateLogConfig, log: LogId) -> StateLog {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match StateLog::open(config, log) {
            Ok(opened) => return opened,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Offers these, one after the other, and waits until the last one is written.
fn write(state_log: &StateLog, mut after: Option<Position>, entries: &[Committed]) {
    let deadline = Instant::now() + PATIENCE;
    for entry in entries {
        state_log.offer(after, entry);
        after = Some(entry.position);
        while state_log.newest().is_none_or(|newest| newest.position != entry.position) {
            assert!(Instant::now() < deadline, "{} is not written", entry.position);
            std::thread::yield_now();
        }
    }
}

/// Everything from there on, as a tail reads it.
fn read(state_log: &StateLog, from: Position) -> Vec<Committed> {
    let (mut cursor, mut next, mut all) = (Cursor::default(), from, Vec::new());
    let Some(newest) = state_log.newest() else { return all };
    loop {
        let found = state_log.read(&mut cursor, next, newest.position).expect("read");
        let Some(last) = found.last() else { return all };
        next = last.position.next();
        all.extend(found);
    }
}

/// Two segments, of entries of so many bytes each.
fn entries(each: u32, bytes: usize) -> Vec<Committed> {
    (2..4).flat_map(|segment| (0..each).map(move |sequence| committed(segment, sequence, bytes))).collect()
}

#[test]
fn what_was_kept_is_there_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(&folder, 1 << 20);
    let all = entries(20, 50);
    {
        let state_log = open(&config, log(1));
        assert!(StateLog::open(&config, log(1)).is_err(), "it has one owner");
        write(&state_log, None, &all[..30]);
        // What a second tail reads is there already.
        state_log.offer(None, &all[3]);
        assert_eq!(read(&state_log, all[3].position), all[3..30]);
    }
    let state_log = open(&config, log(1));
    assert_eq!(read(&state_log, all[0].position), all[..30]);
    assert_eq!(read(&state_log, all[19].position), all[19..30]);
    assert!(!state_log.has(all[30].position) && read(&state_log, all[30].position).is_empty());
    write(&state_log, Some(all[29].position), &all[30..]);
    assert_eq!(read(&state_log, all[0].position), all);
    drop(state_log);
    let other = open(&config, log(2));
    assert_eq!(other.newest(), None, "another log's");
    assert!(read(&other, all[0].position).is_empty());
}

#[test]
fn it_is_bounded() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(&folder, 40_000);
    let all = entries(100, 1000);
    let state_log = open(&config, log(1));
    write(&state_log, None, &all);
    let size = || -> u64 {
        let files = fs::read_dir(&config.folder).expect("listed").map(|file| file.expect("a file").metadata());
        files.map(|metadata| metadata.expect("there").len()).sum()
    };
    assert!((20_000..=40_000).contains(&size()), "{} bytes", size());
    let kept = state_log.shared.index().files.front().expect("a file").first;
    let newest = read(&state_log, kept);
    assert_eq!(newest, all[all.len() - newest.len()..], "the newest, to the end");
    assert!(newest.len() >= 20 && !state_log.has(all[100].position));
    drop(state_log);
    let again = open(&config, log(1));
    assert_eq!(read(&again, kept), newest, "also without what was before them");
    // One that is larger than everything else together.
    let large = committed(4, 0, 60_000);
    write(&again, Some(all[199].position), std::slice::from_ref(&large));
    assert_eq!(read(&again, large.position), [large]);
}

#[test]
fn a_torn_end_is_cut() {
    let folder = tempfile::tempdir().expect("a folder");
    let all = entries(20, 100);
    for cut in [1, 50, 133, 134, 200] {
        let config = StateLogConfig { folder: folder.path().join(cut.to_string()), max_bytes: 8_000 };
        write(&open(&config, log(1)), None, &all);
        let mut paths: Vec<_> =
            fs::read_dir(&config.folder).expect("listed").map(|file| file.expect("there").path()).collect();
        paths.retain(|path| path.extension().is_some());
        let newest = paths.iter().max().expect("a file");
        let file = || {
            let deadline = Instant::now() + PATIENCE;
            loop {
                // Once the writer has let go.
                let file = OpenOptions::new().write(true).open(config.folder.join(LOCK)).expect("opened");
                if file.try_lock().is_ok() {
                    return OpenOptions::new().write(true).open(newest).expect("opened");
                }
                assert!(Instant::now() < deadline);
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        let file = file();
        let length = file.metadata().expect("there").len();
        file.set_len(length - cut).expect("cut");
        drop(file);
        let state_log = open(&config, log(1));
        let last = state_log.newest().expect("the rest").position;
        let kept = usize::try_from(last.sequence).expect("small") + if last.segment == 3 { 21 } else { 1 };
        assert!((37..40).contains(&kept), "cut by {cut}: {kept} are left");
        write(&state_log, Some(last), &all[kept..]);
        drop(state_log);
        let again = open(&config, log(1));
        let first = again.shared.index().files.front().expect("a file").first;
        assert!(read(&again, first).ends_with(&all[kept - 5..]), "and it goes on behind");
    }
}

#[test]
fn a_file_that_is_missing_or_damaged_ends_it() {
    let folder = tempfile::tempdir().expect("a folder");
    for damage in 0..3 {
        let config = StateLogConfig { folder: folder.path().join(damage.to_string()), max_bytes: 40_000 };
        let all = entries(10, 1000);
        write(&open(&config, log(1)), None, &all);
        let mut paths: Vec<_> =
            fs::read_dir(&config.folder).expect("listed").map(|file| file.expect("there").path()).collect();
        paths.retain(|path| path.extension().is_some());
        paths.sort();
        assert!(paths.len() >= 3, "{paths:?}");
        match damage {
            0 => fs::remove_file(&paths[1]).expect("deleted"),
            1 => fs::write(&paths[1], b"RDBs, or not").expect("written"),
            _ => {
                let mut bytes = fs::read(&paths[1]).expect("read");
                bytes[HEADER_BYTES + 3000] ^= 1;
                fs::write(&paths[1], bytes).expect("written");
            }
        }
        let state_log = open(&config, log(1));
        let left = read(&state_log, all[0].position);
        assert!(!left.is_empty() && left.len() < 15 && all.starts_with(&left), "{damage}: {} are left", left.len());
        assert!(!state_log.has(all[19].position), "what does not follow is gone");
    }
}

#[test]
fn it_begins_anew_behind_a_gap() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(&folder, 1 << 20);
    let all = entries(10, 10);
    let state_log = open(&config, log(1));
    write(&state_log, None, &all[..5]);
    write(&state_log, Some(all[7].position), &all[8..]);
    assert!(!state_log.has(all[4].position));
    assert_eq!(read(&state_log, all[8].position), all[8..]);
    // The end of a segment is no gap if a tail has come by it, and one if not.
    state_log.clear();
    write(&state_log, None, &all[..10]);
    write(&state_log, Some(all[9].position), &all[10..12]);
    assert!(state_log.has(all[0].position));
    state_log.clear();
    write(&state_log, None, &all[..9]);
    write(&state_log, None, &all[10..12]);
    assert!(!state_log.has(all[8].position));
    drop(state_log);
    assert_eq!(read(&open(&config, log(1)), all[10].position), all[10..12]);
}

#[test]
fn what_was_queued_before_all_was_found_wrong_is_not_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(&folder, 8 << 20);
    // More than the queue takes: there is no room to tell the writer.
    let all = entries(QUEUE as u32 * 2, 100);
    let state_log = open(&config, log(1));
    let mut after = None;
    let deadline = Instant::now() + PATIENCE;
    std::thread::scope(|scope| {
        // The writer waits for it.
        let index = state_log.shared.index();
        for entry in &all {
            state_log.offer(after, entry);
            after = Some(entry.position);
        }
        after = *state_log.last.lock().expect("nobody panics");
        scope.spawn(|| state_log.clear());
        while state_log.shared.cleared.load(Ordering::Acquire) == 0 {
            assert!(Instant::now() < deadline, "it is not cleared");
            std::thread::yield_now();
        }
        drop(index);
    });
    let next = committed(9, 0, 10);
    while !state_log.has(next.position) {
        state_log.offer(after, &next);
        assert!(Instant::now() < deadline, "it is not written");
        std::thread::yield_now();
    }
    drop(state_log);
    let again = open(&config, log(1));
    assert_eq!(again.newest().map(|newest| newest.position), Some(next.position));
    assert!(all.iter().all(|entry| !again.has(entry.position)), "nothing before it is left");
}

#[test]
fn a_volume_that_takes_nothing_is_left_alone_for_a_while() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(&folder, 1 << 20);
    let state_log = open(&config, log(1));
    let all = entries(3, 10);
    // No file can be made while the folder is away.
    let aside = folder.path().join("aside");
    fs::rename(&config.folder, &aside).expect("moved");
    state_log.offer(None, &all[0]);
    let deadline = Instant::now() + PATIENCE;
    while state_log.shared.queued_bytes.load(Ordering::Acquire) > 0 {
        assert!(Instant::now() < deadline, "it is not tried");
        std::thread::yield_now();
    }
    fs::rename(&aside, &config.folder).expect("moved back");
    let failed = Instant::now();
    let (mut at, mut after) = (0u32, all[0].position);
    while state_log.newest().is_none() {
        at += 1;
        let entry = committed(5, at, 10);
        state_log.offer(Some(after), &entry);
        after = entry.position;
        assert!(Instant::now() < deadline, "it is not tried again");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(failed.elapsed() > Duration::from_millis(500), "after a pause: {:?}", failed.elapsed());
}
