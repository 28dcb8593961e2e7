//! Asking the members how they are, over HTTP and TCP. Every question has a deadline.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::member::Member;
use crate::settings::Settings;

/// How long a member may take for an answer.
const ANSWER: Duration = Duration::from_secs(2);
/// Longest text of a member's answer that is shown.
const SHOWN_CHARS: usize = 160;

/// What a member said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether it does its work: a quorum, an agent that listens, a shared Cassandra that answers CQL, a replica that serves
    /// clients.
    pub ready: bool,
    /// What it is doing, or why it is not ready; one line.
    pub detail: String,
}

impl Answer {
    fn not_yet(detail: impl Into<String>) -> Self {
        Self { ready: false, detail: one_line(&detail.into()) }
    }
}

fn one_line(text: &str) -> String {
    let joined = text.split_whitespace().collect::<Vec<_>>().join(" ");
    joined.chars().take(SHOWN_CHARS).collect()
}

/// A client for the members' HTTP servers.
#[derive(Clone, Debug)]
pub struct Probe {
    http: reqwest::Client,
}

impl Probe {
    /// A client that never goes through a proxy.
    pub fn new() -> Result<Self> {
        let http = reqwest::Client::builder().no_proxy().timeout(ANSWER).build().context("making an HTTP client")?;
        Ok(Self { http })
    }

    /// Asks `member`; a member that can't be reached is not ready.
    pub async fn ask(&self, settings: &Settings, member: Member) -> Answer {
        match member {
            Member::Zookeeper(i) => self.zookeeper(settings.zookeeper_admin(i)).await,
            Member::Cassandra(i) if settings.shared_cassandra => self.shared(settings.agent(i)).await,
            Member::Cassandra(i) => agent(settings.agent(i)).await,
            Member::Replica(i) => self.replica(settings.replica_admin(i)).await,
        }
    }

    async fn zookeeper(&self, admin: SocketAddr) -> Answer {
        match self.json(admin, "/commands/srvr").await {
            Ok((_, body)) => zookeeper_answer(&body),
            Err(error) => Answer::not_yet(format!("{error:#}")),
        }
    }

    /// A shared Cassandra comes up without being asked by a replica, and replicas start when it answers.
    async fn shared(&self, agent: SocketAddr) -> Answer {
        match self.http.get(format!("http://{agent}/readyz")).send().await {
            Ok(response) if response.status().is_success() => {
                Answer { ready: true, detail: "answers CQL, shared by all replicas".to_owned() }
            }
            Ok(_) => Answer::not_yet("does not answer CQL yet, shared by all replicas"),
            Err(_) => Answer::not_yet("agent does not answer yet"),
        }
    }

    async fn replica(&self, admin: SocketAddr) -> Answer {
        let ready = match self.http.get(format!("http://{admin}/readyz")).send().await {
            Ok(response) => response.status().is_success(),
            Err(_) => return Answer::not_yet("no answer yet"),
        };
        let detail = match self.json(admin, "/status").await {
            Ok((200, body)) => replica_detail(&body),
            Ok((status, _)) => format!("/status answers {status}"),
            Err(error) => format!("{error:#}"),
        };
        Answer { ready, detail: one_line(&detail) }
    }

    async fn json(&self, address: SocketAddr, path: &str) -> Result<(u16, Value)> {
        let url = format!("http://{address}{path}");
        let response = self.http.get(&url).send().await.map_err(|_| anyhow::anyhow!("no answer yet"))?;
        let status = response.status().as_u16();
        let body = response.json().await.with_context(|| format!("{url} gives no JSON"))?;
        Ok((status, body))
    }
}

async fn agent(address: SocketAddr) -> Answer {
    match tokio::time::timeout(ANSWER, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Answer { ready: true, detail: "agent listens".to_owned() },
        Ok(Err(_)) | Err(_) => Answer::not_yet("agent does not listen yet"),
    }
}

/// A server without a quorum answers too, with a text under `error`.
fn zookeeper_answer(body: &Value) -> Answer {
    match body.get("error") {
        Some(Value::Null) => {
            let state = body.pointer("/server_stats/server_state").and_then(Value::as_str).unwrap_or("in a quorum");
            Answer { ready: true, detail: one_line(state) }
        }
        Some(Value::String(error)) => Answer::not_yet(error.as_str()),
        _ => Answer::not_yet("an answer that is not ZooKeeper's"),
    }
}

fn replica_detail(status: &Value) -> String {
    let text = |name: &str| status.get(name).and_then(Value::as_str).unwrap_or_default();
    let mut detail = text("state").to_owned();
    if let Some(index) = status.get("applied_index").and_then(Value::as_u64) {
        detail.push_str(&format!(" at index {index}"));
    }
    if !text("detail").is_empty() {
        detail.push_str(&format!(": {}", text("detail")));
    }
    detail
}

/// Fails if `address` can't be listened on, with what to do.
pub fn check_free(address: SocketAddr) -> Result<()> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AddrInUse => bail!(
            "{address} is in use: end what listens there ('ss -ltnp' shows it; another local stack ends by its own \
             'down'), or use other addresses with --range"
        ),
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => bail!(
            "{address} is no address of this machine: a local stack needs all of 127.0.0.0/8 on the loopback \
             interface, as Linux has it"
        ),
        Err(error) => Err(error).with_context(|| format!("listening on {address}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_zookeeper_without_quorum_is_not_ready() {
        let error = json!({"command": "srvr", "error": "This ZooKeeper instance is not currently serving requests"});
        assert!(!zookeeper_answer(&error).ready);
        let serving = json!({"command": "srvr", "error": null, "server_stats": {"server_state": "leader"}});
        assert_eq!(zookeeper_answer(&serving), Answer { ready: true, detail: "leader".into() });
        assert!(!zookeeper_answer(&json!("something else")).ready);
    }

    #[test]
    fn a_replica_says_what_it_is_doing_in_one_line() {
        let status = json!({"state": "replaying", "applied_index": 12, "detail": "12 of 30\nrecords"});
        assert_eq!(one_line(&replica_detail(&status)), "replaying at index 12: 12 of 30 records");
        assert_eq!(replica_detail(&json!([])), "");
    }

    #[test]
    fn a_port_in_use_is_named_with_the_remedy() {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = holder.local_addr().unwrap();
        let error = check_free(address).unwrap_err().to_string();
        assert!(error.contains(&address.to_string()) && error.contains("--range"), "{error}");
        drop(holder);
        check_free(address).unwrap();
    }
}
