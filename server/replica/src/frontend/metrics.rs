//! What the front end counts.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64},
    },
    time::Instant,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use tokio::sync::OwnedSemaphorePermit;

/// Kinds of requests as they are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RequestClass {
    /// Relayed at once.
    Read,
    /// Relayed after a barrier.
    LinearizableRead,
    /// PREPARE.
    Prepare,
    /// Ordered data.
    Write,
    /// Ordered schema changes and TRUNCATE.
    Schema,
    /// Answered here: topology, OPTIONS, REGISTER.
    Own,
    /// Refused.
    Refused,
}

impl EncodeLabelValue for RequestClass {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), std::fmt::Error> {
        encoder.write_str(match self {
            Self::Read => "read",
            Self::LinearizableRead => "linearizable_read",
            Self::Prepare => "prepare",
            Self::Write => "write",
            Self::Schema => "schema",
            Self::Own => "own",
            Self::Refused => "refused",
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClassLabel {
    class: RequestClass,
}

/// The front end's metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Client connections open now.
    pub clients: Gauge<i64, AtomicI64>,
    /// Client connections refused because of the bound on them.
    pub clients_refused: Counter<u64, AtomicU64>,
    seconds: Family<ClassLabel, Histogram, fn() -> Histogram>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            clients: Gauge::default(),
            clients_refused: Counter::default(),
            seconds: Family::new_with_constructor(histogram),
        }
    }
}

/// From a quarter of a millisecond to 16 seconds.
fn histogram() -> Histogram {
    Histogram::new(prometheus_client::metrics::histogram::exponential_buckets(0.000_25, 2.0, 17))
}

impl Metrics {
    /// Registers everything.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("replicateddb_clients", "Client connections open now", self.clients.clone());
        registry.register(
            "replicateddb_clients_refused",
            "Client connections refused because too many were open",
            self.clients_refused.clone(),
        );
        registry.register(
            "replicateddb_request_seconds",
            "Time from reading a request to having its answer, by class",
            self.seconds.clone(),
        );
    }

    /// Starts the clock of a request that holds `permits` until it is answered.
    pub fn ticket(self: &Arc<Self>, permits: Vec<OwnedSemaphorePermit>) -> Ticket {
        Ticket { class: RequestClass::Read, started: Instant::now(), metrics: self.clone(), _permits: permits }
    }
}

/// A request being executed: its share of the bounds, given back when it is answered, and its time.
#[derive(Debug)]
pub struct Ticket {
    class: RequestClass,
    started: Instant,
    metrics: Arc<Metrics>,
    _permits: Vec<OwnedSemaphorePermit>,
}

impl Ticket {
    /// Says what the request turned out to be.
    pub fn class(mut self, class: RequestClass) -> Self {
        self.class = class;
        self
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let label = ClassLabel { class: self.class };
        self.metrics.seconds.get_or_create(&label).observe(self.started.elapsed().as_secs_f64());
    }
}
