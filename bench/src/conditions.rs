//! Under which conditions a run was made, for the reader of its tables.

use anyhow::{Context, Result};
use replicateddb_local::{Member, Stack};

use crate::{
    Args,
    run::WARM_UPS,
    side::{REQUEST_LIMIT, SETTLE, Side},
    template::Template,
    work::{ROWS, VALUE_BYTES},
};

/// A Markdown list of machine, versions and settings.
///
/// # Errors
/// When a version can't be asked for.
pub async fn conditions(args: &Args, stack: &Stack, template: &Template, sides: &[Side; 2]) -> Result<String> {
    let settings = stack.settings();
    let cassandra = release(&sides[1]).await.context("the version of plain Cassandra")?;
    let zookeeper = stack.pid(Member::Zookeeper(0)).and_then(|pid| version(pid, "zookeeper-"));
    let (a, b) = (sides[0].name, sides[1].name);
    Ok(format!(
        "- Machine: {}. Everything, the load tool included, shares it.\n\
         - A, {a}: {} replicas with a Cassandra each, {} ZooKeeper server(s) {}, engine {}; profile {}.\n\
         - B, {b}: three nodes of Cassandra {cassandra}, replication factor 3{}.\n\
         - Every Cassandra of both sides: heap {}, JVM flags `{}`; commit log synced periodically.\n\
         - Load: values of {VALUE_BYTES} bytes; reads of {ROWS} rows; prepared statements; one session for each side with all \
         three servers, one connection to each; token-aware; no retries; time-out {} s.\n\
         - {} rounds; in each, for each line of the table, a slice of {} s of A, then one of B, each with a pause of {} ms \
         behind it that counts for CPU. Before the first, {WARM_UPS} slices of each work load on each side, with the most in \
         flight, to warm up.\n",
        machine(),
        settings.replicas,
        settings.zookeepers,
        zookeeper.unwrap_or_default(),
        settings.engine,
        settings.cassandra_profile,
        args.plain_settings.iter().map(|line| format!(", `{line}`")).collect::<String>(),
        settings.cassandra_heap,
        template.flags().join(" "),
        REQUEST_LIMIT.as_secs(),
        args.rounds,
        args.seconds,
        SETTLE.as_millis(),
    ))
}

async fn release(side: &Side) -> Result<String> {
    let rows = side.requests.session.query_unpaged("SELECT release_version FROM system.local", ()).await?;
    Ok(rows.into_rows_result()?.first_row::<(String,)>()?.0)
}

/// The version in a path such as `/jars/zookeeper-3.9.5/lib/*` of a process's command line.
fn version(pid: i32, product: &str) -> Option<String> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let line = String::from_utf8_lossy(&line).into_owned();
    let parts = line.split(['/', '\0', ':']).filter_map(|part| part.strip_prefix(product));
    parts.into_iter().find(|rest| rest.contains('.')).map(str::to_owned)
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).and_then(|line| line.split_once(':'));
        line.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    let kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or_default();
    let model = field(&read("/proc/cpuinfo"), "model name");
    format!(
        "{cores} processors ({model}), {} GiB, Linux {}",
        kib.div_ceil(1 << 20),
        read("/proc/sys/kernel/osrelease").trim()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_processors_and_memory() {
        let text = machine();
        assert!(!text.starts_with("0 ") && !text.contains(" 0 GiB"), "{text}");
    }

    #[test]
    fn a_process_without_the_product_has_no_version_of_it() {
        assert_eq!(version(i32::try_from(std::process::id()).unwrap(), "zookeeper-"), None);
    }
}
