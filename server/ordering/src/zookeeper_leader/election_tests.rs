//! Decisions, one by one; then whole histories against a model of ZooKeeper, with views that are old, sessions that end, lives that
//! are replaced and wake up. Each rule is taken away once, and the histories must notice.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::*;

const REPLICAS: u32 = 3;
const STEPS: usize = 120;
const HISTORIES: u64 = 10_000;
/// Rounds without trouble after which everybody has to be of one mind.
const ROUNDS: usize = 12;

fn life(replica: u32, incarnation: i64) -> Life {
    (replica, Incarnation(incarnation))
}

fn about(leaving: bool) -> About {
    About { address: "here".into(), leaving, ..About::default() }
}

fn candidate(replica: u32, leaving: bool) -> Candidate {
    Candidate { life: life(replica, 10 + i64::from(replica)), session: i64::from(replica), about: about(leaving) }
}

fn own(replica: u32) -> Own {
    Own { life: life(replica, 10 + i64::from(replica)), about: about(false), over: false }
}

fn reign(replica: u32, epoch: i32) -> (Reign, i64) {
    let (_, incarnation) = own(replica).life;
    (Reign { replica, incarnation, epoch, address: "here".into() }, i64::from(replica))
}

fn view(of: u32, leader: Option<(Reign, i64)>, candidates: Vec<Candidate>) -> View {
    View { session: i64::from(of), epoch: 4, leader, candidates, turns: 0 }
}

#[test]
fn names() {
    for one in [life(0, 1), life(7, 0x1_0000_0002), life(u32::MAX, i64::MAX)] {
        assert_eq!(life_of(&name_of(one)), Some(one));
    }
    for other in ["", "1-2", "0000000001", "0000000001-", "0000000001-00000000000000g1", "+000000001-0000000000000001"]
    {
        assert_eq!(life_of(other), None, "{other}");
    }
    assert!(name_of(life(9, 5)) < name_of(life(10, 1)), "they sort as numbers do");
}

#[test]
fn the_lowest_takes_it() {
    let all = || vec![candidate(0, false), candidate(1, false), candidate(2, false)];
    let takes = |of: u32, view: &View| decide(&own(of), view).change.is_some();
    assert!(takes(0, &view(0, None, all())));
    assert!(!takes(1, &view(1, None, all())) && !takes(2, &view(2, None, all())));
    let change = decide(&own(1), &view(1, None, all()[1..].to_vec())).change.expect("it takes it");
    let expected = vec![Op::Check(Node::Incarnation, 0), Op::Count(4), Op::CreateLeader(reign(1, 5).0)];
    assert_eq!(change, expected);
    // One that leads stays, whoever comes.
    let led = view(0, Some(reign(2, 4)), all());
    assert_eq!(decide(&own(0), &led), Decision { leader: Some(reign(2, 4).0), change: None });
    // Nobody does before it is registered.
    let change = decide(&own(0), &view(0, None, Vec::new())).change.expect("it registers");
    assert_eq!(change, [Op::Check(Node::Incarnation, 0), Op::CreateCandidate(own(0).life, about(false))]);
}

#[test]
fn one_that_is_about_to_stop_hands_over() {
    let leaving = |replica| Own { about: about(true), ..own(replica) };
    let both = |other| vec![candidate(0, true), candidate(1, other)];
    let decision = decide(&leaving(0), &view(0, Some(reign(0, 4)), both(false)));
    assert_eq!(decision.leader, None, "it acts as its leader no longer");
    assert_eq!(decision.change, Some(vec![Op::Check(Node::Epoch, 4), Op::Delete(Node::Leader)]));
    let decision = decide(&leaving(0), &view(0, Some(reign(0, 4)), both(true)));
    assert_eq!(decision, Decision { leader: Some(reign(0, 4).0), change: None }, "there is nobody better");
    assert_eq!(decide(&leaving(0), &view(0, None, both(false))).change, None, "the other one takes it");
    assert!(decide(&own(1), &view(1, None, both(false))).change.is_some());
    assert!(decide(&leaving(0), &view(0, None, both(true))).change.is_some(), "the last resort");
    // It says so first.
    let change =
        decide(&leaving(0), &view(0, Some(reign(0, 4)), vec![candidate(0, false), candidate(1, false)])).change;
    assert_eq!(change, Some(vec![Op::Check(Node::Incarnation, 0), Op::SetCandidate(own(0).life, about(true))]));
}

#[test]
fn one_that_is_of_no_use_hands_over() {
    let unfit = |about: About| About { unfit: true, ..about };
    let bad = |replica| Own { about: unfit(about(false)), ..own(replica) };
    let says = |replica, about: About| Candidate { about, ..candidate(replica, false) };
    let yields = |candidates| decide(&bad(0), &view(0, Some(reign(0, 4)), candidates)).change.is_some();
    let itself = || says(0, bad(0).about);
    assert!(yields(vec![itself(), candidate(1, false)]));
    assert!(yields(vec![itself(), candidate(1, true)]), "one that is about to stop is of more use");
    assert!(!yields(vec![itself(), says(1, unfit(about(false)))]), "there is no better one");
    let left = view(1, None, vec![itself(), says(1, about(true)), says(2, unfit(about(true)))]);
    assert!(is_next(&own(1), &left) && !is_next(&own(0), &left) && !is_next(&own(2), &left));
}

#[test]
fn one_that_is_gone_misses_its_turn() {
    let all = vec![candidate(0, false), candidate(1, false), candidate(2, true)];
    let takes = |of: u32, turns| decide(&own(of), &View { turns, ..view(of, None, all.clone()) }).change.is_some();
    assert!(takes(0, 0) && !takes(1, 0));
    assert!(takes(1, 1) && !is_next(&own(2), &View { turns: 1, ..view(2, None, all.clone()) }));
    assert!(is_next(&own(2), &View { turns: 2, ..view(2, None, all.clone()) }));
    // But nobody takes it from one that leads.
    let led = View { turns: 9, ..view(1, Some(reign(0, 4)), all) };
    assert_eq!(decide(&own(1), &led).change, None);
}

#[test]
fn one_that_most_do_not_reach_is_cut_off() {
    let without = |replica, epoch| Candidate {
        about: About { unreached: Some(epoch), ..about(false) },
        ..candidate(replica, false)
    };
    let cut_off = |mut others: Vec<Candidate>| {
        others.push(candidate(0, false));
        is_cut_off(&own(0), &view(0, Some(reign(0, 4)), others))
    };
    assert!(!cut_off(Vec::new()));
    assert!(cut_off(vec![without(1, 4)]));
    assert!(!cut_off(vec![without(1, 4), candidate(2, false)]), "it is 1 that is cut off");
    assert!(cut_off(vec![without(1, 4), without(2, 4)]));
    assert!(!cut_off(vec![without(1, 3), without(2, 3)]), "of a lead before");
    let earlier = Candidate { life: life(2, 1), ..without(2, 4) };
    assert!(!cut_off(vec![without(1, 4), earlier, candidate(2, false)]), "of a life before");
    assert!(!is_cut_off(&own(1), &view(1, Some(reign(0, 4)), vec![without(2, 4)])), "another one leads");
}

#[test]
fn what_a_candidate_says_is_read_by_older_and_newer_ones() {
    let json = |about: &About| serde_json::to_string(about).expect("written");
    assert_eq!(json(&about(false)), r#"{"address":"here"}"#);
    let all = About { unfit: true, unreached: Some(7), ..about(true) };
    for one in [about(false), all] {
        assert_eq!(serde_json::from_str::<About>(&json(&one)).expect("read"), one);
    }
    assert_eq!(serde_json::from_str::<About>(r#"{"address":"here","later":1}"#).expect("read"), about(false));
}

#[test]
fn what_is_left_of_an_earlier_life_holds_nobody_up() {
    let new = Own { life: life(0, 90), ..own(0) };
    let of_new = Candidate { life: new.life, session: 77, about: about(false) };
    let at = |leader, candidates| View { session: 77, epoch: 4, leader, candidates, turns: 0 };
    // It takes the place of its predecessor, whose session lasts.
    let change = decide(&new, &at(Some(reign(0, 4)), vec![candidate(0, false)])).change.expect("it registers");
    assert!(change.contains(&Op::Delete(Node::Candidate(own(0).life))), "{change:?}");
    let change = decide(&new, &at(Some(reign(0, 4)), vec![of_new.clone()])).change.expect("it takes it");
    assert!(change.contains(&Op::Delete(Node::Leader)) && change.contains(&Op::Count(4)), "{change:?}");
    // The others see it, too.
    let decision = decide(&own(1), &view(1, Some(reign(0, 4)), vec![of_new, candidate(1, false)]));
    assert_eq!(decision, Decision { leader: None, change: None }, "0 is the lowest still");
    // A session that was lost with the leader's node: only its own replica knows.
    let again =
        View { session: 55, ..view(0, Some(reign(0, 4)), vec![Candidate { session: 55, ..candidate(0, false) }]) };
    let change = decide(&own(0), &again).change.expect("it takes it");
    assert!(change.contains(&Op::Delete(Node::Leader)), "{change:?}");
}

#[test]
fn a_life_that_is_over_takes_its_nodes_away() {
    let over = Own { over: true, ..own(0) };
    let decision = decide(&over, &view(0, Some(reign(0, 4)), vec![candidate(0, false), candidate(1, false)]));
    assert_eq!(decision.leader, None);
    let gone = [Op::Check(Node::Epoch, 4), Op::Delete(Node::Leader), Op::Delete(Node::Candidate(over.life))];
    assert_eq!(decision.change.as_deref(), Some(&gone[..]));
    let decision = decide(&over, &view(0, Some(reign(1, 4)), vec![candidate(1, false)]));
    assert_eq!(decision, Decision { leader: Some(reign(1, 4).0), change: None });
}

/// A rule that is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutation {
    None,
    /// Appends do not check the epoch.
    AppendsUnfenced,
    /// Appends do not check their own life.
    AppendsOfNoLife,
    /// Who takes it does not check that nobody has since it looked.
    TakesBlindly,
    /// Who takes it does not count the epoch on.
    TakesUncounted,
    /// Who takes it makes no node that says so.
    TakesSecretly,
    /// Who takes it, or registers, does not check its own life.
    TakesWithoutLife,
    /// One that is about to stop leads on.
    NeverYields,
    /// What is left of an earlier life is respected.
    RespectsTheDead,
}

/// ZooKeeper, as far as it matters.
#[derive(Debug, Default)]
struct Model {
    counter: i64,
    sessions: BTreeSet<i64>,
    lives: BTreeMap<u32, Incarnation>,
    epoch: i32,
    leader: Option<(Reign, i64)>,
    candidates: BTreeMap<Life, (i64, About)>,
    /// Who has counted to which epoch.
    taken: BTreeMap<i32, Life>,
}

impl Model {
    fn number(&mut self) -> i64 {
        self.counter += 1;
        self.counter
    }

    fn session(&mut self) -> i64 {
        let session = self.number();
        self.sessions.insert(session);
        session
    }

    fn expire(&mut self, session: i64) {
        self.sessions.remove(&session);
        self.leader.take_if(|(_, of)| *of == session);
        self.candidates.retain(|_, (of, _)| *of != session);
    }

    /// All of it, or nothing: which operation fails.
    fn apply(&mut self, own: Life, session: i64, ops: &[Op]) -> Result<(), Option<Op>> {
        if !self.sessions.contains(&session) {
            return Err(None);
        }
        let before = (self.epoch, self.leader.clone(), self.candidates.clone(), self.taken.clone());
        for op in ops {
            if !self.step(own, session, op) {
                (self.epoch, self.leader, self.candidates, self.taken) = before;
                return Err(Some(op.clone()));
            }
        }
        Ok(())
    }

    fn step(&mut self, own: Life, session: i64, op: &Op) -> bool {
        match op {
            Op::Check(Node::Incarnation, _) => self.lives.get(&own.0) == Some(&own.1),
            Op::Check(Node::Epoch, version) => self.epoch == *version,
            Op::Check(..) => unreachable!("nothing else is checked"),
            Op::Count(version) => {
                let counts = self.epoch == *version;
                self.epoch += 1;
                counts
            }
            Op::SetCandidate(life, about) => match self.candidates.get_mut(life) {
                Some(candidate) => {
                    candidate.1 = about.clone();
                    true
                }
                None => false,
            },
            Op::CreateCandidate(life, about) => self.candidates.insert(*life, (session, about.clone())).is_none(),
            Op::CreateLeader(reign) => {
                let free = self.leader.is_none();
                self.leader = Some((reign.clone(), session));
                self.taken.insert(self.epoch, reign.life());
                free
            }
            Op::Delete(Node::Leader) => self.leader.take().is_some(),
            Op::Delete(Node::Candidate(life)) => self.candidates.remove(life).is_some(),
            Op::Delete(_) => unreachable!("nothing else is deleted"),
        }
    }
}

/// A process of a replica; one that was replaced goes on.
#[derive(Debug)]
struct Process {
    own: Own,
    session: i64,
    /// The epoch as read at some moment, and a whole view, read from then on.
    epoch: i32,
    view: Option<View>,
    /// The epoch that it appends under.
    mandate: Option<i32>,
    crashed: bool,
}

struct World {
    model: Model,
    processes: Vec<Process>,
    mutation: Mutation,
    random: StdRng,
}

impl World {
    fn new(seed: u64, mutation: Mutation) -> Self {
        let random = StdRng::seed_from_u64(seed);
        let mut world = Self { model: Model::default(), processes: Vec::new(), mutation, random };
        (0..REPLICAS).for_each(|replica| world.start(replica));
        world
    }

    fn start(&mut self, replica: u32) {
        let (incarnation, session) = (Incarnation(self.model.number()), self.model.session());
        self.model.lives.insert(replica, incarnation);
        let own = Own { life: (replica, incarnation), about: about(false), over: false };
        self.processes.push(Process { own, session, epoch: 0, view: None, mandate: None, crashed: false });
    }

    fn look(&mut self, index: usize, turns: usize) {
        let (model, process) = (&self.model, &mut self.processes[index]);
        let candidate = |(life, (session, about)): (&Life, &(i64, About))| Candidate {
            life: *life,
            session: *session,
            about: about.clone(),
        };
        let candidates = model.candidates.iter().map(candidate).collect();
        let (session, epoch, leader) = (process.session, process.epoch, model.leader.clone());
        process.view = Some(View { session, epoch, leader, candidates, turns });
        process.epoch = model.epoch;
    }

    /// Does what follows from the last view; `false` if that is nothing.
    fn act(&mut self, index: usize) -> Result<bool, String> {
        let process = &mut self.processes[index];
        let Some(mut view) = process.view.take() else { return Ok(true) };
        if self.mutation == Mutation::RespectsTheDead {
            let living = |candidate: &Candidate| {
                view.leader
                    .as_ref()
                    .is_none_or(|(reign, _)| candidate.life.0 != reign.replica || candidate.life == reign.life())
            };
            view.candidates.retain(living);
        }
        let Decision { leader, change } = decide(&process.own, &view);
        process.mandate = leader.filter(|reign| reign.life() == process.own.life).map(|reign| reign.epoch);
        let Some(mut ops) = change else { return Ok(false) };
        let takes = ops.iter().any(|op| matches!(op, Op::CreateLeader(_)));
        let yields = !takes && ops.contains(&Op::Delete(Node::Leader)) && !process.own.over;
        match self.mutation {
            Mutation::TakesBlindly if takes => ops.iter_mut().for_each(|op| {
                if let Op::Count(version) = op {
                    *version = self.model.epoch;
                }
            }),
            Mutation::TakesUncounted => ops.retain(|op| !matches!(op, Op::Count(_))),
            Mutation::TakesSecretly => ops.retain(|op| !matches!(op, Op::CreateLeader(_))),
            Mutation::TakesWithoutLife => ops.retain(|op| *op != Op::Check(Node::Incarnation, 0)),
            Mutation::NeverYields if yields => return Ok(false),
            _ => {}
        }
        let (own, session) = (process.own.life, process.session);
        match self.model.apply(own, session, &ops) {
            Err(Some(Op::Check(Node::Incarnation, _))) => self.processes[index].own.over = true,
            // A process learns of a session that has ended, and has another.
            Err(None) => self.processes[index].session = self.model.session(),
            _ => {}
        }
        match &self.model.leader {
            Some((reign, _)) if reign.epoch != self.model.epoch => {
                Err(format!("{reign:?} leads in epoch {}", self.model.epoch))
            }
            _ => Ok(true),
        }
    }

    /// An append; whether it may be is checked by what the model knows.
    fn append(&mut self, index: usize) -> Result<(), String> {
        let Process { own, mandate, .. } = &self.processes[index];
        let Some(epoch) = *mandate else { return Ok(()) };
        let mut ops = vec![Op::Check(Node::Incarnation, 0), Op::Check(Node::Epoch, epoch)];
        match self.mutation {
            Mutation::AppendsUnfenced => ops.truncate(1),
            Mutation::AppendsOfNoLife => drop(ops.remove(0)),
            _ => {}
        }
        // By sessions that do not end with the one of the election.
        let (life, session) = (own.life, self.model.session());
        let appended = self.model.apply(life, session, &ops);
        self.model.sessions.remove(&session);
        match appended {
            Ok(()) if self.model.taken.last_key_value() != Some((&epoch, &life)) => {
                Err(format!("{life:?} has appended in epoch {epoch} after {:?}", self.model.taken.last_key_value()))
            }
            Ok(()) if self.model.lives.get(&life.0) != Some(&life.1) => {
                Err(format!("{life:?} is over and has appended"))
            }
            Ok(()) => Ok(()),
            Err(failed) => {
                let process = &mut self.processes[index];
                process.mandate = None;
                process.own.over |= failed == Some(Op::Check(Node::Incarnation, 0));
                Ok(())
            }
        }
    }

    fn step(&mut self) -> Result<(), String> {
        let running: Vec<usize> = (0..self.processes.len()).filter(|index| !self.processes[*index].crashed).collect();
        let Some(&index) = running.choose(&mut self.random) else { return Ok(()) };
        match self.random.random_range(0..100) {
            // Now and then one is thought to have missed its turn.
            0..40 => {
                let turns = if self.random.random_range(0..4) == 0 { 1 } else { 0 };
                self.look(index, turns);
            }
            40..70 => drop(self.act(index)?),
            70..88 => self.append(index)?,
            88..92 => self.model.expire(self.processes[index].session),
            92..94 => self.processes[index].own.about.leaving = true,
            94..95 => self.processes[index].own.about.unfit ^= true,
            // A new life; the old process goes on, or is gone while its session lasts.
            95..97 => {
                self.processes[index].crashed = self.random.random();
                self.start(self.processes[index].own.life.0);
            }
            97..99 => {
                let replica = self.processes[index].own.life.0;
                self.processes[index].crashed = true;
                self.start(replica);
                self.model.expire(self.processes[index].session);
            }
            // Its life is ended by another one, or by itself.
            _ => {
                let (replica, incarnation) = self.processes[index].own.life;
                if self.model.lives.get(&replica) == Some(&incarnation) {
                    self.model.lives.remove(&replica);
                }
            }
        }
        Ok(())
    }

    /// Without further trouble all come to one mind, and rest.
    fn settles(&mut self) -> Result<(), String> {
        // What is left of a replica that has a new life is not waited for.
        let lost = |process: &&Process| process.crashed && !self.model.lives.contains_key(&process.own.life.0);
        let lost: Vec<i64> = self.processes.iter().filter(lost).map(|process| process.session).collect();
        lost.into_iter().for_each(|session| self.model.expire(session));
        let mut rests = false;
        for _ in 0..ROUNDS {
            rests = true;
            for index in 0..self.processes.len() {
                if !self.processes[index].crashed {
                    // Twice, for the epoch comes of the look before.
                    self.look(index, 0);
                    self.look(index, 0);
                    rests &= !self.act(index)?;
                    // One that is over learns of it by this.
                    self.append(index)?;
                }
            }
        }
        let lives = |process: &&Process| {
            let (replica, incarnation) = process.own.life;
            !process.crashed && self.model.lives.get(&replica) == Some(&incarnation)
        };
        let living: Vec<&Process> = self.processes.iter().filter(lives).collect();
        let best = living.iter().map(|process| process.own.about.rank()).min();
        let leads = |process: &&Process| !process.crashed && process.mandate.is_some();
        let leading: Vec<&Process> = self.processes.iter().filter(leads).collect();
        match leading.as_slice() {
            _ if !rests => Err("it goes on and on".into()),
            [] if living.is_empty() => Ok(()),
            [one] if !lives(one) => Err(format!("{one:?} leads and is over")),
            [one] if one.mandate != Some(self.model.epoch) => Err(format!("{one:?} leads in an old epoch")),
            [one] if Some(one.own.about.rank()) != best => Err(format!("{one:?} leads, and another one is better")),
            [_] => Ok(()),
            other => Err(format!("{} lead, of {} that live", other.len(), living.len())),
        }
    }
}

fn history(seed: u64, mutation: Mutation) -> Result<(), String> {
    let mut world = World::new(seed, mutation);
    (0..STEPS).try_for_each(|_| world.step())?;
    world.settles()
}

#[test]
fn one_leads_whatever_happens() {
    for seed in 0..HISTORIES {
        if let Err(wrong) = history(seed, Mutation::None) {
            panic!("seed {seed}: {wrong}");
        }
    }
}

#[test]
fn every_rule_is_needed() {
    for mutation in [
        Mutation::AppendsUnfenced,
        Mutation::AppendsOfNoLife,
        Mutation::TakesBlindly,
        Mutation::TakesUncounted,
        Mutation::TakesSecretly,
        Mutation::TakesWithoutLife,
        Mutation::NeverYields,
        Mutation::RespectsTheDead,
    ] {
        let noticed = (0..HISTORIES).find_map(|seed| Some((seed, history(seed, mutation).err()?)));
        let (seed, wrong) = noticed.unwrap_or_else(|| panic!("{mutation:?} is not noticed"));
        println!("{mutation:?}, seed {seed}: {wrong}");
    }
}
