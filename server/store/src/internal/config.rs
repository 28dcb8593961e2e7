//! The files, and what they make: both ends of a connection.

use std::{
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use rustls::{
    ClientConfig, ServerConfig,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    version::TLS13,
};
use tokio::task::spawn_blocking;

use crate::tls::{
    files::{self, Fingerprint, NamedFile, Unusable, Validity},
    provider,
};

/// Where certificate, key and authorities are.
#[derive(Debug, Clone)]
pub struct Files {
    certificate: NamedFile,
    key: NamedFile,
    ca: NamedFile,
}

/// What is gone by at each end.
pub struct Ends {
    /// Where a connection begins.
    pub client: Arc<ClientConfig>,
    /// Where it is accepted.
    pub server: Arc<ServerConfig>,
    /// The same for another program.
    pub keystore: Keystore,
    /// When the certificate ends, or one between it and its authority: seconds since 1970.
    pub until: i64,
    /// Other files were there since then, and could not be used.
    pub outdated: AtomicBool,
}

/// What another program goes by, PEM. It is secret, so there is no `Debug`.
#[derive(Clone)]
pub struct Keystore {
    /// The key and the certificates.
    pub pair: Vec<u8>,
    /// The authorities of others.
    pub authorities: Vec<u8>,
}

/// What the files held when they were read.
pub struct Contents([Result<Vec<u8>, Unusable>; 3]);

impl Files {
    /// Those of the flags.
    pub fn new(certificate: &Path, key: &Path, ca: &Path) -> Self {
        Self {
            certificate: NamedFile::new("--internal-certificate", certificate),
            key: NamedFile::new("--internal-key", key),
            ca: NamedFile::new("--internal-ca", ca),
        }
    }

    /// Reads them all, beside whatever else runs.
    pub async fn read(&self) -> Contents {
        let files = self.clone();
        let read = spawn_blocking(move || Contents([files.certificate.read(), files.key.read(), files.ca.read()]));
        read.await.unwrap_or_else(|error| {
            let why = self.certificate.unusable(format!("can't be read: {error}"));
            Contents([Err(why.clone()), Err(why.clone()), Err(why)])
        })
    }
}

impl Contents {
    /// Equal if, and only if, nothing has changed: neither what they hold, nor why they can't be read.
    pub fn fingerprint(&self) -> Fingerprint {
        files::fingerprint(&self.0)
    }

    /// What they make. Sessions are not resumed: a certificate is looked at with each connection.
    ///
    /// # Errors
    /// One of them can't be used, or the key is another certificate's.
    pub fn load(self, files: &Files) -> Result<Ends, Unusable> {
        let Files { certificate, key, ca } = files;
        let [chain, private, roots] = self.0;
        let (chain, private, roots) = (chain?, private?, roots?);
        let keystore = Keystore { pair: [&private[..], b"\n", &chain].concat(), authorities: roots.clone() };
        let chain = certificate.certificates(&chain)?;
        let validity = Validity::of_chain(&chain);
        let until =
            validity.map_err(|n| certificate.unusable(format!("its certificate number {n} can't be read")))?.not_after;
        let private = key.key(&private)?;
        let roots = Arc::new(ca.authorities(&roots)?);
        let other = |error: rustls::Error| key.unusable(format!("can't be used with {certificate}: {error}"));
        let client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| certificate.unusable(error.to_string()))?
            .with_root_certificates(roots.clone())
            .with_client_auth_cert(chain.clone(), private.clone_key())
            .map_err(other)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| certificate.unusable(error.to_string()))?
            .with_client_cert_verifier(verifier.map_err(|error| ca.unusable(error.to_string()))?)
            .with_single_cert(chain, private)
            .map_err(other)?;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let (client, server) = (Arc::new(client), Arc::new(server));
        Ok(Ends { client, server, keystore, until, outdated: AtomicBool::new(false) })
    }
}
