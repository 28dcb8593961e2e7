//! The whole of ReplicatedDB as processes on one machine: ZooKeeper, N Cassandras with their store agents (or one that
//! all share), and N replicas, each of them the real program. For people who want to try it, for tests and for
//! benchmarks.
//!
//! A stack lives in a folder and its processes outlive the program that started them. Tests take addresses that
//! nobody else uses and leave nothing behind:
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use replicateddb_local::{Member, Stack, Target};
//! use std::time::Duration;
//!
//! let stack = Stack::builder().dir("/tmp/some/empty/folder").replicas(3).free_loopback().kill_on_drop().create()?;
//! stack.up(Duration::from_secs(300), &mut |time, line| eprintln!("{:6.1} s  {line}", time.as_secs_f64())).await?;
//! stack.kill(Member::Cassandra(1), Target::Jvm).await?;
//! println!("clients connect to {}", stack.cql(0));
//! # Ok(())
//! # }
//! ```

mod builder;
mod certificates;
mod find;
mod launch;
mod member;
mod probe;
mod process;
mod procfs;
mod range;
mod settings;
mod stack;
mod whole;

pub use builder::{Builder, default_dir};
pub use certificates::{Authority, Pair};
pub use find::cache_root;
pub use launch::ROOT;
pub use member::{Member, UnknownMember};
pub use probe::{Answer, check_free};
pub use process::{Launch, Recorded, gone, last_lines, send};
pub use settings::{ENGINES, MAX_REPLICAS, Settings, ZOOKEEPER_SIZES};
pub use stack::{Ended, MemberStatus, Running, Stack, Superuser, Target, Tls, stop_limit};
pub use whole::Progress;
