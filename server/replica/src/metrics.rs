//! What the core counts and measures, for Prometheus.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Label `kind`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KindLabel {
    /// A fixed, small set of names.
    pub kind: String,
}

/// A part of a restore point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Everything is flushed, beside the work; builds of indexes and views are waited for.
    Flush,
    /// Nothing more is admitted, and what has begun is waited for.
    Drain,
    /// What is left is flushed, with the lanes held.
    FlushRest,
    /// The files are linked, beside the work unless a memtable was replaced meanwhile.
    Snapshot,
    /// The snapshot becomes a restore point, beside the work.
    Commit,
}

impl Phase {
    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flush => "flush",
            Self::Drain => "drain",
            Self::FlushRest => "flush_rest",
            Self::Snapshot => "snapshot",
            Self::Commit => "commit",
        }
    }
}

/// Label `phase`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PhaseLabel {
    /// [`Phase::name`].
    pub phase: &'static str,
}

/// The core's metrics. Cheap to clone: one pointer, for every request has a handle of its own.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Arc<Families>);

impl Deref for Metrics {
    type Target = Families;

    fn deref(&self) -> &Families {
        &self.0
    }
}

/// What [`Metrics`] holds.
#[derive(Debug)]
pub struct Families {
    /// Seconds from proposing an entry to its commit in the log.
    pub append_seconds: Histogram,
    /// Seconds of executing a record on the local Cassandra, retries included.
    pub apply_seconds: Histogram,
    /// Seconds from a client's request to its outcome.
    pub propose_seconds: Histogram,
    /// Seconds that lanes were held for a restore point.
    pub restore_point_seconds: Histogram,
    /// Seconds of each part of a restore point.
    pub restore_point_phase_seconds: Family<PhaseLabel, Histogram, fn() -> Histogram>,
    /// Records applied, by kind.
    pub applied: Family<KindLabel, Counter>,
    /// Conditional writes whose condition was decided in memory.
    pub in_memory: Counter,
    /// Records applied while not serving.
    pub replayed: Counter,
    /// Entries appended, every copy counted.
    pub appends: Counter,
    /// Barriers for which the other replicas were asked, in place of the log.
    pub asked_barriers: Counter,
    /// Records proposed.
    pub proposed: Counter,
    /// Restore points committed.
    pub restore_points: Counter,
    /// Rewinds.
    pub rewinds: Counter,
    /// Times that the beginning of the log was given up.
    pub truncations: Counter,
    /// Restore points that were copied from another replica.
    pub taken_over: Counter,
    /// Records that were skipped by a verdict.
    pub skipped: Counter,
    /// Records that Cassandra fails to execute, with errors that are not known to be theirs.
    pub failing: Gauge<u64, AtomicU64>,
    /// What went wrong, by kind.
    pub errors: Family<KindLabel, Counter>,
    /// Every record up to this index is applied.
    pub applied_index: Gauge<u64, AtomicU64>,
    /// Records known to be in the log and not applied.
    pub lag: Gauge<u64, AtomicU64>,
    /// Age of the oldest entry of the log of which something is not applied, seconds.
    pub lag_seconds: Gauge<f64, AtomicU64>,
    /// Ranges of request numbers that are remembered to drop duplicates.
    pub remembered: Gauge<u64, AtomicU64>,
    /// Records that hold or wait for lanes.
    pub in_lanes: Gauge<u64, AtomicU64>,
    /// Records executing.
    pub executing: Gauge<u64, AtomicU64>,
    /// Requests waiting to be proposed.
    pub queue: Gauge<i64, AtomicI64>,
    /// Bytes that the log holds, as [`crate::log_room`] counts them; 0 if that is not known.
    pub log_bytes_held: Gauge<u64, AtomicU64>,
    /// Bytes that the log may hold before writes are refused.
    pub log_bytes_limit: Gauge<u64, AtomicU64>,
    /// 1 while clients are served.
    pub serving: Gauge<u64, AtomicU64>,
    /// Index of the newest restore point.
    pub restore_point_index: Gauge<u64, AtomicU64>,
    /// When this process made its newest restore point, seconds since 1970; 0 before the first.
    pub restore_point_time: Gauge<f64, AtomicU64>,
}

fn latency() -> Histogram {
    // 0.25 ms to 8 s.
    Histogram::new(exponential_buckets(0.000_25, 2.0, 16))
}

impl Default for Families {
    fn default() -> Self {
        Self {
            append_seconds: latency(),
            apply_seconds: latency(),
            propose_seconds: latency(),
            restore_point_seconds: latency(),
            restore_point_phase_seconds: Family::new_with_constructor(latency),
            applied: Family::default(),
            in_memory: Counter::default(),
            replayed: Counter::default(),
            appends: Counter::default(),
            asked_barriers: Counter::default(),
            proposed: Counter::default(),
            restore_points: Counter::default(),
            rewinds: Counter::default(),
            truncations: Counter::default(),
            taken_over: Counter::default(),
            skipped: Counter::default(),
            failing: Gauge::default(),
            errors: Family::default(),
            applied_index: Gauge::default(),
            lag: Gauge::default(),
            lag_seconds: Gauge::default(),
            remembered: Gauge::default(),
            in_lanes: Gauge::default(),
            executing: Gauge::default(),
            queue: Gauge::default(),
            log_bytes_held: Gauge::default(),
            log_bytes_limit: Gauge::default(),
            serving: Gauge::default(),
            restore_point_index: Gauge::default(),
            restore_point_time: Gauge::default(),
        }
    }
}

impl Metrics {
    /// Counts something that went wrong.
    pub fn error(&self, kind: &str) {
        self.errors.get_or_create(&KindLabel { kind: kind.to_owned() }).inc();
    }

    /// Notes how long a part of a restore point took.
    pub fn restore_point_phase(&self, phase: Phase, took: Duration) {
        let label = PhaseLabel { phase: phase.name() };
        self.restore_point_phase_seconds.get_or_create(&label).observe(took.as_secs_f64());
    }

    /// Registers everything under the prefix `replicateddb`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("replicateddb");
        let mut histogram = |name, help, metric: &Histogram| registry.register(name, help, metric.clone());
        histogram("append_seconds", "From proposing an entry to its commit in the log", &self.append_seconds);
        histogram("apply_seconds", "Executing a record on the local Cassandra", &self.apply_seconds);
        histogram("propose_seconds", "From a client's request to its outcome", &self.propose_seconds);
        histogram("restore_point_seconds", "Lanes held for a restore point", &self.restore_point_seconds);
        let phases = self.restore_point_phase_seconds.clone();
        registry.register("restore_point_phase_seconds", "Parts of a restore point", phases);
        let mut counter = |name, help, metric: &Counter| registry.register(name, help, metric.clone());
        counter("in_memory_conditions", "Conditional writes decided in memory", &self.in_memory);
        counter("replayed_records", "Records applied while not serving", &self.replayed);
        counter("appends", "Entries appended to the log", &self.appends);
        let help = "Barriers for which the other replicas were asked, in place of the log";
        counter("asked_barriers", help, &self.asked_barriers);
        counter("proposed_records", "Records proposed", &self.proposed);
        counter("restore_points", "Restore points committed", &self.restore_points);
        counter("rewinds", "Rewinds of the store", &self.rewinds);
        counter("truncations", "Times that the beginning of the log was given up", &self.truncations);
        counter("restore_points_taken_over", "Restore points copied from another replica", &self.taken_over);
        counter("skipped_records", "Records skipped by a verdict of all replicas", &self.skipped);
        registry.register("applied_records", "Records applied, by kind", self.applied.clone());
        registry.register("errors", "What went wrong, by kind", self.errors.clone());
        registry.register("proposal_queue", "Requests waiting to be proposed", self.queue.clone());
        let help = "Age of the oldest entry of the log of which something is not applied";
        registry.register("lag_seconds", help, self.lag_seconds.clone());
        let help = "When this process made its newest restore point, seconds since 1970; 0 before the first";
        registry.register("restore_point_timestamp_seconds", help, self.restore_point_time.clone());
        let mut gauge = |name, help, metric: &Gauge<u64, AtomicU64>| registry.register(name, help, metric.clone());
        gauge("applied_index", "Every record up to this index is applied", &self.applied_index);
        gauge("lag_records", "Records known to be in the log and not applied", &self.lag);
        let help = "Ranges of request numbers that are remembered to drop duplicates";
        gauge("remembered_ranges", help, &self.remembered);
        gauge("lane_records", "Records that hold or wait for lanes", &self.in_lanes);
        gauge("executing_records", "Records executing", &self.executing);
        gauge("failing_records", "Records that Cassandra answers with an error each time", &self.failing);
        let help = "Bytes that the log holds in the memory of its servers, if known";
        gauge("log_held_bytes", help, &self.log_bytes_held);
        gauge("log_limit_bytes", "Bytes that the log may hold before writes are refused", &self.log_bytes_limit);
        gauge("serving", "1 while clients are served", &self.serving);
        gauge("restore_point_index", "Index of the newest restore point", &self.restore_point_index);
    }
}
