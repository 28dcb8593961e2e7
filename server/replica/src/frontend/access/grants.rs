//! What roles may do, read from the local Cassandra and kept until the log changes anything about it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use replicateddb_cql::{request::Values, response::cell, wire::Value};

use super::needs::Need;
use super::resource::Resource;
use crate::frontend::control::{Control, ControlError};

const ROLE: &str = "SELECT is_superuser, member_of FROM system_auth.roles WHERE role = ?";
const PERMISSIONS: &str = "SELECT resource, permissions FROM system_auth.role_permissions WHERE role = ?";
/// Roles whose grants are remembered.
const REMEMBERED: usize = 1_000;
/// Roles that one role may have, directly or not; more are left out.
const MEMBERSHIPS: usize = 1_000;

/// What a role is and may do, by what was granted to it and to the roles that it has.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Grants {
    /// There is such a role.
    pub exists: bool,
    /// It may do everything.
    pub superuser: bool,
    /// Itself and the roles it has, directly or not.
    pub roles: BTreeSet<String>,
    /// By the name of what they are granted on.
    permissions: HashMap<String, BTreeSet<String>>,
}

impl Grants {
    /// Whether it may.
    pub fn allow(&self, need: &Need) -> bool {
        let granted = |name: &str| self.permissions.get(name).is_some_and(|granted| granted.contains(&need.permission));
        if self.superuser || need.resource.chain().iter().any(|name| granted(name)) {
            return true;
        }
        let Resource::Functions(keyspace, name, overloads, _) = &need.resource else { return false };
        // By their own grants one needs them all: the text alone does not tell which of them is meant.
        let of_this_name = format!("functions/{keyspace}/{name}[");
        let own = self.permissions.keys().filter(|name| name.starts_with(&of_this_name) && granted(name));
        *overloads > 0 && own.count() >= *overloads
    }

    fn of_role(&mut self, permissions: Vec<(String, BTreeSet<String>)>) {
        for (resource, granted) in permissions {
            self.permissions.entry(resource).or_default().extend(granted);
        }
    }
}

/// A bounded cache of roles' grants. An entry holds for as long as no schema change or statement about roles is applied.
#[derive(Debug, Default)]
pub struct GrantsCache {
    roles: Mutex<HashMap<String, (u64, Arc<Grants>)>>,
}

impl GrantsCache {
    /// The grants of a role. `version` is the index of the last such record applied here, read by the caller before: what changes
    /// while this is asked makes the entry out of date when it is stored, never the reverse.
    ///
    /// # Errors
    /// The local Cassandra does not answer.
    pub async fn of(&self, control: &Control, version: u64, role: &str) -> Result<Arc<Grants>, ControlError> {
        let known = self.lock().get(role).filter(|(at, _)| *at == version).map(|(_, grants)| grants.clone());
        if let Some(grants) = known {
            return Ok(grants);
        }
        let grants = Arc::new(read(control, role).await?);
        if !grants.exists {
            return Ok(grants);
        }
        let mut roles = self.lock();
        if roles.len() >= REMEMBERED {
            roles.clear();
        }
        roles.insert(role.to_owned(), (version, grants.clone()));
        Ok(grants)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, (u64, Arc<Grants>)>> {
        self.roles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn read(control: &Control, role: &str) -> Result<Grants, ControlError> {
    let mut grants = Grants { roles: BTreeSet::from([role.to_owned()]), ..Grants::default() };
    let mut waiting = vec![role.to_owned()];
    while let Some(next) = waiting.pop() {
        let name = Values::positional(&[Value::Bytes(cell::text(&next))])?;
        let found = control.query(ROLE, name.clone()).await?;
        let Some(row) = found.rows.first() else { continue };
        let flag = |column: usize| row.get(column).and_then(Option::as_ref).and_then(|cell| cell::as_boolean(cell));
        grants.superuser |= flag(0).unwrap_or(false);
        if next == role {
            grants.exists = true;
        }
        for member_of in cell::as_texts(row.get(1)) {
            if grants.roles.len() < MEMBERSHIPS && grants.roles.insert(member_of.clone()) {
                waiting.push(member_of);
            }
        }
        let permissions = control.query(PERMISSIONS, name).await?;
        let pair = |row: &Vec<Option<Bytes>>| {
            let resource = cell::as_text(row.first()?.as_ref()?)?.to_owned();
            Some((resource, cell::as_texts(row.get(1)).into_iter().collect()))
        };
        grants.of_role(permissions.rows.iter().filter_map(pair).collect());
    }
    Ok(grants)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(permissions: &[(&str, &str)]) -> Grants {
        let mut grants = Grants { exists: true, ..Grants::default() };
        let pair = |(resource, permission): &(&str, &str)| ((*resource).into(), BTreeSet::from([(*permission).into()]));
        grants.of_role(permissions.iter().map(pair).collect());
        grants
    }

    #[test]
    fn what_is_granted_on_a_parent_holds() {
        let table = || Resource::Table("k".into(), "t".into());
        for (resource, allowed) in [
            ("data/k/t", true),
            ("data/k/*", true),
            ("data/k", true),
            ("data", true),
            ("data/k/other", false),
            ("data/other", false),
            ("roles", false),
        ] {
            let grants = grants(&[(resource, "MODIFY")]);
            assert_eq!(grants.allow(&Need::new("MODIFY", table())), allowed, "{resource}");
            assert!(!grants.allow(&Need::new("SELECT", table())), "{resource}");
        }
        let superuser = Grants { superuser: true, ..Grants::default() };
        assert!(superuser.allow(&Need::new("SELECT", table())));
    }

    #[test]
    fn functions_of_a_name_are_needed_all() {
        let drop = |overloads| Need::new("DROP", Resource::Functions("k".into(), "f".into(), overloads, Vec::new()));
        let one = grants(&[("functions/k/f[org.apache.cassandra.db.marshal.Int32Type]", "DROP")]);
        assert!(one.allow(&drop(1)) && !one.allow(&drop(2)) && !one.allow(&drop(0)));
        assert!(!grants(&[("functions/k/fg[]", "DROP")]).allow(&drop(1)));
        assert!(grants(&[("functions/k", "DROP")]).allow(&drop(2)));
    }
}
