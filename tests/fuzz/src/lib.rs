//! Everything of ReplicatedDB that reads bytes from outside, given any bytes.
//!
//! A [`Target`] is a function of bytes that panics if something does not hold: what is written is read, what is rewritten
//! still says the same, what comes in pieces is what comes at once. [`Target::execute`] runs it, and holds it to its bounds of
//! memory and time besides. Two programs give it bytes:
//!
//! - `tests/quick.rs` with `cargo test`: all that was kept ([`corpus`]), and some thousands of variations of it ([`mutate`]),
//!   the same each time;
//! - `src/bin/guided.rs` (feature `guided`, built and run by `tests/fuzz/run`): libFuzzer, led by the coverage that the
//!   compiler of rust-toolchain.toml instruments the code for.

pub mod corpus;
pub mod memory;
pub mod mutate;
mod source;
mod targets;
mod wires;

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
pub use targets::TARGETS;

/// Time of a processor that any input may take, however slow the machine and however little optimised: what takes longer does
/// not go with its length.
const LONGEST: Duration = Duration::from_secs(2);

/// Something that reads bytes.
pub struct Target {
    /// Its name, and that of its files.
    pub name: &'static str,
    /// What is done with the bytes; panics if something does not hold.
    pub run: fn(&[u8]),
    /// The memory that it may have at once.
    pub memory: Memory,
    /// The longest input that is tried, bytes.
    pub longest: usize,
    /// Inputs that are tried in `cargo test` besides those that are kept.
    pub quick: usize,
    /// What such inputs are made of.
    pub words: &'static [&'static str],
    /// Inputs to begin with, beside those that are kept.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// A bound of memory: so many bytes, and so many for each byte of the input.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Bytes, whatever the input.
    pub fixed: usize,
    /// Bytes for each byte of it.
    pub per_byte: usize,
}

impl Memory {
    /// For an input of that length.
    pub fn of(self, length: usize) -> usize {
        self.fixed + self.per_byte * length
    }
}

impl Target {
    /// The target of a name.
    pub fn named(name: &str) -> Option<&'static Self> {
        TARGETS.iter().find(|target| target.name == name)
    }

    /// Gives it an input.
    ///
    /// # Panics
    /// Something does not hold, or a bound was broken.
    pub fn execute(&self, input: &[u8]) {
        let input = &input[..input.len().min(self.longest)];
        let begun = processor_time();
        let peak = memory::peak_of(|| (self.run)(input));
        let took = processor_time().saturating_sub(begun);
        let bound = self.memory.of(input.len());
        assert!(
            peak <= bound,
            "{}: {peak} bytes at once for an input of {}, and {bound} are allowed",
            self.name,
            input.len()
        );
        assert!(took <= LONGEST, "{}: {took:?} for an input of {} bytes", self.name, input.len());
    }
}

/// Time of a processor that this thread has had.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}
