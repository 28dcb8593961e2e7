//! Conditional writes decided in memory. Where it is certain that the condition holds, the write is a plain one: the same text
//! without its `IF`, with the record's write time, in a batch with others ([`super::group`]). Everything else, above all every
//! condition that does not hold, is Cassandra's to decide at `NODE_LOCAL`, as it is without this module; so is its answer.
//!
//! **What is known of a row** is read, together with the rows of other records ([`rows`]), as of the record's second; or it is
//! kept from the record before ([`image`]). Kept are only cells that can't change by themselves and that a later write is sure to
//! replace: [`Image::lasting`] says which, and why.
//!
//! **No image is older than its row.** The lanes let no two records that may change a partition execute at once. When a record
//! begins to execute, the images of all that it may change are taken out: those in and below the lanes that it writes, found by
//! the same function that the scheduler has them from, so that a mistake there would break the order itself; a write that names
//! one row of a table without static columns takes that row's alone. Only its success puts an image back. So an attempt that
//! fails, is ambiguous or is dropped leaves none. All of them go with the generation, and so with every rewind.
//!
//! **A decision is made once.** A second attempt that read the row again could find what the first one wrote, and would answer
//! that the condition does not hold. So from before its first copy is sent a decision is kept for the record, until the record
//! has its result ([`super::super::site::Backend::settle`]), and every further attempt sends the same plain write, with the same
//! write time: which may be repeated, as any plain write of whole cells. An attempt that is Cassandra's to decide may not, and
//! has to be followed by a rewind if it is ambiguous; it is never made after a copy was sent, but for one case: Cassandra answers
//! the plain write, sent alone, by an error of the statement's own. It gives those before it writes, from the statement and the
//! schema, so no copy had any effect: which holds as long as none of Cassandra's guardrails is set that goes by what is stored
//! (the store agent sets none, and lets nobody set one). After a rewind the decision is made anew, on a state that holds no copy;
//! but for a record that Cassandra fails ([`Place::fails`]), which is then Cassandra's to decide: the failure has to be the one that
//! replicas meet which decide nothing, or there would be no verdict.

mod candidate;
mod eligible;
mod image;
mod rows;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use replicateddb_cql::Consistency;
use replicateddb_cql::frame::Opcode;
use replicateddb_cql::request::{self, Params};
use replicateddb_cql::response::{self, Column, ColumnType, ResultBody, Rows as ResultRows};

pub use candidate::{Candidate, candidate};
pub use eligible::Eligible;
pub(super) use eligible::Table;
use eligible::{Said, queries};
use image::{Image, Images, Row};
use rows::{Found, Rows, Wish};

use super::executor::{Cassandra, PREPARE_ATTEMPTS, Ready, add_lanes, forgetful, unsendable};
use super::group::{Member, Told};
use super::outcome::{Failure, Meaning, Reply, judge};
use super::pool::Pool;
use super::prepared::{Known, Preparing};
use super::scan::Pages;
use crate::lanes::{Lane, Lanes};
use crate::record::{Record, RecordKind, StatementText};
use crate::site::Place;

/// Decisions kept at once: more than records execute at once. Beyond that Cassandra decides.
const DECIDED: usize = 4096;

/// The images and decisions of one generation.
pub struct Conditions {
    rows: Rows,
    images: Mutex<Images>,
    /// By the record's write time: what is known of its row once it is written.
    decided: Mutex<HashMap<i64, Image>>,
}

impl Conditions {
    /// On the connections of one generation.
    pub fn new(pool: Pool) -> Self {
        Self { rows: Rows::new(pool), images: Mutex::default(), decided: Mutex::default() }
    }

    /// Whether the condition of the record at this place was decided here.
    pub fn is_decided(&self, place: Place) -> bool {
        self.decisions().contains_key(&place.timestamp_us)
    }

    /// Gives a decision up. Returns whether there was one.
    pub fn settle(&self, place: Place) -> bool {
        self.decisions().remove(&place.timestamp_us).is_some()
    }

    fn decided(&self, place: Place) -> Option<Image> {
        self.decisions().get(&place.timestamp_us).cloned()
    }

    /// Keeps the decision that a condition holds, unless there are too many.
    fn decide(&self, place: Place, after: Image) {
        let mut decided = self.decisions();
        if decided.len() < DECIDED {
            decided.insert(place.timestamp_us, after.owned());
        }
    }

    fn images(&self) -> MutexGuard<'_, Images> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn decisions(&self) -> MutexGuard<'_, HashMap<i64, Image>> {
        self.decided.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A conditional write of one row that may be decided here.
pub struct Conditional<'a> {
    statement: &'a StatementText,
    keyspace: Option<&'a str>,
    eligible: Arc<Eligible>,
    said: Said,
    row: Row,
}

impl Cassandra {
    /// The record as a write that may be decided in memory, if it is one.
    pub(super) async fn conditional<'a>(
        &self,
        place: Place,
        record: &'a Record,
    ) -> Result<Option<Conditional<'a>>, Failure> {
        let ([statement], RecordKind::Dml) = (record.statements.as_slice(), record.kind) else { return Ok(None) };
        let fails = place.fails && !self.conditions.is_decided(place);
        if statement.values.is_empty() || fails {
            return Ok(None);
        }
        let keyspace = record.keyspace.as_deref();
        let Ready::Prepared(known) = self.ready(keyspace, statement).await? else { return Ok(None) };
        let Some(candidate) = &known.candidate else { return Ok(None) };
        let eligible = known.eligible.get_or_try_init(|| self.eligible(&known, candidate)).await?;
        let Some(eligible) = eligible.clone() else { return Ok(None) };
        let Some(said) = eligible.said(&statement.values) else { return Ok(None) };
        let mut lanes = Lanes::none();
        add_lanes(&mut lanes, &known, keyspace, &statement.values);
        let written: Vec<Lane> = lanes.written().collect();
        let [lane @ Lane::Key(..)] = written.as_slice() else { return Ok(None) };
        let row = (*lane, said.row.clone());
        Ok(Some(Conditional { statement, keyspace, eligible, said, row }))
    }

    async fn eligible(&self, known: &Known, candidate: &Candidate) -> Result<Option<Arc<Eligible>>, Failure> {
        let Some(of) = known.prepared.bind.first() else { return Ok(None) };
        let connection = self.pool.any().await?;
        let mut answers = Vec::new();
        for query in queries(&of.keyspace, &of.table) {
            answers.push(Pages::new(&connection, query, None).all().await?);
        }
        let [columns, tables, views] = answers.as_slice() else { return Ok(None) };
        let table = Table::read(columns, tables, views);
        Ok(Eligible::new(candidate, &known.prepared.bind, &table).map(Arc::new))
    }

    /// Drops the images of all that a record may change, which is about to execute.
    pub(super) async fn forget_images(&self, record: &Record) -> Result<(), Failure> {
        // Those of what it may change could be put there only by a record that excludes it.
        if !self.conditions.images().is_empty() {
            let lanes = self.lanes_of(record).await?;
            self.conditions.images().forget(&lanes);
        }
        Ok(())
    }

    /// Executes a conditional write.
    pub(super) async fn execute_conditional(&self, place: Place, write: &Conditional<'_>) -> Result<Reply, Failure> {
        let conditions = &self.conditions;
        let image = conditions.images().take(&write.row);
        let mut known = None;
        if !conditions.is_decided(place) {
            known = self.look(place, write, image).await?;
            if let Some(image) = known.as_ref().filter(|image| image.holds(&write.said.asked) == Some(true)) {
                conditions.decide(place, image.clone().after(&write.said.effect));
            }
        }
        if let Some(after) = conditions.decided(place) {
            if let Some(reply) = self.execute_decided(place, write).await? {
                conditions.images().keep(write.row.clone(), after);
                return Ok(reply);
            }
            conditions.settle(place);
        }
        let reply = self.execute_one(place, write.keyspace, write.statement).await?;
        if let Some(image) = known.filter(|_| is_not_applied(&reply)) {
            conditions.images().keep(write.row.clone(), image.lasting());
        }
        Ok(reply)
    }

    /// What is known of the row: by its image if that is enough, otherwise read if others are, too. Nothing if Cassandra does not
    /// take the plain write's text.
    async fn look(
        &self,
        place: Place,
        write: &Conditional<'_>,
        image: Option<Image>,
    ) -> Result<Option<Image>, Failure> {
        let Conditional { eligible, said, keyspace, .. } = write;
        let Preparing::Done(_) = self.prepared.get(&self.pool, *keyspace, &eligible.timed).await? else {
            return Ok(None);
        };
        if let Some(image) = image.filter(|image| image.holds(&said.asked).is_some()) {
            return Ok(Some(image));
        }
        let Preparing::Done(query) = self.prepared.get(&self.pool, None, &eligible.select).await? else {
            return Ok(None);
        };
        let wish = Wish {
            id: query.prepared.id.clone(),
            metadata_id: query.prepared.metadata_id.clone(),
            now_s: place.now_s(),
            at_once: eligible.at_once,
            partition: said.partition.clone(),
            clustering: said.clustering.clone(),
        };
        match self.conditions.rows.find(wish).await {
            Found::Row(row) => Ok(eligible.image(row.as_deref(), place.timestamp_us)),
            Found::Nothing => Ok(None),
            Found::Unprepared => {
                self.prepared.forget(None, &eligible.select);
                Ok(None)
            }
        }
    }

    /// Executes a write whose condition holds; `None` if Cassandra refuses it for what it says.
    async fn execute_decided(&self, place: Place, write: &Conditional<'_>) -> Result<Option<Reply>, Failure> {
        let Conditional { eligible, said, keyspace, .. } = write;
        let Preparing::Done(timed) = self.prepared.get(&self.pool, *keyspace, &eligible.timed).await? else {
            return Err(forgetful());
        };
        let time = (eligible.time_marker, eligible.written_us(place.timestamp_us));
        let Some(member) = Member::new(&timed, time, said.plain.clone(), *keyspace, place) else {
            return Ok(None);
        };
        let values = member.values.clone();
        match self.groups.execute(member).await {
            Told::Done => return applied(eligible, &Reply::void()).map(Some),
            Told::Failed(failure) => return Err(failure),
            Told::Unprepared => self.prepared.forget(*keyspace, &eligible.timed),
            Told::Alone => {}
        }
        for _ in 0..PREPARE_ATTEMPTS {
            let timed = self.prepared.get(&self.pool, *keyspace, &eligible.timed).await?;
            let Preparing::Done(timed) = timed else { break };
            let params = Params::new(Consistency::One, values.clone());
            let id = &timed.prepared;
            let body =
                request::v5::execute(&id.id, &id.metadata_id, &params, Some(place.now_s())).map_err(unsendable)?;
            let connection = self.pool.using(timed.needs(*keyspace)).await?;
            match judge(connection.ask(Opcode::Execute, body).await?) {
                Meaning::Reply(reply) if reply.is_result() => return applied(eligible, &reply).map(Some),
                Meaning::Reply(_) => return Ok(None),
                Meaning::Failure(failure) => return Err(failure),
                Meaning::Unprepared => self.prepared.forget(*keyspace, &eligible.timed),
            }
        }
        Err(forgetful())
    }
}

/// What Cassandra answers to a conditional write that it applied; with the warnings of `plain`, its answer to the plain one.
fn applied(eligible: &Eligible, plain: &Reply) -> Result<Reply, Failure> {
    let strange = |reason: &str| Failure::Retry { reason: reason.to_owned(), ambiguous: true };
    let message = plain.message().ok_or_else(|| strange("an answer that can't be read"))?;
    let warnings = plain.body.slice(..plain.body.len().saturating_sub(message.len()));
    let column = Column {
        keyspace: eligible.keyspace.clone(),
        table: eligible.table.clone(),
        name: "[applied]".to_owned(),
        kind: ColumnType::Boolean,
    };
    let rows = vec![vec![Some(Bytes::from_static(&[1]))]];
    let rows = ResultRows { columns: vec![column], paging_state: None, rows };
    let rows = response::rows(&rows, false).map_err(|error| strange(&error.to_string()))?;
    let body = if warnings.is_empty() { rows } else { [warnings, rows].concat().into() };
    Ok(Reply { flags: plain.flags, opcode: Opcode::Result.code(), body })
}

/// Whether an answer says that the condition did not hold, so that nothing was written.
fn is_not_applied(reply: &Reply) -> bool {
    let Some(message) = reply.message().filter(|_| reply.is_result()) else { return false };
    let Ok(ResultBody::Rows(rows)) = response::parse_result(&message) else { return false };
    let first = rows.rows.first().and_then(|row| row.first());
    matches!(first, Some(Some(applied)) if applied.as_ref() == [0])
}
