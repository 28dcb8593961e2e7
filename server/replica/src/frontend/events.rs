//! Events pushed to clients that registered: schema changes as they are applied here, replicas as they come and go.

use std::{collections::BTreeMap, net::SocketAddr};

use bytes::{BufMut, Bytes, BytesMut};
use replicateddb_cql::{
    Version,
    frame::{EVENT_STREAM, Envelope, Opcode},
    response::{Event, NodeChange, event, parse_event},
    wire,
};
use replicateddb_ordering::members::Member;
use tokio::sync::{broadcast, watch};

use super::socket::Out;
use crate::replica::SchemaEvent;

/// What a client registered for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Interest {
    /// SCHEMA_CHANGE
    pub schema: bool,
    /// STATUS_CHANGE
    pub status: bool,
    /// TOPOLOGY_CHANGE
    pub topology: bool,
}

impl Interest {
    /// From the names in REGISTER.
    ///
    /// # Errors
    /// The first name that is no event.
    pub fn parse(names: &[String]) -> Result<Self, String> {
        let mut interest = Self::default();
        for name in names {
            match name.to_ascii_uppercase().as_str() {
                "SCHEMA_CHANGE" => interest.schema = true,
                "STATUS_CHANGE" => interest.status = true,
                "TOPOLOGY_CHANGE" => interest.topology = true,
                _ => return Err(name.clone()),
            }
        }
        Ok(interest)
    }

    /// Both interests.
    pub fn and(self, other: Self) -> Self {
        Self {
            schema: self.schema || other.schema,
            status: self.status || other.status,
            topology: self.topology || other.topology,
        }
    }
}

/// Pushes events until the session ends, or until one was lost: then the caller closes the connection, since a driver
/// that misses an event keeps a wrong schema, and reads everything anew when it reconnects.
pub async fn push(
    mut interest: watch::Receiver<Interest>,
    mut schema: broadcast::Receiver<SchemaEvent>,
    mut members: watch::Receiver<Vec<Member>>,
    version: Version,
    out: Out,
) {
    let mut known = addresses(&members.borrow_and_update());
    let mut members_open = true;
    loop {
        let bodies = tokio::select! {
            changed = interest.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            event = schema.recv() => match event {
                Ok(event) if interest.borrow().schema => vec![schema_event(&event, version)],
                Ok(_) => continue,
                Err(_) => return,
            },
            changed = members.changed(), if members_open => {
                members_open = changed.is_ok();
                let now = addresses(&members.borrow_and_update());
                let bodies = node_events(&known, &now, *interest.borrow());
                known = now;
                bodies
            }
        };
        for body in bodies {
            if out.send(Envelope::response(EVENT_STREAM, Opcode::Event, body)).await.is_err() {
                return;
            }
        }
    }
}

fn addresses(members: &[Member]) -> BTreeMap<u32, SocketAddr> {
    members.iter().map(|member| (member.id, SocketAddr::new(member.address, member.cql_port))).collect()
}

/// A replica that appears is new and up. One that disappears is down: it stays part of the cluster as far as drivers
/// are concerned and comes back; whether it was removed for good they see when they read the peers again.
fn node_events(before: &BTreeMap<u32, SocketAddr>, now: &BTreeMap<u32, SocketAddr>, interest: Interest) -> Vec<Bytes> {
    let mut changes = Vec::new();
    for (id, address) in before {
        if now.get(id) != Some(address) && interest.status {
            changes.push((NodeChange::Down, *address));
        }
    }
    for (id, address) in now {
        if before.get(id) == Some(address) {
            continue;
        }
        if interest.topology {
            changes.push((NodeChange::New, *address));
        }
        if interest.status {
            changes.push((NodeChange::Up, *address));
        }
    }
    changes.into_iter().map(|(change, address)| event(&Event::Node(change, address))).collect()
}

fn schema_event(schema: &SchemaEvent, version: Version) -> Bytes {
    let mut body = BytesMut::new();
    wire::put_string(&mut body, "SCHEMA_CHANGE");
    body.put_slice(&schema.body);
    let body = body.freeze();
    match parse_event(&body) {
        Ok(Event::Schema(change)) if version < Version::V4 => event(&Event::Schema(change.in_version(version))),
        _ => body,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(ids: &[u8]) -> BTreeMap<u32, SocketAddr> {
        ids.iter().map(|id| (u32::from(*id), SocketAddr::from(([127, 0, 0, *id], 9042)))).collect()
    }

    fn changes(before: &[u8], now: &[u8], interest: Interest) -> Vec<(NodeChange, String)> {
        let parse = |body: &Bytes| match parse_event(body).expect("an EVENT") {
            Event::Node(change, address) => (change, address.ip().to_string()),
            other => panic!("{other:?}"),
        };
        node_events(&members(before), &members(now), interest).iter().map(parse).collect()
    }

    #[test]
    fn replicas_come_and_go() {
        let all = Interest { schema: true, status: true, topology: true };
        assert_eq!(changes(&[1, 2], &[1, 2], all), []);
        assert_eq!(changes(&[1, 2], &[1], all), [(NodeChange::Down, "127.0.0.2".into())]);
        assert_eq!(
            changes(&[1], &[1, 3], all),
            [(NodeChange::New, "127.0.0.3".into()), (NodeChange::Up, "127.0.0.3".into())]
        );
        assert_eq!(changes(&[1, 2], &[3], Interest { schema: true, ..Interest::default() }), []);
    }

    #[test]
    fn names_of_events() {
        let names = |list: &[&str]| list.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        let interest = Interest::parse(&names(&["SCHEMA_CHANGE", "STATUS_CHANGE"])).expect("known");
        assert!(interest.schema && interest.status && !interest.topology);
        assert_eq!(Interest::parse(&names(&["SCHEMA_CHANGE", "MOON_PHASE"])), Err("MOON_PHASE".into()));
    }
}
