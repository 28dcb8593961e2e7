//! Writes of sessions over a replica and a Cassandra that fail on demand.

use bytes::Bytes;
use replicateddb_cql::{
    Consistency, Version,
    frame::Opcode,
    request::{self, Batch, BatchBody, BatchKind, BatchStatement, Params, Values},
    response::{self, ErrorCode},
    wire::Value,
};

use super::fake::{Bed, WRONG, id_of, proposed};
use crate::{record::flags, replica::ProposeError};

#[tokio::test]
async fn failures_of_writes_in_terms_of_drivers() {
    let bed = Bed::start(10).await;
    bed.serve(1);
    let mut client = bed.client().await;
    let insert = "INSERT INTO a.t (k) VALUES (1)";
    let reason = || "no quorum".to_owned();
    for (failure, code) in [
        (ProposeError::Overloaded, ErrorCode::Overloaded),
        (ProposeError::TooLarge { size: 9, limit: 8 }, ErrorCode::Invalid),
        (ProposeError::Unavailable { reason: reason(), maybe_written: true }, ErrorCode::WriteTimeout),
        (ProposeError::Unavailable { reason: reason(), maybe_written: false }, ErrorCode::Unavailable),
        (ProposeError::NotServing { reason: reason(), maybe_written: false }, ErrorCode::Bootstrapping),
    ] {
        bed.fail(failure.clone());
        let error = client.error(insert, Consistency::Quorum).await;
        assert_eq!(error.kind(), Some(code), "{failure:?}");
        assert!(!error.extra.ends_with(b"BATCH_LOG"));
    }
}

#[tokio::test]
async fn a_cassandra_that_went_away_before_a_write_was_proposed_sends_the_client_to_another_replica() {
    let bed = Bed::start(10).await;
    bed.serve(1);
    let mut client = bed.client().await;
    *bed.cassandra.generation.lock().unwrap() = 2;
    let error = client.error("INSERT INTO a.t (k) VALUES (1)", Consistency::Quorum).await;
    assert_eq!(error.kind(), Some(ErrorCode::Bootstrapping), "{}", error.message);
    let error = client.error("SELECT * FROM a.t", Consistency::Quorum).await;
    assert_eq!(error.kind(), Some(ErrorCode::Bootstrapping), "{}", error.message);
}

/// As `ConsistencyLevel` of Cassandra: levels that a write can't have are refused before it is ordered.
#[tokio::test]
async fn levels_of_writes() {
    use Consistency as Level;
    let bed = Bed::start(10).await;
    bed.serve(1);
    let mut client = bed.client().await;
    let (plain, conditional) = ("INSERT INTO a.t (k) VALUES (1)", "INSERT INTO a.t (k) VALUES (1) IF NOT EXISTS");
    let (batch, both) =
        (format!("BEGIN BATCH {plain}; APPLY BATCH"), format!("BEGIN BATCH {conditional}; APPLY BATCH"));
    let commit = "SERIAL is not supported as conditional update commit consistency. Use ANY if you mean \"make sure it is accepted \
                  but I don't care how many replicas commit it for non-SERIAL reads\"";
    let must = "Invalid consistency for conditional update. Must be one of SERIAL or LOCAL_SERIAL";
    for (text, level, serial, refused) in [
        (plain, Level::Quorum, Some(Level::Quorum), None),
        (plain, Level::Any, None, None),
        (plain, Level::Serial, None, Some("You must use conditional updates for serializable writes")),
        (&batch, Level::Serial, None, None),
        ("CREATE TABLE a.u (k int PRIMARY KEY)", Level::Serial, None, None),
        (conditional, Level::Quorum, None, None),
        (conditional, Level::Quorum, Some(Level::LocalSerial), None),
        (conditional, Level::Quorum, Some(Level::Quorum), Some(must)),
        (&both, Level::Quorum, Some(Level::One), Some(must)),
        (conditional, Level::Serial, None, Some(commit)),
        (&both, Level::Serial, Some(Level::Serial), Some(commit)),
    ] {
        let params = Params { serial_consistency: serial, ..Params::new(level, Values::none()) };
        let answer = client.ask(7, Opcode::Query, request::query(text, &params).unwrap()).await;
        match refused {
            None => assert_eq!(answer.opcode, Opcode::Result, "{text} at {level}, {serial:?}"),
            Some(refused) => {
                let error = response::parse_error(&answer.body).unwrap();
                assert_eq!(
                    (error.kind(), error.message.as_str()),
                    (Some(ErrorCode::Invalid), refused),
                    "{text} at {level}"
                );
            }
        }
    }
}

#[tokio::test]
async fn an_executed_write_is_proposed_with_its_text_and_keyspace() {
    let bed = Bed::start(10).await;
    bed.serve(1);
    let mut client = bed.client().await;
    client.query("USE a", Consistency::One).await;
    let text = "INSERT INTO t (k) VALUES (?)";
    let prepared = client.ask(1, Opcode::Prepare, request::prepare(text).unwrap()).await;
    assert_eq!(prepared.opcode, Opcode::Result);
    // The keyspace at the time of preparing counts, on this connection and every other.
    client.query("USE b", Consistency::One).await;
    let values = Values::positional(&[Value::Bytes(Bytes::from_static(&[0, 0, 0, 1]))]).unwrap();
    let execute = |id: &[u8]| request::execute(id, &Params::new(Consistency::One, values.clone())).unwrap();
    let mut other = bed.client().await;
    assert_eq!(other.ask(7, Opcode::Execute, execute(&id_of(text))).await.opcode, Opcode::Result);
    assert_eq!(proposed(&bed.core).get(text), Some(&Some("a".to_owned())));
    let proposal = bed.core.proposed.lock().unwrap()[0].clone();
    assert_eq!(proposal.statements[0].values, values);
    assert_eq!(proposal.flags, flags::NOT_REPEATABLE, "the table has a list");
    let answer = other.ask(8, Opcode::Execute, execute(b"another id")).await;
    let error = response::parse_error(&answer.body).unwrap();
    assert_eq!(error.unprepared_id(), Some(Bytes::from("another id")));
}

#[tokio::test]
async fn refused_is_never_proposed() {
    let bed = Bed::start(10).await;
    bed.serve(1);
    let mut client = bed.client().await;
    for text in [
        "INSERT INTO a.t (k) VALUES (f(1)) IF NOT EXISTS",
        "UPDATE a.t SET nothing = nothing + 1 WHERE k = 1",
        "CREATE TRIGGER x ON a.t USING 'y'",
        "GRANT ALL ON KEYSPACE a TO x",
        "nonsense",
    ] {
        assert_eq!(client.error(text, Consistency::One).await.kind(), Some(ErrorCode::Invalid), "{text}");
        let answer = client.ask(3, Opcode::Prepare, request::prepare(text).unwrap()).await;
        // What the columns and the session decide is refused when it is executed.
        let later = text.starts_with("UPDATE") || text.starts_with("GRANT");
        assert!(answer.opcode == Opcode::Error || later, "{text}");
    }
    let level = Consistency::Serial;
    assert_eq!(client.error("INSERT INTO a.t (k) VALUES (1)", level).await.kind(), Some(ErrorCode::Invalid));
    assert!(proposed(&bed.core).is_empty());
}

#[tokio::test]
async fn a_record_is_the_same_whatever_version_its_client_speaks() {
    let bed = Bed::start(10).await;
    bed.serve(1);
    let null_of_v3 = Bytes::from_static(&[0, 2, 0, 0, 0, 1, 7, 0xFF, 0xFF, 0xFF, 0xFE]);
    let null = Bytes::from_static(&[0, 2, 0, 0, 0, 1, 7, 0xFF, 0xFF, 0xFF, 0xFF]);
    let mut proposals = Vec::new();
    for version in Version::EVERY {
        let mut client = bed.connect_in(version, None).await;
        let body = request::startup(&[("CQL_VERSION", "3.0.0")]).unwrap();
        assert_eq!(client.ask(0, Opcode::Startup, body).await.opcode, Opcode::Ready);
        let raw = if version == Version::V3 { &null_of_v3 } else { &null };
        let params = Params::new(Consistency::One, Values::from_raw(raw.clone(), false).unwrap());
        let text = "INSERT INTO t (k, v) VALUES (?, ?)";
        let body = match version {
            Version::V5 => request::v5::query_in(text, "a", &params, Some(7)).unwrap(),
            _ => {
                let used = request::query("USE a", &Params::new(Consistency::One, Values::none())).unwrap();
                assert_eq!(client.ask(1, Opcode::Query, used).await.opcode, Opcode::Result);
                request::query(text, &params).unwrap()
            }
        };
        assert_eq!(client.ask(1, Opcode::Query, body).await.opcode, Opcode::Result);
        proposals.push(bed.core.proposed.lock().unwrap().pop().expect("a proposal"));
    }
    for proposal in &proposals {
        assert_eq!(proposal.keyspace.as_deref(), Some("a"));
        assert_eq!(proposal.statements, proposals[0].statements);
        assert_eq!(proposal.statements[0].values.raw(), &null);
    }
}

/// As Cassandra has it: what is wrong with a text comes before what is wrong with what it says.
#[tokio::test]
async fn a_text_is_read_before_its_tables_are_looked_up() {
    let bed = Bed::start(10).await;
    bed.serve(1);
    let mut client = bed.client().await;
    let unknown = "UPDATE a.t SET nothing = nothing + 1 WHERE k = 1";
    let error = client.error(unknown, Consistency::One).await;
    assert_eq!(
        (error.kind(), error.message.as_str()),
        (Some(ErrorCode::Invalid), "Undefined column name nothing in table a.t")
    );
    let wrong = format!("{unknown} {WRONG}");
    let said = format!("line 1:{} no viable", unknown.len() + 1);
    let error = client.error(&wrong, Consistency::One).await;
    assert!(error.kind() == Some(ErrorCode::Syntax) && error.message.starts_with(&said), "{error:?}");
    let members = vec![("INSERT INTO a.t (k) VALUES (1)".to_owned()), wrong];
    let statements =
        members.into_iter().map(|text| BatchStatement { body: BatchBody::Text(text), values: Values::none() });
    let batch = Batch {
        kind: BatchKind::Unlogged,
        statements: statements.collect(),
        consistency: Consistency::One,
        serial_consistency: None,
        timestamp: None,
    };
    let answer = client.ask(7, Opcode::Batch, request::batch(&batch).unwrap()).await;
    let error = response::parse_error(&answer.body).unwrap();
    assert!(error.kind() == Some(ErrorCode::Syntax) && error.message.starts_with(&said), "{error:?}");
    assert!(proposed(&bed.core).is_empty());
}

/// Of a text that is executed otherwise than it was written, the error says where it is in what was written.
#[tokio::test]
async fn a_syntax_error_is_where_the_client_wrote_it() {
    let bed = Bed::start(10).await;
    bed.serve(1);
    *bed.core.answer.lock().unwrap() = Some(response::error_text(ErrorCode::Syntax, "line 1:99 somewhere else"));
    let mut client = bed.client().await;
    let text = format!("UPDATE a.t SET l = [now()] WHERE k = 1 {WRONG}");
    let error = client.error(&text, Consistency::One).await;
    assert!(error.message.starts_with(&format!("line 1:{} no", text.len() - WRONG.len())), "{error:?}");
    let fine = client.error("UPDATE a.t SET l = [now()] WHERE k = 1", Consistency::One).await;
    assert_eq!(fine.message, "line 1:99 somewhere else", "there is no better one");
}

/// What would be unknown as soon as it is executed is not prepared, and nothing is forgotten for it.
#[tokio::test]
async fn what_can_not_be_remembered_is_not_prepared() {
    let bed = Bed::start(10).await;
    bed.serve(1);
    let mut client = bed.client().await;
    let small = "INSERT INTO a.t (k) VALUES (1)";
    let prepare = |text: &str| request::prepare(text).unwrap();
    assert_eq!(client.ask(1, Opcode::Prepare, prepare(small)).await.opcode, Opcode::Result);
    let large = format!("BEGIN BATCH {} APPLY BATCH", "DELETE FROM a.t WHERE k=?;".repeat(35_000));
    let answer = client.ask(2, Opcode::Prepare, prepare(&large)).await;
    let error = response::parse_error(&answer.body).unwrap();
    assert_eq!(error.kind(), Some(ErrorCode::Invalid));
    assert!(error.message.contains("can't be prepared") && error.message.contains("BATCH"), "{error:?}");
    let execute = |text: &str| request::execute(&id_of(text), &Params::new(Consistency::One, Values::none())).unwrap();
    let answer = client.ask(3, Opcode::Execute, execute(&large)).await;
    assert_eq!(response::parse_error(&answer.body).unwrap().kind(), Some(ErrorCode::Unprepared));
    assert_eq!(client.ask(4, Opcode::Execute, execute(small)).await.opcode, Opcode::Result);
}
