//! The superuser of a database whose clients log in: made, and given another password, through the order like any role.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::Duration;

use replicateddb_cql::{
    Version,
    request::Values,
    response::cell,
    statement::{Action, RoleChange},
    wire::Value,
};
use replicateddb_store::login::{self, DEFAULT_ROLE};
use tokio::time::sleep;

use super::control::Control;
use crate::backend::{self, Endpoint, Opened, roles::quoted};
use crate::replica::{ReplicaHandle, Request, RequestKind, Serving, StatementText};

/// Pause between two looks at the file: a password that is changed there holds from then on.
const LOOK: Duration = Duration::from_secs(10);
/// Pause after something was done, before it is looked at.
const AGAIN: Duration = Duration::from_millis(100);
/// Pause after something that went wrong.
const RETRY: Duration = Duration::from_secs(1);
const ROLE: &str = "SELECT is_superuser, can_login, salted_hash FROM system_auth.roles WHERE role = ?";

/// The role that a database is given to start with.
#[derive(Debug, Clone)]
pub struct Superuser {
    /// Its name.
    pub name: String,
    /// A file with its password, without a line's end.
    pub password_file: PathBuf,
}

impl Superuser {
    /// One of this name, with the password in this file.
    ///
    /// # Errors
    /// The name can't be used, or the file holds no password.
    pub fn new(name: &str, password_file: &Path) -> Result<Self, String> {
        if name.is_empty() || name == login::ROLE {
            return Err(format!("{name:?} can't be the superuser's name: choose another"));
        }
        let superuser = Self { name: name.to_owned(), password_file: password_file.to_owned() };
        superuser.password().map(|_| superuser)
    }

    fn password(&self) -> Result<String, String> {
        let file = self.password_file.display();
        let text =
            std::fs::read_to_string(&self.password_file).map_err(|error| format!("can't read {file}: {error}"))?;
        match text.trim_end_matches(['\r', '\n']) {
            "" => Err(format!("there is no password in {file}")),
            password => Ok(password.to_owned()),
        }
    }
}

/// Whenever the replica serves, sees to it that there is this role, a superuser with this password, and that the one that
/// Cassandra starts with is gone. Looks again when the password changes in the file, and after changes of the schema or of roles:
/// the front end refuses those that would take from it what it is kept with ([`kept`]), but others may come by the order.
pub async fn keep(superuser: Superuser, handle: ReplicaHandle) -> Infallible {
    let mut serving = handle.serving();
    let mut settled = None;
    loop {
        let now = serving.borrow_and_update().clone();
        let Serving::Yes { generation, backend } = now else {
            match serving.changed().await {
                Ok(()) => continue,
                Err(_) => return std::future::pending().await,
            }
        };
        // First: what is looked at then is no older.
        let roles = handle.last_ddl();
        let pause = match superuser.password() {
            Ok(password) if settled.as_ref() == Some(&(generation, roles, password.clone())) => LOOK,
            Ok(password) => match settle(&superuser.name, &password, &handle, backend, generation).await {
                Ok(true) => {
                    settled = Some((generation, roles, password));
                    LOOK
                }
                Ok(false) => AGAIN,
                Err(error) => {
                    tracing::warn!(error, superuser = superuser.name, "the superuser is not there yet; again soon");
                    RETRY
                }
            },
            Err(error) => {
                tracing::warn!(error, "the superuser keeps the password that it has");
                LOOK
            }
        };
        sleep(pause).await;
    }
}

/// Looks, and has the next thing done that is missing; whether nothing is.
async fn settle(
    name: &str,
    password: &str,
    handle: &ReplicaHandle,
    backend: Endpoint,
    generation: u64,
) -> Result<bool, String> {
    match backend::open(Version::V4, &backend).await.map_err(|error| error.to_string())? {
        Opened::Login(..) => {}
        Opened::Ready(_) => return Err("this replica's Cassandra is not started with --authentication".to_owned()),
    }
    let control = Control::new(backend, generation);
    let there = role(&control, name).await?;
    let fits = match there.as_ref() {
        Some(Role { superuser: true, login: true, hash }) => {
            let (password, hash) = (password.to_owned(), hash.clone());
            blocking(move || login::verify(&password, &hash)).await?
        }
        _ => false,
    };
    if !fits {
        let (word, password) =
            (if there.is_some() { "ALTER ROLE" } else { "CREATE ROLE IF NOT EXISTS" }, password.to_owned());
        let hash = blocking(move || login::hash(&password)).await?.map_err(|error| error.to_string())?;
        let name = quoted(name);
        let text = format!("{word} {name} WITH HASHED PASSWORD = '{hash}' AND LOGIN = true AND SUPERUSER = true");
        propose(handle, text).await?;
        return Ok(false);
    }
    if name != DEFAULT_ROLE && role(&control, DEFAULT_ROLE).await?.is_some() {
        propose(handle, format!("DROP ROLE IF EXISTS {DEFAULT_ROLE}")).await?;
        return Ok(false);
    }
    tracing::info!(superuser = name, "the superuser can log in");
    Ok(true)
}

/// Why a role may not be changed so, if it is the one that is kept: it would be changed back.
pub(super) fn kept(superuser: &str, change: &RoleChange) -> Option<String> {
    let RoleChange::Role { action, role, options } = change else { return None };
    let takes = options.password.is_some()
        || options.hash.is_some()
        || options.superuser == Some(false)
        || options.others.contains(&"LOGIN");
    let refused = role == superuser && (*action == Action::Drop || (*action == Action::Alter && takes));
    refused.then(|| {
        format!(
            "the replicas keep the role {role} as a superuser that may log in, with the password in the file of \
             --superuser-password-file (in Kubernetes: the Secret in status.superuserSecret): change the password there, or name \
             another superuser before this role is dropped or loses its rights"
        )
    })
}

struct Role {
    superuser: bool,
    login: bool,
    hash: String,
}

async fn role(control: &Control, name: &str) -> Result<Option<Role>, String> {
    let name = Values::positional(&[Value::Bytes(cell::text(name))]).map_err(|error| error.to_string())?;
    let found = control.query(ROLE, name).await.map_err(|error| error.to_string())?;
    let Some(row) = found.rows.first() else { return Ok(None) };
    let cell = |column: usize| row.get(column).and_then(Option::as_deref);
    let flag = |column| cell(column).and_then(cell::as_boolean).unwrap_or(false);
    let hash = cell(2).and_then(cell::as_text).unwrap_or_default().to_owned();
    Ok(Some(Role { superuser: flag(0), login: flag(1), hash }))
}

async fn propose(handle: &ReplicaHandle, text: String) -> Result<(), String> {
    let statements = vec![StatementText { text, values: Values::none() }];
    let request = Request { kind: RequestKind::Ddl, keyspace: None, statements, flags: 0 };
    let outcome = handle.propose(request).await.map_err(|error| error.to_string())?;
    match outcome.opcode == replicateddb_cql::frame::Opcode::Result.code() {
        true => Ok(()),
        false => {
            let error = replicateddb_cql::response::parse_error(&outcome.body);
            Err(error.map_or_else(|error| error.to_string(), |error| error.message))
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use replicateddb_cql::statement::classify;

    use super::*;

    #[test]
    fn what_would_be_changed_back_is_refused() {
        let refused = |text: &str| kept("boss", classify(text).role.as_deref().expect("it is about roles"));
        for text in [
            "ALTER ROLE boss WITH PASSWORD = 'x'",
            "ALTER ROLE boss WITH HASHED PASSWORD = 'x'",
            "ALTER USER boss WITH PASSWORD 'x'",
            "ALTER ROLE boss WITH ACCESS TO ALL DATACENTERS AND PASSWORD = 'x'",
            "ALTER ROLE boss WITH SUPERUSER = false",
            "ALTER USER boss NOSUPERUSER",
            "ALTER ROLE boss WITH LOGIN = false",
            "DROP ROLE IF EXISTS boss",
            "DROP USER boss",
        ] {
            let reason = refused(text).unwrap_or_else(|| panic!("{text}"));
            assert!(reason.contains("--superuser-password-file") && reason.contains("boss"), "{reason}");
        }
        for text in [
            "ALTER ROLE other WITH PASSWORD = 'x'",
            "DROP ROLE other",
            "ALTER ROLE boss WITH ACCESS TO ALL DATACENTERS",
            "CREATE ROLE boss WITH PASSWORD = 'x'",
            "CREATE ROLE IF NOT EXISTS boss WITH PASSWORD = 'x' AND LOGIN = false",
            "GRANT boss TO other",
        ] {
            assert_eq!(refused(text), None, "{text}");
        }
    }

    #[test]
    fn a_superuser_has_a_name_and_a_password() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        assert!(Superuser::new("admin", &file).unwrap_err().contains("can't read"));
        std::fs::write(&file, "\n").unwrap();
        assert!(Superuser::new("admin", &file).unwrap_err().contains("no password"));
        std::fs::write(&file, " pass word \n").unwrap();
        assert_eq!(Superuser::new("admin", &file).unwrap().password().unwrap(), " pass word ");
        for name in ["", login::ROLE] {
            assert!(Superuser::new(name, &file).is_err(), "{name}");
        }
    }
}
