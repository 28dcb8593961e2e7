//! What the tests with a real ZooKeeper share.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use replicateddb_ordering::fixture::ZooKeeper;
use replicateddb_ordering::znode_log::Config;

/// A server of the test's own. Without the jars the test fails, and says how to get them.
#[allow(dead_code, reason = "not every test file has a server of one alone")]
pub fn server() -> ZooKeeper {
    ZooKeeper::start().unwrap_or_else(|error| panic!("{error}"))
}

/// A root that no other test uses.
pub fn new_root() -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    format!("/test/log-{}", COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// Settings that bear a machine that is busy with other things: a disk that stalls for seconds is no lost connection.
pub fn config(connect: &str, root: &str, replica: u32) -> Config {
    Config {
        session_timeout: Duration::from_secs(30),
        append_timeout: Duration::from_secs(60),
        open_timeout: Duration::from_secs(120),
        admin_timeout: Duration::from_secs(120),
        ..Config::new(connect, root, replica)
    }
}

/// Settings for tests of lost connections and servers: they are noticed, and given up, soon.
#[allow(dead_code, reason = "not every test file loses connections")]
pub fn hasty(connect: &str, root: &str, replica: u32) -> Config {
    Config {
        session_timeout: Duration::from_secs(2),
        append_timeout: Duration::from_secs(5),
        ..config(connect, root, replica)
    }
}
