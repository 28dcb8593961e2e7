//! What the Secret with the certificate that clients are shown must hold. Pure.
//!
//! A replica that finds none that it can use does not start, so the Secret is checked before any pod hangs on it, as far as its
//! keys and the form of what they hold go. Whether a key fits its certificate is for the replicas to find out: those that run
//! go on with the ones of before.

use k8s_openapi::api::core::v1::Secret;

use crate::names::{AUTHORITIES_KEY, CERTIFICATE_KEY, PRIVATE_KEY_KEY};

/// What a PEM block of a certificate begins with.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";
/// What PEM blocks of private keys begin with.
const PRIVATE_KEYS: [&str; 3] =
    ["-----BEGIN PRIVATE KEY-----", "-----BEGIN RSA PRIVATE KEY-----", "-----BEGIN EC PRIVATE KEY-----"];

/// Why a Secret can't be used, in words that go on after its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// A key is missing or empty.
    #[error("has no key {0}, or an empty one")]
    Missing(&'static str),
    /// There are no client authorities.
    #[error(
        "has no key {AUTHORITIES_KEY}, or an empty one, with the authorities of clients that spec.tls.clientCertificates asks for"
    )]
    NoAuthorities,
    /// A key holds something else.
    #[error("has a {0} that is no PEM certificate: it begins with {CERTIFICATE}")]
    NoCertificate(&'static str),
    /// The private key is none that can be read.
    #[error("has a {PRIVATE_KEY_KEY} that is no PEM private key (PKCS#8, PKCS#1 or SEC1, without a passphrase)")]
    NoPrivateKey,
}

/// Checks what a Secret holds; with `authorities`, those of clients, too. The values themselves go into no message.
///
/// # Errors
/// It can't be used.
pub fn check(secret: &Secret, authorities: bool) -> Result<(), Unusable> {
    let value = |key: &'static str| {
        let found = secret.data.as_ref().and_then(|data| data.get(key));
        found.map(|value| String::from_utf8_lossy(&value.0)).filter(|text| !text.trim().is_empty())
    };
    let certificate = value(CERTIFICATE_KEY).ok_or(Unusable::Missing(CERTIFICATE_KEY))?;
    let key = value(PRIVATE_KEY_KEY).ok_or(Unusable::Missing(PRIVATE_KEY_KEY))?;
    if !certificate.contains(CERTIFICATE) {
        return Err(Unusable::NoCertificate(CERTIFICATE_KEY));
    }
    if !PRIVATE_KEYS.iter().any(|begin| key.contains(begin)) {
        return Err(Unusable::NoPrivateKey);
    }
    if authorities && !value(AUTHORITIES_KEY).ok_or(Unusable::NoAuthorities)?.contains(CERTIFICATE) {
        return Err(Unusable::NoCertificate(AUTHORITIES_KEY));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    fn checked(pairs: &[(&str, &str)], authorities: bool) -> Result<(), Unusable> {
        let data = pairs.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())));
        check(&Secret { data: Some(data.collect()), ..Default::default() }, authorities)
    }

    #[test]
    fn a_pair_and_the_authorities_of_clients() {
        let certificate = "subject=CN = orders\n-----BEGIN CERTIFICATE-----\nMII=\n-----END CERTIFICATE-----\n";
        for key in PRIVATE_KEYS {
            let pair = [("tls.crt", certificate), ("tls.key", key)];
            assert_eq!(checked(&pair, false), Ok(()));
            assert_eq!(checked(&pair, true), Err(Unusable::NoAuthorities));
            let all = |authorities| [("tls.crt", certificate), ("tls.key", key), ("ca.crt", authorities)];
            assert_eq!(checked(&all(certificate), true), Ok(()));
            assert_eq!(checked(&all(" \n"), true), Err(Unusable::NoAuthorities));
            assert_eq!(checked(&all("DER"), true), Err(Unusable::NoCertificate("ca.crt")));
            assert_eq!(checked(&all("DER"), false), Ok(()), "nobody asks for them");
        }
        let key = PRIVATE_KEYS[0];
        for (pairs, expected) in [
            (vec![], Unusable::Missing("tls.crt")),
            (vec![("tls.crt", certificate)], Unusable::Missing("tls.key")),
            (vec![("tls.crt", certificate), ("tls.key", "")], Unusable::Missing("tls.key")),
            (vec![("tls.crt", key), ("tls.key", key)], Unusable::NoCertificate("tls.crt")),
            (vec![("tls.crt", certificate), ("tls.key", certificate)], Unusable::NoPrivateKey),
            (
                vec![("tls.crt", certificate), ("tls.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----")],
                Unusable::NoPrivateKey,
            ),
        ] {
            assert_eq!(checked(&pairs, false), Err(expected));
        }
    }

    #[test]
    fn nothing_is_quoted() {
        let told = checked(&[("tls.crt", CERTIFICATE), ("tls.key", "hunter2")], false).unwrap_err().to_string();
        assert!(!told.contains("hunter2") && told.contains("tls.key"), "{told}");
    }
}
