use proptest::prelude::*;

use super::*;

fn origins(count: u32) -> BTreeSet<u32> {
    (0..count).collect()
}

fn fails(failure: &str, excused: &[u32]) -> Complaint {
    Complaint { failure: Some(failure.to_owned()), excused: excused.iter().copied().collect(), ..takes_back() }
}

fn takes_back() -> Complaint {
    Complaint { failure: None, excused: BTreeSet::new(), heard: BTreeMap::new(), round: 1 }
}

type Words = Vec<(u32, u64, Complaint)>;

/// What is said of record 5, by whom and with which sequence; the place in it at which there is a verdict.
fn decided_at(replicas: u32, said: &[(u32, u64, Complaint)]) -> Option<usize> {
    let mut verdicts = Verdicts::default();
    said.iter().position(|(origin, sequence, complaint)| {
        verdicts.heard(*origin);
        verdicts.say(5, *origin, *sequence, complaint.clone());
        verdicts.decide(5, &origins(replicas)).is_some()
    })
}

#[test]
fn a_verdict_needs_the_same_failure_of_all() {
    let a = |excused: &[u32]| fails("a", excused);
    let cases: Vec<(&str, u32, Words, Option<usize>)> = vec![
        ("one of one", 1, vec![(0, 1, a(&[]))], Some(0)),
        ("two of three", 3, vec![(0, 1, a(&[])), (1, 1, a(&[]))], None),
        ("three of three", 3, vec![(0, 1, a(&[])), (1, 1, a(&[])), (2, 1, a(&[]))], Some(2)),
        ("another failure", 2, vec![(0, 1, a(&[])), (1, 1, fails("b", &[]))], None),
        ("the same in the end", 2, vec![(0, 1, a(&[])), (1, 1, fails("b", &[])), (1, 2, a(&[]))], Some(2)),
        ("taken back", 2, vec![(0, 1, a(&[])), (0, 2, takes_back()), (1, 1, a(&[]))], None),
        ("taken back, and said late", 2, vec![(0, 2, takes_back()), (0, 1, a(&[])), (1, 1, a(&[]))], None),
        ("said again", 2, vec![(0, 2, takes_back()), (0, 3, a(&[])), (1, 1, a(&[]))], Some(2)),
        ("the third is excused by all", 3, vec![(0, 1, a(&[2])), (1, 1, a(&[2]))], Some(1)),
        ("by one", 3, vec![(0, 1, a(&[2])), (1, 1, a(&[]))], None),
        (
            "the excused one is back, with another failure",
            3,
            vec![(0, 1, a(&[2])), (2, 1, fails("b", &[])), (1, 1, a(&[2]))],
            None,
        ),
        (
            "it said something else, and is gone since",
            3,
            vec![(2, 1, fails("b", &[])), (0, 1, a(&[2])), (1, 1, a(&[2]))],
            Some(2),
        ),
        ("what it said first", 3, vec![(0, 1, fails("b", &[])), (1, 1, a(&[0])), (2, 1, a(&[0]))], Some(2)),
        ("one of the others does not say so", 3, vec![(2, 1, fails("b", &[])), (0, 1, a(&[2])), (1, 1, a(&[]))], None),
        (
            "nor is anybody waited for on its word alone",
            5,
            vec![(4, 1, fails("b", &[])), (0, 1, a(&[3, 4])), (1, 1, a(&[3, 4])), (2, 1, a(&[3, 4]))],
            Some(3),
        ),
        (
            "it is gone, and what it said was the same: that is a promise",
            3,
            vec![(2, 1, a(&[])), (0, 1, a(&[1, 2]))],
            Some(1),
        ),
        ("nobody decides alone while there are others", 3, vec![(0, 1, a(&[1, 2]))], None),
        ("half is no majority", 4, vec![(0, 1, a(&[2, 3])), (1, 1, a(&[2, 3]))], None),
    ];
    for (what, replicas, said, expected) in cases {
        assert_eq!(decided_at(replicas, &said), expected, "{what}");
    }
}

#[test]
fn a_new_incarnation_voids_what_the_old_one_said() {
    let mut verdicts = Verdicts::default();
    verdicts.say(5, 0, 1, fails("a", &[]));
    verdicts.restarted(0);
    verdicts.say(5, 1, 1, fails("a", &[]));
    assert_eq!(verdicts.decide(5, &origins(2)), None);
    verdicts.say(5, 0, 1, fails("a", &[]));
    assert!(verdicts.decide(5, &origins(2)).is_some());
}

#[test]
fn a_replica_that_appends_is_waited_for() {
    let mut verdicts = Verdicts::default();
    verdicts.say(5, 0, 1, fails("a", &[2]));
    verdicts.heard(2);
    verdicts.say(5, 1, 1, fails("a", &[2]));
    let waiting = verdicts.waiting(5, &origins(3)).unwrap();
    assert_eq!((waiting.missing, waiting.majority), (vec![2], true));
    assert!(!verdicts.says(5, 0, &fails("a", &[2])), "it has to say it again");
    verdicts.say(5, 0, 2, fails("a", &[2]));
    assert!(verdicts.decide(5, &origins(3)).is_some());
}

#[test]
fn there_is_one_verdict_on_a_record() {
    let mut verdicts = Verdicts::default();
    verdicts.skip(5);
    for round in 0..2 {
        verdicts.say(5, 0, 1 + round, fails("a", &[]));
        let expected = (round == 0).then(|| Verdict { index: 5, failure: "a".into(), skipped: true });
        assert_eq!(verdicts.decide(5, &origins(1)), expected);
        assert!(verdicts.leaves_out(5));
    }
    verdicts.say(6, 0, 3, fails("a", &[]));
    assert!(verdicts.decide(6, &origins(1)).is_some_and(|verdict| !verdict.skipped));
}

#[test]
fn i7_what_is_said_and_decided_is_bounded() {
    let mut verdicts = Verdicts::default();
    for index in 1..=5000 {
        verdicts.say(index, 0, index, fails("a", &[]));
        assert!(verdicts.said.len() <= MAX_COMPLAINED);
    }
    assert_eq!(verdicts.decide(1, &origins(1)), None, "forgotten");
    verdicts.say(1, 0, 9000, fails("a", &[]));
    assert_eq!(verdicts.decide(1, &origins(1)), None, "for good");
    for index in 5001..=9000 {
        verdicts.say(index, 0, index, fails("a", &[]));
        assert!(verdicts.decide(index, &origins(1)).is_some());
        assert!(verdicts.decided.len() <= MAX_DECIDED);
    }
    verdicts.say(10_000, 0, 10_000, takes_back());
    assert!(verdicts.said.contains_key(&10_000));
    verdicts.settled(0, 10_000);
    assert!(verdicts.said.contains_key(&10_000), "something earlier may come yet");
    verdicts.settled(0, 10_001);
    assert!(!verdicts.said.contains_key(&10_000));
}

#[test]
fn failures_are_the_same_wherever_they_happen() {
    let cases = [
        ("/127.0.0.1:7000 failed", "/# failed"),
        ("1 failures: UNKNOWN from shop-cassandra-2/10.4.0.17:7000", "# failures: UNKNOWN from shop-cassandra-#"),
        ("[fe80::1%eth0]", "[fe80::1%eth0]"),
        ("table 5bc52802-de25-35ed-aeab-188eecebb090 at Foo$3@7a81197d", "table # at Foo$#"),
        ("Length 70000 > max length 65535", "Length # > max length #"),
        ("ends in 42", "ends in #"),
        ("ünï 1 cödé", "ünï # cödé"),
        ("", ""),
    ];
    for (raw, expected) in cases {
        let expected = if raw.starts_with("[fe80") { "[#%#]" } else { expected };
        assert_eq!(normalised(raw), expected, "{raw}");
    }
    let long = normalised(&"ü".repeat(5000));
    assert!(long.len() <= MAX_FAILURE_BYTES && long.len() > MAX_FAILURE_BYTES - 2);
}

#[test]
fn complaints_survive_the_log() {
    let heard = BTreeMap::from([(7, Heard { incarnation: i64::MAX, sequence: 3 })]);
    let complaint = Complaint { heard, ..fails("a \"quoted\" ü", &[1, 7]) };
    let record = complaint.record(42);
    assert_eq!((record.argument, Complaint::of(&record)), (42, Some(complaint)));
    let of = |text: &str| {
        let statements = vec![StatementText { text: text.into(), values: Values::none() }];
        Complaint::of(&Record { statements, ..Record::bare(RecordKind::Complaint) })
    };
    assert_eq!(of("{\"failure\":null,\"excused\":[],\"round\":1}"), Some(takes_back()), "of an earlier version");
    assert_eq!(of("{\"failure\":null,\"excused\":[],\"round\":1,\"new\":2}"), None, "of a newer version");
    assert_eq!(of("nonsense"), None);
    assert_eq!(Complaint::of(&Record::bare(RecordKind::Complaint)), None);
}

#[derive(Debug, Clone)]
enum Step {
    Say(u32, bool, BTreeSet<u32>),
    TakeBack(u32),
    Restart(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let excused = || proptest::collection::btree_set(0..4u32, 0..2);
    let step = prop_oneof![
        6 => (0..4u32, any::<bool>(), excused()).prop_map(|(of, a, excused)| Step::Say(of, a, excused)),
        2 => (0..4u32).prop_map(Step::TakeBack),
        1 => (0..4u32).prop_map(Step::Restart),
    ];
    proptest::collection::vec(step, 0..40)
}

proptest! {
    /// Against what is meant, said plainly: at a verdict the last word of each of four replicas is the same failure, but for
    /// those that everybody excuses who is not excused by all the others himself.
    #[test]
    fn a_verdict_is_what_everybody_says(steps in steps()) {
        let mut verdicts = Verdicts::default();
        let mut words: BTreeMap<u32, Complaint> = BTreeMap::new();
        for (sequence, step) in (1..).zip(steps) {
            match step {
                Step::Say(of, a, excused) => {
                    let complaint = Complaint { excused, ..fails(if a { "a" } else { "b" }, &[]) };
                    words.insert(of, complaint.clone());
                    verdicts.say(5, of, sequence, complaint);
                }
                Step::TakeBack(of) => {
                    words.remove(&of);
                    verdicts.say(5, of, sequence, takes_back());
                }
                Step::Restart(of) => {
                    words.remove(&of);
                    verdicts.restarted(of);
                }
            }
            let excuse = |by: &BTreeSet<u32>, of: u32| {
                by.iter().any(|by| *by != of) && by.iter().all(|by| *by == of || words[by].excused.contains(&of))
            };
            let all: BTreeSet<u32> = words.keys().copied().collect();
            let here: BTreeSet<u32> = all.iter().copied().filter(|of| !excuse(&all, *of)).collect();
            let here = if here.is_empty() { all } else { here };
            let failure = here.first().map(|of| words[of].failure.clone());
            let fail = |of: &u32| words.get(of).is_some_and(|word| Some(&word.failure) == failure.as_ref());
            let excused = |of: &u32| !here.contains(of) && excuse(&here, *of);
            let expected = (0..4).all(|of| fail(&of) || excused(&of)) && (0..4).filter(fail).count() > 2;
            let found = verdicts.decide(5, &origins(4));
            prop_assert_eq!(found.is_some(), expected);
            if expected {
                break;
            }
        }
    }
}
