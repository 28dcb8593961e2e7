//! Which texts of conditional writes could be decided in memory, as far as the text tells. Pure.
//!
//! Only the plainest form is: one row, its key and all values given by markers without names, a condition that is `IF NOT
//! EXISTS`, `IF EXISTS` or made of `column = ?`. The whole text is read, and one that holds a token more or less is none.

use replicateddb_cql::lex::{self, Token, TokenKind};
use replicateddb_cql::statement::{Kind, Statement, ident};

/// A column and the marker of its value.
pub type Bound = (String, usize);

/// What is asked of the row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// `IF NOT EXISTS`
    NotExists,
    /// `IF EXISTS`
    Exists,
    /// `IF a = ? AND b = ?`
    Equal(Vec<Bound>),
}

/// A text that may be decided in memory, if the table is one for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// What it does if the condition holds.
    pub kind: Kind,
    /// The columns of an `INSERT`, its key among them, or those of `WHERE`.
    pub named: Vec<Bound>,
    /// The columns of `SET`.
    pub set: Vec<Bound>,
    /// The columns that a `DELETE` names; none: the row.
    pub deleted: Vec<String>,
    /// What is asked.
    pub condition: Condition,
    /// The text without its condition.
    pub plain: String,
    /// The markers of that: the first ones of the whole text.
    pub plain_markers: usize,
    /// The markers of the whole text.
    pub markers: usize,
}

impl Candidate {
    /// The columns with a marker, in the order of the markers.
    pub fn bound(&self) -> impl Iterator<Item = &Bound> {
        let of_condition: &[Bound] = match &self.condition {
            Condition::Equal(columns) => columns,
            Condition::NotExists | Condition::Exists => &[],
        };
        self.set.iter().chain(&self.named).chain(of_condition)
    }
}

/// Reads a text; `said` is its classification.
pub fn candidate(text: &str, said: &Statement) -> Option<Candidate> {
    let condition = said.conditional?;
    let plain = said.using_timestamp.is_none() && said.ttl.is_none() && !said.json && said.calls.is_empty();
    if !plain || said.has_named_markers() {
        return None;
    }
    let mut read =
        Reader { text, tokens: lex::tokens(text).filter(|token| !token.is_symbol(b';')).collect(), at: 0, markers: 0 };
    let (mut set, mut deleted) = (Vec::new(), Vec::new());
    let named = match said.kind {
        Kind::Insert => {
            read.words(&["INSERT", "INTO"])?;
            read.table()?;
            read.insert()?
        }
        Kind::Update => {
            read.words(&["UPDATE"])?;
            read.table()?;
            read.words(&["SET"])?;
            set = read.assignments()?;
            read.key()?
        }
        Kind::Delete => {
            read.words(&["DELETE"])?;
            while !read.is_word("FROM") {
                deleted.push(read.name()?);
                let more = read.symbol(b',').is_some();
                if more == read.is_word("FROM") {
                    return None;
                }
            }
            read.words(&["FROM"])?;
            read.table()?;
            read.key()?
        }
        _ => return None,
    };
    let plain_markers = read.markers;
    let condition_read = read.condition()?;
    let plain = text.get(..condition.start)?.trim_end().to_owned();
    // An INSERT knows but one condition: Cassandra refuses the others, and says so.
    let fits = (said.kind == Kind::Insert) == (condition_read == Condition::NotExists);
    let complete = fits && read.at == read.tokens.len() && read.markers == said.markers.len();
    complete.then_some(Candidate {
        kind: said.kind,
        named,
        set,
        deleted,
        condition: condition_read,
        plain,
        plain_markers,
        markers: read.markers,
    })
}

/// Reads token by token; `None` is anything else than what was asked for.
struct Reader<'a> {
    text: &'a str,
    tokens: Vec<Token>,
    at: usize,
    markers: usize,
}

impl Reader<'_> {
    fn is_word(&self, word: &str) -> bool {
        self.tokens.get(self.at).is_some_and(|token| token.is_word(self.text, word))
    }

    fn words(&mut self, words: &[&str]) -> Option<()> {
        for word in words {
            if !self.is_word(word) {
                return None;
            }
            self.at += 1;
        }
        Some(())
    }

    fn symbol(&mut self, symbol: u8) -> Option<()> {
        self.tokens.get(self.at).filter(|token| token.is_symbol(symbol))?;
        self.at += 1;
        Some(())
    }

    fn name(&mut self) -> Option<String> {
        let name = ident(self.text, *self.tokens.get(self.at)?)?;
        self.at += 1;
        Some(name.as_str().to_owned())
    }

    /// `[keyspace.]table`
    fn table(&mut self) -> Option<()> {
        self.name()?;
        if self.symbol(b'.').is_some() {
            self.name()?;
        }
        Some(())
    }

    fn marker(&mut self) -> Option<usize> {
        self.tokens.get(self.at).filter(|token| token.kind == TokenKind::QuestionMark)?;
        self.at += 1;
        self.markers += 1;
        Some(self.markers - 1)
    }

    /// `(a, b) VALUES (?, ?)`
    fn insert(&mut self) -> Option<Vec<Bound>> {
        self.symbol(b'(')?;
        let mut names = vec![self.name()?];
        while self.symbol(b',').is_some() {
            names.push(self.name()?);
        }
        self.symbol(b')')?;
        self.words(&["VALUES"])?;
        self.symbol(b'(')?;
        let mut bound = Vec::with_capacity(names.len());
        for (number, name) in names.into_iter().enumerate() {
            if number > 0 {
                self.symbol(b',')?;
            }
            bound.push((name, self.marker()?));
        }
        self.symbol(b')')?;
        Some(bound)
    }

    fn equality(&mut self) -> Option<Bound> {
        let name = self.name()?;
        self.symbol(b'=')?;
        Some((name, self.marker()?))
    }

    /// `a = ?, b = ?`
    fn assignments(&mut self) -> Option<Vec<Bound>> {
        let mut bound = vec![self.equality()?];
        while self.symbol(b',').is_some() {
            bound.push(self.equality()?);
        }
        Some(bound)
    }

    /// `a = ? AND b = ?`
    fn conjunction(&mut self) -> Option<Vec<Bound>> {
        let mut bound = vec![self.equality()?];
        while self.words(&["AND"]).is_some() {
            bound.push(self.equality()?);
        }
        Some(bound)
    }

    /// `WHERE a = ? AND b = ?`
    fn key(&mut self) -> Option<Vec<Bound>> {
        self.words(&["WHERE"])?;
        self.conjunction()
    }

    fn condition(&mut self) -> Option<Condition> {
        self.words(&["IF"])?;
        if self.is_word("NOT") {
            self.words(&["NOT", "EXISTS"])?;
            return Some(Condition::NotExists);
        }
        // A column may have this name.
        let is_last = self.at + 1 == self.tokens.len();
        if is_last && self.words(&["EXISTS"]).is_some() {
            return Some(Condition::Exists);
        }
        self.conjunction().map(Condition::Equal)
    }
}

#[cfg(test)]
mod tests {
    use replicateddb_cql::statement::classify;

    use super::*;

    fn read(text: &str) -> Option<Candidate> {
        candidate(text, &classify(text))
    }

    fn bound(columns: &[(&str, usize)]) -> Vec<Bound> {
        columns.iter().map(|(name, marker)| ((*name).to_owned(), *marker)).collect()
    }

    #[test]
    fn an_insert_is_read() {
        let text = "insert into \"Ks\".t (k, \"V\") values (?, ?) /* c */ IF NOT EXISTS ;";
        let found = read(text).expect("a candidate");
        assert_eq!(found.named, bound(&[("k", 0), ("V", 1)]));
        assert_eq!((&found.condition, found.plain_markers, found.markers), (&Condition::NotExists, 2, 2));
        assert_eq!(found.plain, "insert into \"Ks\".t (k, \"V\") values (?, ?) /* c */");
    }

    #[test]
    fn updates_and_deletions_are_read() {
        let found = read("UPDATE t SET v = ?, w=? WHERE k = ? AND c = ? IF v = ? AND exists = ?").expect("a candidate");
        assert_eq!((&found.set, &found.named), (&bound(&[("v", 0), ("w", 1)]), &bound(&[("k", 2), ("c", 3)])));
        assert_eq!(found.condition, Condition::Equal(bound(&[("v", 4), ("exists", 5)])));
        assert_eq!((found.plain.as_str(), found.plain_markers), ("UPDATE t SET v = ?, w=? WHERE k = ? AND c = ?", 4));
        let found = read("DELETE v, w FROM t WHERE k = ? IF EXISTS").expect("a candidate");
        assert_eq!((found.deleted, found.condition), (vec!["v".to_owned(), "w".to_owned()], Condition::Exists));
        let found = read("DELETE FROM t WHERE k = ? IF exists = ?").expect("a candidate");
        assert_eq!((found.deleted, found.condition), (vec![], Condition::Equal(bound(&[("exists", 1)]))));
    }

    #[test]
    fn whatever_is_not_plain_is_left_to_cassandra() {
        for text in [
            "INSERT INTO t (k, v) VALUES (?, ?)",
            "INSERT INTO t (k, v) VALUES (?, 1) IF NOT EXISTS",
            "INSERT INTO t (k, v) VALUES (?, (int)?) IF NOT EXISTS",
            "INSERT INTO t (k, v) VALUES (?, ?, ?) IF NOT EXISTS",
            "INSERT INTO t (k, v) VALUES (:k, :v) IF NOT EXISTS",
            "INSERT INTO t (k, v) VALUES (?, now()) IF NOT EXISTS",
            "INSERT INTO t JSON ? IF NOT EXISTS",
            "INSERT INTO t (k, v) VALUES (?, ?) IF NOT EXISTS USING TTL 5",
            "INSERT INTO t (k, v) VALUES (?, ?) IF NOT EXISTS USING TTL ?",
            "INSERT INTO t (k, v) VALUES (?, ?) IF EXISTS",
            "UPDATE t USING TTL ? SET v = ? WHERE k = ? IF EXISTS",
            "UPDATE t SET v = ? WHERE k = ? IF NOT EXISTS",
            "UPDATE t SET v = v + ? WHERE k = ? IF EXISTS",
            "UPDATE t SET v += ? WHERE k = ? IF EXISTS",
            "UPDATE t SET v[?] = ? WHERE k = ? IF EXISTS",
            "UPDATE t SET v.a = ? WHERE k = ? IF EXISTS",
            "UPDATE t SET v = null WHERE k = ? IF EXISTS",
            "UPDATE t SET v = ? WHERE k IN (?) IF EXISTS",
            "UPDATE t SET v = ? WHERE k = ? AND c > ? IF EXISTS",
            "UPDATE t SET v = ? WHERE (k) = (?) IF EXISTS",
            "UPDATE t SET v = ? WHERE k = 1 IF v = ?",
            "UPDATE t SET v = ? WHERE k = ? IF v = null",
            "UPDATE t SET v = ? WHERE k = ? IF v = 'a'",
            "UPDATE t SET v = ? WHERE k = ? IF v != ?",
            "UPDATE t SET v = ? WHERE k = ? IF v IN (?)",
            "UPDATE t SET v = ? WHERE k = ? IF v[?] = ?",
            "UPDATE t SET v = ? WHERE k = ? IF v = ? AND w > ?",
            "UPDATE t SET v = ? WHERE k = ? IF",
            "DELETE v[?] FROM t WHERE k = ? IF EXISTS",
            "DELETE v, FROM t WHERE k = ? IF EXISTS",
            "DELETE v w FROM t WHERE k = ? IF EXISTS",
            "DELETE FROM t USING TIMESTAMP ? WHERE k = ? IF EXISTS",
            "BEGIN BATCH INSERT INTO t (k) VALUES (?) IF NOT EXISTS; APPLY BATCH",
            "SELECT * FROM t WHERE k = ?",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
