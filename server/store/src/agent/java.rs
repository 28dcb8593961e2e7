//! The JVM's command line. Pure.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::args::{AgentArgs, Profile};
use super::layout::Layout;
use super::memory::{MIB, Memory};
use crate::generation;

/// Name of the Jolokia agent's jar, without version.
const JOLOKIA: &str = "jolokia-agent-jvm-";
/// Name of the jar that measures objects, without version.
const JAMM: &str = "jamm-";
/// Cassandra's main class.
const MAIN: &str = "org.apache.cassandra.service.CassandraDaemon";

/// Jars that are Java agents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agents {
    /// JMX over HTTP.
    pub jolokia: PathBuf,
    /// Sizes of objects, for memtables.
    pub jamm: PathBuf,
}

/// Finds the Java agents among the jars.
///
/// # Errors
/// If one is missing.
pub fn find_agents(jars: &[PathBuf]) -> Result<Agents, String> {
    let find = |prefix: &str| {
        let matches = |jar: &&PathBuf| {
            jar.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(prefix) && n.ends_with(".jar"))
        };
        jars.iter().find(matches).cloned().ok_or_else(|| format!("no {prefix}*.jar among Cassandra's jars"))
    };
    Ok(Agents { jolokia: find(JOLOKIA)?, jamm: find(JAMM)? })
}

/// Everything the command line depends on.
pub struct Launch<'a> {
    /// The agent's settings.
    pub args: &'a AgentArgs,
    /// Where everything lies.
    pub layout: &'a Layout,
    /// Sizes.
    pub memory: Memory,
    /// The Java agents.
    pub agents: &'a Agents,
    /// The number of this start.
    pub generation: u64,
}

/// Jolokia's settings, a properties file: on loopback, for who knows this start's password.
pub fn jolokia_properties(port: u16, user: &str, password: &str) -> String {
    format!("host=127.0.0.1\nport={port}\nuser={user}\npassword={password}\ndiscoveryEnabled=false\n")
}

/// Name of Jolokia's settings in the configuration folder.
pub const JOLOKIA_FILE: &str = "jolokia.properties";

/// The arguments of `java`.
pub fn arguments(launch: &Launch<'_>) -> Vec<OsString> {
    let mut list: Vec<OsString> = Vec::new();
    list.extend(memory(launch.memory, launch.args.profile).into_iter().map(Into::into));
    list.extend(properties().map(Into::into));
    list.extend(modules().into_iter().map(Into::into));
    list.extend(paths(launch));
    list.push(format!("-D{}={}", generation::PROPERTY, launch.generation).into());
    list.push("-cp".into());
    list.push(join(&launch.args.cassandra_lib, "*"));
    list.push(MAIN.into());
    list
}

fn join(folder: &Path, name: &str) -> OsString {
    folder.join(name).into_os_string()
}

fn memory(memory: Memory, profile: Profile) -> Vec<String> {
    let mut list = vec![
        format!("-Xms{}m", memory.heap / MIB),
        format!("-Xmx{}m", memory.heap / MIB),
        format!("-XX:MaxDirectMemorySize={}m", memory.direct / MIB),
        "-Xss256k".to_owned(),
        // A JVM out of memory must not go on half alive: it ends, and is rewound.
        "-XX:+ExitOnOutOfMemoryError".to_owned(),
        "-XX:+PerfDisableSharedMem".to_owned(),
    ];
    match profile {
        Profile::Small => {
            list.extend(
                ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:ReservedCodeCacheSize=64m"].map(Into::into),
            );
        }
        Profile::Default if memory.heap < 2048 * MIB => list.push("-XX:+UseSerialGC".to_owned()),
        Profile::Default => list.extend(["-XX:+UseG1GC", "-XX:MaxGCPauseMillis=300"].map(Into::into)),
    }
    list
}

/// Mostly waits and estimates that make sense among several nodes only, or cost seconds at each start.
fn properties() -> [String; 12] {
    [
        "cassandra.skip_wait_for_gossip_to_settle=0",
        "cassandra.ring_delay_ms=0",
        "cassandra.superuser_setup_delay_ms=0",
        "cassandra.load_ring_state=false",
        "cassandra.gossip_settle_min_wait_ms=0",
        "cassandra.gossip_settle_interval_ms=100",
        "cassandra.memtable.row_overhead_size=180",
        "cassandra.shutdown_announce_in_ms=0",
        // The clock that time-outs go by: 500 times a second it would wake a thread for it, a fortieth of two busy processors.
        "cassandra.approximate_time_precision_ms=10",
        "cassandra-foreground=yes",
        // Jolokia's server writes an answer in two parts: without this the second waits up to 40 ms until the first is
        // acknowledged, in each call that a replica holds its lanes for.
        "sun.net.httpserver.nodelay=true",
        // Replicas execute conditional writes past Paxos: the ordered log has decided.
        "cassandra.enable_nodelocal_queries=true",
    ]
    .map(|property| format!("-D{property}"))
}

/// What Cassandra 5.0 needs of Java 17's own modules.
fn modules() -> Vec<String> {
    let exports = [
        "java.base/jdk.internal.misc",
        "java.base/java.lang.ref",
        "java.management.rmi/com.sun.jmx.remote.internal.rmi",
        "java.rmi/sun.rmi.registry",
        "java.rmi/sun.rmi.server",
        "java.rmi/sun.rmi.transport.tcp",
        "java.sql/java.sql",
        "jdk.unsupported/sun.misc",
        "jdk.attach/sun.tools.attach",
    ];
    let opens = [
        "java.lang",
        "java.lang.module",
        "java.lang.reflect",
        "java.io",
        "java.nio",
        "java.util",
        "java.util.concurrent",
        "java.util.concurrent.atomic",
        "sun.nio.ch",
        "jdk.internal.loader",
        "jdk.internal.ref",
        "jdk.internal.reflect",
        "jdk.internal.math",
        "jdk.internal.module",
        "jdk.internal.util.jar",
    ];
    let exports = exports.iter().map(|package| format!("--add-exports={package}=ALL-UNNAMED"));
    let opens = opens.iter().map(|package| format!("--add-opens=java.base/{package}=ALL-UNNAMED"));
    let management = "--add-opens=jdk.management/com.sun.management.internal=ALL-UNNAMED".to_owned();
    exports.chain(opens).chain([management]).collect()
}

fn paths(launch: &Launch<'_>) -> Vec<OsString> {
    let property = |prefix: &str, path: PathBuf| {
        let mut text = OsString::from(prefix);
        text.push(path);
        text
    };
    let (layout, conf) = (launch.layout, launch.layout.conf());
    vec![
        property("-javaagent:", launch.agents.jamm.clone()),
        {
            let mut text = property("-javaagent:", launch.agents.jolokia.clone());
            text.push("=config=");
            text.push(conf.join(JOLOKIA_FILE));
            text
        },
        property("-Djava.io.tmpdir=", layout.tmp()),
        property("-Djna.tmpdir=", layout.tmp()),
        property("-Duser.home=", layout.tmp()),
        property("-Dcassandra.config=file://", conf.join("cassandra.yaml")),
        property("-Dlogback.configurationFile=file://", conf.join("logback.xml")),
        property("-Dcassandra.storagedir=", layout.cassandra()),
        property("-Dcassandra.logdir=", layout.tmp()),
        property("-XX:ErrorFile=", layout.agent().join("jvm-crash.log")),
        "-Djdk.attach.allowAttachSelf=true".into(),
        "-Dio.netty.tryReflectionSetAccessible=true".into(),
        "-Djava.net.preferIPv4Stack=true".into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_java_agents_must_be_there() {
        let jars = |names: &[&str]| names.iter().map(|name| Path::new("/lib").join(name)).collect::<Vec<_>>();
        let all = jars(&["a.jar", "jamm-0.4.0.jar", "jolokia-agent-jvm-2.2.9-javaagent.jar"]);
        let agents = find_agents(&all).unwrap();
        assert_eq!(agents.jolokia, all[2]);
        assert_eq!(agents.jamm, all[1]);
        assert!(find_agents(&jars(&["jamm-0.4.0.jar"])).unwrap_err().contains("jolokia"));
        assert!(find_agents(&[]).is_err());
    }

    #[test]
    fn the_collector_follows_heap_and_profile() {
        for (heap, profile, flag) in [
            (256, Profile::Small, "-XX:TieredStopAtLevel=1"),
            (512, Profile::Default, "-XX:+UseSerialGC"),
            (4096, Profile::Default, "-XX:+UseG1GC"),
        ] {
            let flags = memory(Memory::with_heap(heap * MIB), profile);
            assert!(flags.contains(&flag.to_owned()) && flags.contains(&format!("-Xmx{heap}m")), "{flags:?}");
        }
    }
}
