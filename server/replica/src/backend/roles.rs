//! Statements about the schema and about roles, executed: one, and, where it has made something, the grants to its creator that
//! the proposer has put behind it.

use replicateddb_cql::Consistency;
use replicateddb_cql::response::{self, ErrorCode, ResultKind};
use replicateddb_cql::rewrite;
use replicateddb_cql::statement::{Action, Kind, RoleChange, Statement, classify};

use super::executor::Cassandra;
use super::outcome::{Failure, Reply};
use crate::record::{Record, StatementText};
use crate::site::Place;

/// Tables of Cassandra's that show what it remembers of roles, for two seconds by default; emptied, it forgets.
const CACHES: [&str; 3] = ["roles_cache_keys", "permissions_cache_keys", "credentials_cache_keys"];
/// What Cassandra says of statements about roles where clients do not log in.
const NO_ROLES_HERE: [&str; 2] = ["AllowAllAuthorizer", "doesn't support PASSWORD"];

impl Cassandra {
    /// Executes a record about the schema or about roles.
    pub(super) async fn execute_ddl(&self, place: Place, record: &Record) -> Result<Reply, Failure> {
        let Some((statement, grants)) = record.statements.split_first() else {
            return Ok(Reply::invalid("there is no statement"));
        };
        let keyspace = record.keyspace.as_deref();
        let said = classify(&statement.text);
        if makes_up_its_id(&said) {
            return Ok(Reply::invalid("the ordered log gives tables their ids: leave out WITH ID"));
        }
        let role_is_there = match said.role.as_deref() {
            Some(RoleChange::Role { action: Action::Create, role, .. }) if !grants.is_empty() => {
                self.has_role(role).await?
            }
            _ => false,
        };
        let text = rewrite::with_table_id(&statement.text, &said, place.table_id);
        let text = match text == statement.text {
            true => rewrite::with_drop_timestamp(&text, &said, place.timestamp_us),
            false => text,
        };
        let reply = self.query(keyspace, &text, Consistency::One, place).await?;
        if said.role.is_some() {
            asked_of_one_with_roles(&reply)?;
        }
        let made = reply.is_result() && if said.role.is_some() { !role_is_there } else { changes_schema(&reply) };
        if made {
            self.execute_grants(place, keyspace, grants).await?;
        }
        if said.role.is_some() || !grants.is_empty() {
            self.forget_roles(place).await?;
        }
        Ok(reply)
    }

    /// Errors of these are results like any: a role that is gone by now gets nothing.
    async fn execute_grants(
        &self,
        place: Place,
        keyspace: Option<&str>,
        grants: &[StatementText],
    ) -> Result<(), Failure> {
        for grant in grants {
            let reply = self.query(keyspace, &grant.text, Consistency::One, place).await?;
            asked_of_one_with_roles(&reply)?;
            if !reply.is_result() {
                let error = reply.message().and_then(|message| response::parse_error(&message).ok());
                tracing::info!(
                    timestamp_us = place.timestamp_us,
                    error = error.map(|error| error.message),
                    "nothing is granted to a creator"
                );
            }
        }
        Ok(())
    }

    async fn has_role(&self, role: &str) -> Result<bool, Failure> {
        let role = role.replace('\'', "''");
        Ok(!self.rows(format!("SELECT role FROM system_auth.roles WHERE role = '{role}'")).await?.is_empty())
    }

    /// What was granted holds at once, and what was revoked no longer, for reads that Cassandra judges, too.
    async fn forget_roles(&self, place: Place) -> Result<(), Failure> {
        for cache in CACHES {
            let text = format!("TRUNCATE system_views.{cache}");
            let reply = self.query(None, &text, Consistency::One, place).await?;
            if !reply.is_result() {
                tracing::debug!(cache, "Cassandra's memory of roles is not emptied: what changed holds in two seconds");
            }
        }
        Ok(())
    }
}

/// A Cassandra without logins takes no part in this, until it is started with them: what it would refuse, others execute.
fn asked_of_one_with_roles(reply: &Reply) -> Result<(), Failure> {
    let error = reply.message().filter(|_| !reply.is_result()).and_then(|message| response::parse_error(&message).ok());
    let Some(error) = error.filter(|error| error.kind() == Some(ErrorCode::Invalid)) else { return Ok(()) };
    match NO_ROLES_HERE.iter().any(|words| error.message.contains(words)) {
        true => Err(Failure::Retry {
            reason: format!("this replica's Cassandra has no logins yet (agent --authentication): {}", error.message),
            ambiguous: false,
        }),
        false => Ok(()),
    }
}

fn changes_schema(reply: &Reply) -> bool {
    reply.message().is_some_and(|message| matches!(response::result_kind(&message), Ok(ResultKind::SchemaChange)))
}

/// A table id of the client's own, if given twice, is an error that says nothing (0x0000), on every replica for ever.
fn makes_up_its_id(said: &Statement) -> bool {
    matches!(said.kind, Kind::Ddl(Action::Create, _)) && said.has_explicit_identity
}
