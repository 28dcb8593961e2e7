//! Real messages and statements, which other tests have, too.

use crate::corpus::unhex;

/// Messages of a driver.
pub const DRIVER: &str = include_str!("../../data/driver.hex");
/// Messages of a Cassandra.
pub const CASSANDRA: &str = include_str!("../../data/cassandra.hex");
const STATEMENTS: &str = include_str!("../../../../server/cql/tests/data/statements.txt");

/// All of them behind each other.
pub fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// The lines of hex.
pub fn hex_lines(text: &str) -> Vec<Vec<u8>> {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(unhex).collect()
}

/// Statements of every kind, and traps.
pub fn statements() -> impl Iterator<Item = String> {
    let lines = STATEMENTS.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(" | ")).map(|(_, text)| text.replace('⏎', "\n").replace('⇥', "\t"))
}
