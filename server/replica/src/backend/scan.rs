//! Reading page by page, and digests of all user tables: every row as Cassandra returns it (token order, which is the same for the same data),
//! cells, write times, and what is left of each TTL at the log's own second. Not visible to CQL, so not covered: row
//! markers and tombstones.

use std::collections::BTreeMap;

use bytes::Bytes;
use replicateddb_cql::Consistency;
use replicateddb_cql::frame::Opcode;
use replicateddb_cql::request::{self, Params, Values};
use replicateddb_cql::response::cell::as_text;
use replicateddb_cql::response::{self, ResultBody, Row, Rows};
use replicateddb_cql::statement::{Ident, is_system_keyspace};
use replicateddb_store::login;
use sha2::{Digest as _, Sha256};

use super::connection::Connection;
use super::outcome::{Failure, Meaning, judge};
use crate::replica::TableDigest;

/// Rows per page; fewer where rows are large, so that a page's cells stay within [`PAGE_BYTES`].
const PAGE: i32 = 500;
/// Bytes of a page from which on the next one has fewer rows.
const PAGE_BYTES: usize = 4 << 20;
const COLUMNS: &str = "SELECT keyspace_name, table_name, column_name, kind, position, type FROM system_schema.columns";

/// What is known of roles, the role first.
const ROLES: [(&str, &str); 3] = [
    ("system_auth.roles", "SELECT role, is_superuser, can_login, salted_hash, member_of FROM system_auth.roles"),
    ("system_auth.role_members", "SELECT role, member FROM system_auth.role_members"),
    ("system_auth.role_permissions", "SELECT role, resource, permissions FROM system_auth.role_permissions"),
];

/// Names, kinds (partition key, regular ...) and types of a table's columns.
type Columns = Vec<(String, String, String)>;

/// What to read of a table and how to hash it.
#[derive(Debug, PartialEq, Eq)]
struct Table {
    select: String,
    /// Names, kinds and types.
    definition: String,
}

/// Reads and hashes every user table, or those of one keyspace, as of the second `now_s` since 1970.
pub(super) async fn digest(
    connection: &Connection,
    keyspace: Option<&str>,
    now_s: i32,
) -> Result<BTreeMap<String, TableDigest>, Failure> {
    let columns = Pages::new(connection, COLUMNS.to_owned(), Some(now_s)).all().await?;
    let mut digests = BTreeMap::new();
    for (name, table) in tables(&columns, keyspace) {
        let mut hash = Sha256::new();
        hash.update(table.definition.as_bytes());
        let mut count = 0u64;
        // Bytes alone are hashed: columns are not asked for, whose types may be nested deeper than is read here.
        let mut pages = Pages { skip_metadata: true, ..Pages::new(connection, table.select, Some(now_s)) };
        while let Some(Rows { rows, .. }) = pages.next().await? {
            count += rows.len() as u64;
            rows.iter().for_each(|row| hash_row(&mut hash, row));
        }
        let sha256 = hex(hash);
        digests.insert(name, TableDigest { rows: count, sha256 });
    }
    if keyspace.is_none() {
        digests.extend(digest_roles(connection).await?);
    }
    Ok(digests)
}

/// Roles and what they may; no write times, which are of the node's own clock. A table without rows is left out, as where clients do not
/// log in.
async fn digest_roles(connection: &Connection) -> Result<BTreeMap<String, TableDigest>, Failure> {
    let mut digests = BTreeMap::new();
    for (name, select) in ROLES {
        let mut rows = Pages::new(connection, select.to_owned(), None).all().await?;
        rows.retain(is_ordered);
        if rows.is_empty() {
            continue;
        }
        let mut hash = Sha256::new();
        rows.iter().for_each(|row| hash_row(&mut hash, row));
        let sha256 = hex(hash);
        digests.insert(name.to_owned(), TableDigest { rows: rows.len() as u64, sha256 });
    }
    Ok(digests)
}

/// Whether a row is of a role that came by the order: the replica's own is made beside it, and Cassandra's first one by itself, each
/// with a hash of its own.
fn is_ordered(row: &Row) -> bool {
    let role = row.first().and_then(Option::as_deref).and_then(as_text);
    role.is_some_and(|role| role != login::ROLE && role != login::DEFAULT_ROLE)
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hash_row(hash: &mut Sha256, row: &Row) {
    for cell in row {
        match cell {
            None => hash.update([0]),
            Some(bytes) => {
                hash.update([2]);
                hash.update((bytes.len() as u64).to_be_bytes());
                hash.update(bytes);
            }
        }
    }
}

/// The user tables (and views) that rows of `system_schema.columns` define, by `keyspace.table`.
fn tables(columns: &[Row], keyspace: Option<&str>) -> BTreeMap<String, Table> {
    let mut found: BTreeMap<(String, String), Columns> = BTreeMap::new();
    for row in columns {
        let text = |n: usize| row.get(n).and_then(Option::as_deref).and_then(as_text).unwrap_or_default().to_owned();
        let wanted = keyspace.map_or_else(|| !is_system_keyspace(&text(0)), |keyspace| text(0) == keyspace);
        if wanted {
            found.entry((text(0), text(1))).or_default().push((text(2), text(3), text(5)));
        }
    }
    found
        .into_iter()
        .map(|((keyspace, table), columns)| (format!("{keyspace}.{table}"), plan(&keyspace, &table, columns)))
        .collect()
}

fn plan(keyspace: &str, table: &str, mut columns: Columns) -> Table {
    columns.sort();
    let mut selected = Vec::new();
    for (name, kind, kind_of_value) in &columns {
        let name = Ident::new(name.as_str()).to_cql();
        let has_write_time = matches!(kind.as_str(), "regular" | "static") && kind_of_value != "counter";
        selected.push(name.clone());
        if has_write_time {
            selected.extend([format!("WRITETIME({name})"), format!("TTL({name})")]);
        }
    }
    let (keyspace, table) = (Ident::new(keyspace).to_cql(), Ident::new(table).to_cql());
    let select = format!("SELECT {} FROM {keyspace}.{table}", selected.join(", "));
    Table { select, definition: format!("{columns:?}") }
}

/// Pages of a SELECT.
pub(crate) struct Pages<'a> {
    connection: &'a Connection,
    select: String,
    now_s: Option<i32>,
    state: Option<Bytes>,
    size: i32,
    skip_metadata: bool,
    over: bool,
}

impl<'a> Pages<'a> {
    /// Of a SELECT as of this second since 1970, if it is one that any second matters to. Asks nothing yet.
    pub(crate) fn new(connection: &'a Connection, select: String, now_s: Option<i32>) -> Self {
        Self { connection, select, now_s, state: None, size: PAGE, skip_metadata: false, over: false }
    }

    /// The next one; `None` after the last.
    ///
    /// # Errors
    /// Cassandra can't be asked now; nothing was written.
    pub(crate) async fn next(&mut self) -> Result<Option<Rows>, Failure> {
        if self.over {
            return Ok(None);
        }
        let mut params = Params::new(Consistency::One, Values::none());
        params.page_size = Some(self.size);
        params.paging_state = self.state.take();
        params.skip_metadata = self.skip_metadata;
        let mut rows = page(self.connection, &self.select, self.now_s, &params).await?;
        self.size = next_size(self.size, &rows.rows);
        self.state = rows.paging_state.take();
        self.over = self.state.is_none();
        Ok(Some(rows))
    }

    /// The rows of all of them: for what is known to be little.
    ///
    /// # Errors
    /// As for [`Pages::next`].
    pub(crate) async fn all(mut self) -> Result<Vec<Row>, Failure> {
        let mut all = Vec::new();
        while let Some(page) = self.next().await? {
            all.extend(page.rows);
        }
        Ok(all)
    }
}

/// The rows to ask for after a page of `rows`: as many as fit [`PAGE_BYTES`] if the next ones are like them, growing
/// slowly.
fn next_size(size: i32, rows: &[Row]) -> i32 {
    let bytes: usize = rows.iter().flatten().flatten().map(Bytes::len).sum();
    let fit = rows.len().saturating_mul(PAGE_BYTES) / bytes.max(1);
    i32::try_from(fit).unwrap_or(PAGE).min(size.saturating_mul(2)).clamp(1, PAGE)
}

/// One page of a SELECT.
pub(crate) async fn page(
    connection: &Connection,
    text: &str,
    now_s: Option<i32>,
    params: &Params,
) -> Result<Rows, Failure> {
    let retry = |reason: String| Failure::Retry { reason, ambiguous: false };
    let body = request::v5::query(text, params, now_s).map_err(|e| retry(e.to_string()))?;
    let answer = connection.ask(Opcode::Query, body).await.map_err(|lost| retry(lost.reason))?;
    let reply = match judge(answer) {
        Meaning::Reply(reply) => reply,
        Meaning::Failure(failure) => return Err(failure.of_another().without_effect()),
        Meaning::Unprepared => return Err(retry("UNPREPARED to a QUERY".to_owned())),
    };
    let message = reply.message().ok_or_else(|| retry("an answer that can't be read".to_owned()))?;
    if !reply.is_result() {
        let error = response::parse_error(&message).map_err(|e| retry(e.to_string()))?;
        return Err(retry(format!("{text}: {}", error.message)));
    }
    match response::parse_result(&message).map_err(|e| retry(e.to_string()))? {
        ResultBody::Rows(rows) => Ok(rows),
        _ => Err(retry("no rows in the answer to a SELECT".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use replicateddb_cql::response::cell;

    use super::*;

    fn column(values: [&str; 5]) -> Row {
        let [keyspace, table, name, kind, kind_of_value] = values.map(|value| Some(cell::text(value)));
        vec![keyspace, table, name, kind, Some(cell::int(0)), kind_of_value]
    }

    #[test]
    fn write_times_of_what_has_them() {
        let columns = [
            column(["ks", "t", "k", "partition_key", "int"]),
            column(["ks", "t", "V", "regular", "list<int>"]),
            column(["ks", "c", "k", "partition_key", "int"]),
            column(["ks", "c", "n", "regular", "counter"]),
            column(["system_auth", "roles", "role", "partition_key", "text"]),
        ];
        assert_eq!(tables(&columns, Some("ks")).len(), 2);
        assert!(tables(&columns, Some("k")).is_empty());
        let tables = tables(&columns, None);
        assert_eq!(tables.keys().collect::<Vec<_>>(), ["ks.c", "ks.t"]);
        assert_eq!(tables["ks.t"].select, r#"SELECT "V", WRITETIME("V"), TTL("V"), "k" FROM "ks"."t""#);
        assert_eq!(tables["ks.c"].select, r#"SELECT "k", "n" FROM "ks"."c""#);
    }

    #[test]
    fn pages_of_large_rows_are_short() {
        let rows = |count: usize, bytes: usize| vec![vec![Some(Bytes::from(vec![0; bytes]))]; count];
        assert_eq!(next_size(PAGE, &rows(500, 100)), PAGE);
        assert_eq!(next_size(PAGE, &rows(500, 80_000)), 52);
        assert_eq!(next_size(52, &rows(52, 8)), 104);
        assert_eq!(next_size(PAGE, &rows(3, PAGE_BYTES)), 1);
        assert_eq!(next_size(1, &rows(0, 0)), 1, "an empty page says nothing");
    }

    #[test]
    fn null_and_empty_and_neighbours_differ() {
        let digest = |row: Row| {
            let mut hash = Sha256::new();
            hash_row(&mut hash, &row);
            hash.finalize()
        };
        let (empty, a) = (Some(Bytes::new()), Some(Bytes::from_static(b"a")));
        let rows = [vec![None, a.clone()], vec![empty.clone(), a.clone()], vec![a.clone(), None], vec![a, empty]];
        let digests: Vec<_> = rows.into_iter().map(digest).collect();
        for (n, one) in digests.iter().enumerate() {
            assert!(digests.iter().skip(n + 1).all(|other| one != other));
        }
    }
}
