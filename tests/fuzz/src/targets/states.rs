//! The deciding state: what a restore point says of it, and whatever then comes in the log.

use replicateddb_ordering::Position;
use replicateddb_replica::record::{Entry, RecordKind};
use replicateddb_replica::state::State;
use uuid::Uuid;

use super::entries;
use super::seeds::join;
use crate::source::Source;

/// Entries of one input, at most.
const ENTRIES: usize = 32;
const LOG: Uuid = Uuid::nil();

/// The JSON of a state, or none for the first one of a log; then entries.
pub fn run(input: &[u8]) {
    let mut source = Source(input);
    let json = source.bytes();
    let state = match json.is_empty() {
        true => State::initial(LOG),
        false => match restored(json) {
            Some(state) => state,
            None => return,
        },
    };
    goes_on(state, &mut source);
}

fn restored(json: &[u8]) -> Option<State> {
    let value: serde_json::Value = serde_json::from_slice(json).ok()?;
    let index = value.get("index").and_then(serde_json::Value::as_u64).unwrap_or_default();
    let state = State::restore(value, LOG, index).ok()?;
    assert_eq!(again(&state), Ok(state.clone()));
    Some(state)
}

fn again(state: &State) -> Result<State, String> {
    State::restore(serde_json::to_value(state).expect("plain fields serialise"), LOG, state.index())
}

/// As the applier does it: every entry in turn, until one can't be.
fn goes_on(mut state: State, source: &mut Source<'_>) {
    for _ in 0..ENTRIES {
        if source.is_empty() {
            break;
        }
        let next = state.next_position();
        let at = match source.below(16) {
            0 => Position::new(source.int(), source.int()),
            1 => next.next_segment(),
            _ => next,
        };
        let entry: Entry = entries::entry(source);
        let commit_ms = source.any_long() as i64;
        let before = (state.index(), state.timestamp_us());
        let Ok(admitted) = state.admit(at, commit_ms, entry) else { break };
        let mut last = before;
        for one in &admitted {
            assert_eq!(one.index, last.0 + 1, "the index is dense");
            assert!(one.timestamp_us > last.1, "write times ascend");
            last = (one.index, one.timestamp_us);
            assert!(state.contains(one.origin, one.incarnation, one.record.sequence));
        }
        assert_eq!((state.index(), state.timestamp_us()), last);
        let verdicts: Vec<_> = admitted.iter().filter_map(|one| Some((one.index, one.verdict.clone()?))).collect();
        for (index, verdict) in &verdicts {
            assert!(verdict.index < *index && !state.may_hold(verdict.index));
        }
        if verdicts.iter().any(|(_, verdict)| !verdict.skipped) {
            // The applier rewinds.
            break;
        }
        for one in admitted {
            // A record is left out at its place, if a verdict is ahead; or executed, and it may have changed the schema.
            match one.record.kind {
                _ if source.below(16) == 0 => state.skip(one.index),
                RecordKind::Ddl => state.schema_changed(one.index),
                _ => {}
            }
            let _ = (state.waiting(one.record.argument), state.heard(one.origin), state.table_id(one.index));
        }
        assert_eq!(again(&state), Ok(state.clone()));
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let of = |json: &str, entries: &[u8]| join(&[&(json.len() as u16).to_be_bytes(), json.as_bytes(), entries]);
    // Origin, incarnation, floor, count; kind, sequence, argument, ...
    let tick = [5, 0, 0, 0, 1, 5, 1, 0, 0, 0, 0, 0, 9];
    let complaints =
        [5, 1, 0, 0, 2, 0, 1, 0, 0, 0, 0, 0, 8, 2, 1, 1, 1, 0, 0, 7, 3, 0, 0, 0, 1, 8, 2, 1, 1, 1, 0, 0, 9, 1];
    let state = "{\"format\":3,\"log_id\":\"00000000-0000-0000-0000-000000000000\",\"index\":9,\"last\":{\"segment\":1,\
                 \"sequence\":4},\"clock_us\":77000000,\"timestamp_us\":77000009,\"semantics\":1,\"schema_index\":4,\
                 \"origins\":{\"0\":{\"incarnation\":1,\"floor\":5,\"seen\":{\"6\":7,\"9\":9}},\"1\":{\"incarnation\":2,\
                 \"floor\":0,\"seen\":{}}},\"verdicts\":{\"said\":{\"8\":{\"0\":{\"sequence\":7,\"failure\":\"this\",\
                 \"excused\":[1]}}},\"decided\":[3],\"skipped\":[6],\"below\":2},\"bytes\":4000}";
    vec![
        of("", &tick.repeat(3)),
        of("", &complaints),
        of("", &[tick.to_vec(), complaints.to_vec(), tick.to_vec()].concat()),
        of(state, &[]),
        of(state, &complaints.repeat(2)),
    ]
}
