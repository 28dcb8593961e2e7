//! The operator's own metrics.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU64},
};

use http::Method;
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use crate::{
    crd::ReplicatedDBStatus,
    status::{AVAILABLE, DEGRADED},
};

/// Labels of a counter of reconciles.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// Labels of a counter of requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Verb {
    verb: &'static str,
}

/// Labels of a gauge of a resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Object {
    namespace: String,
    name: String,
}

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    reconciles: Family<Outcome, Counter>,
    seconds: Histogram,
    requests: Family<Verb, Counter>,
    replaced: Counter,
    undecodable: Counter,
    leader: Gauge<i64, std::sync::atomic::AtomicI64>,
    available: Family<Object, Gauge>,
    ready_replicas: Family<Object, Gauge>,
    degraded: Family<Object, Gauge>,
    /// This copy leads and its watches have begun.
    pub ready: AtomicBool,
    /// Requests that write, for tests that no write happens at rest.
    pub writes: AtomicU64,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("replicateddb_operator");
        let metrics = Self {
            reconciles: Family::default(),
            seconds: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            requests: Family::default(),
            replaced: Counter::default(),
            undecodable: Counter::default(),
            leader: Gauge::default(),
            available: Family::default(),
            ready_replicas: Family::default(),
            degraded: Family::default(),
            ready: AtomicBool::new(false),
            writes: AtomicU64::new(0),
            registry: Mutex::new(Registry::default()),
        };
        registry.register("reconciles", "Reconciles by outcome", metrics.reconciles.clone());
        registry.register("reconcile_seconds", "Time a reconcile takes", metrics.seconds.clone());
        registry.register("api_requests", "Requests to the API server by verb", metrics.requests.clone());
        registry.register("pods_replaced", "Pods deleted to be replaced", metrics.replaced.clone());
        registry.register("undecodable", "Sightings of resources that could not be read", metrics.undecodable.clone());
        registry.register("leader", "1 while this copy leads", metrics.leader.clone());
        registry.register("resource_available", "1 while clients can connect", metrics.available.clone());
        registry.register("resource_ready_replicas", "Replicas that serve clients", metrics.ready_replicas.clone());
        registry.register("resource_degraded", "1 while something is wrong", metrics.degraded.clone());
        *metrics.registry.lock().unwrap_or_else(PoisonError::into_inner) = registry;
        metrics
    }
}

impl Metrics {
    /// Counts a request.
    pub fn request(&self, method: &Method) {
        let verb = match *method {
            Method::GET | Method::HEAD => "get",
            Method::POST => "post",
            Method::PUT => "put",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "other",
        };
        if verb != "get" {
            self.writes.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        self.requests.get_or_create(&Verb { verb }).inc();
    }

    /// Counts a reconcile that took `seconds`.
    pub fn reconciled(&self, outcome: &'static str, seconds: f64) {
        self.reconciles.get_or_create(&Outcome { outcome }).inc();
        self.seconds.observe(seconds);
    }

    /// Counts a pod that was deleted to be replaced.
    pub fn replaced(&self) {
        self.replaced.inc();
    }

    /// Counts a sighting of a resource that could not be read.
    pub fn undecodable(&self) {
        self.undecodable.inc();
    }

    /// Notes whether this copy leads.
    pub fn leading(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// Notes how a resource is.
    pub fn resource(&self, namespace: &str, name: &str, available: bool, degraded: bool, ready_replicas: i32) {
        let object = Object { namespace: namespace.to_owned(), name: name.to_owned() };
        self.available.get_or_create(&object).set(i64::from(available));
        self.degraded.get_or_create(&object).set(i64::from(degraded));
        self.ready_replicas.get_or_create(&object).set(i64::from(ready_replicas));
    }

    /// Notes what the status of a resource says.
    pub fn note(&self, namespace: &str, name: &str, status: &ReplicatedDBStatus) {
        let holds = |type_: &str| status.conditions.iter().any(|c| c.type_ == type_ && c.status == "True");
        self.resource(namespace, name, holds(AVAILABLE), holds(DEGRADED), status.ready_replicas);
    }

    /// Forgets a resource that has gone.
    pub fn forget(&self, namespace: &str, name: &str) {
        let object = Object { namespace: namespace.to_owned(), name: name.to_owned() };
        self.available.remove(&object);
        self.degraded.remove(&object);
        self.ready_replicas.remove(&object);
    }

    /// Forgets resources, each a namespace and a name.
    pub fn departed(&self, gone: &[(String, String)]) {
        gone.iter().for_each(|(namespace, name)| self.forget(namespace, name));
    }

    /// Everything in the OpenMetrics text format.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry.lock().unwrap_or_else(PoisonError::into_inner))?;
        Ok(text)
    }
}
