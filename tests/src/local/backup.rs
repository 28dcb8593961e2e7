//! A keyspace that was dropped comes back from a checkpoint, on every replica, with the times and ends of its cells.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use scylla::statement::Consistency;
use serde_json::Value;

use super::{Local, tool};
use crate::scenario::Scenario;

/// How much the end of a cell may move, in seconds: what is left of it when it is restored is counted from another clock.
const ENDS_MOVE: i64 = 5;
/// Rows that many are restored at once of.
const MANY: i32 = 700;

const SCHEMA: &[&str] = &[
    "CREATE KEYSPACE \"Backup\" WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 3}",
    "CREATE TYPE \"Backup\".pair (a int, \"B\" frozen<list<text>>)",
    "CREATE TABLE \"Backup\".parts (k int PRIMARY KEY, l list<int>, s set<text>, m map<text, int>, p pair, f frozen<pair>, gone int)",
    "ALTER TABLE \"Backup\".parts DROP gone",
    "CREATE TABLE \"Backup\".rows (p text, c int, shared text static, v text, PRIMARY KEY (p, c)) WITH CLUSTERING ORDER BY (c DESC) \
     AND comment = 'a; b'",
    "CREATE INDEX by_v ON \"Backup\".rows (v)",
    "CREATE MATERIALIZED VIEW \"Backup\".by_c AS SELECT p, c, v FROM \"Backup\".rows WHERE p IS NOT NULL AND c IS NOT NULL \
     PRIMARY KEY (c, p)",
    "CREATE TABLE \"Backup\".counters (k int PRIMARY KEY, n counter)",
    "CREATE FUNCTION \"Backup\".twice(x int) CALLED ON NULL INPUT RETURNS int LANGUAGE java AS $$ return x == null ? 0 : 2 * x; $$",
];

const WRITES: &[&str] = &[
    "UPDATE \"Backup\".parts SET l = l + [1, 2], s = {'x', 'y'}, m = {'a': 1}, p.a = 1 WHERE k = 1",
    "UPDATE \"Backup\".parts SET l = [0] + l, m['b'] = 2, f = {a: 1, \"B\": ['b']} WHERE k = 1",
    "UPDATE \"Backup\".parts USING TIMESTAMP 1234567 SET s = s + {'old'} WHERE k = 2",
    "INSERT INTO \"Backup\".rows (p, c, v) VALUES ('it''s', 1, 'one')",
    "INSERT INTO \"Backup\".rows (p, c, v) VALUES ('it''s', 2, 'two') USING TTL 5000",
    "INSERT INTO \"Backup\".rows (p, c) VALUES ('key alone', 3)",
    "UPDATE \"Backup\".rows SET shared = 'static alone' WHERE p = 'no rows'",
    "DELETE v FROM \"Backup\".rows WHERE p = 'it''s' AND c = 1",
    "UPDATE \"Backup\".counters SET n = n + 7 WHERE k = 1",
    "UPDATE \"Backup\".counters SET n = n - 3 WHERE k = 2",
];

/// What depends on what was restored: it is the same on all replicas only if that is.
const LATER: &[&str] = &[
    "UPDATE \"Backup\".parts SET l = l + [3], l[0] = 9 WHERE k = 1",
    "UPDATE \"Backup\".parts SET l = l - [2] WHERE k = 1 IF m['b'] = 2",
    "UPDATE \"Backup\".counters SET n = n + 1 WHERE k = 1",
];

pub fn scenarios() -> Vec<Scenario<Local>> {
    vec![Scenario {
        name: "backup",
        proves: "a keyspace that was dropped is restored from a checkpoint: schema, values, write times and ends; never over one that is there",
        run: backup,
    }]
}

/// Has replica `i` make a checkpoint, in this folder.
fn checkpoint(local: &Local, i: u8, name: &str) -> Result<PathBuf> {
    let output = local.stack.dir().join(name);
    let (admin, token) = (local.stack.admin(i).to_string(), local.stack.token_file());
    let words = ["checkpoint", "--replica", &admin, "--output", text(&output)?];
    let (done, said) = tool(words)?;
    ensure!(!done && said.contains("--agent-token-file"), "without the token: {said}");
    let (done, said) = tool(words.into_iter().chain(["--agent-token-file", text(&token)?]))?;
    ensure!(done, "{said}");
    Ok(output)
}

/// Restores the keyspace of a checkpoint through replica `i`.
fn restore(local: &Local, i: u8, input: &Path) -> Result<(bool, String)> {
    let contact = local.stack.cql(i).to_string();
    tool(["restore", "--input", text(input)?, "--contact", &contact, "--keyspace", "Backup"])
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a folder's name that is no text")
}

/// The lines of the keyspace's documents.
fn lines(checkpoint: &Path) -> Result<BTreeMap<String, Vec<Value>>> {
    let mut documents = BTreeMap::new();
    for entry in fs::read_dir(checkpoint)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("Backup.") {
            let mut text = String::new();
            flate2::read::MultiGzDecoder::new(fs::File::open(&path)?).read_to_string(&mut text)?;
            let lines: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
            documents.insert(name, lines.with_context(|| path.display().to_string())?);
        }
    }
    ensure!(documents.len() == 3, "documents of the keyspace: {:?}", documents.keys());
    Ok(documents)
}

/// Takes the ends out of lines.
fn without_ends(value: &mut Value, ends: &mut Vec<i64>) {
    match value {
        Value::Object(fields) => {
            if let Some(end) = fields.remove("expires") {
                ends.extend(
                    end.as_array()
                        .map_or(vec![end.as_i64()], |all| all.iter().map(Value::as_i64).collect())
                        .iter()
                        .flatten(),
                );
            }
            fields.values_mut().for_each(|field| without_ends(field, ends));
        }
        Value::Array(all) => all.iter_mut().for_each(|one| without_ends(one, ends)),
        _ => {}
    }
}

/// Both checkpoints have the same rows, with the same times, and with ends that are about the same.
fn same(before: &Path, after: &Path) -> Result<()> {
    let (mut before, mut after) = (lines(before)?, lines(after)?);
    let ends = |documents: &mut BTreeMap<String, Vec<Value>>| {
        let mut ends = Vec::new();
        documents.values_mut().flatten().for_each(|line| without_ends(line, &mut ends));
        ends
    };
    let (first, second) = (ends(&mut before), ends(&mut after));
    for (name, lines) in &before {
        let restored = after.get(name).with_context(|| format!("{name} was not restored"))?;
        let differing = lines.iter().zip(restored).find(|(one, other)| one != other);
        ensure!(differing.is_none() && lines.len() == restored.len(), "{name} differs: {differing:?}");
    }
    let moved = first.iter().zip(&second).find(|(one, other)| (**one - **other).abs() > ENDS_MOVE);
    ensure!(!first.is_empty() && first.len() == second.len() && moved.is_none(), "ends: {first:?}, then {second:?}");
    Ok(())
}

fn backup(local: &mut Local) -> Result<()> {
    let run = |replica: u8, statements: Vec<String>| {
        local.runtime.block_on(async {
            let session = local.session(replica, Consistency::Quorum).await?;
            for statement in statements {
                session.query_unpaged(statement.as_str(), ()).await.with_context(|| statement)?;
            }
            Ok::<_, anyhow::Error>(())
        })
    };
    let all = |statements: &[&str]| statements.iter().copied().map(str::to_owned).collect::<Vec<_>>();
    run(0, all(SCHEMA))?;
    run(1, all(WRITES))?;
    let many = |n| format!("INSERT INTO \"Backup\".rows (p, c, v) VALUES ('many {}', {n}, '{n}')", n % 50);
    run(2, (0..MANY).map(many).collect())?;
    let made = checkpoint(local, 1, "backup-1")?;
    let (done, said) = restore(local, 0, &made)?;
    ensure!(!done && said.contains("are there already: Backup"), "over a keyspace that is there: {said}");
    run(0, all(&["DROP KEYSPACE \"Backup\""]))?;
    let (done, said) = restore(local, 2, &made)?;
    ensure!(done && said.contains("Backup.rows") && said.contains("restored from"), "{said}");
    local.verify()?;
    same(&made, &checkpoint(local, 0, "backup-2")?)?;
    run(1, all(LATER))?;
    local.verify()?;
    run(0, all(&["DROP KEYSPACE \"Backup\""]))?;
    let document = made.join("Backup.rows.jsonl.gz");
    let mut bytes = fs::read(&document)?;
    *bytes.last_mut().context("an empty document")? ^= 1;
    fs::write(&document, bytes)?;
    let (done, said) = restore(local, 0, &made)?;
    ensure!(!done && said.contains("Backup.rows.jsonl.gz is damaged"), "a damaged document: {said}");
    Ok(())
}
