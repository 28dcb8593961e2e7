//! Which conditional writes can be decided in memory, by the schema of their table, and what their values say. Pure.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use replicateddb_cql::request::Values;
use replicateddb_cql::response::{Column, Row, cell};
use replicateddb_cql::rewrite;
use replicateddb_cql::statement::{Ident, Kind, classify};
use replicateddb_cql::wire::Value;

use super::candidate::{self, Candidate, Condition};
use super::image::{Asked, Cell, Effect, Image};

/// Types of which no two values that a key takes for the same have different bytes, so that a row is found again by its bytes.
const OF_KEYS: [&str; 13] = [
    "ascii",
    "bigint",
    "blob",
    "date",
    "inet",
    "int",
    "smallint",
    "text",
    "time",
    "timestamp",
    "timeuuid",
    "tinyint",
    "uuid",
];
/// More types of which a value is equal to itself whatever its bytes, as long as Cassandra takes them.
const OF_CONDITIONS: [&str; 3] = ["boolean", "double", "float"];
/// More types whose values are one cell, with nothing in it that depends on when or where it is written. Cassandra takes a decimal
/// without digits, and fails where it has to compare it.
const OF_CELLS: [&str; 2] = ["decimal", "varint"];
/// Those of the types of conditions whose values may be as long as a write (16 MiB).
const OF_ANY_LENGTH: [&str; 3] = ["ascii", "blob", "text"];
/// Rows read at once.
const ROWS_AT_ONCE: usize = 64;
/// Cells of such types read at once: Cassandra holds all of an answer in memory, and so does the replica.
const LONG_CELLS_AT_ONCE: usize = 4;
/// The flags of a table that is not of one of the storage formats of Thrift, and holds no counters.
const FLAGS: &[&str] = &["compound"];
/// Bytes of a key's column: Cassandra refuses more.
const KEY_BYTES: usize = u16::MAX as usize;

/// A table as far as it matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Names, kinds (`partition_key`, `clustering`, `regular`, `static`) and types of its columns.
    columns: Vec<(String, String, String)>,
    /// Nothing in it expires by the table's own rule, and it is an ordinary one, without views: Cassandra writes to a table that
    /// has some by way of its batch log, unless the write is a conditional one.
    plain: bool,
}

/// The queries for a table's columns, for the table and for its materialized views.
pub fn queries(keyspace: &str, table: &str) -> [String; 3] {
    let which = |name: &str| name.replace('\'', "''");
    let (keyspace, table) = (which(keyspace), which(table));
    let of = format!("WHERE keyspace_name = '{keyspace}' AND table_name = '{table}'");
    let views = format!("WHERE keyspace_name = '{keyspace}' AND base_table_name = '{table}' ALLOW FILTERING");
    [
        format!("SELECT column_name, kind, type FROM system_schema.columns {of}"),
        format!("SELECT default_time_to_live, flags FROM system_schema.tables {of}"),
        format!("SELECT view_name FROM system_schema.views {views}"),
    ]
}

impl Table {
    /// From the answers to all three.
    pub fn read(columns: &[Row], tables: &[Row], views: &[Row]) -> Self {
        let text = |row: &Row, at: usize| row.get(at)?.as_deref().and_then(cell::as_text).map(str::to_owned);
        let columns = columns.iter().map(|row| Some((text(row, 0)?, text(row, 1)?, text(row, 2)?)));
        let [table] = tables else { return Self::default() };
        let lives = table.first().and_then(|cell| cell::as_int(cell.as_deref()?));
        let flags: Vec<&[u8]> = table.get(1).and_then(Option::as_deref).map(cell::as_elements).unwrap_or_default();
        let plain = views.is_empty()
            && lives == Some(0)
            && flags.iter().eq(FLAGS.iter().map(|flag| flag.as_bytes()).collect::<Vec<_>>().iter());
        columns.collect::<Option<_>>().map_or_else(Self::default, |columns| Self { columns, plain })
    }

    /// The only column of this kind; `Err` if there are several.
    fn only(&self, kind: &str) -> Result<Option<&str>, ()> {
        let mut found = self.columns.iter().filter(|column| column.1 == kind).map(|column| column.0.as_str());
        match (found.next(), found.next()) {
            (only, None) => Ok(only),
            _ => Err(()),
        }
    }

    fn has(&self, name: &str, kind: &str, types: &[&[&str]]) -> bool {
        let known = |of: &str| types.iter().any(|types| types.contains(&of));
        self.columns.iter().any(|column| column.0 == name && column.1 == kind && known(&column.2))
    }
}

/// A conditional write that can be decided in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eligible {
    /// Its keyspace.
    pub keyspace: Arc<str>,
    /// Its table.
    pub table: Arc<str>,
    partition: usize,
    clustering: Option<usize>,
    condition: Condition,
    deletes: bool,
    /// Columns and the markers of their values; without one they are deleted. `None`: the row is made, or deleted.
    cells: Option<Vec<(Arc<str>, Option<usize>)>>,
    /// Columns that the condition asks for, with the markers of their values.
    asked: Vec<(Arc<str>, usize)>,
    /// Each of them once, in the order in which [`Eligible::select`] has them.
    selected: Vec<Arc<str>>,
    markers: usize,
    plain_markers: usize,
    /// The markers that give columns values.
    assigned: Vec<usize>,
    /// The write without its condition, with a marker for its write time.
    pub timed: String,
    /// That marker's place.
    pub time_marker: usize,
    /// The query for rows, by a list of partition keys and, if there is a clustering column, its value.
    pub select: String,
    /// Rows that it may be asked for at once; with one nothing is read.
    pub at_once: usize,
}

/// The values of one such write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// The partition key.
    pub partition: Bytes,
    /// The clustering column.
    pub clustering: Option<Bytes>,
    /// The table and the key, injectively.
    pub row: Bytes,
    /// The condition.
    pub asked: Asked,
    /// What is done if it holds.
    pub effect: Effect,
    /// The values of the write without its condition, and with its write time left out.
    pub plain: Vec<Value>,
}

impl Eligible {
    /// If it is one. `bind` are the markers of the whole text, as Cassandra understands them.
    pub fn new(candidate: &Candidate, bind: &[Column], table: &Table) -> Option<Self> {
        let of = bind.first()?;
        let understood =
            candidate.bound().all(|(name, marker)| bind.get(*marker).is_some_and(|column| column.name == *name));
        let nothing_static = table.only("static") == Ok(None);
        if !table.plain || !nothing_static || !understood || bind.len() != candidate.markers {
            return None;
        }
        let (partition, clustering) = (table.only("partition_key").ok()??, table.only("clustering").ok()?);
        let marker_of = |column: &str, kind: &str| {
            let usable = table.has(column, kind, &[&OF_KEYS]);
            candidate.named.iter().find(|(name, _)| usable && name == column).map(|(_, marker)| *marker)
        };
        let partition_marker = marker_of(partition, "partition_key")?;
        let clustering_marker = match clustering {
            Some(column) => Some(marker_of(column, "clustering")?),
            None => None,
        };
        let is_key = |name: &str| name == partition || Some(name) == clustering;
        let others: Vec<&candidate::Bound> = candidate.named.iter().filter(|(name, _)| !is_key(name)).collect();
        let asked: &[candidate::Bound] = match &candidate.condition {
            Condition::Equal(columns) => columns,
            Condition::NotExists | Condition::Exists => &[],
        };
        let written = others.iter().map(|(name, _)| name).chain(candidate.set.iter().map(|(name, _)| name));
        let mut of_cells = written.chain(&candidate.deleted);
        let comparable = asked.iter().all(|(name, _)| table.has(name, "regular", &[&OF_KEYS, &OF_CONDITIONS]));
        if !comparable || !of_cells.all(|name| table.has(name, "regular", &[&OF_KEYS, &OF_CONDITIONS, &OF_CELLS])) {
            return None;
        }
        if candidate.kind != Kind::Insert && !others.is_empty() {
            return None;
        }
        let (timed, time_marker) = rewrite::with_timestamp_marker(&candidate.plain, &classify(&candidate.plain))?;
        let named = |bound: &candidate::Bound| (Arc::from(bound.0.as_str()), bound.1);
        let asked: Vec<(Arc<str>, usize)> = asked.iter().map(named).collect();
        let mut selected: Vec<Arc<str>> = Vec::new();
        for (name, _) in &asked {
            if !selected.contains(name) {
                selected.push(name.clone());
            }
        }
        let long = selected.iter().filter(|name| table.has(name, "regular", &[&OF_ANY_LENGTH])).count();
        let at_once = LONG_CELLS_AT_ONCE.checked_div(long).map_or(ROWS_AT_ONCE, |rows| rows.max(1));
        Some(Self {
            keyspace: of.keyspace.clone(),
            table: of.table.clone(),
            partition: partition_marker,
            clustering: clustering_marker,
            condition: candidate.condition.clone(),
            deletes: candidate.kind == Kind::Delete,
            cells: cells(candidate),
            select: select(of, partition, clustering, &selected),
            at_once,
            asked,
            selected,
            markers: candidate.markers,
            plain_markers: candidate.plain_markers,
            assigned: others.into_iter().chain(&candidate.set).map(|(_, marker)| *marker).collect(),
            timed,
            time_marker,
        })
    }

    /// The write time of the plain write, µs, for the record of this one. What a conditional write deletes, Cassandra deletes as of
    /// the microsecond before (`PartitionUpdate.Builder.updateAllTimestamp`), so that it hides nothing of its own write.
    pub fn written_us(&self, timestamp_us: i64) -> i64 {
        timestamp_us - i64::from(self.deletes)
    }

    /// What values say; `None` if one of them is anything but an ordinary one: a null or an unset one, or of the key or the
    /// condition an empty one. A null given to a column is a deletion among values, and so has another write time than they.
    pub fn said(&self, values: &Values) -> Option<Said> {
        if values.is_named() || values.len() != self.markers {
            return None;
        }
        let values: Vec<Value> = values.iter().map(|bound| bound.value).collect();
        let bytes = |marker: usize| match values.get(marker)? {
            Value::Bytes(bytes) if !bytes.is_empty() => Some(bytes.clone()),
            _ => None,
        };
        let of_key = |marker: usize| bytes(marker).filter(|bytes| bytes.len() <= KEY_BYTES);
        if self.assigned.iter().any(|marker| !matches!(values.get(*marker), Some(Value::Bytes(_)))) {
            return None;
        }
        let partition = of_key(self.partition)?;
        let clustering = match self.clustering {
            Some(marker) => Some(of_key(marker)?),
            None => None,
        };
        let asked = match &self.condition {
            Condition::NotExists => Asked::NotExists,
            Condition::Exists => Asked::Exists,
            Condition::Equal(_) => {
                let columns = self.asked.iter().map(|(name, marker)| Some((name.clone(), bytes(*marker)?)));
                Asked::Equal(columns.collect::<Option<_>>()?)
            }
        };
        let written = |marker: &Option<usize>| match values.get((*marker)?) {
            Some(Value::Bytes(bytes)) => Some(bytes.clone()),
            _ => None,
        };
        let effect = self.cells.as_ref().map_or(Effect::Row, |cells| {
            Effect::Cells(cells.iter().map(|(name, marker)| (name.clone(), written(marker))).collect())
        });
        let row = self.row(&partition, clustering.as_ref());
        let plain = values.into_iter().take(self.plain_markers).collect();
        Some(Said { partition, clustering, row, asked, effect, plain })
    }

    fn row(&self, partition: &[u8], clustering: Option<&Bytes>) -> Bytes {
        let mut row = BytesMut::new();
        let clustering = clustering.map_or(&[][..], |bytes| bytes.as_ref());
        for part in [self.keyspace.as_bytes(), self.table.as_bytes(), partition, clustering] {
            row.put_u32(part.len() as u32);
            row.put_slice(part);
        }
        row.freeze()
    }

    /// The image of a row, from what the query gives of it behind the key; for the record of this write time. `None` if that is
    /// not as it should be.
    pub fn image(&self, row: Option<&[Option<Bytes>]>, timestamp_us: i64) -> Option<Image> {
        let Some(row) = row else { return Some(Image { exists: Some(false), cells: Default::default() }) };
        let (cells, []) = row.as_chunks::<3>() else { return None };
        if cells.len() != self.selected.len() {
            return None;
        }
        let mut image = Image { exists: Some(true), cells: Default::default() };
        for (name, [value, written, ttl]) in self.selected.iter().zip(cells) {
            let cell = match value {
                None => None,
                Some(value) => {
                    let written = cell::as_bigint(written.as_ref()?)?;
                    Some(Cell { value: value.clone(), lasting: ttl.is_none() && written < timestamp_us })
                }
            };
            image.cells.insert(name.clone(), cell);
        }
        Some(image)
    }
}

fn cells(candidate: &Candidate) -> Option<Vec<(Arc<str>, Option<usize>)>> {
    match candidate.kind {
        Kind::Update => {
            Some(candidate.set.iter().map(|(name, marker)| (name.as_str().into(), Some(*marker))).collect())
        }
        Kind::Delete if !candidate.deleted.is_empty() => {
            Some(candidate.deleted.iter().map(|name| (name.as_str().into(), None)).collect())
        }
        _ => None,
    }
}

fn select(of: &Column, partition: &str, clustering: Option<&str>, selected: &[Arc<str>]) -> String {
    let quoted = |name: &str| Ident::new(name).to_cql();
    let mut columns: Vec<String> = std::iter::once(partition).chain(clustering).map(quoted).collect();
    let mut keys = format!("{} IN ?", quoted(partition));
    if let Some(clustering) = clustering {
        keys.push_str(&format!(" AND {} = ?", quoted(clustering)));
    }
    for name in selected {
        let name = quoted(name);
        columns.extend([name.clone(), format!("WRITETIME({name})"), format!("TTL({name})")]);
    }
    let (keyspace, table) = (quoted(&of.keyspace), quoted(&of.table));
    format!("SELECT {} FROM {keyspace}.{table} WHERE {keys}", columns.join(", "))
}

#[cfg(test)]
#[path = "eligible_tests.rs"]
mod tests;
