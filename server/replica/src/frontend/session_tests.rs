//! Sessions over a replica and a Cassandra that fail on demand.

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use replicateddb_cql::{
    Compression, Consistency, Version,
    frame::Opcode,
    request::{self, Params, Values},
    response::{self, ErrorCode},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::fake::{Bed, LARGE, LARGE_BYTES, PATIENCE, query};
use super::limits::{BODY_TIMEOUT, MAX_BODY, MAX_HANDSHAKE_BODY, MAX_IN_FLIGHT_BYTES, SOCKET_WRITE_TIMEOUT};
use crate::{
    lanes::Lanes,
    reads::Early,
    replica::{ProposeError, SchemaEvent, Serving},
};

#[tokio::test]
async fn i5_the_port_is_open_only_while_the_replica_serves() {
    let bed = Bed::start(10).await;
    assert!(TcpStream::connect(bed.address).await.is_err(), "open before the replica serves");
    bed.serve(1);
    let mut client = bed.client().await;
    assert_eq!(client.query("SELECT * FROM a.t", Consistency::One).await.opcode, Opcode::Result);
    bed.core.serving.send_replace(Serving::No { reason: "rewinding".into() });
    assert!(client.next().await.is_none(), "a session outlives its serving period");
    let closed = async {
        while TcpStream::connect(bed.address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, closed).await.expect("the port closes");
    bed.serve(2);
    let mut client = bed.client().await;
    assert_eq!(client.query("SELECT * FROM a.t", Consistency::One).await.opcode, Opcode::Result);
}

#[tokio::test]
async fn i5_another_generation_is_never_relayed_to() {
    let bed = Bed::start(10).await;
    bed.serve(3);
    *bed.cassandra.generation.lock().unwrap() = 4;
    let mut client = bed.connect().await;
    let body = request::startup(&[("CQL_VERSION", "3.0.0")]).unwrap();
    let answer = client.ask(0, Opcode::Startup, body).await;
    assert_eq!(response::parse_error(&answer.body).unwrap().kind(), Some(ErrorCode::Bootstrapping));
    assert!(client.next().await.is_none());
}

#[tokio::test]
async fn nothing_large_is_taken_before_startup() {
    let bed = Bed::start(10).await;
    bed.serve(1);
    let mut client = bed.connect().await;
    client.send(3, Opcode::Startup, Bytes::from(vec![0; MAX_HANDSHAKE_BODY + 1])).await;
    let answer = client.next().await.expect("told why");
    assert_eq!(response::parse_error(&answer.body).unwrap().kind(), Some(ErrorCode::Protocol));
    assert!(client.next().await.is_none());
    // Afterwards the same size is fine.
    let mut client = bed.client().await;
    let text = format!("SELECT * FROM a.t /*{}*/", " ".repeat(MAX_HANDSHAKE_BODY));
    assert_eq!(client.query(&text, Consistency::One).await.opcode, Opcode::Result);
}

/// Clients that announce bodies and don't send them hold their share for [`BODY_TIMEOUT`] only.
#[tokio::test]
async fn announced_bodies_hold_up_the_others_for_a_bounded_time() {
    let bed = Bed::start(10).await;
    bed.serve(1);
    let mut idlers = Vec::new();
    for _ in 0..MAX_IN_FLIGHT_BYTES / MAX_BODY {
        let mut idler = bed.client().await;
        let header = [[4, 0, 0, 1, Opcode::Query.code()].as_slice(), &(MAX_BODY as i32).to_be_bytes()].concat();
        idler.framed.get_mut().write_all(&header).await.unwrap();
        idlers.push(idler);
    }
    let mut client = bed.client().await;
    // From here on the clock goes on by itself whenever all wait.
    tokio::time::pause();
    let started = tokio::time::Instant::now();
    let select = query("SELECT * FROM a.t", Consistency::One);
    client.send(1, Opcode::Query, select).await;
    let answer = client.framed.next().await.expect("served once a share is free").unwrap();
    assert_eq!(answer.opcode, Opcode::Result);
    assert!(started.elapsed() <= BODY_TIMEOUT * 2, "{:?}", started.elapsed());
    for mut idler in idlers {
        assert!(!matches!(idler.framed.next().await, Some(Ok(_))), "a client that sends no body is let go");
    }
}

/// Clients that ask for more than all answers may have together, and don't read, leave room for others.
#[tokio::test]
async fn clients_that_do_not_read_do_not_hold_up_the_others() {
    let bed = Bed::start(10).await;
    bed.serve(1);
    let mut slow = Vec::new();
    for _ in 0..3 {
        let mut client = bed.client().await;
        for stream in 0..100 {
            client.send(stream, Opcode::Query, query(LARGE, Consistency::One)).await;
        }
        slow.push(client);
    }
    let mut client = bed.client().await;
    let asked = async {
        for _ in 0..100 {
            assert_eq!(client.query("SELECT * FROM a.t", Consistency::One).await.opcode, Opcode::Result);
            assert!(client.query(LARGE, Consistency::One).await.body.len() > LARGE_BYTES);
        }
    };
    // Those that don't read would be let go after that time.
    timeout(SOCKET_WRITE_TIMEOUT / 2, asked).await.expect("the others are answered meanwhile");
    for mut client in slow {
        for stream in 0..100 {
            let answer = client.next().await.expect("nothing is lost");
            assert_eq!((answer.stream, answer.opcode), (stream, Opcode::Result));
        }
    }
}

#[tokio::test]
async fn a_linearizable_read_is_shown_only_by_a_replica_that_still_is() {
    let bed = Bed::start(10).await;
    bed.serve(1);
    let mut client = bed.client().await;
    // What was known of the replica is old by the time of the read.
    bed.core.forgotten.store(true, Ordering::SeqCst);
    let since = std::time::Instant::now();
    while bed.core.standing.holds() {
        assert!(since.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let select = "SELECT * FROM a.t WHERE k = 1";
    assert_eq!(client.query(select, Consistency::Quorum).await.opcode, Opcode::Result, "the log says so");
    bed.core.unproved.store(true, Ordering::SeqCst);
    let error = client.error(select, Consistency::Quorum).await;
    assert_eq!(error.kind(), Some(ErrorCode::ReadTimeout), "{}", error.message);
    assert_eq!(client.query(select, Consistency::One).await.opcode, Opcode::Result, "at ONE it may be old");
}

#[tokio::test]
async fn reads_wait_for_a_barrier_by_level_and_reach_cassandra_at_one() {
    let bed = Bed::start(10).await;
    bed.serve(1);
    let mut client = bed.client().await;
    let select = "SELECT * FROM a.t";
    for level in Consistency::EVERY.into_iter().filter(|level| *level != Consistency::Any) {
        assert_eq!(client.query(select, level).await.opcode, Opcode::Result, "{level}");
    }
    assert!(bed.cassandra.levels.lock().unwrap().iter().all(|level| *level == Consistency::One));
    bed.fail(ProposeError::Unavailable { reason: "ZooKeeper is away".into(), maybe_written: false });
    for level in [Consistency::Quorum, Consistency::LocalQuorum, Consistency::EachQuorum, Consistency::All] {
        let error = client.error(select, level).await;
        assert_eq!(error.kind(), Some(ErrorCode::Unavailable), "{level}");
        assert!(error.message.contains("ZooKeeper is away"));
    }
    for level in [Consistency::One, Consistency::LocalOne, Consistency::Two, Consistency::Three] {
        assert_eq!(client.query(select, level).await.opcode, Opcode::Result, "{level}");
    }
    assert_eq!(client.query("SELECT * FROM system_schema.tables", Consistency::Quorum).await.opcode, Opcode::Result);
    for select in [select, "SELECT * FROM system_schema.tables"] {
        assert_eq!(client.error(select, Consistency::Any).await.kind(), Some(ErrorCode::Invalid));
    }
}

#[tokio::test]
async fn a_read_before_its_barrier_is_made_again_if_there_was_something_to_wait_for() {
    let bed = Bed::start(10).await;
    bed.serve(1);
    let mut client = bed.client().await;
    let (select, scan) = ("SELECT * FROM a.t WHERE k = 1", "SELECT * FROM a.t");
    *bed.core.early.lock().unwrap() = Some(Early::at(1));
    client.query(select, Consistency::Quorum).await;
    for (early, reads) in [(None, 1), (Some(Early::at(0)), 2), (Some(Early::at(1)), 1)] {
        *bed.core.early.lock().unwrap() = early;
        for level in [Consistency::Quorum, Consistency::Serial] {
            bed.cassandra.levels.lock().unwrap().clear();
            assert_eq!(client.query(select, level).await.opcode, Opcode::Result);
            assert_eq!(bed.cassandra.levels.lock().unwrap().len(), reads, "{early:?} {level}");
        }
    }
    assert!(bed.core.held.lock().unwrap().is_empty());
    assert_eq!(client.query(scan, Consistency::Quorum).await.opcode, Opcode::Result);
    assert!(bed.core.held.lock().unwrap().pop().is_some(), "only a read of one partition is early");
    bed.fail(ProposeError::Unavailable { reason: "ZooKeeper is away".into(), maybe_written: false });
    let error = client.error(select, Consistency::Quorum).await;
    assert_eq!(error.kind(), Some(ErrorCode::Unavailable), "{}", error.message);
}

#[tokio::test]
async fn reads_of_more_than_a_partition_hold_their_table() {
    let bed = Bed::start(10).await;
    bed.serve(1);
    let mut client = bed.client().await;
    client.query("USE a", Consistency::One).await;
    for level in [Consistency::Quorum, Consistency::Serial] {
        assert_eq!(client.query("SELECT * FROM t WHERE k = 1", level).await.opcode, Opcode::Result);
    }
    client.query("SELECT * FROM t", Consistency::One).await;
    assert!(bed.core.held.lock().unwrap().is_empty());
    for text in ["SELECT * FROM t", "SELECT * FROM a.t WHERE k IN (1, 2)", "SELECT * FROM t WHERE l CONTAINS 1"] {
        assert_eq!(client.query(text, Consistency::Quorum).await.opcode, Opcode::Result);
        assert_eq!(bed.core.held.lock().unwrap().pop(), Some(Lanes::read_table("a", "t")), "{text}");
    }
    bed.core.expired.store(true, Ordering::Relaxed);
    let error = client.error("SELECT * FROM t", Consistency::Serial).await;
    assert_eq!(error.kind(), Some(ErrorCode::ReadTimeout), "held too long, it may be no snapshot");
}

#[tokio::test]
async fn a_stop_finishes_what_is_in_flight() {
    let mut bed = Bed::start(10).await;
    bed.serve(1);
    let mut client = bed.client().await;
    bed.core.gate.forget_permits(1000);
    client.send(9, Opcode::Query, query("INSERT INTO a.t (k) VALUES (1)", Consistency::One)).await;
    while bed.core.proposed.lock().unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bed.stop.cancel();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!bed.frontend.is_finished(), "a write is in flight");
    bed.core.gate.add_permits(1);
    let answer = client.next().await.expect("the answer to the write");
    assert_eq!((answer.stream, answer.opcode), (9, Opcode::Result));
    assert!(client.next().await.is_none());
    tokio::time::timeout(PATIENCE, &mut bed.frontend).await.expect("it stops").unwrap();
    assert!(TcpStream::connect(bed.address).await.is_err());
}

#[tokio::test]
async fn i7_too_many_clients_are_told_so() {
    let bed = Bed::start(1).await;
    bed.serve(1);
    let _first = bed.client().await;
    let mut second = bed.connect().await;
    let answer = second.next().await.expect("an explanation");
    assert_eq!(response::parse_error(&answer.body).unwrap().kind(), Some(ErrorCode::Overloaded));
    assert!(second.next().await.is_none());
}

#[tokio::test]
async fn unknown_protocol_versions_step_down() {
    let bed = Bed::start(10).await;
    bed.serve(1);
    bed.client().await;
    for version in [6u8, 65, 66] {
        let mut socket = TcpStream::connect(bed.address).await.unwrap();
        socket.write_all(&[version, 0, 0, 7, 5, 0, 0, 0, 0]).await.unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer[..5], [0x85, 0, 0, 7, 0], "version {version}");
        let error = response::parse_error(&Bytes::from(answer[9..].to_vec())).unwrap();
        assert_eq!(error.kind(), Some(ErrorCode::Protocol));
        assert!(error.message.contains("nvalid or unsupported protocol version"), "{}", error.message);
    }
    for version in [1u8, 2] {
        let mut socket = TcpStream::connect(bed.address).await.unwrap();
        socket.write_all(&[version, 0, 7, 5, 0, 0, 0, 0]).await.unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer[..4], [0x80 | version, 0, 7, 0], "in the short header of version {version}");
    }
}

#[tokio::test]
async fn every_version_and_compression_is_served() {
    let bed = Bed::start(20).await;
    bed.serve(1);
    for version in Version::EVERY {
        for compression in [None, Some(Compression::Lz4), Some(Compression::Snappy)] {
            let mut client = bed.connect_in(version, compression).await;
            let supported = client.ask(1, Opcode::Options, Bytes::new()).await;
            assert_eq!((supported.opcode, supported.version), (Opcode::Supported, version.code()));
            let name = compression.map_or("", Compression::name);
            let body = request::startup(&[("CQL_VERSION", "3.0.0"), ("COMPRESSION", name)]).unwrap();
            let answer = client.ask(0, Opcode::Startup, body).await;
            if (version, compression) == (Version::V5, Some(Compression::Snappy)) {
                assert_eq!(response::parse_error(&answer.body).unwrap().kind(), Some(ErrorCode::Protocol));
                continue;
            }
            assert_eq!(answer.opcode, Opcode::Ready);
            let text = format!("SELECT * FROM a.t /*{}*/", " ".repeat(300_000));
            let params = Params::new(Consistency::Quorum, Values::none());
            for text in ["SELECT * FROM a.t", &text, "INSERT INTO a.t (k) VALUES (1)"] {
                let body = match version {
                    Version::V5 => request::v5::query(text, &params, Some(1)).unwrap(),
                    _ => request::query(text, &params).unwrap(),
                };
                let answer = client.ask(9, Opcode::Query, body).await;
                assert_eq!(
                    (answer.opcode, answer.version),
                    (Opcode::Result, version.code()),
                    "{version} {compression:?}"
                );
            }
            let prepare = match version {
                Version::V5 => request::v5::prepare("SELECT * FROM a.t").unwrap(),
                _ => request::prepare("SELECT * FROM a.t").unwrap(),
            };
            assert_eq!(client.ask(2, Opcode::Prepare, prepare).await.opcode, Opcode::Result);
            if version < Version::V5 {
                client.framed.get_mut().write_all(&[5, 0, 0, 3, 5, 0, 0, 0, 0]).await.unwrap();
                let answer = client.next().await.expect("told why");
                let error = response::parse_error(&answer.body).unwrap();
                assert!(error.message.contains("previous messages on this connection"), "{}", error.message);
                assert!(client.next().await.is_none());
            }
        }
    }
}

#[tokio::test]
async fn damaged_segments_end_the_connection() {
    let bed = Bed::start(10).await;
    bed.serve(1);
    for damage in [&[9; 20][..], &[0; 20]] {
        let mut client = bed.connect_in(Version::V5, None).await;
        let body = request::startup(&[("CQL_VERSION", "3.0.0")]).unwrap();
        assert_eq!(client.ask(0, Opcode::Startup, body).await.opcode, Opcode::Ready);
        client.framed.get_mut().write_all(damage).await.unwrap();
        let answer = client.next().await.expect("told why");
        assert_eq!((answer.stream, answer.opcode), (0, Opcode::Error));
        let error = response::parse_error(&answer.body).unwrap();
        assert_eq!(error.kind(), Some(ErrorCode::Protocol));
        assert!(error.message.contains("CRC mismatch"), "{}", error.message);
        assert!(client.next().await.is_none());
    }
}

/// A few bytes that say they hold much wait for their share of the bound before they are unpacked, and are then found out.
#[tokio::test]
async fn bombs_are_refused() {
    let bed = Bed::start(10).await;
    bed.serve(1);
    for length in [MAX_BODY as u32, u32::MAX] {
        let mut client = bed.connect_in(Version::V4, Some(Compression::Lz4)).await;
        let body = request::startup(&[("CQL_VERSION", "3.0.0"), ("COMPRESSION", "lz4")]).unwrap();
        assert_eq!(client.ask(0, Opcode::Startup, body).await.opcode, Opcode::Ready);
        let message = [[4, 1, 0, 3, 7, 0, 0, 0, 8].as_slice(), &length.to_be_bytes(), &[0x1F, 7, 0, 0]].concat();
        client.framed.get_mut().write_all(&message).await.unwrap();
        let answer = client.next().await.expect("told why");
        assert_eq!((answer.stream, answer.opcode), (3, Opcode::Error));
        assert_eq!(response::parse_error(&answer.body).unwrap().kind(), Some(ErrorCode::Protocol));
        assert!(client.next().await.is_none());
    }
}

#[tokio::test]
async fn broken_messages_are_answered_and_the_session_goes_on() {
    let bed = Bed::start(10).await;
    bed.serve(1);
    let mut client = bed.client().await;
    for opcode in [Opcode::Query, Opcode::Execute, Opcode::Batch, Opcode::Prepare, Opcode::Register] {
        let answer = client.ask(2, opcode, Bytes::from_static(&[0xff])).await;
        assert_eq!(response::parse_error(&answer.body).unwrap().kind(), Some(ErrorCode::Protocol), "{opcode:?}");
    }
    let answer = client.ask(2, Opcode::Startup, Bytes::new()).await;
    assert_eq!(response::parse_error(&answer.body).unwrap().kind(), Some(ErrorCode::Protocol));
    assert_eq!(client.ask(3, Opcode::Options, Bytes::new()).await.opcode, Opcode::Supported);
}

#[tokio::test]
async fn schema_events_reach_those_who_registered() {
    let bed = Bed::start(10).await;
    bed.serve(1);
    let (mut registered, mut other) = (bed.client().await, bed.client().await);
    let body = request::register(&["SCHEMA_CHANGE", "STATUS_CHANGE"]).unwrap();
    assert_eq!(registered.ask(1, Opcode::Register, body).await.opcode, Opcode::Ready);
    let change = response::SchemaChange {
        change: response::ChangeKind::Created,
        keyspace: "a".into(),
        target: response::SchemaTarget::Table("t".into()),
    };
    let body = response::schema_change(&change).slice(4..);
    bed.core.events.send(SchemaEvent { index: 1, body }).unwrap();
    let event = registered.next().await.expect("an event");
    assert_eq!((event.stream, event.opcode), (-1, Opcode::Event));
    assert_eq!(response::parse_event(&event.body).unwrap(), response::Event::Schema(change));
    assert_eq!(other.query("SELECT * FROM a.t", Consistency::One).await.opcode, Opcode::Result);
    let unknown = request::register(&["MOON"]).unwrap();
    let answer = other.ask(1, Opcode::Register, unknown).await;
    assert_eq!(response::parse_error(&answer.body).unwrap().kind(), Some(ErrorCode::Protocol));
}
