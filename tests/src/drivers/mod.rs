//! The suite of real drivers: programs in several languages, each with its driver as it is without settings, and cqlsh, all
//! with three replicas. What the programs are is in `tests/drivers`.

mod cqlsh;
pub(crate) mod program;
mod rust;
#[cfg(test)]
mod snippets;

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use replicateddb_local::{Member, Target};

use crate::{
    local::{Cassandras, Local, REPLICAS},
    scenario::{self, Scenario},
};

/// The suite's name.
const SUITE: &str = "drivers";

/// How often the stack's replicas make restore points.
const RESTORE_POINTS: [&str; 2] = ["--restore-point-interval", "10s"];

/// What every driver is to do, in this order; a program prints a line for each.
const CHECKS: [&str; 14] = [
    "quickstart",
    "connect",
    "schema",
    "statements",
    "types",
    "batches",
    "paging",
    "conditions",
    "counters",
    "ttl",
    "consistency",
    "errors",
    "events",
    "failover",
];

/// The replica that a driver is told of is another one for some: the one that dies is that one.
fn scenarios() -> Vec<Scenario<Local>> {
    vec![
        Scenario {
            name: "cqlsh",
            proves: "cqlsh describes, copies, traces, pages and ends as with Cassandra",
            run: cqlsh::check,
        },
        Scenario {
            name: "python",
            proves: "the Python driver does all that it does with Cassandra, and outlives a replica",
            run: |local| program::check(local, "python", 0),
        },
        Scenario {
            name: "java",
            proves: "the Java driver does all that it does with Cassandra, and outlives a replica",
            run: |local| program::check(local, "java", 1),
        },
        Scenario {
            name: "go",
            proves: "gocql does all that it does with Cassandra, and outlives a replica",
            run: |local| program::check(local, "go", 2),
        },
        Scenario {
            name: "node",
            proves: "the Node driver does all that it does with Cassandra, and outlives a replica",
            run: |local| program::check(local, "node", 0),
        },
        Scenario {
            name: "rust",
            proves: "the Rust driver does all that it does with Cassandra, and outlives a replica",
            run: |local| rust::check(local, 1),
        },
    ]
}

/// Runs the suite, or the scenarios named, on one stack. Its replicas differ from others in one thing: restore points are
/// made so often that a replica which was killed has not everything to execute again.
///
/// # Errors
/// When the stack does not come up or a scenario failed.
pub fn run(only: &[String]) -> Result<()> {
    scenario::check_names(SUITE, &scenarios(), only)?;
    let mut local = Local::start(SUITE, Cassandras::Own, RESTORE_POINTS.map(str::to_owned).into())?;
    let result = scenario::run(SUITE, &scenarios(), only, &mut local, |local, name| local.keep_logs(SUITE, name));
    local.down()?;
    result
}

impl Local {
    /// The address that a driver knows a replica by.
    fn address(&self, replica: u8) -> IpAddr {
        self.stack.cql(replica).ip()
    }

    /// The addresses of all replicas.
    fn addresses(&self) -> Vec<IpAddr> {
        (0..REPLICAS).map(|replica| self.address(replica)).collect()
    }

    /// Which replica has this address.
    fn replica_at(&self, address: &str) -> Result<Member> {
        let found = (0..REPLICAS).find(|replica| self.address(*replica).to_string() == address);
        found.map(Member::Replica).with_context(|| format!("no replica has the address {address:?}"))
    }

    /// Kills the replica with this address without a warning.
    async fn kill_replica(&self, address: &str) -> Result<()> {
        self.stack.kill(self.replica_at(address)?, Target::Whole).await
    }

    /// Starts it again, and waits until it serves.
    async fn start_replica(&self, address: &str) -> Result<()> {
        self.stack.start(self.replica_at(address)?).await?;
        self.wait_ready().await
    }

    /// Starts what a failed scenario has left dead, so that the next one finds all replicas.
    async fn start_all(&self) -> Result<()> {
        for address in self.addresses() {
            self.stack.start(self.replica_at(&address.to_string())?).await?;
        }
        self.wait_ready().await
    }
}

/// Fails unless these are all of the checks, in their order.
fn ensure_all(done: &[String]) -> Result<()> {
    ensure!(done == CHECKS, "the checks that went well are {done:?}, and should have been {CHECKS:?}");
    Ok(())
}
