//! Whether the role of a session may do what it asks for. Reads are Cassandra's to judge, on the client's own connection; writes
//! are executed by the replica's role, which may do everything, so they are judged here, by the same rules and in the same words,
//! before they are ordered.

mod grants;
mod needs;
mod resource;

use replicateddb_cql::{
    request::Values,
    response::{ErrorCode, cell},
    statement::{Action, Ident, Kind, Object, ResourceName, RoleChange, Statement},
    wire::Value,
};
use replicateddb_store::login;

pub use needs::{created, depends_on_schema};

use self::grants::{Grants, GrantsCache};
use self::needs::{Facts, Need, needs};
use self::resource::Resource;
use super::{
    control::{Control, ControlError},
    plan::Refusal,
    schema::SchemaCache,
    superuser::kept,
};
use crate::backend::roles::{NO_SUPERUSERS_ROLE, quoted, unfit};
use crate::replica::{ProposeError, SchemaVersion};

const INDEXES: &str = "SELECT index_name, table_name FROM system_schema.indexes WHERE keyspace_name = ?";
const FUNCTIONS: &str =
    "SELECT argument_types FROM system_schema.functions WHERE keyspace_name = ? AND function_name = ?";
const AGGREGATES: &str =
    "SELECT argument_types FROM system_schema.aggregates WHERE keyspace_name = ? AND aggregate_name = ?";

const NO_KEYSPACE: &str = "No keyspace has been specified. USE a keyspace, or explicitly specify keyspace.tablename";

/// Judges what roles ask for, at what is applied here.
pub struct Access<'a> {
    /// Asks the local Cassandra.
    pub control: &'a Control,
    /// Columns and views of tables.
    pub schema: &'a SchemaCache,
    /// The schema applied here.
    pub schema_version: SchemaVersion,
    /// The index of the last change of the schema or of roles applied here.
    pub version: u64,
    /// The role that the replicas keep as it is.
    pub superuser: Option<&'a str>,
}

/// Why something is not done.
#[derive(Debug)]
pub enum Denied {
    /// The role may not, or the statement asks for something that nobody may.
    Refused(Refusal),
    /// A table that is not there, or not yet.
    NoTable {
        /// Its keyspace.
        keyspace: String,
        /// Its name.
        table: String,
    },
    /// What is to be dropped or altered is not there: whether that is an error.
    NotThere(Option<Refusal>),
    /// It can't be found out now.
    Unknown(ControlError),
    /// The order does not answer now.
    NotNow(ProposeError),
}

impl From<ControlError> for Denied {
    fn from(error: ControlError) -> Self {
        Self::Unknown(error)
    }
}

fn unauthorized(message: impl Into<String>) -> Denied {
    Denied::Refused(Refusal { code: ErrorCode::Unauthorized, message: message.into() })
}

/// What is remembered of roles.
#[derive(Debug, Default)]
pub struct Roles(GrantsCache);

/// Whoever may do something, may do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowed {
    /// It is a superuser, who may do everything.
    pub superuser: bool,
}

impl Access<'_> {
    /// Whether `role` may have a statement executed in a session that uses `keyspace`; of a batch, all of them.
    ///
    /// # Errors
    /// It may not, or that can't be found out now.
    pub async fn check(
        &self,
        roles: &Roles,
        role: &str,
        statement: &Statement,
        keyspace: Option<&str>,
    ) -> Result<Allowed, Denied> {
        let grants = roles.0.of(self.control, self.version, role).await?;
        let allowed = Allowed { superuser: grants.superuser };
        if let Some(change) = statement.role.as_deref() {
            self.check_role(roles, role, &grants, change, keyspace).await?;
            return match self.superuser.and_then(|superuser| kept(superuser, change)) {
                Some(reason) => Err(Denied::Refused(Refusal::invalid(reason))),
                None => Ok(allowed),
            };
        }
        if grants.superuser {
            return Ok(allowed);
        }
        for each in statement.each() {
            if each.keyspace.is_none() && keyspace.is_none() {
                return Err(Denied::Refused(Refusal::invalid(NO_KEYSPACE)));
            }
            let facts = self.facts(each, keyspace).await?;
            allow(role, &grants, needs(each, keyspace, &facts))?;
        }
        Ok(allowed)
    }

    async fn check_role(
        &self,
        roles: &Roles,
        role: &str,
        grants: &Grants,
        change: &RoleChange,
        keyspace: Option<&str>,
    ) -> Result<(), Denied> {
        if let Some(own) = change.roles().into_iter().find(|name| *name == login::ROLE) {
            return Err(Denied::Refused(Refusal::invalid(format!(
                "the role {own} is the replicas' own, on every Cassandra: leave it as it is, and use another"
            ))));
        }
        if let Some(reason) = unfit(change) {
            return Err(Denied::Refused(Refusal::invalid(reason)));
        }
        match change {
            RoleChange::Role { action: Action::Drop, role: dropped, .. } => {
                allow_about_role(role, grants, "DROP", Resource::Role(dropped.clone()))?;
                let other = roles.0.of(self.control, self.version, dropped).await?;
                if other.exists && other.superuser && !grants.superuser {
                    return Err(unauthorized(NO_SUPERUSERS_ROLE));
                }
                match dropped == role {
                    true => Err(Denied::Refused(Refusal::invalid("Cannot DROP primary role for current login"))),
                    false => Ok(()),
                }
            }
            RoleChange::Role { action: Action::Create, options, .. } => {
                allow_about_role(role, grants, "CREATE", Resource::AllRoles)?;
                match options.superuser == Some(true) && !grants.superuser {
                    true => Err(unauthorized("Only superusers can create a role with superuser status")),
                    false => Ok(()),
                }
            }
            RoleChange::Role { action: Action::Alter, role: altered, options } => {
                if options.superuser.is_some() && grants.roles.contains(altered) {
                    return Err(unauthorized(
                        "You aren't allowed to alter your own superuser status or that of a role granted to you",
                    ));
                }
                if options.superuser.is_some() && !grants.superuser {
                    return Err(unauthorized("Only superusers are allowed to alter superuser status"));
                }
                match options.others.first() {
                    _ if grants.superuser => Ok(()),
                    Some(other) if altered == role => Err(unauthorized(format!("You aren't allowed to alter {other}"))),
                    None if altered == role => Ok(()),
                    _ => allow_about_role(role, grants, "ALTER", Resource::Role(altered.clone())),
                }
            }
            RoleChange::Membership { role: granted, .. } => {
                allow_about_role(role, grants, "AUTHORIZE", Resource::Role(granted.clone()))
            }
            RoleChange::Permissions { permissions, resource, .. } => {
                let overloads = match resource {
                    ResourceName::Function(within, name, _) => {
                        let within = within.as_ref().map(Ident::as_str).or(keyspace);
                        self.overloads(within.unwrap_or_default(), name.as_str()).await?
                    }
                    _ => Vec::new(),
                };
                let resource = Resource::named(resource, keyspace, &overloads)
                    .ok_or_else(|| Denied::Refused(Refusal::invalid(NO_KEYSPACE)))?;
                let asked = resource
                    .applicable()
                    .iter()
                    .filter(|one| permissions.is_empty() || permissions.iter().any(|p| p == *one));
                let all = std::iter::once(&"AUTHORIZE").chain(asked);
                allow(role, grants, all.map(|permission| Need::new(permission, resource.clone())).collect())
            }
            RoleChange::Identity => match grants.superuser {
                true => Ok(()),
                false => Err(unauthorized("Only superusers can add or drop identities")),
            },
        }
    }

    async fn facts(&self, statement: &Statement, session: Option<&str>) -> Result<Facts, Denied> {
        let mut facts = Facts::default();
        let Some(keyspace) = statement.keyspace.as_ref().map(Ident::as_str).or(session) else { return Ok(facts) };
        let table = statement.table.as_ref().map(Ident::as_str);
        let object = statement.object.as_ref().map(Ident::as_str);
        match (statement.kind, table, object) {
            (kind, Some(table), _) if kind.is_dml() => {
                let columns = self.schema.columns(self.control, self.schema_version, keyspace, table).await?;
                facts.views = columns
                    .ok_or_else(|| Denied::NoTable { keyspace: keyspace.to_owned(), table: table.to_owned() })?
                    .views()
                    .to_vec();
            }
            (Kind::Ddl(Action::Alter | Action::Drop, Object::MaterializedView), _, Some(view)) => {
                let columns = self.schema.columns(self.control, self.schema_version, keyspace, view).await?;
                facts.table = columns.and_then(|columns| columns.base().map(str::to_owned));
                if facts.table.is_none() {
                    return Err(not_there(statement, &format!("Materialized view '{keyspace}.{view}' doesn't exist")));
                }
            }
            (Kind::Ddl(Action::Drop, Object::Index), _, Some(index)) => {
                let names = Values::positional(&[Value::Bytes(cell::text(keyspace))]).map_err(ControlError::from)?;
                let rows = self.control.query(INDEXES, names).await?;
                let text =
                    |row: &[Option<bytes::Bytes>], at: usize| Some(cell::as_text(row.get(at)?.as_ref()?)?.to_owned());
                let found = rows.rows.iter().find(|row| text(row, 0).as_deref() == Some(index));
                facts.table = found.and_then(|row| text(row, 1));
                if facts.table.is_none() {
                    return Err(not_there(statement, &format!("Index '{keyspace}.{index}' doesn't exist'")));
                }
            }
            (Kind::Ddl(_, Object::Function | Object::Aggregate), _, Some(name)) => {
                facts.overloads = self.overloads(keyspace, name).await?;
                if facts.overloads.is_empty() && matches!(statement.kind, Kind::Ddl(Action::Drop, _)) {
                    let what = if matches!(statement.kind, Kind::Ddl(_, Object::Aggregate)) {
                        "Aggregate"
                    } else {
                        "Function"
                    };
                    return Err(not_there(statement, &format!("{what} '{keyspace}.{name}' doesn't exist")));
                }
                for (part, _) in &statement.made_of {
                    facts.made_of.push(self.overloads(keyspace, part.as_str()).await?.len());
                }
            }
            _ => {}
        }
        Ok(facts)
    }

    /// The types of the arguments of users' functions and aggregates of a name.
    async fn overloads(&self, keyspace: &str, name: &str) -> Result<Vec<Vec<String>>, ControlError> {
        let names = Values::positional(&[keyspace, name].map(|name| Value::Bytes(cell::text(name))))?;
        let mut found = self.control.query(FUNCTIONS, names.clone()).await?.rows;
        found.extend(self.control.query(AGGREGATES, names).await?.rows);
        Ok(found.iter().map(|row| cell::as_texts(row.first())).collect())
    }
}

/// Nothing is ordered for what has no effect: it would be a barrier for everybody.
fn not_there(statement: &Statement, message: &str) -> Denied {
    Denied::NotThere((!statement.if_exists).then(|| Refusal::invalid(message)))
}

/// The same for what is done to roles, of which Cassandra says less.
fn allow_about_role(role: &str, grants: &Grants, permission: &str, resource: Resource) -> Result<(), Denied> {
    match grants.allow(&Need::new(permission, resource)) {
        true => Ok(()),
        false => Err(unauthorized(format!(
            "User {role} does not have sufficient privileges to perform the requested operation"
        ))),
    }
}

fn allow(role: &str, grants: &Grants, needs: Vec<Need>) -> Result<(), Denied> {
    match needs.into_iter().find(|need| !grants.allow(need)) {
        None => Ok(()),
        Some(Need { permission, resource }) => {
            Err(unauthorized(format!("User {role} has no {permission} permission on {resource} or any of its parents")))
        }
    }
}

/// What is executed after a statement that has made something: its creator, `role`, may do everything with it, and the replica's
/// role, which has executed it, is not named as the one that may. As Cassandra does where the creator executes it.
pub fn grants_to_creator(statement: &Statement, keyspace: Option<&str>, role: &str) -> Vec<String> {
    let made = match statement.role.as_deref() {
        Some(RoleChange::Role { action: Action::Create, role, .. }) => vec![format!("ROLE {}", quoted(role))],
        _ => created(statement, keyspace),
    };
    let (role, own) = (quoted(role), quoted(login::ROLE));
    let both = |made: String| {
        [format!("GRANT ALL PERMISSIONS ON {made} TO {role}"), format!("REVOKE ALL PERMISSIONS ON {made} FROM {own}")]
    };
    made.into_iter().flat_map(both).collect()
}
