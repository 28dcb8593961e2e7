//! PEM files that TLS goes by: certificates, authorities, keys. What is wrong with one is said with its flag, its path and what
//! to do; nothing of what is in it is ever said.

use std::{
    fmt,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use sha2::{Digest, Sha256};

/// What contents are told apart from others by.
pub type Fingerprint = [u8; 32];

/// Of what files held when they were read. Equal if, and only if, nothing has changed: neither what they hold, nor why they can't be
/// read.
pub fn fingerprint<'a>(reads: impl IntoIterator<Item = &'a Result<Vec<u8>, Unusable>>) -> Fingerprint {
    let mut digest = Sha256::new();
    for read in reads {
        let (kind, bytes) = match read {
            Ok(bytes) => (0, Sha256::digest(bytes)),
            Err(unusable) => (1, Sha256::digest(unusable.to_string())),
        };
        digest.update([kind]);
        digest.update(bytes);
    }
    digest.finalize().into()
}

/// Largest file that is read, bytes: hundreds of certificates.
pub const MAX_FILE: u64 = 1024 * 1024;

/// A file, and the flag that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedFile {
    flag: &'static str,
    path: PathBuf,
}

/// A file that can't be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {reason}")]
pub struct Unusable {
    file: NamedFile,
    reason: String,
}

impl fmt::Display for NamedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.flag, self.path.display())
    }
}

impl NamedFile {
    /// The file at `path`, which `flag` names.
    pub fn new(flag: &'static str, path: &Path) -> Self {
        Self { flag, path: path.to_owned() }
    }

    /// That it can't be used.
    pub fn unusable(&self, reason: impl Into<String>) -> Unusable {
        Unusable { file: self.clone(), reason: reason.into() }
    }

    /// What it holds, [`MAX_FILE`] at most.
    ///
    /// # Errors
    /// It can't be read, or is larger.
    pub fn read(&self) -> Result<Vec<u8>, Unusable> {
        let mut bytes = Vec::new();
        let read = File::open(&self.path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes));
        match read {
            Err(error) => {
                Err(self
                    .unusable(format!("can't be read: {error}; see that it is there and that this user may read it")))
            }
            Ok(length) if length as u64 > MAX_FILE => {
                Err(self.unusable(format!("has more than {MAX_FILE} bytes: give the PEM file that is meant")))
            }
            Ok(_) => Ok(bytes),
        }
    }

    /// The certificates in what it holds: at least one.
    ///
    /// # Errors
    /// There is none, or one is not whole.
    pub fn certificates(&self, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Unusable> {
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        match all {
            Err(_) => Err(self.unusable("is damaged, or not written to its end: give a whole PEM file")),
            Ok(all) if all.is_empty() => {
                Err(self.unusable("holds no certificate: give a PEM file (BEGIN CERTIFICATE)"))
            }
            Ok(all) => Ok(all),
        }
    }

    /// The private key in what it holds.
    ///
    /// # Errors
    /// There is none that can be used without a passphrase, or it is not whole.
    pub fn key(&self, pem: &[u8]) -> Result<PrivateKeyDer<'static>, Unusable> {
        // What exactly is wrong is not said: it might show something of the key.
        match PrivateKeyDer::pem_slice_iter(pem).next() {
            Some(Ok(key)) => Ok(key),
            Some(Err(_)) => Err(self.unusable("is damaged, or not written to its end: give a whole PEM file")),
            None => Err(self.unusable(
                "holds no private key that can be used: give one in PEM (PKCS#8, PKCS#1 or SEC1) without a passphrase, \
                 as `openssl pkey -in FILE` writes it",
            )),
        }
    }

    /// The certificates in what it holds, as those that others must be signed by.
    ///
    /// # Errors
    /// There is none, or one can't be used.
    pub fn authorities(&self, pem: &[u8]) -> Result<RootCertStore, Unusable> {
        let mut roots = RootCertStore::empty();
        for (n, certificate) in self.certificates(pem)?.into_iter().enumerate() {
            roots
                .add(certificate)
                .map_err(|error| self.unusable(format!("its certificate number {} can't be used: {error}", n + 1)))?;
        }
        Ok(roots)
    }
}

/// The first and the last second since 1970 at which a certificate holds, or all of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The first.
    pub not_before: i64,
    /// The last.
    pub not_after: i64,
}

impl Validity {
    /// When all of a chain hold.
    ///
    /// # Errors
    /// The number, from 1, of one that can't be read.
    pub fn of_chain(chain: &[CertificateDer<'_>]) -> Result<Self, usize> {
        let mut all = Self { not_before: i64::MIN, not_after: i64::MAX };
        for (n, certificate) in (1_usize..).zip(chain) {
            let one = Self::of(certificate).ok_or(n)?;
            all.not_before = all.not_before.max(one.not_before);
            all.not_after = all.not_after.min(one.not_after);
        }
        Ok(all)
    }

    /// That of a certificate; `None` if it can't be read.
    fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let validity = certificate.validity();
        Some(Self { not_before: validity.not_before.timestamp(), not_after: validity.not_after.timestamp() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_file_is_said_with_its_flag_and_never_with_what_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        let file = NamedFile::new("--tls-key", &path);
        let said = file.read().unwrap_err().to_string();
        assert!(said.starts_with(&format!("--tls-key {}: can't be read", path.display())), "{said}");
        std::fs::write(&path, vec![b'x'; MAX_FILE as usize + 1]).unwrap();
        assert!(file.read().unwrap_err().to_string().contains("bytes"));
        let secret = "c2VjcmV0c2VjcmV0";
        for pem in [
            "".to_owned(),
            "garbage".to_owned(),
            format!("-----BEGIN PRIVATE KEY-----\n{secret}\n"),
            format!("-----BEGIN PRIVATE KEY-----\n{secret}*\n-----END PRIVATE KEY-----\n"),
            format!("-----BEGIN PRIVATE KEY\n{secret}\n-----END PRIVATE KEY-----\n"),
            format!("-----BEGIN ENCRYPTED PRIVATE KEY-----\n{secret}\n-----END ENCRYPTED PRIVATE KEY-----\n"),
        ] {
            let said = file.key(pem.as_bytes()).unwrap_err().to_string();
            assert!(said.starts_with("--tls-key") && !said.contains(&secret[..6]), "{said}");
            assert!(file.certificates(pem.as_bytes()).is_err() && file.authorities(pem.as_bytes()).is_err());
        }
        let no_certificate = "-----BEGIN CERTIFICATE-----\nc2VjcmV0\n-----END CERTIFICATE-----\n";
        assert!(file.authorities(no_certificate.as_bytes()).unwrap_err().to_string().contains("number 1"));
    }
}
