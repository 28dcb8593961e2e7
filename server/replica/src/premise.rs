//! What a statement about the schema was judged by, and whether that still holds when its turn comes. Pure.
//!
//! Permissions are judged by the proposer, before the statement has its place in the order. Which ones it needs may depend on
//! what is there (`CREATE OR REPLACE` replaces, or creates), and what has a name may be gone by then, and another role's have
//! the same name. So the record says at which schema it was judged, as the index of the record that made it. At the record's
//! place every replica compares that with its own: when another schema change came between, none executes it, and the
//! proposer judges again.

use crate::backend::outcome::Reply;
use crate::record::{Record, flags};
use crate::replica::Outcome;

/// What is answered in place of executing a record whose premise is gone.
const MOVED: &str = "the schema was changed by others, again and again, while the permission for this statement was looked up; \
                     nothing was done: try again";

/// The record is to be executed only at the schema that the record at index `schema` made (0: at one without tables).
pub fn judged_at(record: Record, schema: u64) -> Record {
    Record { flags: record.flags | flags::JUDGED, argument: schema, ..record }
}

/// Whether the record may be executed at the schema that the record at index `schema` made.
pub fn holds(record: &Record, schema: u64) -> bool {
    record.flags & flags::JUDGED == 0 || record.argument == schema
}

/// The answer to a record whose premise is gone.
pub fn moved() -> Reply {
    Reply::invalid(MOVED)
}

/// Whether the record was not executed because its premise was gone.
pub fn is_moved(outcome: &Outcome) -> bool {
    let Reply { opcode, body, .. } = moved();
    (outcome.opcode, &outcome.body) == (opcode, &body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::RecordKind;

    #[test]
    fn what_was_judged_holds_at_that_schema_alone() {
        let plain = Record::bare(RecordKind::Ddl);
        assert!(holds(&plain, 0) && holds(&plain, 7), "what was not judged needs nothing");
        let judged = judged_at(plain, 7);
        assert!(holds(&judged, 7) && !holds(&judged, 8) && !holds(&judged, 0));
        let Reply { flags, opcode, body } = moved();
        let outcome = |body| Outcome { index: 9, flags, opcode, body };
        assert!(is_moved(&outcome(body)));
        assert!(!is_moved(&outcome(Reply::invalid("something else").body)));
    }
}
