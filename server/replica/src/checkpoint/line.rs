//! Rows as lines of a document, and lines as the writes that make the same cells again. Pure.
//!
//! ```text
//! {"key":{"k":1},"static":{"s":{"value":"x","time":1700000000000000}}}
//! {"key":{"k":1,"c":7},"cells":{"v":{"value":1,"time":1700000000000000,"expires":1700000060},
//!                               "l":{"value":[1,2],"time":[1700000000000000,1700000000000001]}}}
//! ```
//! A line says what CQL shows of a row: values ([`super::value`]), write times in µs and ends in seconds since 1970, of each
//! cell, and of each element or field where a column is made of several cells. A partition with static cells has a line
//! for them before its rows.
//!
//! What CQL does not show is not in it. **Tombstones**: everything older is gone from the rows, and later writes have
//! later times; but a write `USING TIMESTAMP` before a deletion that it would have been hidden by shows. **Row markers**,
//! which keep a row that was inserted when its last column is set to null: each row gets one, as old as the oldest of
//! its cells and ending with it, so that a row that was made by UPDATE alone is kept, too.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use replicateddb_cql::response::{Column, ColumnType, Row, cell};
use replicateddb_cql::statement::Ident;
use replicateddb_cql::wire::Value;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::binary::Cursor;
use super::value::{decode, encode};

/// A row, or the static cells of a partition.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Values of the key's columns.
    pub key: BTreeMap<String, Json>,
    /// The static cells.
    #[serde(rename = "static", default, skip_serializing_if = "Option::is_none")]
    pub statics: Option<BTreeMap<String, Cell>>,
    /// The row's other cells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cells: Option<BTreeMap<String, Cell>>,
}

/// What a column holds in a row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    value: Json,
    /// None: a counter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    time: Option<Each>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<Each>,
}

/// Of one cell, or of each of several.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Each {
    One(i64),
    Many(Vec<Option<i64>>),
}

impl Each {
    fn at(&self, n: usize) -> Option<i64> {
        match self {
            Self::One(one) => Some(*one),
            Self::Many(many) => many.get(n).copied().flatten(),
        }
    }
}

/// What a column is to its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Part of the partition's key.
    Partition,
    /// Part of the row's key in its partition.
    Clustering,
    /// Of the partition.
    Static,
    /// Of the row.
    Regular,
}

/// A table's columns, by their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its keyspace.
    pub keyspace: String,
    /// Its name.
    pub name: String,
    /// Its columns: name, role, and whether it is a counter.
    pub columns: Vec<(String, Role, bool)>,
}

/// A table whose columns' types are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    name: String,
    columns: Vec<Typed>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Typed {
    name: String,
    role: Role,
    kind: ColumnType,
    /// It has write times.
    timed: bool,
    /// It is made of several cells.
    many: bool,
}

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Its text.
    pub text: String,
    /// What its markers stand for.
    pub values: Vec<Value>,
}

/// Bytes of elements from which on a write takes no further ones.
const RUN_BYTES: usize = 1 << 20;
/// [`Stamp::ttl`] of what has ended.
const ENDED: i32 = -1;

/// What a run of cells has in common: write time, and what is left of them in seconds, 0 for ever, or [`ENDED`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    time: i64,
    ttl: i32,
}

/// The time that a checkpoint is as of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AsOf {
    /// The write time of its last record, µs since 1970.
    pub timestamp_us: i64,
    /// The second, since 1970, that ends are counted from.
    pub second: i32,
}

impl Table {
    /// What reads its rows, each column with write times and ends where it has them.
    pub fn select(&self) -> String {
        let mut selected = Vec::new();
        for (name, role, counter) in &self.columns {
            let name = Ident::new(name.as_str()).to_cql();
            selected.push(name.clone());
            if has_times(*role, *counter) {
                selected.extend([format!("WRITETIME({name})"), format!("TTL({name})")]);
            }
        }
        format!("SELECT {} FROM {}", selected.join(", "), self.qualified())
    }

    /// With the types that the columns of [`Table::select`] have.
    ///
    /// # Errors
    /// They are columns of something else.
    pub fn typed(&self, columns: &[Column]) -> Result<Shape, String> {
        let mut types = columns.iter().map(|column| &column.kind);
        let mut missing =
            || types.next().ok_or_else(|| format!("the columns of {} changed while it was read", self.name));
        let mut typed = Vec::with_capacity(self.columns.len());
        for (name, role, counter) in &self.columns {
            let (kind, timed, mut many) = (missing()?.clone(), has_times(*role, *counter), false);
            if timed {
                many = matches!(missing()?, ColumnType::List(_));
                missing()?;
            }
            typed.push(Typed { name: name.clone(), role: *role, kind, timed, many });
        }
        Ok(Shape { name: self.qualified(), columns: typed })
    }

    fn qualified(&self) -> String {
        format!("{}.{}", Ident::new(self.keyspace.as_str()).to_cql(), Ident::new(self.name.as_str()).to_cql())
    }
}

fn has_times(role: Role, counter: bool) -> bool {
    matches!(role, Role::Static | Role::Regular) && !counter
}

/// The partition whose static cells were seen last.
pub type Partition = Option<BTreeMap<String, Json>>;

impl Shape {
    /// The lines of a row, as read at this second.
    ///
    /// # Errors
    /// It is no row of this table.
    pub fn lines(&self, row: &Row, second: i32, last: &mut Partition) -> Result<Vec<Line>, String> {
        let (mut partition, mut key) = (BTreeMap::new(), BTreeMap::new());
        let (mut statics, mut cells) = (BTreeMap::new(), BTreeMap::new());
        let mut is_row = true;
        let mut next = row.iter();
        for column in &self.columns {
            let cut = || format!("a row of {} is cut off", self.name);
            let bytes = next.next().ok_or_else(cut)?.as_deref();
            let (time, ttl) = match column.timed {
                true => (next.next().ok_or_else(cut)?.as_deref(), next.next().ok_or_else(cut)?.as_deref()),
                false => (None, None),
            };
            let Some(bytes) = bytes else {
                is_row &= column.role != Role::Clustering;
                continue;
            };
            let value = encode(&column.kind, bytes);
            let cell = |value| Cell {
                value,
                time: each(column.many, time, 0),
                expires: each(column.many, ttl, second.into()),
            };
            let name = column.name.clone();
            match column.role {
                Role::Partition => {
                    partition.insert(name.clone(), value.clone());
                    key.insert(name, value);
                }
                Role::Clustering => {
                    key.insert(name, value);
                }
                Role::Static => {
                    statics.insert(name, cell(value));
                }
                Role::Regular => {
                    cells.insert(name, cell(value));
                }
            }
        }
        let mut lines = Vec::new();
        if !statics.is_empty() && last.as_ref() != Some(&partition) {
            lines.push(Line { key: partition.clone(), statics: Some(statics), cells: None });
            *last = Some(partition);
        }
        if is_row {
            lines.push(Line { key, statics: None, cells: Some(cells) });
        }
        Ok(lines)
    }

    /// Whether its cells are counters.
    pub fn counts(&self) -> bool {
        self.columns.iter().any(|column| column.role >= Role::Static && !column.timed)
    }

    /// What makes the cells of a line that have not ended; all in one partition.
    ///
    /// # Errors
    /// It is no line of this table.
    pub fn writes(&self, line: &Line, as_of: AsOf) -> Result<Vec<Write>, String> {
        let mut known = vec![];
        let mut at = vec![];
        for column in self.columns.iter().filter(|column| column.role <= Role::Clustering) {
            match line.key.get(&column.name) {
                Some(json) => {
                    known.push(Value::Bytes(decode(&column.kind, json)?));
                    at.push(Ident::new(column.name.as_str()).to_cql());
                }
                None if line.statics.is_some() => {}
                None => return Err(format!("a line of {} has no {}", self.name, column.name)),
            }
        }
        let mut writes = Vec::new();
        let cells = line.statics.iter().chain(&line.cells).flatten();
        let mut oldest = None::<Stamp>;
        for (name, cell) in cells {
            let column = self.columns.iter().find(|column| column.name == *name);
            let column = column.ok_or_else(|| format!("{} has no column {name}", self.name))?;
            for (assignment, value, stamp) in column.assignments(cell, as_of)? {
                let Some(stamp) = stamp else {
                    writes.push(self.update("", &assignment, vec![value], &at, &known));
                    continue;
                };
                oldest = Some(oldest.map_or(stamp, |oldest| oldest.older(stamp)));
                if stamp.ttl == ENDED {
                    continue;
                }
                let values = vec![bigint(stamp.time), int(stamp.ttl), value];
                writes.push(self.update(" USING TIMESTAMP ? AND TTL ?", &assignment, values, &at, &known));
            }
        }
        if line.cells.is_some() && !self.counts() {
            let stamp = oldest.unwrap_or(Stamp { time: as_of.timestamp_us, ttl: 0 });
            if stamp.ttl != ENDED {
                writes.insert(0, self.marker(stamp, &at, &known));
            }
        }
        Ok(writes)
    }

    fn update(&self, using: &str, assignment: &str, mut values: Vec<Value>, at: &[String], key: &[Value]) -> Write {
        values.extend(key.iter().cloned());
        let at: Vec<_> = at.iter().map(|name| format!("{name} = ?")).collect();
        let text = format!("UPDATE {}{using} SET {assignment} WHERE {}", self.name, at.join(" AND "));
        Write { text, values }
    }

    fn marker(&self, stamp: Stamp, at: &[String], key: &[Value]) -> Write {
        let mut values = key.to_vec();
        values.extend([bigint(stamp.time), int(stamp.ttl)]);
        let (names, marks) = (at.join(", "), vec!["?"; at.len()].join(", "));
        let text = format!("INSERT INTO {} ({names}) VALUES ({marks}) USING TIMESTAMP ? AND TTL ?", self.name);
        Write { text, values }
    }
}

impl Stamp {
    /// The older of two; of two of the same time the one that ends later.
    fn older(self, other: Self) -> Self {
        let later_end = |ttl| if ttl == 0 { i32::MAX } else { ttl };
        match self.time.cmp(&other.time) {
            std::cmp::Ordering::Less => self,
            std::cmp::Ordering::Greater => other,
            std::cmp::Ordering::Equal if later_end(self.ttl) >= later_end(other.ttl) => self,
            std::cmp::Ordering::Equal => other,
        }
    }
}

/// What is assigned, the value, and its stamp unless it is a counter.
type Assignment = (String, Value, Option<Stamp>);

impl Typed {
    fn assignments(&self, cell: &Cell, as_of: AsOf) -> Result<Vec<Assignment>, String> {
        let name = Ident::new(self.name.as_str()).to_cql();
        let whole = decode(&self.kind, &cell.value)?;
        if !self.timed {
            return Ok(vec![(format!("{name} = {name} + ?"), Value::Bytes(whole), None)]);
        }
        let unreadable = || format!("the cells of {} and their times do not fit", self.name);
        let stamp = |n| stamp(cell, n, as_of).ok_or_else(unreadable);
        if !self.many {
            return Ok(vec![(format!("{name} = ?"), Value::Bytes(whole), Some(stamp(0)?))]);
        }
        let per_element = match &self.kind {
            ColumnType::Udt { fields, .. } => return self.fields(&name, fields, &whole, stamp),
            ColumnType::Map(..) => 2,
            _ => 1,
        };
        let mut cursor = Cursor(&whole);
        let count = cursor.count().ok_or_else(unreadable)?;
        let mut runs: Vec<(Stamp, i32, BytesMut)> = Vec::new();
        for n in 0..count {
            let stamp = stamp(n)?;
            if runs.last().is_none_or(|(known, _, bytes)| *known != stamp || bytes.len() >= RUN_BYTES) {
                runs.push((stamp, 0, BytesMut::new()));
            }
            let Some((_, count, bytes)) = runs.last_mut() else { return Err(unreadable()) };
            *count += 1;
            for _ in 0..per_element {
                let part = cursor.part().flatten().ok_or_else(unreadable)?;
                bytes.put_i32(i32::try_from(part.len()).map_err(|_| unreadable())?);
                bytes.put_slice(part);
            }
        }
        let assigned = |(stamp, count, parts): (Stamp, i32, BytesMut)| {
            let value: Bytes = [&count.to_be_bytes()[..], &parts].concat().into();
            (format!("{name} = {name} + ?"), Value::Bytes(value), Some(stamp))
        };
        Ok(runs.into_iter().map(assigned).collect())
    }

    fn fields(
        &self,
        name: &str,
        fields: &[(String, ColumnType)],
        whole: &[u8],
        stamp: impl Fn(usize) -> Result<Stamp, String>,
    ) -> Result<Vec<Assignment>, String> {
        let parts = Cursor(whole).all_parts().ok_or_else(|| format!("{} can't be read", self.name))?;
        let mut assigned = Vec::new();
        for (n, ((field, _), part)) in fields.iter().zip(parts).enumerate() {
            if let Some(part) = part {
                let field = Ident::new(field.as_str()).to_cql();
                assigned.push((
                    format!("{name}.{field} = ?"),
                    Value::Bytes(Bytes::copy_from_slice(part)),
                    Some(stamp(n)?),
                ));
            }
        }
        Ok(assigned)
    }
}

fn stamp(cell: &Cell, n: usize, as_of: AsOf) -> Option<Stamp> {
    let time = cell.time.as_ref()?.at(n)?;
    let ttl = match cell.expires.as_ref().and_then(|expires| expires.at(n)) {
        Some(end) => match i32::try_from(end.checked_sub(as_of.second.into())?).ok()? {
            left if left > 0 => left,
            _ => ENDED,
        },
        None => 0,
    };
    Some(Stamp { time, ttl })
}

/// Times or ends as Cassandra says them, moved by so much; none if there are none.
fn each(many: bool, bytes: Option<&[u8]>, offset: i64) -> Option<Each> {
    let number = |bytes: &[u8]| {
        let number = cell::as_bigint(bytes).or_else(|| cell::as_int(bytes).map(i64::from));
        number?.checked_add(offset)
    };
    if !many {
        return Some(Each::One(number(bytes?)?));
    }
    let elements = Cursor(bytes?).counted()?;
    let numbers: Vec<_> = elements.into_iter().map(|element| element.and_then(number)).collect();
    numbers.iter().any(Option::is_some).then_some(Each::Many(numbers))
}

fn bigint(value: i64) -> Value {
    Value::Bytes(cell::bigint(value))
}

fn int(value: i32) -> Value {
    Value::Bytes(cell::int(value))
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;
