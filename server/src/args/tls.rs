//! The flags of TLS: of a replica, whose clients use it, and of a tool that is such a client.

use std::{path::PathBuf, sync::Arc};

use anyhow::bail;
use clap::Args;
use replicateddb_replica::{
    frontend::tls::{Files, Keeper, Tls},
    tls::{
        client::{Client, Shown},
        files::{NamedFile, Unusable},
    },
};

/// TLS of the CQL port.
#[derive(Debug, Clone, Default, Args)]
pub struct TlsArgs {
    /// Clients use TLS (1.2 or 1.3), and this file has the certificate for it: PEM, the server's own first, then those between it
    /// and its authority. It must name what clients connect to: the address of --advertise, and names that they are given as
    /// contact points. Read again every 10 s, with the other files: connections that begin later use what is there then; what
    /// can't be used changes nothing.
    #[arg(long, env = "RDB_TLS_CERTIFICATE", value_name = "FILE", requires = "tls_key")]
    pub tls_certificate: Option<PathBuf>,
    /// File with the certificate's key: PEM (PKCS#8, PKCS#1 or SEC1), without a passphrase.
    #[arg(long, env = "RDB_TLS_KEY", value_name = "FILE", requires = "tls_certificate")]
    pub tls_key: Option<PathBuf>,
    /// Clients must show a certificate, too, signed by one of those in this file (PEM).
    #[arg(long, env = "RDB_TLS_CLIENT_CA", value_name = "FILE", requires = "tls_certificate")]
    pub tls_client_ca: Option<PathBuf>,
    /// Clients without TLS are served, too, on the same port, and show no certificate: while clients are being changed over.
    #[arg(long, env = "RDB_TLS_OPTIONAL", requires_if("true", "tls_certificate"))]
    pub tls_optional: bool,
}

impl TlsArgs {
    /// TLS for clients, if they use it, with what looks at its files. `log_in`: all clients do.
    ///
    /// # Errors
    /// A file can't be used, or nothing would keep anybody out although clients are to show certificates.
    pub async fn open(&self, log_in: bool) -> anyhow::Result<Option<(Arc<Tls>, Keeper)>> {
        let (Some(certificate), Some(key)) = (&self.tls_certificate, &self.tls_key) else { return Ok(None) };
        if self.tls_optional && self.tls_client_ca.is_some() {
            if !log_in {
                bail!(
                    "--tls-optional lets everybody in who uses no TLS, in spite of --tls-client-ca, and clients do not log in: \
                     leave one of the two out, or have clients log in (--superuser)"
                );
            }
            tracing::warn!(
                "--tls-optional lets clients in that use no TLS and show no certificate, in spite of --tls-client-ca: their \
                 password is all that is asked for"
            );
        }
        let files = Files::new(certificate, key, self.tls_client_ca.as_deref());
        Ok(Some(Tls::open(files, self.tls_optional).await?))
    }
}

/// TLS of a tool that is a client.
#[derive(Debug, Clone, Default, Args)]
pub struct ClientTlsArgs {
    /// Use TLS, and trust a replica whose certificate is signed by one of those in this file (PEM) and names the host of --contact.
    #[arg(long, env = "RDB_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// File with a certificate to show (PEM), where replicas ask for one.
    #[arg(long, value_name = "FILE", requires_all = ["tls_ca", "tls_key"])]
    pub tls_certificate: Option<PathBuf>,
    /// File with its key: PEM (PKCS#8, PKCS#1 or SEC1), without a passphrase.
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    pub tls_key: Option<PathBuf>,
}

impl ClientTlsArgs {
    /// What the tool goes by, if it uses TLS.
    ///
    /// # Errors
    /// A file can't be used.
    pub fn open(&self) -> Result<Option<Client>, Unusable> {
        let Some(authorities) = &self.tls_ca else { return Ok(None) };
        let shown = self.tls_certificate.as_ref().zip(self.tls_key.as_ref()).map(|(certificate, key)| Shown {
            certificate: NamedFile::new("--tls-certificate", certificate),
            key: NamedFile::new("--tls-key", key),
        });
        Client::open(&NamedFile::new("--tls-ca", authorities), shown.as_ref()).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn replica(more: &[&str]) -> Option<TlsArgs> {
        let least = ["replicateddb-server", "replica", "--zookeeper", "a:1", "--cassandra", "b:2", "--keyspace", "k"];
        match Cli::try_parse_from(least.iter().chain(more)).map(|cli| cli.command) {
            Ok(Command::Replica(args)) => Some(args.tls),
            _ => None,
        }
    }

    #[tokio::test]
    async fn certificate_and_key_come_together_and_the_rest_with_them() {
        let pair = ["--tls-certificate", "/none/c", "--tls-key", "/none/k"];
        assert!(matches!(replica(&[]).expect("no flags").open(false).await, Ok(None)));
        for wrong in [&pair[..2], &pair[2..], &["--tls-client-ca", "x"], &["--tls-optional"]] {
            assert!(replica(wrong).is_none(), "{wrong:?}");
        }
        let all = [&pair[..], &["--tls-client-ca", "/none/a", "--tls-optional"]].concat();
        let tls = replica(&all).expect("flags that fit");
        assert!(tls.tls_optional);
        let said = tls.open(false).await.err().expect("an error").to_string();
        assert!(said.contains("--tls-optional lets everybody in") && said.contains("--superuser"), "{said}");
        let said = tls.open(true).await.err().expect("an error").to_string();
        assert!(said.starts_with("--tls-certificate /none/c: can't be read"), "{said}");
    }

    /// In a process of its own: the environment is all threads'.
    #[test]
    fn optional_without_a_certificate_is_refused_where_it_is_on() {
        const MARK: &str = "RDB_TEST_OPTIONAL";
        if let Some(fits) = std::env::var_os(MARK) {
            assert_eq!(replica(&[]).is_some(), fits == "fits");
            return;
        }
        let test = "args::tls::tests::optional_without_a_certificate_is_refused_where_it_is_on";
        for (value, then) in [("false", "fits"), ("true", "refused")] {
            let mut again = std::process::Command::new(std::env::current_exe().unwrap());
            again.args(["--exact", test]).env("RDB_TLS_OPTIONAL", value).env(MARK, then);
            let output = again.output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && said.contains("1 passed"), "{value}: {said}");
        }
    }

    #[test]
    fn a_tool_shows_a_certificate_only_where_it_uses_tls() {
        let restore = |more: &[&str]| {
            let least = ["replicateddb-server", "restore", "--input", "i", "--contact", "h:1"];
            Cli::try_parse_from(least.iter().chain(more)).is_ok()
        };
        assert!(restore(&[]) && restore(&["--tls-ca", "a"]));
        assert!(restore(&["--tls-ca", "a", "--tls-certificate", "c", "--tls-key", "k"]));
        for wrong in [
            &["--tls-certificate", "c", "--tls-key", "k"][..],
            &["--tls-ca", "a", "--tls-key", "k"],
            &["--tls-ca", "a", "--tls-certificate", "c"],
        ] {
            assert!(!restore(wrong), "{wrong:?}");
        }
    }
}
