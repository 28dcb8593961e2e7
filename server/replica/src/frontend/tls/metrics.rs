//! What the CQL port's TLS counts.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicI64, AtomicU64},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Why a client was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// It does not speak TLS, where everybody has to.
    Plaintext,
    /// It was not done in time.
    Timeout,
    /// It left, or its connection broke.
    Closed,
    /// It showed no certificate, where it has to.
    NoCertificate,
    /// Its certificate is not taken.
    BadCertificate,
    /// It does not take the server's certificate, or has given up for another reason of its own.
    GivenUp,
    /// There is no version or cipher that both know, or what it sends is no TLS.
    Protocol,
}

impl Failure {
    /// As it is counted and logged.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::NoCertificate => "no_certificate",
            Self::BadCertificate => "bad_certificate",
            Self::GivenUp => "given_up",
            Self::Protocol => "protocol",
        }
    }
}

impl EncodeLabelValue for Failure {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), std::fmt::Error> {
        encoder.write_str(self.name())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabel {
    reason: Failure,
}

/// TLS's metrics.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Connections under TLS that are open now.
    pub clients: Gauge<i64, AtomicI64>,
    /// When the first of the certificates in use ends, seconds since 1970.
    pub certificate_expiry: Gauge<i64, AtomicI64>,
    /// 1 while the files can't be used as they are.
    pub files_unusable: Gauge<i64, AtomicI64>,
    failures: Family<FailureLabel, Counter<u64, AtomicU64>>,
}

impl Metrics {
    /// Registers everything.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("replicateddb_tls_clients", "Client connections open now that use TLS", self.clients.clone());
        registry.register(
            "replicateddb_tls_certificate_expiry_seconds",
            "When the certificate of the CQL port ends, or one between it and its authority, in seconds since 1970",
            self.certificate_expiry.clone(),
        );
        registry.register(
            "replicateddb_tls_files_unusable",
            "1 while the files of certificate and key can't be used as they are, and those of before are in use",
            self.files_unusable.clone(),
        );
        registry.register(
            "replicateddb_tls_handshake_failures",
            "Client connections that were not let in by TLS, by reason",
            self.failures.clone(),
        );
    }

    /// Counts a client that was not let in.
    pub fn failed(&self, reason: Failure) {
        self.failures.get_or_create(&FailureLabel { reason }).inc();
    }

    /// How many there were.
    #[cfg(test)]
    pub fn failures(&self, reason: Failure) -> u64 {
        self.failures.get_or_create(&FailureLabel { reason }).get()
    }
}
