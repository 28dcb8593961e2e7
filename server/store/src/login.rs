//! How the agent and its replica log in at a Cassandra that asks for it.
//!
//! They share one role, a superuser, whose password follows from the token that the agent and the replica share: no further
//! secret, and the same role on every Cassandra of a database, so that the files of one serve another.

use std::fmt;

use bcrypt::{BcryptError, Version};
use sha2::{Digest, Sha256};

/// The role of the agent and the replica. Nobody else may log in as it, nor change it.
pub const ROLE: &str = "replicateddb";
/// The superuser that Cassandra makes where it finds no roles, and its password, which everybody knows.
pub const DEFAULT_ROLE: &str = "cassandra";
/// bcrypt's cost (log2 of the rounds) for [`ROLE`]: its password has 256 bits, so that nobody guesses it however cheap a
/// guess is, and each connection of the replica's pays for one.
const OWN_COST: u32 = 4;
/// bcrypt's cost for passwords of people, Cassandra's own default.
pub const COST: u32 = 10;
/// Bytes of a bcrypt salt.
const SALT: usize = 16;
/// Bytes of a password that bcrypt takes; Cassandra takes no notice of the rest.
const MAX_PASSWORD: usize = 72;

/// A role and its password.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The role.
    pub user: String,
    /// Its password.
    pub password: String,
}

impl fmt::Debug for Login {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Login {
    /// Of [`ROLE`], by the token that agent and replica share.
    #[must_use]
    pub fn of_token(token: &str) -> Self {
        let password = derived(token, "password").iter().map(|byte| format!("{byte:02x}")).collect();
        Self { user: ROLE.to_owned(), password }
    }

    /// At ZooKeeper, by the token that the replicas share.
    #[must_use]
    pub fn at_zookeeper(token: &str) -> Self {
        let password = derived(token, "zookeeper").iter().map(|byte| format!("{byte:02x}")).collect();
        Self { user: ROLE.to_owned(), password }
    }

    /// Of [`DEFAULT_ROLE`].
    #[must_use]
    pub fn default_role() -> Self {
        Self { user: DEFAULT_ROLE.to_owned(), password: DEFAULT_ROLE.to_owned() }
    }

    /// The client's answer in SASL's mechanism PLAIN (RFC 4616).
    #[must_use]
    pub fn plain(&self) -> Vec<u8> {
        format!("\0{}\0{}", self.user, self.password).into_bytes()
    }

    /// The statement that makes [`ROLE`], by that token.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn creation(token: &str) -> Result<String, BcryptError> {
        let mut salt = [0; SALT];
        salt.copy_from_slice(&derived(token, "salt")[..SALT]);
        let hash =
            bcrypt::hash_with_salt(Self::of_token(token).password, OWN_COST, salt)?.format_for_version(Version::TwoA);
        Ok(format!("CREATE ROLE {ROLE} WITH HASHED PASSWORD = '{hash}' AND LOGIN = true AND SUPERUSER = true"))
    }
}

fn derived(token: &str, what: &str) -> [u8; 32] {
    let mut digest = Sha256::new();
    digest.update(b"replicateddb cassandra login: ");
    digest.update(what.as_bytes());
    digest.update([0]);
    digest.update(token.trim().as_bytes());
    digest.finalize().into()
}

/// The hash of a password as Cassandra keeps it, with a salt of its own. Takes a twentieth of a second of a processor.
///
/// # Errors
/// The system has no random numbers.
pub fn hash(password: &str) -> Result<String, BcryptError> {
    Ok(bcrypt::hash_with_result(cut(password), COST)?.format_for_version(Version::TwoA))
}

/// Whether that is a hash of the password.
#[must_use]
pub fn verify(password: &str, hash: &str) -> bool {
    bcrypt::verify(cut(password), hash).unwrap_or(false)
}

fn cut(password: &str) -> &[u8] {
    &password.as_bytes()[..password.len().min(MAX_PASSWORD)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_token_gives_the_same_role_everywhere() {
        let (one, other) = (Login::of_token("a token\n"), Login::of_token("a token"));
        assert_eq!(one, other);
        assert_ne!(one, Login::of_token("another"));
        assert_eq!(Login::creation("a token").unwrap(), Login::creation("a token").unwrap());
        let creation = Login::creation("a token").unwrap();
        let hash = creation.split('\'').nth(1).unwrap();
        assert!(hash.starts_with("$2a$04$") && verify(&one.password, hash), "{creation}");
        assert!(!creation.contains(&one.password));
    }

    #[test]
    fn passwords_are_hashed_as_cassandra_does() {
        let hashed = hash("pässword").unwrap();
        assert!(hashed.starts_with("$2a$10$"), "{hashed}");
        assert!(verify("pässword", &hashed) && !verify("password", &hashed) && !verify("pässword", "no hash"));
        assert_ne!(hash("pässword").unwrap(), hashed);
        let long = "x".repeat(100);
        assert!(verify(&long[..MAX_PASSWORD], &hash(&long).unwrap()));
    }

    #[test]
    fn a_password_is_not_shown() {
        let login = Login { user: "u".into(), password: "secret".into() };
        assert!(!format!("{login:?}").contains("secret"));
        assert_eq!(login.plain(), b"\0u\0secret");
    }
}
