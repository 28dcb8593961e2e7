use std::time::Duration;

use super::*;

fn bodies(storage: &MemoryStorage) -> Vec<&'static str> {
    let name = |entry: &Bytes| match entry.as_ref() {
        b"a" => "a",
        b"b" => "b",
        b"c" => "c",
        _ => "?",
    };
    storage.entries().iter().map(|committed| name(&committed.entry)).collect()
}

#[tokio::test]
async fn faults_do_what_they_say() {
    let storage = MemoryStorage::default();
    let (log, _) = storage.open(0);
    storage.inject(Fault::UnknownCommitted);
    storage.inject(Fault::UnknownLost);
    storage.inject(Fault::UnknownLate(1));
    storage.inject(Fault::Unavailable);
    let unknown = |outcome| matches!(outcome, Err(AppendError::Unknown { .. }));
    assert!(unknown(log.append("a".into()).await));
    assert!(unknown(log.append("b".into()).await));
    assert!(unknown(log.append("c".into()).await));
    assert!(matches!(log.append("b".into()).await, Err(AppendError::Unavailable { .. })));
    assert_eq!(bodies(&storage), ["a"]);
    log.append("b".into()).await.unwrap();
    assert_eq!(bodies(&storage), ["a", "b", "c"], "the late one comes after one more");
}

#[tokio::test]
async fn a_late_entry_of_an_old_incarnation_never_comes() {
    let storage = MemoryStorage::default();
    let (old, _) = storage.open(0);
    storage.inject(Fault::UnknownLate(1));
    assert!(old.append("a".into()).await.is_err());
    let (new, _) = storage.open(0);
    new.append("b".into()).await.unwrap();
    assert_eq!(bodies(&storage), ["b"]);
}

#[tokio::test]
async fn a_tail_stands_still_while_the_log_is_away() {
    let storage = MemoryStorage::default();
    let (log, _) = storage.open(0);
    log.append("a".into()).await.unwrap();
    storage.set_available(false);
    let mut tail = log.tail(Position::START);
    assert!(tokio::time::timeout(Duration::from_millis(50), tail.next()).await.is_err());
    assert!(matches!(log.append("b".into()).await, Err(AppendError::Unavailable { .. })));
    storage.set_available(true);
    assert_eq!(tail.next().await.unwrap().unwrap().entry, "a");
}
