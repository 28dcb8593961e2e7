//! What to do with a statement, decided from its text alone. Pure.

use std::sync::Arc;

use replicateddb_cql::{
    Consistency,
    frame::Envelope,
    response::ErrorCode,
    statement::{Ident, Kind, Object, Statement, classify_lexed, is_system_keyspace},
};

use super::{
    answer, classes, refuse,
    select::Select,
    topology::{Table, is_cassandras},
};
use crate::replica::RequestKind;

/// What to do with a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// It reads what belongs to this node alone (the system's keyspaces): relay it, whatever its level.
    Local,
    /// It reads: relay it, when its level allows it.
    Read(Arc<Statement>),
    /// It reads a topology table: answer it here.
    Topology(Arc<Select>),
    /// It sets the session's keyspace: relay it and take note.
    Use,
    /// It writes: order it.
    Write(Box<WritePlan>),
    /// It must not be executed.
    Refuse(Refusal),
    /// It is not understood: only to be prepared, for the error that Cassandra gives.
    Unknown,
}

/// A statement to be ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WritePlan {
    /// What kind of record it becomes.
    pub kind: RequestKind,
    /// Its classification.
    pub statement: Statement,
}

/// Why something is not executed, for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The error's code, one without further fields.
    pub code: ErrorCode,
    /// Why, and what to do instead.
    pub message: String,
}

impl Refusal {
    /// INVALID with this message.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self { code: ErrorCode::Invalid, message: message.into() }
    }

    /// The answer on a stream.
    pub fn answer(&self, stream: i16) -> Envelope {
        answer::error(stream, self.code, &self.message)
    }

    /// A read at ANY, in Cassandra's words.
    pub fn any_read() -> Self {
        Self::invalid("ANY ConsistencyLevel is only supported for writes")
    }

    /// A write without a condition at SERIAL or LOCAL_SERIAL, in Cassandra's words (`ConsistencyLevel.validateForWrite`).
    pub fn serial_write() -> Self {
        Self::invalid("You must use conditional updates for serializable writes")
    }

    /// A write with a condition whose level is SERIAL or LOCAL_SERIAL (`validateForCasCommit`).
    pub fn serial_commit(level: Consistency) -> Self {
        Self::invalid(format!(
            "{level} is not supported as conditional update commit consistency. Use ANY if you mean \"make sure it is accepted \
             but I don't care how many replicas commit it for non-SERIAL reads\""
        ))
    }

    /// A write with a condition whose serial level is another one (`validateForCas`).
    pub fn not_serial() -> Self {
        Self::invalid("Invalid consistency for conditional update. Must be one of SERIAL or LOCAL_SERIAL")
    }
}

/// Decides about a statement in a session that uses `keyspace`.
pub fn plan(text: &str, keyspace: Option<&str>) -> Plan {
    // Once: whatever is asked of a text is asked of these.
    let tokens = match refuse::lexed(text) {
        Ok(tokens) => tokens,
        Err(refusal) => return Plan::Refuse(refusal),
    };
    let statement = classify_lexed(text, &tokens);
    let named = statement.keyspace.as_ref().map(Ident::as_str).or(keyspace);
    let kind = match statement.kind {
        Kind::Select => {
            let named = named.map(str::to_owned);
            return select(text, statement, named.as_deref());
        }
        Kind::Describe | Kind::List => return Plan::Local,
        Kind::Use => return Plan::Use,
        Kind::Other => return Plan::Unknown,
        Kind::Insert | Kind::Update | Kind::Delete | Kind::Batch(_) => RequestKind::Dml,
        Kind::Ddl(..) | Kind::Role => RequestKind::Ddl,
        Kind::Truncate => RequestKind::Truncate,
    };
    let unknown_class = || classes::unknown_class(text, &tokens, &statement).map(Refusal::invalid);
    let too_deep = || refuse::too_deep(text, &tokens);
    match refuse::by_text(&statement, keyspace).or_else(unknown_class).or_else(too_deep) {
        Some(refusal) => Plan::Refuse(refusal),
        None => Plan::Write(Box::new(WritePlan { kind, statement })),
    }
}

fn select(text: &str, statement: Statement, keyspace: Option<&str>) -> Plan {
    let table = statement.table.as_ref().map(Ident::as_str);
    if let (Some("system"), Some(table)) = (keyspace, table.and_then(Table::of)) {
        return match Select::parse(text, table) {
            Ok(select) => Plan::Topology(Arc::new(select)),
            Err(_) if table == Table::Local && is_cassandras(text) => Plan::Local,
            Err(message) => Plan::Refuse(Refusal::invalid(message)),
        };
    }
    if keyspace.is_some_and(is_system_keyspace) { Plan::Local } else { Plan::Read(Arc::new(statement)) }
}

/// Whether a DDL statement is about a trigger.
pub(super) fn is_trigger(kind: Kind) -> bool {
    matches!(kind, Kind::Ddl(_, Object::Trigger))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_relayed_and_only_the_systems_are_local() {
        for (text, keyspace) in [("SELECT * FROM a.t", None), ("SELECT * FROM local", Some("a"))] {
            assert!(matches!(plan(text, keyspace), Plan::Read(_)), "{text}");
        }
        assert_eq!(plan("SELECT * FROM system_schema.tables", Some("a")), Plan::Local);
        assert_eq!(plan("SELECT * FROM tables", Some("system_schema")), Plan::Local);
        assert_eq!(plan("DESCRIBE KEYSPACES", None), Plan::Local);
        assert_eq!(plan("LIST ROLES", None), Plan::Local);
        assert_eq!(plan("USE a", None), Plan::Use);
    }

    #[test]
    fn topology_tables_are_answered_here_however_they_are_named() {
        for (text, keyspace) in [
            ("SELECT * FROM system.local", None),
            ("select key from SYSTEM . Peers", None),
            ("SELECT * FROM peers_v2", Some("system")),
            ("SELECT * FROM \"system\".\"local\" WHERE key = 'local'", Some("a")),
        ] {
            assert!(matches!(plan(text, keyspace), Plan::Topology(_)), "{text}");
        }
        for text in [
            "SELECT JSON * FROM system.local",
            "SELECT toJson(tokens) FROM system.local",
            "SELECT cluster_name, now(), host_id FROM system.local",
            "SELECT now() FROM system.local WHERE key = 'local' AND rack = 'r' ALLOW FILTERING",
            "SELECT now() FROM system.peers",
            "SELECT DISTINCT peer FROM system.peers_v2",
        ] {
            assert!(matches!(plan(text, None), Plan::Refuse(_)), "{text}");
        }
    }

    /// Health checks ask so.
    #[test]
    fn what_is_the_same_there_is_asked_of_cassandra() {
        for text in [
            "SELECT now() FROM system.local",
            "select toTimestamp(now()) as t, cluster_name from system.local where key='local'",
            "SELECT JSON key, release_version FROM system.local",
            "SELECT DISTINCT key FROM system.local",
            "SELECT writetime(cluster_name) FROM system.local",
        ] {
            assert_eq!(plan(text, None), Plan::Local, "{text}");
        }
    }

    #[test]
    fn writes_are_ordered() {
        for (text, kind) in [
            ("INSERT INTO a.t (k) VALUES (1)", RequestKind::Dml),
            ("BEGIN UNLOGGED BATCH INSERT INTO a.t (k) VALUES (1); APPLY BATCH", RequestKind::Dml),
            ("CREATE TABLE a.t (k int PRIMARY KEY)", RequestKind::Ddl),
            ("DROP KEYSPACE IF EXISTS a", RequestKind::Ddl),
            ("TRUNCATE a.t", RequestKind::Truncate),
        ] {
            match plan(text, None) {
                Plan::Write(write) => assert_eq!(write.kind, kind, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_is_not_understood_is_not_executed() {
        for text in ["", "SHOW VERSION", "INSRET INTO a.t (k) VALUES (1)", "\u{0}", "/* no end"] {
            assert_eq!(plan(text, None), Plan::Unknown, "{text}");
        }
    }
}
