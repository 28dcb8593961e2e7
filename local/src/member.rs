//! The processes of a stack and their names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One process of the stack (a Cassandra counts as one: its store agent, which runs the JVM).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Member {
    /// A ZooKeeper server, numbered from 0.
    Zookeeper(u8),
    /// A store agent with its Cassandra: the one of the replica with the same number, or number 0, shared by all.
    Cassandra(u8),
    /// A replica.
    Replica(u8),
}

/// A name that is not `replica-N`, `cassandra-N` or `zookeeper-N`.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is no member of a stack: use replica-0, cassandra-0, zookeeper-0 and so on")]
pub struct UnknownMember(String);

impl Member {
    /// The number within its tier, from 0.
    #[must_use]
    pub fn index(self) -> u8 {
        match self {
            Self::Zookeeper(i) | Self::Cassandra(i) | Self::Replica(i) => i,
        }
    }

    /// Every member of a stack of that size, in the order in which they are started.
    #[must_use]
    pub fn all(replicas: u8, cassandras: u8, zookeepers: u8) -> Vec<Self> {
        let zookeepers = (0..zookeepers).map(Self::Zookeeper);
        let cassandras = (0..cassandras).map(Self::Cassandra);
        let replicas = (0..replicas).map(Self::Replica);
        zookeepers.chain(cassandras).chain(replicas).collect()
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zookeeper(i) => write!(f, "zookeeper-{i}"),
            Self::Cassandra(i) => write!(f, "cassandra-{i}"),
            Self::Replica(i) => write!(f, "replica-{i}"),
        }
    }
}

impl FromStr for Member {
    type Err = UnknownMember;

    fn from_str(name: &str) -> Result<Self, UnknownMember> {
        let unknown = || UnknownMember(name.to_owned());
        let (tier, index) = name.rsplit_once('-').ok_or_else(unknown)?;
        let number: u8 = index.parse().map_err(|_| unknown())?;
        // `replica-+1` and `replica-01` parse as numbers but name nothing.
        if number.to_string() != index {
            return Err(unknown());
        }
        match tier {
            "zookeeper" => Ok(Self::Zookeeper(number)),
            "cassandra" => Ok(Self::Cassandra(number)),
            "replica" => Ok(Self::Replica(number)),
            _ => Err(unknown()),
        }
    }
}

impl TryFrom<String> for Member {
    type Error = UnknownMember;

    fn try_from(name: String) -> Result<Self, UnknownMember> {
        name.parse()
    }
}

impl From<Member> for String {
    fn from(member: Member) -> Self {
        member.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for member in Member::all(3, 3, 3) {
            assert_eq!(member.to_string().parse::<Member>().unwrap(), member);
        }
    }

    #[test]
    fn other_names_are_refused() {
        for name in ["", "replica", "replica-", "replica--1", "replica-01", "replica-+1", "replica-256", "zk-0", "-0"] {
            assert!(name.parse::<Member>().is_err(), "{name}");
        }
    }
}
