//! Connections that end, or never get as far as to CQL.

use std::{net::SocketAddr, time::Duration};

use tokio::time::Instant;

use super::*;
use crate::frontend::{
    fake::query,
    limits::{TLS_HANDSHAKE_TIMEOUT, tls_handshakes},
};

/// Others are served meanwhile, however many there are.
#[tokio::test]
async fn handshakes_that_never_end_are_cut_off() {
    let place = Place::new();
    let each = tls_handshakes() + 4;
    let (tls, _keeper) = place.open(None, false).await;
    let bed = Bed::start_with(4 * each, Some(tls.clone())).await;
    bed.serve(1);
    let mut idlers = Vec::new();
    // Nothing, a part of a record, and a whole hello that nothing follows.
    let mut hello = Vec::new();
    let config = place.connector(&TLS13, None).config().clone();
    rustls::ClientConnection::new(config, name()).unwrap().write_tls(&mut hello).unwrap();
    for sent in [&[][..], &[0x16, 3, 1, 2, 0, 1], &hello] {
        for _ in 0..each {
            let mut socket = bed.socket().await;
            socket.write_all(sent).await.unwrap();
            idlers.push(socket);
        }
    }
    let begin = std::time::Instant::now();
    assert!(is_served(&bed, &place.connector(&TLS13, None)).await);
    assert!(begin.elapsed() < TLS_HANDSHAKE_TIMEOUT / 2, "it has waited for others: {:?}", begin.elapsed());
    // From here on the clock goes on by itself whenever all wait.
    tokio::time::pause();
    let begin = Instant::now();
    let count = idlers.len() as u64;
    for mut socket in idlers {
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer).await;
    }
    assert!(begin.elapsed() <= TLS_HANDSHAKE_TIMEOUT * 2, "{:?}", begin.elapsed());
    assert_eq!(tls.metrics.failures(Failure::Timeout), count);
}

#[tokio::test]
async fn garbage_ends_its_own_connection_alone() {
    let place = Place::new();
    let (bed, tls, _keeper) = place.serve(None, false).await;
    for garbage in [&[0x16; 40][..], &[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0], &[0x16, 3, 3, 0xff, 0xff, 0, 0, 0]] {
        let mut socket = bed.socket().await;
        socket.write_all(garbage).await.unwrap();
        let mut answer = Vec::new();
        timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("an end").unwrap();
        // An alert, or nothing.
        assert!(answer.is_empty() || answer[0] == 0x15, "{answer:?}");
    }
    assert_eq!(tls.metrics.failures(Failure::Protocol), 3);
    drop(bed.socket().await);
    until(|| tls.metrics.failures(Failure::Closed) == 1).await;
    // Under TLS what is no CQL is told so like anywhere.
    let mut client = secure(&bed, &place.connector(&TLS13, None)).await.unwrap();
    client.framed.get_mut().write_all(&[9; 20]).await.unwrap();
    client.framed.get_mut().flush().await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, client.framed.get_mut().read_to_end(&mut answer)).await.expect("an end");
    assert!(!answer.is_empty());
    assert!(is_served(&bed, &place.connector(&TLS13, None)).await);
}

#[tokio::test]
async fn one_too_many_is_told_so_if_it_speaks_no_tls() {
    let place = Place::new();
    let (tls, _keeper) = place.open(None, true).await;
    let bed = Bed::start_with(1, Some(tls)).await;
    bed.serve(1);
    let _first = bed.client().await;
    let mut second = bed.connect().await;
    second.send(1, Opcode::Options, bytes::Bytes::new()).await;
    let answer = second.next().await.expect("an explanation");
    assert_eq!(response::parse_error(&answer.body).unwrap().kind(), Some(ErrorCode::Overloaded));
    assert!(secure(&bed, &place.connector(&TLS13, None)).await.is_err(), "closed without a word");
}

/// A stop ends handshakes, too.
#[tokio::test]
async fn a_stop_waits_for_no_handshake() {
    let place = Place::new();
    let (mut bed, _tls, _keeper) = place.serve(None, false).await;
    let address: SocketAddr = bed.address;
    let mut idle = bed.socket().await;
    idle.write_all(&[0x16, 3, 1, 2, 0, 1]).await.unwrap();
    until(|| bed.metrics.clients.get() == 1).await;
    let begin = std::time::Instant::now();
    bed.stop.cancel();
    timeout(PATIENCE, &mut bed.frontend).await.expect("it stops").unwrap();
    assert!(begin.elapsed() < TLS_HANDSHAKE_TIMEOUT);
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_stop_finishes_what_is_in_flight_under_tls() {
    let place = Place::new();
    let (mut bed, ..) = place.serve(None, false).await;
    let mut client = secure(&bed, &place.connector(&TLS13, None)).await.unwrap();
    client.start().await;
    bed.core.gate.forget_permits(1000);
    client.send(9, Opcode::Query, query("INSERT INTO a.t (k) VALUES (1)", Consistency::One)).await;
    until(|| !bed.core.proposed.lock().unwrap().is_empty()).await;
    bed.stop.cancel();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!bed.frontend.is_finished(), "a write is in flight");
    bed.core.gate.add_permits(1);
    let answer = client.next().await.expect("the answer to the write");
    assert_eq!((answer.stream, answer.opcode), (9, Opcode::Result));
    assert!(client.next().await.is_none());
    timeout(PATIENCE, &mut bed.frontend).await.expect("it stops").unwrap();
}

/// Without the end of TLS before that of TCP.
#[tokio::test]
async fn a_client_that_closes_tcp_alone_has_left() {
    let place = Place::new();
    let (bed, tls, _keeper) = place.serve(None, false).await;
    for version in [&TLS12, &TLS13] {
        let mut client = secure(&bed, &place.connector(version, None)).await.unwrap();
        client.start().await;
        assert_eq!((bed.metrics.clients.get(), tls.metrics.clients.get()), (1, 1));
        let (mut socket, _session) = client.framed.into_inner().into_inner();
        socket.shutdown().await.unwrap();
        let mut rest = Vec::new();
        let _ = timeout(PATIENCE, socket.read_to_end(&mut rest)).await.expect("an end");
        until(|| bed.metrics.clients.get() == 0 && tls.metrics.clients.get() == 0).await;
    }
}
