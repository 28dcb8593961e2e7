//! A total lexer for CQL: any text becomes tokens, with spans. It cuts where Cassandra's lexer cuts, so that no keyword
//! hides from the classifier (`WHERE a = 5IF EXISTS` is a conditional write).

/// Bytes `start..end` of the text, on character boundaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    /// The first byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

impl Span {
    /// The part of `text` it covers; empty if it is not a span of this text.
    pub fn of(self, text: &str) -> &str {
        text.get(self.start..self.end).unwrap_or_default()
    }

    /// From the start of this to the end of the other.
    pub fn to(self, other: Span) -> Span {
        Span { start: self.start, end: other.end.max(self.start) }
    }
}

/// What a token is. White space and comments are no tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// A keyword or an identifier without quotes.
    Word,
    /// An identifier in double quotes.
    QuotedName,
    /// A string: `'..'` or `$$..$$`.
    String,
    /// An integer with its sign.
    Integer,
    /// Any other number: floating point, hexadecimal (a blob).
    Number,
    /// A duration.
    Duration,
    /// A UUID.
    Uuid,
    /// `?`
    QuestionMark,
    /// `+=`
    PlusAssign,
    /// `-=`
    MinusAssign,
    /// One character of punctuation.
    Symbol(u8),
    /// What no token starts with, or a string, name or comment without an end. Cassandra refuses the text.
    Unknown,
}

/// A token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token {
    /// What it is.
    pub kind: TokenKind,
    start: u32,
    end: u32,
}

impl Token {
    /// Where it is.
    pub fn span(self) -> Span {
        Span { start: self.start as usize, end: self.end as usize }
    }

    /// Its text.
    pub fn text(self, source: &str) -> &str {
        self.span().of(source)
    }

    /// Whether it is this keyword, in any case.
    pub fn is_word(self, source: &str, word: &str) -> bool {
        self.kind == TokenKind::Word && self.text(source).eq_ignore_ascii_case(word)
    }

    /// Whether it is this character.
    pub fn is_symbol(self, symbol: u8) -> bool {
        self.kind == TokenKind::Symbol(symbol)
    }
}

/// The longest text that is lexed; more than any message can carry.
const MAX_TEXT: usize = u32::MAX as usize;

/// The tokens of a text, in order.
pub fn tokens(text: &str) -> impl Iterator<Item = Token> {
    Lexer { text, at: 0 }
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl Iterator for Lexer<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        if self.text.len() > MAX_TEXT {
            return None;
        }
        let rest = loop {
            let rest = self.text.as_bytes().get(self.at..).filter(|rest| !rest.is_empty())?;
            match blank(rest) {
                Blank::None => break rest,
                Blank::Skip(length) => self.at += length,
                Blank::Unterminated => return Some(self.token(TokenKind::Unknown, rest.len())),
            }
        };
        let (kind, length) = token(rest);
        Some(self.token(kind, length))
    }
}

impl Lexer<'_> {
    fn token(&mut self, kind: TokenKind, length: usize) -> Token {
        let start = self.at;
        // Only an unknown character can be longer than one byte; never cut it in two.
        let mut end = (start + length.max(1)).min(self.text.len());
        while !self.text.is_char_boundary(end) {
            end += 1;
        }
        self.at = end;
        Token { kind, start: start as u32, end: end as u32 }
    }
}

enum Blank {
    None,
    Skip(usize),
    Unterminated,
}

/// White space or a comment at the start of `rest`.
fn blank(rest: &[u8]) -> Blank {
    match rest {
        [b' ' | b'\t' | b'\n' | b'\r', ..] => Blank::Skip(1),
        [b'-', b'-', ..] | [b'/', b'/', ..] => {
            Blank::Skip(rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(rest.len()))
        }
        [b'/', b'*', after @ ..] => match find(after, b"*/") {
            Some(at) => Blank::Skip(at + 4),
            None => Blank::Unterminated,
        },
        _ => Blank::None,
    }
}

fn find(bytes: &[u8], pattern: &[u8; 2]) -> Option<usize> {
    bytes.windows(2).position(|window| window == pattern)
}

/// The token at the start of `rest`, which is not empty and starts with no blank.
fn token(rest: &[u8]) -> (TokenKind, usize) {
    if let Some(length) = uuid(rest) {
        return (TokenKind::Uuid, length);
    }
    match rest {
        [b'\'', ..] => quoted(rest, b'\'', TokenKind::String),
        [b'"', ..] => quoted(rest, b'"', TokenKind::QuotedName),
        [b'$', b'$', after @ ..] => match find(after, b"$$") {
            Some(at) => (TokenKind::String, at + 4),
            None => (TokenKind::Unknown, rest.len()),
        },
        [b'0', b'x' | b'X', hex @ ..] => (TokenKind::Number, 2 + run(hex, |byte| byte.is_ascii_hexdigit())),
        [b'0'..=b'9', ..] => number(rest),
        [b'-', after @ ..] if let Some((kind, length)) = negative(after) => (kind, length + 1),
        [b'A'..=b'Z' | b'a'..=b'z', ..] => word(rest),
        [b'?', ..] => (TokenKind::QuestionMark, 1),
        [b'+', b'=', ..] => (TokenKind::PlusAssign, 2),
        [b'-', b'=', ..] => (TokenKind::MinusAssign, 2),
        [
            symbol @ (b'(' | b')' | b'[' | b']' | b'{' | b'}' | b',' | b';' | b':' | b'.' | b'=' | b'<' | b'>' | b'!'
            | b'+' | b'-' | b'*' | b'/' | b'%'),
            ..,
        ] => (TokenKind::Symbol(*symbol), 1),
        _ => (TokenKind::Unknown, 1),
    }
}

fn run(bytes: &[u8], accept: impl Fn(u8) -> bool) -> usize {
    bytes.iter().position(|byte| !accept(*byte)).unwrap_or(bytes.len())
}

/// Text between quotes; two quotes stand for one.
fn quoted(rest: &[u8], quote: u8, kind: TokenKind) -> (TokenKind, usize) {
    let mut at = 1;
    while let Some(length) = rest.get(at..).and_then(|rest| rest.iter().position(|byte| *byte == quote)) {
        at += length + 1;
        if rest.get(at) != Some(&quote) {
            return (kind, at);
        }
        at += 1;
    }
    (TokenKind::Unknown, rest.len())
}

/// A word, or a duration that looks like one.
fn word(rest: &[u8]) -> (TokenKind, usize) {
    let length = run(rest, |byte| byte.is_ascii_alphanumeric() || byte == b'_');
    match iso_duration(rest) {
        Some(duration) if duration >= length => (TokenKind::Duration, duration),
        _ => (TokenKind::Word, length),
    }
}

/// What a minus sign belongs to: a number, a duration, `NaN` or `Infinity`. None of them takes in a letter too many:
/// `-NaNIF` is two tokens, where `NaNIF` is a name.
fn negative(after: &[u8]) -> Option<(TokenKind, usize)> {
    let starts_with = |word: &[u8]| after.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
    if after.first()?.is_ascii_digit() {
        return Some(number(after));
    }
    let constant = [&b"nan"[..], b"infinity"].into_iter().find(|word| starts_with(word));
    constant
        .map(|word| (TokenKind::Number, word.len()))
        .or_else(|| iso_duration(after).map(|length| (TokenKind::Duration, length)))
}

/// A number that starts with a digit.
fn number(rest: &[u8]) -> (TokenKind, usize) {
    let digits = run(rest, |byte| byte.is_ascii_digit());
    if let Some(length) = duration(rest) {
        return (TokenKind::Duration, length);
    }
    let mut end = digits;
    if let [b'.', after @ ..] = &rest[end..]
        && after.first() != Some(&b'.')
    {
        end += 1 + run(after, |byte| byte.is_ascii_digit());
    }
    if let [b'e' | b'E', after @ ..] = &rest[end..] {
        let sign = usize::from(matches!(after.first(), Some(b'+' | b'-')));
        let exponent = run(&after[sign..], |byte| byte.is_ascii_digit());
        if exponent > 0 {
            end += 1 + sign + exponent;
        }
    }
    (if end == digits { TokenKind::Integer } else { TokenKind::Number }, end)
}

/// `1y2mo3w4d5h6m7s8ms9us10ns`, any units in any order.
fn duration(rest: &[u8]) -> Option<usize> {
    let mut end = 0;
    loop {
        let digits = run(&rest[end..], |byte| byte.is_ascii_digit());
        let after = &rest[end + digits..];
        let Some(unit) = (digits > 0).then(|| duration_unit(after)).flatten() else {
            return (end > 0).then_some(end);
        };
        end += digits + unit;
    }
}

fn duration_unit(bytes: &[u8]) -> Option<usize> {
    let lower = |index: usize| bytes.get(index).map(u8::to_ascii_lowercase);
    match (lower(0)?, lower(1)) {
        (b'm', Some(b'o' | b's')) | (b'u' | b'n', Some(b's')) => Some(2),
        (b'y' | b'w' | b'd' | b'h' | b'm' | b's', _) => Some(1),
        // U+00B5, the micro sign.
        (0xC2, Some(0xB5)) if lower(2) == Some(b's') => Some(3),
        _ => None,
    }
}

/// A duration in a format of ISO 8601: `P1Y2M3D`, `PT1H2M3S`, both together, `P4W` or `P0001-02-03T04:05:06`.
fn iso_duration(bytes: &[u8]) -> Option<usize> {
    const MOMENT: &[u8] = b"P0000-00-00T00:00:00";
    if has_form(bytes, MOMENT) {
        return Some(MOMENT.len());
    }
    let rest = bytes.strip_prefix(b"P")?;
    let weeks = designators(rest, b"W");
    if weeks > 0 {
        return Some(1 + weeks);
    }
    let date = designators(rest, b"YMD");
    let time = rest[date..].strip_prefix(b"T").map_or(0, |time| designators(time, b"HMS"));
    match (date, time) {
        (0, 0) => None,
        (_, 0) => Some(1 + date),
        _ => Some(1 + date + 1 + time),
    }
}

/// The length of `1Y2M3D` and the like: each unit at most once, in this order.
fn designators(bytes: &[u8], units: &[u8]) -> usize {
    let mut end = 0;
    for unit in units {
        let digits = run(&bytes[end..], |byte| byte.is_ascii_digit());
        if digits > 0 && bytes.get(end + digits) == Some(unit) {
            end += digits + 1;
        }
    }
    end
}

fn uuid(bytes: &[u8]) -> Option<usize> {
    const FORM: &[u8] = b"hhhhhhhh-hhhh-hhhh-hhhh-hhhhhhhhhhhh";
    has_form(bytes, FORM).then_some(FORM.len())
}

/// Whether the bytes start in this form: `0` is any digit, `h` any hexadecimal digit, all else is itself.
fn has_form(bytes: &[u8], form: &[u8]) -> bool {
    let fits = |(form, byte): (&u8, &u8)| match form {
        b'0' => byte.is_ascii_digit(),
        b'h' => byte.is_ascii_hexdigit(),
        _ => form == byte,
    };
    bytes.len() >= form.len() && form.iter().zip(bytes).all(fits)
}
