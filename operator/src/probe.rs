//! Asks the admin interfaces of ZooKeeper and of the replicas how they are.

use std::{net::IpAddr, time::Duration};

use futures::{StreamExt, stream};
use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    names::{PORT_ADMIN, PORT_ZOOKEEPER_ADMIN, Tier},
    pods::PodView,
    roll::{Reports, TierView},
};

/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Most bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// Most questions under way for one resource.
const QUESTIONS_MAX: usize = 9;
/// Longest text that is taken over from an answer.
const TEXT_LENGTH_MAX: usize = 256;

/// What a ZooKeeper server says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZooKeeperReport {
    /// Its part in the quorum.
    pub role: Role,
    /// Followers in step with it; 0 from anyone but the leader.
    pub synced_followers: i64,
}

/// Part of a ZooKeeper server in the quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Leads.
    Leader,
    /// Follows.
    Follower,
    /// Neither: looking for a leader, or not serving.
    Other,
}

/// What a replica says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ReplicaReport {
    /// `starting`, `recovering`, `replaying`, `serving`, `stopping` or `failed`.
    pub state: String,
    /// What it is doing, in words.
    #[serde(default)]
    pub detail: String,
    /// Index of the last record applied.
    #[serde(default)]
    pub applied_index: Option<i64>,
    /// Records between it and the end of the log.
    #[serde(default)]
    pub lag: Option<i64>,
}

/// Asks; cheap to clone.
#[derive(Clone, Debug)]
pub struct Prober {
    http: reqwest::Client,
    ports: Ports,
}

/// Ports of the admin interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// ZooKeeper's.
    pub zookeeper: i32,
    /// The replicas'.
    pub replica: i32,
}

impl Default for Ports {
    fn default() -> Self {
        Self { zookeeper: PORT_ZOOKEEPER_ADMIN, replica: PORT_ADMIN }
    }
}

impl Prober {
    /// A prober with bounded waits.
    ///
    /// # Errors
    /// The HTTP client can't be set up.
    pub fn new(ports: Ports) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .pool_max_idle_per_host(0)
            .build()?;
        Ok(Self { http, ports })
    }

    /// Asks every pod of the ZooKeeper and replica tiers; those without an answer are left out.
    pub async fn ask(&self, tiers: &[TierView], zookeeper: bool) -> Reports {
        let mut asked = Vec::new();
        for view in tiers {
            if view.tier == Tier::Replica || (zookeeper && view.tier == Tier::ZooKeeper) {
                asked.extend(view.pods.iter().map(|pod| (view.tier, pod.clone())));
            }
        }
        let answers: Vec<_> = stream::iter(asked)
            .map(|(tier, pod)| async move { self.one(tier, pod).await })
            .buffer_unordered(QUESTIONS_MAX)
            .collect()
            .await;
        let mut reports = Reports::default();
        for answer in answers.into_iter().flatten() {
            match answer {
                Answer::ZooKeeper(ordinal, report) => drop(reports.zookeeper.insert(ordinal, report)),
                Answer::Replica(ordinal, report) => drop(reports.replicas.insert(ordinal, report)),
            }
        }
        reports
    }

    async fn one(&self, tier: Tier, pod: PodView) -> Option<Answer> {
        let ip: IpAddr = pod.ip?.parse().ok()?;
        match tier {
            Tier::ZooKeeper => {
                let report = self.get(ip, self.ports.zookeeper, "/commands/monitor").await?;
                Some(Answer::ZooKeeper(pod.ordinal, zookeeper_report(&report)))
            }
            Tier::Replica => {
                let mut report: ReplicaReport = self.get(ip, self.ports.replica, "/status").await?;
                cut(&mut report.state);
                cut(&mut report.detail);
                Some(Answer::Replica(pod.ordinal, report))
            }
            Tier::Cassandra => None,
        }
    }

    async fn get<T: DeserializeOwned>(&self, ip: IpAddr, port: i32, path: &str) -> Option<T> {
        let host = match ip {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        let mut response = self.http.get(format!("http://{host}:{port}{path}")).send().await.ok()?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.ok()? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return None;
            }
            body.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&body).ok()
    }
}

enum Answer {
    ZooKeeper(i32, ZooKeeperReport),
    Replica(i32, ReplicaReport),
}

/// Reads ZooKeeper's `monitor` command.
fn zookeeper_report(answer: &serde_json::Value) -> ZooKeeperReport {
    let role = match answer.get("server_state").and_then(serde_json::Value::as_str) {
        Some("leader") => Role::Leader,
        Some("follower") => Role::Follower,
        _ => Role::Other,
    };
    let synced = answer.get("synced_followers");
    // a gauge: some versions write 2, some 2.0
    let synced = synced.and_then(serde_json::Value::as_f64).unwrap_or_default();
    ZooKeeperReport { role, synced_followers: synced as i64 }
}

fn cut(text: &mut String) {
    if let Some((end, _)) = text.char_indices().nth(TEXT_LENGTH_MAX) {
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn zookeeper_answers() {
        let report = |answer| zookeeper_report(&answer);
        let leader = report(json!({"command": "monitor", "server_state": "leader", "synced_followers": 2.0}));
        assert_eq!(leader, ZooKeeperReport { role: Role::Leader, synced_followers: 2 });
        assert_eq!(report(json!({"server_state": "follower"})).role, Role::Follower);
        assert_eq!(
            report(json!({"error": "This ZooKeeper instance is not currently serving requests"})).role,
            Role::Other
        );
        assert_eq!(report(json!([])).role, Role::Other);
    }
}
