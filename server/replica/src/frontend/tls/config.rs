//! The files of the CQL port's TLS, and what they make.

use std::{path::Path, sync::Arc};

use rustls::{
    Error, InconsistentKeys, ServerConfig,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};
use tokio::task::spawn_blocking;

use crate::tls::{
    files::{self, Fingerprint, NamedFile, Unusable, Validity},
    provider,
};

/// Where certificate, key and authorities are.
#[derive(Debug, Clone)]
pub struct Files {
    /// The server's certificate, then those between it and its authority.
    pub certificate: NamedFile,
    /// Its key.
    pub key: NamedFile,
    /// Clients must show a certificate signed by one of these.
    pub client_ca: Option<NamedFile>,
}

impl Files {
    /// Those of the flags `--tls-certificate`, `--tls-key` and `--tls-client-ca`.
    pub fn new(certificate: &Path, key: &Path, client_ca: Option<&Path>) -> Self {
        Self {
            certificate: NamedFile::new("--tls-certificate", certificate),
            key: NamedFile::new("--tls-key", key),
            client_ca: client_ca.map(|path| NamedFile::new("--tls-client-ca", path)),
        }
    }
}

type Read = Result<Vec<u8>, Unusable>;

/// What the files held when they were read.
pub struct Contents {
    certificate: Read,
    key: Read,
    client_ca: Option<Read>,
}

/// What they make.
pub struct Loaded {
    /// For new connections.
    pub config: Arc<ServerConfig>,
    /// Of the server's certificate and those between it and its authority.
    pub validity: Validity,
}

impl Contents {
    /// Reads them all, beside whatever else runs.
    pub async fn read(files: &Files) -> Self {
        let Files { certificate, key, client_ca } = files.clone();
        let read = spawn_blocking(move || Self {
            certificate: certificate.read(),
            key: key.read(),
            client_ca: client_ca.as_ref().map(NamedFile::read),
        });
        read.await.unwrap_or_else(|error| {
            let why = files.certificate.unusable(format!("can't be read: {error}"));
            let client_ca = files.client_ca.as_ref().map(|_| Err(why.clone()));
            Self { certificate: Err(why.clone()), key: Err(why), client_ca }
        })
    }

    /// Equal if, and only if, nothing has changed: neither what they hold, nor why they can't be read.
    pub fn fingerprint(&self) -> Fingerprint {
        files::fingerprint([Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()].into_iter().flatten())
    }

    /// What they make, computed beside whatever else runs.
    ///
    /// # Errors
    /// One of them can't be used, or the key is another certificate's.
    pub async fn load(self, files: &Files) -> Result<Loaded, Unusable> {
        let of = files.clone();
        let made = spawn_blocking(move || self.make(&of)).await;
        made.unwrap_or_else(|error| Err(files.certificate.unusable(format!("can't be used: {error}"))))
    }

    fn make(self, files: &Files) -> Result<Loaded, Unusable> {
        let Files { certificate, key, .. } = files;
        let chain = certificate.certificates(&self.certificate?)?;
        let private = key.key(&self.key?)?;
        let validity = Validity::of_chain(&chain)
            .map_err(|n| certificate.unusable(format!("its certificate number {n} can't be read: give another one")))?;
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| certificate.unusable(error.to_string()))?;
        let builder = match (&files.client_ca, self.client_ca) {
            (Some(file), Some(read)) => {
                let roots = Arc::new(file.authorities(&read?)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
                builder.with_client_cert_verifier(verifier.map_err(|error| file.unusable(error.to_string()))?)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, private).map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                key.unusable(format!("is not the key of {certificate}: give both of one pair"))
            }
            Error::InvalidCertificate(reason) => {
                certificate.unusable(format!("its first certificate can't be used: {reason:?}"))
            }
            other => key.unusable(format!("can't be used: {other}; give a key in PKCS#8, PKCS#1 or SEC1")),
        })?;
        if files.client_ca.is_some() {
            // A session that goes on does not have its certificate looked at again, which may have expired meanwhile.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(Loaded { config: Arc::new(config), validity })
    }
}
