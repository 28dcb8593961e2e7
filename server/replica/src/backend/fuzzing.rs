//! What judges texts and values of clients, for fuzz targets.

use bytes::Bytes;
use replicateddb_cql::request::Values;
use replicateddb_cql::response::{Column, Row, cell};

use super::conditional::Table;
pub use super::conditional::{Candidate, Eligible, candidate};
pub use super::nulls::{names_null, null_in_where};
use super::vectors::{in_text, in_values};

/// The write as one that is decided in memory, on a table with a partition key `k`, a clustering column `c`, and cells `v` and
/// `w`, if it is one. `bind` are its markers.
pub fn eligible(candidate: &Candidate, bind: &[Column]) -> Option<Eligible> {
    let text = |texts: &[&str]| -> Row { texts.iter().map(|text| Some(cell::text(text))).collect() };
    let columns = [
        text(&["k", "partition_key", "int"]),
        text(&["c", "clustering", "int"]),
        text(&["v", "regular", "int"]),
        text(&["w", "regular", "text"]),
    ];
    let flags: Bytes = cell::text_collection(&["compound"]);
    let table = vec![Some(cell::int(0)), Some(flags)];
    Eligible::new(candidate, bind, &Table::read(&columns, &[table], &[]))
}

/// How many vectors in a text an index can't hold.
pub fn vectors_in_text(text: &str) -> usize {
    in_text(text).len()
}

/// How many among values; `bind` are their markers.
pub fn vectors_in_values(values: &Values, bind: &[Column]) -> usize {
    in_values(values, bind).len()
}
