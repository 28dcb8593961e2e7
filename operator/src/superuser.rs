//! What the Secret with the superuser must hold. Pure.
//!
//! It may be the user's own, made by hand or by another program, so it is checked before any pod hangs on it: a replica would
//! find a name or a password that can't be used only when it starts.

use k8s_openapi::api::core::v1::Secret;

use crate::names::{PASSWORD_KEY, USERNAME_KEY};

/// Longest name of a superuser.
const USERNAME_LENGTH_MAX: usize = 64;
/// Least length of a password in bytes.
const PASSWORD_LENGTH_MIN: usize = 8;
/// Longest password in bytes: bcrypt, by which Cassandra keeps passwords, takes no notice of what comes after.
const PASSWORD_LENGTH_MAX: usize = 72;
/// Roles that are not the user's: Cassandra's default superuser, which is taken away, and the replicas' own.
const RESERVED: [&str; 2] = ["cassandra", "replicateddb"];

/// Why a Secret can't be used, in words that go on after its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// A key is missing or empty.
    #[error("has no key {0}, or an empty one")]
    Missing(&'static str),
    /// The name is none.
    #[error(
        "has a {USERNAME_KEY} that is no name of a role: it is a letter and then letters, digits, '_', '-', '.' and '@', at most {USERNAME_LENGTH_MAX} in all, with no line break"
    )]
    Name,
    /// The name is taken.
    #[error("has the {USERNAME_KEY} {0}, which is a role of the database's own; choose another, such as admin")]
    Reserved(&'static str),
    /// The password can't be used as it is.
    #[error(
        "has a {PASSWORD_KEY} that can't be used: it has {PASSWORD_LENGTH_MIN} to {PASSWORD_LENGTH_MAX} bytes of text with no line break or other control character"
    )]
    Password,
}

/// Checks what a Secret holds. The values themselves go into no message.
///
/// # Errors
/// It can't be used.
pub fn check(secret: &Secret) -> Result<(), Unusable> {
    let value = |key: &'static str| {
        let found = secret.data.as_ref().and_then(|data| data.get(key)).map(|value| value.0.as_slice());
        found.filter(|value| !value.is_empty()).ok_or(Unusable::Missing(key))
    };
    let (name, password) = (value(USERNAME_KEY)?, value(PASSWORD_KEY)?);
    let name = std::str::from_utf8(name).map_err(|_| Unusable::Name)?;
    let within = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '@');
    if name.len() > USERNAME_LENGTH_MAX
        || !name.starts_with(|c: char| c.is_ascii_alphabetic())
        || !name.chars().all(within)
    {
        return Err(Unusable::Name);
    }
    if let Some(reserved) = RESERVED.into_iter().find(|reserved| name.eq_ignore_ascii_case(reserved)) {
        return Err(Unusable::Reserved(reserved));
    }
    let password = std::str::from_utf8(password).map_err(|_| Unusable::Password)?;
    let fits = (PASSWORD_LENGTH_MIN..=PASSWORD_LENGTH_MAX).contains(&password.len());
    if fits && !password.chars().any(char::is_control) { Ok(()) } else { Err(Unusable::Password) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    fn checked(name: &[u8], password: &[u8]) -> Result<(), Unusable> {
        let pairs = [(USERNAME_KEY, name), (PASSWORD_KEY, password)];
        let data = pairs.map(|(key, value)| (key.to_owned(), ByteString(value.to_vec())));
        check(&Secret { data: Some(data.into()), ..Default::default() })
    }

    #[test]
    fn a_role_that_cassandra_and_clients_can_use() {
        for name in ["admin", "Ops_1", "jane.doe@example.com", &"a".repeat(64)] {
            assert_eq!(checked(name.as_bytes(), b"12345678"), Ok(()), "{name}");
        }
        for name in ["1admin", "admin\n", "ad min", "ad'min", "\u{e4}dmin", &"a".repeat(65)] {
            assert_eq!(checked(name.as_bytes(), b"12345678"), Err(Unusable::Name), "{name:?}");
        }
        assert_eq!(checked(&[0xff], b"12345678"), Err(Unusable::Name));
        for (name, reserved) in
            [("cassandra", "cassandra"), ("Cassandra", "cassandra"), ("replicateddb", "replicateddb")]
        {
            assert_eq!(checked(name.as_bytes(), b"12345678"), Err(Unusable::Reserved(reserved)));
        }
    }

    #[test]
    fn a_password_of_which_all_counts() {
        let most = "x".repeat(72);
        for password in ["eight to", "\u{fc}ber 8 Bytes", &most] {
            assert_eq!(checked(b"admin", password.as_bytes()), Ok(()), "{password}");
        }
        for password in ["seven b", "with a line break\n", "nothing\0 after", &format!("{most}x")] {
            assert_eq!(checked(b"admin", password.as_bytes()), Err(Unusable::Password), "{password:?}");
        }
        assert_eq!(checked(b"admin", &[0xff; 16]), Err(Unusable::Password));
    }

    #[test]
    fn what_is_missing_is_named_and_nothing_is_quoted() {
        assert_eq!(check(&Secret::default()), Err(Unusable::Missing(USERNAME_KEY)));
        assert_eq!(checked(b"admin", b""), Err(Unusable::Missing(PASSWORD_KEY)));
        let told = checked(b"admin", b"hunter2").unwrap_err().to_string();
        assert!(!told.contains("hunter2") && told.contains("8 to 72 bytes"), "{told}");
    }
}
