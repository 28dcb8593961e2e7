//! Leader election by a Lease: of several copies of the operator one acts, and it stops writing before another could begin.
//!
//! A holder renews every [`RENEW_PERIOD`] and may write until [`RENEW_DEADLINE`] after the last renewal was *sent*. A
//! candidate takes a Lease over when it has watched the same record, by its own monotonic clock, for [`DURATION`]; wall
//! clocks are never compared. Every write of the Lease carries the version that was read, so that two candidates can't
//! both succeed. A holder that stops gives the Lease up, and the next one begins at once.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use tokio_util::sync::CancellationToken;

use crate::{
    gate::Gate,
    names::{FIELD_MANAGER, LABEL_MANAGED_BY, MANAGED_BY},
};

/// How long a Lease that is not renewed stays its holder's.
pub const DURATION: Duration = Duration::from_secs(15);
/// How long after a renewal its holder may write.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Time between renewals, and between looks of a candidate.
pub const RENEW_PERIOD: Duration = Duration::from_secs(2);
/// Longest wait for the API server.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// One candidate.
#[derive(Debug)]
pub struct Election {
    api: Api<Lease>,
    name: String,
    identity: String,
    gate: Gate,
    seen: Option<Seen>,
}

/// A record of another holder, and since when it has not changed.
#[derive(Debug)]
struct Seen {
    version: Option<String>,
    since: Instant,
}

/// What to do about a Lease as read. Pure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    /// Nobody has it, its time is over, or it is ours: write it.
    Take,
    /// It is somebody else's.
    Wait,
}

fn decide(lease: &Lease, identity: &str, unchanged_for: Duration) -> Decision {
    let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
    if holder.is_empty() || holder == identity || unchanged_for >= DURATION { Decision::Take } else { Decision::Wait }
}

impl Election {
    /// A candidate named `identity` for the Lease `name`. `client` must not be behind `gate`.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str, gate: Gate) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
            gate,
            seen: None,
        }
    }

    /// Waits until this copy leads, or until `stop`; tells whether it leads.
    pub async fn acquire(&mut self, stop: &CancellationToken) -> bool {
        loop {
            if stop.is_cancelled() {
                return false;
            }
            if self.attempt().await {
                return true;
            }
            tokio::select! {
                () = stop.cancelled() => return false,
                () = tokio::time::sleep(RENEW_PERIOD) => {}
            }
        }
    }

    /// Keeps the Lease until `stop` (then gives it up) or until it is lost. On return the gate is shut.
    pub async fn keep(&mut self, stop: &CancellationToken) {
        let mut renewed = Instant::now();
        while !stop.is_cancelled() && renewed.elapsed() < RENEW_DEADLINE {
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(RENEW_PERIOD) => {}
            }
            let sent = Instant::now();
            match self.renew().await {
                Renewal::Done => renewed = sent,
                Renewal::Lost => break,
                Renewal::Unknown => tracing::warn!("the lease could not be renewed; trying again"),
            }
        }
        self.gate.shut();
    }

    /// Gives the Lease up, so that another copy need not wait. Call it when nothing writes any more.
    pub async fn release(&mut self) {
        self.gate.shut();
        if let Ok(Ok(mut lease)) = tokio::time::timeout(REQUEST_TIMEOUT, self.api.get(&self.name)).await
            && decide_ours(&lease, &self.identity)
        {
            if let Some(spec) = lease.spec.as_mut() {
                spec.holder_identity = None;
            }
            let params = post();
            let replaced = self.api.replace(&self.name, &params, &lease);
            if !matches!(tokio::time::timeout(REQUEST_TIMEOUT, replaced).await, Ok(Ok(_))) {
                tracing::warn!("the lease could not be given up; the next holder waits until it runs out");
            }
        }
    }

    async fn attempt(&mut self) -> bool {
        let sent = Instant::now();
        let result = tokio::time::timeout(REQUEST_TIMEOUT, self.try_take()).await;
        match result {
            Ok(Ok(true)) => {
                self.gate.open_until(sent + RENEW_DEADLINE);
                tracing::info!(identity = self.identity, "leading");
                true
            }
            Ok(Ok(false)) => false,
            Ok(Err(error)) => {
                tracing::warn!(error = %error, "can't read or write the lease");
                false
            }
            Err(_) => false,
        }
    }

    async fn try_take(&mut self) -> Result<bool, kube::Error> {
        let Some(lease) = self.api.get_opt(&self.name).await? else {
            let lease = Lease { metadata: self.metadata(), spec: Some(self.spec(None)) };
            return won(self.api.create(&post(), &lease).await);
        };
        let version = lease.metadata.resource_version.clone();
        let since = match &self.seen {
            Some(seen) if seen.version == version => seen.since,
            _ => Instant::now(),
        };
        self.seen = Some(Seen { version, since });
        match decide(&lease, &self.identity, since.elapsed()) {
            Decision::Wait => Ok(false),
            Decision::Take => self.write(lease).await,
        }
    }

    /// Writes the Lease as ours over the version read.
    async fn write(&self, mut lease: Lease) -> Result<bool, kube::Error> {
        let spec = self.spec(lease.spec.as_ref());
        lease.spec = Some(spec);
        won(self.api.replace(&self.name, &post(), &lease).await)
    }

    async fn renew(&self) -> Renewal {
        let sent = Instant::now();
        let renewal = async {
            let lease = self.api.get(&self.name).await?;
            if decide_ours(&lease, &self.identity) { self.write(lease).await } else { Ok(false) }
        };
        match tokio::time::timeout(REQUEST_TIMEOUT, renewal).await {
            Ok(Ok(true)) => {
                self.gate.open_until(sent + RENEW_DEADLINE);
                Renewal::Done
            }
            Ok(Ok(false)) => Renewal::Lost,
            Ok(Err(kube::Error::Api(status))) if status.is_not_found() => Renewal::Lost,
            Ok(Err(_)) | Err(_) => Renewal::Unknown,
        }
    }

    fn metadata(&self) -> ObjectMeta {
        ObjectMeta {
            name: Some(self.name.clone()),
            labels: Some([(LABEL_MANAGED_BY.to_owned(), MANAGED_BY.to_owned())].into()),
            ..Default::default()
        }
    }

    fn spec(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let same = before.is_some_and(|before| before.holder_identity.as_deref() == Some(&self.identity));
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(15),
            acquire_time: before.filter(|_| same).and_then(|b| b.acquire_time.clone()).or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(before.map_or(0, |b| b.lease_transitions.unwrap_or_default() + i32::from(!same))),
            ..Default::default()
        }
    }
}

enum Renewal {
    Done,
    Lost,
    Unknown,
}

fn decide_ours(lease: &Lease, identity: &str) -> bool {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()) == Some(identity)
}

/// A conflict means that somebody else was quicker.
fn won(result: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
    match result {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => Ok(false),
        Err(error) => Err(error),
    }
}

fn post() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(holder: Option<&str>) -> Lease {
        let spec = LeaseSpec { holder_identity: holder.map(str::to_owned), ..Default::default() };
        Lease { spec: Some(spec), ..Default::default() }
    }

    #[test]
    fn only_a_silent_holder_is_deposed() {
        let almost = DURATION - Duration::from_millis(1);
        assert_eq!(decide(&held_by(Some("b")), "a", almost), Decision::Wait);
        assert_eq!(decide(&held_by(Some("b")), "a", DURATION), Decision::Take);
        assert_eq!(decide(&held_by(Some("a")), "a", Duration::ZERO), Decision::Take);
        assert_eq!(decide(&held_by(None), "a", Duration::ZERO), Decision::Take, "given up");
        assert_eq!(decide(&held_by(Some("")), "a", Duration::ZERO), Decision::Take, "given up");
    }

    /// A write that began under the lease is over before the next holder begins.
    #[test]
    fn terms_do_not_overlap() {
        assert!(RENEW_DEADLINE + crate::gate::WRITE_TIMEOUT < DURATION);
        assert!(RENEW_PERIOD + REQUEST_TIMEOUT < RENEW_DEADLINE);
    }
}
