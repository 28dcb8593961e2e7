//! TLS as a client of a replica speaks it.

use std::sync::Arc;

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    files::{NamedFile, Unusable},
    provider,
};

/// A certificate to show, and its key.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The certificate and those between it and its authority.
    pub certificate: NamedFile,
    /// Its key.
    pub key: NamedFile,
}

/// What a client goes by: whom it trusts, and what it shows.
#[derive(Clone)]
pub struct Client(TlsConnector);

impl Client {
    /// One that trusts certificates signed by these authorities, and shows a certificate of its own where it is asked for one.
    ///
    /// # Errors
    /// A file can't be used, or the key is another certificate's.
    pub fn open(authorities: &NamedFile, shown: Option<&Shown>) -> Result<Self, Unusable> {
        let roots = authorities.authorities(&authorities.read()?)?;
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| authorities.unusable(error.to_string()))?
            .with_root_certificates(roots);
        let config = match shown {
            None => config.with_no_client_auth(),
            Some(Shown { certificate, key }) => {
                let chain = certificate.certificates(&certificate.read()?)?;
                let config = config.with_client_auth_cert(chain, key.key(&key.read()?)?);
                config.map_err(|error| key.unusable(format!("can't be used with {certificate}: {error}")))?
            }
        };
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// Begins TLS with the server at `address` (`host:port`), whose certificate must name that host.
    ///
    /// # Errors
    /// For people: the host can't be in a certificate, the server does not speak TLS, or one side does not take the other's
    /// certificate.
    pub async fn connect(&self, address: &str, socket: TcpStream) -> Result<TlsStream<TcpStream>, String> {
        let name = server_name(address)?;
        self.0.connect(name, socket).await.map_err(|error| format!("there is no TLS with it: {error}"))
    }
}

/// The host of `host:port`.
fn server_name(address: &str) -> Result<ServerName<'static>, String> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    ServerName::try_from(host.to_owned())
        .map_err(|_| format!("{host:?} is no name or address that a certificate can have"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_servers() {
        for (address, name) in
            [("db.example:9042", "db.example"), ("127.0.0.1:9042", "127.0.0.1"), ("[::1]:9042", "::1")]
        {
            assert_eq!(server_name(address).unwrap().to_str(), name);
        }
        assert!(server_name("a b:9042").is_err());
    }
}
