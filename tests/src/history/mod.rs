//! Whether what clients were told agrees with what each consistency level promises. No IO but a file of JSON lines.
//!
//! A history is what each client asked, when it asked and when it was answered, on one monotonic clock, and the answer.
//! Three promises are checked:
//!
//! - [`linear`], for every object whose reads are at `QUORUM` or `SERIAL`: there is one order of all operations, in
//!   agreement with real time, in which each gives the answer that the client got. An object is one row (linearizability
//!   per key) or several that batches write and scans read together (strict snapshots: what a scan sees is what a prefix
//!   of the order has made, nothing acknowledged before it is missing, and no later scan goes back).
//! - [`session`], for reads at `ONE`: through one replica nobody sees what was seen, or written, undone.
//! - Every value that was read was written, by a write that did not fail and did not begin later.

pub mod linear;
pub mod session;

use std::{
    collections::{BTreeMap, HashMap},
    io::{BufRead, BufReader, BufWriter, Write},
    path::Path,
};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// A row of an object.
pub type Cell = u32;
/// What a row holds: every write has a value of its own. 0 is what rows hold before the first one.
pub type Value = u64;

/// What a read promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// The state of the replica that answers.
    One,
    /// One order for everybody: `QUORUM`, `SERIAL` and what else means the same.
    Strict,
}

/// What a client asked for, and for reads the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// These rows, read by one statement, held these values.
    Read(Vec<(Cell, Value)>),
    /// These rows were to get these values, all at once.
    Write(Vec<(Cell, Value)>),
    /// A conditional write of one row.
    Swap {
        /// The row.
        cell: Cell,
        /// The value that it was to have.
        from: Value,
        /// The value that it was to get.
        to: Value,
        /// It had this one instead, and was left alone.
        found: Option<Value>,
    },
}

/// What the client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was answered.
    Done,
    /// It was told that nothing was done.
    Failed,
    /// It may have been done, or be done later.
    Unknown,
}

/// One request of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// What the rows belong to: objects have nothing to do with each other.
    pub object: String,
    /// Whose request it was; one client has one request at a time.
    pub client: u32,
    /// The replica that was asked.
    pub replica: u8,
    /// What was asked of the read; of other actions it means nothing.
    pub level: Level,
    /// When it was sent, µs.
    pub begin: u64,
    /// When the answer, or the error, was there, µs.
    pub end: u64,
    /// What was asked for.
    pub action: Action,
    /// What became of it.
    pub outcome: Outcome,
}

impl Operation {
    /// What it makes if it takes effect.
    fn effects(&self) -> Vec<(Cell, Value)> {
        match &self.action {
            Action::Write(cells) => cells.clone(),
            Action::Swap { cell, to, found: None, .. } => vec![(*cell, *to)],
            Action::Read(_) | Action::Swap { .. } => Vec::new(),
        }
    }

    /// What it must have met if it took effect, or was answered.
    fn meets(&self) -> Vec<(Cell, Value)> {
        match &self.action {
            Action::Read(cells) => cells.clone(),
            Action::Write(_) => Vec::new(),
            Action::Swap { cell, from, found, .. } => vec![(*cell, found.unwrap_or(*from))],
        }
    }
}

/// What was checked, for people.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Objects whose operations have one order.
    pub objects: usize,
    /// Operations in these orders.
    pub ordered: usize,
    /// Reads at `ONE`.
    pub sessions: usize,
}

/// Checks a whole history.
///
/// # Errors
/// Each promise that it breaks, and each object for which the search was given up (see [`linear::MAX_CONFIGURATIONS`]):
/// that is no proof of either.
pub fn check(history: &[Operation]) -> Result<Checked> {
    let mut objects: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in history {
        objects.entry(&operation.object).or_default().push(operation);
    }
    let (mut checked, mut broken) = (Checked::default(), Vec::new());
    for (name, operations) in objects {
        match check_object(&operations) {
            Ok(found) => {
                checked.objects += found.objects;
                checked.ordered += found.ordered;
                checked.sessions += found.sessions;
            }
            Err(error) => broken.push(format!("{name}: {error:#}")),
        }
    }
    match broken.as_slice() {
        [] => Ok(checked),
        _ => bail!("the history breaks what was promised:\n{}", broken.join("\n")),
    }
}

fn check_object(operations: &[&Operation]) -> Result<Checked> {
    known_values(operations)?;
    let read_at = |level| {
        let of_level = |operation: &&&Operation| {
            operation.level == level
                && operation.outcome == Outcome::Done
                && matches!(operation.action, Action::Read(_))
        };
        operations.iter().filter(of_level).count()
    };
    let sessions = read_at(Level::One);
    if sessions > 0 {
        session::check(operations)?;
    }
    let strict: Vec<&Operation> = operations
        .iter()
        .copied()
        .filter(|operation| operation.level == Level::Strict || !matches!(operation.action, Action::Read(_)))
        .collect();
    let ordered = linear::check(&strict)?;
    Ok(Checked { objects: 1, ordered, sessions })
}

/// Every value is written once, and what was met was written, by a write that did not fail and did not begin later.
fn known_values(operations: &[&Operation]) -> Result<()> {
    let mut written = HashMap::new();
    for operation in operations {
        for (cell, value) in operation.effects() {
            ensure!(value != 0, "0 is what rows hold at first, no value to write: {operation:?}");
            let first = written.insert((cell, value), *operation);
            ensure!(
                first.is_none(),
                "the value {value} is written twice, so that its reads say nothing: {operation:?}"
            );
        }
    }
    for operation in operations.iter().filter(|operation| operation.outcome == Outcome::Done) {
        for (cell, value) in operation.meets().into_iter().filter(|(_, value)| *value != 0) {
            let Some(origin) = written.get(&(cell, value)) else {
                bail!("the value {value} of {cell} was never written: {operation:?}")
            };
            ensure!(
                origin.outcome != Outcome::Failed,
                "the value {value} of {cell} is one of a write that was said to have failed: {operation:?} met {origin:?}"
            );
            ensure!(
                origin.begin <= operation.end,
                "the value {value} of {cell} comes from the future: {operation:?} met {origin:?}"
            );
        }
    }
    Ok(())
}

/// Writes a history, an operation a line.
///
/// # Errors
/// When the file can't be written.
pub fn save(history: &[Operation], path: &Path) -> Result<()> {
    let mut file = BufWriter::new(std::fs::File::create(path).with_context(|| path.display().to_string())?);
    for operation in history {
        writeln!(file, "{}", serde_json::to_string(operation)?)?;
    }
    file.flush().with_context(|| path.display().to_string())
}

/// Reads what [`save`] has written.
///
/// # Errors
/// When there is no such file, or a line is no operation; the message names it.
pub fn load(path: &Path) -> Result<Vec<Operation>> {
    let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
    let mut history = Vec::new();
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let operation = serde_json::from_str(&line?);
        history.push(operation.with_context(|| format!("{}, line {}", path.display(), number + 1))?);
    }
    Ok(history)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
