//! The suite on the local stack.

use anyhow::Result;

/// Runs the suite, or the scenarios named.
///
/// # Errors
/// When a scenario failed.
pub fn run(_only: &[String]) -> Result<()> {
    anyhow::bail!("no local scenarios")
}
