//! What a replica asks of its keyspace in a shared Cassandra: the row that says whose it is, what is in it, and dropping that.

use replicateddb_cql::Consistency;
use replicateddb_cql::frame::Opcode;
use replicateddb_cql::request::{self, Params, Values};
use replicateddb_cql::response::{self, ResultBody, Row, cell};
use replicateddb_cql::statement::Ident;
use replicateddb_cql::wire::Value;
use replicateddb_store::api::{Clean, Code, Footprint, Held, Manifest, Refusal};
use replicateddb_store::client::StoreError;
use replicateddb_store::generation;
use uuid::Uuid;

use super::STATE_TABLE;
use super::store::KeyspaceStore;
use crate::backend::connection::Connection;

/// Rounds of dropping types, which may use one another.
const DROP_ROUNDS: usize = 32;
/// What stands in place of a clean mark where what the keyspace holds must not be used, before the reason.
pub const DISTRUSTED: &str = "distrusted: ";
/// Version of ids that a name gives: the log's tables have such, Cassandra's own choice is another.
const NAME_BASED: usize = 5;

/// The row.
#[derive(Debug, Clone, Default)]
pub struct Known {
    pub log: Uuid,
    pub replica: i64,
    pub incarnation: i64,
    /// `None`: nothing was ever applied.
    pub build: Option<Uuid>,
    /// The JVM that the build was begun in.
    pub generation: Option<u64>,
    /// The clean mark, or [`DISTRUSTED`] and why.
    pub clean: Option<String>,
}

impl Known {
    /// Why what the keyspace holds must not be used.
    pub fn distrusted(&self) -> Option<String> {
        self.clean.as_deref()?.strip_prefix(DISTRUSTED).map(str::to_owned)
    }
}

/// The store with a connection.
pub struct Open<'a> {
    store: &'a KeyspaceStore,
    connection: Connection,
    name: String,
}

pub fn failed(text: &str, reason: impl ToString) -> StoreError {
    StoreError::Keyspace(format!("the shared Cassandra, at `{text}`: {}", reason.to_string()))
}

pub fn bigint(value: i64) -> Value {
    Value::Bytes(cell::bigint(value))
}

/// Stored bit by bit: CQL has no unsigned numbers.
pub fn signed(generation: u64) -> i64 {
    i64::from_ne_bytes(generation.to_ne_bytes())
}

pub fn text_of(row: &Row, column: usize) -> Option<String> {
    row.get(column)?.as_deref().and_then(cell::as_text).map(str::to_owned)
}

impl<'a> Open<'a> {
    /// On a connection of this name.
    pub fn new(store: &'a KeyspaceStore, connection: Connection, name: String) -> Self {
        Self { store, connection, name }
    }

    /// The connection's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub async fn rows(&self, text: &str, values: &[Value]) -> Result<Vec<Row>, StoreError> {
        let values = Values::positional(values).map_err(|error| failed(text, error))?;
        let body = request::query(text, &Params::new(Consistency::One, values)).map_err(|error| failed(text, error))?;
        let answer = self.connection.ask(Opcode::Query, body).await.map_err(|lost| failed(text, lost.reason))?;
        let message = answer.message().map_err(|error| failed(text, error))?;
        if answer.opcode != Opcode::Result {
            let error = response::parse_error(&message).map_err(|error| failed(text, error))?;
            return Err(failed(text, error.message));
        }
        match response::parse_result(&message).map_err(|error| failed(text, error))? {
            ResultBody::Rows(rows) => Ok(rows.rows),
            _ => Ok(Vec::new()),
        }
    }

    /// A compare-and-set; whether it was applied.
    pub async fn applied(&self, text: &str, values: &[Value]) -> Result<bool, StoreError> {
        let rows = self.rows(text, values).await?;
        Ok(rows.first().and_then(|row| row.first()?.as_deref().and_then(cell::as_boolean)).unwrap_or(false))
    }

    pub async fn generation(&self) -> Result<u64, StoreError> {
        let rows = self.rows(generation::QUERY, &[]).await?;
        let found = rows.first().and_then(|row| row.first()?.as_deref().and_then(generation::parse));
        found.ok_or_else(|| failed(generation::QUERY, "no Cassandra of a store agent with --shared"))
    }

    pub async fn known(&self) -> Result<Option<Known>, StoreError> {
        let text = format!(
            "SELECT log, incarnation, build, generation, clean, replica FROM {} WHERE id = 0",
            self.store.row()
        );
        let rows = self.rows(&text, &[]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let number = |column: usize| row.get(column).and_then(|cell| cell.as_deref().and_then(cell::as_bigint));
        let uuid = |column: usize| row.get(column).and_then(|cell| cell.as_deref().and_then(cell::as_uuid));
        Ok(Some(Known {
            log: uuid(0).unwrap_or_default(),
            incarnation: number(1).unwrap_or_default(),
            build: uuid(2),
            generation: number(3).map(|number| u64::from_ne_bytes(number.to_ne_bytes())),
            clean: text_of(row, 4),
            replica: number(5).unwrap_or_default(),
        }))
    }

    /// The row, if it is still ours.
    pub async fn ours(&self) -> Result<Known, StoreError> {
        let known = self.known().await?.ok_or_else(|| failed(&self.store.row(), "the replica's row is gone"))?;
        match known.incarnation > self.store.incarnation {
            true => Err(self.store.fenced(known.incarnation)),
            false => Ok(known),
        }
    }

    pub async fn claim(&self) -> Result<(), StoreError> {
        let keyspace = Ident::new(&*self.store.keyspace).to_cql();
        let row = self.store.row();
        let replication = "{'class': 'SimpleStrategy', 'replication_factor': 1}";
        self.rows(&format!("CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = {replication}"), &[]).await?;
        refuse_foreign(&self.store.keyspace, &self.footprint().await?)?;
        let columns = "id int PRIMARY KEY, log uuid, replica bigint, incarnation bigint, build uuid, generation bigint, clean text";
        self.rows(&format!("CREATE TABLE IF NOT EXISTS {row} ({columns})"), &[]).await?;
        let ours = [
            Value::Bytes(cell::uuid(self.store.log)),
            bigint(self.store.replica.into()),
            bigint(self.store.incarnation),
        ];
        let first = format!("INSERT INTO {row} (id, log, replica, incarnation) VALUES (0, ?, ?, ?) IF NOT EXISTS");
        if self.applied(&first, &ours).await? {
            return Ok(());
        }
        let known = self.known().await?.unwrap_or_default();
        let other = |message: String| Err(StoreError::Refused(Refusal { code: Code::OtherLog, message }));
        if known.log == self.store.log && known.replica != i64::from(self.store.replica) {
            return other(format!(
                "the keyspace {} belongs to replica {}, this one is {}: each replica needs its own; write {{id}} in the name",
                self.store.keyspace, known.replica, self.store.replica
            ));
        }
        if known.log != self.store.log {
            let message = format!(
                "the keyspace {} belongs to the log {}, this one is {}: the ordering tier lost its data, or another \
                 root is configured; to begin anew, drop the keyspace in the shared Cassandra",
                self.store.keyspace, known.log, self.store.log
            );
            return other(message);
        }
        if known.incarnation > self.store.incarnation {
            return Err(self.store.fenced(known.incarnation));
        }
        let claim = format!("UPDATE {row} SET incarnation = ? WHERE id = 0 IF incarnation = ?");
        match self.applied(&claim, &[bigint(self.store.incarnation), bigint(known.incarnation)]).await? {
            true => Ok(()),
            false => Err(failed(&claim, "another incarnation claims the keyspace in the same moment")),
        }
    }

    /// Ids of the own tables, and when they were truncated: what somebody does to them past the log shows here.
    pub async fn footprint(&self) -> Result<Footprint, StoreError> {
        let text = "SELECT table_name, id FROM system_schema.tables WHERE keyspace_name = ?";
        let keyspace = [Value::Bytes(cell::text(&self.store.keyspace))];
        let mut footprint = Footprint::default();
        for row in self.rows(text, &keyspace).await? {
            let id = row.get(1).and_then(|cell| cell.as_deref().and_then(cell::as_uuid));
            if let (Some(table), Some(id)) = (text_of(&row, 0), id) {
                footprint.tables.insert(table, id.to_string());
            }
        }
        let text = "SELECT truncated_at FROM system.local WHERE key = 'local'";
        let truncated = self.rows(text, &[]).await?.into_iter().next().and_then(|row| row.into_iter().next()).flatten();
        for (table, id) in &footprint.tables {
            if let Some(record) = truncated.as_ref().and_then(|map| entry_of(map, id)) {
                footprint.truncated.insert(table.clone(), record);
            }
        }
        Ok(footprint)
    }

    pub async fn clean(&self, known: &Known, generation: u64) -> Result<Option<Clean>, StoreError> {
        let manifest = known.clean.as_deref().and_then(|text| serde_json::from_str::<Manifest>(text).ok());
        let (Some(manifest), true) = (manifest, known.generation == Some(generation)) else { return Ok(None) };
        if manifest.footprint.as_ref() != Some(&self.footprint().await?) {
            tracing::warn!("tables of this keyspace were changed past the log: rebuilding");
            return Ok(None);
        }
        Ok(Some(Clean { manifest: Some(manifest), held: Held::Generation { generation } }))
    }

    /// Drops what the log made.
    pub async fn drop_everything(&self) -> Result<(), StoreError> {
        let keyspace = Ident::new(&*self.store.keyspace).to_cql();
        let own = [Value::Bytes(cell::text(&self.store.keyspace))];
        let named = |rows: Vec<Row>| rows.iter().filter_map(|row| text_of(row, 0)).collect::<Vec<_>>();
        refuse_foreign(&self.store.keyspace, &self.footprint().await?)?;
        for (kind, column, table) in [("MATERIALIZED VIEW", "view_name", "views"), ("TABLE", "table_name", "tables")] {
            let text = format!("SELECT {column} FROM system_schema.{table} WHERE keyspace_name = ?");
            for name in named(self.rows(&text, &own).await?) {
                if name != STATE_TABLE {
                    let name = Ident::new(name).to_cql();
                    self.rows(&format!("DROP {kind} IF EXISTS {keyspace}.{name}"), &[]).await?;
                }
            }
        }
        for (kind, column, table) in
            [("AGGREGATE", "aggregate_name", "aggregates"), ("FUNCTION", "function_name", "functions")]
        {
            let text = format!("SELECT {column}, argument_types FROM system_schema.{table} WHERE keyspace_name = ?");
            for row in self.rows(&text, &own).await? {
                let name = Ident::new(text_of(&row, 0).unwrap_or_default()).to_cql();
                let types: Vec<_> = row.get(1).and_then(Option::as_deref).map(cell::as_elements).unwrap_or_default();
                let types: Vec<_> = types.into_iter().filter_map(cell::as_text).collect();
                let text = format!("DROP {kind} IF EXISTS {keyspace}.{name}({})", types.join(", "));
                self.rows(&text, &[]).await?;
            }
        }
        let text = "SELECT type_name FROM system_schema.types WHERE keyspace_name = ?";
        for _ in 0..DROP_ROUNDS {
            let types = named(self.rows(text, &own).await?);
            if types.is_empty() {
                return Ok(());
            }
            for name in types {
                // One that another uses is refused until the other is gone.
                let name = Ident::new(name).to_cql();
                let _ = self.rows(&format!("DROP TYPE IF EXISTS {keyspace}.{name}"), &[]).await;
            }
        }
        Err(failed(&keyspace, "its types can't be dropped"))
    }
}

/// A table that was not made through the log is somebody's: nothing in its keyspace may be dropped.
fn refuse_foreign(keyspace: &str, footprint: &Footprint) -> Result<(), StoreError> {
    let by_name = |id: &str| Uuid::parse_str(id).is_ok_and(|id| id.get_version_num() == NAME_BASED);
    match footprint.tables.iter().find(|(table, id)| *table != STATE_TABLE && !by_name(id)) {
        None => Ok(()),
        Some((table, _)) => Err(StoreError::Keyspace(format!(
            "the table {keyspace}.{table} of the shared Cassandra was not made through the ordered log, and is not dropped: \
             move it elsewhere or drop it, or give this replica another keyspace"
        ))),
    }
}

/// The value, in hex, of a `map<uuid, blob>` under a key.
fn entry_of(map: &[u8], id: &str) -> Option<String> {
    let id = Uuid::parse_str(id).ok()?;
    let parts = cell::as_elements(map);
    let (_, value) =
        parts.as_chunks().0.iter().map(|[key, value]| (key, value)).find(|(key, _)| **key == id.as_bytes())?;
    Some(value.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_a_map_is_found() {
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let mut map = 2i32.to_be_bytes().to_vec();
        for (id, value) in [(one, &b"\x01\xff"[..]), (two, b"")] {
            map.extend(16i32.to_be_bytes());
            map.extend(id.as_bytes());
            map.extend((value.len() as i32).to_be_bytes());
            map.extend(value);
        }
        assert_eq!(entry_of(&map, &one.to_string()).as_deref(), Some("01ff"));
        assert_eq!(entry_of(&map, &two.to_string()).as_deref(), Some(""));
        assert_eq!(entry_of(&map, &Uuid::nil().to_string()), None);
        assert_eq!(entry_of(&map[..20], &two.to_string()), None);
    }
}
