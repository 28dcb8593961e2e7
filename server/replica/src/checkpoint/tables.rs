//! What tables a keyspace has, and reading them page by page.

use std::collections::{BTreeMap, BTreeSet};

use replicateddb_cql::Consistency;
use replicateddb_cql::request::{Params, Values};
use replicateddb_cql::response::{Row, Rows, cell};
use replicateddb_cql::statement::{Ident, is_system_keyspace};

use super::folder::CheckpointError;
use super::line::{Role, Shape, Table};
use super::schema::statements;
use crate::backend::connection::Connection;
use crate::backend::outcome::Failure;
use crate::backend::scan::{self, page};

/// A connection, reading as of a second.
pub struct Reading<'a> {
    /// The connection.
    pub connection: &'a Connection,
    /// Seconds since 1970.
    pub second: i32,
}

/// Pages of a SELECT.
pub struct Pages<'a>(scan::Pages<'a>);

pub fn failed(failure: Failure) -> CheckpointError {
    CheckpointError::Cassandra(failure.reason())
}

fn text_of(row: &Row, column: usize) -> String {
    row.get(column).and_then(Option::as_deref).and_then(cell::as_text).unwrap_or_default().to_owned()
}

impl<'a> Reading<'a> {
    /// The pages of a SELECT.
    pub fn pages(&'a self, select: String) -> Pages<'a> {
        Pages(scan::Pages::new(self.connection, select, Some(self.second)))
    }

    async fn rows(&self, select: String) -> Result<Vec<Row>, CheckpointError> {
        self.pages(select).0.all().await.map_err(failed)
    }

    /// The users' keyspaces, by name.
    ///
    /// # Errors
    /// Cassandra can't be asked now.
    pub async fn keyspaces(&self) -> Result<Vec<String>, CheckpointError> {
        let rows = self.rows("SELECT keyspace_name FROM system_schema.keyspaces".to_owned()).await?;
        let names: BTreeSet<String> =
            rows.iter().map(|row| text_of(row, 0)).filter(|name| !is_system_keyspace(name)).collect();
        Ok(names.into_iter().collect())
    }

    /// What Cassandra says makes a keyspace, the keyspace itself first.
    ///
    /// # Errors
    /// Cassandra can't be asked now.
    pub async fn description(&self, keyspace: &str) -> Result<Vec<String>, CheckpointError> {
        let rows = self.rows(format!("DESCRIBE KEYSPACE {} WITH INTERNALS", Ident::new(keyspace).to_cql())).await?;
        Ok(rows.iter().map(|row| text_of(row, 3)).collect())
    }

    /// The tables of a keyspace, no views, by name.
    ///
    /// # Errors
    /// Cassandra can't be asked now.
    pub async fn tables(&self, keyspace: &str, without: &str) -> Result<Vec<Table>, CheckpointError> {
        let of = format!("WHERE keyspace_name = '{}'", keyspace.replace('\'', "''"));
        let names = self.rows(format!("SELECT table_name FROM system_schema.tables {of}")).await?;
        let names: BTreeSet<String> = names.iter().map(|row| text_of(row, 0)).filter(|name| name != without).collect();
        let columns = "SELECT table_name, column_name, kind, position, type FROM system_schema.columns";
        let mut columns_of: BTreeMap<String, Vec<(Role, i32, String, bool)>> = BTreeMap::new();
        for row in self.rows(format!("{columns} {of}")).await? {
            let role = match text_of(&row, 2).as_str() {
                "partition_key" => Role::Partition,
                "clustering" => Role::Clustering,
                "static" => Role::Static,
                _ => Role::Regular,
            };
            let position = row.get(3).and_then(|cell| cell.as_deref().and_then(cell::as_int)).unwrap_or_default();
            let column = (role, position, text_of(&row, 1), text_of(&row, 4) == "counter");
            columns_of.entry(text_of(&row, 0)).or_default().push(column);
        }
        let table = |name: String| {
            let mut columns = columns_of.remove(&name).unwrap_or_default();
            columns.sort();
            let columns = columns.into_iter().map(|(role, _, name, counter)| (name, role, counter)).collect();
            Table { keyspace: keyspace.to_owned(), name, columns }
        };
        Ok(names.into_iter().map(table).collect())
    }

    /// The types of a table's columns.
    ///
    /// # Errors
    /// Cassandra can't be asked now.
    pub async fn shape(&self, table: &Table) -> Result<Shape, CheckpointError> {
        let select = format!("{} LIMIT 1", table.select());
        let one = Params { page_size: Some(1), ..Params::new(Consistency::One, Values::none()) };
        let page = page(self.connection, &select, Some(self.second), &one).await;
        table.typed(&page.map_err(failed)?.columns).map_err(CheckpointError::Cassandra)
    }

    /// What makes the keyspace's schema, in order.
    ///
    /// # Errors
    /// Cassandra can't be asked now.
    pub async fn schema(&self, keyspace: &str, without: &str) -> Result<Vec<String>, CheckpointError> {
        let describe = format!("DESCRIBE KEYSPACE {} WITH INTERNALS", Ident::new(keyspace).to_cql());
        let mut schema = Vec::new();
        for row in self.rows(describe).await? {
            if text_of(&row, 1) != "keyspace" && text_of(&row, 2) != without {
                let described = statements(keyspace, &text_of(&row, 3)).map_err(CheckpointError::Cassandra)?;
                schema.extend(described);
            }
        }
        Ok(schema)
    }
}

impl Pages<'_> {
    /// The next one; `None` after the last.
    ///
    /// # Errors
    /// Cassandra can't be asked now.
    pub async fn next(&mut self) -> Result<Option<Rows>, CheckpointError> {
        self.0.next().await.map_err(failed)
    }
}
