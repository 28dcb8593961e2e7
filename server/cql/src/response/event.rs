//! Changes of schema and of membership.

use crate::error::ProtocolError;
use crate::version::Version;
use crate::wire::{self, Reader};
use bytes::{BufMut, Bytes, BytesMut};
use std::net::{IpAddr, SocketAddr};

/// What happened to an object of the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// It was created.
    Created,
    /// It was altered.
    Updated,
    /// It was dropped.
    Dropped,
}

impl ChangeKind {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "CREATED",
            Self::Updated => "UPDATED",
            Self::Dropped => "DROPPED",
        }
    }
}

/// The object of a schema change.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SchemaTarget {
    /// The keyspace itself.
    Keyspace,
    /// A table (or view).
    Table(String),
    /// A user-defined type.
    Type(String),
    /// A function and the types of its arguments.
    Function(String, Vec<String>),
    /// An aggregate and the types of its arguments.
    Aggregate(String, Vec<String>),
}

/// A change of the schema: a RESULT and an EVENT.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SchemaChange {
    /// What happened.
    pub change: ChangeKind,
    /// The keyspace it happened in, or to.
    pub keyspace: String,
    /// What it happened to.
    pub target: SchemaTarget,
}

impl SchemaChange {
    /// As this version can say it: version 3 knows nothing of functions, so that there their keyspace was altered.
    pub fn in_version(self, version: Version) -> Self {
        match self.target {
            SchemaTarget::Function(..) | SchemaTarget::Aggregate(..) if version < Version::V4 => {
                Self { change: ChangeKind::Updated, target: SchemaTarget::Keyspace, ..self }
            }
            _ => self,
        }
    }
}

/// What happened to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeChange {
    /// It joined (TOPOLOGY_CHANGE).
    New,
    /// It left (TOPOLOGY_CHANGE).
    Removed,
    /// It serves (STATUS_CHANGE).
    Up,
    /// It does not serve (STATUS_CHANGE).
    Down,
}

impl NodeChange {
    const EVERY: [NodeChange; 4] = [Self::New, Self::Removed, Self::Up, Self::Down];

    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::New => ("TOPOLOGY_CHANGE", "NEW_NODE"),
            Self::Removed => ("TOPOLOGY_CHANGE", "REMOVED_NODE"),
            Self::Up => ("STATUS_CHANGE", "UP"),
            Self::Down => ("STATUS_CHANGE", "DOWN"),
        }
    }
}

/// A pushed EVENT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The membership changed.
    Node(NodeChange, SocketAddr),
    /// The schema changed.
    Schema(SchemaChange),
}

impl Event {
    /// The name to REGISTER for.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Node(change, _) => change.names().0,
            Self::Schema(_) => "SCHEMA_CHANGE",
        }
    }
}

/// The body of EVENT.
pub fn event(event: &Event) -> Bytes {
    let mut out = BytesMut::new();
    wire::put_string(&mut out, event.name());
    match event {
        Event::Node(change, address) => {
            wire::put_string(&mut out, change.names().1);
            match address.ip() {
                IpAddr::V4(ip) => {
                    out.put_u8(4);
                    out.put_slice(&ip.octets());
                }
                IpAddr::V6(ip) => {
                    out.put_u8(16);
                    out.put_slice(&ip.octets());
                }
            }
            out.put_i32(i32::from(address.port()));
        }
        Event::Schema(change) => put_schema_change(&mut out, change),
    }
    out.freeze()
}

/// Parses EVENT.
///
/// # Errors
/// The body breaks the protocol.
pub fn parse_event(body: &Bytes) -> Result<Event, ProtocolError> {
    let mut reader = Reader::new(body.clone());
    let kind = reader.string("event")?;
    if kind == "SCHEMA_CHANGE" {
        return Ok(Event::Schema(read_schema_change(&mut reader)?));
    }
    let change = reader.string("change")?;
    let known = NodeChange::EVERY.into_iter().find(|known| known.names() == (kind.as_str(), change.as_str()));
    let change = known.ok_or(ProtocolError::UnknownCode { what: "event", code: 0 })?;
    Ok(Event::Node(change, read_inet(&mut reader)?))
}

fn read_inet(reader: &mut Reader) -> Result<SocketAddr, ProtocolError> {
    let length = reader.byte("address")?;
    let bytes = reader.take(usize::from(length), "address")?;
    let bad = ProtocolError::BadLength { what: "address", length: i64::from(length) };
    let address = match length {
        4 => <[u8; 4]>::try_from(&bytes[..]).map(IpAddr::from),
        _ => <[u8; 16]>::try_from(&bytes[..]).map(IpAddr::from),
    };
    let port = reader.int("port")?;
    let port = u16::try_from(port).map_err(|_| ProtocolError::BadLength { what: "port", length: i64::from(port) })?;
    Ok(SocketAddr::new(address.map_err(|_| bad)?, port))
}

pub(super) fn put_schema_change(out: &mut BytesMut, change: &SchemaChange) {
    wire::put_string(out, change.change.name());
    let (target, name, arguments) = match &change.target {
        SchemaTarget::Keyspace => ("KEYSPACE", None, None),
        SchemaTarget::Table(name) => ("TABLE", Some(name), None),
        SchemaTarget::Type(name) => ("TYPE", Some(name), None),
        SchemaTarget::Function(name, arguments) => ("FUNCTION", Some(name), Some(arguments)),
        SchemaTarget::Aggregate(name, arguments) => ("AGGREGATE", Some(name), Some(arguments)),
    };
    wire::put_string(out, target);
    wire::put_string(out, &change.keyspace);
    if let Some(name) = name {
        wire::put_string(out, name);
    }
    if let Some(arguments) = arguments {
        wire::put_string_list(out, arguments);
    }
}

pub(super) fn read_schema_change(reader: &mut Reader) -> Result<SchemaChange, ProtocolError> {
    let name = reader.string("change")?;
    let change = [ChangeKind::Created, ChangeKind::Updated, ChangeKind::Dropped]
        .into_iter()
        .find(|known| known.name() == name)
        .ok_or(ProtocolError::UnknownCode { what: "schema change", code: 0 })?;
    let target = reader.string("target")?;
    let keyspace = reader.string("keyspace")?;
    let target = match target.as_str() {
        "KEYSPACE" => SchemaTarget::Keyspace,
        "TABLE" => SchemaTarget::Table(reader.string("table")?),
        "TYPE" => SchemaTarget::Type(reader.string("type")?),
        "FUNCTION" => SchemaTarget::Function(reader.string("function")?, reader.string_list("arguments")?),
        "AGGREGATE" => SchemaTarget::Aggregate(reader.string("aggregate")?, reader.string_list("arguments")?),
        _ => return Err(ProtocolError::UnknownCode { what: "schema target", code: 0 }),
    };
    Ok(SchemaChange { change, keyspace, target })
}
