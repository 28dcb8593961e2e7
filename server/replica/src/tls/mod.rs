//! What both sides of TLS share: files of certificates and keys ([`files`]); and the side of a client ([`client`]). The side of the
//! CQL port is in `frontend::tls`.

pub mod client;
pub mod files;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};

/// Who computes: named with each configuration, since a process has no default that could be relied on.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
