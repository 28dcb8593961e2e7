//! The store agent: supervises one Cassandra JVM, of one replica or shared by several, and owns its data
//! directory.

mod args;
mod calls;
mod config;
mod disk;
mod exchange;
mod extra;
pub mod faults;
mod footprint;
mod http;
mod install;
mod java;
mod jolokia;
mod layout;
mod memory;
mod plan;
mod points;
mod probe;
mod process;
mod rewind;
mod role;
mod run;
mod shared;
mod spawn;
mod state;
mod supervisor;
mod tree;

pub use args::{AgentArgs, Profile};
pub use run::{run, run_with_faults};
