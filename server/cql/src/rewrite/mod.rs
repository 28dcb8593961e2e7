//! Makes a statement mean the same wherever and whenever it is executed.

mod calls;
mod ddl;
mod role;
mod timestamp;

pub use calls::{NondeterministicValues, Rewritten, with_literals, with_markers};
pub use ddl::{with_drop_timestamp, with_table_id};
pub use role::with_hashed_passwords;
pub use timestamp::with_timestamp_marker;
