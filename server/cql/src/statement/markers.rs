//! Bind markers and calls of non-deterministic functions.

use super::cursor::{Cursor, ident};
use super::functions::{Callee, foreign, nondeterministic};
use super::{Call, Function, Marker};
use crate::lex::{Span, Token, TokenKind};

/// What a scan finds, in the order of the text.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub markers: Vec<Marker>,
    pub calls: Vec<Call>,
    /// The first function that is not Cassandra's own.
    pub foreign: Option<String>,
}

/// Finds the markers and calls among the cursor's tokens.
pub(super) fn scan(cursor: Cursor<'_>) -> Found {
    let (text, tokens) = (cursor.text, cursor.tokens);
    let mut found = Found::default();
    // For each open bracket, whether it or one around it is that of a collection.
    let mut brackets: Vec<bool> = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        match token.kind {
            TokenKind::Symbol(b'(' | b'[' | b'{') => {
                let around = brackets.last().copied().unwrap_or(false);
                brackets.push(around || opens_collection(text, tokens, index));
            }
            TokenKind::Symbol(b')' | b']' | b'}') => {
                brackets.pop();
            }
            _ => {}
        }
        match token.kind {
            TokenKind::QuestionMark => found.markers.push(Marker { span: token.span(), name: None }),
            TokenKind::Symbol(b':') => found.markers.extend(named_marker(text, tokens, index)),
            TokenKind::Symbol(b'(') => {
                let in_collection = brackets.last().copied().unwrap_or(false);
                found.calls.extend(call(text, tokens, index).map(|(span, function)| Call {
                    span,
                    function,
                    markers_before: found.markers.len(),
                    in_collection,
                }));
                found.foreign = found.foreign.or_else(|| foreign(text, tokens, index));
            }
            _ => {}
        }
    }
    found
}

/// Whether the bracket at `open` is that of a literal of a collection or a user-defined type. What follows a column's
/// name is a subscript.
fn opens_collection(text: &str, tokens: &[Token], open: usize) -> bool {
    let before = open.checked_sub(1).and_then(|before| tokens.get(before));
    let is_name = |token: &Token| ident(text, *token).is_some() && !token.is_word(text, "CONTAINS");
    match tokens[open].kind {
        TokenKind::Symbol(b'{') => true,
        TokenKind::Symbol(b'[') => !before.is_some_and(is_name),
        _ => false,
    }
}

/// The marker that starts with the colon at `colon`, if one does. The other colons separate keys from values in maps and
/// user-defined types; what follows them is no bare name: a constant, or a function and its arguments.
fn named_marker(text: &str, tokens: &[Token], colon: usize) -> Option<Marker> {
    const CONSTANTS: [&str; 5] = ["true", "false", "null", "nan", "infinity"];
    let name = tokens.get(colon + 1)?;
    let is_constant = CONSTANTS.iter().any(|constant| name.is_word(text, constant));
    let is_function = tokens.get(colon + 2).is_some_and(|next| next.is_symbol(b'(') || next.is_symbol(b'.'));
    if is_constant || is_function {
        return None;
    }
    Some(Marker { span: tokens[colon].span().to(name.span()), name: Some(ident(text, *name)?) })
}

/// The call whose parenthesis opens at `open`, if it is one of a non-deterministic function. Functions of another
/// keyspace than `system` are the user's own.
fn call(text: &str, tokens: &[Token], open: usize) -> Option<(Span, Function)> {
    let close = tokens.get(open + 1).filter(|token| token.is_symbol(b')'))?;
    let callee = Callee::before(text, tokens, open).filter(Callee::may_be_native)?;
    let function = nondeterministic(callee.name.as_str())?;
    Some((tokens[callee.first].span().to(close.span()), function))
}
