//! What the front end has to know of tables, to refuse or to choose lanes: read from the local Cassandra, kept until the
//! schema changes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use replicateddb_cql::{
    request::Values,
    response::{Rows, cell},
    statement::Ident,
    wire::Value,
};

use super::{
    control::{Control, ControlError},
    limits::SCHEMA_TABLES,
};
use crate::{lanes::Lanes, replica::SchemaVersion};

const COLUMNS: &str =
    "SELECT column_name, type, kind FROM system_schema.columns WHERE keyspace_name = ? AND table_name = ?";
const VIEWS: &str = "SELECT view_name, base_table_name FROM system_schema.views WHERE keyspace_name = ?";

/// What matters of a column's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnClass {
    /// A list that is not frozen: appends, and even overwriting it, make cells that are different each time.
    List,
    /// A counter.
    Counter,
    /// Everything else.
    Plain,
}

impl ColumnClass {
    /// Of a type as `system_schema.columns` writes it.
    fn of(kind: &str) -> Self {
        let kind = kind.trim().to_ascii_lowercase();
        if kind.starts_with("list<") {
            Self::List
        } else if kind == "counter" {
            Self::Counter
        } else {
            Self::Plain
        }
    }
}

/// The columns of a table by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct TableColumns {
    columns: HashMap<String, ColumnClass>,
    partition_key: Vec<String>,
    /// The table under it, if it is a materialized view.
    base: Option<String>,
    /// The materialized views of it.
    views: Vec<String>,
}

impl TableColumns {
    /// From names and classes.
    #[cfg(test)]
    pub fn new(columns: impl IntoIterator<Item = (String, ColumnClass)>) -> Self {
        Self { columns: columns.into_iter().collect(), ..Self::default() }
    }

    /// The lanes of a SELECT from `table` that compares these columns with one value each; none if it reads a single
    /// partition, which changes by one record at a time anyway.
    pub fn read_lanes(&self, keyspace: &str, table: &str, equalities: &[Ident]) -> Option<Lanes> {
        let compared = |column: &String| equalities.iter().any(|equal| equal.as_str() == column);
        match &self.base {
            // A view's partition has rows of many of the base table's.
            Some(base) => Some(Lanes::read_table(keyspace, base)),
            None if !self.partition_key.is_empty() && self.partition_key.iter().all(compared) => None,
            None => Some(Lanes::read_table(keyspace, table)),
        }
    }

    /// The table under it, if it is a materialized view.
    pub fn base(&self) -> Option<&str> {
        self.base.as_deref()
    }

    /// The materialized views of it.
    pub fn views(&self) -> &[String] {
        &self.views
    }

    /// The class of a column, if there is such a column.
    pub fn class(&self, column: &str) -> Option<ColumnClass> {
        self.columns.get(column).copied()
    }

    /// Whether any column is of this class.
    pub fn any(&self, class: ColumnClass) -> bool {
        self.columns.values().any(|known| *known == class)
    }

    fn from_rows(table: &str, columns: &Rows, views: &Rows) -> Self {
        let text = |cell: Option<&Option<bytes::Bytes>>| Some(cell::as_text(cell?.as_ref()?)?.to_owned());
        let rows = columns.rows.iter();
        let classes = rows.clone().filter_map(|row| Some((text(row.first())?, ColumnClass::of(&text(row.get(1))?))));
        let key = rows.filter(|row| text(row.get(2)).as_deref() == Some("partition_key"));
        let views = views.rows.iter();
        let all: Vec<_> = views.filter_map(|row| Some((text(row.first())?, text(row.get(1))?))).collect();
        Self {
            columns: classes.collect(),
            partition_key: key.filter_map(|row| text(row.first())).collect(),
            base: all.iter().find(|(view, _)| view == table).map(|(_, base)| base.clone()),
            views: all.iter().filter(|(_, base)| base == table).map(|(view, _)| view.clone()).collect(),
        }
    }
}

/// The columns of tables by keyspace and name, each with the schema version it was read at.
type Tables = HashMap<(String, String), (SchemaVersion, Arc<TableColumns>)>;

/// A bounded cache of tables' columns. An entry holds for the schema version it was read under.
#[derive(Debug, Default)]
pub struct SchemaCache {
    tables: Mutex<Tables>,
}

impl SchemaCache {
    /// The columns of a table; `None` if it does not exist here.
    ///
    /// `version` is the schema version applied here, read by the caller before: if the schema changes while the question
    /// is under way, the entry is already out of date when it is stored, never the reverse.
    ///
    /// # Errors
    /// The local Cassandra does not answer.
    pub async fn columns(
        &self,
        control: &Control,
        version: SchemaVersion,
        keyspace: &str,
        table: &str,
    ) -> Result<Option<Arc<TableColumns>>, ControlError> {
        if let Some(columns) = self.known(version, keyspace, table) {
            return Ok(Some(columns));
        }
        let key = (keyspace.to_owned(), table.to_owned());
        let names = [keyspace, table].map(|name| Value::Bytes(cell::text(name)));
        let rows = control.query(COLUMNS, Values::positional(&names)?).await?;
        let views = control.query(VIEWS, Values::positional(&names[..1])?).await?;
        let columns = Arc::new(TableColumns::from_rows(table, &rows, &views));
        if columns.columns.is_empty() {
            return Ok(None);
        }
        let mut tables = self.lock();
        if tables.len() >= SCHEMA_TABLES {
            tables.clear();
        }
        tables.insert(key, (version, columns.clone()));
        Ok(Some(columns))
    }

    /// The columns, if they were asked for at this version.
    pub fn known(&self, version: SchemaVersion, keyspace: &str, table: &str) -> Option<Arc<TableColumns>> {
        let key = (keyspace.to_owned(), table.to_owned());
        let tables = self.lock();
        tables.get(&key).filter(|(at, _)| *at == version).map(|(_, columns)| columns.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_of_types() {
        for (kind, class) in [
            ("list<int>", ColumnClass::List),
            ("frozen<list<int>>", ColumnClass::Plain),
            ("map<text, frozen<list<int>>>", ColumnClass::Plain),
            ("set<text>", ColumnClass::Plain),
            ("counter", ColumnClass::Counter),
            ("text", ColumnClass::Plain),
        ] {
            assert_eq!(ColumnClass::of(kind), class, "{kind}");
        }
    }

    #[test]
    fn only_a_whole_partition_key_by_equality_reads_without_lanes() {
        let key = ["a", "b"].map(str::to_owned).to_vec();
        let table = TableColumns { partition_key: key.clone(), ..TableColumns::default() };
        let view = TableColumns { partition_key: key, base: Some("t".into()), ..TableColumns::default() };
        let equal = |names: &[&str]| names.iter().map(|name| Ident::new(*name)).collect::<Vec<_>>();
        assert_eq!(table.read_lanes("k", "t", &equal(&["b", "c", "a"])), None);
        assert_eq!(table.read_lanes("k", "t", &equal(&["a", "c"])), Some(Lanes::read_table("k", "t")));
        assert_eq!(table.read_lanes("k", "t", &[]), Some(Lanes::read_table("k", "t")));
        assert_eq!(view.read_lanes("k", "v", &equal(&["a", "b"])), Some(Lanes::read_table("k", "t")));
        assert_eq!(TableColumns::default().read_lanes("k", "t", &[]), Some(Lanes::read_table("k", "t")));
    }
}
