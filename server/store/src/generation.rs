//! Cassandra's generation as every CQL connection can see it.
//!
//! The agent numbers each start of its JVM and passes the number as a system property whose name begins with
//! `cassandra.`; Cassandra shows those in a virtual table, so reading it writes nothing and needs no schema of ours.

/// The system property, and the key of the row.
pub const PROPERTY: &str = "cassandra.replicateddb_generation";

/// Asks a connection for its generation: one row, one column of type text.
pub const QUERY: &str =
    "SELECT value FROM system_views.system_properties WHERE name = 'cassandra.replicateddb_generation'";

/// The generation in the answer's cell; `None` if this is no Cassandra of an agent's.
#[must_use]
pub fn parse(cell: &[u8]) -> Option<u64> {
    std::str::from_utf8(cell).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_numbers_only() {
        for (cell, expected) in
            [(&b"17"[..], Some(17)), (b"0", Some(0)), (b"", None), (b"null", None), (b"-1", None), (b"\xff", None)]
        {
            assert_eq!(parse(cell), expected, "{cell:?}");
        }
        assert!(QUERY.contains(PROPERTY));
    }
}
