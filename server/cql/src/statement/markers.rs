//! Bind markers and calls of non-deterministic functions.

use super::cursor::{Cursor, ident};
use super::{Call, Function, Marker};
use crate::lex::{Token, TokenKind};

/// Each function has a name in snake case and one without the underscores.
const FUNCTIONS: [(&str, Function); 10] = [
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

/// What a scan finds, in the order of the text.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub markers: Vec<Marker>,
    pub calls: Vec<Call>,
}

/// An open bracket. In braces the first colon after a key separates it from its value; all other colons start a marker.
#[derive(Debug, Clone, Copy)]
enum Level {
    Brace {
        in_key: bool,
        fresh: bool,
    },
    /// A parenthesis or a square bracket, opened at this token.
    Other {
        opened: usize,
    },
}

/// What the token before a colon was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    /// The end of a term: a colon that follows may separate.
    Term,
    /// An operator or a type hint: a term follows.
    Operand,
}

/// Finds the markers and calls among the cursor's tokens.
pub(super) fn scan(cursor: Cursor<'_>) -> Found {
    let (text, tokens) = (cursor.text, cursor.tokens);
    let mut found = Found::default();
    let mut levels: Vec<Level> = Vec::new();
    let mut before = Before::Operand;
    let mut index = 0;
    while let Some(token) = tokens.get(index) {
        let mut next_before = Before::Term;
        let mut consumed = 1;
        match token.kind {
            TokenKind::Symbol(b'{') => {
                touch(&mut levels);
                levels.push(Level::Brace { in_key: true, fresh: true });
            }
            TokenKind::Symbol(b'(' | b'[') => {
                touch(&mut levels);
                found.calls.extend(call(text, tokens, index, found.markers.len()));
                levels.push(Level::Other { opened: index });
            }
            TokenKind::Symbol(b')' | b']' | b'}') => {
                if let Some(Level::Other { opened }) = levels.pop()
                    && is_type_hint(text, tokens, opened, index)
                {
                    next_before = Before::Operand;
                }
            }
            TokenKind::Symbol(b',') => {
                if let Some(Level::Brace { in_key, fresh }) = levels.last_mut() {
                    (*in_key, *fresh) = (true, true);
                }
                next_before = Before::Operand;
            }
            TokenKind::Symbol(b':') => {
                if separates(&mut levels, before) {
                    next_before = Before::Operand;
                } else if let Some(name) = tokens.get(index + 1).filter(|name| ident(text, **name).is_some()) {
                    touch(&mut levels);
                    found.markers.push(Marker { span: token.span().to(name.span()), name: ident(text, *name) });
                    consumed = 2;
                }
            }
            TokenKind::Symbol(_) => {
                touch(&mut levels);
                next_before = Before::Operand;
            }
            TokenKind::QuestionMark => {
                touch(&mut levels);
                found.markers.push(Marker { span: token.span(), name: None });
            }
            _ => touch(&mut levels),
        }
        before = next_before;
        index += consumed;
    }
    found
}

/// A key or a value has begun.
fn touch(levels: &mut [Level]) {
    if let Some(Level::Brace { fresh, .. }) = levels.last_mut() {
        *fresh = false;
    }
}

/// Whether a colon separates a key from its value; if so the value begins.
fn separates(levels: &mut [Level], before: Before) -> bool {
    match levels.last_mut() {
        Some(Level::Brace { in_key, fresh: false }) if *in_key && before == Before::Term => {
            *in_key = false;
            true
        }
        _ => false,
    }
}

/// Whether the parenthesis holds a type, as in `(int)?`: names, angle brackets, a vector's dimension and no values. What
/// follows a function's name are its arguments.
fn is_type_hint(text: &str, tokens: &[Token], opened: usize, closed: usize) -> bool {
    let named = |token: &Token| matches!(token.kind, TokenKind::Word | TokenKind::QuotedName);
    let constant = |token: &Token| {
        ["true", "false", "null", "nan", "infinity"].iter().any(|constant| token.is_word(text, constant))
    };
    let is_call = opened.checked_sub(1).and_then(|before| tokens.get(before)).is_some_and(named);
    let inside = tokens.get(opened + 1..closed).unwrap_or_default();
    tokens.get(opened).is_some_and(|token| token.is_symbol(b'('))
        && !is_call
        && inside.first().is_some_and(named)
        && inside.iter().all(|token| match token.kind {
            TokenKind::Word => !constant(token),
            TokenKind::QuotedName | TokenKind::Integer | TokenKind::Symbol(b'<' | b'>' | b',' | b'.') => true,
            _ => false,
        })
}

/// The call whose parenthesis opens at `open`, if it is one of a non-deterministic function. Functions of another
/// keyspace than `system` are the user's own.
fn call(text: &str, tokens: &[Token], open: usize, markers_before: usize) -> Option<Call> {
    let close = tokens.get(open + 1).filter(|token| token.is_symbol(b')'))?;
    let name_at = open.checked_sub(1)?;
    let name = tokens.get(name_at)?;
    let known = ident(text, *name)?;
    let (_, function) = FUNCTIONS.iter().find(|(name, _)| *name == known.as_str())?;
    let mut first = name;
    if name_at > 0 && tokens[name_at - 1].is_symbol(b'.') {
        first = name_at.checked_sub(2).and_then(|at| tokens.get(at))?;
        ident(text, *first).filter(|keyspace| keyspace.as_str() == "system")?;
    }
    Some(Call { span: first.span().to(close.span()), function: *function, markers_before })
}
