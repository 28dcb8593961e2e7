//! Statements by the grammar: what the classifier says of them is known when they are made.

use replicateddb_cql::request::BatchKind;
use replicateddb_cql::statement::{Kind, classify};

use super::texts;
use crate::source::Source;

/// Members of a batch, at most.
const MEMBERS: usize = 5;

/// What a statement must be found to say.
#[derive(Debug, Default)]
struct Said {
    keyspace: Option<String>,
    table: String,
    markers: usize,
    calls: usize,
    conditional: bool,
    timestamp: bool,
    ttl: bool,
    operations: usize,
}

/// A statement that comes to be.
struct Maker<'a> {
    source: Source<'a>,
    text: String,
    said: Said,
}

pub fn run(input: &[u8]) {
    let mut maker = Maker { source: Source(input), text: String::new(), said: Said::default() };
    match maker.source.below(4) {
        0 => batch(&mut maker),
        _ => {
            let kind = maker.write();
            check(&maker.text, kind, &maker.said);
        }
    }
    texts::check(&maker.text, true);
}

fn check(text: &str, kind: Kind, expected: &Said) {
    let said = classify(text);
    assert_eq!(said.kind, kind, "{text:?}");
    assert_eq!(said.keyspace.as_ref().map(|name| name.as_str()), expected.keyspace.as_deref(), "{text:?}");
    assert_eq!(said.table.as_ref().map(|name| name.as_str()), Some(expected.table.as_str()), "{text:?}");
    assert_eq!(said.markers.len(), expected.markers, "{text:?}");
    assert_eq!(said.calls.len(), expected.calls, "{text:?}");
    assert_eq!(said.conditional.is_some(), expected.conditional, "{text:?}");
    assert_eq!(said.using_timestamp.is_some(), expected.timestamp, "{text:?}");
    assert_eq!(said.ttl.is_some(), expected.ttl, "{text:?}");
    assert_eq!(said.operations.len(), expected.operations, "{text:?}");
    assert_eq!(said.foreign_function, None, "{text:?}");
}

fn batch(maker: &mut Maker<'_>) {
    let kinds = [("", BatchKind::Logged), ("UNLOGGED", BatchKind::Unlogged), ("COUNTER", BatchKind::Counter)];
    let (word, kind) = maker.source.pick(&kinds);
    maker.words("BEGIN");
    maker.words(word);
    maker.words("BATCH");
    let mut made = Vec::new();
    for _ in 0..=maker.source.below(MEMBERS) {
        maker.said = Said::default();
        let kind = maker.write();
        made.push((kind, std::mem::take(&mut maker.said)));
        if maker.source.flag() {
            maker.text.push(';');
        }
    }
    maker.words("APPLY BATCH");
    let text = &maker.text;
    let said = classify(text);
    assert_eq!(said.kind, Kind::Batch(kind), "{text:?}");
    assert_eq!(said.members.len(), made.len(), "{text:?}");
    for (member, (kind, expected)) in said.members.iter().zip(&made) {
        assert_eq!((member.statement.kind, member.marker_count), (*kind, expected.markers), "{text:?}");
        check(member.span.of(text), *kind, expected);
    }
    let sum = |of: fn(&Said) -> usize| made.iter().map(|(_, said)| of(said)).sum::<usize>();
    assert_eq!((said.markers.len(), said.calls.len()), (sum(|said| said.markers), sum(|said| said.calls)), "{text:?}");
}

impl Maker<'_> {
    /// Words in any case, with any blanks around them.
    fn words(&mut self, words: &str) {
        for word in words.split(' ').filter(|word| !word.is_empty()) {
            self.blank();
            match self.source.below(3) {
                0 => self.text.push_str(&word.to_ascii_lowercase()),
                _ => self.text.push_str(word),
            }
        }
        self.blank();
    }

    fn blank(&mut self) {
        let blanks = [" ", " ", " ", "\n", "\t ", " /* IF ? now() ' */ ", " -- IF ? ' \n", " // $$ \r", "/**/"];
        let blank = self.source.pick(&blanks);
        self.text.push_str(blank);
    }

    /// A name; as it is stored.
    fn name(&mut self) -> String {
        let names = [
            ("t", "t"),
            ("Ks", "ks"),
            ("\"Q\"", "Q"),
            ("\"a\"\"b?\"", "a\"b?"),
            ("\"IF\"", "IF"),
            ("v_1", "v_1"),
            ("ttl", "ttl"),
            ("\"now()\"", "now()"),
        ];
        let (written, stored) = self.source.pick(&names);
        self.text.push_str(written);
        stored.to_owned()
    }

    fn table(&mut self) {
        let first = self.name();
        if self.source.flag() {
            self.text.push('.');
            self.said.keyspace = Some(first);
            self.said.table = self.name();
        } else {
            self.said.table = first;
        }
    }

    /// A value; `deep` is how deep it may still be.
    fn value(&mut self, deep: usize) {
        let constants = [
            "1",
            "-5",
            "1.5e-3",
            "'te''xt'",
            "$$ IF ? now() $$",
            "0xfe",
            "NULL",
            "true",
            "1y2mo3d",
            "P1Y",
            "NaN",
            "-Infinity",
            "5a1c395e-b41f-11e5-9f22-ba0be0483c18",
            "(int) 5",
            "'now()'",
            "-PT5M",
        ];
        let calls = ["now()", "uuid()", "currentTimestamp ( )", "system.now()", "current_date()", "toDate(now())"];
        match self.source.below(8) {
            0 => {
                self.text.push('?');
                self.said.markers += 1;
            }
            1 => {
                self.text.push_str(" :");
                self.name();
                self.said.markers += 1;
            }
            2 => {
                let call = self.source.pick(&calls);
                self.text.push_str(call);
                self.said.calls += 1;
            }
            3 if deep > 0 => {
                let (open, close) = self.source.pick(&[("[", "]"), ("{", "}"), ("(", ")")]);
                self.text.push_str(open);
                for number in 0..=self.source.below(3) {
                    if number > 0 {
                        self.text.push(',');
                    }
                    self.value(deep - 1);
                }
                self.text.push_str(close);
            }
            4 if deep > 0 => {
                self.text.push_str("{'key' : ");
                self.value(0);
                self.text.push('}');
            }
            _ => {
                let constant = self.source.pick(&constants);
                self.text.push_str(constant);
            }
        }
    }

    /// `USING TIMESTAMP x AND TTL y`
    fn using(&mut self, ttl: bool) {
        if self.source.below(3) != 0 {
            return;
        }
        self.words("USING TIMESTAMP");
        self.said.timestamp = true;
        self.number();
        if ttl && self.source.flag() {
            self.words("AND TTL");
            self.said.ttl = true;
            self.number();
        }
    }

    fn number(&mut self) {
        if self.source.flag() {
            self.text.push('?');
            self.said.markers += 1;
        } else {
            self.text.push_str("77");
        }
        self.blank();
    }

    fn relations(&mut self) {
        self.words("WHERE");
        for number in 0..=self.source.below(3) {
            if number > 0 {
                self.words("AND");
            }
            self.name();
            let operator = self.source.pick(&["=", " = ", ">=", "<"]);
            self.text.push_str(operator);
            self.value(1);
        }
    }

    fn condition(&mut self) {
        if self.source.below(3) != 0 {
            return;
        }
        self.said.conditional = true;
        match self.source.flag() {
            true => self.words("IF EXISTS"),
            false => {
                self.words("IF");
                self.name();
                self.text.push_str(" = ");
                self.value(1);
            }
        }
    }

    fn write(&mut self) -> Kind {
        match self.source.below(3) {
            0 => {
                self.words("INSERT INTO");
                self.table();
                self.text.push_str(" (a, b) ");
                self.words("VALUES");
                self.text.push('(');
                self.value(3);
                self.text.push_str(", ");
                self.value(3);
                self.text.push(')');
                if self.source.below(3) == 0 {
                    self.words("IF NOT EXISTS");
                    self.said.conditional = true;
                }
                self.using(true);
                Kind::Insert
            }
            1 => {
                self.words("UPDATE");
                self.table();
                self.using(true);
                self.words("SET");
                for number in 0..=self.source.below(3) {
                    if number > 0 {
                        self.text.push(',');
                    }
                    self.assignment();
                }
                self.relations();
                self.condition();
                Kind::Update
            }
            _ => {
                self.words("DELETE");
                if self.source.flag() {
                    self.name();
                    if self.source.flag() {
                        self.text.push('[');
                        self.value(0);
                        self.text.push(']');
                        self.said.operations += 1;
                    }
                }
                self.words("FROM");
                self.table();
                self.using(false);
                self.relations();
                self.condition();
                Kind::Delete
            }
        }
    }

    fn assignment(&mut self) {
        match self.source.below(4) {
            0 => {
                self.text.push_str("l = l + ");
                self.said.operations += 1;
            }
            1 => {
                self.text.push_str("m [");
                self.value(0);
                self.text.push_str("] = ");
                self.said.operations += 1;
            }
            2 => {
                self.text.push_str("c += ");
                self.said.operations += 1;
            }
            _ => {
                self.text.push_str("v = ");
            }
        }
        self.value(2);
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let number = |at: usize| (at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
    (1..80).map(|length| (0..length).map(|at| number(at * length) as u8).collect()).collect()
}
