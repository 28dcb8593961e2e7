//! The election in ZooKeeper: looks, has [`super::election`] decide, does what it says, and looks again.

use std::time::Duration;

use futures::future::pending;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};
use zookeeper_client::{Client, CreateMode, Error, MultiReadResult, MultiWriteError, OneshotWatcher};

use super::election::{About, Candidate, Decision, Node, Op, Own, Reign, View, decide, is_cut_off, life_of, name_of};
use super::{Leader, Standing};
use crate::LogError;
use crate::connection::connected;
use crate::znode_log::{Court, Fence, ZnodeLog};

/// A watch is a hint: without one, the election is looked at this often all the same.
const POLL: Duration = Duration::from_secs(1);
/// Pause after a look or a change that ZooKeeper did not take.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Pause after a change, so that those who undo each other's changes do it no faster.
const CHANGE_PAUSE: Duration = Duration::from_millis(5);
/// How long the next candidate waits for the one before it to take the lead: that may be gone while its session lasts.
const TURN: Duration = Duration::from_secs(1);
/// Candidates that are looked at; more are no replicas of one database.
const MAX_CANDIDATES: usize = 256;

/// A replica's part in the election.
pub(super) struct Campaign {
    pub(super) log: ZnodeLog,
    pub(super) court: Court,
    /// What this replica is, and wants.
    pub(super) own: watch::Sender<Own>,
    /// What it was when there was nothing left to do.
    pub(super) rested: watch::Sender<Option<Own>>,
    pub(super) standing: watch::Sender<Standing>,
    /// Says that it leads; taken away by whoever learns that it does not.
    pub(super) fence: watch::Sender<Option<Fence>>,
    /// Says that it leads, and most of the others do not reach it.
    pub(super) cut_off: watch::Sender<bool>,
}

/// A time in which no look showed anything.
struct Blind {
    since: Instant,
    /// The last one's trouble.
    error: String,
}

/// What the node of who leads holds.
#[derive(Debug, Serialize, Deserialize)]
struct Posted {
    #[serde(flatten)]
    reign: Reign,
    /// The log that it leads.
    log: String,
}

/// Why a look showed nothing.
#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error("{0}")]
    ZooKeeper(#[from] Error),
    #[error("{path} can't be read: {detail}")]
    Strange { path: String, detail: String },
    #[error("{0} candidates are too many")]
    TooMany(usize),
}

impl Campaign {
    /// Goes on until it is dropped.
    pub(super) async fn run(self) {
        let control = self.log.control();
        let mut link = control.link();
        let mut own = self.own.subscribe();
        // Since when nobody leads.
        let mut vacant: Option<Instant> = None;
        let mut blind: Option<Blind> = None;
        loop {
            let patience = self.log.config().session_timeout;
            let Ok(client) = timeout(patience, connected(&mut link)).await else {
                self.forget();
                continue;
            };
            let connection = link.borrow_and_update().epoch;
            let wish = own.borrow_and_update().clone();
            if self.log.is_over() && !wish.over {
                self.end();
                continue;
            }
            let turns = vacant.map_or(0, |since| since.elapsed().as_millis() / TURN.as_millis());
            let (view, bells) = match self.look(&client, usize::try_from(turns).unwrap_or(usize::MAX)).await {
                Ok(seen) => seen,
                Err(error) => {
                    self.saw_nothing(&mut blind, &error);
                    sleep(RETRY_PAUSE).await;
                    continue;
                }
            };
            blind = None;
            let cut_off = is_cut_off(&wish, &view);
            self.cut_off.send_if_modified(|now| std::mem::replace(now, cut_off) != cut_off);
            let Decision { leader, change } = decide(&wish, &view);
            vacant = match leader {
                Some(_) => None,
                None => vacant.or_else(|| Some(Instant::now())),
            };
            let leads = self.publish(leader, &wish);
            if let Some(ops) = change {
                self.change(&client, &ops).await;
                continue;
            }
            self.rested.send_replace(Some(wish));
            let mut fence = self.fence.subscribe();
            let deposed = async {
                if !leads || fence.wait_for(Option::is_none).await.is_err() {
                    pending::<()>().await;
                }
            };
            tokio::select! {
                () = rung(bells) => {}
                _ = own.changed() => {}
                _ = link.wait_for(|link| link.epoch != connection) => {}
                () = deposed => {}
                () = sleep(POLL.min(TURN)) => {}
            }
        }
    }

    /// An election that can't be looked at is complained of once, and what was seen is believed no longer than a session lasts.
    fn saw_nothing(&self, blind: &mut Option<Blind>, error: &LookError) {
        let since = blind.as_ref().map_or_else(Instant::now, |blind| blind.since);
        let error = error.to_string();
        if blind.as_ref().is_none_or(|blind| blind.error != error) {
            warn!(error, "the election can't be looked at, trying again");
        }
        *blind = Some(Blind { since, error });
        if since.elapsed() > self.log.config().session_timeout {
            self.forget();
        }
    }

    /// What was seen is too old to be believed: whoever led then may lead no longer.
    fn forget(&self) {
        let own = self.own.borrow().clone();
        self.publish(None, &own);
    }

    /// The life is over: what it has in the election is to go.
    fn end(&self) {
        self.own.send_modify(|own| own.over = true);
    }

    /// Shows who leads; returns whether it is this one.
    fn publish(&self, leader: Option<Reign>, own: &Own) -> bool {
        let epoch = leader.as_ref().filter(|reign| reign.life() == own.life).map(|reign| reign.epoch);
        let fence = epoch.map(|version| Fence { path: self.log.layout().epoch(), version });
        let standing = Standing { leader: leader.map(Leader::from), leads: epoch.is_some() };
        self.log.expect_leader(standing.leader.as_ref().map(|leader| leader.replica));
        self.fence.send_if_modified(|now| {
            let changed = *now != fence;
            *now = fence;
            changed
        });
        // Whoever waits for a leader in vain has to learn that there is none for it any more.
        let over = own.over;
        self.standing.send_if_modified(|now| {
            let changed = *now != standing;
            if changed {
                match &standing.leader {
                    Some(Leader { replica, epoch, .. }) => info!(leader = replica, epoch, "a replica leads the log"),
                    None => info!("no replica leads the log"),
                }
            }
            *now = standing;
            changed || over
        });
        epoch.is_some()
    }

    async fn look(&self, client: &Client, turns: usize) -> Result<(View, [OneshotWatcher; 2]), LookError> {
        let (_, stat) = client.get_data(&self.log.layout().epoch()).await?;
        let epoch = stat.version;
        let (leader, leader_bell) = self.look_at_leader(client).await?;
        let (names, _, candidates_bell) = client.get_and_watch_children(&self.court.election).await?;
        let candidates = self.look_at(client, &names).await?;
        let view = View { session: client.session_id().0, epoch, leader, candidates, turns };
        Ok((view, [leader_bell, candidates_bell]))
    }

    async fn look_at_leader(&self, client: &Client) -> Result<(Option<(Reign, i64)>, OneshotWatcher), LookError> {
        let path = &self.court.leader;
        match client.get_and_watch_data(path).await {
            Ok((data, stat, bell)) => match serde_json::from_slice::<Posted>(&data) {
                Ok(Posted { log, .. }) if log != self.court.log => {
                    let detail = format!("it is of the log {log:?}: give each database a path of its own");
                    Err(LookError::Strange { path: path.clone(), detail })
                }
                Ok(Posted { reign, .. }) => Ok((Some((reign, stat.ephemeral_owner)), bell)),
                Err(error) => Err(LookError::Strange { path: path.clone(), detail: error.to_string() }),
            },
            // Should it be there by then, the bell rings for what is done to it; and there is the next look.
            Err(Error::NoNode) => Ok((None, client.check_and_watch_stat(path).await?.1)),
            Err(error) => Err(error.into()),
        }
    }

    async fn look_at(&self, client: &Client, names: &[String]) -> Result<Vec<Candidate>, LookError> {
        if names.len() > MAX_CANDIDATES {
            return Err(LookError::TooMany(names.len()));
        }
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let mut reader = client.new_multi_reader();
        for name in names {
            reader.add_get_data(&format!("{}/{name}", self.court.election))?;
        }
        let mut candidates = Vec::new();
        for (name, result) in names.iter().zip(reader.commit().await?) {
            // One that has gone in between is none.
            let MultiReadResult::Data { data, stat } = result else { continue };
            match (life_of(name), serde_json::from_slice::<About>(&data)) {
                (Some(life), Ok(about)) => candidates.push(Candidate { life, session: stat.ephemeral_owner, about }),
                _ => warn!(name, "a node of the election can't be read; left out"),
            }
        }
        Ok(candidates)
    }

    /// Does it, or not; the next look tells.
    async fn change(&self, client: &Client, ops: &[Op]) {
        match self.try_change(client, ops).await {
            Ok(()) => {
                debug!(?ops, "the election was changed");
                sleep(CHANGE_PAUSE).await;
            }
            Err(MultiWriteError::OperationFailed { index, source: Error::NoNode })
                if matches!(ops.get(index), Some(Op::Check(Node::Incarnation, _))) =>
            {
                match self.log.over(client).await {
                    LogError::Fenced => self.end(),
                    error => {
                        debug!(%error, "no part in the election now, trying again");
                        sleep(RETRY_PAUSE).await;
                    }
                }
            }
            Err(error) => {
                debug!(%error, ?ops, "the election was not changed, looking again");
                sleep(RETRY_PAUSE).await;
            }
        }
    }

    async fn try_change(&self, client: &Client, ops: &[Op]) -> Result<(), MultiWriteError> {
        let options = CreateMode::Ephemeral.with_acls(self.log.access().acls());
        let mut writer = client.new_multi_writer();
        for op in ops {
            match op {
                Op::Check(node, version) => writer.add_check_version(&self.path(node), *version)?,
                Op::Count(version) => {
                    writer.add_set_data(&self.path(&Node::Epoch), &self.court.data(), Some(*version))?;
                }
                Op::SetCandidate(life, about) => {
                    writer.add_set_data(&self.path(&Node::Candidate(*life)), &json(about), None)?;
                }
                Op::CreateCandidate(life, about) => {
                    writer.add_create(&self.path(&Node::Candidate(*life)), &json(about), &options)?;
                }
                Op::CreateLeader(reign) => {
                    let posted = Posted { reign: reign.clone(), log: self.court.log.clone() };
                    writer.add_create(&self.path(&Node::Leader), &json(&posted), &options)?;
                }
                Op::Delete(node) => writer.add_delete(&self.path(node), None)?,
            }
        }
        writer.commit().await.map(drop)
    }

    fn path(&self, node: &Node) -> String {
        match node {
            Node::Incarnation => self.log.incarnation_path().to_owned(),
            Node::Epoch => self.log.layout().epoch(),
            Node::Leader => self.court.leader.clone(),
            Node::Candidate(life) => format!("{}/{}", self.court.election, name_of(*life)),
        }
    }
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain fields serialise")
}

async fn rung(bells: [OneshotWatcher; 2]) {
    let [one, other] = bells;
    tokio::select! {
        _ = one.changed() => {}
        _ = other.changed() => {}
    }
}
