//! Finding what a stack runs: the cache, Java, the jars, the server executable.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The Java that Cassandra 5.0 runs on.
const JAVA_MAJOR: u32 = 17;
const SERVER: &str = "replicateddb-server";

/// The folder for everything that can be made again: `$REPLICATEDDB_CACHE`, else `~/.cache/replicateddb`.
#[must_use]
pub fn cache_root() -> PathBuf {
    if let Some(root) = env::var_os("REPLICATEDDB_CACHE").filter(|root| !root.is_empty()) {
        return root.into();
    }
    let home = env::var_os("HOME").filter(|home| !home.is_empty()).unwrap_or_else(|| "/tmp".into());
    PathBuf::from(home).join(".cache").join("replicateddb")
}

/// How many threads each of so many replicas works with, on this machine that they share.
#[must_use]
pub fn threads(replicas: u8) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    (processors / usize::from(replicas.max(1))).max(1)
}

/// The folder of jars of `product` (`cassandra`, `zookeeper`) below `artifacts`: its highest version there.
pub fn jars(artifacts: &Path, product: &str) -> Result<PathBuf> {
    let prefix = format!("{product}-");
    let entries = std::fs::read_dir(artifacts).into_iter().flatten().flatten();
    let versions = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let version = numbers(name.strip_prefix(&prefix)?)?;
        let lib = entry.path().join("lib");
        has_jar(&lib, &prefix).then_some((version, lib))
    });
    match versions.max() {
        Some((_, lib)) => Ok(lib),
        None => bail!(
            "no jars of {product} below {}: run images/artifacts/fetch.sh, or name their folder by --artifacts",
            artifacts.display()
        ),
    }
}

fn numbers(version: &str) -> Option<Vec<u32>> {
    version.split('.').map(|part| part.parse().ok()).collect()
}

fn has_jar(lib: &Path, prefix: &str) -> bool {
    let entries = std::fs::read_dir(lib).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with(prefix) && name.ends_with(".jar")
    })
}

/// The server executable: the named one, else the one beside the running executable.
pub fn server(named: Option<&Path>) -> Result<PathBuf> {
    let remedy = "build it with 'cargo build -p replicateddb-server', or name it by --server-bin";
    if let Some(path) = named {
        let path = path.canonicalize().with_context(|| format!("{} is not there: {remedy}", path.display()))?;
        return Ok(path);
    }
    let own = env::current_exe().context("finding the running executable")?;
    // Executables of tests lie in a folder `deps` below the others.
    let folders = own.ancestors().skip(1).take(2);
    match folders.map(|folder| folder.join(SERVER)).find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => bail!("{SERVER} is not beside {}: {remedy}", own.display()),
    }
}

/// A Java of the right version: the named one, `$JAVA_HOME`, the usual folders, the one on the path.
pub fn java(named: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = named {
        return match major(path) {
            Some(JAVA_MAJOR) => Ok(path.to_owned()),
            Some(other) => bail!("{} is Java {other}; Cassandra needs Java {JAVA_MAJOR}", path.display()),
            None => bail!("{} is no Java that runs", path.display()),
        };
    }
    match candidates().into_iter().find(|path| major(path) == Some(JAVA_MAJOR)) {
        Some(path) => Ok(path),
        None => bail!(
            "no Java {JAVA_MAJOR} was found: install one (Debian: apt-get install openjdk-17-jre-headless), \
             or name its executable by --java or its folder by JAVA_HOME"
        ),
    }
}

fn candidates() -> Vec<PathBuf> {
    let mut found = Vec::new();
    if let Some(home) = env::var_os("JAVA_HOME") {
        found.push(PathBuf::from(home).join("bin/java"));
    }
    let mut installed: Vec<PathBuf> = std::fs::read_dir("/usr/lib/jvm")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin/java"))
        .filter(|path| path.is_file() && path.to_string_lossy().contains(&JAVA_MAJOR.to_string()))
        .collect();
    installed.sort();
    found.extend(installed);
    let path = env::var_os("PATH").unwrap_or_default();
    found.extend(env::split_paths(&path).map(|folder| folder.join("java")).filter(|path| path.is_file()));
    found
}

fn major(java: &Path) -> Option<u32> {
    let output = Command::new(java).arg("-version").output().ok()?;
    parse_major(&String::from_utf8_lossy(&output.stderr))
}

fn parse_major(version: &str) -> Option<u32> {
    let quoted = version.split('"').nth(1)?;
    quoted.split(['.', '-', '+']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_java_are_told_apart() {
        assert_eq!(parse_major("openjdk version \"17.0.15\" 2025-04-15\n"), Some(17));
        assert_eq!(parse_major("openjdk version \"25\" 2025-09-16 LTS\n"), Some(25));
        assert_eq!(parse_major("openjdk version \"21-ea\" 2023-09-19\n"), Some(21));
        assert_eq!(parse_major("java version \"1.8.0_402\"\n"), Some(1));
        assert_eq!(parse_major("command not found"), None);
    }

    #[test]
    fn the_highest_version_with_jars_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let missing = jars(dir.path(), "cassandra").unwrap_err().to_string();
        assert!(missing.contains("images/artifacts/fetch.sh"), "{missing}");
        for version in ["5.0.9", "5.0.10", "5.1.0"] {
            let lib = dir.path().join(format!("cassandra-{version}/lib"));
            std::fs::create_dir_all(&lib).unwrap();
            // The newest has not been fetched yet.
            if version != "5.1.0" {
                std::fs::write(lib.join(format!("cassandra-all-{version}.jar")), "").unwrap();
            }
        }
        assert_eq!(jars(dir.path(), "cassandra").unwrap(), dir.path().join("cassandra-5.0.10/lib"));
    }

    #[test]
    fn a_server_that_is_not_there_is_explained() {
        let error = format!("{:#}", server(Some(Path::new("/no/such/server"))).unwrap_err());
        assert!(error.contains("--server-bin"), "{error}");
    }
}
