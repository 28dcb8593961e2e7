//! The flags of TLS, which clients use.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use replicateddb_replica::{
    frontend::tls::{Files, Keeper, Tls},
    tls::files::Unusable,
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
    #[arg(long, env = "RDB_TLS_OPTIONAL", requires = "tls_certificate")]
    pub tls_optional: bool,
}

impl TlsArgs {
    /// TLS for clients, if they use it, with what looks at its files.
    ///
    /// # Errors
    /// A file can't be used.
    pub fn open(&self) -> Result<Option<(Arc<Tls>, Keeper)>, Unusable> {
        let (Some(certificate), Some(key)) = (&self.tls_certificate, &self.tls_key) else { return Ok(None) };
        let files = Files::new(certificate, key, self.tls_client_ca.as_deref());
        Tls::open(files, self.tls_optional).map(Some)
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

    #[test]
    fn certificate_and_key_come_together_and_the_rest_with_them() {
        let pair = ["--tls-certificate", "/none/c", "--tls-key", "/none/k"];
        assert!(replica(&[]).is_some_and(|tls| matches!(tls.open(), Ok(None))));
        for wrong in [&pair[..2], &pair[2..], &["--tls-client-ca", "x"], &["--tls-optional"]] {
            assert!(replica(wrong).is_none(), "{wrong:?}");
        }
        let all = [&pair[..], &["--tls-client-ca", "/none/a", "--tls-optional"]].concat();
        let tls = replica(&all).expect("flags that fit");
        assert!(tls.tls_optional);
        let said = tls.open().err().expect("an error").to_string();
        assert!(said.starts_with("--tls-certificate /none/c: can't be read"), "{said}");
    }
}
