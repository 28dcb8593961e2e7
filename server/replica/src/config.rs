//! The core's settings and named bounds.

use std::time::Duration;

use replicateddb_ordering::{presence, truncation};

use crate::clock::Clock;
use crate::propose::Limits;

/// How a replica works. `Default` is right for everything but the names.
#[derive(Debug, Clone)]
pub struct Config {
    /// Replica id; unique in the log.
    pub replica: u32,
    /// Name of the ordering engine, for the status.
    pub engine: String,
    /// What records are stamped with.
    pub clock: Clock,
    /// Bounds of proposing.
    pub limits: Limits,
    /// Records executing at once.
    pub executing: usize,
    /// Records that hold or wait for lanes.
    pub in_lanes: usize,
    /// Bytes of records from which on no further ones get lanes.
    pub in_lanes_bytes: usize,
    /// Records read from the log and not yet given lanes.
    pub intake_records: usize,
    /// Bytes of records from which on no further entries are read.
    pub intake_bytes: u64,
    /// Time between restore points, if anything was written since the last one.
    pub restore_point_interval: Duration,
    /// Records between restore points.
    pub restore_point_records: u64,
    /// Bytes of the log between restore points: what it holds has to fit the memory of its servers. `u64::MAX`: none can be
    /// made.
    pub restore_point_bytes: u64,
    /// Longest time that lanes are held for a restore point.
    pub restore_point_timeout: Duration,
    /// Pause after a restore point that failed.
    pub restore_point_retry: Duration,
    /// Time between two looks at what is needed of the log.
    pub log_keep_interval: Duration,
    /// Records that a replica that is away may stay behind the others' restore points before the log no longer waits for it;
    /// ten times as many for one that is there.
    pub log_behind_records: u64,
    /// Bytes of the log that a replica that is away may stay behind the others' restore points; one that is there, see
    /// [`Config::present_bytes`].
    pub log_behind_bytes: u64,
    /// Bytes that the log may hold before writes are refused ([`crate::log_room`]).
    pub log_max_bytes: u64,
    /// Silence after which a replica is away.
    pub log_away_after: Duration,
    /// How long Cassandra must have failed a record with the same error before the replica complains of it ([`crate::verdict`]).
    pub complain_after: Duration,
    /// Fewest entries of the log worth giving up at once.
    pub log_step_entries: u32,
    /// Silence in the log after which a tick is proposed; doubles with each tick in a row.
    pub tick_after: Duration,
    /// Longest silence between two ticks.
    pub tick_at_most: Duration,
    /// First pause before a record is executed again.
    pub apply_retry_first: Duration,
    /// Longest pause before a record is executed again.
    pub apply_retry_last: Duration,
    /// First pause before recovery is tried again; doubles up to the next.
    pub recovery_retry_first: Duration,
    /// Longest pause before recovery is tried again.
    pub recovery_retry_last: Duration,
    /// How long a graceful stop waits for requests on their way.
    pub stop_wait: Duration,
    /// How long it waits, after that, for the records that hold lanes; then it ends without a clean mark.
    pub drain_wait: Duration,
    /// How long recovery waits for Cassandra's clock to pass the restore point's before it says so.
    pub clock_wait: Duration,
}

/// How many times longer than a replica that is away one must have been silent before nobody waits for it: as many as the
/// log holds more for one that is there.
const SILENCES: u32 = 10;
/// Rounds of the log's keeper that may be missed with the time still counted for which others were silent or stood still.
const LOOKS_MISSED: u32 = 3;

/// What the log may hold, bytes, as [`Entry::log_bytes`](crate::record::Entry::log_bytes) counts: three eighths of a heap of
/// 256 MiB. ZooKeeper holds every node in memory; besides that the last 500 transactions once more, for servers that
/// follow, and what is on its way, and with a heap that is half full of nodes it has run out of it under large entries.
pub const LOG_MAX_BYTES: u64 = 96 << 20;
/// Which part of what the log may hold one that is away is waited for, if nothing else is said.
pub const AWAY_SHARE: u64 = 3;
/// Which part of it one that is there is waited for, at most; also one that is away, whatever is said. The newest restore
/// points keep half of it themselves: the older of two of them counts, each a quarter after the one before.
pub const PRESENT_SHARE: u64 = 2;
/// Which part of it may lie between two restore points.
pub const POINT_SHARE: u64 = 4;
/// Which part of it is worth giving up, however few the entries.
const STEP_SHARE: u64 = 16;

impl Config {
    /// Bytes that a replica that is there may stay behind the others' restore points before the log waits for it no longer.
    pub fn present_bytes(&self) -> u64 {
        self.log_max_bytes / PRESENT_SHARE
    }

    /// Whether there are restore points at all.
    pub fn makes_restore_points(&self) -> bool {
        self.restore_point_bytes < u64::MAX
    }

    /// What the log is given up by.
    pub fn log_limits(&self) -> truncation::Limits {
        truncation::Limits {
            behind_records: self.log_behind_records,
            away_bytes: self.log_behind_bytes,
            present_bytes: self.present_bytes(),
            step_entries: self.log_step_entries,
            step_bytes: self.log_max_bytes / STEP_SHARE,
        }
    }

    /// For how long others are waited for, as they are seen by who gives the log up.
    pub fn patience(&self) -> presence::Patience {
        presence::Patience {
            away: self.log_away_after,
            gone: self.silent_after(),
            far_bytes: self.present_bytes(),
            gap: self.log_keep_interval.saturating_mul(LOOKS_MISSED),
        }
    }

    /// Silence after which a verdict does not wait for a replica, reads ask it no longer, and the log is not kept for the sake
    /// of having it on its volume, too, if it is far behind. So long the log is kept for one that is there and stands still, too.
    pub fn silent_after(&self) -> Duration {
        self.log_away_after.saturating_mul(SILENCES)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            replica: 0,
            engine: "ZnodeLog".to_owned(),
            clock: Clock::default(),
            limits: Limits::default(),
            executing: 256,
            in_lanes: 2048,
            in_lanes_bytes: 32 << 20,
            intake_records: 8192,
            intake_bytes: 16 << 20,
            restore_point_interval: Duration::from_secs(60),
            restore_point_records: 100_000,
            restore_point_bytes: 24 << 20,
            restore_point_timeout: Duration::from_secs(60),
            restore_point_retry: Duration::from_secs(15),
            log_keep_interval: Duration::from_secs(10),
            log_behind_records: 500_000,
            log_behind_bytes: LOG_MAX_BYTES / AWAY_SHARE,
            log_max_bytes: LOG_MAX_BYTES,
            log_away_after: Duration::from_secs(60),
            complain_after: Duration::from_secs(60),
            log_step_entries: 1000,
            tick_after: Duration::from_secs(1),
            tick_at_most: Duration::from_secs(16),
            apply_retry_first: Duration::from_millis(50),
            apply_retry_last: Duration::from_secs(2),
            recovery_retry_first: Duration::from_millis(500),
            recovery_retry_last: Duration::from_secs(15),
            stop_wait: Duration::from_secs(10),
            drain_wait: Duration::from_secs(20),
            clock_wait: Duration::from_secs(30),
        }
    }
}
