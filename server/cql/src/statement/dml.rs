//! `SELECT`, `INSERT`, `UPDATE`, `DELETE`, `TRUNCATE`, `USE`.

use super::cursor::{Cursor, ident};
use super::{Attribute, AttributeValue, Ident, Kind, Marker, Operation, OperationKind, Statement, markers};
use crate::lex::{Token, TokenKind};

/// A `SELECT`: only what it reads from, and by which columns.
pub(super) fn select(cursor: Cursor<'_>) -> Statement {
    let mut statement = Statement::new(Kind::Select);
    let mut from = after(cursor, "FROM");
    (statement.keyspace, statement.table) = from.qualified();
    statement.equalities = equalities(after(from, "WHERE"));
    statement
}

/// The columns directly before a `=`, at the beginning or behind `AND`.
fn equalities(cursor: Cursor<'_>) -> Vec<Ident> {
    let mut found = Vec::new();
    for (at, _) in cursor.outside().filter(|(_, token)| token.is_symbol(b'=')) {
        let Some(column) = at.checked_sub(1).and_then(|at| ident(cursor.text, cursor.tokens[at])) else { continue };
        let leads = at.checked_sub(2).is_none_or(|at| cursor.tokens[at].is_word(cursor.text, "AND"));
        if leads {
            found.push(column);
        }
    }
    found
}

/// `TRUNCATE [TABLE] t`.
pub(super) fn truncate(mut cursor: Cursor<'_>) -> Statement {
    let mut statement = Statement::new(Kind::Truncate);
    cursor.next();
    let _optional = cursor.eat_word("TABLE") || cursor.eat_word("COLUMNFAMILY");
    (statement.keyspace, statement.table) = cursor.qualified();
    statement
}

/// `USE keyspace`.
pub(super) fn use_keyspace(mut cursor: Cursor<'_>) -> Statement {
    let mut statement = Statement::new(Kind::Use);
    cursor.next();
    statement.keyspace = cursor.ident();
    statement
}

/// `INSERT`, `UPDATE` or `DELETE`, alone or in a batch.
pub(super) fn write(cursor: Cursor<'_>) -> Statement {
    let found = markers::scan(cursor);
    let mut statement = match cursor.first_word().as_deref() {
        Some("INSERT") => insert(cursor),
        Some("UPDATE") => update(cursor),
        _ => delete(cursor),
    };
    // IF is reserved: wherever it stands in a write, it is a condition.
    statement.conditional =
        cursor.tokens.iter().find(|token| token.is_word(cursor.text, "IF")).map(|token| token.span());
    statement.has_in = after(cursor, "WHERE").tokens.iter().any(|token| token.is_word(cursor.text, "IN"));
    let using = cursor.tokens.iter().position(|token| token.is_word(cursor.text, "USING"));
    if let Some(using) = using {
        using_clause(&mut statement, cursor.part(using + 1, cursor.tokens.len()), &found.markers);
    }
    statement.markers = found.markers;
    statement.calls = found.calls;
    statement.foreign_function = found.foreign;
    statement
}

/// The cursor behind the first such keyword outside of brackets; at the end if there is none.
fn after<'a>(cursor: Cursor<'a>, word: &str) -> Cursor<'a> {
    let end = cursor.tokens.len();
    cursor.part(cursor.find_word(word).map_or(end, |at| at + 1), end)
}

/// Reads `TIMESTAMP x [AND TTL y]` into the statement.
pub(super) fn using_clause(statement: &mut Statement, mut cursor: Cursor<'_>, markers: &[Marker]) {
    loop {
        let Some(keyword) = cursor.next() else { return };
        let timestamp = keyword.is_word(cursor.text, "TIMESTAMP");
        if !timestamp && !keyword.is_word(cursor.text, "TTL") {
            return;
        }
        let attribute = attribute(&mut cursor, keyword, markers);
        if timestamp {
            statement.using_timestamp = Some(attribute);
        } else {
            statement.ttl = Some(attribute);
        }
        if !cursor.eat_word("AND") {
            return;
        }
    }
}

fn attribute(cursor: &mut Cursor<'_>, keyword: Token, markers: &[Marker]) -> Attribute {
    let Some(value) = cursor.next() else {
        return Attribute { span: keyword.span(), value: AttributeValue::Invalid };
    };
    let mut span = keyword.span().to(value.span());
    let marker = markers.binary_search_by_key(&value.span().start, |marker| marker.span.start);
    let value = match (value.kind, marker) {
        (TokenKind::Integer, _) => {
            value.text(cursor.text).parse().map_or(AttributeValue::Invalid, AttributeValue::Integer)
        }
        (_, Ok(index)) => {
            if markers[index].name.is_some() {
                cursor.next();
            }
            span = span.to(markers[index].span);
            AttributeValue::Marker(index)
        }
        _ => AttributeValue::Invalid,
    };
    Attribute { span, value }
}

fn insert(mut cursor: Cursor<'_>) -> Statement {
    let mut statement = Statement::new(Kind::Insert);
    cursor.next();
    if cursor.eat_word("INTO") {
        (statement.keyspace, statement.table) = cursor.qualified();
        statement.json = cursor.eat_word("JSON");
    }
    statement
}

fn update(mut cursor: Cursor<'_>) -> Statement {
    let mut statement = Statement::new(Kind::Update);
    cursor.next();
    (statement.keyspace, statement.table) = cursor.qualified();
    let set = after(cursor, "SET");
    let assignments = set.part(0, set.find_word("WHERE").unwrap_or(set.tokens.len()));
    statement.operations = assignments.split_commas().into_iter().filter_map(assignment).collect();
    statement
}

fn delete(mut cursor: Cursor<'_>) -> Statement {
    let mut statement = Statement::new(Kind::Delete);
    cursor.next();
    let mut from = after(cursor, "FROM");
    (statement.keyspace, statement.table) = from.qualified();
    let selection = cursor.part(0, cursor.find_word("FROM").unwrap_or(0));
    statement.operations = selection.split_commas().into_iter().filter_map(deletion).collect();
    statement
}

/// `c[i]` in the selection of a `DELETE`.
fn deletion(mut element: Cursor<'_>) -> Option<Operation> {
    let span = element.span()?;
    let column = element.ident()?;
    element.eat_symbol(b'[').then_some(Operation { column, kind: OperationKind::DeleteElement, span })
}

/// An assignment that changes a part of a column. `c.field = x` is none: it writes one cell, always the same.
fn assignment(mut cursor: Cursor<'_>) -> Option<Operation> {
    let span = cursor.span()?;
    let column = cursor.ident()?;
    let kind = match cursor.next()?.kind {
        TokenKind::Symbol(b'[') => OperationKind::SetElement,
        TokenKind::PlusAssign => OperationKind::Add,
        TokenKind::MinusAssign => OperationKind::Subtract,
        TokenKind::Symbol(b'=') => value_operation(cursor)?,
        _ => return None,
    };
    Some(Operation { column, kind, span })
}

/// What the right side of `c = ...` makes of the column. A column can only stand first or, after a plus, last there;
/// a name followed by a bracket or a dot is a function.
fn value_operation(value: Cursor<'_>) -> Option<OperationKind> {
    let is_column = |token: &Token| {
        const CONSTANTS: [&str; 5] = ["true", "false", "null", "nan", "infinity"];
        ident(value.text, *token).is_some() && !CONSTANTS.iter().any(|constant| token.is_word(value.text, constant))
    };
    match value.tokens {
        [first, second, ..] if is_column(first) => match second.kind {
            TokenKind::Symbol(b'-') => Some(OperationKind::Subtract),
            // `c = c -1` is lexed without an operator.
            TokenKind::Symbol(b'+') | TokenKind::Integer => Some(OperationKind::Add),
            _ => prepends(value, is_column),
        },
        _ => prepends(value, is_column),
    }
}

fn prepends(value: Cursor<'_>, is_column: impl Fn(&Token) -> bool) -> Option<OperationKind> {
    match value.tokens {
        [.., plus, last] if plus.is_symbol(b'+') && is_column(last) => Some(OperationKind::Prepend),
        _ => None,
    }
}
