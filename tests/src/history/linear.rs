//! Linearizability of one object: is there one order of its operations that explains every answer?
//!
//! The search is that of Wing and Gong in Lowe's "just in time" form: events are taken by time, and a set of
//! configurations is kept, each a state that the object may have and the operations under way that are already in it. An
//! operation's answer leaves only the configurations in which it is, having added others under way before it where that
//! is needed. No configuration left: no order explains the answers.
//!
//! Two things keep the set small. Every value is written once, so that a write of unknown outcome was executed, at the
//! latest, when somebody has met its value, and if nobody has, then leaving it out changes nothing that anybody saw. And
//! an operation without an effect is taken into a configuration as soon as its answer fits.

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::{Result, bail, ensure};

use super::{Cell, Operation, Outcome, Value};

/// Configurations looked at for one answer, at most; what needs more is neither proved nor refuted.
pub const MAX_CONFIGURATIONS: usize = 200_000;
/// Values and operations in messages, at most.
const SHOWN: usize = 6;

/// An operation that has taken effect, or has been answered, at a time between `begin` and `end`.
struct Step<'a> {
    operation: &'a Operation,
    begin: u64,
    end: u64,
    /// What it meets and what it makes of it, by place in the state.
    meets: Vec<(usize, Value)>,
    makes: Vec<(usize, Value)>,
}

impl Step<'_> {
    fn fits(&self, state: &[Value]) -> bool {
        self.meets.iter().all(|(place, value)| state.get(*place) == Some(value))
    }

    fn execute(&self, state: &[Value]) -> Box<[Value]> {
        let mut state: Box<[Value]> = state.into();
        for (place, value) in &self.makes {
            if let Some(held) = state.get_mut(*place) {
                *held = *value;
            }
        }
        state
    }
}

/// A state, and the steps under way that are in it: their numbers, ascending.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Configuration {
    state: Box<[Value]>,
    done: Vec<usize>,
}

impl Configuration {
    fn has(&self, step: usize) -> bool {
        self.done.binary_search(&step).is_ok()
    }

    fn add(&mut self, step: usize) {
        if let Err(at) = self.done.binary_search(&step) {
            self.done.insert(at, step);
        }
    }

    fn remove(&mut self, step: usize) {
        if let Ok(at) = self.done.binary_search(&step) {
            self.done.remove(at);
        }
    }

    /// Takes in what is under way, has no effect, and fits.
    fn absorb(mut self, steps: &[Step], pending: &[usize]) -> Self {
        for number in pending {
            if steps.get(*number).is_some_and(|step| step.makes.is_empty() && step.fits(&self.state)) {
                self.add(*number);
            }
        }
        self
    }
}

/// How many operations are in the order that was found. Values must be written once each.
///
/// # Errors
/// When there is none, with the answer that can't be explained; or when more than [`MAX_CONFIGURATIONS`] would have to
/// be looked at.
pub fn check(operations: &[&Operation]) -> Result<usize> {
    let (steps, cells) = steps(operations)?;
    let mut events: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * steps.len());
    for (number, step) in steps.iter().enumerate() {
        // At the same moment beginnings come before ends: such operations overlap.
        events.extend([(step.begin, false, number), (step.end, true, number)]);
    }
    events.sort_unstable();
    let mut pending: Vec<usize> = Vec::new();
    let start = Configuration { state: vec![0; cells.len()].into(), done: Vec::new() };
    let mut known = HashSet::from([start]);
    for (_, is_end, number) in events {
        if is_end {
            let next = answered(&steps, &pending, &known, number)?;
            if next.is_empty() {
                bail!("{}", unexplained(&steps, &pending, &known, &cells, number));
            }
            known = next;
            pending.retain(|other| *other != number);
        } else {
            pending.push(number);
            known = known.into_iter().map(|configuration| configuration.absorb(&steps, &[number])).collect();
        }
    }
    Ok(steps.len())
}

/// The configurations after the answer of `number`, which is forgotten then.
fn answered(
    steps: &[Step],
    pending: &[usize],
    known: &HashSet<Configuration>,
    number: usize,
) -> Result<HashSet<Configuration>> {
    let mut next = HashSet::new();
    let mut seen: HashSet<Configuration> = known.clone();
    let mut open: Vec<Configuration> = known.iter().cloned().collect();
    while let Some(mut configuration) = open.pop() {
        if configuration.has(number) {
            configuration.remove(number);
            next.insert(configuration);
            continue;
        }
        for other in pending {
            let Some(step) =
                steps.get(*other).filter(|step| !configuration.has(*other) && step.fits(&configuration.state))
            else {
                continue;
            };
            let mut after =
                Configuration { state: step.execute(&configuration.state), done: configuration.done.clone() };
            after.add(*other);
            let after = after.absorb(steps, pending);
            if seen.insert(after.clone()) {
                open.push(after);
            }
        }
        ensure!(
            seen.len() <= MAX_CONFIGURATIONS,
            "undecided: {} operations under way at once leave more than {MAX_CONFIGURATIONS} possibilities",
            pending.len()
        );
    }
    Ok(next)
}

/// The operations that took effect or were answered, and the place of each row in the state.
fn steps<'a>(operations: &[&'a Operation]) -> Result<(Vec<Step<'a>>, BTreeMap<Cell, usize>)> {
    let ends = ends(operations);
    let mut cells = BTreeMap::new();
    for (cell, _) in operations.iter().flat_map(|operation| [operation.meets(), operation.effects()].concat()) {
        let place = cells.len();
        cells.entry(cell).or_insert(place);
    }
    let placed = |pairs: Vec<(Cell, Value)>| -> Vec<(usize, Value)> {
        pairs.into_iter().filter_map(|(cell, value)| Some((*cells.get(&cell)?, value))).collect()
    };
    let mut steps = Vec::new();
    for (operation, end) in operations.iter().zip(ends) {
        let Some(end) = end else { continue };
        ensure!(operation.begin <= end, "met before it was sent: {operation:?}");
        let (meets, makes) = (placed(operation.meets()), placed(operation.effects()));
        steps.push(Step { operation, begin: operation.begin, end, meets, makes });
    }
    Ok((steps, cells))
}

/// When each operation was over at the latest; none for one that need not be in the order.
fn ends(operations: &[&Operation]) -> Vec<Option<u64>> {
    let mut ends: Vec<Option<u64>> =
        operations.iter().map(|operation| (operation.outcome == Outcome::Done).then_some(operation.end)).collect();
    let mut origins = HashMap::new();
    for (number, operation) in operations.iter().enumerate() {
        if operation.outcome == Outcome::Unknown {
            origins.extend(operation.effects().into_iter().map(|pair| (pair, number)));
        }
    }
    // Who met the value of a conditional write of unknown outcome shows that this one met a value, and so on.
    let mut open: Vec<usize> =
        (0..operations.len()).filter(|number| ends.get(*number).is_some_and(Option::is_some)).collect();
    while let Some(number) = open.pop() {
        let (Some(operation), Some(Some(end))) = (operations.get(number), ends.get(number).copied()) else { continue };
        for origin in operation.meets().iter().filter_map(|pair| origins.get(pair)) {
            if let Some(known) = ends.get_mut(*origin)
                && known.is_none_or(|known| end < known)
            {
                *known = Some(end);
                open.push(*origin);
            }
        }
    }
    ends
}

fn unexplained(
    steps: &[Step],
    pending: &[usize],
    known: &HashSet<Configuration>,
    cells: &BTreeMap<Cell, usize>,
    number: usize,
) -> String {
    let described =
        |number: &usize| steps.get(*number).map(|step| format!("  {:?}", step.operation)).unwrap_or_default();
    let involved: HashSet<usize> = steps
        .get(number)
        .map_or_else(HashSet::new, |step| step.meets.iter().chain(&step.makes).map(|(place, _)| *place).collect());
    let states: HashSet<String> = known
        .iter()
        .map(|configuration| {
            let of_interest = cells.iter().filter(|(_, place)| involved.contains(place));
            let held =
                of_interest.filter_map(|(cell, place)| Some(format!("{cell}: {}", configuration.state.get(*place)?)));
            held.collect::<Vec<_>>().join(", ")
        })
        .collect();
    let mut states: Vec<_> = states.into_iter().collect();
    states.sort_unstable();
    states.truncate(SHOWN);
    let under_way: Vec<_> = pending.iter().filter(|other| **other != number).take(SHOWN).map(described).collect();
    format!(
        "no order explains this answer:\n{}\n  what could be held before it: {}\n  under way meanwhile:\n{}",
        described(&number),
        states.join(" or "),
        under_way.join("\n")
    )
}
