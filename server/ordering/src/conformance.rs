//! The suite that every engine must pass. Each check panics with what it found.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use tokio::task::JoinHandle;

use crate::truncation::Published;
use crate::{AppendError, Beginning, Committed, Incarnation, LogError, OrderedLog, Position, TailError};

/// How long anything may take that must happen.
const PATIENCE: Duration = Duration::from_secs(120);
/// Attempts to append one entry whose outcome stays unknown or that is not taken.
const ATTEMPTS: usize = 500;

/// Makes handles on one new log with segments of [`Harness::SEGMENT_ENTRIES`] entries.
pub trait Harness: Sync {
    /// The engine.
    type Log: OrderedLog;
    /// Entries per segment; small, so that segments roll all the time.
    const SEGMENT_ENTRIES: u32;
    /// The largest entry, in bytes.
    const MAX_BODY_BYTES: usize;
    /// A handle of a new incarnation of `replica`.
    fn open(&self, replica: u32) -> impl Future<Output = (Self::Log, Incarnation)> + Send;
}

/// An entry that says who made it.
pub fn entry(who: u32, number: u32) -> Bytes {
    format!("{who}:{number}").into()
}

/// Who made an entry, and which one it is.
///
/// # Panics
/// If the bytes are not of [`entry`].
pub fn parse(entry: &Bytes) -> (u32, u32) {
    let text = std::str::from_utf8(entry).expect("an entry of this suite is text");
    let (who, number) = text.split_once(':').expect("an entry of this suite has a colon");
    (who.parse().expect("a number"), number.parse().expect("a number"))
}

/// The first `count` items of a tail.
///
/// # Panics
/// If they do not come.
pub async fn read<L: OrderedLog>(log: &L, from: Position, count: usize) -> Vec<Committed> {
    let mut tail = log.tail(from);
    let mut items = Vec::with_capacity(count);
    while items.len() < count {
        let item = tokio::time::timeout(PATIENCE, tail.next()).await;
        let item = item.unwrap_or_else(|_| panic!("{} of {count} entries came from {from}", items.len()));
        items.push(item.expect("a tail never ends by itself").expect("a tail without errors"));
    }
    items
}

/// Everything that is committed from `from` on by the time of the call.
///
/// # Panics
/// If it can't be read.
pub async fn read_to_end<L: OrderedLog>(log: &L, from: Position) -> Vec<Committed> {
    let end = log.end().await.expect("the end is known");
    let mut tail = log.tail(from);
    let mut items: Vec<Committed> = Vec::new();
    // A barrier of our own tells where to stop, whatever segment it falls into.
    append(log, Bytes::from_static(b"barrier")).await;
    loop {
        let item = tokio::time::timeout(PATIENCE, tail.next()).await.expect("the barrier comes");
        let item = item.expect("a tail never ends by itself").expect("a tail without errors");
        if item.position >= end && item.entry == "barrier" {
            return items;
        }
        items.push(item);
    }
}

/// Appends an entry of one request until it is known to be committed; it may then be there more than once.
///
/// # Panics
/// If it is never taken, or never can be.
pub async fn append<L: OrderedLog>(log: &L, entry: Bytes) -> Position {
    append_requests(log, entry, 1).await
}

/// As [`append`], of so many requests.
///
/// # Panics
/// As [`append`].
pub async fn append_requests<L: OrderedLog>(log: &L, entry: Bytes, requests: usize) -> Position {
    for _ in 0..ATTEMPTS {
        match log.append_requests(entry.clone(), requests).await {
            Ok(appended) => return appended.position,
            Err(AppendError::Unknown { .. } | AppendError::Unavailable { .. }) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("an entry is refused for good: {error}"),
        }
    }
    panic!("an entry is not taken in {ATTEMPTS} attempts");
}

/// Panics unless each position is where the one after its predecessor stands: no gap, no repetition, no way back.
///
/// # Panics
/// As it says.
pub fn assert_dense(items: &[Committed]) {
    for pair in items.windows(2) {
        assert!(pair[1].position.follows(pair[0].position), "{} then {}", pair[0].position, pair[1].position);
    }
}

/// Runs every check on a log of its own, made by `harness`.
///
/// # Panics
/// If the engine breaks the contract.
pub async fn run_all<H: Harness, F: Future<Output = H>>(harness: impl Fn() -> F) {
    one_appender(&harness().await).await;
    many_appenders(&harness().await).await;
    real_time_order(&harness().await).await;
    fencing(&harness().await).await;
    any_position(&harness().await).await;
    following(&harness().await).await;
    truncation(&harness().await).await;
    truncation_under_way(&harness().await).await;
    publishing(&harness().await).await;
    sizes(&harness().await).await;
}

/// What one replica appends comes back in order, byte for byte, with the positions and times that it was told.
async fn one_appender<H: Harness>(harness: &H) {
    let (log, incarnation) = harness.open(0).await;
    assert_eq!(log.incarnation(), incarnation);
    assert_eq!(log.end().await, Ok(Position::START));
    assert_eq!(log.first().await, Ok(Position::START));
    let count = H::SEGMENT_ENTRIES * 3 + 2;
    let mut told = Vec::new();
    for number in 0..count {
        let appended = log.append(entry(0, number)).await.expect("appended");
        told.push((appended.position, appended.commit_time_ms, entry(0, number)));
    }
    let (other, _) = harness.open(1).await;
    assert_eq!(other.log_id(), log.log_id());
    for reader in [&log, &other] {
        let items = read(reader, Position::START, count as usize).await;
        assert_dense(&items);
        assert_eq!(items[0].position, Position::START);
        let read: Vec<_> = items.into_iter().map(|item| (item.position, item.commit_time_ms, item.entry)).collect();
        assert_eq!(read, told);
        assert!(read.windows(2).all(|pair| pair[0].1 <= pair[1].1), "the log's clock went back");
    }
    let end = log.end().await.expect("the end is known");
    assert!(end.follows(told[told.len() - 1].0), "{end}");
}

/// Several replicas, several appends at once each, tails that follow meanwhile: all readers agree, nothing is lost,
/// nothing is twice, everybody was told the truth, and segments roll all the time (I1, I2, I3). What was acknowledged
/// before another append began stands before it (I4).
async fn many_appenders<H: Harness>(harness: &H) {
    const REPLICAS: u32 = 3;
    const TASKS: u32 = 8;
    let per_task = H::SEGMENT_ENTRIES + 3;
    let total = (REPLICAS * TASKS * per_task) as usize;
    let logs = join_all((0..REPLICAS).map(|replica| harness.open(replica))).await;
    let tails: Vec<_> = logs.iter().map(|(log, _)| follow(log, total)).collect();
    let clock = Arc::new(AtomicU64::new(0));
    let appenders = logs.iter().enumerate().flat_map(|(replica, (log, _))| {
        let tasks = replica as u32 * TASKS..(replica as u32 + 1) * TASKS;
        tasks.map(|who| tokio::spawn(append_many(log.clone(), who, per_task, clock.clone())))
    });
    let calls = join_all(appenders).await.into_iter().flat_map(|calls| calls.expect("no panic")).collect::<Vec<_>>();
    let told: BTreeMap<_, _> = calls.iter().map(|call| (call.position, call.entry)).collect();
    assert_eq!(told.len(), total, "two entries were told the same position");
    assert_real_time_order(calls);
    let mut views = join_all(logs.iter().map(|(log, _)| read(log, Position::START, total))).await;
    views.extend(join_all(tails).await.into_iter().map(|view| view.expect("no panic")));
    for items in &views {
        assert_dense(items);
        assert_eq!(items, &views[0], "two readers saw different logs");
        let read: BTreeMap<_, _> = items.iter().map(|item| (item.position, parse(&item.entry))).collect();
        assert_eq!(read, told);
        let segments: BTreeSet<_> = items.iter().map(|item| item.position.segment).collect();
        assert!(segments.len() > 3, "segments do not roll");
    }
}

/// A tail from the start that is read at once, in a task of its own.
fn follow<L: OrderedLog>(log: &L, count: usize) -> JoinHandle<Vec<Committed>> {
    let log = log.clone();
    tokio::spawn(async move { read(&log, Position::START, count).await })
}

/// One acknowledged append, between two readings of a clock that all share.
struct Call {
    began: u64,
    ended: u64,
    position: Position,
    entry: (u32, u32),
}

async fn append_many<L: OrderedLog>(log: L, who: u32, count: u32, clock: Arc<AtomicU64>) -> Vec<Call> {
    let mut calls = Vec::new();
    for number in 0..count {
        let began = clock.fetch_add(1, Ordering::SeqCst);
        let position = log.append(entry(who, number)).await.expect("appended").position;
        let ended = clock.fetch_add(1, Ordering::SeqCst);
        calls.push(Call { began, ended, position, entry: (who, number) });
    }
    calls
}

/// I4: of two appends that do not overlap, the earlier one stands first.
fn assert_real_time_order(mut calls: Vec<Call>) {
    calls.sort_by_key(|call| call.position);
    // Whatever stands at or after a call's place must not have ended before the call began.
    let mut earliest_end = u64::MAX;
    for call in calls.iter().rev() {
        assert!(earliest_end > call.began, "{:?} at {} stands too early", call.entry, call.position);
        earliest_end = earliest_end.min(call.ended);
    }
}

/// I4: an append that begins after another one was acknowledged, on whatever replica, stands after it.
async fn real_time_order<H: Harness>(harness: &H) {
    let logs = [harness.open(0).await.0, harness.open(1).await.0];
    let mut last = None;
    for number in 0..H::SEGMENT_ENTRIES * 2 {
        let position = append(&logs[number as usize % 2], entry(0, number)).await;
        assert!(last < Some(position), "{last:?} then {position}");
        last = Some(position);
    }
}

/// I6: once a new incarnation is taken, nothing of the old one is appended or given up.
async fn fencing<H: Harness>(harness: &H) {
    let (quiet, quiet_incarnation) = harness.open(7).await;
    append(&quiet, entry(0, 0)).await;
    let (old, old_incarnation) = harness.open(7).await;
    assert!(old_incarnation > quiet_incarnation);
    assert_eq!(quiet.append(entry(97, 0)).await, Err(AppendError::Fenced));
    let (bystander, _) = harness.open(8).await;
    let storm: Vec<_> = (1..9).map(|who| tokio::spawn(append_until_fenced(old.clone(), who))).collect();
    // In full swing before it is fenced.
    while bystander.end().await.expect("known") < Position::new(0, 5) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (new, new_incarnation) = harness.open(7).await;
    assert!(new_incarnation > old_incarnation, "{new_incarnation} after {old_incarnation}");
    let mark = append(&new, entry(99, 0)).await;
    let mut acknowledged = 1;
    for positions in join_all(storm).await {
        for position in positions.expect("no panic") {
            assert!(position < mark, "an old incarnation appended at {position}");
            acknowledged += 1;
        }
    }
    assert!(acknowledged > 5, "the old one appended nothing: nothing was tried");
    assert_eq!(old.append(entry(98, 0)).await, Err(AppendError::Fenced));
    assert_eq!(old.truncate(mark.into()).await, Err(LogError::Fenced));
    let items = read_to_end(&bystander, Position::START).await;
    assert_dense(&items);
    assert_eq!(parse(&items[items.len() - 1].entry), (99, 0), "nothing of the old one follows the new one");
    assert_eq!(items.len(), acknowledged + 1);
}

/// Appends until the answer is that the incarnation is over; where its entries stand.
async fn append_until_fenced<L: OrderedLog>(log: L, who: u32) -> Vec<Position> {
    let mut positions = Vec::new();
    for number in 0..100_000 {
        match log.append(entry(who, number)).await {
            Ok(appended) => positions.push(appended.position),
            Err(AppendError::Fenced) => return positions,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("an old incarnation is not fenced");
}

/// A tail starts wherever it is asked to, waits at the end, and refuses what lies beyond.
async fn any_position<H: Harness>(harness: &H) {
    let (log, _) = harness.open(0).await;
    let (other, _) = harness.open(1).await;
    for number in 0..H::SEGMENT_ENTRIES * 2 + 1 {
        append(&log, entry(0, number)).await;
    }
    let all = read_to_end(&log, Position::START).await;
    for (index, item) in all.iter().enumerate() {
        assert_eq!(read(&other, item.position, all.len() - index).await, all[index..]);
        // After the last entry of a segment, too.
        let rest = read(&other, item.position.next(), all.len() - index - 1).await;
        assert_eq!(rest, all[index + 1..]);
    }
    let end = log.end().await.expect("the end is known");
    for beyond in [end.next(), Position::new(end.segment + 3, 0), Position::new(0, H::SEGMENT_ENTRIES * 50)] {
        let item = tokio::time::timeout(PATIENCE, other.tail(beyond).next()).await.expect("it answers");
        let error = item.expect("an item").expect_err("nothing is there");
        assert!(!matches!(error, TailError::Truncated { .. }), "{beyond}: {error}");
    }
    let mut tail = other.tail(end);
    assert!(tokio::time::timeout(Duration::from_millis(100), tail.next()).await.is_err(), "nothing is there yet");
    append(&log, entry(1, 0)).await;
    let item = tokio::time::timeout(PATIENCE, tail.next()).await.expect("it comes").expect("an item");
    assert_eq!(parse(&item.expect("an entry").entry), (1, 0));
}

/// Tails that follow live, on the appending replicas and on one that only reads, see every entry once, in one order.
async fn following<H: Harness>(harness: &H) {
    let logs = join_all((0..3).map(|replica| harness.open(replica))).await;
    let per_replica = H::SEGMENT_ENTRIES * 2;
    let total = per_replica as usize * 2;
    let tails: Vec<_> = logs.iter().map(|(log, _)| follow(log, total)).collect();
    let appenders = (0..2u32).map(|replica| {
        let log = logs[replica as usize].0.clone();
        tokio::spawn(async move {
            for number in 0..per_replica {
                append(&log, entry(replica, number)).await;
                // Now busy, now idle: a tail must neither miss a doorbell nor need one.
                if number % 5 == 0 {
                    tokio::time::sleep(Duration::from_millis(u64::from(number % 4) * 3)).await;
                }
            }
        })
    });
    for done in join_all(appenders).await {
        done.expect("no panic");
    }
    let views: Vec<_> = join_all(tails).await.into_iter().map(|view| view.expect("no panic")).collect();
    for items in &views {
        assert_dense(items);
        assert_eq!(items, &views[0]);
        let each: BTreeSet<_> = items.iter().map(|item| parse(&item.entry)).collect();
        assert_eq!(each.len(), total);
    }
}

/// What was given up is said to be, what was not is there, at any cut; cuts never go back and may be repeated.
async fn truncation<H: Harness>(harness: &H) {
    let (log, _) = harness.open(0).await;
    for number in 0..H::SEGMENT_ENTRIES * 3 + 4 {
        append(&log, entry(0, number)).await;
    }
    let all = read_to_end(&log, Position::START).await;
    let last = all.len() - 1;
    let per_segment = H::SEGMENT_ENTRIES as usize;
    for cut in [0, 2, per_segment - 1, per_segment + 1, per_segment * 2 + 3, per_segment * 2 + 3, 5, last] {
        let below = all[cut].position;
        let before = log.first().await.expect("known");
        let bytes = Some(cut as u64 * 1000);
        log.truncate(Beginning { position: below, bytes }).await.expect("truncated");
        let Beginning { position: first, bytes: said } = log.beginning().await.expect("known");
        assert_eq!(first, before.max(below));
        assert!(below != first || said == bytes || first == Position::START, "what was given up is said with where");
        let (reader, _) = harness.open(1).await;
        for item in &all {
            let answer = tokio::time::timeout(PATIENCE, reader.tail(item.position).next()).await.expect("it answers");
            match answer.expect("an item") {
                Ok(found) => assert!(item.position >= first && &found == item, "{} at {first}", item.position),
                Err(TailError::Truncated { first: said }) => assert!(item.position < first && said == first),
                Err(error) => panic!("{}: {error}", item.position),
            }
        }
    }
    let end = log.end().await.expect("known");
    assert_eq!(log.truncate(end.next().into()).await, Err(LogError::OutOfRange { position: end.next(), end }));
    log.truncate(end.into()).await.expect("everything may be given up");
    assert!(append(&log, entry(1, 0)).await >= end, "positions are never given twice");
    assert_eq!(parse(&read(&log, end, 1).await[0].entry), (1, 0));
}

/// What replicas make known is seen by all, replaced as a whole, and not by an incarnation that is over.
async fn publishing<H: Harness>(harness: &H) {
    let (log, incarnation) = harness.open(0).await;
    let (other, second) = harness.open(1).await;
    assert_eq!(log.published().await, Ok(Vec::new()));
    let of = |replica, incarnation, sequence| Published {
        replica,
        incarnation,
        needs: Position::new(1, sequence),
        index: u64::from(sequence),
        source: format!("http://replica-{replica}:7070"),
        durable: true,
        beat: 1,
        executed: 7,
        bytes: Some(u64::from(sequence) * 100),
        forward: u64::from(sequence) + 4,
    };
    other.publish(of(1, second, 3)).await.expect("published");
    log.publish(of(0, incarnation, 1)).await.expect("published");
    log.publish(of(0, incarnation, 2)).await.expect("published");
    let expected = vec![of(0, incarnation, 2), of(1, second, 3)];
    for reader in [&log, &other] {
        assert_eq!(reader.published().await.as_ref(), Ok(&expected));
    }
    let (newer, third) = harness.open(0).await;
    assert_eq!(log.publish(of(0, incarnation, 9)).await, Err(LogError::Fenced));
    assert_eq!(newer.published().await.as_ref(), Ok(&expected), "they outlive who wrote them");
    newer.publish(of(0, third, 4)).await.expect("published");
    assert_eq!(other.published().await, Ok(vec![of(0, third, 4), of(1, second, 3)]));
}

/// Tails far behind a truncation learn of it; tails ahead of it notice nothing.
async fn truncation_under_way<H: Harness>(harness: &H) {
    let (log, _) = harness.open(0).await;
    let (reader, _) = harness.open(1).await;
    let total = H::SEGMENT_ENTRIES * 5;
    let slow = reader.tail(Position::START);
    let follower = follow(&reader, total as usize);
    for number in 0..total {
        let position = append(&log, entry(0, number)).await;
        if number % 7 == 6 && position.segment >= 2 {
            log.truncate(Position::new(position.segment - 2, position.sequence).into()).await.ok();
        }
    }
    // The follower is at most two segments behind only if it keeps up; if not, it was told, and the test says so.
    let items = match follower.await {
        Ok(items) => items,
        Err(error) => panic!("a tail that follows was truncated: {error}"),
    };
    assert_dense(&items);
    let outcomes: Vec<_> = slow.take(total as usize + 1).collect().await;
    let told = outcomes.iter().position(Result::is_err).expect("a tail that slept was not told");
    assert!(matches!(outcomes[told], Err(TailError::Truncated { .. })), "{:?}", outcomes[told]);
    assert_eq!(told, outcomes.len() - 1, "an error is the last item");
}

/// Entries of any size up to the limit come back; larger ones are refused before anything is proposed.
async fn sizes<H: Harness>(harness: &H) {
    let (log, _) = harness.open(0).await;
    let (other, _) = harness.open(1).await;
    let mut appended = Vec::new();
    for bytes in [0, 1, 1000, H::MAX_BODY_BYTES / 2 + 1, H::MAX_BODY_BYTES - 1, H::MAX_BODY_BYTES, 3] {
        let body: Bytes = (0..bytes).map(|index| (index % 251) as u8).collect::<Vec<_>>().into();
        append(&log, body.clone()).await;
        appended.push(body);
    }
    let limit = H::MAX_BODY_BYTES;
    let refused = log.append(vec![0; limit + 1].into()).await;
    assert_eq!(refused, Err(AppendError::TooLarge { bytes: limit + 1, limit }));
    for reader in [&log, &other] {
        let items = read(reader, Position::START, appended.len()).await;
        assert!(items.iter().map(|item| &item.entry).eq(appended.iter()), "a body came back changed");
    }
    // A body given up with its entry leaves the later ones alone.
    let items = read(&log, Position::START, appended.len()).await;
    log.truncate(items[4].position.into()).await.expect("truncated");
    let rest = read(&other, items[4].position, appended.len() - 4).await;
    assert_eq!(rest, items[4..]);
    log.truncate(items[6].position.into()).await.expect("truncated");
    assert_eq!(read(&other, items[6].position, 1).await, items[6..]);
}
