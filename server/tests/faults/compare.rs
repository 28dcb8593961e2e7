//! What a replica holds, as a driver reads it.

use std::net::SocketAddr;

use scylla::client::session::Session;
use serde_json::{Value, json};

use crate::{
    bed::session,
    kinds::TABLES,
    model::{Row, State},
};

/// Rows that differ and are shown.
const SHOWN: usize = 10;

/// The replica at this address holds this and nothing else.
pub async fn compare(server: SocketAddr, state: &State) {
    let found = read(&session(server).await).await;
    let mut differences = Vec::new();
    for (table, _) in TABLES.iter().chain(&[("made", &[][..])]) {
        let (mut wanted, mut found) = (state.clone(), found.clone());
        let (wanted, found) = (wanted.table(table), found.table(table));
        for key in wanted.keys().chain(found.keys()) {
            let (wanted, found) = (wanted.get(key), found.get(key));
            if wanted != found {
                differences.push(format!("{table} {key:?}: {found:?} in place of {wanted:?}"));
            }
        }
    }
    differences.dedup();
    differences.truncate(SHOWN);
    assert!(differences.is_empty(), "not what the log says: {differences:#?}");
}

async fn read(session: &Session) -> State {
    let mut state = State::default();
    for (table, key) in TABLES {
        for mut row in rows(session, &format!("SELECT JSON * FROM f.{table}")).await {
            // A column without a value is as good as none.
            row.retain(|_, value| !value.is_null());
            let numbers = key.iter().map(|column| row[*column].as_i64().unwrap()).collect();
            let twice = state.table(table).insert(numbers, row);
            assert_eq!(twice, None, "{table} has a row twice");
        }
    }
    let columns = "SELECT JSON table_name, column_name FROM system_schema.columns WHERE keyspace_name = 'f'";
    for row in rows(session, columns).await {
        let [table, column] = ["table_name", "column_name"].map(|name| row[name].as_str().unwrap());
        let Some(number) = table.strip_prefix("made_").and_then(|number| number.parse().ok()) else { continue };
        let columns = state.row("made", &[("table", number)]).entry("columns").or_insert_with(|| json!([]));
        columns.as_array_mut().unwrap().push(json!(column));
    }
    state
}

async fn rows(session: &Session, query: &str) -> Vec<Row> {
    let result = session.query_unpaged(query, ()).await.unwrap_or_else(|error| panic!("{query}: {error}"));
    let rows = result.into_rows_result().unwrap();
    let parse = |text: String| match serde_json::from_str(&text).unwrap() {
        Value::Object(row) => row,
        other => panic!("{other}"),
    };
    rows.rows::<(String,)>().unwrap().map(|row| parse(row.unwrap().0)).collect()
}
