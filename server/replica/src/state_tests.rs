use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

fn record(sequence: u64, clock_us: i64) -> Record {
    Record { sequence, clock_us, ..Record::bare(RecordKind::Dml) }
}

fn entry(origin: u32, incarnation: i64, floor: u64, sequences: &[u64]) -> Entry {
    let records = sequences.iter().map(|sequence| record(*sequence, 0)).collect();
    Entry { origin, incarnation, floor, records }
}

fn indexes(admitted: &[Admitted]) -> Vec<(u64, u64)> {
    admitted.iter().map(|a| (a.index, a.record.sequence)).collect()
}

#[test]
fn i3_duplicates_are_dropped_above_and_below_the_floor() {
    let mut state = State::initial(Uuid::from_u128(7));
    let mut at = Position::START;
    let mut admit = |entry| {
        let admitted = state.admit(at, 0, entry).unwrap();
        at = at.next();
        indexes(&admitted)
    };
    assert_eq!(admit(entry(0, 1, 1, &[1, 2])), [(1, 1), (2, 2)]);
    assert_eq!(admit(entry(0, 1, 1, &[1, 2])), []);
    assert_eq!(admit(entry(0, 1, 3, &[4])), [(3, 4)]);
    assert_eq!(admit(entry(0, 1, 1, &[2, 3, 4])), [(4, 3)], "an old copy has the old floor");
    assert_eq!(admit(entry(0, 2, 1, &[1])), [(5, 1)], "a new incarnation counts anew");
    assert_eq!(admit(entry(1, 1, 1, &[1])), [(6, 1)]);
}

#[test]
fn i6_an_old_incarnation_stops_the_replica() {
    let mut state = State::initial(Uuid::from_u128(7));
    state.admit(Position::START, 0, entry(0, 5, 1, &[1])).unwrap();
    let error = state.admit(Position::START.next(), 0, entry(0, 4, 1, &[1])).unwrap_err();
    assert!(matches!(error, StateError::OldIncarnation { origin: 0, found: 4, known: 5 }));
}

#[test]
fn i3_a_gap_stops_the_replica() {
    let mut state = State::initial(Uuid::from_u128(7));
    assert!(matches!(state.admit(Position::new(0, 1), 0, entry(0, 1, 1, &[1])), Err(StateError::Gap { .. })));
    let mut state = State::initial(Uuid::from_u128(7));
    state.admit(Position::START, 0, entry(0, 1, 1, &[1])).unwrap();
    let mut other = state.clone();
    assert!(state.admit(Position::new(1, 0), 0, entry(0, 1, 1, &[2])).is_ok());
    assert!(other.admit(Position::new(0, 2), 0, entry(0, 1, 1, &[2])).is_err());
}

#[test]
fn one_wrong_clock_does_not_drag_the_log_ahead() {
    let mut state = State::initial(Uuid::from_u128(7));
    let wrong = Entry { origin: 0, incarnation: 1, floor: 1, records: vec![record(1, i64::MAX), record(2, -5)] };
    let admitted = state.admit(Position::START, 10_000, wrong).unwrap();
    assert_eq!(admitted[0].timestamp_us, 11_000_000);
    assert_eq!(admitted[1].timestamp_us, 11_000_001);
}

#[test]
fn a_schema_changes_at_a_whole_millisecond() {
    let mut state = State::initial(Uuid::from_u128(7));
    let ddl = |sequence, clock_us| Record { kind: RecordKind::Ddl, ..record(sequence, clock_us) };
    let records = vec![record(1, 5_000_100), ddl(2, 0), record(3, 5_000_200), ddl(4, 7_000_000), record(5, 0)];
    let admitted =
        state.admit(Position::START, 10_000, Entry { origin: 0, incarnation: 1, floor: 1, records }).unwrap();
    let times: Vec<i64> = admitted.iter().map(|admitted| admitted.timestamp_us).collect();
    assert_eq!(times, [5_000_100, 5_001_000, 5_001_001, 7_000_000, 7_000_001]);
}

#[test]
fn i8_later_semantics_stop_the_replica() {
    let mut state = State::initial(Uuid::from_u128(7));
    let record = Record { sequence: 1, argument: SEMANTICS_VERSION + 1, ..Record::bare(RecordKind::Semantics) };
    let entry = Entry { origin: 0, incarnation: 1, floor: 1, records: vec![record] };
    assert!(matches!(state.admit(Position::START, 0, entry), Err(StateError::Semantics { .. })));
}

#[test]
fn a_state_that_no_records_lead_to_is_refused() {
    let log = Uuid::from_u128(7);
    let mut state = State::initial(log);
    state.admit(Position::START, 0, entry(0, 1, 1, &[1, 2, 5])).unwrap();
    let good = serde_json::to_value(&state).unwrap();
    let restored = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut value = good.clone();
        change(&mut value);
        State::restore(value, log, 3)
    };
    assert_eq!(restored(&|_| ()), Ok(state.clone()));
    let verdicts = |said: serde_json::Value, decided: &[u64], skipped: &[u64], below: u64| serde_json::json!({ "said": said, "decided": decided, "skipped": skipped, "below": below });
    let none = || serde_json::json!({});
    let said = serde_json::json!({ "4": { "0": { "sequence": 1, "failure": null, "excused": [] } } });
    assert!(restored(&|value| value["verdicts"] = verdicts(none(), &[2], &[3], 3)).is_ok());
    for wrong in [
        verdicts(said, &[], &[], 0),
        verdicts(none(), &[4], &[], 0),
        verdicts(none(), &[], &[4], 0),
        verdicts(none(), &[], &[], 4),
    ] {
        assert!(restored(&|value| value["verdicts"] = wrong.clone()).is_err(), "{wrong}");
    }
    assert!(restored(&|value| value["schema_index"] = 4.into()).is_err());
    for seen in [serde_json::json!({ "5": 4 }), serde_json::json!({ "1": 3, "3": 5 })] {
        assert!(restored(&|value| value["origins"]["0"]["seen"] = seen.clone()).is_err(), "{seen}");
    }
}

#[test]
fn a_store_of_another_log_is_refused() {
    let saved = serde_json::to_value(State::initial(Uuid::from_u128(7))).unwrap();
    assert!(State::restore(saved.clone(), Uuid::from_u128(7), 0).is_ok());
    assert!(State::restore(saved.clone(), Uuid::from_u128(8), 0).unwrap_err().contains("belongs to the log"));
    assert!(State::restore(saved, Uuid::from_u128(7), 1).is_err());
    let older = State::restore(serde_json::json!({"format": 1, "log_id": 7}), Uuid::from_u128(7), 0);
    assert!(older.unwrap_err().contains("format 1"));
    assert!(State::restore(serde_json::json!({}), Uuid::from_u128(7), 0).is_err());
}

proptest! {
    #[test]
    fn range_set_is_a_set(operations in proptest::collection::vec((any::<bool>(), 0u64..40), 0..200)) {
        let mut ranges = RangeSet::default();
        let mut model = HashSet::new();
        for (insert, number) in operations {
            if insert {
                prop_assert_eq!(ranges.insert(number), model.insert(number));
            } else {
                ranges.forget_below(number / 4);
                model.retain(|n| *n >= number / 4);
            }
            for n in 0..41 {
                prop_assert_eq!(ranges.contains(n), model.contains(&n), "{}", n);
            }
            for (a, b) in ranges.0.iter().zip(ranges.0.iter().skip(1)) {
                prop_assert!(a.1 + 1 < *b.0, "ranges are disjoint and not adjacent");
            }
        }
    }
}

/// A proposer as the log sees it: entries with unknown outcomes come again, later and in any order.
#[derive(Debug, Clone)]
struct Step {
    origin: u32,
    restart: bool,
    records: u64,
    copies: Vec<usize>,
    clock: i64,
    commit_ms: i64,
}

fn step() -> impl Strategy<Value = Step> {
    let copies = proptest::collection::vec(0usize..6, 0..3);
    (0u32..3, proptest::bool::weighted(0.05), 1u64..4, copies, 0i64..5_000_000, 0i64..4_000).prop_map(
        |(origin, restart, records, copies, clock, commit_ms)| Step {
            origin,
            restart,
            records,
            copies,
            clock,
            commit_ms,
        },
    )
}

/// The log that proposers following the rules leave behind: every entry once, and some again after a delay, before
/// the origin's next incarnation. The floor never passes a sequence that is not in the log yet.
fn log_of(steps: &[Step]) -> Vec<(Position, i64, Entry)> {
    let mut log: Vec<(i64, Entry)> = Vec::new();
    let mut late: Vec<(usize, i64, Entry)> = Vec::new();
    let mut origins: BTreeMap<u32, (i64, u64)> = BTreeMap::new();
    let mut incarnations = 0;
    for step in steps {
        let origin = origins.entry(step.origin).or_insert_with(|| {
            incarnations += 1;
            (incarnations, 1)
        });
        if step.restart {
            incarnations += 1;
            *origin = (incarnations, 1);
            late.retain(|(_, _, entry)| entry.origin != step.origin);
        }
        let (incarnation, next) = *origin;
        origin.1 += step.records;
        let records = (next..next + step.records).map(|sequence| record(sequence, step.clock)).collect();
        let new = Entry { origin: step.origin, incarnation, floor: next, records };
        // Some entries come for the first time late: their sequences hold the floor down.
        let held = late.iter().filter(|(_, _, e)| e.origin == step.origin).filter_map(|(_, _, e)| e.records.first());
        let floor = held.map(|r| r.sequence).min().unwrap_or(next).min(next);
        let new = Entry { floor, ..new };
        for delay in &step.copies {
            late.push((*delay, step.commit_ms, new.clone()));
        }
        if step.copies.len() != 1 {
            log.push((step.commit_ms, new));
        }
        late.retain_mut(|(delay, commit_ms, entry)| {
            let due = *delay == 0;
            if due {
                log.push((*commit_ms, entry.clone()));
            }
            *delay = delay.saturating_sub(1);
            !due
        });
    }
    let mut at = None::<Position>;
    let place = |(n, (commit_ms, entry)): (usize, (i64, Entry))| {
        let position = at.map_or(Position::START, |last| if n % 7 == 0 { last.next_segment() } else { last.next() });
        at = Some(position);
        (position, commit_ms, entry)
    };
    log.into_iter().enumerate().map(place).collect()
}

proptest! {
    /// I1, I3, I10: against a model that remembers everything; a restart at any point changes nothing.
    #[test]
    fn equals_a_naive_model(steps in proptest::collection::vec(step(), 1..60), restart_every in 1usize..10) {
        let mut state = State::initial(Uuid::from_u128(3));
        let mut seen = HashSet::new();
        let (mut index, mut clock, mut timestamp, mut bytes) = (0u64, 0i64, 0i64, 0u64);
        for (n, (position, commit_ms, entry)) in log_of(&steps).into_iter().enumerate() {
            if n % restart_every == 0 {
                let saved = serde_json::to_string(&state).unwrap();
                let restored = State::restore(serde_json::from_str(&saved).unwrap(), Uuid::from_u128(3), state.index()).unwrap();
                prop_assert_eq!(&restored, &state);
                state = restored;
            }
            let mut expected = Vec::new();
            for record in &entry.records {
                if seen.insert((entry.origin, entry.incarnation, record.sequence)) {
                    index += 1;
                    clock = clock.max(record.clock_us.min(commit_ms * 1000 + 1_000_000));
                    timestamp = (timestamp + 1).max(clock);
                    expected.push((index, timestamp, record.sequence));
                }
            }
            // Every copy takes room, and each node some more than its bytes.
            bytes += entry.encode().len() as u64 + 300;
            let admitted = state.admit(position, commit_ms, entry).unwrap();
            prop_assert_eq!(state.bytes(), Some(bytes));
            let found: Vec<_> = admitted.iter().map(|a| (a.index, a.timestamp_us, a.record.sequence)).collect();
            prop_assert_eq!(found, expected);
        }
    }
}

/// I1: with a state that was saved in the middle of it, too; and one without verdicts is what programs without them read.
#[test]
fn a_verdict_follows_from_the_log() {
    let mut state = State::initial(Uuid::from_u128(7));
    let mut at = Position::START;
    let mut admit = |state: &mut State, origin, incarnation, record: Record| {
        let entry = Entry { origin, incarnation, floor: 1, records: vec![record] };
        let admitted = state.admit(at, 0, entry);
        at = at.next();
        admitted.map(|admitted| admitted.into_iter().next().and_then(|admitted| admitted.verdict))
    };
    let complain = |sequence, index| {
        let (excused, heard) = (BTreeSet::new(), BTreeMap::new());
        let complaint = Complaint { failure: Some("a".into()), excused, heard, round: sequence };
        Record { sequence, ..complaint.record(index) }
    };
    for origin in 0..2 {
        admit(&mut state, origin, 1, record(1, 0)).unwrap();
    }
    let saved = serde_json::to_value(&state).unwrap();
    assert!(saved["format"] == 2 && saved.get("verdicts").is_none(), "{saved}");
    for index in [3, u64::MAX] {
        let said = admit(&mut state, 0, 1, complain(if index == 3 { 2 } else { 3 }, index)).unwrap();
        assert_eq!((said, state.waiting(index)), (None, None), "of itself, or of what is to come");
    }
    assert_eq!(admit(&mut state, 0, 1, complain(4, 1)).unwrap(), None);
    let saved = serde_json::to_value(&state).unwrap();
    assert_eq!(saved["format"], STATE_FORMAT);
    let mut other = State::restore(saved, Uuid::from_u128(7), state.index()).unwrap();
    assert_eq!(other, state);
    // Replica 0 has started anew, and executes record 1 again: it may succeed.
    assert_eq!(admit(&mut state, 0, 2, record(1, 0)).unwrap(), None);
    assert_eq!(admit(&mut state, 1, 1, complain(2, 1)).unwrap(), None);
    assert_eq!(state.waiting(1).map(|waiting| waiting.missing), Some(vec![0]));
    let executed = Verdict { index: 1, failure: "a".into(), skipped: false };
    let mut left_out = state.clone();
    left_out.skip(1);
    assert!(state.may_hold(1) && !left_out.may_hold(1) && !left_out.may_hold(state.index() + 1));
    let last = Entry { origin: 0, incarnation: 2, floor: 1, records: vec![complain(2, 1)] };
    let next = state.next_position();
    let verdict = |state: &mut State| state.admit(next, 0, last.clone()).unwrap().remove(0).verdict;
    assert_eq!(verdict(&mut left_out), Some(Verdict { skipped: true, ..executed.clone() }));
    assert_eq!(verdict(&mut state), Some(executed));
    assert_eq!(left_out, state, "nothing is left of how it came to it");
    // What the new incarnation has not voided stands.
    let both = Entry { origin: 1, incarnation: 1, floor: 1, records: vec![complain(2, 1)] };
    assert!(other.admit(other.next_position(), 0, both).unwrap().remove(0).verdict.is_some());
}

/// What was on its way for long, and so says of a replica that it was silent, when that is back: it is waited for.
#[test]
fn an_excuse_counts_only_as_long_as_nothing_came() {
    let complain = |state: &State, origin| {
        let heard = [(2, state.heard(2))].into();
        let complaint = Complaint { failure: Some("a".into()), excused: BTreeSet::from([2]), heard, round: 1 };
        let record = Record { sequence: 2, ..complaint.record(1) };
        Entry { origin, incarnation: 1, floor: 1, records: vec![record] }
    };
    let cases = [
        (None, false),
        (Some(entry(2, 1, 1, &[2])), true),
        (Some(entry(2, 2, 1, &[1])), true),
        (Some(entry(1, 1, 1, &[9])), false),
        // A copy of what is there, that came late by way of another replica.
        (Some(entry(2, 1, 1, &[1])), false),
    ];
    for (n, (comes, is_back)) in cases.into_iter().enumerate() {
        // It comes before the complaints, or between them.
        for between in [false, true] {
            let mut state = State::initial(Uuid::from_u128(7));
            let admit = |state: &mut State, entry| state.admit(state.next_position(), 0, entry).unwrap();
            for origin in 0..3 {
                admit(&mut state, entry(origin, 1, 1, &[1]));
            }
            let [first, second] = [0, 1].map(|origin| complain(&state, origin));
            let mut entries = vec![first, second];
            entries.splice(usize::from(between)..usize::from(between), comes.clone());
            let admitted = entries.into_iter().flat_map(|entry| admit(&mut state, entry));
            let verdict = admitted.filter_map(|admitted| admitted.verdict).next();
            assert_eq!(verdict.is_none(), is_back, "case {n}, between: {between}");
            let missing = state.waiting(1).map(|waiting| waiting.missing);
            assert_eq!(missing, is_back.then(|| vec![2]), "case {n}, between: {between}");
        }
    }
}

#[test]
fn i8_a_complaint_of_a_later_version_stops_the_replica() {
    let mut state = State::initial(Uuid::from_u128(7));
    let record = Record { sequence: 1, ..Record::bare(RecordKind::Complaint) };
    let entry = Entry { origin: 0, incarnation: 1, floor: 1, records: vec![record] };
    assert_eq!(state.admit(Position::START, 0, entry), Err(StateError::Complaint { index: 1 }));
}

/// A count that began at a state without one would be another one on each replica.
#[test]
fn a_state_of_before_there_were_bytes_never_counts() {
    let log = Uuid::from_u128(7);
    let mut state = State::initial(log);
    state.admit(Position::START, 0, entry(0, 1, 1, &[1])).unwrap();
    let mut saved = serde_json::to_value(&state).unwrap();
    assert!(saved.as_object_mut().unwrap().remove("bytes").is_some_and(|bytes| bytes.as_u64() > Some(300)));
    let mut older = State::restore(saved.clone(), log, 1).unwrap();
    assert_eq!(serde_json::to_value(&older).unwrap(), saved, "a program of before reads it back");
    older.admit(Position::START.next(), 0, entry(0, 1, 2, &[2])).unwrap();
    assert_eq!((older.index(), older.bytes()), (2, None));
}
