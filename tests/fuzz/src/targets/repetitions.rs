//! A part of a text again and again: what is quick for a short text must not take for ever for a long one.

use replicateddb_replica::frontend::fuzzing as front;

use super::seeds::{join, statements};
use super::{conditions, judgements, texts};
use crate::source::Source;

/// Bytes of the text.
const LENGTH: usize = 48 << 10;

/// Lengths of what stands before and behind, then all three.
pub fn run(input: &[u8]) {
    let mut source = Source(input);
    let (before, behind) = (usize::from(source.byte()), usize::from(source.byte()));
    let before = source.take(before);
    let rest = source.rest();
    let (again, behind) = rest.split_at(rest.len().saturating_sub(behind));
    let times = LENGTH / again.len().max(1);
    let text = [before, &again.repeat(times), behind].concat();
    let text = String::from_utf8_lossy(&text);
    texts::check(&text, false);
    judgements::check(&text, Some("ks"));
    conditions::check(&text, &[]);
    if let Ok(tokens) = front::lexed(&text) {
        let _ = front::too_deep(&text, &tokens);
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let of = |before: &str, again: &str, behind: &str| {
        join(&[&[before.len() as u8, behind.len() as u8], before.as_bytes(), again.as_bytes(), behind.as_bytes()])
    };
    let mut seeds = vec![
        of("BEGIN BATCH ", "INSERT INTO t (k) VALUES (now()) ", "APPLY BATCH"),
        of("BEGIN BATCH ", "UPDATE t SET a = ? WHERE k = :k IF b = 1;", "APPLY BATCH"),
        of("UPDATE t SET ", "a += ?, b[?] = uuid(), ", "WHERE k = ?"),
        of("INSERT INTO t JSON '", "''", "'"),
        of("SELECT ", "a,", " FROM system.local"),
        of("SELECT * FROM system.peers WHERE k IN (", ":a,", "?)"),
        of("CREATE TABLE t (k int PRIMARY KEY", ", a map<int, b>", ") WITH ID = 5"),
        of("CREATE TABLE t (k int) WITH ", "id = 1 AND ", "a = {'class': 'b'}"),
        of("GRANT ", "SELECT, ", "MODIFY ON t TO r"),
        of("CREATE AGGREGATE f(", "int, ", "a) SFUNC g STYPE h FINALFUNC i INITCOND j(k)"),
        of("DELETE ", "a[1], ", " FROM t WHERE k = 'x' AND b IN (1)"),
        of("", "-1--\n/**/$$;$$'';", ""),
        of("", "P1Y2M3DT4H5M6S", ""),
        of("INSERT INTO t (a) VALUES (", "[{(", "1"),
    ];
    seeds.extend(statements().filter(|text| text.len() < 250).map(|text| of("", &text, "")));
    seeds
}
