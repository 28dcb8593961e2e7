//! What the other replicas say of themselves: the schema version each has applied, and how far it is.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use replicateddb_ordering::members::Member;
use replicateddb_store::{
    bounded,
    internal::{CallError, Internal},
};
use serde::Deserialize;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use uuid::Uuid;

use super::limits::{PEER_CACHE, PEER_TIMEOUT, SCHEMA_CHANGE_POLL};

/// What a replica says of itself: the part of its `/status` that others need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct PeerState {
    /// The schema version that it shows to drivers.
    pub schema_version: Uuid,
    /// Every record up to this index is applied there.
    pub applied_index: u64,
}

/// A replica did not tell its state.
#[derive(Debug, thiserror::Error)]
enum Unheard {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Answer(#[from] bounded::Unread),
}

/// Asks the admin ports of the other replicas, bounded in time, and keeps the answers for a moment.
#[derive(Debug)]
pub struct Peers {
    own_id: u32,
    members: watch::Receiver<Vec<Member>>,
    client: reqwest::Client,
    internal: Internal,
    known: Mutex<HashMap<u32, Known>>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    at: Instant,
    state: PeerState,
}

impl Peers {
    /// Watches the members other than `own_id`.
    pub fn new(own_id: u32, members: watch::Receiver<Vec<Member>>) -> Self {
        Self { own_id, members, client: reqwest::Client::new(), internal: Internal::default(), known: Mutex::default() }
    }

    /// The same over TLS, where the processes of the database use it.
    #[must_use]
    pub fn over(self, internal: Internal) -> Self {
        Self { internal, ..self }
    }

    /// The other live replicas, by id.
    pub fn others(&self) -> Vec<Member> {
        let mut others: Vec<Member> =
            self.members.borrow().iter().filter(|member| member.id != self.own_id).cloned().collect();
        others.sort_by_key(|member| member.id);
        others
    }

    /// The members as they change.
    pub fn members(&self) -> watch::Receiver<Vec<Member>> {
        self.members.clone()
    }

    /// What each of the other live replicas says; for one that doesn't answer in time the last that it said, so that
    /// nobody takes it for up to date; nothing for one that was never heard.
    pub async fn states(&self) -> BTreeMap<u32, PeerState> {
        let others = self.others();
        let answers = futures::future::join_all(others.iter().map(|member| self.state(member))).await;
        others.iter().zip(answers).filter_map(|(member, state)| Some((member.id, state?))).collect()
    }

    /// Waits until every live replica has applied `index`, at most `limit`. Returns whether they have.
    pub async fn applied(&self, index: u64, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            let states = self.states().await;
            let behind = |member: &Member| states.get(&member.id).is_none_or(|state| state.applied_index < index);
            if !self.others().iter().any(behind) {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            sleep(SCHEMA_CHANGE_POLL).await;
        }
    }

    async fn state(&self, member: &Member) -> Option<PeerState> {
        let known = self.lock().get(&member.id).copied();
        if let Some(known) = known.filter(|known| known.at.elapsed() < PEER_CACHE) {
            return Some(known.state);
        }
        let asked = Instant::now();
        match tokio::time::timeout(PEER_TIMEOUT, self.ask(member)).await {
            Ok(Ok(state)) => {
                let mut map = self.lock();
                // Entries of replicas that are gone must not pile up.
                let alive: Vec<u32> = self.members.borrow().iter().map(|member| member.id).collect();
                map.retain(|id, _| alive.contains(id));
                map.insert(member.id, Known { at: asked, state });
                Some(state)
            }
            Ok(Err(error)) => {
                tracing::debug!(peer = member.id, %error, "a replica did not tell its state");
                known.map(|known| known.state)
            }
            Err(_) => known.map(|known| known.state),
        }
    }

    async fn ask(&self, member: &Member) -> Result<PeerState, Unheard> {
        let address = std::net::SocketAddr::new(member.address, member.admin_port);
        let answer = self.internal.send(self.client.get(format!("http://{address}/status"))).await?;
        Ok(bounded::json(answer.error_for_status().map_err(bounded::Unread::from)?).await?)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u32, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
