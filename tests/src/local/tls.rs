//! Clients that use TLS: whoever does is served, whoever doesn't is told so, and certificates are replaced under way.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use replicateddb_local::{Authority, Tls};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::policies::host_filter::AllowListHostFilter;
use scylla::statement::Consistency;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{Local, REPLICAS, REQUEST_LIMIT, number, refused, tool};
use crate::drivers::program;
use crate::scenario::{Scenario, cache_dir};

/// How long something new in the files may take to hold: replicas look at them every ten seconds.
const TAKEN_LIMIT: Duration = Duration::from_secs(40);
/// How long the superuser may take to be there.
const LOGIN_LIMIT: Duration = Duration::from_secs(40);
/// From a cqlsh's start to its end.
const CQLSH_LIMIT: Duration = Duration::from_secs(60);
/// Pause between two looks.
const AGAIN: Duration = Duration::from_millis(250);

pub fn scenarios() -> Vec<Scenario<Local>> {
    vec![Scenario {
        name: "tls",
        proves: "clients with TLS are served, those without are told so; a certificate is replaced under way, and a bad one is not taken",
        run: tls,
    }]
}

fn tls(local: &mut Local) -> Result<()> {
    let tls = local.stack.tls().context("a stack whose clients use TLS")?;
    local.runtime.block_on(async {
        let trust = trusting(&tls.authority.certificate())?;
        let boss = superuser(local, 0, &trust).await?;
        served(local, &boss, &trust).await?;
        refused_without(local).await?;
        strangers(local).await?;
        cqlsh(local, &tls).await?;
        replaced(local, &tls, &boss, &trust).await
    })?;
    local.verify()?;
    restored(local, &tls)?;
    local.verify()
}

/// The driver, as the superuser and as a role that may do little, through every replica.
async fn served(local: &Local, boss: &Session, trust: &Arc<ClientConfig>) -> Result<()> {
    for text in [
        "CREATE KEYSPACE safe WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 3}",
        "CREATE TABLE safe.t (id int PRIMARY KEY, v text)",
        "CREATE ROLE alice WITH PASSWORD = 'first' AND LOGIN = true",
        "GRANT SELECT ON safe.t TO alice",
    ] {
        boss.query_unpaged(text, ()).await.with_context(|| text.to_owned())?;
    }
    // Larger than a record of TLS.
    let large = "x".repeat(200_000);
    for replica in 0..REPLICAS {
        let boss = superuser(local, replica, trust).await?;
        boss.query_unpaged("INSERT INTO safe.t (id, v) VALUES (?, ?)", (i32::from(replica), &large)).await?;
        let alice = log_in(local.stack.cql(replica), "alice", "first", trust).await?;
        let why = refused(&alice, "INSERT INTO safe.t (id, v) VALUES (9, 'x')").await?;
        ensure!(why.contains("User alice has no MODIFY permission on <table safe.t>"), "{why}");
        let read = alice.query_unpaged("SELECT v FROM safe.t WHERE id = ?", (i32::from(replica),)).await?;
        let (found,) = read.into_rows_result()?.single_row::<(String,)>()?;
        ensure!(found == large, "replica-{replica} gives another value back");
    }
    Ok(())
}

/// The driver without TLS hears why.
async fn refused_without(local: &Local) -> Result<()> {
    for replica in 0..REPLICAS {
        let Err(error) = local.session(replica, Consistency::One).await else {
            bail!("replica-{replica} serves without TLS");
        };
        ensure!(format!("{error:?}").contains("TLS only"), "replica-{replica}: {error:?}");
    }
    Ok(())
}

/// Whoever trusts another authority does not come in.
async fn strangers(local: &Local) -> Result<()> {
    let other = Authority::make(&local.stack.dir().join("another-authority"))?;
    let error =
        shown(local.stack.cql(0), &trusting(&other.certificate())?).await.err().context("any authority does")?;
    ensure!(format!("{error:#}").contains("invalid peer certificate"), "{error:#}");
    Ok(())
}

/// cqlsh, and so the Python driver, which checks the certificate against the authority.
async fn cqlsh(local: &Local, tls: &Tls) -> Result<()> {
    let superuser = local.stack.superuser().context("a stack whose clients log in")?;
    let password = std::fs::read_to_string(&superuser.password_file)?;
    let folder = tempfile::tempdir()?;
    let settings = folder.path().join("cqlshrc");
    std::fs::write(&settings, "")?;
    let host = local.stack.cql(1).ip().to_string();
    let run = async |more: &[&str]| {
        let mut command = program::command("cqlsh");
        command.env("REPLICATEDDB_CACHE", cache_dir()).env("HOME", folder.path());
        command.env("SSL_CERTFILE", tls.authority.certificate()).args([&host, "--cqlshrc"]).arg(&settings);
        command.args(["-u", superuser.name, "-p", password.trim(), "-e", "SELECT count(*) FROM safe.t"]).args(more);
        let output = timeout(CQLSH_LIMIT, command.output()).await.context("cqlsh does not end")??;
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        Ok::<_, anyhow::Error>((output.status.success(), said))
    };
    let (done, said) = run(&["--ssl"]).await?;
    ensure!(done && said.contains("(1 rows)"), "cqlsh --ssl: {said}");
    let (done, said) = run(&[]).await?;
    ensure!(!done && said.contains("TLS only"), "cqlsh without --ssl: {said}");
    Ok(())
}

/// A certificate is replaced while a client is connected, by a bad one, then by a good one.
async fn replaced(local: &Local, tls: &Tls, boss: &Session, trust: &Arc<ClientConfig>) -> Result<()> {
    let names = local.stack.settings().client_names();
    let [old, new] = [tls.authority.issue(names.clone())?, tls.authority.issue(names)?];
    old.save(&tls.certificate, &tls.key)?;
    let in_use = der(&old.certificate)?;
    everywhere(local, "the first certificate", async |i| Ok(shown(local.stack.cql(i), trust).await? == in_use)).await?;
    // A key that is not the certificate's.
    std::fs::write(&tls.key, &new.key)?;
    everywhere(local, "that it does not fit", async |i| unusable(local, i).await).await?;
    for replica in 0..REPLICAS {
        ensure!(shown(local.stack.cql(replica), trust).await? == in_use, "replica-{replica} uses what does not fit");
    }
    number(boss, "SELECT count(*) FROM safe.t").await.context("a driver that was there before files that don't fit")?;
    new.save(&tls.certificate, &tls.key)?;
    let wanted = der(&new.certificate)?;
    let begin = Instant::now();
    everywhere(local, "the new certificate", async |i| Ok(shown(local.stack.cql(i), trust).await? == wanted)).await?;
    println!("    the new certificate is used after {:.1} s", begin.elapsed().as_secs_f64());
    everywhere(local, "that it fits", async |i| Ok(!unusable(local, i).await?)).await?;
    // By connections that are open, or by new ones: drivers don't say which.
    number(boss, "SELECT count(*) FROM safe.t").await.context("a driver that was there before the new certificate")?;
    Ok(())
}

/// A keyspace comes back through the tool, which uses TLS, too.
fn restored(local: &Local, tls: &Tls) -> Result<()> {
    let superuser = local.stack.superuser().context("a stack whose clients log in")?;
    let output = local.stack.dir().join("safe-1");
    let folder = output.to_str().context("a folder's name that is no text")?;
    let (replica, token) = (local.stack.admin(1).to_string(), local.stack.token_file().display().to_string());
    let (done, said) = tool(["checkpoint", "--replica", &replica, "--agent-token-file", &token, "--output", folder])?;
    ensure!(done, "{said}");
    local.runtime.block_on(async {
        let boss = superuser_again(local, tls).await?;
        boss.query_unpaged("DROP KEYSPACE safe", ()).await.context("dropping the keyspace")
    })?;
    let (contact, password) = (local.stack.cql(2).to_string(), superuser.password_file.display().to_string());
    let plain = ["restore", "--input", folder, "--contact", &contact, "--keyspace", "safe"];
    let login = ["--user", superuser.name, "--password-file", &password];
    let (done, said) = tool(plain.into_iter().chain(login))?;
    ensure!(!done && said.contains("TLS only"), "restore without TLS: {said}");
    let authority = tls.authority.certificate().display().to_string();
    let (done, said) = tool(plain.into_iter().chain(login).chain(["--tls-ca", &authority]))?;
    ensure!(done && said.contains("restored from"), "{said}");
    local.runtime.block_on(async {
        let boss = superuser_again(local, tls).await?;
        let rows = number(&boss, "SELECT count(*) FROM safe.t").await?;
        ensure!(rows == i64::from(REPLICAS), "{rows} rows are back");
        Ok(())
    })
}

async fn superuser_again(local: &Local, tls: &Tls) -> Result<Session> {
    superuser(local, 0, &trusting(&tls.authority.certificate())?).await
}

/// Waits until something holds for every replica.
async fn everywhere(local: &Local, what: &str, holds: impl AsyncFn(u8) -> Result<bool>) -> Result<()> {
    let begin = Instant::now();
    for replica in 0..local.stack.settings().replicas {
        while !holds(replica).await? {
            ensure!(begin.elapsed() < TAKEN_LIMIT, "replica-{replica} does not know {what}");
            tokio::time::sleep(AGAIN).await;
        }
    }
    Ok(())
}

/// Whether a replica says that the files are none that it could use.
async fn unusable(local: &Local, replica: u8) -> Result<bool> {
    let url = format!("http://{}/metrics", local.stack.admin(replica));
    let text = local.http.get(url).send().await?.text().await?;
    let value = text.lines().find_map(|line| line.strip_prefix("replicateddb_tls_files_unusable "));
    Ok(value.context("no metric of the files")? == "1")
}

/// The certificate that a replica shows to somebody who trusts it.
async fn shown(address: SocketAddr, trust: &Arc<ClientConfig>) -> Result<CertificateDer<'static>> {
    let socket = TcpStream::connect(address).await?;
    let name = ServerName::IpAddress(address.ip().into());
    let stream = timeout(REQUEST_LIMIT, TlsConnector::from(trust.clone()).connect(name, socket)).await??;
    let (_, session) = stream.get_ref();
    let first = session.peer_certificates().and_then(|all| all.first()).context("no certificate")?;
    Ok(first.clone().into_owned())
}

fn der(pem: &str) -> Result<CertificateDer<'static>> {
    Ok(CertificateDer::from_pem_slice(pem.as_bytes())?)
}

/// Trusts what is signed by the authority in this file.
fn trusting(authority: &Path) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority)?)?;
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

async fn superuser(local: &Local, replica: u8, trust: &Arc<ClientConfig>) -> Result<Session> {
    let superuser = local.stack.superuser().context("a stack whose clients log in")?;
    let password = std::fs::read_to_string(&superuser.password_file)?;
    let begin = Instant::now();
    loop {
        match log_in(local.stack.cql(replica), superuser.name, password.trim(), trust).await {
            Ok(session) => return Ok(session),
            Err(error) if begin.elapsed() > LOGIN_LIMIT => return Err(error.context("the superuser can't log in")),
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
}

/// A session that talks to this replica alone, by TLS.
async fn log_in(address: SocketAddr, user: &str, password: &str, trust: &Arc<ClientConfig>) -> Result<Session> {
    let profile =
        ExecutionProfile::builder().consistency(Consistency::Quorum).request_timeout(Some(REQUEST_LIMIT)).build();
    let session = SessionBuilder::new()
        .known_node_addr(address)
        .host_filter(Arc::new(AllowListHostFilter::new([address])?))
        .user(user, password)
        .tls_context(Some(trust.clone()))
        .default_execution_profile_handle(profile.into_handle());
    session.build().await.with_context(|| format!("{user} at {address}"))
}
