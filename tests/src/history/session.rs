//! Reads at `ONE`, or higher: a replica's state only grows. What one of its clients has seen or written there, no later read through
//! it sees undone, whoever reads.
//!
//! Which of two values is the later one must be known without the order that is searched elsewhere: each row here has
//! one writer, which counts, and which leaves the row alone once it does not know what became of a write.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};

use super::{Action, Cell, Operation, Outcome, Value};

/// When a value of a row was known, which it was, and by what.
type Known<'a> = (u64, Value, &'a Operation);

/// Checks the reads at `ONE` of one object.
///
/// # Errors
/// The first read that sees less than was known there before it began; or a row that is not written as the module's head
/// says, so that nothing can be said.
pub fn check(operations: &[&Operation]) -> Result<()> {
    let mut by_begin = operations.to_vec();
    by_begin.sort_by_key(|operation| operation.begin);
    check_writers(&by_begin)?;
    let mut rows: BTreeMap<(u8, Cell), Vec<Known>> = BTreeMap::new();
    for operation in &by_begin {
        if operation.outcome != Outcome::Done {
            continue;
        }
        for (cell, value) in [operation.meets(), operation.effects()].concat() {
            rows.entry((operation.replica, cell)).or_default().push((operation.end, value, operation));
        }
    }
    rows.into_values().try_for_each(|known| check_row(known))
}

/// What was known of one row through one replica.
fn check_row(mut known: Vec<Known>) -> Result<()> {
    let mut reads: Vec<Known> =
        known.iter().filter(|(_, _, operation)| matches!(operation.action, Action::Read(_))).copied().collect();
    reads.sort_by_key(|(_, _, operation)| operation.begin);
    known.sort_by_key(|(end, ..)| *end);
    let mut floor: Option<(Value, &Operation)> = None;
    let mut before = known.into_iter().peekable();
    for (_, seen, read) in reads {
        while let Some((_, value, operation)) = before.next_if(|(end, ..)| *end < read.begin) {
            if floor.is_none_or(|(floor, _)| value > floor) {
                floor = Some((value, operation));
            }
        }
        if let Some((value, operation)) = floor.filter(|(value, _)| seen < *value) {
            bail!("a read went back from {value} to {seen}:\n  {read:?}\n  after {operation:?}");
        }
    }
    Ok(())
}

/// `operations` by their beginning.
fn check_writers(operations: &[&Operation]) -> Result<()> {
    let mut last: BTreeMap<Cell, (&Operation, Value)> = BTreeMap::new();
    for operation in operations.iter().filter(|operation| operation.outcome != Outcome::Failed) {
        for (cell, value) in operation.effects() {
            if let Some((before, held)) = last.insert(cell, (operation, value)) {
                ensure!(
                    before.client == operation.client && before.end <= operation.begin && held < value,
                    "row {cell} is not written by one client that counts: {before:?}, then {operation:?}"
                );
                ensure!(
                    before.outcome == Outcome::Done,
                    "row {cell} was written again after a write of unknown outcome: {before:?}, then {operation:?}"
                );
            }
        }
    }
    Ok(())
}
