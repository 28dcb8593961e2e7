//! What is known of a row, and what a condition makes of that. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use crate::lanes::{Lane, Lanes};

/// Rows kept.
const ROWS: usize = 16_384;
/// Bytes kept: values, names, and [`ROW_BYTES`] for each row.
const BYTES: usize = 16 << 20;
/// What a row takes beside them, bytes: generous.
const ROW_BYTES: usize = 256;

/// A cell that has a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// Its bytes.
    pub value: Bytes,
    /// It does not expire, and was written before the record that looks at it: a later write to the column shows.
    pub lasting: bool,
}

/// What is known of a row at a place in the order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// Whether it is there, if known.
    pub exists: Option<bool>,
    /// Columns: null or a cell. Of others nothing is known.
    pub cells: BTreeMap<Arc<str>, Option<Cell>>,
}

/// A condition with its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// `IF NOT EXISTS`
    NotExists,
    /// `IF EXISTS`
    Exists,
    /// These columns have these values, none of them null.
    Equal(Vec<(Arc<str>, Bytes)>),
}

/// What a write does to a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// It makes the row, or deletes it.
    Row,
    /// It gives columns values, or nulls.
    Cells(Vec<(Arc<str>, Option<Bytes>)>),
}

impl Image {
    /// Whether the condition holds, if what is known says so. Cassandra compares by type; but what has the same bytes is equal by
    /// any type, so `Some(true)` is certain. Other bytes may be equal, too: so `Some(false)` is for Cassandra to say.
    pub fn holds(&self, asked: &Asked) -> Option<bool> {
        match asked {
            Asked::NotExists => self.exists.map(|exists| !exists),
            Asked::Exists => self.exists,
            Asked::Equal(columns) => columns.iter().try_fold(true, |holds, (column, value)| {
                let cell = self.cells.get(column)?;
                Some(holds && cell.as_ref().is_some_and(|cell| cell.value == *value))
            }),
        }
    }

    /// What is known for later records: lasting cells alone. That a cell is seen shows that no deletion hides it, and so, as each
    /// record's write time is above that of all before it, that none hides a later one of its column. Of nulls and of rows that are
    /// not there nothing is known: a deletion with a write time in the future may hide what is written to them.
    pub fn lasting(mut self) -> Self {
        self.cells.retain(|_, cell| cell.as_ref().is_some_and(|cell| cell.lasting));
        self.exists = (!self.cells.is_empty()).then_some(true);
        self
    }

    /// What is known after a write with a later write time, that has no expiry.
    pub fn after(self, effect: &Effect) -> Self {
        let Effect::Cells(written) = effect else { return Self::default() };
        let mut image = self.lasting();
        for (column, value) in written {
            if let (Some(_), Some(value)) = (image.cells.remove(column), value) {
                image.cells.insert(column.clone(), Some(Cell { value: value.clone(), lasting: true }));
            }
        }
        image.lasting()
    }

    /// With values of its own. Those of an entry of the log, or of an answer, are parts of all of it, and would keep it in memory.
    pub fn owned(mut self) -> Self {
        for cell in self.cells.values_mut().flatten() {
            cell.value = Bytes::copy_from_slice(&cell.value);
        }
        self
    }

    fn bytes(&self, row: &Bytes) -> usize {
        let cell =
            |(name, cell): (&Arc<str>, &Option<Cell>)| name.len() + cell.as_ref().map_or(0, |cell| cell.value.len());
        ROW_BYTES + row.len() + self.cells.iter().map(cell).sum::<usize>()
    }
}

/// A row: the lane of its partition, and an injective encoding of its table and key (the lane's names are hashes).
pub type Row = (Lane, Bytes);

struct Kept {
    image: Image,
    age: u64,
    bytes: usize,
}

/// The images of rows by their lanes; bounded, the oldest goes first.
#[derive(Default)]
pub struct Images {
    rows: BTreeMap<Row, Kept>,
    ages: BTreeSet<(u64, Row)>,
    bytes: usize,
    next: u64,
}

impl Images {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Takes the image of a row out.
    pub fn take(&mut self, row: &Row) -> Option<Image> {
        let kept = self.rows.remove(row)?;
        self.ages.remove(&(kept.age, row.clone()));
        self.bytes -= kept.bytes;
        Some(kept.image)
    }

    /// Drops every image in or below the lanes that are written.
    pub fn forget(&mut self, lanes: &Lanes) {
        if lanes.is_all() {
            let next = self.next;
            *self = Self { next, ..Self::default() };
            return;
        }
        for lane in lanes.written() {
            let (first, last) = match lane {
                Lane::All => (Lane::All, Lane::All),
                Lane::Table(table) => (Lane::Key(table, 0), Lane::Key(table, u64::MAX)),
                Lane::Key(..) => (lane, lane),
            };
            let below = self.rows.range((first, Bytes::new())..).map(|(row, _)| row).take_while(|row| row.0 <= last);
            let below: Vec<Row> = below.cloned().collect();
            for row in below {
                self.take(&row);
            }
        }
    }

    /// Keeps what is known of a row, if it is anything.
    pub fn keep(&mut self, row: Row, image: Image) {
        self.take(&row);
        if image.cells.is_empty() {
            return;
        }
        let (bytes, age) = (image.bytes(&row.1), self.next);
        let image = image.owned();
        self.next += 1;
        self.bytes += bytes;
        self.ages.insert((age, row.clone()));
        self.rows.insert(row, Kept { image, age, bytes });
        while self.rows.len() > ROWS || self.bytes > BYTES {
            let Some((_, oldest)) = self.ages.first().cloned() else { return };
            self.take(&oldest);
        }
    }
}

#[cfg(test)]
#[path = "image_tests.rs"]
mod tests;
