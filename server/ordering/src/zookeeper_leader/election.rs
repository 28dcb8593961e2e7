//! Who leads: what a replica does about it, decided from what it has read in ZooKeeper. No IO, no clock.
//!
//! Every replica has a node of its own below the election's folder for as long as its session lives. Who leads has the node
//! `leader`, for as long as its session lives. When that goes, the lowest number that is there makes it again, and counts the epoch
//! on in the same transaction; whatever a leader brings into the log checks the epoch that it counted to, so that nothing of an
//! earlier one comes to stand there any more (I6). A view may be old: each change checks what it rests on, and one that fails is
//! decided again.
//!
//! One that leads stays: a lower number that comes back is no reason for a change. One that is about to stop says so, and hands over
//! to one that is not, if there is any: that is elected at once, for nobody's session has to end first. Those that are about to stop
//! come last, and still lead if all are. Behind them are those that can't append, or that most of the others could not reach when
//! they led; one that leads and is such a one hands over, too.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Incarnation, Life};

/// One that may come to lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) life: Life,
    /// The session that its node goes with.
    pub(super) session: i64,
    pub(super) about: About,
}

/// What a candidate says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct About {
    /// Where its messenger is.
    pub(super) address: String,
    /// Whether it is about to stop.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) leaving: bool,
    /// Whether it would lead for nothing: it can't append, or the others could not reach it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) unfit: bool,
    /// The epoch of the one that leads, if there is no way to that for long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) unreached: Option<i32>,
}

impl About {
    /// Lower is better.
    fn rank(&self) -> u8 {
        match (self.unfit, self.leaving) {
            (false, false) => 0,
            (false, true) => 1,
            (true, _) => 2,
        }
    }
}

/// Who leads, as the node `leader` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reign {
    pub(super) replica: u32,
    pub(super) incarnation: Incarnation,
    /// The version of the epoch's node that it counted to.
    pub(super) epoch: i32,
    pub(super) address: String,
}

impl Reign {
    pub(super) fn life(&self) -> Life {
        (self.replica, self.incarnation)
    }
}

/// What was read, in this order: the epoch, who leads, who may come to lead. Each may be newer than the one before, never older.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    /// The session that it was read by, and that changes go by.
    pub(super) session: i64,
    /// Version of the epoch's node.
    pub(super) epoch: i32,
    /// Who leads, and the session that its node goes with.
    pub(super) leader: Option<(Reign, i64)>,
    pub(super) candidates: Vec<Candidate>,
    /// How many candidates before this one have had time to take the lead, and have not.
    pub(super) turns: usize,
}

/// What this replica is, and wants to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Own {
    pub(super) life: Life,
    pub(super) about: About,
    /// The life has ended.
    pub(super) over: bool,
}

/// A node that a change is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Node {
    /// Of the own life.
    Incarnation,
    Epoch,
    Leader,
    Candidate(Life),
}

/// An operation of a change; a change is done as a whole, or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Check(Node, i32),
    /// Counts the epoch on from this version.
    Count(i32),
    SetCandidate(Life, About),
    /// With the session that the view was read by, like every node that is made.
    CreateCandidate(Life, About),
    CreateLeader(Reign),
    Delete(Node),
}

/// What a view means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    /// Who leads, as far as anybody does. Oneself: only as of a transaction that has been done.
    pub(super) leader: Option<Reign>,
    /// What to do; then to look again.
    pub(super) change: Option<Vec<Op>>,
}

/// Decides.
pub(super) fn decide(own: &Own, view: &View) -> Decision {
    let leader = view.leader.as_ref().filter(|(reign, session)| !is_void(own, view, reign, *session));
    let leads = leader.filter(|(reign, _)| reign.life() == own.life);
    let change = match own.over {
        true => withdraw(own, view),
        false => register(own, view).or_else(|| match leader {
            Some(_) => leads.filter(|_| hands_over(own, view)).map(|(reign, _)| yields(reign)),
            None => (is_next(own, view) || led_before(own, view)).then(|| take(own, view)),
        }),
    };
    // Nobody who hands over, or may no longer lead, acts as if it led.
    let gives_up = leads.is_some()
        && (own.over || change.as_ref().is_some_and(|change| change.contains(&Op::Delete(Node::Leader))));
    let leader = leader.filter(|_| !gives_up).map(|(reign, _)| reign.clone());
    Decision { leader, change }
}

/// Whether the one that leads is known to be gone though its node is there: it has begun a new life, or its session has ended for
/// certain, since it is this replica's and this one has another. Or nothing that it appends is taken: the epoch was counted on without
/// it, by hand, for who does so to lead makes the node anew.
fn is_void(own: &Own, view: &View, reign: &Reign, session: i64) -> bool {
    let replaced = |candidate: &Candidate| candidate.life.0 == reign.replica && candidate.life.1 > reign.incarnation;
    let lost = reign.life() == own.life && session != view.session;
    lost || reign.epoch < view.epoch || view.candidates.iter().any(replaced)
}

/// Whether the one that leads no longer is this life, in a session before: nobody else can know it yet.
fn led_before(own: &Own, view: &View) -> bool {
    view.leader.as_ref().is_some_and(|(reign, _)| reign.life() == own.life)
}

/// Makes or changes the own node; takes away those of earlier lives.
fn register(own: &Own, view: &View) -> Option<Vec<Op>> {
    let of_own = |candidate: &&Candidate| candidate.life.0 == own.life.0;
    let mut ops = vec![Op::Check(Node::Incarnation, 0)];
    let mut there = false;
    for candidate in view.candidates.iter().filter(of_own) {
        // One with a later incarnation is none of this life's business: the check fails then.
        if candidate.life < own.life {
            ops.push(Op::Delete(Node::Candidate(candidate.life)));
        } else if candidate.life == own.life && candidate.session != view.session {
            ops.push(Op::Delete(Node::Candidate(own.life)));
        } else if candidate.life == own.life {
            there = true;
            if candidate.about != own.about {
                ops.push(Op::SetCandidate(own.life, own.about.clone()));
            }
        }
    }
    if !there {
        ops.push(Op::CreateCandidate(own.life, own.about.clone()));
    }
    (ops.len() > 1).then_some(ops)
}

/// Whether this one leads, and more of the other candidates do not reach it than do.
pub(super) fn is_cut_off(own: &Own, view: &View) -> bool {
    let Some((reign, _)) = view.leader.as_ref().filter(|(reign, _)| reign.life() == own.life) else { return false };
    let others = view.candidates.iter().filter(|candidate| candidate.life.0 != own.life.0);
    let by_life: BTreeMap<Life, Option<i32>> = others.map(|other| (other.life, other.about.unreached)).collect();
    // Of each replica the latest life.
    let latest: BTreeMap<u32, Option<i32>> = by_life.into_iter().map(|(life, unreached)| (life.0, unreached)).collect();
    let without = latest.values().filter(|unreached| **unreached == Some(reign.epoch)).count();
    2 * without > latest.len()
}

/// Whether this one is to lead next: the lowest number, of those that are not about to stop if there are any, of a replica its latest life.
/// One whose session lasts may be gone; so those behind it have their turns, too.
fn is_next(own: &Own, view: &View) -> bool {
    let Some(this) = view.candidates.iter().find(|candidate| candidate.life == own.life) else { return false };
    let order = |one: &Candidate| (one.about.rank(), one.life.0, Reverse(one.life.1));
    view.candidates.iter().filter(|other| order(other) < order(this)).count() <= view.turns
}

/// Whether there is a better one to hand over to; one that is not about to stop, and fit, has no better one.
fn hands_over(own: &Own, view: &View) -> bool {
    let is_better = |candidate: &Candidate| candidate.about.rank() < own.about.rank() && candidate.life.0 != own.life.0;
    view.candidates.iter().any(is_better)
}

fn take(own: &Own, view: &View) -> Vec<Op> {
    let (replica, incarnation) = own.life;
    let mut ops = vec![Op::Check(Node::Incarnation, 0), Op::Count(view.epoch)];
    if view.leader.is_some() {
        ops.push(Op::Delete(Node::Leader));
    }
    let epoch = view.epoch.wrapping_add(1);
    ops.push(Op::CreateLeader(Reign { replica, incarnation, epoch, address: own.about.address.clone() }));
    ops
}

fn yields(reign: &Reign) -> Vec<Op> {
    vec![Op::Check(Node::Epoch, reign.epoch), Op::Delete(Node::Leader)]
}

/// Takes away what is left of a life that is over; it has no incarnation to check.
fn withdraw(own: &Own, view: &View) -> Option<Vec<Op>> {
    let mut ops = Vec::new();
    if let Some((reign, _)) = view.leader.as_ref().filter(|(reign, _)| reign.life() == own.life) {
        ops.extend(yields(reign));
    }
    if view.candidates.iter().any(|candidate| candidate.life == own.life) {
        ops.push(Op::Delete(Node::Candidate(own.life)));
    }
    (!ops.is_empty()).then_some(ops)
}

/// Name of a candidate's node: names sort as numbers do.
pub(super) fn name_of((replica, incarnation): Life) -> String {
    format!("{replica:010}-{:016x}", incarnation.0)
}

/// The life that a candidate's node is of.
pub(super) fn life_of(name: &str) -> Option<Life> {
    let (replica, incarnation) = name.split_once('-')?;
    let life = (replica.parse().ok()?, Incarnation(i64::from_str_radix(incarnation, 16).ok()?));
    (name_of(life) == name).then_some(life)
}

#[cfg(test)]
#[path = "election_tests.rs"]
mod tests;
