//! A runner for named end-to-end scenarios: in order, going on after a failure, with what is needed to look into it.

use std::{path::Path, time::Instant};

use anyhow::Result;

/// One scenario: what it proves in a line, and how.
pub struct Scenario<C> {
    /// What to type to run it alone.
    pub name: &'static str,
    /// The property that it proves.
    pub proves: &'static str,
    /// Runs it; an error is a failure.
    pub run: fn(&mut C) -> Result<()>,
}

/// Refuses a name in `only` that is no scenario's.
///
/// # Errors
/// When there is one; the text lists the names that there are.
pub fn check_names<C>(suite: &str, scenarios: &[Scenario<C>], only: &[String]) -> Result<()> {
    for name in only {
        anyhow::ensure!(
            scenarios.iter().any(|scenario| scenario.name == name),
            "no scenario {name:?} in {suite}; there are: {}",
            scenarios.iter().map(|s| s.name).collect::<Vec<_>>().join(", ")
        );
    }
    Ok(())
}

/// Runs the scenarios whose names are in `only` (all, when empty) and prints a summary.
///
/// After a failure `keep` is called with the scenario's name, to store logs and say where.
///
/// # Errors
/// When a name in `only` is unknown, or when a scenario failed; each failure was printed with its cause before.
pub fn run<C>(
    suite: &str,
    scenarios: &[Scenario<C>],
    only: &[String],
    context: &mut C,
    mut keep: impl FnMut(&mut C, &str) -> Result<String>,
) -> Result<()> {
    check_names(suite, scenarios, only)?;
    let (mut passed, mut failed) = (0, Vec::new());
    for scenario in scenarios.iter().filter(|s| only.is_empty() || only.iter().any(|name| name == s.name)) {
        println!("\n=== {suite}/{}: {}", scenario.name, scenario.proves);
        let start = Instant::now();
        match (scenario.run)(context) {
            Ok(()) => {
                passed += 1;
                println!("=== {suite}/{}: ok in {:.1} s", scenario.name, start.elapsed().as_secs_f64());
            }
            Err(error) => {
                println!(
                    "=== {suite}/{}: FAILED after {:.1} s\n{error:?}",
                    scenario.name,
                    start.elapsed().as_secs_f64()
                );
                match keep(context, scenario.name) {
                    Ok(place) => println!("    logs: {place}"),
                    Err(error) => println!("    its logs could not be kept: {error:#}"),
                }
                println!("    again: make test-{suite} ONLY={}", scenario.name);
                failed.push(scenario.name);
            }
        }
    }
    println!("\n{} passed, {} failed", passed, failed.len());
    anyhow::ensure!(failed.is_empty(), "{suite}: failed: {}", failed.join(", "));
    Ok(())
}

/// The folder for logs of failed scenarios, below the cache so that it outlives a temporary checkout.
///
/// # Errors
/// When the folder cannot be made.
pub fn failure_dir(suite: &str, name: &str) -> Result<std::path::PathBuf> {
    let dir = cache_dir().join("failures").join(suite).join(name);
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// The cache root: `REPLICATEDDB_CACHE`, or a folder of the home folder's cache.
pub fn cache_dir() -> std::path::PathBuf {
    match std::env::var_os("REPLICATEDDB_CACHE") {
        Some(dir) if !dir.is_empty() => dir.into(),
        _ => Path::new(&std::env::var_os("HOME").unwrap_or_else(|| "/tmp".into())).join(".cache/replicateddb"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCENARIOS: &[Scenario<Vec<&'static str>>] = &[
        Scenario {
            name: "good",
            proves: "something",
            run: |seen| {
                seen.push("good");
                Ok(())
            },
        },
        Scenario { name: "bad", proves: "nothing", run: |_| anyhow::bail!("broken") },
        Scenario {
            name: "last",
            proves: "that it goes on",
            run: |seen| {
                seen.push("last");
                Ok(())
            },
        },
    ];

    #[test]
    fn a_failure_is_an_error_and_does_not_stop_the_rest() {
        let mut seen = Vec::new();
        let mut kept = Vec::new();
        let result = run("x", SCENARIOS, &[], &mut seen, |_, name| {
            kept.push(name.to_owned());
            Ok("nowhere".into())
        });
        assert!(result.is_err());
        assert_eq!((seen, kept), (vec!["good", "last"], vec!["bad".to_owned()]));
    }

    #[test]
    fn a_name_selects_and_an_unknown_name_is_refused() {
        let mut seen = Vec::new();
        run("x", SCENARIOS, &["last".into()], &mut seen, |_, _| Ok(String::new())).unwrap();
        assert_eq!(seen, ["last"]);
        let error = run("x", SCENARIOS, &["nope".into()], &mut seen, |_, _| Ok(String::new())).unwrap_err();
        assert!(error.to_string().contains("good, bad, last"), "{error}");
    }
}
