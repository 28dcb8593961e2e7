//! Every target with all inputs that are kept, and with some thousands of variations of them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use replicateddb_fuzz::mutate::Mutator;
use replicateddb_fuzz::{TARGETS, Target, corpus};

/// What the variations begin with.
const SEED: u64 = 0x7265_706c_6963_6101;

fn check(name: &str) {
    let target = Target::named(name).expect("a target of this name");
    let begun = Instant::now();
    let kept = corpus::all(target).expect("readable inputs");
    assert!(!kept.is_empty(), "{name} has no input to begin with");
    kept.iter().for_each(|input| try_input(target, input));
    let mut mutator = Mutator::new(SEED);
    for _ in 0..target.quick {
        try_input(target, &mutator.variation(&kept, target.words, target.longest));
    }
    println!("{name}: {} inputs in {:?}", kept.len() + target.quick, begun.elapsed());
}

fn try_input(target: &Target, input: &[u8]) {
    // The program has said why by then.
    if catch_unwind(AssertUnwindSafe(|| target.execute(input))).is_err() {
        let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        panic!("{}: this input broke it: {hex}", target.name);
    }
}

macro_rules! targets {
    ($($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            check(stringify!($name));
        })*

        #[test]
        fn no_target_is_left_out() {
            let tested = [$(stringify!($name)),*];
            assert!(TARGETS.iter().map(|target| target.name).eq(tested), "{tested:?}");
        }
    };
}

targets!(
    frames,
    segments,
    requests,
    responses,
    texts,
    statements,
    repetitions,
    judgements,
    conditions,
    entries,
    states,
    truncations,
    znodes,
    pushes,
    values,
    lines,
    manifests,
);
