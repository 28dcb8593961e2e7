//! What replicas say of their restore points, by their metrics and status.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Deserialize;

/// Longest wait for an answer.
const ANSWER: Duration = Duration::from_secs(2);
/// Begins each of the lines that are read.
const PREFIX: &str = "replicateddb_";

/// The parts of a restore point, in their order, by the names that metrics give them.
pub const PHASES: [&str; 5] = ["flush", "drain", "flush_rest", "snapshot", "commit"];

/// What a replica has counted so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counted {
    /// Restore points committed.
    pub points: u64,
    /// Seconds that lanes were held.
    pub held: f64,
    /// Seconds of each of [`PHASES`].
    pub phases: [f64; PHASES.len()],
    /// Every record up to this index is applied.
    pub applied: u64,
    /// Index of the newest restore point.
    pub point_index: u64,
}

impl Counted {
    fn parse(text: &str) -> Self {
        let mut counted = Self::default();
        for (name, value) in text.lines().filter_map(|line| line.strip_prefix(PREFIX)?.rsplit_once(' ')) {
            let Ok(value) = value.parse::<f64>() else { continue };
            match name {
                "restore_points_total" => counted.points = value as u64,
                "restore_point_seconds_sum" => counted.held = value,
                "applied_index" => counted.applied = value as u64,
                "restore_point_index" => counted.point_index = value as u64,
                _ => {
                    let of = |phase: &&str| name == format!("restore_point_phase_seconds_sum{{phase=\"{phase}\"}}");
                    if let Some(i) = PHASES.iter().position(of) {
                        counted.phases[i] = value;
                    }
                }
            }
        }
        counted
    }
}

/// A restore point that was committed.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// Of which replica.
    pub replica: u8,
    /// When it was seen.
    pub at: Instant,
    /// Seconds that lanes were held.
    pub held: f64,
    /// Seconds of each of [`PHASES`].
    pub phases: [f64; PHASES.len()],
}

impl Point {
    /// What has come between two readings of one replica, if that is one restore point or more: they are shown as one.
    #[must_use]
    pub fn between(replica: u8, before: &Counted, now: &Counted, at: Instant) -> Option<Self> {
        let phases = std::array::from_fn(|i| now.phases[i] - before.phases[i]);
        (now.points > before.points).then_some(Self { replica, at, held: now.held - before.held, phases })
    }

    /// Seconds from its beginning to its commit.
    #[must_use]
    pub fn whole(&self) -> f64 {
        self.phases.iter().sum()
    }
}

/// What `/status` says that matters here.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// Of this process.
    pub incarnation: String,
    /// Of the Cassandra that is applied to.
    pub generation: Option<u64>,
    /// The last replay.
    pub replay: Option<Replay>,
}

/// The last replay.
#[derive(Clone, Debug, Deserialize)]
pub struct Replay {
    /// Records applied by it.
    pub records: u64,
    /// Whether the store was put back before.
    pub rewound: bool,
    /// From the beginning of recovery.
    pub seconds: f64,
}

/// Asks replicas.
#[derive(Clone, Debug)]
pub struct Asker(reqwest::Client);

impl Asker {
    /// A client that never goes through a proxy.
    ///
    /// # Errors
    /// When none can be made on this system.
    pub fn new() -> Result<Self> {
        Ok(Self(reqwest::Client::builder().no_proxy().timeout(ANSWER).build().context("making an HTTP client")?))
    }

    /// What it has counted.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn counted(&self, admin: SocketAddr) -> Result<Counted> {
        let response = self.0.get(format!("http://{admin}/metrics")).send().await?.error_for_status()?;
        Ok(Counted::parse(&response.text().await?))
    }

    /// How it is.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn status(&self, admin: SocketAddr) -> Result<Status> {
        let response = self.0.get(format!("http://{admin}/status")).send().await?.error_for_status()?;
        Ok(response.json().await?)
    }

    /// Whether it serves clients.
    pub async fn ready(&self, admin: SocketAddr) -> bool {
        let response = self.0.get(format!("http://{admin}/readyz")).send().await;
        response.is_ok_and(|response| response.status().is_success())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_come_between_two_readings_is_a_restore_point() {
        let before =
            Counted::parse("replicateddb_restore_points_total 1\nreplicateddb_restore_point_seconds_sum 0.5\n");
        let text = "# HELP replicateddb_restore_points x\nreplicateddb_restore_points_total 2\n\
                    replicateddb_restore_point_seconds_sum 0.625\n\
                    replicateddb_restore_point_phase_seconds_sum{phase=\"drain\"} 0.25\n\
                    replicateddb_restore_point_phase_seconds_sum{phase=\"flush\"} 1.0\n\
                    replicateddb_applied_index 70\nreplicateddb_restore_point_index 60\nother 1\n";
        let now = Counted::parse(text);
        assert_eq!((now.applied, now.point_index), (70, 60));
        let point = Point::between(0, &before, &now, Instant::now()).unwrap();
        assert_eq!((point.held, point.phases, point.whole()), (0.125, [1.0, 0.25, 0.0, 0.0, 0.0], 1.25));
        assert!(Point::between(0, &now, &now, Instant::now()).is_none());
    }
}
