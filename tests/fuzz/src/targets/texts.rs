//! Text: the lexer, the classifier, and what is rewritten.

use bytes::Bytes;
use replicateddb_cql::lex::{self, TokenKind};
use replicateddb_cql::request::Values;
use replicateddb_cql::rewrite::{
    NondeterministicValues, with_drop_timestamp, with_hashed_passwords, with_literals, with_markers, with_table_id,
    with_timestamp_marker,
};
use replicateddb_cql::statement::{AttributeValue, RoleChange, Statement, classify};
use replicateddb_cql::wire::Value;
use uuid::Uuid;

use super::seeds::statements;

/// A time of the year 2026, µs since 1970.
const NOW: i64 = 1_795_353_255_123_456;

pub fn run(input: &[u8]) {
    check(&String::from_utf8_lossy(input), false);
}

/// All that must hold of a text; some of it of those alone that are right by the grammar.
pub fn check(text: &str, grammatical: bool) {
    let whole = lexed(text);
    let said = classify(text);
    located(text, &said);
    // A text that Cassandra's lexer refuses may mean anything once something stands behind it.
    if whole && said.kind.is_write() {
        rewritten(text, &said, grammatical);
    }
}

fn random() -> NondeterministicValues<impl FnMut() -> u128> {
    let mut state = 1_u128;
    NondeterministicValues::new(NOW, move || {
        state = state.wrapping_mul(0xDA94_2042_E4DD_58B5_9E37_79B9_7F4A_7C15).wrapping_add(1);
        state
    })
}

/// Tokens follow each other, and nothing but blanks and comments lies between them. Whether all are known.
fn lexed(text: &str) -> bool {
    let mut end = 0;
    let mut whole = true;
    for token in lex::tokens(text) {
        let span = token.span();
        assert!(end <= span.start && span.start < span.end && span.end <= text.len());
        assert!(text.is_char_boundary(span.start) && text.is_char_boundary(span.end));
        assert!(is_blank(&text[end..span.start]), "{:?} is no token", &text[end..span.start]);
        whole &= token.kind != TokenKind::Unknown;
        end = span.end;
    }
    assert!(is_blank(&text[end..]), "{:?} is no token", &text[end..]);
    whole
}

fn is_blank(text: &str) -> bool {
    lex::tokens(text).next().is_none()
}

fn is_balanced(text: &str) -> bool {
    let mut open = 0_usize;
    let closed = lex::tokens(text).all(|token| match token.kind {
        TokenKind::Symbol(b'(' | b'[' | b'{') => {
            open += 1;
            true
        }
        TokenKind::Symbol(b')' | b']' | b'}') => open.checked_sub(1).map(|left| open = left).is_some(),
        _ => true,
    });
    closed && open == 0
}

/// What was found lies where it is said to be.
fn located(text: &str, said: &Statement) {
    let mut end = 0;
    for marker in &said.markers {
        assert!(end <= marker.span.start && marker.span.end <= text.len());
        assert!(marker.span.of(text).starts_with(['?', ':']));
        end = marker.span.end;
    }
    let mut end = 0;
    for call in &said.calls {
        assert!(end <= call.span.start && call.span.of(text).ends_with(')'));
        assert!(call.markers_before <= said.markers.len());
        end = call.span.end;
    }
    for attribute in [said.using_timestamp, said.ttl].into_iter().flatten() {
        if let AttributeValue::Marker(index) = attribute.value {
            assert!(index < said.markers.len());
        }
    }
    if let Some(condition) = said.conditional {
        assert!(condition.of(text).eq_ignore_ascii_case("IF"));
    }
    let mut end = 0;
    for member in &said.members {
        assert!(end <= member.span.start && member.span.end <= text.len());
        assert!(member.first_marker + member.marker_count <= said.markers.len());
        assert!(member.statement.kind.is_dml() && member.statement.members.is_empty());
        end = member.span.end;
        // It can be prepared alone, and says the same then; unless it is cut off within a marker, which takes in the next word.
        let alone = classify(member.span.of(text));
        if member.span.of(text).ends_with(':') {
            continue;
        }
        assert_eq!(alone.kind, member.statement.kind);
        assert_eq!(alone.markers.len(), member.marker_count);
        assert_eq!((&alone.keyspace, &alone.table), (&member.statement.keyspace, &member.statement.table));
        assert_eq!(alone.operations.len(), member.statement.operations.len());
    }
}

/// What must be the same of a text after it was rewritten: all that is said of it, if it is right by the grammar. In others words of
/// a clause may stand at any place, so that what is put in makes another clause of them.
fn same(text: &str, before: &Statement, new: &str, grammatical: bool) -> Statement {
    assert!(lexed(new), "{text:?} became {new:?}, which can't be lexed");
    let after = classify(new);
    assert_eq!((before.kind, before.conditional.is_some()), (after.kind, after.conditional.is_some()), "{text:?}");
    if grammatical {
        assert_eq!((&before.keyspace, &before.table), (&after.keyspace, &after.table), "{text:?} became {new:?}");
        assert_eq!(said_of(before), said_of(&after), "{text:?} became {new:?}");
    }
    after
}

/// What is said of a text, besides places, and what is rewritten.
fn said_of(said: &Statement) -> impl PartialEq + std::fmt::Debug + use<> {
    let said = said.clone();
    let operations: Vec<_> = said.operations.iter().map(|one| (one.column.clone(), one.kind)).collect();
    let members: Vec<_> =
        said.members.iter().map(|member| (member.statement.kind, member.statement.table.clone())).collect();
    let flags = (said.if_exists, said.replaces, said.json, said.has_in, said.ttl.is_some());
    (said.object, said.equalities, said.foreign_function, flags, said.arguments, operations, members)
}

fn rewritten(text: &str, said: &Statement, grammatical: bool) {
    let literals = with_literals(text, said, &mut random());
    let after = same(text, said, &literals, grammatical);
    assert!(after.calls.is_empty(), "{text:?} became {literals:?}");
    assert!(!grammatical || after.markers.len() == said.markers.len(), "{text:?} became {literals:?}");
    if said.calls.is_empty() {
        assert_eq!(literals, text);
    }

    let given: Vec<Value> = (0..said.markers.len()).map(|n| Value::Bytes(Bytes::from(n.to_string()))).collect();
    if let Ok(values) = Values::positional(&given) {
        let made = with_markers(text, said, &values, &mut random()).expect("few markers");
        let after = same(text, said, &made.text, grammatical);
        assert!(after.calls.is_empty(), "{text:?} became {:?}", made.text);
        assert!(!grammatical || made.values.len() == after.markers.len(), "{text:?} became {:?}", made.text);
        // The values that were given are those of the markers that were there, in their order.
        let kept: Vec<Value> =
            made.values.iter().map(|bound| bound.value).filter(|value| given.contains(value)).collect();
        assert_eq!(kept, given);
    }

    if let Some((made, index)) = with_timestamp_marker(text, said) {
        let after = same(text, said, &made, grammatical);
        if grammatical {
            assert_eq!(after.markers.len(), said.markers.len() + 1, "{text:?} became {made:?}");
            let marker = after.using_timestamp.map(|at| at.value);
            assert_eq!(marker, Some(AttributeValue::Marker(index)), "{text:?} became {made:?}");
            assert_eq!(with_timestamp_marker(&made, &after), None);
        }
    }

    let id = Uuid::from_u128(0x5a1c_395e_b41f_11e5_9f22_ba0b_e048_3c18);
    for (made, changed) in
        [(with_table_id(text, said, id), "ID"), (with_drop_timestamp(text, said, NOW), "USING TIMESTAMP")]
    {
        // What stands behind a bracket that nothing closes is inside of it.
        if made == text || !is_balanced(text) {
            continue;
        }
        let after = same(text, said, &made, grammatical);
        assert!(after.has_explicit_identity && !said.has_explicit_identity, "{changed}: {text:?} became {made:?}");
        assert_eq!(with_table_id(&made, &after, id), made);
        assert_eq!(with_drop_timestamp(&made, &after, NOW), made);
    }

    let hashed = with_hashed_passwords(text, said, |clear| Ok::<_, ()>(format!("<{clear}'>"))).expect("no error");
    match said.role.as_deref() {
        // With a hash beside it the two are one too many, which Cassandra says.
        Some(RoleChange::Role { options, .. }) if options.password.is_some() && options.hash.is_some() => {}
        Some(RoleChange::Role { options, .. }) if options.password.is_some() => {
            let after = same(text, said, &hashed, grammatical);
            let Some(RoleChange::Role { options: made, .. }) = after.role.as_deref() else { unreachable!("the same") };
            let clear = options.password.as_ref().map(|password| format!("<{}'>", password.clear));
            assert_eq!((&made.password, &made.hash), (&None, &clear), "{text:?} became {hashed:?}");
        }
        _ => assert_eq!(hashed, text),
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    statements().map(String::into_bytes).collect()
}
