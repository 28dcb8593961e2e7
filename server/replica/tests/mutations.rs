//! Deliberate mistakes, one at a time: the simulation must catch each of them, or it proves nothing.
//! `MUTATIONS=Name,Name` tries these alone. Those that hardly ever show in a random history have a directed one.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as the tests do")]

mod model;

use std::panic::{AssertUnwindSafe, catch_unwind};

use model::cluster::history::simulate;
use model::replaced;
use replicateddb_replica::mutations::{Mistaken, Mutation};

/// Histories in which each must show.
const LIMIT: u64 = 5000;

/// The first seed whose history shows the mistake.
fn caught(mutation: Mutation) -> Option<u64> {
    let _mistaken = Mistaken::begin(Some(mutation));
    let is_caught = |history: &dyn Fn()| catch_unwind(AssertUnwindSafe(history)).is_err();
    let directed = |history: fn(u64) -> bool| {
        let mut offsets = replaced::OFFSETS;
        offsets.find(|at| {
            is_caught(&|| {
                history(*at);
            })
        })
    };
    match mutation {
        Mutation::BarrierBeforeSettled => directed(replaced::quick_read),
        Mutation::StandForEver => directed(replaced::slow_read),
        _ => (0..LIMIT).find(|seed| {
            is_caught(&|| {
                simulate(*seed);
            })
        }),
    }
}

#[test]
fn every_mistake_is_caught() {
    // What goes wrong says so, hundreds of times.
    std::panic::set_hook(Box::new(|_| {}));
    let named = std::env::var("MUTATIONS").ok();
    let wanted =
        |mutation: &&Mutation| named.as_ref().is_none_or(|n| n.split(',').any(|n| n == format!("{mutation:?}")));
    let found: Vec<_> = Mutation::EVERY.iter().filter(wanted).map(|mutation| (mutation, caught(*mutation))).collect();
    drop(std::panic::take_hook());
    for (mutation, seed) in &found {
        eprintln!("{mutation:?}: {}", seed.map_or("NOT CAUGHT".to_owned(), |seed| format!("seed {seed}")));
    }
    assert!(found.iter().all(|(_, seed)| seed.is_some()), "not caught within {LIMIT} histories");
}
