//! What is left of permissions on what was dropped. Cassandra revokes them, and of all roles that were dropped, beside the
//! statement: where that fails (the node is overloaded) it logs so, and the statement is done. Then whatever gets the same name later
//! would be open to whoever had permissions on the one before, on that replica alone. So it is looked up, and deleted.

use replicateddb_cql::Consistency;
use replicateddb_cql::frame::Opcode;
use replicateddb_cql::request::{self, Params, Values};
use replicateddb_cql::response::cell::as_text;
use replicateddb_cql::response::{self, ChangeKind, ResultBody, SchemaChange, SchemaTarget};
use replicateddb_cql::statement::{Action, RoleChange, Statement};

use super::executor::{Cassandra, unsendable};
use super::outcome::{Failure, Meaning, Reply, judge};
use super::roles::quoted;

const PERMISSIONS: &str = "SELECT role, resource FROM system_auth.role_permissions";

/// What a statement has dropped.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Dropped {
    Role(String),
    Keyspace(String),
    Table(String, String),
    /// Functions or aggregates of this name, and not all of them perhaps.
    Functions(String, String),
}

impl Dropped {
    /// By a statement that was answered so. Nothing, if there are no permissions on it.
    pub(super) fn by(said: &Statement, reply: &Reply) -> Option<Self> {
        if let Some(RoleChange::Role { action: Action::Drop, role, .. }) = said.role.as_deref() {
            return reply.is_result().then(|| Self::Role(role.clone()));
        }
        let message = reply.message().filter(|_| reply.is_result())?;
        match response::parse_result(&message).ok()? {
            ResultBody::SchemaChange(SchemaChange { change: ChangeKind::Dropped, keyspace, target }) => match target {
                SchemaTarget::Keyspace => Some(Self::Keyspace(keyspace)),
                SchemaTarget::Table(table) => Some(Self::Table(keyspace, table)),
                SchemaTarget::Function(name, _) | SchemaTarget::Aggregate(name, _) => {
                    Some(Self::Functions(keyspace, name))
                }
                SchemaTarget::Type(_) => None,
            },
            _ => None,
        }
    }

    /// Whether nobody may have a permission on `resource`, or `role` have any, as Cassandra names them, now that it is gone.
    fn covers(&self, role: &str, resource: &str) -> bool {
        match self {
            Self::Role(gone) => role == gone || resource.strip_prefix("roles/") == Some(gone),
            Self::Keyspace(keyspace) => ["data/", "functions/"].iter().any(|kind| {
                let rest = resource.strip_prefix(kind).and_then(|rest| rest.strip_prefix(keyspace.as_str()));
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }),
            Self::Table(keyspace, table) => resource == format!("data/{keyspace}/{table}"),
            Self::Functions(keyspace, name) => resource.starts_with(&format!("functions/{keyspace}/{name}[")),
        }
    }
}

impl Cassandra {
    /// Deletes what is left of permissions on it, usually nothing. May be done again.
    pub(super) async fn revoke_the_rest(&self, dropped: &Dropped) -> Result<(), Failure> {
        // Permissions name functions by Cassandra's own names of types: those on others of the name stay.
        if let Dropped::Functions(keyspace, name) = dropped
            && self.has_function(keyspace, name).await?
        {
            return Ok(());
        }
        for row in self.rows(PERMISSIONS.to_owned()).await? {
            let text = |column: usize| row.get(column).and_then(Option::as_deref).and_then(as_text);
            let (Some(role), Some(resource)) = (text(0), text(1)) else { continue };
            if !dropped.covers(role, resource) {
                continue;
            }
            tracing::warn!(role, resource, "Cassandra has left a permission on what was dropped: it is deleted");
            for table in ["role_permissions", "resource_role_permissons_index"] {
                let (role, resource) = (quoted(role), quoted(resource));
                let delete = format!("DELETE FROM system_auth.{table} WHERE role = {role} AND resource = {resource}");
                self.by_own_clock(&delete).await?;
            }
        }
        Ok(())
    }

    async fn has_function(&self, keyspace: &str, name: &str) -> Result<bool, Failure> {
        for (table, kind) in [("functions", "function_name"), ("aggregates", "aggregate_name")] {
            let (keyspace, name) = (quoted(keyspace), quoted(name));
            let select = format!("SELECT {kind} FROM system_schema.{table}");
            let of_name = format!("{select} WHERE keyspace_name = {keyspace} AND {kind} = {name}");
            if !self.rows(of_name).await?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// As Cassandra writes to its tables of roles itself: at the node's time.
    async fn by_own_clock(&self, text: &str) -> Result<(), Failure> {
        let params = Params::new(Consistency::One, Values::none());
        let body = request::v5::query(text, &params, None).map_err(unsendable)?;
        let retry = |reason: String| Failure::Retry { reason, ambiguous: false };
        match judge(self.pool.any().await?.ask(Opcode::Query, body).await?) {
            Meaning::Reply(reply) if reply.is_result() => Ok(()),
            Meaning::Reply(reply) => {
                let error = reply.message().and_then(|message| response::parse_error(&message).ok());
                Err(retry(format!("{text}: {}", error.map(|error| error.message).unwrap_or_default())))
            }
            Meaning::Failure(failure) => Err(failure.of_another()),
            Meaning::Unprepared => Err(retry("UNPREPARED to a QUERY".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use replicateddb_cql::statement::classify;

    use super::*;

    #[test]
    fn what_is_gone_with_what_was_dropped() {
        let texts = |texts: [&str; 2]| (texts[0].to_owned(), texts[1].to_owned());
        let keyspace = Dropped::Keyspace("ks".into());
        let (ks, t) = texts(["ks", "t"]);
        let table = Dropped::Table(ks.clone(), t);
        let functions = Dropped::Functions(ks, "f".into());
        let role = Dropped::Role("r".into());
        for (dropped, of, resource, gone) in [
            (&keyspace, "x", "data/ks", true),
            (&keyspace, "x", "data/ks/*", true),
            (&keyspace, "x", "data/ks/t", true),
            (&keyspace, "x", "functions/ks/f[]", true),
            (&keyspace, "x", "data/ks2", false),
            (&keyspace, "x", "data", false),
            (&keyspace, "ks", "roles/ks", false),
            (&table, "x", "data/ks/t", true),
            (&table, "x", "data/ks/t2", false),
            (&table, "x", "data/ks/*", false),
            (&table, "x", "data/ks", false),
            (&functions, "x", "functions/ks/f[org.apache.cassandra.db.marshal.Int32Type]", true),
            (&functions, "x", "functions/ks/fg[]", false),
            (&functions, "x", "functions/ks", false),
            (&role, "r", "data/ks/t", true),
            (&role, "x", "roles/r", true),
            (&role, "x", "roles/r2", false),
            (&role, "x", "data/r", false),
        ] {
            assert_eq!(dropped.covers(of, resource), gone, "{dropped:?}: {resource} of {of}");
        }
    }

    #[test]
    fn what_was_dropped_is_in_the_answer() {
        let of = |change, target, text: &str| {
            let body = response::schema_change(&SchemaChange { change, keyspace: "ks".into(), target });
            Dropped::by(&classify(text), &Reply { body, ..Reply::void() })
        };
        let table = || SchemaTarget::Table("t".into());
        assert_eq!(of(ChangeKind::Dropped, table(), "DROP TABLE ks.t"), Some(Dropped::Table("ks".into(), "t".into())));
        assert_eq!(of(ChangeKind::Created, table(), "CREATE TABLE ks.t (k int PRIMARY KEY)"), None);
        assert_eq!(of(ChangeKind::Dropped, SchemaTarget::Type("u".into()), "DROP TYPE ks.u"), None);
        let role = classify("DROP ROLE r");
        assert_eq!(Dropped::by(&role, &Reply::void()), Some(Dropped::Role("r".into())));
        assert_eq!(Dropped::by(&role, &Reply::invalid("there is none")), None);
        assert_eq!(Dropped::by(&classify("ALTER ROLE r WITH LOGIN = true"), &Reply::void()), None);
    }
}
