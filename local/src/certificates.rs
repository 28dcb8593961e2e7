//! Certificates of a stack whose clients use TLS: an authority of its own, and what it signs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};

use crate::process::write_whole;
use crate::stack::{private_dir, private_file};

/// Years in which everything holds: a stack is thrown away before the last.
const YEARS: (i32, i32) = (2020, 2060);

/// The authority of a stack, in a folder that its owner alone can read.
#[derive(Clone, Debug)]
pub struct Authority {
    dir: PathBuf,
}

/// A certificate and its key, PEM.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// Its key, not encrypted.
    pub key: String,
}

impl Authority {
    /// The one in this folder, which is there.
    pub(crate) fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// The one in this folder, made if there is none.
    ///
    /// # Errors
    /// The folder can't be written to, or what is there can't be read.
    pub fn make(dir: &Path) -> Result<Self> {
        let authority = Self::at(dir);
        private_dir(dir)?;
        let key_file = authority.key_file();
        if !key_file.exists() {
            let key = KeyPair::generate().context("making the key of an authority")?;
            private_whole(&key_file, &key.serialize_pem())?;
        }
        // It follows from the key, so that a crash in between leaves no authority without a certificate.
        if !authority.certificate().exists() {
            let certificate = params().self_signed(&authority.key()?).context("making an authority")?;
            write_whole(&authority.certificate(), certificate.pem().as_bytes())?;
        }
        Ok(authority)
    }

    /// The file with its certificate, which clients trust.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// Signs a certificate for these names and addresses, of a server or of a client.
    ///
    /// # Errors
    /// The authority can't be read, or a name can't be in a certificate.
    pub fn issue(&self, names: Vec<String>) -> Result<Pair> {
        let issuer = Issuer::new(params(), self.key()?);
        let mut params = CertificateParams::new(names).context("names of a certificate")?;
        params.distinguished_name.push(DnType::CommonName, "replicateddb-local");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        hold(&mut params);
        let key = KeyPair::generate().context("making a key")?;
        let certificate = params.signed_by(&key, &issuer).context("signing a certificate")?;
        Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    fn key_file(&self) -> PathBuf {
        self.dir.join("ca.key")
    }

    fn key(&self) -> Result<KeyPair> {
        let file = self.key_file();
        let pem = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        KeyPair::from_pem(&pem).with_context(|| format!("{} is damaged", file.display()))
    }
}

impl Pair {
    /// Writes it, the key for the owner alone. Each file is whole at any time.
    ///
    /// # Errors
    /// The disk.
    pub fn save(&self, certificate: &Path, key: &Path) -> Result<()> {
        write_whole(certificate, self.certificate.as_bytes())
            .with_context(|| format!("writing {}", certificate.display()))?;
        private_whole(key, &self.key)
    }
}

/// Replaces a file that its owner alone can read, whole or not at all.
fn private_whole(file: &Path, content: &str) -> Result<()> {
    let part = file.with_extension("part");
    // Of a command that was interrupted.
    let _ = fs::remove_file(&part);
    private_file(&part, content)?;
    fs::rename(&part, file).with_context(|| format!("writing {}", file.display()))
}

fn params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "replicateddb-local authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    hold(&mut params);
    params
}

/// Has a certificate hold in [`YEARS`].
fn hold(params: &mut CertificateParams) {
    (params.not_before, params.not_after) = (date_time_ymd(YEARS.0, 1, 1), date_time_ymd(YEARS.1, 1, 1));
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn an_authority_stays_and_what_is_secret_is_its_owners() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("tls");
        // What a command that was interrupted has left is in nobody's way.
        private_dir(&folder).unwrap();
        fs::write(folder.join("ca.part"), "-----BEGIN PRIV").unwrap();
        let made = Authority::make(&folder).unwrap();
        let before = fs::read(made.certificate()).unwrap();
        let pair = made.issue(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        let (certificate, key) = (folder.join("server.pem"), folder.join("server.key"));
        for _ in 0..2 {
            pair.save(&certificate, &key).unwrap();
        }
        for secret in [&key, &folder.join("ca.key")] {
            assert_eq!(secret.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(fs::read_to_string(&certificate).unwrap(), pair.certificate);
        assert_eq!(fs::read(Authority::make(&folder).unwrap().certificate()).unwrap(), before);
    }
}
