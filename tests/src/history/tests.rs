//! Histories known to be good or bad, and made ones: those of a simulated object pass, and each mistake in one is found.

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::*;

/// Made histories of each kind.
const SEEDS: u64 = 300;

fn done(client: u32, begin: u64, end: u64, action: Action) -> Operation {
    let (object, level) = ("x".to_owned(), Level::Strict);
    Operation { object, client, replica: 0, level, begin, end, action, outcome: Outcome::Done }
}

fn write(client: u32, begin: u64, end: u64, value: Value) -> Operation {
    done(client, begin, end, Action::Write(vec![(1, value)]))
}

fn read(client: u32, begin: u64, end: u64, value: Value) -> Operation {
    done(client, begin, end, Action::Read(vec![(1, value)]))
}

fn swap(client: u32, begin: u64, end: u64, from: Value, to: Value, found: Option<Value>) -> Operation {
    done(client, begin, end, Action::Swap { cell: 1, from, to, found })
}

fn as_unknown(operation: Operation) -> Operation {
    Operation { outcome: Outcome::Unknown, ..operation }
}

fn refused(history: &[Operation]) -> String {
    check(history).expect_err("the history is bad").to_string()
}

#[test]
fn reads_during_a_write_may_see_it_or_not_but_not_first_the_one_and_then_the_other() {
    let good = [write(1, 0, 100, 7), read(2, 10, 20, 0), read(3, 30, 40, 7), read(2, 50, 60, 7)];
    assert_eq!(check(&good).unwrap(), Checked { objects: 1, ordered: 4, sessions: 0 });
    let bad = [write(1, 0, 100, 7), read(2, 10, 20, 7), read(3, 30, 40, 0)];
    assert!(refused(&bad).contains("no order explains"), "{}", refused(&bad));
    // At the same time: no order in time.
    check(&[write(1, 0, 100, 7), read(2, 10, 30, 7), read(3, 30, 40, 0)]).unwrap();
}

#[test]
fn a_write_of_unknown_outcome_may_take_effect_at_any_later_time_once_or_never() {
    let lost = as_unknown(write(1, 0, 10, 7));
    check(&[lost.clone(), read(2, 20, 30, 0), read(2, 40, 50, 0)]).unwrap();
    check(&[lost.clone(), read(2, 20, 30, 0), read(2, 40, 50, 7)]).unwrap();
    check(&[lost.clone(), write(3, 20, 30, 8), read(2, 40, 50, 8), read(2, 60, 70, 7)]).unwrap();
    refused(&[lost.clone(), read(2, 20, 30, 7), read(2, 40, 50, 0)]);
    refused(&[lost, read(2, 20, 30, 7), write(3, 40, 50, 8), read(2, 60, 70, 7)]);
}

#[test]
fn a_chain_of_conditional_writes_of_unknown_outcome_is_followed() {
    let chain = [as_unknown(swap(1, 0, 10, 0, 7, None)), as_unknown(swap(2, 20, 30, 7, 8, None))];
    let seen = |value| [chain[0].clone(), chain[1].clone(), read(3, 40, 50, value)];
    for value in [0, 7, 8] {
        check(&seen(value)).unwrap();
    }
    refused(&[&seen(8)[..], &[read(3, 60, 70, 7)]].concat());
}

#[test]
fn two_conditional_writes_have_one_winner() {
    check(&[swap(1, 0, 10, 0, 7, None), swap(2, 5, 15, 0, 8, Some(7))]).unwrap();
    refused(&[swap(1, 0, 10, 0, 7, None), swap(2, 5, 15, 0, 8, None)]);
    refused(&[swap(1, 0, 10, 0, 7, None), swap(2, 20, 30, 0, 8, Some(0))]);
}

#[test]
fn values_that_nobody_wrote_or_that_failed_or_come_from_the_future() {
    assert!(refused(&[read(1, 0, 10, 5)]).contains("never written"));
    let failed = Operation { outcome: Outcome::Failed, ..write(1, 0, 10, 5) };
    assert!(refused(&[failed, read(1, 20, 30, 5)]).contains("failed"));
    assert!(refused(&[read(1, 0, 10, 5), write(2, 20, 30, 5)]).contains("future"));
    assert!(refused(&[write(1, 0, 10, 5), write(2, 20, 30, 5)]).contains("twice"));
}

#[test]
fn a_scan_sees_a_batch_whole_and_later_scans_do_not_go_back() {
    let batch = |client, begin, end, value| done(client, begin, end, Action::Write(vec![(1, value), (2, value)]));
    let scan = |begin, end, a, b| done(9, begin, end, Action::Read(vec![(1, a), (2, b)]));
    check(&[batch(1, 0, 50, 7), scan(10, 20, 0, 0), scan(30, 40, 7, 7)]).unwrap();
    refused(&[batch(1, 0, 50, 7), scan(10, 20, 7, 0)]);
    refused(&[batch(1, 0, 50, 7), scan(10, 20, 7, 7), scan(30, 40, 0, 0)]);
    refused(&[batch(1, 0, 5, 7), scan(10, 20, 0, 0)]);
    // Two batches at once: which one is the later is the same for every row.
    refused(&[batch(1, 0, 50, 7), batch(2, 0, 50, 8), scan(60, 70, 7, 8)]);
}

#[test]
fn too_many_possibilities_are_no_proof() {
    let writes: Vec<_> = (1..=24).map(|n| write(n, 0, 100, Value::from(n))).collect();
    let error = refused(&[writes, vec![read(30, 200, 210, 3)]].concat());
    assert!(error.contains("undecided"), "{error}");
}

#[test]
fn one_replica_never_goes_back_and_shows_what_was_written_through_it() {
    let one = |replica, operation| Operation { replica, level: Level::One, ..operation };
    let good =
        [one(0, write(1, 0, 10, 5)), one(1, read(2, 20, 30, 0)), one(0, read(1, 20, 30, 5)), write(1, 40, 90, 6)];
    assert_eq!(check(&good).unwrap(), Checked { objects: 1, ordered: 2, sessions: 2 });
    let back = [&good[..], &[one(1, read(3, 50, 60, 6)), one(1, read(2, 70, 80, 5))]].concat();
    assert!(refused(&back).contains("went back from 6 to 5"), "{}", refused(&back));
    refused(&[&good[..], &[one(0, read(2, 50, 60, 0))]].concat());
    // A row of two writers, or written after an unknown outcome, says nothing.
    assert!(refused(&[&good[..], &[write(2, 100, 110, 7)]].concat()).contains("one client"));
    let unknown = [as_unknown(write(1, 0, 10, 5)), write(1, 20, 30, 6), one(0, read(2, 40, 50, 6))];
    assert!(refused(&unknown).contains("unknown outcome"));
}

#[test]
fn a_history_survives_its_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let history = made(1).operations;
    save(&history, file.path()).unwrap();
    assert_eq!(load(file.path()).unwrap(), history);
    std::fs::write(file.path(), "{}\n").unwrap();
    assert!(format!("{:#}", load(file.path()).unwrap_err()).contains("line 1"));
}

/// A history of a simulated object of three rows, and when each operation took effect.
struct Made {
    operations: Vec<Operation>,
    effects: Vec<u64>,
}

/// Five clients, each with one request at a time; every request takes effect at a moment between its two ends, but for
/// those of unknown outcome, which do so later or never.
fn made(seed: u64) -> Made {
    let mut random = StdRng::seed_from_u64(seed);
    let mut planned = Vec::new();
    for client in 0..5u32 {
        let mut now = random.random_range(0..20);
        for _ in 0..random.random_range(5..25) {
            let (begin, end) = (now, now + random.random_range(1..40));
            let unknown = random.random_bool(0.1);
            let effect = if unknown { begin + random.random_range(0..300) } else { random.random_range(begin..=end) };
            planned.push((effect, client, begin, end, unknown));
            now = end + random.random_range(1..15);
        }
    }
    planned.sort_unstable();
    let mut state = [0; 3];
    let mut made = Made { operations: Vec::new(), effects: Vec::new() };
    for (number, (effect, client, begin, end, unknown)) in planned.into_iter().enumerate() {
        let value = number as Value + 1;
        let cell = random.random_range(0..3u32);
        let other = (cell + 1) % 3;
        let held = &mut state[cell as usize];
        let never = unknown && random.random_bool(0.5);
        let mut action = match random.random_range(0..5) {
            0 => Action::Write(vec![(cell, value)]),
            1 => Action::Write(vec![(cell, value), (other, value)]),
            2 => {
                let from = if random.random_bool(0.7) { *held } else { value / 2 };
                let known =
                    made.operations.iter().any(|operation: &Operation| operation.effects().contains(&(cell, from)));
                let from = if known { from } else { *held };
                Action::Swap { cell, from, to: value, found: (*held != from).then_some(*held) }
            }
            3 => Action::Read(vec![(cell, *held)]),
            _ => Action::Read((0..3).map(|cell| (cell, state[cell as usize])).collect()),
        };
        if unknown
            && let Action::Swap { found, .. } = &mut action
            && found.take().is_some()
        {
            // It was refused, which the client does not know.
        } else if !never {
            let operation = done(client, begin, end, action.clone());
            operation.effects().into_iter().for_each(|(cell, value)| state[cell as usize] = value);
        }
        let outcome = if unknown { Outcome::Unknown } else { Outcome::Done };
        made.operations.push(Operation { outcome, ..done(client, begin, end, action) });
        made.effects.push(effect);
    }
    made
}

#[test]
fn histories_of_a_linearizable_object_pass() {
    for seed in 0..SEEDS {
        let made = made(seed);
        check(&made.operations).unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
    }
}

/// Numbers of the answered reads of row 0.
fn reads(history: &[Operation]) -> Vec<usize> {
    let is_read = |operation: &Operation| {
        operation.outcome == Outcome::Done
            && matches!(&operation.action, Action::Read(cells) if cells.first().is_some_and(|(cell, _)| *cell == 0))
    };
    (0..history.len()).filter(|number| is_read(&history[*number])).collect()
}

fn set_read(operation: &mut Operation, value: Value) {
    let Action::Read(cells) = &mut operation.action else { panic!("no read: {operation:?}") };
    cells[0].1 = value;
}

/// Makes each of these mistakes in as many histories as have room for it; every one must be found.
fn every_mistake_is_found(name: &str, mistake: impl Fn(&mut Vec<Operation>, &mut StdRng) -> Option<()>) {
    let mut made_mistakes = 0;
    for seed in 0..SEEDS {
        let mut history = made(seed).operations;
        if mistake(&mut history, &mut StdRng::seed_from_u64(seed)).is_some() {
            made_mistakes += 1;
            assert!(check(&history).is_err(), "{name}: not found, seed {seed}");
        }
    }
    assert!(made_mistakes > SEEDS / 4, "{name}: only {made_mistakes} histories have room for it");
}

#[test]
fn a_stale_read_is_found() {
    every_mistake_is_found("stale read", |history, random| {
        let writes: Vec<(u64, u64, Value)> = history
            .iter()
            .filter(|operation| operation.outcome == Outcome::Done)
            .flat_map(|operation| {
                operation.effects().into_iter().map(|effect| (operation.begin, operation.end, effect))
            })
            .filter_map(|(begin, end, (cell, value))| (cell == 0).then_some((begin, end, value)))
            .collect();
        let mut stale = Vec::new();
        for read in reads(history) {
            for (later, _, _) in writes.iter().filter(|(_, end, _)| *end < history[read].begin) {
                let older = writes.iter().filter(|(_, end, _)| end < later);
                stale.extend(older.map(|(_, _, value)| (read, *value)));
            }
        }
        let (read, value) = *stale.choose(random)?;
        set_read(&mut history[read], value);
        Some(())
    });
}

#[test]
fn a_lost_update_is_found() {
    every_mistake_is_found("lost update", |history, random| {
        let swaps: Vec<Operation> = history
            .iter()
            .filter(|operation| {
                operation.outcome == Outcome::Done && matches!(operation.action, Action::Swap { found: None, .. })
            })
            .cloned()
            .collect();
        let mut twin = swaps.choose(random)?.clone();
        if let Action::Swap { to, .. } = &mut twin.action {
            *to = 1_000_000;
        }
        twin.client = 99;
        history.push(twin);
        Some(())
    });
}

#[test]
fn a_value_from_the_future_is_found() {
    every_mistake_is_found("future", |history, random| {
        let read = *reads(history).choose(random)?;
        let end = history[read].end;
        let later = history.iter().filter(|operation| operation.begin > end && operation.outcome == Outcome::Done);
        let values: Vec<Value> =
            later.flat_map(Operation::effects).filter(|(cell, _)| *cell == 0).map(|(_, value)| value).collect();
        let value = *values.choose(random)?;
        set_read(&mut history[read], value);
        Some(())
    });
}

#[test]
fn half_a_batch_is_found() {
    every_mistake_is_found("half a batch", |history, _| {
        let batch = history.iter().find_map(|operation| match operation.effects().as_slice() {
            [(0, value), (1, _)] if operation.outcome == Outcome::Done => Some(*value),
            _ => None,
        })?;
        // A scan that saw both halves of it now sees the older value of the second one.
        let scan = history.iter_mut().find(|operation| {
            operation.outcome == Outcome::Done
                && matches!(&operation.action, Action::Read(cells) if cells.len() == 3 && cells[0].1 == batch && cells[1].1 == batch)
        });
        match (scan, batch) {
            (Some(scan), _) => {
                let Action::Read(cells) = &mut scan.action else { return None };
                cells[1].1 = 0;
                Some(())
            }
            // None saw it: one that comes after everything does.
            (None, value) => {
                let end = history.iter().map(|operation| operation.end).max()?;
                history.push(done(98, end + 1, end + 2, Action::Write(vec![(0, 2_000_000), (1, 2_000_000)])));
                history.push(done(98, end + 3, end + 4, Action::Read(vec![(0, 2_000_000), (1, value)])));
                Some(())
            }
        }
    });
}
