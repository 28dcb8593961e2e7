//! What the tables must hold: every record of the log, in its order, the first time that it stands there (I2, I3, I4).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex},
};

use futures::StreamExt;
use replicateddb_cql::wire::Value as Bound;
use replicateddb_ordering::{
    OrderedLog, Position,
    znode_log::{Config, ZnodeLog},
};
use replicateddb_replica::record::{Entry, Record};
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// The number that the reader opens the log as: no replica's.
const READER: u32 = 9;

/// A row as `SELECT JSON` shows it.
pub type Row = Map<String, Value>;

/// Tables, their rows by key.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct State {
    pub tables: BTreeMap<String, BTreeMap<Vec<i64>, Row>>,
}

impl State {
    pub fn table(&mut self, name: &str) -> &mut BTreeMap<Vec<i64>, Row> {
        self.tables.entry(name.to_owned()).or_default()
    }

    /// The row with this key, made if it is not there.
    pub fn row(&mut self, table: &str, key: &[(&str, i64)]) -> &mut Row {
        let numbers = key.iter().map(|(_, number)| *number).collect();
        let new = || key.iter().map(|(column, number)| ((*column).to_owned(), json!(number))).collect();
        self.table(table).entry(numbers).or_insert_with(new)
    }
}

/// What a record does to the state; `Some`: a conditional write, and whether it was applied.
pub type Effect = Box<dyn Fn(&mut State, &Record) -> Option<bool> + Send>;

/// A record's place in the log, and whether it was applied if it is conditional.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ordered {
    pub index: u64,
    pub applied: Option<bool>,
}

#[derive(Default)]
struct Known {
    effects: HashMap<String, Effect>,
    state: State,
    index: u64,
    seen: BTreeSet<(u32, i64, u64)>,
    ordered: HashMap<String, Ordered>,
    broken: Vec<String>,
}

impl Known {
    fn apply(&mut self, origin: u32, incarnation: i64, record: &Record) {
        if !self.seen.insert((origin, incarnation, record.sequence)) {
            return;
        }
        self.index += 1;
        if !record.kind.writes() {
            return;
        }
        let name = name_of(record);
        let Some(effect) = self.effects.get(&name) else {
            return self.broken.push(format!("nobody asked for {name}"));
        };
        let applied = effect(&mut self.state, record);
        if self.ordered.insert(name.clone(), Ordered { index: self.index, applied }).is_some() {
            self.broken.push(format!("ordered twice: {name}"));
        }
    }
}

/// What tells a record from every other: its texts and values. Those with calls of functions are told by their key.
pub fn name_of(record: &Record) -> String {
    let mut name = String::new();
    for statement in &record.statements {
        if statement.text.contains(CLOCKS) && !statement.text.starts_with("CREATE") {
            return format!("{CLOCKS} {}", clocks_of(record).0);
        }
        name.push_str(&statement.text);
        for byte in statement.values.raw() {
            name.push_str(&format!("{byte:02x}"));
        }
    }
    name
}

/// The table that calls of functions are written to.
pub const CLOCKS: &str = "f.clocks";

/// Key, which may be a literal, and values of a record that writes to [`CLOCKS`]; no values before the calls are replaced.
pub fn clocks_of(record: &Record) -> (i64, Vec<String>) {
    let statement = &record.statements[0];
    let literal = statement.text.split_once("VALUES (").and_then(|(_, rest)| rest.split(',').next()?.parse().ok());
    let (mut key, mut values) = (literal, Vec::new());
    for bound in statement.values.iter() {
        let Bound::Bytes(bytes) = bound.value else { panic!("no value in {}", statement.text) };
        match <[u8; 8]>::try_from(bytes.as_ref()) {
            Ok(number) => key = Some(i64::from_be_bytes(number)),
            Err(_) => values.push(uuid::Uuid::from_slice(&bytes).unwrap().to_string()),
        }
    }
    (key.unwrap_or_else(|| panic!("no key in {}", statement.text)), values)
}

/// Reads the log from its beginning on, as it grows.
#[derive(Clone)]
pub struct Model {
    log: ZnodeLog,
    known: Arc<Mutex<Known>>,
    upto: watch::Receiver<Position>,
    _task: Arc<AbortOnDropHandle<()>>,
}

impl Model {
    pub async fn start(zookeeper: &str) -> Self {
        let (log, _) = ZnodeLog::open(Config::new(zookeeper, "/replicateddb", READER)).await.unwrap();
        let known: Arc<Mutex<Known>> = Arc::default();
        let (sender, upto) = watch::channel(Position::START);
        let mut tail = log.tail(Position::START);
        let task = tokio::spawn({
            let known = known.clone();
            async move {
                while let Some(committed) = tail.next().await {
                    let committed = committed.expect("the reader keeps up with the log");
                    let entry = Entry::decode(committed.entry).unwrap();
                    let mut known = known.lock().unwrap();
                    entry.records.iter().for_each(|record| known.apply(entry.origin, entry.incarnation, record));
                    drop(known);
                    sender.send_replace(committed.position.next());
                }
            }
        });
        Self { log, known, upto, _task: Arc::new(AbortOnDropHandle::new(task)) }
    }

    /// A record of this name may come.
    pub fn expect(&self, name: String, effect: Effect) {
        let earlier = self.known.lock().unwrap().effects.insert(name.clone(), effect);
        assert!(earlier.is_none(), "{name} is no name of one request alone");
    }

    /// Waits until everything that is in the log now is read; gives the state.
    pub async fn caught_up(&self) -> State {
        let end = self.log.end().await.unwrap();
        // A segment may be sealed at its end, with nothing in the next.
        let read = |upto: &Position| *upto >= end || (end.sequence == 0 && upto.segment + 1 == end.segment);
        let waited = tokio::time::timeout(crate::bed::PATIENCE, self.upto.clone().wait_for(read)).await.is_ok();
        assert!(waited, "the reader stands at {}, the log ends at {end}", *self.upto.borrow());
        let known = self.known.lock().unwrap();
        assert!(known.broken.is_empty(), "I3: {:#?}", known.broken);
        known.state.clone()
    }

    /// Where a record stands, if it is in the log.
    pub fn ordered(&self, name: &str) -> Option<Ordered> {
        self.known.lock().unwrap().ordered.get(name).copied()
    }

    /// The index from which on a replica has made known that it needs the log.
    pub async fn needed_by(&self, replica: u32) -> Option<u64> {
        let all = self.log.published().await.unwrap();
        all.into_iter().find(|one| one.replica == replica).map(|one| one.index)
    }

    /// The first position that the log still has.
    pub async fn first(&self) -> Position {
        self.log.first().await.unwrap()
    }
}
