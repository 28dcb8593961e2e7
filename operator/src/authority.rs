//! The authority that the operator makes for a database, and what it signs: the certificate that clients are shown, and the one that
//! replicas and store agents show each other. No IO; what is made anew depends on chance.
//!
//! Clients hold the authority's certificate, so it is made once and lasts; what it signs is derived from it, and made again as
//! often as that is due.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use time::OffsetDateTime;
use x509_parser::prelude::X509Certificate;

use crate::names::{AUTHORITIES_KEY, CERTIFICATE_KEY, Identity, PRIVATE_KEY_KEY, Tier};

const DAY: i64 = 24 * 60 * 60;
/// How long an authority lasts, seconds: clients that hold it are not to be bothered.
const AUTHORITY_LIFE: i64 = 3_650 * DAY;
/// How long what it signs lasts, seconds.
const CERTIFICATE_LIFE: i64 = 90 * DAY;
/// Everything holds from so many seconds before it was made, for clients whose clocks are behind.
const BACKDATED: i64 = 60 * 60;
/// The part of its life after which a certificate is made anew: numerator and denominator. The rest is for an operator that is
/// away.
const RENEWED_AFTER: (i64, i64) = (2, 3);

/// A certificate and its key, PEM. It can't be shown: there is no `Debug`.
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// Its key, not encrypted.
    pub key: String,
}

/// Why a certificate can't be made; says nothing of keys.
#[derive(Debug, thiserror::Error)]
pub enum CantMake {
    /// The library refuses.
    #[error("a certificate can't be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The clock is of another age.
    #[error("a certificate can't be made: the clock is wrong: {0}")]
    Clock(#[from] time::error::ComponentRange),
}

/// Why a Secret is no authority's, in words that go on after its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// There is no certificate.
    #[error("has no {CERTIFICATE_KEY}, or one that is no PEM certificate")]
    NoCertificate,
    /// It is none that may sign others.
    #[error("has a {CERTIFICATE_KEY} that is no authority's: it may not sign certificates")]
    NotAnAuthority,
    /// There is no key.
    #[error(
        "has no {PRIVATE_KEY_KEY}, or one that is no PEM private key (PKCS#8, PKCS#1 or SEC1, without a passphrase)"
    )]
    NoKey,
    /// The key is another one's.
    #[error("has a {PRIVATE_KEY_KEY} that is not the key of its {CERTIFICATE_KEY}")]
    OtherKey,
}

/// Why a certificate is to be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Due {
    /// There is none.
    #[error("there is none")]
    Missing,
    /// What is there can't be used, or names another authority.
    #[error("the one that is there is damaged, or of another authority")]
    Damaged,
    /// A client would not take it, for one of the names at least.
    #[error("a client that connects to {name} would not take the one that is there: {reason}")]
    Refused {
        /// What the client connects to.
        name: String,
        /// What it says.
        reason: String,
    },
    /// Most of its life is over.
    #[error("most of the life of the one that is there is over")]
    Old,
}

/// Whom an authority signs a certificate for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Clients, who are shown it.
    Clients,
    /// Replicas and store agents, who show it to each other.
    Peers,
}

impl Purpose {
    /// Name of the Secret that has it.
    pub fn secret(self, identity: &Identity) -> String {
        match self {
            Self::Clients => identity.certificate(),
            Self::Peers => identity.peers(),
        }
    }

    /// What it names, for a database of so many replicas.
    pub fn names(self, identity: &Identity, replicas: i32) -> Vec<String> {
        match self {
            Self::Clients => names(identity, replicas),
            Self::Peers => vec![PEER.to_owned()],
        }
    }
}

/// What clients of a database connect to: its Service, each replica by its stable name, and this machine, to which `kubectl
/// port-forward` leads. Addresses of pods are not among them, as they change.
pub fn names(identity: &Identity, replicas: i32) -> Vec<String> {
    let Identity { name, namespace, .. } = identity;
    let mut names = Vec::new();
    let mut host = |host: String| {
        names.extend([format!("{host}.svc.cluster.local"), format!("{host}.svc"), host]);
    };
    host(format!("{name}.{namespace}"));
    let (nodes, set) = (identity.nodes(Tier::Replica), identity.tier(Tier::Replica));
    host(format!("{nodes}.{namespace}"));
    for ordinal in 0..replicas {
        host(format!("{set}-{ordinal}.{nodes}.{namespace}"));
    }
    names.extend([name.as_str(), "localhost", "127.0.0.1", "::1"].map(str::to_owned));
    names
}

/// What the certificate names that replicas and store agents show each other: see `replicateddb_store::internal`.
pub const PEER: &str = "replicateddb.internal";

/// Makes an authority for the database of this name.
///
/// # Errors
/// None that is expected.
pub fn make(name: &str, now: Timestamp) -> Result<Pair, CantMake> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("ReplicatedDB {name} authority"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    hold(&mut params, now, now.as_second().saturating_add(AUTHORITY_LIFE))?;
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// An authority, with what clients say to certificates of which they trust it alone.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    not_after: i64,
    client: Arc<WebPkiServerVerifier>,
}

impl Authority {
    /// The one in this Secret: one that [`make`] made, or any that was put there.
    ///
    /// # Errors
    /// There is none that can be used.
    pub fn of(secret: &Secret) -> Result<Self, Unusable> {
        let pem = text(secret, CERTIFICATE_KEY).ok_or(Unusable::NoCertificate)?;
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| Unusable::NoCertificate)?;
        let parsed = x509_parser::parse_x509_certificate(&der).map_err(|_| Unusable::NoCertificate)?.1;
        let not_after = parsed.validity().not_after.timestamp();
        let signs = parsed.key_usage().ok().flatten().is_none_or(|usage| usage.value.key_cert_sign());
        if !(parsed.is_ca() && signs) {
            return Err(Unusable::NotAnAuthority);
        }
        let key = key_of(secret).ok_or(Unusable::NoKey)?;
        if !is_pair(&parsed, &key) {
            return Err(Unusable::OtherKey);
        }
        let mut roots = RootCertStore::empty();
        roots.add(der.clone()).map_err(|_| Unusable::NoCertificate)?;
        let client = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), aws_lc_rs::default_provider().into());
        let client = client.build().map_err(|_| Unusable::NoCertificate)?;
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|_| Unusable::NoCertificate)?;
        Ok(Self { issuer, pem, not_after, client })
    }

    /// Its certificate, PEM: what clients trust.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.pem
    }

    /// Signs a certificate for these names and addresses, of a server, and of a client for [`PEER`], and makes its key. It does not
    /// outlive the authority.
    ///
    /// # Errors
    /// A name is none.
    pub fn issue(&self, names: &[String], now: Timestamp) -> Result<Pair, CantMake> {
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, "ReplicatedDB");
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        if names.iter().any(|name| name == PEER) {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        params.use_authority_key_identifier_extension = true;
        hold(&mut params, now, now.as_second().saturating_add(CERTIFICATE_LIFE).min(self.not_after))?;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// Whether the certificate in the Secret `held` is to be made, or made anew, and why. One that names more than is asked for
    /// stays: it may be shown by a replica that is about to go.
    #[must_use]
    pub fn due(&self, held: Option<&Secret>, names: &[String], now: Timestamp) -> Option<Due> {
        let Some(held) = held else { return Some(Due::Missing) };
        let Some((der, key)) = text(held, CERTIFICATE_KEY)
            .and_then(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).ok())
            .zip(key_of(held))
        else {
            return Some(Due::Damaged);
        };
        let Ok((_, parsed)) = x509_parser::parse_x509_certificate(&der) else { return Some(Due::Damaged) };
        if !is_pair(&parsed, &key) || text(held, AUTHORITIES_KEY).as_deref() != Some(self.certificate()) {
            return Some(Due::Damaged);
        }
        if let Some(refused) = names.iter().find_map(|name| self.refused(&der, name, now)) {
            return Some(refused);
        }
        let (begins, ends) = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
        let renewed = begins.saturating_add(ends.saturating_sub(begins) / RENEWED_AFTER.1 * RENEWED_AFTER.0);
        // one that ends with its authority would only be made for ever shorter times
        (now.as_second() >= renewed && ends < self.not_after).then_some(Due::Old)
    }

    /// Whether what it signs for these names would be taken: it may have ended, be held to other names, or have a key that is too
    /// weak.
    ///
    /// # Errors
    /// It would not, in words.
    pub fn signs(&self, names: &[String], now: Timestamp) -> Result<(), String> {
        let pair = self.issue(names, now).map_err(|error| error.to_string())?;
        let der = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).map_err(|error| error.to_string())?;
        let refused = names.iter().find_map(|name| self.refused(&der, name, now));
        refused.map_or(Ok(()), |due| Err(due.to_string()))
    }

    /// What a client that connects to `name` says to a certificate, if it does not take it.
    fn refused(&self, certificate: &CertificateDer<'_>, name: &str, now: Timestamp) -> Option<Due> {
        let refused = |reason: String| Some(Due::Refused { name: name.to_owned(), reason });
        let Ok(server) = ServerName::try_from(name) else { return refused("it is no name".to_owned()) };
        let time = Duration::from_secs(u64::try_from(now.as_second()).unwrap_or_default());
        let said = self.client.verify_server_cert(certificate, &[], &server, &[], UnixTime::since_unix_epoch(time));
        said.err().and_then(|error| refused(error.to_string()))
    }

    /// When it ends, once so little is left that it signs nothing any more that lasts as long as it should.
    #[must_use]
    pub fn ends_soon(&self, now: Timestamp) -> Option<Timestamp> {
        let left = self.not_after.saturating_sub(now.as_second());
        (left < CERTIFICATE_LIFE).then(|| Timestamp::from_second(self.not_after).unwrap_or(now))
    }
}

/// Has a certificate hold from now, or rather a moment before, to `end`.
fn hold(params: &mut CertificateParams, now: Timestamp, end: i64) -> Result<(), CantMake> {
    params.not_before = OffsetDateTime::from_unix_timestamp(now.as_second().saturating_sub(BACKDATED))?;
    params.not_after = OffsetDateTime::from_unix_timestamp(end)?;
    Ok(())
}

fn is_pair(certificate: &X509Certificate<'_>, key: &KeyPair) -> bool {
    certificate.public_key().subject_public_key.data[..] == *key.public_key_raw()
}

fn text(secret: &Secret, key: &str) -> Option<String> {
    let value = secret.data.as_ref()?.get(key)?;
    String::from_utf8(value.0.clone()).ok()
}

fn key_of(secret: &Secret) -> Option<KeyPair> {
    KeyPair::from_pem(&text(secret, PRIVATE_KEY_KEY)?).ok()
}

#[cfg(test)]
#[path = "authority_tests.rs"]
mod tests;
