//! TLS of the CQL port: what it goes by ([`config`]), read again and again ([`keep`]), and how connections begin ([`accept`]).

mod accept;
mod config;
mod keep;
mod metrics;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

use prometheus_client::registry::Registry;
use rustls::ServerConfig;
use tokio::sync::{Semaphore, watch};

pub use accept::{Accepted, speaks_plain};
pub use config::Files;
pub use keep::Keeper;

use self::{accept::Quiet, metrics::Metrics};
use super::limits::tls_handshakes;
use crate::tls::files::Unusable;

/// TLS of the CQL port.
pub struct Tls {
    files: Files,
    /// Clients without TLS are served, too.
    optional: bool,
    /// For connections to come; those that are open keep what they began with.
    current: watch::Sender<Arc<ServerConfig>>,
    /// Who computes a step of a handshake has one.
    turns: Arc<Semaphore>,
    quiet: Quiet,
    metrics: Metrics,
}

impl Tls {
    /// By these files; with what is to look at them from now on. `optional`: clients without TLS are served, too.
    ///
    /// # Errors
    /// A file can't be used.
    pub async fn open(files: Files, optional: bool) -> Result<(Arc<Self>, Keeper), Unusable> {
        let (seen, loaded) = keep::first(&files).await?;
        let tls = Arc::new(Self {
            files,
            optional,
            current: watch::Sender::new(loaded.config),
            turns: Arc::new(Semaphore::new(tls_handshakes())),
            quiet: Quiet::default(),
            metrics: Metrics::default(),
        });
        let keeper = Keeper::new(tls.clone(), seen, loaded.validity);
        Ok((tls, keeper))
    }

    /// Registers what it counts.
    pub fn register(&self, registry: &mut Registry) {
        self.metrics.register(registry);
    }

    /// In words, for the log.
    pub fn describe(&self) -> &'static str {
        match (self.optional, self.files.client_ca.is_some()) {
            (false, false) => "TLS",
            (false, true) => "TLS, with certificates of clients",
            (true, false) => "TLS, or none",
            (true, true) => "TLS, with certificates of clients, or none",
        }
    }
}

/// Its files alone: what they hold is nobody's to see.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).field("optional", &self.optional).finish_non_exhaustive()
    }
}
