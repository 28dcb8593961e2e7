use std::task::Poll;

use replicateddb_ordering::memory::{MemoryLog, MemoryStorage};

use super::*;
use crate::record::{StatementText, Values};

/// A proposer of replica 0 over a log in memory.
fn over(log: &MemoryStorage) -> (Proposer, ProposerTask<MemoryLog>, Arc<Unresolved>) {
    with_room(log, Arc::new(LogRoom::new(u64::MAX, Metrics::default())))
}

fn with_room(log: &MemoryStorage, room: Arc<LogRoom>) -> (Proposer, ProposerTask<MemoryLog>, Arc<Unresolved>) {
    let unresolved = Arc::<Unresolved>::default();
    let limits = Limits { max_records: 2, entries_in_flight: 1, ..Limits::default() };
    let (log, _) = log.open(0);
    let (proposer, task) = proposer(log, 0, limits, unresolved.clone(), room, Metrics::default(), Clock::default());
    (proposer, task, unresolved)
}

/// What was never proposed is not in doubt, however proposing ends: those on their way are.
#[tokio::test(start_paused = true)]
async fn what_waits_when_proposing_ends_was_not_written() {
    for fenced in [true, false] {
        let storage = MemoryStorage::default();
        let (proposer, task, unresolved) = over(&storage);
        let mut running = Box::pin(task.run());
        storage.set_available(false);
        let asked: Vec<_> = (0..8)
            .map(|_| {
                let proposer = proposer.clone();
                tokio::spawn(async move { proposer.propose(Record::bare(RecordKind::Dml)).await })
            })
            .collect();
        let some = tokio::time::timeout(Duration::from_millis(500), &mut running).await;
        assert!(some.is_err(), "it goes on trying");
        if fenced {
            storage.open(0);
            storage.set_available(true);
            assert_eq!((&mut running).await, Ended::Fenced);
        }
        drop(running);
        unresolved.fail_all("over");
        let mut maybe = 0;
        for answer in asked {
            let Err(ProposeError::NotServing { maybe_written, .. }) = answer.await.unwrap() else { panic!() };
            maybe += u32::from(maybe_written);
        }
        assert!((1..=2).contains(&maybe), "{maybe} of 8 were on their way");
    }
}

/// However often a replica has to complain while the record is not executed, what takes that back can be ordered: bytes are
/// held until the complaint stands in the log, and not until it is applied.
#[tokio::test(start_paused = true)]
async fn complaints_hold_their_bytes_until_they_stand_in_the_log() {
    let storage = MemoryStorage::default();
    let (proposer, task, _unresolved) = over(&storage);
    let mut running = Box::pin(task.run());
    let text = "x".repeat(COMPLAINT_BYTES / 5);
    let statements = vec![StatementText { text, values: replicateddb_cql::request::Values::none() }];
    let complaint = Record { statements, ..Record::bare(RecordKind::Complaint) };
    for round in 0..20 {
        let mut said =
            Box::pin(proposer.complain(complaint.clone()).unwrap_or_else(|error| panic!("{round}: {error}")));
        assert_eq!(futures::poll!(&mut said), Poll::Pending);
        tokio::select! {
            said = &mut said => assert_eq!(said, Ok(())),
            ended = &mut running => panic!("{ended:?}"),
        }
    }
    assert_eq!(storage.entries().len(), 20);
}

/// I7: while the log is full no write comes to stand there, not even one that had room when it came; what only orders does,
/// so that reads and recovery go on, and so does the next write when there is room again.
#[tokio::test(start_paused = true)]
async fn a_full_log_takes_no_writes_and_all_else() {
    let storage = MemoryStorage::default();
    let room = Arc::new(LogRoom::new(1000, Metrics::default()));
    room.begins(Some(0));
    let (proposer, task, unresolved) = with_room(&storage, room.clone());
    let ask = |kind| {
        let proposer = proposer.clone();
        tokio::spawn(async move { proposer.propose(Record::bare(kind)).await })
    };
    let full = ProposeError::LogFull { held: 1000, limit: 1000 };
    let early = ask(RecordKind::Dml);
    tokio::task::yield_now().await;
    room.read_to(Some(1000));
    let running = tokio::spawn(task.run());
    assert_eq!(early.await.unwrap(), Err(full.clone()), "it waited to be proposed");
    for kind in [RecordKind::Dml, RecordKind::Batch, RecordKind::Ddl, RecordKind::Truncate] {
        assert_eq!(ask(kind).await.unwrap(), Err(full.clone()), "{kind:?}");
    }
    assert_eq!((storage.entries().len(), unresolved.floor(1)), (0, 1), "nothing was written, and no number used");
    for (entries, kind) in (1..).zip([RecordKind::Barrier, RecordKind::Tick, RecordKind::Digest]) {
        let asked = ask(kind);
        while storage.entries().len() < entries {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        asked.abort();
    }
    proposer.complain(Record::bare(RecordKind::Complaint)).expect("it is taken").await.expect("it stands there");
    room.begins(Some(1));
    room.all_arrived(|_| true);
    let written = ask(RecordKind::Dml);
    while storage.entries().len() < 5 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    written.abort();
    running.abort();
}

/// I7: however much waits, and however far the applier is behind, no more than one entry of a replica comes to stand in the log
/// above its limit: what was sent counts before it is read.
#[tokio::test(start_paused = true)]
async fn what_is_on_its_way_counts() {
    const LIMIT: u64 = 10_000;
    let storage = MemoryStorage::default();
    let room = Arc::new(LogRoom::new(LIMIT, Metrics::default()));
    room.begins(Some(0));
    let (proposer, task, _unresolved) = with_room(&storage, room.clone());
    let large = || {
        let text = "x".repeat(1000);
        Record { statements: vec![StatementText { text, values: Values::none() }], ..Record::bare(RecordKind::Dml) }
    };
    let asked: Vec<_> = (0..100)
        .map(|_| {
            let proposer = proposer.clone();
            tokio::spawn(async move { proposer.propose(large()).await })
        })
        .collect();
    tokio::task::yield_now().await;
    let running = tokio::spawn(task.run());
    let mut refused = 0;
    for asked in asked {
        // Nothing is ever read of the log, so what came to stand there is in doubt until its client gives up.
        match asked.await.unwrap() {
            Err(ProposeError::LogFull { .. }) => refused += 1,
            other => assert!(matches!(other, Err(ProposeError::Unavailable { maybe_written: true, .. })), "{other:?}"),
        }
    }
    let entries = storage.entries().into_iter().map(|committed| Entry::decode(committed.entry).unwrap().log_bytes());
    let (sizes, largest) = entries.fold((0, 0), |(sum, max), size| (sum + size, max.max(size)));
    assert!(sizes >= LIMIT && sizes < LIMIT + largest, "{sizes} bytes, {refused} refused");
    assert!(refused > 50, "{refused}");
    running.abort();
}
