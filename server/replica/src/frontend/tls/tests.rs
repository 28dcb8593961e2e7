//! Clients with and without TLS at a front end that stands between a replica and a Cassandra that do as they are told.

mod ends;
mod files;

use std::{path::PathBuf, sync::Arc};

use futures::SinkExt;
use rcgen::{CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use replicateddb_cql::{
    Consistency,
    frame::{Codec, Envelope, Opcode},
    request,
    response::{self, ErrorCode},
};
use rustls::{
    ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion,
    pki_types::{PrivateKeyDer, ServerName, pem::PemObject},
    version::{TLS12, TLS13},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::codec::Framed;

use super::{Files, Keeper, Tls, metrics::Failure};
use crate::frontend::fake::{Bed, Client, PATIENCE};

const SELECT: &str = "SELECT * FROM a.t";

/// Who signs certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, PEM.
struct Pair {
    certificate: String,
    key: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.as_ref().pem()
    }

    /// For 127.0.0.1; of the year 2000, if it has expired.
    fn issue(&self, expired: bool) -> Pair {
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        if expired {
            (params.not_before, params.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(2000, 12, 31));
        }
        let key = KeyPair::generate().unwrap();
        Pair { certificate: params.signed_by(&key, &self.0).unwrap().pem(), key: key.serialize_pem() }
    }
}

/// The files of a front end, and who has signed them.
struct Place {
    dir: TempDir,
    authority: Authority,
}

impl Place {
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap(), authority: Authority::new("servers") };
        place.put(&place.authority.issue(false));
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn put(&self, pair: &Pair) {
        self.write("c.pem", &pair.certificate);
        self.write("k.pem", &pair.key);
    }

    async fn open(&self, clients: Option<&Authority>, optional: bool) -> (Arc<Tls>, Keeper) {
        let client_ca = clients.map(|authority| {
            self.write("a.pem", &authority.pem());
            self.path("a.pem")
        });
        let files = Files::new(&self.path("c.pem"), &self.path("k.pem"), client_ca.as_deref());
        Tls::open(files, optional).await.unwrap()
    }

    async fn serve(&self, clients: Option<&Authority>, optional: bool) -> (Bed, Arc<Tls>, Keeper) {
        let (tls, keeper) = self.open(clients, optional).await;
        let bed = Bed::start_with(50, Some(tls.clone())).await;
        bed.serve(1);
        (bed, tls, keeper)
    }

    /// A client that trusts these servers, and shows a certificate if it has one.
    fn connector(&self, version: &'static SupportedProtocolVersion, shows: Option<&Pair>) -> TlsConnector {
        connector(&self.authority, version, shows)
    }
}

fn connector(trusts: &Authority, version: &'static SupportedProtocolVersion, shows: Option<&Pair>) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(trusts.0.as_ref().der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(crate::tls::provider())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    let config = match shows {
        None => config.with_no_client_auth(),
        Some(pair) => {
            let chain = PemObject::pem_slice_iter(pair.certificate.as_bytes()).map(Result::unwrap).collect();
            config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap()).unwrap()
        }
    };
    TlsConnector::from(Arc::new(config))
}

fn name() -> ServerName<'static> {
    ServerName::try_from("127.0.0.1").unwrap()
}

/// A client that has begun TLS.
async fn secure(bed: &Bed, connector: &TlsConnector) -> std::io::Result<Client<TlsStream<TcpStream>>> {
    let stream = connector.connect(name(), bed.socket().await).await?;
    Ok(Client { framed: Framed::new(stream, Codec::client(1 << 20)) })
}

/// Whether such a client gets as far as to an answer. Of TLS 1.3 it does not know before whether its certificate is taken.
async fn is_served(bed: &Bed, connector: &TlsConnector) -> bool {
    let Ok(mut client) = secure(bed, connector).await else { return false };
    let body = request::startup(&[("CQL_VERSION", "3.0.0")]).unwrap();
    let startup = Envelope::request(0, Opcode::Startup, body);
    client.framed.send(startup).await.is_ok()
        && client.next().await.is_some_and(|answer| answer.opcode == Opcode::Ready)
}

/// Waits for what is counted when a connection has ended on the other side.
async fn until(what: impl Fn() -> bool) {
    let begin = std::time::Instant::now();
    while !what() {
        assert!(begin.elapsed() < PATIENCE, "it does not come");
        tokio::task::yield_now().await;
    }
}

/// The certificate that a client is shown.
async fn shown(bed: &Bed, connector: &TlsConnector) -> Vec<u8> {
    let client = secure(bed, connector).await.unwrap();
    let (_, session) = client.framed.get_ref().get_ref();
    session.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn queries_over_both_versions_of_tls() {
    let place = Place::new();
    let (bed, tls, _keeper) = place.serve(None, false).await;
    for version in [&TLS12, &TLS13] {
        let mut client = secure(&bed, &place.connector(version, None)).await.unwrap();
        client.start().await;
        assert_eq!(tls.metrics.clients.get(), 1);
        // Larger than a record, and than what is written at once.
        let text = format!("{SELECT} /*{}*/", " ".repeat(300_000));
        for text in [SELECT, &text, "INSERT INTO a.t (k) VALUES (1)"] {
            assert_eq!(client.query(text, Consistency::Quorum).await.opcode, Opcode::Result, "{version:?}");
        }
        drop(client);
        until(|| tls.metrics.clients.get() == 0).await;
    }
    // A client that does not know who has signed the certificate leaves.
    assert!(!is_served(&bed, &connector(&Authority::new("others"), &TLS13, None)).await);
    until(|| tls.metrics.failures(Failure::GivenUp) == 1).await;
}

#[tokio::test]
async fn clients_show_certificates_where_they_have_to() {
    let (place, clients) = (Place::new(), Authority::new("clients"));
    let (bed, tls, _keeper) = place.serve(Some(&clients), false).await;
    let (good, wrong, old) = (clients.issue(false), Authority::new("others").issue(false), clients.issue(true));
    for (n, version) in (1..).zip([&TLS12, &TLS13]) {
        assert!(is_served(&bed, &place.connector(version, Some(&good))).await);
        assert!(!is_served(&bed, &place.connector(version, None)).await);
        assert!(!is_served(&bed, &place.connector(version, Some(&wrong))).await);
        assert!(!is_served(&bed, &place.connector(version, Some(&old))).await);
        until(|| tls.metrics.failures(Failure::NoCertificate) == n).await;
        until(|| tls.metrics.failures(Failure::BadCertificate) == 2 * n).await;
    }
}

/// How the next connection begins, after one that was served and may have got what to go on with.
async fn second(bed: &Bed, connector: &TlsConnector) -> Option<HandshakeKind> {
    assert!(is_served(bed, connector).await);
    let mut client = secure(bed, connector).await.unwrap();
    client.start().await;
    client.framed.get_ref().get_ref().1.handshake_kind()
}

/// Or else it would come in after it has expired.
#[tokio::test]
async fn a_certificate_of_a_client_is_looked_at_each_time() {
    let (place, clients) = (Place::new(), Authority::new("clients"));
    let (strict, ..) = place.serve(Some(&clients), false).await;
    let (bed, ..) = place.serve(None, false).await;
    let pair = clients.issue(false);
    for version in [&TLS12, &TLS13] {
        let own = place.connector(version, Some(&pair));
        assert_eq!(second(&strict, &own).await, Some(HandshakeKind::Full), "{version:?}");
        // Without certificates to look at, sessions go on.
        let connector = place.connector(version, None);
        assert_eq!(second(&bed, &connector).await, Some(HandshakeKind::Resumed), "{version:?}");
    }
}

#[tokio::test]
async fn a_client_without_tls_is_told_so_in_plain_text() {
    let place = Place::new();
    let (bed, tls, _keeper) = place.serve(None, false).await;
    for (n, opcode) in [(1, Opcode::Options), (2, Opcode::Startup)] {
        let mut client = bed.connect().await;
        let answer = client.ask(7, opcode, request::startup(&[("CQL_VERSION", "3.0.0")]).unwrap()).await;
        let error = response::parse_error(&answer.body).unwrap();
        assert_eq!(error.kind(), Some(ErrorCode::Protocol));
        assert!(error.message.contains("TLS only"), "{}", error.message);
        assert!(client.next().await.is_none(), "closed");
        assert_eq!(tls.metrics.failures(Failure::Plaintext), n);
    }
    // What is neither gets an end, and no panic.
    let mut socket = bed.socket().await;
    socket.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("an end").unwrap();
}

#[tokio::test]
async fn an_optional_port_serves_both() {
    let (place, clients) = (Place::new(), Authority::new("clients"));
    let (bed, _tls, _keeper) = place.serve(Some(&clients), true).await;
    let mut plain = bed.client().await;
    assert_eq!(plain.query(SELECT, Consistency::One).await.opcode, Opcode::Result);
    assert!(is_served(&bed, &place.connector(&TLS13, Some(&clients.issue(false)))).await);
    assert!(!is_served(&bed, &place.connector(&TLS13, None)).await, "who uses TLS shows a certificate");
}

/// As `restore --contact` does it.
#[tokio::test]
async fn a_tool_is_a_client_with_tls() {
    use crate::{
        backend::{Endpoint, connect_v5, connect_v5_tls},
        tls::{client, client::Shown, files::NamedFile},
    };
    let (place, clients) = (Place::new(), Authority::new("clients"));
    let (bed, _tls, _keeper) = place.serve(Some(&clients), false).await;
    let own = clients.issue(false);
    place.write("ca.pem", &place.authority.pem());
    place.write("own.pem", &own.certificate);
    place.write("own.key", &own.key);
    let named = |flag, file: &str| NamedFile::new(flag, &place.path(file));
    let shown = Shown { certificate: named("--tls-certificate", "own.pem"), key: named("--tls-key", "own.key") };
    let (at, ca) = (Endpoint::new(bed.address.to_string(), None), named("--tls-ca", "ca.pem"));
    bed.socket().await;
    let with = client::Client::open(&ca, Some(&shown)).unwrap();
    assert!(connect_v5_tls(&at, &with).await.is_ok());
    let without = client::Client::open(&ca, None).unwrap();
    assert!(connect_v5_tls(&at, &without).await.is_err());
    let stranger = client::Client::open(&named("--tls-ca", "a.pem"), Some(&shown)).unwrap();
    let error = connect_v5_tls(&at, &stranger).await.expect_err("an unknown authority").to_string();
    assert!(error.contains("there is no TLS with it"), "{error}");
    let error = connect_v5(&at, None).await.expect_err("no TLS").to_string();
    assert!(error.contains("TLS only"), "{error}");
    let mixed = Shown { key: named("--tls-key", "k.pem"), ..shown };
    assert!(client::Client::open(&ca, Some(&mixed)).err().unwrap().to_string().contains("can't be used with"));
}
