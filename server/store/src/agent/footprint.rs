//! What a truncation or a schema change leaves behind in Cassandra, whoever makes it. Read when the replica marks the
//! store clean and again when it takes the mark away: a difference was made behind its back, and by nobody who ordered it.
//! Rows that were written past the log are not seen.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::probe::Probe;
use crate::api::Footprint;

const TABLES: &str = "SELECT JSON keyspace_name, table_name, id FROM system_schema.tables";
const LOCAL: &str = "SELECT JSON schema_version, truncated_at FROM system.local";
/// Cassandra's own keyspaces; it truncates tables of them by itself.
const SYSTEM_PREFIX: &str = "system";

#[derive(Deserialize)]
struct Table {
    keyspace_name: String,
    table_name: String,
    id: String,
}

#[derive(Deserialize)]
struct Local {
    schema_version: Option<String>,
    truncated_at: Option<BTreeMap<String, String>>,
}

/// Asks Cassandra.
///
/// # Errors
/// If it does not answer as expected.
pub async fn read(cassandra: &Probe) -> Result<Footprint> {
    let tables = cassandra.rows(TABLES).await?;
    let local = cassandra.rows(LOCAL).await?;
    understand(&tables, local.first().context("system.local is empty")?)
}

fn understand(tables: &[Vec<u8>], local: &[u8]) -> Result<Footprint> {
    let local: Local = serde_json::from_slice(local).context("can't understand system.local")?;
    let truncated = local.truncated_at.unwrap_or_default();
    let mut footprint = Footprint { schema_version: local.schema_version, ..Footprint::default() };
    for row in tables {
        let Table { keyspace_name, table_name, id } =
            serde_json::from_slice(row).context("can't understand system_schema.tables")?;
        if keyspace_name.starts_with(SYSTEM_PREFIX) {
            continue;
        }
        let name = format!("{keyspace_name}.{table_name}");
        if let Some(at) = truncated.get(&id) {
            footprint.truncated.insert(name.clone(), at.clone());
        }
        footprint.tables.insert(name, id);
    }
    Ok(footprint)
}

/// The first difference, for people; `None` if there is none. A mark without a footprint is that of an empty store.
pub fn difference(then: Option<&Footprint>, now: &Footprint) -> Option<String> {
    let nothing = Footprint::default();
    let before = then.unwrap_or(&nothing);
    for (name, id) in &now.tables {
        match before.tables.get(name) {
            None => return Some(format!("table {name} was created")),
            Some(known) if known != id => return Some(format!("table {name} was dropped and made again")),
            Some(_) => {}
        }
    }
    if let Some(name) = before.tables.keys().find(|name| !now.tables.contains_key(*name)) {
        return Some(format!("table {name} was dropped"));
    }
    let truncated = |name: &&String| now.truncated.get(*name) != before.truncated.get(*name);
    if let Some(name) = now.tables.keys().find(truncated) {
        return Some(format!("table {name} was truncated"));
    }
    let changed = then.is_some_and(|then| then.schema_version != now.schema_version);
    changed.then(|| "the schema was changed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn footprint(tables: &[(&str, &str)], local: &str) -> Footprint {
        let row = |(name, id): &(&str, &str)| {
            let (keyspace, table) = name.split_once('.').unwrap();
            format!(r#"{{"keyspace_name": "{keyspace}", "table_name": "{table}", "id": "{id}"}}"#).into_bytes()
        };
        understand(&tables.iter().map(row).collect::<Vec<_>>(), local.as_bytes()).unwrap()
    }

    #[test]
    fn every_change_of_user_tables_is_a_difference_and_nothing_else_is() {
        const NONE: &str = r#"{"schema_version": "v1", "truncated_at": null}"#;
        const SYSTEM: &str = r#"{"schema_version": "v1", "truncated_at": {"s": "0x01"}}"#;
        const USER: &str = r#"{"schema_version": "v1", "truncated_at": {"1": "0x01", "s": "0x02"}}"#;
        const AGAIN: &str = r#"{"schema_version": "v1", "truncated_at": {"1": "0x02"}}"#;
        const ALTERED: &str = r#"{"schema_version": "v2", "truncated_at": null}"#;
        let one = [("k.t", "1"), ("system.x", "s")];
        for (then, now, expected) in [
            (footprint(&one, NONE), footprint(&one, NONE), None),
            (footprint(&one, NONE), footprint(&one, SYSTEM), None),
            (footprint(&one, USER), footprint(&one, USER), None),
            (footprint(&one, NONE), footprint(&one, USER), Some("k.t was truncated")),
            (footprint(&one, USER), footprint(&one, AGAIN), Some("k.t was truncated")),
            (footprint(&one, NONE), footprint(&[("k.t", "2")], NONE), Some("k.t was dropped and made again")),
            (footprint(&one, NONE), footprint(&[], NONE), Some("k.t was dropped")),
            (footprint(&one, NONE), footprint(&[("k.t", "1"), ("k.u", "2")], NONE), Some("k.u was created")),
            (footprint(&one, NONE), footprint(&one, ALTERED), Some("schema was changed")),
        ] {
            let found = difference(Some(&then), &now);
            assert_eq!(found.is_some(), expected.is_some(), "{found:?}");
            assert!(found.unwrap_or_default().contains(expected.unwrap_or_default()), "{expected:?}");
        }
        assert_eq!(difference(None, &footprint(&[("system.x", "s")], SYSTEM)), None);
        assert!(difference(None, &footprint(&one, NONE)).is_some());
        assert!(understand(&[], b"{").is_err() && understand(&[b"x".to_vec()], NONE.as_bytes()).is_err());
    }
}
