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
    let mut rewritten = String::with_capacity(text.len());
    let mut copied = 0;
    for password in &options.passwords {
        let part = |end: usize| text.get(copied..end).unwrap_or_default();
        rewritten.push_str(part(password.keyword));
        rewritten.push_str("HASHED ");
        rewritten.push_str(text.get(password.keyword..password.literal.start).unwrap_or_default());
        rewritten.push_str(&format!("'{}'", hash(&password.clear)?.replace('\'', "''")));
        copied = password.literal.end;
    }
    rewritten.push_str(text.get(copied..).unwrap_or_default());
    Ok(rewritten)
}
