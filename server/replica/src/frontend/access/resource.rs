//! On what permissions are granted, by the names that Cassandra keeps them under, and what it calls them in its errors.

use std::fmt;

use replicateddb_cql::statement::{Ident, ResourceName};

/// What a permission is needed on. Each has parents, on which it may have been granted as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// Every keyspace.
    AllKeyspaces,
    /// A keyspace and what is in it.
    Keyspace(String),
    /// The tables of a keyspace.
    AllTables(String),
    /// A table or a materialized view.
    Table(String, String),
    /// Every role.
    AllRoles,
    /// A role.
    Role(String),
    /// Every function of users'.
    AllFunctions,
    /// The functions of a keyspace.
    FunctionsIn(String),
    /// The functions and aggregates of a name, that many of them, with each its own types of arguments; and those of the one that is
    /// meant, or of the first of them, as CQL.
    Functions(String, String, usize, Vec<String>),
    /// What JMX manages.
    MBeans,
}

impl Resource {
    /// Of a name in a GRANT or REVOKE, in a session that uses `keyspace`; `overloads`: the types of the arguments of the functions of
    /// that name. None if a
    /// keyspace is missing.
    pub fn named(name: &ResourceName, keyspace: Option<&str>, overloads: &[Vec<String>]) -> Option<Self> {
        let within = |named: &Option<Ident>| named.as_ref().map(Ident::as_str).or(keyspace).map(str::to_owned);
        Some(match name {
            ResourceName::AllKeyspaces => Self::AllKeyspaces,
            ResourceName::Keyspace(keyspace) => Self::Keyspace(keyspace.to_string()),
            ResourceName::AllTables(keyspace) => Self::AllTables(keyspace.to_string()),
            ResourceName::Table(keyspace, table) => Self::Table(within(keyspace)?, table.to_string()),
            ResourceName::AllRoles => Self::AllRoles,
            ResourceName::Role(role) => Self::Role(role.clone()),
            ResourceName::AllFunctions => Self::AllFunctions,
            ResourceName::FunctionsIn(keyspace) => Self::FunctionsIn(keyspace.to_string()),
            ResourceName::Function(keyspace, name, arguments) => {
                Self::Functions(within(keyspace)?, name.to_string(), overloads.len(), arguments.clone())
            }
            ResourceName::AllMBeans | ResourceName::MBeans => Self::MBeans,
        })
    }

    /// What it is kept under, itself first, then its parents. Functions of a name have none of their own here.
    pub fn chain(&self) -> Vec<String> {
        let data = || "data".to_owned();
        let functions = || "functions".to_owned();
        match self {
            Self::AllKeyspaces => vec![data()],
            Self::Keyspace(keyspace) => vec![format!("data/{keyspace}"), data()],
            Self::AllTables(keyspace) => vec![format!("data/{keyspace}/*"), format!("data/{keyspace}"), data()],
            Self::Table(keyspace, table) => vec![
                format!("data/{keyspace}/{table}"),
                format!("data/{keyspace}/*"),
                format!("data/{keyspace}"),
                data(),
            ],
            Self::AllRoles => vec!["roles".to_owned()],
            Self::Role(role) => vec![format!("roles/{role}"), "roles".to_owned()],
            Self::AllFunctions => vec![functions()],
            Self::FunctionsIn(keyspace) | Self::Functions(keyspace, ..) => {
                vec![format!("functions/{keyspace}"), functions()]
            }
            Self::MBeans => vec!["mbean".to_owned()],
        }
    }

    /// What `ALL` means on it.
    pub fn applicable(&self) -> &'static [&'static str] {
        match self {
            Self::AllKeyspaces | Self::Keyspace(_) | Self::AllTables(_) => {
                &["CREATE", "ALTER", "DROP", "SELECT", "MODIFY", "AUTHORIZE", "UNMASK", "SELECT_MASKED"]
            }
            Self::Table(..) => &["ALTER", "DROP", "SELECT", "MODIFY", "AUTHORIZE", "UNMASK", "SELECT_MASKED"],
            Self::AllRoles => &["CREATE", "ALTER", "DROP", "AUTHORIZE", "DESCRIBE"],
            Self::Role(_) => &["ALTER", "DROP", "AUTHORIZE", "DESCRIBE"],
            Self::AllFunctions | Self::FunctionsIn(_) => &["CREATE", "ALTER", "DROP", "AUTHORIZE", "EXECUTE"],
            Self::Functions(..) => &["ALTER", "DROP", "AUTHORIZE", "EXECUTE"],
            Self::MBeans => &["AUTHORIZE", "DESCRIBE", "EXECUTE", "MODIFY", "SELECT"],
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AllKeyspaces => f.write_str("<all keyspaces>"),
            Self::Keyspace(keyspace) => write!(f, "<keyspace {keyspace}>"),
            Self::AllTables(keyspace) => write!(f, "<all tables in {keyspace}>"),
            Self::Table(keyspace, table) => write!(f, "<table {keyspace}.{table}>"),
            Self::AllRoles => f.write_str("<all roles>"),
            Self::Role(role) => write!(f, "<role {role}>"),
            Self::AllFunctions => f.write_str("<all functions>"),
            Self::FunctionsIn(keyspace) => write!(f, "<all functions in {keyspace}>"),
            Self::Functions(keyspace, name, _, arguments) => {
                write!(f, "<function {keyspace}.{name}({})>", arguments.join(", "))
            }
            Self::MBeans => f.write_str("<all mbeans>"),
        }
    }
}
