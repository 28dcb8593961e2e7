//! What both sides of TLS share: files of certificates and keys ([`files`]); and the side of a client ([`client`]). The side of the
//! CQL port is in `frontend::tls`.

pub mod client;

pub use replicateddb_store::tls::files;
pub(crate) use replicateddb_store::tls::provider;
