//! `verify`: the digests of every table, at one index, on every replica, compared (I1).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::SocketAddr,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use axum::{
    Json, Router,
    extract::{Query, State},
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use replicateddb_ordering::members::Member;
use replicateddb_replica::replica::Digest;
use replicateddb_store::{
    bounded,
    internal::{CallError, Internal},
};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::args::VerifyArgs;

/// How long to wait before asking a replica again for a digest that it hasn't computed yet.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Digest prefix shown per cell, in hex digits.
const SHOWN_HEX_DIGITS: usize = 12;

/// How long `POST /verify` waits for all digests.
const ENDPOINT_LIMIT: Duration = Duration::from_secs(120);

/// The exit code when there is nothing to compare.
const NOTHING: u8 = 2;

/// Compares and prints the comparison; replicas that differ from most of the others are told to build their stores anew,
/// unless only a report is wanted. The exit code is 0 when all are equal, 1 when any table differs, 2 when there is no
/// table that could.
///
/// # Errors
/// A replica can't be reached or doesn't produce the digest within the time limit.
pub async fn run(args: VerifyArgs) -> anyhow::Result<ExitCode> {
    let internal = Internal::open(&args.internal).await?;
    let comparison = check(&args.replicas, args.timeout, args.report_only, internal).await?;
    print!("{}", comparison.text);
    Ok(match comparison {
        Comparison { equal: false, .. } => ExitCode::from(1),
        Comparison { tables: 0, .. } => ExitCode::from(NOTHING),
        _ => ExitCode::SUCCESS,
    })
}

/// Orders one digest record, collects its result from every replica, compares, and quarantines those that differ from most
/// of the others: they serve nobody until their stores are built anew.
///
/// # Errors
/// As for [`run`].
async fn check(
    replicas: &[String],
    limit: Duration,
    report_only: bool,
    internal: Internal,
) -> anyhow::Result<Comparison> {
    let deadline = Instant::now() + limit;
    let client = Asking { http: reqwest::Client::new(), internal, limit };
    let first = replicas.first().context("name at least one replica with --replica HOST:PORT")?;
    let ordered = order_digest(&client, first).await?;
    let mut found = vec![(first.clone(), ordered.clone())];
    for replica in replicas.iter().skip(1) {
        found.push((replica.clone(), collect(&client, replica, ordered.index, deadline).await?));
    }
    let mut comparison = compare(&found);
    for (replica, tables) in &comparison.diverged {
        let reason =
            format!("at index {} it differs from most of the others in {}", comparison.index, tables.join(", "));
        let outcome = if report_only { "left as it is".to_owned() } else { quarantine(&client, replica, reason).await };
        let _ = writeln!(comparison.text, "QUARANTINE {replica}: {outcome}");
    }
    Ok(comparison)
}

/// How replicas are asked.
struct Asking {
    http: reqwest::Client,
    internal: Internal,
    /// Of each question.
    limit: Duration,
}

impl Asking {
    async fn send(&self, method: Method, url: String, body: String) -> Result<reqwest::Response, CallError> {
        self.internal.send(self.http.request(method, url).timeout(self.limit).body(body)).await
    }
}

/// Has a replica build its store anew; what came of it, for people.
async fn quarantine(client: &Asking, replica: &str, reason: String) -> String {
    match client.send(Method::POST, format!("http://{replica}/rebuild"), reason).await {
        Ok(response) if response.status().is_success() => "it serves nobody until its store is built anew".to_owned(),
        Ok(response) => format!("it refuses: {}", bounded::text(response).await),
        Err(error) => format!("it could not be told: {error}"),
    }
}

/// `POST /verify` on a replica: all replicas that are members now, compared; `?report-only=true` quarantines none. 200 when
/// they are equal, 409 when any differs, 503 when they could not be compared.
pub fn router(members: watch::Receiver<Vec<Member>>, internal: Internal) -> Router {
    Router::new().route("/verify", post(answer)).with_state((members, internal))
}

/// The query of `POST /verify`.
#[derive(Debug, Deserialize)]
struct Asked {
    #[serde(default, rename = "report-only")]
    report_only: bool,
}

async fn answer(
    State((members, internal)): State<(watch::Receiver<Vec<Member>>, Internal)>,
    Query(asked): Query<Asked>,
) -> Response {
    let admin = |member: &Member| SocketAddr::new(member.address, member.admin_port).to_string();
    let replicas: Vec<_> = members.borrow().iter().map(admin).collect();
    match check(&replicas, ENDPOINT_LIMIT, asked.report_only, internal).await {
        Ok(comparison) if comparison.equal => Json(comparison).into_response(),
        Ok(comparison) => (StatusCode::CONFLICT, Json(comparison)).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}\n")).into_response(),
    }
}

async fn order_digest(client: &Asking, replica: &str) -> anyhow::Result<Digest> {
    let response = client.send(Method::POST, format!("http://{replica}/digest"), String::new()).await;
    let response = response.with_context(|| format!("asking {replica} for a digest"))?;
    let status = response.status();
    if !status.is_success() {
        bail!("{replica} answered {status}: {}", bounded::text(response).await);
    }
    bounded::json(response).await.with_context(|| format!("reading the digest of {replica}"))
}

/// Polls until the replica has applied the digest record. A replica that is away for a moment is asked again.
async fn collect(client: &Asking, replica: &str, index: u64, deadline: Instant) -> anyhow::Result<Digest> {
    loop {
        let last = match client.send(Method::GET, format!("http://{replica}/digest/{index}"), String::new()).await {
            Ok(response) if response.status().is_success() => {
                let digest: Digest =
                    bounded::json(response).await.with_context(|| format!("reading the digest of {replica}"))?;
                if let Some(reason) = digest.failed {
                    bail!("{replica} has no digest of index {index}: {reason}");
                }
                return Ok(digest);
            }
            Ok(response) => response.status().to_string(),
            Err(error) => error.to_string(),
        };
        if Instant::now() >= deadline {
            bail!("{replica} has no digest of index {index} within the time limit (last answer: {last})");
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// What a comparison has shown.
#[derive(Debug, Serialize)]
struct Comparison {
    equal: bool,
    /// Of the digests.
    index: u64,
    /// Tables that were compared.
    tables: usize,
    /// Replicas that differ from more than half of all, and in which tables.
    diverged: BTreeMap<String, Vec<String>>,
    /// All of it, for people.
    text: String,
}

/// One line per table: its rows and digest on every replica, and whether they are all equal.
fn compare(found: &[(String, Digest)]) -> Comparison {
    let mut text = String::new();
    let mut equal = true;
    let indices: BTreeSet<u64> = found.iter().map(|(_, digest)| digest.index).collect();
    if indices.len() > 1 {
        equal = false;
        let _ = writeln!(text, "DIFFERENT  the same record has different indices: {indices:?}");
    }
    let mut diverged: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let tables: BTreeSet<&String> = found.iter().flat_map(|(_, digest)| digest.tables.keys()).collect();
    for table in &tables {
        let cells: BTreeMap<&str, Option<(u64, &str)>> = found
            .iter()
            .map(|(replica, digest)| (replica.as_str(), digest.tables.get(*table).map(|t| (t.rows, t.sha256.as_str()))))
            .collect();
        let same = cells.values().collect::<BTreeSet<_>>().len() == 1;
        equal &= same;
        for replica in minority(&cells) {
            diverged.entry(replica.to_owned()).or_default().push((*table).clone());
        }
        let _ = write!(text, "{:<10} {table:<40}", if same { "equal" } else { "DIFFERENT" });
        let shown: Vec<_> = if same { cells.into_iter().take(1).collect() } else { cells.into_iter().collect() };
        for (replica, cell) in shown {
            let place = if same { String::new() } else { format!("{replica}: ") };
            let _ = match cell {
                Some((rows, sha256)) => {
                    write!(text, "  {place}{rows} rows {}", sha256.get(..SHOWN_HEX_DIGITS).unwrap_or(sha256))
                }
                None => write!(text, "  {place}absent"),
            };
        }
        text.push('\n');
    }
    for (replica, tables) in &diverged {
        let _ = writeln!(text, "DIVERGED   {replica} differs from most of the others in {}", tables.join(", "));
    }
    let verdict = match (equal, tables.is_empty()) {
        (true, true) => "NOTHING COMPARED",
        (true, false) => "equal",
        (false, _) => "DIFFERENT",
    };
    let index = indices.first().copied().unwrap_or_default();
    let _ = writeln!(text, "{verdict}: {} tables on {} replicas at index {index}", tables.len(), found.len());
    Comparison { equal, index, tables: tables.len(), diverged, text }
}

/// The replicas whose cell is not the one that more than half of them have; none if there is no such cell.
fn minority<'a, T: Ord + Copy>(cells: &BTreeMap<&'a str, T>) -> Vec<&'a str> {
    let with = |cell: T| cells.values().filter(|other| **other == cell).count();
    let Some(most) = cells.values().copied().find(|cell| 2 * with(*cell) > cells.len()) else { return Vec::new() };
    cells.iter().filter(|(_, cell)| **cell != most).map(|(replica, _)| *replica).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use replicateddb_replica::replica::TableDigest;

    fn digest(index: u64, tables: &[(&str, u64, &str)]) -> Digest {
        let tables = tables
            .iter()
            .map(|(name, rows, sha256)| (name.to_string(), TableDigest { rows: *rows, sha256: sha256.to_string() }))
            .collect();
        Digest { index, tables, failed: None }
    }

    #[test]
    fn equal_digests_are_equal() {
        let one = digest(7, &[("a.t", 3, "00ff00ff00ff00ff"), ("a.u", 0, "ee")]);
        let found = vec![("r0".to_string(), one.clone()), ("r1".to_string(), one)];
        let comparison = compare(&found);
        assert!(comparison.equal, "{}", comparison.text);
        assert!(comparison.text.contains("equal: 2 tables on 2 replicas at index 7"));
    }

    #[test]
    fn without_tables_nothing_is_equal() {
        let comparison = compare(&[("r0".to_string(), digest(7, &[])), ("r1".to_string(), digest(7, &[]))]);
        assert!(comparison.equal && comparison.tables == 0);
        assert!(comparison.text.starts_with("NOTHING COMPARED: 0 tables"), "{}", comparison.text);
    }

    #[test]
    fn the_one_that_differs_is_named() {
        let good = digest(7, &[("a.t", 3, "aa"), ("a.u", 1, "bb")]);
        let bad = digest(7, &[("a.t", 3, "ab"), ("a.u", 1, "bb")]);
        let found =
            [("r0".to_string(), good.clone()), ("r1".to_string(), bad.clone()), ("r2".to_string(), good.clone())];
        let text = compare(&found).text;
        assert!(text.contains("DIVERGED   r1 differs from most of the others in a.t\n"), "{text}");
        let text = compare(&[("r0".to_string(), good), ("r1".to_string(), bad)]).text;
        assert!(!text.contains("DIVERGED"), "of two, nobody knows which: {text}");
    }

    #[test]
    fn i1_any_difference_is_seen() {
        let base = digest(7, &[("a.t", 3, "aa")]);
        for other in [
            digest(7, &[("a.t", 3, "ab")]),
            digest(7, &[("a.t", 4, "aa")]),
            digest(8, &[("a.t", 3, "aa")]),
            digest(7, &[]),
            digest(7, &[("a.t", 3, "aa"), ("a.u", 0, "ee")]),
        ] {
            let comparison = compare(&[("r0".to_string(), base.clone()), ("r1".to_string(), other)]);
            assert!(!comparison.equal, "{}", comparison.text);
            assert!(comparison.text.contains("DIFFERENT"));
        }
    }
}
