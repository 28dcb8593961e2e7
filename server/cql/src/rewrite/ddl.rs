//! Gives DDL the identities and times that Cassandra would otherwise make up.

use crate::statement::{Insertion, Statement};
use uuid::Uuid;

/// `CREATE TABLE` and `CREATE MATERIALIZED VIEW` with `WITH ID = id`; any other text, and one that names an id itself,
/// stays as it is. `statement` is the classification of this same text.
pub fn with_table_id(text: &str, statement: &Statement, id: Uuid) -> String {
    match statement.insertion {
        Some(Insertion::FirstOption(at)) => insert(text, at, &format!(" WITH ID = {id} ")),
        Some(Insertion::BeforeOptions(at)) => insert(text, at, &format!(" ID = {id} AND ")),
        _ => text.to_owned(),
    }
}

/// `ALTER TABLE .. DROP ..` with `USING TIMESTAMP micros`; any other text, and one that has it, stays as it is.
/// `statement` is the classification of this same text.
pub fn with_drop_timestamp(text: &str, statement: &Statement, micros: i64) -> String {
    match statement.insertion {
        Some(Insertion::DropTimestamp(at)) => insert(text, at, &format!(" USING TIMESTAMP {micros} ")),
        _ => text.to_owned(),
    }
}

fn insert(text: &str, at: usize, what: &str) -> String {
    match text.split_at_checked(at) {
        Some((before, after)) => format!("{before}{what}{after}"),
        None => text.to_owned(),
    }
}
