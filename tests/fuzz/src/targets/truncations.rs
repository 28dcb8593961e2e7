//! What replicas make known of themselves, and how much of the log may be given up by that.

use replicateddb_ordering::members::Member;
use replicateddb_ordering::truncation::{Limits, Presence, Published, Seen, decide};
use replicateddb_ordering::{Beginning, Incarnation, Position};

use crate::source::Source;

/// Replicas of one input, at most.
const REPLICAS: usize = 8;

pub fn run(input: &[u8]) {
    let mut source = Source(input);
    match source.flag() {
        true => read(source.rest()),
        false => decided(&mut source),
    }
}

/// The nodes of replicas, as JSON.
fn read(json: &[u8]) {
    if let Ok(published) = serde_json::from_slice::<Published>(json) {
        let again = serde_json::to_vec(&published).expect("plain fields serialise");
        assert_eq!(serde_json::from_slice::<Published>(&again).ok(), Some(published));
    }
    if let Ok(member) = serde_json::from_slice::<Member>(json) {
        let again = serde_json::to_vec(&member).expect("plain fields serialise");
        assert_eq!(serde_json::from_slice::<Member>(&again).ok(), Some(member));
    }
}

fn decided(source: &mut Source<'_>) {
    let first = Beginning { position: position(source), bytes: source.flag().then(|| source.any_long()) };
    let limits = Limits {
        behind_records: source.any_long(),
        away_bytes: source.any_long(),
        present_bytes: source.any_long(),
        step_entries: source.any_long() as u32,
        step_bytes: source.any_long(),
    };
    let all: Vec<Seen> = (0..source.below(REPLICAS)).map(|replica| seen(replica as u32, source)).collect();
    let decision = decide(&all, first, limits);
    let Some(below) = decision.below else {
        assert!(decision.left_behind.is_empty());
        return;
    };
    assert!(below.position > first.position, "the log's beginning goes forward");
    for one in &all {
        let needs_more = one.published.needs < below.position;
        assert_eq!(needs_more, decision.left_behind.contains(&one.published.replica));
    }
    let safe = |one: &&Seen| one.published.durable && one.published.needs >= below.position;
    assert!(all.iter().any(|one| safe(&one)), "what is given up lies in a restore point");
}

fn position(source: &mut Source<'_>) -> Position {
    Position::new(source.any_long() as u32, source.any_long() as u32)
}

fn seen(replica: u32, source: &mut Source<'_>) -> Seen {
    let published = Published {
        replica,
        incarnation: Incarnation(source.any_long() as i64),
        needs: position(source),
        index: source.any_long(),
        source: String::new(),
        durable: !source.flag(),
        beat: source.any_long(),
        executed: source.any_long(),
        bytes: source.flag().then(|| source.any_long()),
        forward: source.any_long(),
    };
    let presences = [Presence::There, Presence::Away, Presence::Gone, Presence::Still];
    Seen { published, presence: source.pick(&presences) }
}

pub fn seeds() -> Vec<Vec<u8>> {
    vec![
        b"\x01{\"replica\":1,\"incarnation\":5,\"needs\":{\"segment\":1,\"sequence\":2},\"index\":9,\"source\":\"http://a\",\"durable\":true,\"beat\":4,\"executed\":8,\"bytes\":77}".to_vec(),
        b"\x01{\"id\":1,\"host_id\":\"00000000-0000-0000-0000-000000000001\",\"address\":\"127.0.0.1\",\"cql_port\":9042,\"admin_port\":9470,\"data_center\":\"dc\",\"rack\":\"r\"}".to_vec(),
        vec![0, 0, 0, 0, 100, 200, 250, 10, 50, 3, 1, 0, 90, 90, 0, 1, 8, 1, 99, 0, 1, 0, 40, 40, 0, 1, 8, 1, 50, 1, 1, 0, 95, 95, 0, 1, 8, 0, 2],
    ]
}
