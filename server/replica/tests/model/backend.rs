//! Cassandra as the applier sees it: it executes, refuses, answers late, or lies about an outcome.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use replicateddb_cql::frame::Opcode;
use replicateddb_cql::response::{self, ChangeKind, ErrorCode, SchemaChange, SchemaTarget};
use replicateddb_replica::backend::{BackendError, Endpoint};
use replicateddb_replica::lanes::Lanes;
use replicateddb_replica::mutations::{Mutation, mutated};
use replicateddb_replica::record::{Record, flags};
use replicateddb_replica::replica::TableDigest;
use replicateddb_replica::site::{Backend, Connector, Failure, Health, Place, Plan, Reply};
use tokio::sync::watch;

use super::{Data, ModelStore, now_ms};

#[derive(Clone)]
pub struct ModelConnector(pub ModelStore);

impl Connector for ModelConnector {
    type Backend = ModelBackend;

    fn endpoint(&self) -> Endpoint {
        "model".into()
    }

    async fn connect(&self, generation: u64) -> Result<ModelBackend, BackendError> {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let health = self.0.world(|world| {
            (world.running && world.generation == generation).then(|| {
                let health = watch::Sender::new(Health::Healthy);
                world.health = Some(health.clone());
                health
            })
        });
        let unreachable = || BackendError::Unreachable { address: "model".into(), reason: "not running".into() };
        Ok(ModelBackend { store: self.0.clone(), generation, health: health.ok_or_else(unreachable)? })
    }
}

#[derive(Clone)]
pub struct ModelBackend {
    store: ModelStore,
    generation: u64,
    health: watch::Sender<Health>,
}

fn words(record: &Record) -> Vec<&str> {
    record.statements[0].text.split(' ').collect()
}

fn error(code: ErrorCode) -> Reply {
    Reply { flags: 0, opcode: Opcode::Error.code(), body: response::error_text(code, "model") }
}

/// A statement's effect, and what Cassandra answers.
fn apply(data: &mut Data, place: Place, text: &str) -> Reply {
    let words: Vec<&str> = text.split(' ').collect();
    let result = |body| Reply { flags: 0, opcode: Opcode::Result.code(), body };
    let done = result(Bytes::copy_from_slice(&place.timestamp_us.to_be_bytes()));
    match words.as_slice() {
        ["PUT", table, _key, value] => {
            if !data.tables.contains_key(*table) {
                return error(ErrorCode::Invalid);
            }
            let row = data.rows.entry(((*table).to_owned(), (*value).to_owned())).or_insert(place.timestamp_us);
            assert_eq!(*row, place.timestamp_us, "I3: {value} took effect twice");
            done
        }
        ["APPEND", list, value] => {
            data.lists.entry((*list).to_owned()).or_default().push((*value).to_owned());
            done
        }
        ["CREATE", table] => {
            if data.tables.contains_key(*table) {
                return error(ErrorCode::AlreadyExists);
            }
            data.tables.insert((*table).to_owned(), place.table_id);
            let target = SchemaTarget::Table((*table).to_owned());
            let change = SchemaChange { change: ChangeKind::Created, keyspace: "ks".into(), target };
            result(response::schema_change(&change))
        }
        ["TRUNCATE", table] => {
            data.rows.retain(|(of, _), _| of != table);
            data.truncated_us = place.timestamp_us;
            done
        }
        _ => error(ErrorCode::Syntax),
    }
}

impl ModelBackend {
    fn act(&self, place: Place, text: &str) -> Result<Reply, Failure> {
        let any = mutated(Mutation::IgnoreGeneration);
        self.store.world(|world| match world.running && (any || world.generation == self.generation) {
            true => {
                if text.starts_with("APPEND") {
                    let now = now_ms(world);
                    assert!(world.appended_ms <= now, "an element of a list is named before those that are there");
                    world.appended_ms = now;
                }
                let reply = apply(&mut world.data, place, text);
                world.replace_memtables(text.starts_with("CREATE") || text.starts_with("TRUNCATE"));
                Ok(reply)
            }
            false => Err(Failure::Retry { reason: "lost".into(), ambiguous: true }),
        })
    }
}

/// Seconds that each store in turn is sick for.
const SICK_S: u64 = 20;
/// One attempt in so many at a flaky value succeeds.
const FLAKY: u32 = 16;

impl ModelBackend {
    /// Whether this attempt fails with an error that may be anything's: by what the value is called, or because it was said.
    fn refuses(&self, text: &str) -> bool {
        let value = text.rsplit(' ').next().unwrap_or_default();
        let flaked = self.store.dice(FLAKY) != 0;
        self.store.world(|world| {
            let began = world.began.expect("it has an agent");
            match value.split('-').next() {
                Some("poison") => true,
                Some("sick") => (began.elapsed().as_secs() / SICK_S) % 3 == u64::from(world.number),
                Some("flaky") if !flaked => {
                    world.managed.insert(value.to_owned());
                    false
                }
                Some("flaky") => !world.managed.contains(value),
                _ => world.refuses.contains(value),
            }
        })
    }
}

impl Backend for ModelBackend {
    async fn plan(&self, record: &Record) -> Result<Plan, Failure> {
        let words = words(record);
        if self.store.dice(8) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut lanes = Lanes::none();
        match words.as_slice() {
            ["PUT", table, key, _] => lanes.add_key("ks", table, key.as_bytes()),
            ["APPEND", list, _] => lanes.add_key("ks", "lists", list.as_bytes()),
            _ => return Ok(Plan::Answer(error(ErrorCode::Syntax))),
        }
        Ok(Plan::Execute { lanes, repeatable: words[0] == "PUT" && record.flags & flags::NOT_REPEATABLE == 0 })
    }

    async fn execute(&self, place: Place, record: &Record) -> Result<Reply, Failure> {
        let text = record.statements[0].text.clone();
        tokio::time::sleep(Duration::from_millis(u64::from(self.store.dice(6)))).await;
        let trouble = self.store.world(|world| world.trouble);
        if self.store.dice(800) < trouble {
            let retry = |ambiguous| Err(Failure::Retry { reason: "model".into(), ambiguous });
            match self.store.dice(6) {
                0 => return retry(false),
                1 => return retry(true),
                2 => {
                    let _ = self.act(place, &text);
                    return retry(true);
                }
                _ => {
                    // It lands later, if that JVM still lives.
                    let late = self.clone();
                    let after = Duration::from_millis(u64::from(self.store.dice(3000)));
                    tokio::spawn(async move {
                        tokio::time::sleep(after).await;
                        let _ = late.act(place, &text);
                    });
                    return retry(true);
                }
            }
        }
        let exists = |table: &str| self.store.world(|world| world.data.tables.contains_key(table));
        let is_wrong =
            words(record).first() == Some(&"PUT") && !words(record).get(1).is_some_and(|table| exists(table));
        if !is_wrong && self.refuses(&text) {
            if self.store.dice(2) == 0 {
                let _ = self.act(place, &text);
            }
            return Err(Failure::Refused {
                reason: format!("model {} of /10.0.0.{}", self.generation, self.generation),
                ambiguous: true,
            });
        }
        self.act(place, &text)
    }

    fn forget_prepared(&self) {}

    async fn digest(&self, _now_s: i32) -> Result<BTreeMap<String, TableDigest>, Failure> {
        let data = self.store.data();
        let digest = TableDigest { rows: data.rows.len() as u64, sha256: format!("{data:?}") };
        Ok(BTreeMap::from([("all".to_owned(), digest)]))
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }
}
