//! What TLS goes by: files of certificates and keys ([`files`]). The CQL port's is in `frontend::tls`.

pub mod files;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};

/// Who computes: named with each configuration, since a process has no default that could be relied on.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
