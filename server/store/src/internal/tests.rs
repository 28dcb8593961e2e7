//! Processes that speak with each other over real sockets, with certificates that fit and others.

use std::{net::SocketAddr, path::Path};

use axum::{
    Router,
    extract::Request,
    http::{StatusCode, header::UPGRADE},
    routing::{get, post},
};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;

/// Who signs certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Puts a certificate for `name` where its process has its files; the key last, or not at all.
    fn put(&self, dir: &Path, name: &str, with_key: bool) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        std::fs::write(dir.join("c.pem"), params.signed_by(&key, &self.0).unwrap().pem()).unwrap();
        std::fs::write(dir.join("a.pem"), self.0.as_ref().pem()).unwrap();
        if with_key {
            std::fs::write(dir.join("k.pem"), key.serialize_pem()).unwrap();
        }
    }
}

/// A process of a database, and where its files are.
struct Process {
    internal: Internal,
    looking: Looking,
    dir: TempDir,
}

impl Process {
    async fn new(authority: &Authority, name: &str, optional: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        authority.put(dir.path(), name, true);
        let file = |name: &str| Some(dir.path().join(name));
        let (internal_certificate, internal_key, internal_ca) = (file("c.pem"), file("k.pem"), file("a.pem"));
        let args = InternalArgs { internal_certificate, internal_key, internal_ca, internal_optional: optional };
        let (looking, current) = Looking::begin(&args).await.unwrap().unwrap();
        Self { internal: Internal::over(optional, current, None), looking, dir }
    }
}

/// What a process answers: to anybody, to its like, with as much as was sent, and on what is no HTTP any more.
fn router() -> Router {
    let echo = async |body: String| body;
    let turned = async |request: Request| {
        tokio::spawn(async move {
            let mut stream = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
            let mut word = [0; 4];
            stream.read_exact(&mut word).await.unwrap();
            stream.write_all(&word).await.unwrap();
        });
        (StatusCode::SWITCHING_PROTOCOLS, [("connection", "upgrade"), ("upgrade", "test")])
    };
    let open = async || "alive";
    Router::new().route("/livez", get(open)).route("/echo", post(echo)).route("/turned", get(turned))
}

async fn serve(internal: &Internal) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let internal = internal.clone();
    tokio::spawn(async move { internal.serve(listener, router(), &["/livez"]).await });
    address
}

/// What comes of a request: what is answered, and how.
async fn ask(internal: &Internal, to: SocketAddr, body: &str) -> Result<(StatusCode, String), CallError> {
    let request = reqwest::Client::new().post(format!("http://{to}/echo?x=1")).body(body.to_owned());
    let response = internal.send(request.timeout(Duration::from_secs(20))).await?;
    Ok((response.status(), response.text().await?))
}

fn told(text: &str) -> (StatusCode, String) {
    (StatusCode::OK, text.to_owned())
}

#[tokio::test]
async fn processes_of_a_database_speak_tls() {
    let authority = Authority::new("a");
    let (one, other) = (Process::new(&authority, NAME, false).await, Process::new(&authority, NAME, false).await);
    let address = serve(&one.internal).await;
    let large = "x".repeat(1 << 20);
    for body in ["", "word", &large] {
        assert_eq!(ask(&other.internal, address, body).await.unwrap(), told(body));
    }
    // a name in place of an address, and what is not there
    let named = format!("http://localhost:{}/none", address.port());
    let missing = other.internal.send(reqwest::Client::new().get(named.clone())).await.unwrap();
    assert_eq!((missing.status(), missing.url().as_str()), (StatusCode::NOT_FOUND, named.as_str()));
    // what is pushed goes over a connection that is upgraded
    let request = reqwest::Client::new().get(format!("http://{address}/turned"));
    let response = other.internal.send(request.header("connection", "upgrade").header(UPGRADE, "test")).await.unwrap();
    let mut stream = response.upgrade().await.unwrap();
    stream.write_all(b"word").await.unwrap();
    let mut word = [0; 4];
    stream.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"word");
}

#[tokio::test]
async fn others_get_what_is_everybodys() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let one = Process::new(&ours, NAME, false).await;
    let address = serve(&one.internal).await;
    // without TLS
    let plain = Internal::default();
    let (status, text) = ask(&plain, address, "word").await.unwrap();
    assert!(status == StatusCode::FORBIDDEN && text.contains("--internal-certificate"), "{status} {text}");
    let alive = plain.send(reqwest::Client::new().get(format!("http://{address}/livez"))).await.unwrap();
    assert_eq!(alive.text().await.unwrap(), "alive");
    // of another authority, and of the same for something else
    for stranger in [Process::new(&theirs, NAME, false).await, Process::new(&ours, "shop.internal", false).await] {
        assert!(ask(&stranger.internal, address, "word").await.is_err());
        // nor is one taken for a process of the database
        let other = serve(&stranger.internal).await;
        let error = ask(&one.internal, other, "word").await.unwrap_err().to_string();
        assert!(error.contains("there is no TLS with it"), "{error}");
    }
    // nor is anything said in plain where TLS is not optional
    let other = serve(&plain).await;
    assert!(ask(&one.internal, other, "word").await.is_err());
}

/// A database that is changed over: any two of before, of meanwhile and of afterwards that can meet.
#[tokio::test]
async fn while_it_is_optional_everybody_is_spoken_with() {
    let authority = Authority::new("a");
    let before = Internal::default();
    let meanwhile = Process::new(&authority, NAME, true).await.internal;
    let afterwards = Process::new(&authority, NAME, false).await.internal;
    for (from, to) in [
        (&before, &meanwhile),
        (&meanwhile, &before),
        (&meanwhile, &meanwhile),
        (&meanwhile, &afterwards),
        (&afterwards, &meanwhile),
    ] {
        let address = serve(to).await;
        assert_eq!(ask(from, address, "word").await.unwrap(), told("word"), "{from:?} {to:?}");
    }
}

#[tokio::test]
async fn new_files_are_for_new_connections_and_damaged_ones_change_nothing() {
    let (first, second) = (Authority::new("first"), Authority::new("second"));
    let (mut one, mut other) = (Process::new(&first, NAME, false).await, Process::new(&first, NAME, false).await);
    let address = serve(&one.internal).await;
    let in_use = one.internal.in_use().unwrap();
    assert!(in_use.until() > 2_000_000_000 && !in_use.is_outdated(), "{in_use:?}");
    // written by half: the key is another certificate's
    second.put(one.dir.path(), NAME, false);
    one.looking.look().await;
    assert!(in_use.is_outdated());
    assert_eq!(ask(&other.internal, address, "word").await.unwrap(), told("word"));
    second.put(one.dir.path(), NAME, true);
    one.looking.look().await;
    assert!(!in_use.is_outdated());
    assert!(ask(&other.internal, address, "word").await.is_err(), "it knows of the new authority alone");
    second.put(other.dir.path(), NAME, true);
    other.looking.look().await;
    assert_eq!(ask(&other.internal, address, "word").await.unwrap(), told("word"));
}

#[tokio::test]
async fn files_that_can_not_be_used_are_told_and_a_url_that_is_none() {
    let authority = Authority::new("a");
    let one = Process::new(&authority, NAME, false).await;
    std::fs::write(one.dir.path().join("k.pem"), "hunter2").unwrap();
    let file = |name: &str| Some(one.dir.path().join(name));
    let args = InternalArgs {
        internal_certificate: file("c.pem"),
        internal_key: file("k.pem"),
        internal_ca: file("a.pem"),
        internal_optional: false,
    };
    let said = Internal::open(&args).await.unwrap_err().to_string();
    assert!(said.starts_with("--internal-key") && !said.contains("hunter2"), "{said}");
    let error = one.internal.send(reqwest::Client::new().get("http://nowhere/")).await.unwrap_err();
    assert!(matches!(error, CallError::Url(_)), "{error}");
}

/// Who is there and is not trusted, or does not trust us, is told from who is not there, or speaks no TLS.
#[tokio::test]
async fn distrust_is_an_answer() {
    let (first, second) = (Authority::new("first"), Authority::new("second"));
    let old = Process::new(&first, NAME, false).await;
    let mut new = Process::new(&second, NAME, false).await;
    let address = serve(&old.internal).await.to_string();
    let said = async |internal: &Internal, address: &str| {
        let mut stream = internal.connect(address).await?;
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await?;
        stream.read_u8().await?;
        anyhow::Ok(())
    };
    said(&old.internal, &address).await.unwrap();
    let error = said(&new.internal, &address).await.unwrap_err();
    assert!(is_distrust(&error), "what is shown is of another authority: {error:?}");
    // it trusts both, but is trusted itself by those alone who know of the second one
    let both = first.0.as_ref().pem() + &second.0.as_ref().pem();
    std::fs::write(new.dir.path().join("a.pem"), both).unwrap();
    new.looking.look().await;
    let error = said(&new.internal, &address).await.unwrap_err();
    assert!(is_distrust(&error), "what it shows is of another authority: {error:?}");
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = closed.local_addr().unwrap().to_string();
    drop(closed);
    let error = said(&new.internal, &nobody).await.unwrap_err();
    assert!(!is_distrust(&error), "nobody is there: {error:?}");
}

/// The files may be being replaced when a process starts.
#[tokio::test]
async fn a_start_looks_again_while_files_change() {
    let (first_one, second) = (Authority::new("first"), Authority::new("second"));
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    first_one.put(dir.path(), NAME, true);
    second.put(dir.path(), NAME, false);
    let files = Files::new(&path("c.pem"), &path("k.pem"), &path("a.pem"));
    assert!(first(&files, async || ()).await.is_err(), "nothing changes");
    assert!(first(&files, async || second.put(dir.path(), NAME, true)).await.is_ok());
}
