//! `CREATE`, `ALTER`, `DROP`: of the schema and of roles.

use super::cursor::{Cursor, ident};
use super::{Action, Ident, Insertion, Kind, Object, RoleChange, Statement, TableOption, markers, of_role, role};
use crate::lex::{Span, TokenKind};

/// DDL, or a role statement that starts with the same word.
pub(super) fn ddl(mut cursor: Cursor<'_>) -> Statement {
    let whole = cursor;
    let action = match cursor.first_word().as_deref() {
        Some("CREATE") => Action::Create,
        Some("ALTER") => Action::Alter,
        _ => Action::Drop,
    };
    cursor.next();
    let replaces = cursor.eat_words(&["OR", "REPLACE"]);
    let _custom = cursor.eat_word("CUSTOM");
    let Some(object) = object(&mut cursor) else {
        let is_user = cursor.eat_word("USER");
        return of_role(match is_user || cursor.eat_word("ROLE") {
            true => role::role(action, is_user, cursor),
            false => cursor.eat_word("IDENTITY").then_some(RoleChange::Identity),
        });
    };
    let _not_exists = cursor.eat_words(&["IF", "NOT", "EXISTS"]);
    let if_exists = cursor.eat_words(&["IF", "EXISTS"]);
    let mut statement = Statement { if_exists, replaces, ..Statement::new(Kind::Ddl(action, object)) };
    statement.markers = markers::scan(whole).markers;
    names(&mut statement, object, &mut cursor);
    match (action, object) {
        (Action::Create, Object::Table | Object::MaterializedView) => create_table(&mut statement, object, cursor),
        (Action::Alter, Object::Table) => alter_table(&mut statement, cursor),
        (Action::Alter, Object::MaterializedView) => options(&mut statement, cursor),
        (Action::Create, Object::Aggregate) => {
            let start = cursor.find_word("INITCOND").unwrap_or(cursor.tokens.len());
            let found = markers::scan(cursor.part(start, cursor.tokens.len()));
            (statement.calls, statement.foreign_function) = (found.calls, found.foreign);
            statement.made_of = made_of(cursor, statement.arguments.as_deref().unwrap_or_default());
        }
        _ => {}
    }
    statement
}

fn object(cursor: &mut Cursor<'_>) -> Option<Object> {
    const OBJECTS: [(&[&str], Object); 10] = [
        (&["KEYSPACE"], Object::Keyspace),
        (&["SCHEMA"], Object::Keyspace),
        (&["TABLE"], Object::Table),
        (&["COLUMNFAMILY"], Object::Table),
        (&["INDEX"], Object::Index),
        (&["TYPE"], Object::Type),
        (&["MATERIALIZED", "VIEW"], Object::MaterializedView),
        (&["FUNCTION"], Object::Function),
        (&["AGGREGATE"], Object::Aggregate),
        (&["TRIGGER"], Object::Trigger),
    ];
    OBJECTS.iter().find(|(words, _)| cursor.eat_words(words)).map(|(_, object)| *object)
}

fn names(statement: &mut Statement, object: Object, cursor: &mut Cursor<'_>) {
    match object {
        Object::Keyspace => {
            statement.keyspace = cursor.ident();
            statement.object = statement.keyspace.clone();
        }
        Object::Table => {
            (statement.keyspace, statement.table) = cursor.qualified();
            statement.object = statement.table.clone();
        }
        Object::Index | Object::Trigger => {
            // CREATE INDEX ON t (..) has no name; ON is reserved.
            if !cursor.tokens.first().is_some_and(|token| token.is_word(cursor.text, "ON")) {
                (statement.keyspace, statement.object) = cursor.qualified();
            }
            if cursor.eat_word("ON") {
                (statement.keyspace, statement.table) = cursor.qualified();
            }
        }
        Object::MaterializedView => {
            (statement.keyspace, statement.object) = cursor.qualified();
            let from = cursor.find_word("FROM").map_or(cursor.tokens.len(), |at| at + 1);
            statement.table = cursor.part(from, cursor.tokens.len()).qualified().1;
        }
        Object::Type => (statement.keyspace, statement.object) = cursor.qualified(),
        Object::Function | Object::Aggregate => {
            (statement.keyspace, statement.object) = cursor.qualified();
            statement.arguments =
                parenthesized(*cursor).map(|arguments| types(arguments, usize::from(object == Object::Function)));
        }
    }
}

/// The functions of an aggregate of these arguments: one takes its state and those, one at the end its state.
fn made_of(cursor: Cursor<'_>, arguments: &[String]) -> Vec<(Ident, Vec<String>)> {
    let after = |word: &str| cursor.find_word(word).map(|at| cursor.part(at + 1, cursor.tokens.len()));
    let Some(state) = after("STYPE") else { return Vec::new() };
    let end = ["FINALFUNC", "INITCOND"].iter().filter_map(|word| state.find_word(word)).min();
    let state =
        state.part(0, end.unwrap_or(state.tokens.len())).span().map_or("", |span| span.of(cursor.text)).to_owned();
    let named = |word: &str| after(word).and_then(|mut rest| rest.ident());
    let first = named("SFUNC").map(|name| (name, [std::slice::from_ref(&state), arguments].concat()));
    let last = named("FINALFUNC").map(|name| (name, vec![state.clone()]));
    first.into_iter().chain(last).collect()
}

/// The types of arguments; `named` tokens of each stand before its type: a function's have names.
pub(super) fn types(arguments: Cursor<'_>, named: usize) -> Vec<String> {
    // The comma of `map<a, b>` is outside of brackets to the lexer.
    let (mut types, mut depth, mut start) = (Vec::new(), 0_i32, 0);
    for (index, token) in arguments.tokens.iter().enumerate() {
        match token.kind {
            TokenKind::Symbol(b'<') => depth += 1,
            TokenKind::Symbol(b'>') => depth -= 1,
            TokenKind::Symbol(b',') if depth == 0 => {
                types.push(arguments.part(start + named, index));
                start = index + 1;
            }
            _ => {}
        }
    }
    if !arguments.tokens.is_empty() {
        types.push(arguments.part(start + named, arguments.tokens.len()));
    }
    types.into_iter().filter_map(|kind| Some(kind.span()?.of(kind.text).to_owned())).collect()
}

/// From behind the name of a table or view to the end.
fn create_table(statement: &mut Statement, object: Object, cursor: Cursor<'_>) {
    statement.calls = markers::scan(cursor).calls;
    if object == Object::Table
        && let Some(columns) = parenthesized(cursor)
    {
        statement.counter_column = columns.split_commas().into_iter().find_map(counter_type);
    }
    if object == Object::MaterializedView
        && let Some(at) = cursor.find_word("WHERE")
    {
        let end = cursor.find_word("PRIMARY").unwrap_or(cursor.tokens.len());
        statement.foreign_function = markers::scan(cursor.part(at, end)).foreign;
    }
    options(statement, cursor);
    let with = cursor.find_word("WITH").and_then(|at| cursor.tokens.get(at));
    statement.insertion = match (with, cursor.tokens.last()) {
        _ if statement.has_explicit_identity => None,
        (Some(with), _) => Some(Insertion::BeforeOptions(with.span().end)),
        (None, Some(last)) => Some(Insertion::FirstOption(last.span().end)),
        (None, None) => None,
    };
}

/// What is inside of the bracket that opens here.
pub(super) fn parenthesized(cursor: Cursor<'_>) -> Option<Cursor<'_>> {
    cursor.tokens.first().filter(|token| token.is_symbol(b'('))?;
    let mut depth = 0_usize;
    for (index, token) in cursor.tokens.iter().enumerate() {
        match token.kind {
            TokenKind::Symbol(b'(' | b'[' | b'{') => depth += 1,
            TokenKind::Symbol(b')' | b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return Some(cursor.part(1, index));
        }
    }
    Some(cursor.part(1, cursor.tokens.len()))
}

/// The type `counter` in `name type ..`; the name itself may well be `counter`.
fn counter_type(column: Cursor<'_>) -> Option<Span> {
    if column.first_word().as_deref() == Some("PRIMARY") {
        return None;
    }
    let is_counter = |kind: TokenKind, text: &str| match kind {
        TokenKind::Word => text.eq_ignore_ascii_case("counter"),
        TokenKind::String => text.contains("CounterColumnType"),
        _ => false,
    };
    let mut types = column.tokens.iter().skip(1);
    types.find(|token| is_counter(token.kind, token.text(column.text))).map(|token| token.span())
}

fn alter_table(statement: &mut Statement, mut cursor: Cursor<'_>) {
    statement.calls = markers::scan(cursor).calls;
    if cursor.eat_word("ADD") {
        let _exists = cursor.eat_words(&["IF", "NOT", "EXISTS"]);
        let columns = parenthesized(cursor).unwrap_or(cursor);
        statement.counter_column = columns.split_commas().into_iter().find_map(counter_type);
    } else if cursor.eat_word("ALTER") {
        let _exists = cursor.eat_words(&["IF", "EXISTS"]);
        statement.counter_column = counter_type(cursor);
    } else if cursor.eat_word("DROP") {
        let compact = cursor.eat_words(&["COMPACT", "STORAGE"]);
        statement.has_explicit_identity = cursor.find_word("USING").is_some();
        if let Some(last) = cursor.tokens.last().filter(|_| !compact && !statement.has_explicit_identity) {
            statement.insertion = Some(Insertion::DropTimestamp(last.span().end));
        }
    } else {
        options(statement, cursor);
    }
}

/// Reads `WITH name = value AND ..`.
fn options(statement: &mut Statement, cursor: Cursor<'_>) {
    let with = cursor.find_word("WITH").map_or(cursor.tokens.len(), |at| at + 1);
    let options = cursor.part(with, cursor.tokens.len());
    let separators = options.outside().filter(|(_, token)| token.is_word(options.text, "AND"));
    let starts: Vec<usize> = std::iter::once(0).chain(separators.map(|(index, _)| index + 1)).collect();
    let ends = starts.iter().skip(1).map(|next| next - 1).chain([options.tokens.len()]);
    for (start, end) in starts.iter().copied().zip(ends) {
        option(statement, options.part(start, end));
    }
}

fn option(statement: &mut Statement, option: Cursor<'_>) {
    let [name, equals, value, ..] = option.tokens else { return };
    let Some(name) = ident(option.text, *name).filter(|_| equals.is_symbol(b'=')) else { return };
    match name.as_str() {
        "id" => statement.has_explicit_identity = true,
        "default_time_to_live" => {
            let number = value.text(option.text).trim_matches('\'');
            let span = option.tokens[0].span().to(value.span());
            statement.default_time_to_live = Some(TableOption { span, integer: number.trim().parse().ok() });
        }
        _ => {}
    }
}
