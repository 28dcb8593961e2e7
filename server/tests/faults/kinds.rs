//! Every kind of statement: what is sent, and what it does to the tables.

use bytes::Bytes;
use replicateddb_cql::wire::Value as Bound;
use replicateddb_replica::record::{Record, RecordKind, StatementText, Values};
use scylla::value::{Counter, CqlValue};
use serde_json::{Value, json};

use crate::model::{CLOCKS, Effect, State, clocks_of, name_of};

/// The tables of all kinds.
pub const SCHEMA: [&str; 19] = [
    "CREATE KEYSPACE f WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
    "CREATE TABLE f.plain (k bigint PRIMARY KEY, v bigint)",
    "CREATE TABLE f.updated (k bigint PRIMARY KEY, v bigint)",
    "CREATE TABLE f.deleted (k bigint PRIMARY KEY, v bigint)",
    "CREATE TABLE f.ranges (p bigint, c bigint, v bigint, PRIMARY KEY (p, c))",
    "CREATE TABLE f.lists (k bigint PRIMARY KEY, l list<bigint>)",
    "CREATE TABLE f.bags (k bigint PRIMARY KEY, s set<bigint>, m map<bigint, bigint>)",
    "CREATE TABLE f.counts (k bigint PRIMARY KEY, n counter)",
    "CREATE TABLE f.once (k bigint PRIMARY KEY, v bigint)",
    "CREATE TABLE f.cas (k bigint PRIMARY KEY, v bigint)",
    "CREATE TABLE f.guarded (p bigint, c bigint, v bigint, last bigint static, PRIMARY KEY (p, c))",
    "CREATE TABLE f.left (k bigint PRIMARY KEY, v bigint)",
    "CREATE TABLE f.right (k bigint PRIMARY KEY, v bigint)",
    "CREATE TABLE f.fading (k bigint PRIMARY KEY, v bigint)",
    "CREATE TABLE f.emptied (k bigint PRIMARY KEY, v bigint)",
    "CREATE TABLE f.clocks (k bigint PRIMARY KEY, a timeuuid, b uuid)",
    "CREATE INDEX by_value ON f.updated (v)",
    "CREATE MATERIALIZED VIEW f.by_v AS SELECT * FROM f.fading WHERE v IS NOT NULL AND k IS NOT NULL PRIMARY KEY (v, k)",
    "INSERT INTO f.cas (k, v) VALUES (0, 0)",
];

/// The tables that are compared, and their keys.
pub const TABLES: [(&str, &[&str]); 15] = [
    ("plain", &["k"]),
    ("updated", &["k"]),
    ("deleted", &["k"]),
    ("ranges", &["p", "c"]),
    ("lists", &["k"]),
    ("bags", &["k"]),
    ("counts", &["k"]),
    ("once", &["k"]),
    ("cas", &["k"]),
    ("guarded", &["p", "c"]),
    ("left", &["k"]),
    ("right", &["k"]),
    ("fading", &["k"]),
    ("emptied", &["k"]),
    ("clocks", &["k"]),
];

/// A kind of statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Insert,
    Update,
    Delete,
    RangeDelete,
    Append,
    Prepend,
    Bag,
    Counter,
    InsertIfNotExists,
    CompareAndSet,
    ConditionalBatch,
    UnloggedBatch,
    Ttl,
    Ddl,
    Truncate,
    Functions,
}

impl Kind {
    pub const EVERY: [Self; 16] = [
        Self::Insert,
        Self::Update,
        Self::Delete,
        Self::RangeDelete,
        Self::Append,
        Self::Prepend,
        Self::Bag,
        Self::Counter,
        Self::InsertIfNotExists,
        Self::CompareAndSet,
        Self::ConditionalBatch,
        Self::UnloggedBatch,
        Self::Ttl,
        Self::Ddl,
        Self::Truncate,
        Self::Functions,
    ];

    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

/// A bound value.
#[derive(Debug, Clone, Copy)]
pub enum Arg {
    Int(i64),
    /// What is added to a counter.
    Add(i64),
    /// A list of one number.
    List(i64),
    /// A set of one number.
    Set(i64),
}

impl Arg {
    pub fn cql(self) -> CqlValue {
        match self {
            Self::Int(number) => CqlValue::BigInt(number),
            Self::Add(number) => CqlValue::Counter(Counter(number)),
            Self::List(number) => CqlValue::List(vec![CqlValue::BigInt(number)]),
            Self::Set(number) => CqlValue::Set(vec![CqlValue::BigInt(number)]),
        }
    }

    fn bound(self) -> Bound {
        let bytes: Vec<u8> = match self {
            Self::Int(number) | Self::Add(number) => number.to_be_bytes().to_vec(),
            Self::List(number) | Self::Set(number) => [&[0, 0, 0, 1, 0, 0, 0, 8][..], &number.to_be_bytes()].concat(),
        };
        Bound::Bytes(Bytes::from(bytes))
    }
}

/// A request.
pub struct Op {
    pub statements: Vec<(String, Vec<Arg>)>,
    pub effect: Effect,
}

impl Op {
    fn new(text: &str, args: &[Arg], effect: impl Fn(&mut State, &Record) -> Option<bool> + Send + 'static) -> Self {
        Self { statements: vec![(text.to_owned(), args.to_vec())], effect: Box::new(effect) }
    }

    /// The name of its record: see [`name_of`].
    pub fn name(&self) -> String {
        let statement = |(text, args): &(String, Vec<Arg>)| {
            let bound: Vec<_> = args.iter().map(|arg| arg.bound()).collect();
            StatementText { text: text.clone(), values: Values::positional(&bound).unwrap() }
        };
        let statements = self.statements.iter().map(statement).collect();
        name_of(&Record { statements, ..Record::bare(RecordKind::Dml) })
    }
}

/// Makes requests of one kind, each with numbers of its own.
pub struct Maker {
    pub kind: Kind,
    made: usize,
    /// Numbers of the requests before, as far as they are needed.
    earlier: Vec<i64>,
    /// What a compare-and-set expects.
    pub expected: i64,
    /// The number of the last request.
    pub asked: i64,
}

impl Maker {
    pub fn new(kind: Kind) -> Self {
        Self { kind, made: 0, earlier: Vec::new(), expected: 0, asked: 0 }
    }

    /// The next request; `id` was never given before.
    pub fn next(&mut self, id: i64) -> Op {
        let n = self.made;
        (self.made, self.asked) = (n + 1, id);
        match self.kind {
            Kind::Insert => put("plain", "INSERT INTO f.plain (k, v) VALUES (?, ?)", id % 8, id, false),
            Kind::Update => put("updated", "UPDATE f.updated SET v = ? WHERE k = ?", id % 8, id, true),
            Kind::Ttl => put("fading", "INSERT INTO f.fading (k, v) VALUES (?, ?) USING TTL 864000", id % 8, id, false),
            Kind::Delete => self.delete(n, id),
            Kind::RangeDelete => self.delete_range(n, id),
            Kind::Append => element("UPDATE f.lists SET l = l + ? WHERE k = ?", id % 2, id, false),
            Kind::Prepend => element("UPDATE f.lists SET l = ? + l WHERE k = ?", 2 + id % 2, id, true),
            Kind::Bag => bag(n, id),
            Kind::Counter => {
                let k = id % 2;
                Op::new("UPDATE f.counts SET n = n + ? WHERE k = ?", &[Arg::Add(id), Arg::Int(k)], move |state, _| {
                    let row = state.row("counts", &[("k", k)]);
                    let sum = row.get("n").and_then(Value::as_i64).unwrap_or_default() + id;
                    row.insert("n".into(), json!(sum));
                    None
                })
            }
            Kind::InsertIfNotExists => self.insert_once(n, id),
            Kind::CompareAndSet => self.compare_and_set(id),
            Kind::ConditionalBatch => self.conditional_batch(n, id),
            Kind::UnloggedBatch => unlogged_batch(id),
            Kind::Ddl => self.ddl(n, id),
            Kind::Truncate if n % 5 == 4 => Op::new(&format!("TRUNCATE f.emptied /* {id} */"), &[], |state, _| {
                state.table("emptied").clear();
                None
            }),
            Kind::Truncate => put("emptied", "INSERT INTO f.emptied (k, v) VALUES (?, ?)", id, id, false),
            Kind::Functions => functions(n, id),
        }
    }

    fn delete(&mut self, n: usize, id: i64) -> Op {
        if n.is_multiple_of(2) {
            self.earlier = vec![id];
            return put("deleted", "INSERT INTO f.deleted (k, v) VALUES (?, ?)", id, id, false);
        }
        let gone = self.earlier[0];
        Op::new("DELETE FROM f.deleted WHERE k = ?", &[Arg::Int(gone)], move |state, _| {
            state.table("deleted").remove(&vec![gone]);
            None
        })
    }

    /// Three rows, of which the first two go.
    fn delete_range(&mut self, n: usize, id: i64) -> Op {
        if n % 4 < 3 {
            self.earlier.truncate(n % 4);
            self.earlier.push(id);
            let args = [Arg::Int(0), Arg::Int(id), Arg::Int(id)];
            return Op::new("INSERT INTO f.ranges (p, c, v) VALUES (?, ?, ?)", &args, move |state, _| {
                state.row("ranges", &[("p", 0), ("c", id)]).insert("v".into(), json!(id));
                None
            });
        }
        let (from, to) = (self.earlier[0], self.earlier[2]);
        let args = [Arg::Int(0), Arg::Int(from), Arg::Int(to)];
        Op::new("DELETE FROM f.ranges WHERE p = ? AND c >= ? AND c < ?", &args, move |state, _| {
            state.table("ranges").retain(|key, _| !(from..to).contains(&key[1]));
            None
        })
    }

    /// Three for each key, of which the log's first wins.
    fn insert_once(&mut self, n: usize, id: i64) -> Op {
        if n.is_multiple_of(3) {
            self.earlier = vec![id];
        }
        let k = self.earlier[0];
        let args = [Arg::Int(k), Arg::Int(id)];
        Op::new("INSERT INTO f.once (k, v) VALUES (?, ?) IF NOT EXISTS", &args, move |state, _| {
            let free = !state.table("once").contains_key(&vec![k]);
            if free {
                state.row("once", &[("k", k)]).insert("v".into(), json!(id));
            }
            Some(free)
        })
    }

    fn compare_and_set(&self, id: i64) -> Op {
        let expected = self.expected;
        let args = [Arg::Int(id), Arg::Int(0), Arg::Int(expected)];
        Op::new("UPDATE f.cas SET v = ? WHERE k = ? IF v = ?", &args, move |state, _| {
            let row = state.row("cas", &[("k", 0)]);
            let same = row.get("v") == Some(&json!(expected));
            if same {
                row.insert("v".into(), json!(id));
            }
            Some(same)
        })
    }

    /// Two for each row, of which the log's first wins.
    fn conditional_batch(&mut self, n: usize, id: i64) -> Op {
        if n.is_multiple_of(2) {
            self.earlier = vec![id];
        }
        let c = self.earlier[0];
        let args = [0, c, id, id, 0].map(Arg::Int);
        let text = "BEGIN BATCH INSERT INTO f.guarded (p, c, v) VALUES (?, ?, ?) IF NOT EXISTS; \
                    UPDATE f.guarded SET last = ? WHERE p = ?; APPLY BATCH";
        Op::new(text, &args, move |state, _| {
            if state.table("guarded").contains_key(&vec![0, c]) {
                return Some(false);
            }
            state.row("guarded", &[("p", 0), ("c", c)]).insert("v".into(), json!(id));
            // Static: every row of the partition shows it.
            state.table("guarded").values_mut().for_each(|row| drop(row.insert("last".into(), json!(id))));
            Some(true)
        })
    }

    /// A table is created, altered, and dropped; one that a crash comes between stays.
    fn ddl(&mut self, n: usize, id: i64) -> Op {
        if n.is_multiple_of(3) {
            self.earlier = vec![id];
        }
        let table = self.earlier[0];
        let columns = move |columns: &'static [&'static str]| {
            move |state: &mut State, _: &Record| {
                state.row("made", &[("table", table)]).insert("columns".into(), json!(columns));
                None
            }
        };
        match n % 3 {
            0 => Op::new(
                &format!("CREATE TABLE f.made_{table} (k bigint PRIMARY KEY, v bigint)"),
                &[],
                columns(&["k", "v"]),
            ),
            1 => Op::new(&format!("ALTER TABLE f.made_{table} ADD w bigint"), &[], columns(&["k", "v", "w"])),
            _ => Op::new(&format!("DROP TABLE f.made_{table}"), &[], move |state, _| {
                state.table("made").remove(&vec![table]);
                None
            }),
        }
    }
}

fn put(table: &'static str, text: &str, k: i64, v: i64, value_first: bool) -> Op {
    let args = if value_first { [Arg::Int(v), Arg::Int(k)] } else { [Arg::Int(k), Arg::Int(v)] };
    Op::new(text, &args, move |state, _| {
        state.row(table, &[("k", k)]).insert("v".into(), json!(v));
        None
    })
}

fn element(text: &str, k: i64, id: i64, in_front: bool) -> Op {
    Op::new(text, &[Arg::List(id), Arg::Int(k)], move |state, _| {
        let list = state.row("lists", &[("k", k)]).entry("l").or_insert_with(|| json!([]));
        let list = list.as_array_mut().expect("a list");
        list.insert(if in_front { 0 } else { list.len() }, json!(id));
        None
    })
}

fn bag(n: usize, id: i64) -> Op {
    match n % 2 {
        0 => Op::new("UPDATE f.bags SET s = s + ? WHERE k = ?", &[Arg::Set(id), Arg::Int(0)], move |state, _| {
            let set = state.row("bags", &[("k", 0)]).entry("s").or_insert_with(|| json!([]));
            let set = set.as_array_mut().expect("a set");
            let at = set.iter().position(|other| other.as_i64() > Some(id)).unwrap_or(set.len());
            set.insert(at, json!(id));
            None
        }),
        _ => {
            let args = [Arg::Int(id), Arg::Int(id), Arg::Int(0)];
            Op::new("UPDATE f.bags SET m[?] = ? WHERE k = ?", &args, move |state, _| {
                let map = state.row("bags", &[("k", 0)]).entry("m").or_insert_with(|| json!({}));
                map.as_object_mut().expect("a map").insert(id.to_string(), json!(id));
                None
            })
        }
    }
}

fn unlogged_batch(id: i64) -> Op {
    let k = id % 4;
    let args = vec![Arg::Int(k), Arg::Int(id)];
    let statement = |table: &str| (format!("INSERT INTO f.{table} (k, v) VALUES (?, ?)"), args.clone());
    Op {
        statements: vec![statement("left"), statement("right")],
        effect: Box::new(move |state, _| {
            for table in ["left", "right"] {
                state.row(table, &[("k", k)]).insert("v".into(), json!(id));
            }
            None
        }),
    }
}

fn functions(n: usize, id: i64) -> Op {
    let effect = move |state: &mut State, record: &Record| {
        let (k, values) = clocks_of(record);
        let row = state.row("clocks", &[("k", k)]);
        for (column, value) in ["a", "b"].into_iter().zip(values) {
            row.insert(column.into(), json!(value));
        }
        None
    };
    match n % 2 {
        0 => Op::new(&format!("INSERT INTO {CLOCKS} (k, a, b) VALUES ({id}, now(), uuid())"), &[], effect),
        _ => Op::new(&format!("UPDATE {CLOCKS} SET a = now(), b = uuid() WHERE k = ?"), &[Arg::Int(id)], effect),
    }
}
