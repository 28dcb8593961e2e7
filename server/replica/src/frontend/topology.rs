//! `system.local`, `system.peers` and `system.peers_v2` as drivers see them: the replicas are the cluster.
//!
//! The columns and what concerns Cassandra itself (versions, partitioner) come from the local Cassandra's own tables, so
//! that they are right for its version; addresses, ids, tokens and schema versions are the replicas'.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use bytes::Bytes;
use replicateddb_cql::{
    lex,
    request::Values,
    response::{Column, Row, Rows, cell},
    statement::ident,
};
use replicateddb_ordering::members::Member;
use uuid::Uuid;

use super::{
    control::{Control, ControlError},
    peers::{PeerState, Peers},
    tokens::tokens,
};

/// The tables that are answered here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// `system.local`
    Local,
    /// `system.peers`
    Peers,
    /// `system.peers_v2`
    PeersV2,
}

impl Table {
    /// The table of a name in the keyspace `system`.
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "local" => Some(Self::Local),
            "peers" => Some(Self::Peers),
            "peers_v2" => Some(Self::PeersV2),
            _ => None,
        }
    }

    /// The table's name in the keyspace `system`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Peers => "peers",
            Self::PeersV2 => "peers_v2",
        }
    }

    fn everything(self) -> &'static str {
        match self {
            Self::Local => "SELECT * FROM system.local",
            Self::Peers => "SELECT * FROM system.peers",
            Self::PeersV2 => "SELECT * FROM system.peers_v2",
        }
    }
}

/// Where clients find this replica, and who it is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Replica id.
    pub id: u32,
    /// The host id shown to drivers, the same for the life of the replica.
    pub host_id: Uuid,
    /// The address that clients connect to; each replica has its own.
    pub address: IpAddr,
    /// The CQL port, the same for all replicas.
    pub cql_port: u16,
    /// Data centre shown to drivers.
    pub data_center: String,
    /// Rack shown to drivers.
    pub rack: String,
}

/// Answers for the three tables.
#[derive(Debug)]
pub struct Topology {
    identity: Identity,
    peers: Arc<Peers>,
}

impl Topology {
    /// Of this replica and its peers.
    pub fn new(identity: Identity, peers: Arc<Peers>) -> Self {
        Self { identity, peers }
    }

    /// All rows and columns of a table.
    ///
    /// # Errors
    /// The local Cassandra does not answer.
    pub async fn rows(&self, table: Table, control: &Control, schema_version: Uuid) -> Result<Rows, ControlError> {
        let local = control.query(Table::Local.everything(), Values::none()).await?;
        if table == Table::Local {
            return Ok(local_rows(local, &self.identity, schema_version));
        }
        let columns = control.query(table.everything(), Values::none()).await?.columns;
        let states = self.peers.states().await;
        Ok(peer_rows(table, columns, &local, &self.peers.others(), &states))
    }
}

/// A value of the replica's, and its schema version.
type Own = fn(&Identity, Uuid) -> Bytes;

/// Columns of `system.local` that tell of the replica in place of its Cassandra, and what.
const OWN: [(&str, Own); 9] = [
    ("rpc_address", |own, _| cell::inet(own.address)),
    ("broadcast_address", |own, _| cell::inet(own.address)),
    ("listen_address", |own, _| cell::inet(own.address)),
    ("rpc_port", |own, _| cell::int(i32::from(own.cql_port))),
    ("host_id", |own, _| cell::uuid(own.host_id)),
    ("data_center", |own, _| cell::text(&own.data_center)),
    ("rack", |own, _| cell::text(&own.rack)),
    ("tokens", |own, _| token_set(own.id)),
    ("schema_version", |_, version| cell::uuid(version)),
];

fn own(column: &str) -> Option<Own> {
    OWN.iter().find(|(name, _)| *name == column).map(|(_, own)| *own)
}

/// Whether a SELECT on `system.local` shows nothing, and asks for nothing, that the replica has otherwise than its Cassandra.
/// Each has one row, of the same key, so that Cassandra's answer is right: that of `SELECT now() FROM system.local`, say.
pub fn is_cassandras(text: &str) -> bool {
    !lex::tokens(text).any(|token| {
        let name = ident(text, token);
        token.is_symbol(b'*') || name.is_some_and(|name| own(name.as_str()).is_some())
    })
}

/// The row of the local Cassandra with the replica's identity in place of its own.
fn local_rows(mut local: Rows, identity: &Identity, schema_version: Uuid) -> Rows {
    let columns = &local.columns;
    for row in &mut local.rows {
        for (column, value) in columns.iter().zip(row.iter_mut()) {
            if let Some(own) = own(&column.name) {
                *value = Some(own(identity, schema_version));
            }
        }
    }
    local
}

/// A row for each of the other replicas.
fn peer_rows(
    table: Table,
    columns: Vec<Column>,
    local: &Rows,
    others: &[Member],
    states: &BTreeMap<u32, PeerState>,
) -> Rows {
    let from_local = |name: &str| -> Option<Bytes> {
        let at = local.columns.iter().position(|column| column.name == name)?;
        local.rows.first()?.get(at)?.clone()
    };
    let row = |member: &Member| -> Row {
        columns
            .iter()
            .map(|column| match column.name.as_str() {
                "peer" | "rpc_address" | "native_address" => Some(cell::inet(member.address)),
                "native_port" => Some(cell::int(i32::from(member.cql_port))),
                "peer_port" => from_local("broadcast_port"),
                "data_center" => Some(cell::text(&member.data_center)),
                "rack" => Some(cell::text(&member.rack)),
                "host_id" => Some(cell::uuid(member.host_id)),
                "release_version" => from_local("release_version"),
                "tokens" => Some(token_set(member.id)),
                "schema_version" => states.get(&member.id).map(|state| cell::uuid(state.schema_version)),
                _ => None,
            })
            .collect()
    };
    debug_assert!(table != Table::Local, "the local row is no peer");
    let rows = others.iter().map(row).collect();
    Rows { columns, paging_state: None, rows }
}

fn token_set(id: u32) -> Bytes {
    let mut texts = tokens(id);
    texts.sort_unstable();
    cell::text_collection(&texts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use replicateddb_cql::response::ColumnType;

    fn column(name: &str, kind: ColumnType) -> Column {
        Column { keyspace: "system".into(), table: "local".into(), name: name.into(), kind }
    }

    fn local() -> Rows {
        let columns = vec![
            column("key", ColumnType::Text),
            column("broadcast_address", ColumnType::Inet),
            column("broadcast_port", ColumnType::Int),
            column("host_id", ColumnType::Uuid),
            column("release_version", ColumnType::Text),
            column("schema_version", ColumnType::Uuid),
        ];
        let row = vec![
            Some(cell::text("local")),
            Some(cell::inet([10, 0, 0, 1].into())),
            Some(cell::int(7000)),
            Some(cell::uuid(Uuid::from_u128(1))),
            Some(cell::text("5.0.9")),
            Some(cell::uuid(Uuid::from_u128(2))),
        ];
        Rows { columns, paging_state: None, rows: vec![row] }
    }

    fn member(id: u32) -> Member {
        Member {
            id,
            host_id: Uuid::from_u128(100 + u128::from(id)),
            address: IpAddr::from([127, 0, 0, id as u8 + 1]),
            cql_port: 9042,
            admin_port: 9470,
            data_center: "dc".into(),
            rack: "r".into(),
        }
    }

    #[test]
    fn the_local_row_is_the_replicas() {
        let identity = Identity {
            id: 0,
            host_id: Uuid::from_u128(7),
            address: [127, 0, 0, 1].into(),
            cql_port: 9042,
            data_center: "dc".into(),
            rack: "r".into(),
        };
        let rows = local_rows(local(), &identity, Uuid::from_u128(9));
        let row = &rows.rows[0];
        assert_eq!(row[0], Some(cell::text("local")));
        assert_eq!(row[1], Some(cell::inet([127, 0, 0, 1].into())));
        assert_eq!(row[3], Some(cell::uuid(Uuid::from_u128(7))));
        assert_eq!(row[4], Some(cell::text("5.0.9")));
        assert_eq!(row[5], Some(cell::uuid(Uuid::from_u128(9))));
    }

    #[test]
    fn peers_have_their_own_schema_versions_and_none_when_unknown() {
        let columns = vec![
            column("peer", ColumnType::Inet),
            column("peer_port", ColumnType::Int),
            column("native_port", ColumnType::Int),
            column("preferred_ip", ColumnType::Inet),
            column("schema_version", ColumnType::Uuid),
        ];
        let state = PeerState { schema_version: Uuid::from_u128(9), applied_index: 3 };
        let rows = peer_rows(Table::PeersV2, columns, &local(), &[member(1), member(2)], &BTreeMap::from([(1, state)]));
        assert_eq!(rows.rows.len(), 2);
        assert_eq!(rows.rows[0][0], Some(cell::inet([127, 0, 0, 2].into())));
        assert_eq!(rows.rows[0][1], Some(cell::int(7000)));
        assert_eq!(rows.rows[0][2], Some(cell::int(9042)));
        assert_eq!(rows.rows[0][3], None);
        assert_eq!(rows.rows[0][4], Some(cell::uuid(Uuid::from_u128(9))));
        assert_eq!(rows.rows[1][4], None);
    }
}
