//! A client's connection to Cassandra, past any replica.

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use replicateddb_cql::Consistency;
use replicateddb_cql::frame::{Codec, Envelope, Opcode};
use replicateddb_cql::request::{self, Params, Values};
use replicateddb_cql::response::{ResultBody, parse_error, parse_result};
use replicateddb_cql::wire::Value;
use replicateddb_replica::backend::{connect, in_keyspace};
use tokio::net::TcpStream;
use tokio_util::codec::Framed;

/// Past the replica, as any client's.
pub struct Direct(pub Framed<TcpStream, Codec>);

impl Direct {
    /// To this address.
    pub async fn to(address: &str) -> Self {
        Self(connect(address, None).await.unwrap())
    }

    /// In this keyspace from now on.
    pub async fn using(self, address: &str, keyspace: &str) -> Self {
        Self(in_keyspace(address, self.0, keyspace).await.unwrap())
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
