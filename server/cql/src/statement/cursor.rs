//! A cursor over the tokens of one statement.

use super::Ident;
use crate::lex::{Span, Token, TokenKind};

/// The tokens of a statement from a place on. Copies are cheap; reading moves only the copy that reads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a> {
    pub text: &'a str,
    pub tokens: &'a [Token],
}

impl<'a> Cursor<'a> {
    /// The statement of these tokens, without the semicolons that end it.
    pub fn new(text: &'a str, tokens: &'a [Token]) -> Self {
        let end = tokens.iter().rposition(|token| !token.is_symbol(b';')).map_or(0, |last| last + 1);
        Self { text, tokens: &tokens[..end] }
    }

    /// The tokens `start..end` of this cursor; out of range is cut off.
    pub fn part(self, start: usize, end: usize) -> Self {
        let end = end.min(self.tokens.len());
        Self { text: self.text, tokens: &self.tokens[start.min(end)..end] }
    }

    /// Where the tokens lie in the text.
    pub fn span(self) -> Option<Span> {
        Some(self.tokens.first()?.span().to(self.tokens.last()?.span()))
    }

    /// The first token, if a word, in upper case.
    pub fn first_word(self) -> Option<String> {
        let first = self.tokens.first().filter(|token| token.kind == TokenKind::Word)?;
        Some(first.text(self.text).to_ascii_uppercase())
    }

    /// The next token, which is then read.
    pub fn next(&mut self) -> Option<Token> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(*first)
    }

    /// Reads the next token if it is this keyword.
    pub fn eat_word(&mut self, word: &str) -> bool {
        let found = self.tokens.first().is_some_and(|token| token.is_word(self.text, word));
        if found {
            self.next();
        }
        found
    }

    /// Reads the next tokens if they are these keywords.
    pub fn eat_words(&mut self, words: &[&str]) -> bool {
        let mut ahead = *self;
        let found = words.iter().all(|word| ahead.eat_word(word));
        if found {
            *self = ahead;
        }
        found
    }

    /// Reads the next token if it is this character.
    pub fn eat_symbol(&mut self, symbol: u8) -> bool {
        let found = self.tokens.first().is_some_and(|token| token.is_symbol(symbol));
        if found {
            self.next();
        }
        found
    }

    /// Reads a name.
    pub fn ident(&mut self) -> Option<Ident> {
        let ident = ident(self.text, *self.tokens.first()?)?;
        self.next();
        Some(ident)
    }

    /// Reads `[keyspace.]name`.
    pub fn qualified(&mut self) -> (Option<Ident>, Option<Ident>) {
        let first = self.ident();
        if first.is_some() && self.eat_symbol(b'.') {
            return (first, self.ident());
        }
        (None, first)
    }

    /// The index of the first token outside of brackets that is this keyword.
    pub fn find_word(self, word: &str) -> Option<usize> {
        self.outside().find(|(_, token)| token.is_word(self.text, word)).map(|(index, _)| index)
    }

    /// The tokens outside of brackets, with their index. The brackets themselves count as inside.
    pub fn outside(self) -> impl Iterator<Item = (usize, Token)> {
        let mut depth = 0_usize;
        self.tokens.iter().copied().enumerate().filter(move |(_, token)| match token.kind {
            TokenKind::Symbol(b'(' | b'[' | b'{') => {
                depth += 1;
                false
            }
            TokenKind::Symbol(b')' | b']' | b'}') => {
                depth = depth.saturating_sub(1);
                false
            }
            _ => depth == 0,
        })
    }

    /// The parts between commas outside of brackets; none if there are no tokens.
    pub fn split_commas(self) -> Vec<Cursor<'a>> {
        let mut parts = Vec::new();
        let mut start = 0;
        for (index, token) in self.outside() {
            if token.is_symbol(b',') {
                parts.push(self.part(start, index));
                start = index + 1;
            }
        }
        if start < self.tokens.len() {
            parts.push(self.part(start, self.tokens.len()));
        }
        parts
    }
}

/// The name a token stands for, if it can stand for one.
pub fn ident(text: &str, token: Token) -> Option<Ident> {
    let source = token.text(text);
    match token.kind {
        TokenKind::Word => Some(Ident::new(source.to_ascii_lowercase())),
        TokenKind::QuotedName => {
            let inner = source.strip_prefix('"').and_then(|source| source.strip_suffix('"'))?;
            Some(Ident::new(inner.replace("\"\"", "\"")))
        }
        _ => None,
    }
}
