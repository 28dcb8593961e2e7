use openraft::testing::{StoreBuilder, Suite};
use proptest::prelude::*;

use super::super::command::tests::batch;
use super::super::command::{Batch, Note};
use super::super::types::log_id;
use super::*;

/// Makes an empty store for each of the library's tests.
struct Builder;

impl StoreBuilder<Types, LogStore, Machine, tempfile::TempDir> for Builder {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, Machine), StorageError> {
        let folder = tempfile::tempdir().unwrap();
        let log = LogStore::open(folder.path(), 0).unwrap();
        let machine = Machine::open(log.clone()).unwrap();
        // They give up what no snapshot stands for.
        log.set_kept(Kept::Upto(Some(u64::MAX)));
        Ok((folder, log, machine))
    }
}

#[test]
fn it_passes_the_librarys_tests_of_a_store() {
    Suite::test_all(Builder).unwrap();
}

/// Raft's entries of batches, from index 0 on; the first one makes the log.
fn entries(batches: Vec<Batch>) -> Vec<RaftEntry> {
    let found = Note::Found { log: uuid::Uuid::from_u128(1), segment_entries: 3 };
    let found = Batch { at_ms: 0, commands: vec![Command::Note(found)] };
    let entry = |(index, batch): (usize, Batch)| RaftEntry {
        log_id: log_id(1, 1, index as u64),
        payload: EntryPayload::Normal(batch),
    };
    [found].into_iter().chain(batches).enumerate().map(entry).collect()
}

/// What can be read, by number.
async fn readable(machine: &Machine) -> Vec<Committed> {
    let mut progress = machine.progress();
    let Progress { first, next, .. } = *progress.borrow_and_update();
    let (mut at, mut all) = (first, Vec::new());
    while at < next {
        let read = machine.read(at).await.unwrap();
        at += read.len() as u64;
        all.extend(read);
    }
    all
}

async fn append(log: &LogStore, entries: &[RaftEntry]) {
    use openraft::storage::RaftLogStorageExt;
    log.clone().blocking_append(entries.to_vec()).await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A snapshot taken at any time holds nothing that is still in the log, and what is in the log behind it leads to the same
    /// state: on the node that took it after it has restarted, and on one that had nothing and installs it.
    #[test]
    fn a_snapshot_and_the_log_behind_it_are_the_state(batches in prop::collection::vec(batch(), 1..40), at: prop::sample::Index) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let entries = entries(batches);
            let at = at.index(entries.len()) + 1;
            let mut log = LogStore::open(folder.path(), 0).unwrap();
            let mut machine = Machine::open(log.clone()).unwrap();
            append(&log, &entries).await;
            machine.apply(entries[..at].to_vec()).await.unwrap();
            let snapshot = machine.build_snapshot().await.unwrap();
            machine.apply(entries[at..].to_vec()).await.unwrap();
            let expected = readable(&machine).await;
            let state = machine.look(Clone::clone);
            // Of what the log holds by then, all is behind the snapshot.
            let behind = snapshot.meta.last_log_id.next_index();
            if let Some(purged) = snapshot.meta.last_log_id {
                use openraft::storage::RaftLogStorage;
                log.purge(purged).await.unwrap();
            }
            assert_eq!(readable(&machine).await, expected);
            drop((machine, log));

            let log = LogStore::open(folder.path(), 0).unwrap();
            let mut again = Machine::open(log.clone()).unwrap();
            let rest = log.read(behind.., usize::MAX).await.unwrap();
            again.apply(rest.clone()).await.unwrap();
            assert_eq!(again.look(Clone::clone), state);
            assert_eq!(readable(&again).await, expected);

            let folder = tempfile::tempdir().unwrap();
            let log = LogStore::open(folder.path(), 1).unwrap();
            let mut newcomer = Machine::open(log.clone()).unwrap();
            newcomer.install_snapshot(&snapshot.meta, snapshot.snapshot).await.unwrap();
            if let Some(purged) = snapshot.meta.last_log_id {
                use openraft::storage::RaftLogStorage;
                log.clone().purge(purged).await.unwrap();
            }
            append(&log, &rest).await;
            newcomer.apply(rest).await.unwrap();
            assert_eq!(newcomer.look(Clone::clone), state);
            assert_eq!(readable(&newcomer).await, expected);
        });
    }
}

#[tokio::test]
async fn an_older_snapshot_does_not_replace_a_later_one() {
    let folder = tempfile::tempdir().unwrap();
    let machine = Machine::open(LogStore::open(folder.path(), 0).unwrap()).unwrap();
    let at = |index| Point { applied: Some(log_id(1, 1, index)), ..Point::default() };
    machine.keep("b".into(), at(7)).await.unwrap();
    machine.keep("a".into(), at(6)).await.unwrap();
    assert_eq!(machine.current_snapshot().unwrap().unwrap().meta.snapshot_id, "b");
    let found: Option<(String, Point)> = read_text(&folder.path().join(SNAPSHOT)).unwrap();
    assert_eq!(found, Some(("b".into(), at(7))));
}

/// The library has both done at once. Whatever becomes of the snapshot, the node can be started again.
#[tokio::test]
async fn the_log_is_given_up_after_the_snapshot_is_written() {
    use openraft::storage::RaftLogStorage;
    let folder = tempfile::tempdir().unwrap();
    let base = Point { applied: Some(log_id(1, 1, 9)), ..Point::default() };
    let meta = meta("a", &base);
    let data = || Box::new(Cursor::new(serde_json::to_vec(&base).unwrap()));
    let open = || {
        let log = LogStore::open(folder.path(), 0).unwrap();
        (log.clone(), Machine::open(log).unwrap())
    };

    let (mut log, mut machine) = open();
    append(&log, &entries(Vec::new())).await;
    let blocked = folder.path().join("snapshot.new");
    std::fs::create_dir(&blocked).unwrap();
    let (purged, installed) = tokio::join!(log.purge(log_id(1, 1, 9)), machine.install_snapshot(&meta, data()));
    assert!(installed.is_err());
    assert!(purged.unwrap_err().to_string().contains("it was not written"));
    assert_eq!(log.purged(), None);
    std::fs::remove_dir(&blocked).unwrap();
    machine.close().await;
    assert!(machine.install_snapshot(&meta, data()).await.is_err(), "the folder is another one's now");
    drop((log, machine));

    let (mut log, mut machine) = open();
    let (purged, installed) = tokio::join!(log.purge(log_id(1, 1, 9)), machine.install_snapshot(&meta, data()));
    installed.unwrap();
    purged.unwrap();
    drop((log, machine));
    let (log, machine) = open();
    assert_eq!((log.purged(), machine.inner().base.clone()), (base.applied, base.clone()));
    drop((log, machine));

    std::fs::remove_file(folder.path().join(SNAPSHOT)).unwrap();
    let error = Machine::open(LogStore::open(folder.path(), 0).unwrap()).unwrap_err().to_string();
    assert!(error.contains("the log has given up its entries up to 9, the snapshot ends after none"), "{error}");
}

/// A node that was ever told anything, or has voted, says so from the start.
#[tokio::test]
async fn only_a_node_without_a_past_is_pristine() {
    use openraft::storage::RaftLogStorage;
    for past in 0..4 {
        let folder = tempfile::tempdir().unwrap();
        let mut log = LogStore::open(folder.path(), 0).unwrap();
        let machine = Machine::open(log.clone()).unwrap();
        match past {
            0 => {}
            1 => log.save_vote(&super::super::types::Vote::new(1, 2)).await.unwrap(),
            2 => append(&log, &entries(Vec::new())).await,
            _ => machine.keep("empty".into(), Point::default()).await.unwrap(),
        }
        assert_eq!(machine.is_pristine(), past == 0);
        drop((log, machine));
        let again = Machine::open(LogStore::open(folder.path(), 0).unwrap()).unwrap();
        assert_eq!(again.is_pristine(), past == 0);
    }
}
