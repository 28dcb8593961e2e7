//! `BEGIN BATCH .. APPLY BATCH`.

use super::cursor::Cursor;
use super::{Kind, Marker, Member, Statement, dml, markers};
use crate::request::BatchKind;

/// A batch and its members. A semicolon between members is optional: the reserved first word of each starts it.
pub(super) fn batch(mut cursor: Cursor<'_>) -> Statement {
    let all = markers::scan(cursor);
    cursor.next();
    let kind = if cursor.eat_word("UNLOGGED") {
        BatchKind::Unlogged
    } else if cursor.eat_word("COUNTER") {
        BatchKind::Counter
    } else {
        BatchKind::Logged
    };
    if !cursor.eat_word("BATCH") {
        return Statement::new(Kind::Other);
    }
    let mut statement = Statement::new(Kind::Batch(kind));
    if cursor.eat_word("USING") {
        dml::using_clause(&mut statement, cursor, &all.markers);
    }
    statement.members = members(cursor, &all.markers);
    statement.conditional = statement.members.iter().find_map(|member| member.statement.conditional);
    statement.markers = all.markers;
    statement.calls = all.calls;
    statement.foreign_function = all.foreign;
    statement
}

fn members(cursor: Cursor<'_>, markers: &[Marker]) -> Vec<Member> {
    const STARTS: [&str; 4] = ["INSERT", "UPDATE", "DELETE", "APPLY"];
    let starts: Vec<usize> = cursor
        .outside()
        .filter(|(_, token)| STARTS.iter().any(|word| token.is_word(cursor.text, word)))
        .map(|(index, _)| index)
        .collect();
    let ends = starts.iter().skip(1).copied().chain([cursor.tokens.len()]);
    let mut found = Vec::new();
    for (start, end) in starts.iter().copied().zip(ends) {
        let part = cursor.part(start, end);
        if part.first_word().as_deref() == Some("APPLY") {
            break;
        }
        found.extend(member(Cursor::new(part.text, part.tokens), markers));
    }
    found
}

fn member(part: Cursor<'_>, markers: &[Marker]) -> Option<Member> {
    let span = part.span()?;
    let before = |offset: usize| markers.partition_point(|marker| marker.span.start < offset);
    let (first_marker, end_marker) = (before(span.start), before(span.end));
    let mut statement = dml::write(part);
    // Indices of the batch's markers, so that they mean the same in every part of the answer.
    for attribute in [&mut statement.using_timestamp, &mut statement.ttl].into_iter().flatten() {
        if let super::AttributeValue::Marker(index) = &mut attribute.value {
            *index += first_marker;
        }
    }
    statement.calls.iter_mut().for_each(|call| call.markers_before += first_marker);
    Some(Member { span, first_marker, marker_count: end_marker - first_marker, statement })
}
