//! No index on a vector. Cassandra takes a vector of zeros, or one that holds no number, as a value, and then fails to
//! write it where it is indexed, each time, with an error that does not say so (WriteFailure).

use replicateddb_cql::lex::{self, Token, TokenKind};
use replicateddb_cql::response::{ResultBody, Rows};
use replicateddb_cql::statement::{Action, Ident, Kind, Object, Statement};

/// The answer to a statement that asks for one.
pub const NO_VECTOR_INDEX: &str = "an index on a vector is not supported: rows with a vector of zeros could not be written, \
                                   for ever, on any replica";
/// How the type of a vector begins in Cassandra's schema.
const VECTOR: &str = "vector<";

/// The query for the columns, and their types, of the table that this statement makes an index on; none if it makes none.
pub fn columns_query(said: &Statement, keyspace: Option<&str>) -> Option<String> {
    let index = Kind::Ddl(Action::Create, Object::Index);
    let keyspace = said.keyspace.as_ref().map(Ident::as_str).or(keyspace)?;
    let table = said.table.as_ref().filter(|_| said.kind == index)?.as_str();
    let (keyspace, table) = (keyspace.replace('\'', "''"), table.replace('\'', "''"));
    Some(format!(
        "SELECT column_name, type FROM system_schema.columns WHERE keyspace_name = '{keyspace}' AND table_name = '{table}'"
    ))
}

/// Whether one of the columns in the first parentheses of `text` is a vector, by the answer to that query.
pub fn names_vector(text: &str, columns: &ResultBody) -> bool {
    let ResultBody::Rows(Rows { rows, .. }) = columns else { return false };
    let cell = |row: &Vec<Option<bytes::Bytes>>, at: usize| {
        row.get(at).and_then(|cell| String::from_utf8(cell.as_ref()?.to_vec()).ok())
    };
    let vectors: Vec<String> = rows
        .iter()
        .filter(|row| cell(row, 1).is_some_and(|kind| kind.contains(VECTOR)))
        .filter_map(|row| cell(row, 0))
        .collect();
    let inside =
        lex::tokens(text).skip_while(|token| !token.is_symbol(b'(')).take_while(|token| !token.is_symbol(b')'));
    inside.filter_map(|token| name(text, token)).any(|column| vectors.contains(&column))
}

fn name(text: &str, token: Token) -> Option<String> {
    match token.kind {
        TokenKind::Word => Some(token.text(text).to_ascii_lowercase()),
        TokenKind::QuotedName => Some(token.text(text).trim_matches('"').replace("\"\"", "\"")),
        _ => None,
    }
}
