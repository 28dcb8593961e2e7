//! Statements about the schema and about roles, executed: one, and, where it has made something, the grants to its creator that
//! the proposer has put behind it.

use std::collections::BTreeSet;

use replicateddb_cql::Consistency;
use replicateddb_cql::response::{self, ChangeKind, ResultBody, cell};
use replicateddb_cql::rewrite;
use replicateddb_cql::statement::{Action, Kind, ResourceName, RoleChange, Statement, classify};

use super::executor::Cassandra;
use super::outcome::{Failure, Reply};
use super::revoked::Dropped;
use crate::record::{Record, StatementText, flags};
use crate::site::Place;

/// Tables of Cassandra's that show what it remembers of roles, for two seconds by default; emptied, it forgets.
const CACHES: [&str; 3] = ["roles_cache_keys", "permissions_cache_keys", "credentials_cache_keys"];
/// Longest name of a role, bytes: far below what Cassandra takes as a key.
const MAX_ROLE_NAME: usize = 1024;
/// Highest cost of a hash (bcrypt's log2 of the rounds) that a client brings along: Cassandra checks one when it is set, and at each
/// login, which takes a third of a second at this one and twice as long at each that follows.
const MAX_COST: u32 = 12;
/// What Cassandra says to whoever drops a superuser and is none.
pub const NO_SUPERUSERS_ROLE: &str = "Only superusers can drop a role with superuser status";
/// Roles that one role may have, directly or not, when it is looked up whether it is a superuser by one of them.
const MEMBERSHIPS: usize = 1_000;
/// What Cassandra says of a function that is not there, as an unexpected error, before anything is executed.
const NO_FUNCTION: &str = "java.util.NoSuchElementException: No value present";

/// Why a statement about roles could hold every replica up, or end differently on each. The same wherever it is asked.
pub fn unfit(change: &RoleChange) -> Option<String> {
    match change {
        RoleChange::Role { options, .. } if options.hash.iter().any(|hash| !is_cheap_hash(hash)) => {
            return Some(format!("HASHED PASSWORD must be a bcrypt hash ($2a$..) of a cost of {MAX_COST} at most"));
        }
        RoleChange::Permissions { resource: ResourceName::MBeans, .. } => {
            return Some(
                "permissions on a single MBean are not supported, for each node has its own: ALL MBEANS".to_owned(),
            );
        }
        _ => {}
    }
    let long = change.roles().iter().any(|name| name.len() > MAX_ROLE_NAME);
    long.then(|| format!("the name of a role has at most {MAX_ROLE_NAME} bytes"))
}

/// A role's name as CQL.
pub fn quoted(role: &str) -> String {
    format!("'{}'", role.replace('\'', "''"))
}

/// `$2a$NN$` and 53 characters.
fn is_cheap_hash(hash: &str) -> bool {
    let parts: Vec<&str> = hash.split('$').collect();
    let ["", "2a" | "2b" | "2y" | "2x", cost, rest] = parts.as_slice() else { return false };
    let is_of_bcrypt = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'/';
    let cost = cost.parse::<u32>().ok().filter(|_| cost.len() == 2);
    rest.len() == 53 && rest.bytes().all(is_of_bcrypt) && cost.is_some_and(|cost| (4..=MAX_COST).contains(&cost))
}

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
        if let Some(reason) = said.role.as_deref().and_then(unfit) {
            return Ok(Reply::invalid(&reason));
        }
        if (said.role.is_some() || !grants.is_empty()) && !self.pool.asks_for_logins() {
            // What it would refuse, others execute.
            let reason = "this replica's Cassandra has no logins yet: it is to be started with agent --authentication";
            return Err(Failure::Retry { reason: reason.to_owned(), ambiguous: false });
        }
        let is_no_superusers = record.flags & flags::NO_SUPERUSER != 0;
        if let Some(RoleChange::Role { action: Action::Drop, role, .. }) = said.role.as_deref()
            && is_no_superusers
            && self.is_superuser(role).await?
        {
            return Ok(Reply::unauthorized(NO_SUPERUSERS_ROLE));
        }
        let role_is_there = match said.role.as_deref() {
            Some(RoleChange::Role { action: Action::Create, role, .. }) => self.has_role(role).await?,
            _ => false,
        };
        let text = rewrite::with_table_id(&statement.text, &said, place.table_id);
        let text = match text == statement.text {
            true => rewrite::with_drop_timestamp(&text, &said, place.timestamp_us),
            false => text,
        };
        let reply = no_function(self.query(keyspace, &text, Consistency::One, place).await)?;
        let made = if said.role.is_some() { reply.is_result() && !role_is_there } else { has_made(&reply) };
        // From here on something was done that must not be done again.
        if made {
            self.execute_grants(place, keyspace, grants).await.map_err(ambiguous)?;
        }
        let dropped = Dropped::by(&said, &reply).filter(|_| self.pool.asks_for_logins());
        if let Some(dropped) = &dropped {
            self.revoke_the_rest(dropped).await.map_err(ambiguous)?;
        }
        if said.role.is_some() || !grants.is_empty() || dropped.is_some() {
            self.forget_roles(place).await;
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
            let reply = no_function(self.query(keyspace, &grant.text, Consistency::One, place).await)?;
            if !reply.is_result() {
                let error = reply.message().and_then(|message| response::parse_error(&message).ok());
                let error = error.map(|error| error.message);
                tracing::info!(timestamp_us = place.timestamp_us, error, "nothing is granted to a creator");
            }
        }
        Ok(())
    }

    async fn has_role(&self, role: &str) -> Result<bool, Failure> {
        let text = format!("SELECT role FROM system_auth.roles WHERE role = {}", quoted(role));
        Ok(!self.rows(text).await?.is_empty())
    }

    /// Whether a role may do everything, by itself or by another one that it has.
    async fn is_superuser(&self, role: &str) -> Result<bool, Failure> {
        let (mut known, mut waiting) = (BTreeSet::from([role.to_owned()]), vec![role.to_owned()]);
        while let Some(next) = waiting.pop() {
            let select = "SELECT is_superuser, member_of FROM system_auth.roles WHERE role =";
            for row in self.rows(format!("{select} {}", quoted(&next))).await? {
                let superuser = row.first().and_then(Option::as_deref).and_then(cell::as_boolean);
                if superuser == Some(true) {
                    return Ok(true);
                }
                for other in cell::as_texts(row.get(1)) {
                    if known.len() < MEMBERSHIPS && known.insert(other.clone()) {
                        waiting.push(other);
                    }
                }
            }
        }
        Ok(false)
    }

    /// What was granted holds at once, and what was revoked no longer, for reads that Cassandra judges, too; in two seconds where this
    /// is not possible.
    async fn forget_roles(&self, place: Place) {
        for cache in CACHES {
            let text = format!("TRUNCATE system_views.{cache}");
            let emptied = self.query(None, &text, Consistency::One, place).await;
            if !emptied.is_ok_and(|reply| reply.is_result()) {
                tracing::debug!(cache, "Cassandra's memory of roles is not emptied: what changed holds in two seconds");
            }
        }
    }
}

/// Part of the record was executed.
fn ambiguous(failure: Failure) -> Failure {
    match failure {
        Failure::Retry { reason, .. } => Failure::Retry { reason, ambiguous: true },
        Failure::Refused { reason, .. } => Failure::Refused { reason, ambiguous: true },
        Failure::Gone { reason } => Failure::Gone { reason },
    }
}

/// What a statement of this kind is answered by where a function is not there.
fn no_function(done: Result<Reply, Failure>) -> Result<Reply, Failure> {
    match done {
        Err(Failure::Refused { reason, .. }) if reason.starts_with(NO_FUNCTION) => Ok(Reply::invalid(NO_FUNCTION)),
        done => done,
    }
}

/// Whether something is there that was not before.
fn has_made(reply: &Reply) -> bool {
    let message = reply.message().filter(|_| reply.is_result());
    let result = message.and_then(|message| response::parse_result(&message).ok());
    matches!(result, Some(ResultBody::SchemaChange(change)) if change.change == ChangeKind::Created)
}

/// A table id of the client's own, if given twice, is an error that says nothing (0x0000), on every replica for ever.
fn makes_up_its_id(said: &Statement) -> bool {
    matches!(said.kind, Kind::Ddl(Action::Create, _)) && said.has_explicit_identity
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(text: &str) -> Option<String> {
        unfit(classify(text).role.as_deref().expect("it is about roles"))
    }

    #[test]
    fn what_could_hold_everybody_up_is_refused() {
        let hash = |cost: &str| format!("ALTER ROLE a WITH HASHED PASSWORD = '$2a${cost}${}'", "x".repeat(53));
        for text in [
            hash("13"),
            hash("30"),
            hash("3"),
            hash("1 "),
            hash("04").replace("xxx'", "x'"),
            hash("04").replace("2a", "1"),
            "ALTER ROLE a WITH HASHED PASSWORD = 'plain'".to_owned(),
            format!("CREATE ROLE '{}'", "x".repeat(MAX_ROLE_NAME + 1)),
            format!("GRANT a TO '{}'", "x".repeat(MAX_ROLE_NAME + 1)),
            "GRANT SELECT ON MBEAN 'a:b=c' TO a".to_owned(),
        ] {
            assert!(reason(&text).is_some(), "{text}");
        }
        for text in [
            hash("04"),
            hash("12"),
            "CREATE USER a WITH PASSWORD 'x'".to_owned(),
            format!("DROP ROLE '{}'", "x".repeat(MAX_ROLE_NAME)),
            "GRANT SELECT ON ALL MBEANS TO a".to_owned(),
            "ADD IDENTITY 'x' TO ROLE y".to_owned(),
        ] {
            assert_eq!(reason(&text), None, "{text}");
        }
    }
}
