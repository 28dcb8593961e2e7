//! Consistency levels of writes: every one orders a write the same way; those that Cassandra refuses are refused.

use replicateddb_cql::Consistency;

use super::{plan::Refusal, write::Write};

/// The levels of a request.
#[derive(Debug, Clone, Copy)]
pub struct Levels {
    /// Its consistency level.
    pub consistency: Consistency,
    /// Its serial consistency level, if it names one.
    pub serial: Option<Consistency>,
}

impl Levels {
    /// Whether a write may have them.
    ///
    /// # Errors
    /// Cassandra refuses them.
    pub fn allow(self, write: &Write) -> Result<(), Refusal> {
        match write.is_conditional() {
            true if self.serial.is_some_and(|serial| !serial.is_serial()) => Err(Refusal::not_serial()),
            true if self.consistency.is_serial() => Err(Refusal::serial_commit(self.consistency)),
            false if write.is_single_row_write() && self.consistency.is_serial() => Err(Refusal::serial_write()),
            _ => Ok(()),
        }
    }
}
