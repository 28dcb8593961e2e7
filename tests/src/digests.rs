//! The product's `verify`, judged: the equality of nothing proves nothing.

use anyhow::{Context, Result, ensure};

/// Fails unless `report`, the output of a successful `verify`, compared at least one table.
///
/// # Errors
/// When it compared none, or its last line is not a verdict.
pub fn ensure_compared(report: &str) -> Result<()> {
    let verdict = report.trim_end().lines().last().and_then(|line| line.strip_prefix("equal: "));
    let tables = verdict.and_then(|line| line.split_once(" tables on ")?.0.parse::<u32>().ok());
    ensure!(tables.with_context(|| format!("no verdict: {report}"))? > 0, "no table was compared: {report}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comparison_of_nothing_fails() {
        ensure_compared("equal      k.t   3 rows 00ff\nequal: 1 tables on 3 replicas at index 9\n").unwrap();
        let error = ensure_compared("NOTHING COMPARED: 0 tables on 3 replicas at index 9\n").unwrap_err();
        assert!(error.to_string().contains("NOTHING"), "{error}");
        ensure_compared("").unwrap_err();
    }
}
