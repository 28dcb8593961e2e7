//! Which functions are Cassandra's own: everything else that is called is a user's, or is not known.

use super::cursor::ident;
use super::{Function, Ident};
use crate::lex::{Token, TokenKind};
use crate::response::is_simple_type;

/// Those whose value depends on where and when they are called: each has a name in snake case and one without the
/// underscores.
const NONDETERMINISTIC: [(&str, Function); 10] = [
    ("now", Function::Timeuuid),
    ("current_timeuuid", Function::Timeuuid),
    ("currenttimeuuid", Function::Timeuuid),
    ("uuid", Function::Uuid),
    ("current_timestamp", Function::Timestamp),
    ("currenttimestamp", Function::Timestamp),
    ("current_date", Function::Date),
    ("currentdate", Function::Date),
    ("current_time", Function::Time),
    ("currenttime", Function::Time),
];

/// Cassandra 5.0's functions that have one name each, besides [`NONDETERMINISTIC`]. Those that exist for each type are in
/// [`is_native`].
const NAMED: [&str; 42] = [
    "abs",
    "avg",
    "collection_avg",
    "collection_count",
    "collection_max",
    "collection_min",
    "collection_sum",
    "count",
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
];
/// Words that a bracket may follow, other than the names of functions.
const KEYWORDS: [&str; 10] = ["CAST", "VALUES", "IN", "AND", "WHERE", "IF", "SET", "INITCOND", "LIKE", "CONTAINS"];

/// The non-deterministic function of this name, as stored.
pub(super) fn nondeterministic(name: &str) -> Option<Function> {
    NONDETERMINISTIC.iter().find(|(known, _)| *known == name).map(|(_, function)| *function)
}

/// Whether a function of this name (as stored: in lower case unless quoted) may be one of Cassandra 5.0's own.
pub fn is_native(name: &str) -> bool {
    let of_types = [
        name.strip_suffix("_as_blob"),
        name.strip_suffix("asblob"),
        name.strip_prefix("blob_as_"),
        name.strip_prefix("blobas"),
        name.strip_prefix("cast_as_"),
        name.strip_prefix("castas"),
    ];
    NAMED.contains(&name) || nondeterministic(name).is_some() || of_types.into_iter().flatten().any(is_simple_type)
}

/// The name before a parenthesis.
pub(super) struct Callee {
    /// The keyspace that it is qualified with.
    pub keyspace: Option<Ident>,
    /// The function's name, or a table's in INSERT.
    pub name: Ident,
    /// The index of its first token.
    pub first: usize,
}

impl Callee {
    /// Of the parenthesis at `open`.
    pub fn before(text: &str, tokens: &[Token], open: usize) -> Option<Self> {
        let name_at = open.checked_sub(1)?;
        let name = ident(text, *tokens.get(name_at)?)?;
        let dot = name_at.checked_sub(1).filter(|at| tokens[*at].is_symbol(b'.'));
        match dot.and_then(|at| at.checked_sub(1)) {
            None => Some(Self { keyspace: None, name, first: name_at }),
            Some(first) => Some(Self { keyspace: Some(ident(text, tokens[first])?), name, first }),
        }
    }

    /// Whether it is not qualified with a user's keyspace.
    pub fn may_be_native(&self) -> bool {
        self.keyspace.as_ref().is_none_or(|keyspace| keyspace.as_str() == "system")
    }
}

/// The function that the parenthesis at `open` belongs to, as stored, unless it may be Cassandra's own.
pub(super) fn foreign(text: &str, tokens: &[Token], open: usize) -> Option<String> {
    let callee = Callee::before(text, tokens, open)?;
    let name = tokens[open - 1];
    let is_keyword = name.kind == TokenKind::Word && KEYWORDS.iter().any(|word| name.is_word(text, word));
    // INSERT INTO t (..
    let is_table = callee.first.checked_sub(1).is_some_and(|at| tokens[at].is_word(text, "INTO"));
    if is_keyword || is_table || (callee.may_be_native() && is_native(callee.name.as_str())) {
        return None;
    }
    let names = callee.keyspace.iter().chain([&callee.name]).map(Ident::as_str);
    Some(names.collect::<Vec<_>>().join("."))
}
