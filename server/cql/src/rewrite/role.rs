//! Keeps clear passwords out of what is logged.

use crate::statement::{RoleChange, Statement};

/// A statement about a role with `HASHED PASSWORD` in place of `PASSWORD`; any other text stays as it is. `statement` is the
/// classification of this same text.
///
/// # Errors
/// Those of `hash`.
pub fn with_hashed_passwords<E>(
    text: &str,
    statement: &Statement,
    hash: impl Fn(&str) -> Result<String, E>,
) -> Result<String, E> {
    let Some(RoleChange::Role { options, .. }) = statement.role.as_deref() else { return Ok(text.to_owned()) };
    let Some(password) = &options.password else { return Ok(text.to_owned()) };
    let part = |start: usize, end: usize| text.get(start..end).unwrap_or_default();
    let hash = hash(&password.clear)?.replace('\'', "''");
    Ok(format!(
        "{}HASHED {}'{hash}'{}",
        part(0, password.keyword),
        part(password.keyword, password.literal.start),
        part(password.literal.end, text.len())
    ))
}
