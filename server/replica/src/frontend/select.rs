//! Evaluating SELECTs on the topology tables: what drivers send, as text or prepared.

use std::collections::HashMap;

use bytes::Bytes;
use replicateddb_cql::{
    lex::{self, Token, TokenKind},
    request::Values,
    response::{Column, ColumnType, Row, Rows, cell},
    wire::Value,
};
use uuid::Uuid;

use super::topology::Table;

/// Columns, conditions and values of one SELECT, at most: far more than a table has. Each is many times as long here, and in the
/// answer, as in the text.
const MAX_PARTS: usize = 1024;

/// A SELECT on a topology table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Select {
    /// The table.
    pub table: Table,
    items: Items,
    conditions: Vec<Condition>,
    limit: Option<Term>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Items {
    Everything,
    Count { shown_as: String },
    Columns(Vec<Item>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Item {
    column: String,
    shown_as: String,
}

/// The column has one of these values.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Condition {
    column: String,
    values: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Term {
    String(String),
    Integer(i64),
    Uuid(Uuid),
    /// The marker of this index, and its name if it has one.
    Marker(usize, Option<String>),
}

impl Select {
    /// Parses a SELECT that is known to be on `table`.
    ///
    /// # Errors
    /// A text for the client: what is not supported on these tables.
    pub fn parse(text: &str, table: Table) -> Result<Self, String> {
        let tokens: Vec<Token> = lex::tokens(text).collect();
        let mut parser = Parser { text, tokens: &tokens, markers: 0, parts: 0 };
        parser.select(table).ok_or_else(|| {
            "ReplicatedDB answers system.local, system.peers and system.peers_v2 itself, from the replicas; it knows there \
             columns with AS, count(*), WHERE with = and IN, and LIMIT, and nothing else"
                .to_owned()
        })
    }

    /// The bytes of memory that it takes, besides names, which are no longer than the text.
    pub fn bytes(&self) -> usize {
        let items = match &self.items {
            Items::Columns(items) => size_of_val(&items[..]),
            Items::Everything | Items::Count { .. } => 0,
        };
        let conditions =
            self.conditions.iter().map(|condition| size_of::<Condition>() + size_of_val(&condition.values[..]));
        size_of::<Self>() + items + conditions.sum::<usize>()
    }

    /// Picks from all rows of the table what was asked for.
    ///
    /// # Errors
    /// A text for the client: an unknown column, or a value that is missing or doesn't fit.
    pub fn evaluate(&self, all: Rows, values: &Values) -> Result<Rows, String> {
        let given: Vec<_> = values.iter().collect();
        // Of several values of one name the first counts.
        let by_name: HashMap<_, _> = given.iter().rev().map(|bound| (bound.name.as_deref(), &bound.value)).collect();
        let bound = |index: usize, name: Option<&str>| -> Option<Bytes> {
            let found = match values.is_named() {
                true => *by_name.get(&name)?,
                false => &given.get(index)?.value,
            };
            match found {
                Value::Bytes(bytes) => Some(bytes.clone()),
                Value::Null | Value::Unset => None,
            }
        };
        let place = |name: &str| {
            let found = all.columns.iter().position(|column| column.name == name);
            found.ok_or_else(|| format!("Undefined column name {name} in table system.{}", self.table.name()))
        };
        let mut tests = Vec::new();
        for condition in &self.conditions {
            let at = place(&condition.column)?;
            let kind = &all.columns[at].kind;
            let wanted = condition.values.iter().map(|term| {
                term.serialize(kind, &bound).ok_or_else(|| format!("Invalid or missing value for {}", condition.column))
            });
            tests.push((at, wanted.collect::<Result<Vec<_>, _>>()?));
        }
        let holds = |row: &Row| {
            tests
                .iter()
                .all(|(at, wanted)| row.get(*at).is_some_and(|cell| cell.as_ref().is_some_and(|c| wanted.contains(c))))
        };
        let mut picked: Vec<&Row> = all.rows.iter().filter(|row| holds(row)).collect();
        if let (Some(limit), false) = (&self.limit, matches!(self.items, Items::Count { .. })) {
            let serialized = limit.serialize(&ColumnType::Int, &bound).and_then(|bytes| cell::as_int(&bytes));
            let limit = serialized.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0);
            picked.truncate(limit.ok_or("LIMIT must be strictly positive")?);
        }
        self.project(&all.columns, &picked, place)
    }

    fn project(
        &self,
        columns: &[Column],
        picked: &[&Row],
        place: impl Fn(&str) -> Result<usize, String>,
    ) -> Result<Rows, String> {
        match &self.items {
            Items::Everything => Ok(Rows {
                columns: columns.to_vec(),
                paging_state: None,
                rows: picked.iter().map(|row| (*row).clone()).collect(),
            }),
            Items::Count { shown_as } => {
                let column = Column {
                    keyspace: "system".into(),
                    table: self.table.name().into(),
                    name: shown_as.clone(),
                    kind: ColumnType::Bigint,
                };
                let count = i64::try_from(picked.len()).unwrap_or(i64::MAX);
                Ok(Rows { columns: vec![column], paging_state: None, rows: vec![vec![Some(cell::bigint(count))]] })
            }
            Items::Columns(items) => {
                let places = items.iter().map(|item| place(&item.column)).collect::<Result<Vec<_>, _>>()?;
                let shown =
                    |(item, at): (&Item, &usize)| Column { name: item.shown_as.clone(), ..columns[*at].clone() };
                Ok(Rows {
                    columns: items.iter().zip(&places).map(shown).collect(),
                    paging_state: None,
                    rows: picked.iter().map(|row| places.iter().map(|at| row[*at].clone()).collect()).collect(),
                })
            }
        }
    }
}

impl Term {
    fn serialize(&self, kind: &ColumnType, bound: &impl Fn(usize, Option<&str>) -> Option<Bytes>) -> Option<Bytes> {
        match (self, kind) {
            (Self::Marker(index, name), _) => bound(*index, name.as_deref()),
            (Self::String(text), ColumnType::Text | ColumnType::Ascii) => Some(cell::text(text)),
            (Self::String(text), ColumnType::Inet) => text.parse().ok().map(cell::inet),
            (Self::Uuid(value), ColumnType::Uuid | ColumnType::Timeuuid) => Some(cell::uuid(*value)),
            (Self::Integer(value), ColumnType::Int) => i32::try_from(*value).ok().map(cell::int),
            (Self::Integer(value), ColumnType::Bigint) => Some(cell::bigint(*value)),
            _ => None,
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    tokens: &'a [Token],
    markers: usize,
    /// See [`MAX_PARTS`].
    parts: usize,
}

impl Parser<'_> {
    fn select(&mut self, table: Table) -> Option<Select> {
        self.word("SELECT").then_some(())?;
        let items = self.items()?;
        self.word("FROM").then_some(())?;
        self.name()?;
        if self.symbol(b'.') {
            self.name()?;
        }
        let mut conditions = Vec::new();
        if self.word("WHERE") {
            conditions.push(self.condition()?);
            while self.word("AND") {
                conditions.push(self.condition()?);
            }
        }
        let limit = if self.word("LIMIT") { Some(self.term()?) } else { None };
        if self.word("ALLOW") {
            self.word("FILTERING").then_some(())?;
        }
        while self.symbol(b';') {}
        self.tokens.is_empty().then_some(Select { table, items, conditions, limit })
    }

    fn items(&mut self) -> Option<Items> {
        if self.symbol(b'*') {
            return Some(Items::Everything);
        }
        let counts = self.tokens.first()?.is_word(self.text, "COUNT") && self.tokens.get(1)?.is_symbol(b'(');
        if counts {
            self.tokens = self.tokens.get(2..)?;
            let one = self.tokens.first()?.text(self.text) == "1";
            if one {
                self.tokens = self.tokens.get(1..)?;
            } else {
                self.symbol(b'*').then_some(())?;
            }
            self.symbol(b')').then_some(())?;
            return Some(Items::Count { shown_as: self.alias()?.unwrap_or_else(|| "count".to_owned()) });
        }
        let mut items = Vec::new();
        loop {
            let column = self.name()?;
            let shown_as = self.alias()?.unwrap_or_else(|| column.clone());
            items.push(Item { column, shown_as });
            if !self.symbol(b',') {
                return Some(Items::Columns(items));
            }
        }
    }

    /// `None`: broken; `Some(None)`: there is none.
    fn alias(&mut self) -> Option<Option<String>> {
        if self.word("AS") { self.name().map(Some) } else { Some(None) }
    }

    fn condition(&mut self) -> Option<Condition> {
        let column = self.name()?;
        if self.symbol(b'=') {
            return Some(Condition { column, values: vec![self.term()?] });
        }
        (self.word("IN") && self.symbol(b'(')).then_some(())?;
        let mut values = vec![self.term()?];
        while self.symbol(b',') {
            values.push(self.term()?);
        }
        self.symbol(b')').then_some(Condition { column, values })
    }

    /// One more of what is bounded.
    fn part(&mut self) -> Option<()> {
        self.parts += 1;
        (self.parts <= MAX_PARTS).then_some(())
    }

    fn term(&mut self) -> Option<Term> {
        self.part()?;
        let token = self.next()?;
        let text = token.text(self.text);
        match token.kind {
            TokenKind::String => unquoted(text, '\'').map(Term::String),
            TokenKind::Integer => text.parse().ok().map(Term::Integer),
            TokenKind::Uuid => text.parse().ok().map(Term::Uuid),
            TokenKind::QuestionMark => Some(self.marker(None)),
            TokenKind::Symbol(b':') => {
                let name = self.name()?;
                Some(self.marker(Some(name)))
            }
            _ => None,
        }
    }

    fn marker(&mut self, name: Option<String>) -> Term {
        self.markers += 1;
        Term::Marker(self.markers - 1, name)
    }

    fn name(&mut self) -> Option<String> {
        self.part()?;
        let token = self.next()?;
        match token.kind {
            TokenKind::Word => Some(token.text(self.text).to_ascii_lowercase()),
            TokenKind::QuotedName => unquoted(token.text(self.text), '"'),
            _ => None,
        }
    }

    fn next(&mut self) -> Option<Token> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(*first)
    }

    fn word(&mut self, word: &str) -> bool {
        let found = self.tokens.first().is_some_and(|token| token.is_word(self.text, word));
        if found {
            self.next();
        }
        found
    }

    fn symbol(&mut self, symbol: u8) -> bool {
        let found = self.tokens.first().is_some_and(|token| token.is_symbol(symbol));
        if found {
            self.next();
        }
        found
    }
}

fn unquoted(text: &str, quote: char) -> Option<String> {
    if let Some(inner) = text.strip_prefix("$$").and_then(|text| text.strip_suffix("$$")) {
        return Some(inner.to_owned());
    }
    let inner = text.strip_prefix(quote)?.strip_suffix(quote)?;
    Some(inner.replace(&format!("{quote}{quote}"), &quote.to_string()))
}

#[cfg(test)]
#[path = "select_tests.rs"]
mod tests;
