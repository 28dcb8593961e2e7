//! What all that speaks TLS goes by: files of certificates and keys ([`files`]), and who computes.

pub mod files;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};

/// Who computes: named with each configuration, since a process has no default that could be relied on.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
