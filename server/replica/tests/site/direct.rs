//! A client's connection to Cassandra, past any replica.

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use replicateddb_cql::Consistency;
use replicateddb_cql::frame::{Codec, Envelope, Opcode};
use replicateddb_cql::request::{self, Params, Values};
use replicateddb_cql::response::{ResultBody, parse_error, parse_result};
use replicateddb_cql::wire::Value;
use replicateddb_replica::backend::{Framed, connect, in_keyspace};
use replicateddb_replica::stream::Stream;
use tokio::net::TcpStream;

/// Largest answer that is read, bytes.
const MAX_ANSWER: usize = 16 << 20;

/// What a role answers to AUTHENTICATE (SASL PLAIN).
pub fn auth_response(role: &str, password: &str) -> Bytes {
    let token = format!("\0{role}\0{password}");
    let length = i32::try_from(token.len()).unwrap().to_be_bytes();
    [&length[..], token.as_bytes()].concat().into()
}

/// Past the replica, as any client's.
pub struct Direct(pub Framed);

impl Direct {
    /// To this address.
    pub async fn to(address: &str) -> Self {
        Self(connect(&address.into(), None).await.unwrap())
    }

    /// As a role of a Cassandra that wants to know; none if it can't be reached, or does not let the role in.
    pub async fn logged_in(address: &str, role: &str, password: &str) -> Option<Self> {
        Self::logged_in_by(address, Codec::client(MAX_ANSWER), role, password).await
    }

    /// As [`Direct::logged_in`], in protocol version 5: for [`Direct::at`] alone.
    pub async fn logged_in_v5(address: &str, role: &str, password: &str) -> Option<Self> {
        Self::logged_in_by(address, Codec::client_v5(MAX_ANSWER), role, password).await
    }

    /// To a server that wants to know who asks, before it does.
    pub async fn to_one_that_asks(address: &str) -> Self {
        let socket = Stream::Plain(TcpStream::connect(address).await.unwrap());
        let mut direct = Self(Framed::new(socket, Codec::client(MAX_ANSWER)));
        let (opcode, _) = direct.ask(Opcode::Startup, request::startup(&[("CQL_VERSION", "3.0.0")]).unwrap()).await;
        assert_eq!(opcode, Opcode::Authenticate.code());
        direct
    }

    async fn logged_in_by(address: &str, codec: Codec, role: &str, password: &str) -> Option<Self> {
        let stream = Stream::Plain(TcpStream::connect(address).await.ok()?);
        let mut direct = Self(Framed::new(stream, codec));
        let startup = request::startup(&[("CQL_VERSION", "3.0.0")]).unwrap();
        if direct.try_ask(Opcode::Startup, startup).await?.0 != Opcode::Authenticate.code() {
            return None;
        }
        let (opcode, _) = direct.try_ask(Opcode::AuthResponse, auth_response(role, password)).await?;
        (opcode == Opcode::AuthSuccess.code()).then_some(direct)
    }

    /// In this keyspace from now on.
    pub async fn using(self, address: &str, keyspace: &str) -> Self {
        Self(in_keyspace(&address.into(), self.0, keyspace).await.unwrap())
    }

    /// A statement that must succeed.
    pub async fn done(&mut self, text: &str) {
        let (opcode, body) = self.statement(text, &[]).await;
        assert_eq!(opcode, 8, "{text}: {:?}", parse_error(&body));
    }

    pub async fn ask(&mut self, opcode: Opcode, body: Bytes) -> (u8, Bytes) {
        self.0.send(Envelope::request(0, opcode, body)).await.unwrap();
        let answer = self.0.next().await.unwrap().unwrap();
        (answer.opcode.code(), answer.message().unwrap())
    }

    async fn try_ask(&mut self, opcode: Opcode, body: Bytes) -> Option<(u8, Bytes)> {
        self.0.send(Envelope::request(0, opcode, body)).await.ok()?;
        let answer = self.0.next().await?.ok()?;
        Some((answer.opcode.code(), answer.message().ok()?))
    }

    /// The rows of a statement that Cassandra executes as in this second since 1970.
    pub async fn at(&mut self, now: i32, text: &str) -> Vec<Vec<Option<Bytes>>> {
        let params = Params::new(Consistency::One, Values::positional(&[]).unwrap());
        let (opcode, body) = self.ask(Opcode::Query, request::v5::query(text, &params, Some(now)).unwrap()).await;
        assert_eq!(opcode, 8, "{text}: {:?}", parse_error(&body));
        match parse_result(&body).unwrap() {
            ResultBody::Rows(rows) => rows.rows,
            _ => Vec::new(),
        }
    }

    pub async fn statement(&mut self, text: &str, values: &[Value]) -> (u8, Bytes) {
        let params = Params::new(Consistency::One, Values::positional(values).unwrap());
        self.ask(Opcode::Query, request::query(text, &params).unwrap()).await
    }

    pub async fn prepared(&mut self, text: &str, values: &[Value]) -> (u8, Bytes) {
        let (opcode, body) = self.ask(Opcode::Prepare, request::prepare(text).unwrap()).await;
        let Ok(ResultBody::Prepared(prepared)) = parse_result(&body) else { return (opcode, body) };
        let params = Params::new(Consistency::One, Values::positional(values).unwrap());
        self.ask(Opcode::Execute, request::execute(&prepared.id, &params).unwrap()).await
    }

    pub async fn rows(&mut self, text: &str) -> Vec<Vec<Option<Bytes>>> {
        let (opcode, body) = self.statement(text, &[]).await;
        assert_eq!(opcode, 8, "{text}: {:?}", parse_error(&body));
        match parse_result(&body).unwrap() {
            ResultBody::Rows(rows) => rows.rows,
            other => panic!("{text}: {other:?}"),
        }
    }
}
