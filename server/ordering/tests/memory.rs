//! The log in memory passes the suite.

use replicateddb_ordering::Incarnation;
use replicateddb_ordering::conformance::{self, Harness};
use replicateddb_ordering::memory::{Config, MemoryLog, MemoryStorage};

struct Memory(MemoryStorage);

impl Harness for Memory {
    type Log = MemoryLog;
    const SEGMENT_ENTRIES: u32 = 10;
    const MAX_BODY_BYTES: usize = 1 << 20;

    async fn open(&self, replica: u32) -> (MemoryLog, Incarnation) {
        self.0.open(replica)
    }
}

#[tokio::test]
async fn conforms() {
    conformance::run_all(async || {
        let config = Config { segment_entries: Memory::SEGMENT_ENTRIES, max_body_bytes: Memory::MAX_BODY_BYTES };
        Memory(MemoryStorage::new(config))
    })
    .await;
}
