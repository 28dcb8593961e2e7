//! Which functions are Cassandra's own: everything else that is called is a user's, or is not known.

use super::Ident;
use super::cursor::ident;
use crate::lex::{Token, TokenKind};

/// Cassandra 5.0's functions that have one name each. Those that exist for each type are in [`is_native`].
const NAMED: [&str; 52] = [
    "abs",
    "avg",
    "collection_avg",
    "collection_count",
    "collection_max",
    "collection_min",
    "collection_sum",
    "count",
    "current_date",
    "current_time",
    "current_timestamp",
    "current_timeuuid",
    "currentdate",
    "currenttime",
    "currenttimestamp",
    "currenttimeuuid",
    "exp",
    "floor",
    "from_json",
    "fromjson",
    "log",
    "log10",
    "map_keys",
    "map_values",
    "mask_default",
    "mask_hash",
    "mask_inner",
    "mask_null",
    "mask_outer",
    "mask_replace",
    "max",
    "max_timeuuid",
    "maxtimeuuid",
    "min",
    "min_timeuuid",
    "mintimeuuid",
    "now",
    "round",
    "similarity_cosine",
    "similarity_dot_product",
    "similarity_euclidean",
    "sum",
    "to_date",
    "to_json",
    "to_timestamp",
    "to_unix_timestamp",
    "todate",
    "tojson",
    "token",
    "totimestamp",
    "tounixtimestamp",
    "uuid",
];
/// CQL's simple types.
const TYPES: [&str; 21] = [
    "ascii",
    "bigint",
    "blob",
    "boolean",
    "counter",
    "date",
    "decimal",
    "double",
    "duration",
    "float",
    "inet",
    "int",
    "smallint",
    "text",
    "time",
    "timestamp",
    "timeuuid",
    "tinyint",
    "uuid",
    "varchar",
    "varint",
];
/// Words that a bracket may follow, other than the names of functions.
const KEYWORDS: [&str; 9] = ["VALUES", "IN", "AND", "WHERE", "IF", "SET", "INITCOND", "LIKE", "CONTAINS"];

/// Whether a function of this name (as stored: in lower case unless quoted) may be one of Cassandra 5.0's own.
pub fn is_native(name: &str) -> bool {
    let is_type = |name: &str| TYPES.contains(&name);
    let of_types = [
        name.strip_suffix("_as_blob"),
        name.strip_suffix("asblob"),
        name.strip_prefix("blob_as_"),
        name.strip_prefix("blobas"),
        name.strip_prefix("cast_as_"),
        name.strip_prefix("castas"),
    ];
    NAMED.contains(&name) || of_types.into_iter().flatten().any(is_type)
}

/// The function that the parenthesis at `open` belongs to, as stored, unless it may be Cassandra's own.
pub(super) fn foreign(text: &str, tokens: &[Token], open: usize) -> Option<String> {
    let name_at = open.checked_sub(1)?;
    let name = tokens.get(name_at)?;
    let known = ident(text, *name)?;
    if name.kind == TokenKind::Word && KEYWORDS.iter().any(|word| name.is_word(text, word)) {
        return None;
    }
    let dot = name_at.checked_sub(1).filter(|at| tokens[*at].is_symbol(b'.'));
    let keyspace_at = dot.and_then(|at| at.checked_sub(1));
    let first = keyspace_at.unwrap_or(name_at);
    // INSERT INTO t (..
    if first.checked_sub(1).is_some_and(|at| tokens[at].is_word(text, "INTO")) {
        return None;
    }
    let keyspace = keyspace_at.and_then(|at| ident(text, tokens[at]));
    let own = keyspace.as_ref().is_none_or(|keyspace| keyspace.as_str() == "system");
    let names = keyspace.iter().chain([&known]).map(Ident::as_str);
    (!own || !is_native(known.as_str())).then(|| names.collect::<Vec<_>>().join("."))
}
