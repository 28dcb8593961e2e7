//! What people do with cqlsh, and with scripts of it.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use tokio::time::timeout;

use super::{Local, program};
use crate::scenario::cache_dir;

/// From a cqlsh's start to its end.
const CQLSH_LIMIT: Duration = Duration::from_secs(60);
/// Rows that are copied.
const ROWS: usize = 3000;
/// In what cqlsh says on standard error of a statement that the server refused. There may be other things: its driver's threads
/// complain at times when it ends.
const FAILURES: [&str; 2] = ["Error from server", "SyntaxException"];
/// The exit codes when a statement failed, and when nobody answers.
const STATEMENT_FAILED: i32 = 2;
const NOT_CONNECTED: i32 = 1;

/// cqlsh with one replica, and a folder for its files.
struct Shell<'a> {
    local: &'a Local,
    folder: &'a Path,
}

/// What a cqlsh has printed, and its exit code.
struct Ended {
    code: i32,
    out: String,
    error: String,
}

pub fn check(local: &mut Local) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let shell = Shell { local, folder: folder.path() };
    local.runtime.block_on(async {
        shell.note("source", shell.source().await)?;
        shell.note("describe", shell.describe().await)?;
        shell.note("copy", shell.copy().await)?;
        shell.note("tracing", shell.tracing().await)?;
        shell.note("paging and expand", shell.paging().await)?;
        shell.note("consistency", shell.consistency().await)?;
        shell.note("exit codes", shell.exit_codes().await)
    })?;
    local.verify()
}

impl Shell<'_> {
    fn note(&self, what: &str, outcome: Result<String>) -> Result<()> {
        println!("    ok {what}: {}", outcome.with_context(|| what.to_owned())?);
        Ok(())
    }

    /// Runs cqlsh with the replica of this number.
    async fn run(&self, replica: u8, arguments: &[&str]) -> Result<Ended> {
        let mut command = program::command("cqlsh");
        // Settings of the user that runs the tests are none of theirs; the home folder is also where a cache would be.
        let nothing = self.folder.join("cqlshrc");
        std::fs::write(&nothing, "")?;
        command.env("REPLICATEDDB_CACHE", cache_dir()).env("HOME", self.folder);
        command.arg(self.local.address(replica).to_string()).arg("--cqlshrc").arg(nothing).args(arguments);
        let ended = timeout(CQLSH_LIMIT, command.output()).await;
        let output = ended.with_context(|| format!("cqlsh {arguments:?} does not end"))??;
        Ok(Ended {
            code: output.status.code().context("cqlsh was killed")?,
            out: without_advice(std::str::from_utf8(&output.stdout)?),
            error: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// What statements print that do well.
    async fn says(&self, replica: u8, statements: &str) -> Result<String> {
        let Ended { code, out, error } = self.run(replica, &["-e", statements]).await?;
        ensure!(
            code == 0 && !FAILURES.iter().any(|failure| error.contains(failure)),
            "{statements}: exit code {code}\n{out}{error}"
        );
        Ok(out)
    }

    fn file(&self, name: &str, content: &str) -> Result<String> {
        let path = self.folder.join(name);
        std::fs::write(&path, content)?;
        Ok(path.display().to_string())
    }

    async fn source(&self) -> Result<String> {
        let file = self.file("schema.cql", SCHEMA)?;
        let Ended { code, out, error } = self.run(0, &["-e", &format!("SOURCE '{file}'")]).await?;
        let refused = FAILURES.iter().any(|failure| error.contains(failure));
        let warned = (out.clone() + &error).contains("Warnings");
        ensure!(code == 0 && !refused && !warned, "SOURCE: exit code {code}; errors and warnings: {out}{error}");
        let ended = self
            .run(1, &["-f", &self.file("more.cql", "USE shell; INSERT INTO people (id, name) VALUES (-1, 'f');")?])
            .await?;
        ensure!(ended.code == 0, "-f: {}", ended.error);
        let out = self.says(2, "CONSISTENCY QUORUM; SELECT name FROM shell.people WHERE id = -1").await?;
        has(&out, &["\n    f\n", "(1 rows)"])?;
        Ok("a schema by SOURCE, rows by -f".into())
    }

    async fn describe(&self) -> Result<String> {
        has(&self.says(0, "DESCRIBE KEYSPACES").await?, &["shell", "system_schema", "system_virtual_schema"])?;
        has(&self.says(1, "DESCRIBE CLUSTER").await?, &["Cluster: ", "Murmur3Partitioner", "SimpleSnitch"])?;
        let table = self.says(1, "DESCRIBE TABLE shell.people").await?;
        has(
            &table,
            &[
                "CREATE TABLE shell.people (",
                "id int PRIMARY KEY",
                "home frozen<address>",
                "CREATE INDEX by_name ON shell.people (name);",
            ],
        )?;
        has(
            &self.says(2, "USE shell; DESCRIBE TABLES; DESCRIBE TYPE address; DESCRIBE INDEX by_name").await?,
            &["people", "CREATE TYPE shell.address (", "by_name"],
        )?;
        has(&self.says(0, "DESCRIBE FULL SCHEMA").await?, &["CREATE KEYSPACE shell ", "CREATE TABLE system.local ("])?;
        let before = self.says(0, "DESCRIBE KEYSPACE shell").await?;
        let schema = self.says(1, "DESCRIBE SCHEMA").await?;
        ensure!(
            schema.contains(before.trim()),
            "DESCRIBE SCHEMA has not what DESCRIBE KEYSPACE has:\n{schema}\nbut\n{before}"
        );
        let file = self.file("described.cql", &before)?;
        self.says(1, &format!("DROP KEYSPACE shell; SOURCE '{file}'")).await?;
        let after = self.says(2, "DESCRIBE KEYSPACE shell").await?;
        ensure!(before == after, "described, dropped, made of the description:\n{before}\nand then\n{after}");
        Ok("keyspaces, cluster, tables, types, the schema; a keyspace made of its description is the same".into())
    }

    async fn copy(&self) -> Result<String> {
        let row = |id: usize| format!("{id},\"na\"\"me, {id}\",{}", id % 7);
        let mut lines: Vec<String> = (0..ROWS).map(row).collect();
        let (from, to) = (self.file("from.csv", &(lines.join("\n") + "\n"))?, self.folder.join("to.csv"));
        let columns = "shell.copied (id, name, number)";
        self.says(0, "CREATE TABLE shell.copied (id int PRIMARY KEY, name text, number int)").await?;
        let options = "WITH ESCAPE = '\"'";
        has(
            &self.says(0, &format!("COPY {columns} FROM '{from}' {options}")).await?,
            &[&format!("{ROWS} rows imported from 1 files")],
        )?;
        let export = format!("CONSISTENCY QUORUM; COPY {columns} TO '{}' {options}", to.display());
        has(&self.says(1, &export).await?, &[&format!("{ROWS} rows exported to 1 files")])?;
        let text = std::fs::read_to_string(&to)?;
        let mut found: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        found.sort();
        let differs = lines.iter().zip(&found).find(|(expected, got)| expected != got);
        ensure!(
            lines.len() == found.len() && differs.is_none(),
            "{} rows copied, {} came back; {differs:?}",
            lines.len(),
            found.len()
        );
        Ok(format!("{ROWS} rows from a file and back to one"))
    }

    async fn tracing(&self) -> Result<String> {
        let read = self.says(0, "CONSISTENCY QUORUM; TRACING ON; SELECT * FROM shell.copied WHERE id = 7").await?;
        has(
            &read,
            &[
                "TRACING set to ON",
                "Tracing session: ",
                "Executing single-partition query on copied",
                "Request complete",
            ],
        )?;
        Ok("a read shows what was done for it".into())
    }

    async fn paging(&self) -> Result<String> {
        let out = self.says(1, "CONSISTENCY QUORUM; PAGING 100; SELECT id FROM shell.copied").await?;
        has(&out, &["Page size: 100", &format!("({ROWS} rows)")])?;
        let out = self.says(1, "PAGING OFF; SELECT id FROM shell.copied").await?;
        has(&out, &["PAGING set to OFF", &format!("({ROWS} rows)")])?;
        let out =
            self.says(2, "CONSISTENCY QUORUM; EXPAND ON; SELECT id, number FROM shell.copied WHERE id = 8").await?;
        has(&out, &["EXPAND set to ON", "@ Row 1", " number | 1"])?;
        Ok(format!("{ROWS} rows in pages and without; a row as lines"))
    }

    async fn consistency(&self) -> Result<String> {
        for level in ["ONE", "QUORUM", "ALL", "LOCAL_QUORUM", "SERIAL", "LOCAL_SERIAL"] {
            let out =
                self.says(2, &format!("CONSISTENCY {level}; CONSISTENCY; SELECT count(*) FROM shell.copied")).await?;
            has(
                &out,
                &[
                    &format!("Consistency level set to {level}."),
                    &format!("Current consistency level is {level}."),
                    &ROWS.to_string(),
                ],
            )?;
        }
        let insert = "INSERT INTO shell.copied (id, number) VALUES (7, 1) IF NOT EXISTS";
        let out = self.says(0, &format!("SERIAL CONSISTENCY LOCAL_SERIAL; {insert}")).await?;
        has(&out, &["Serial consistency level set to LOCAL_SERIAL.", "False |  7 | na\"me, 7 |"])?;
        has(&self.says(0, "SHOW VERSION; SHOW HOST").await?, &["| Cassandra 5.0.", "Connected to "])?;
        Ok("six levels; the serial one of a conditional write that does not apply".into())
    }

    async fn exit_codes(&self) -> Result<String> {
        for statement in ["SELEC 1", "SELECT * FROM shell.nothing", "INSERT INTO system.local (key) VALUES ('x')"] {
            let ended = self.run(0, &["-e", statement]).await?;
            ensure!(
                ended.code == STATEMENT_FAILED && !ended.error.is_empty(),
                "{statement}: {} {}",
                ended.code,
                ended.error
            );
        }
        let file = self.file("bad.cql", "SELECT * FROM shell.nothing;\nSELECT id FROM shell.copied WHERE id = 1;\n")?;
        let ended = self.run(0, &["-f", &file]).await?;
        ensure!(ended.code == STATEMENT_FAILED && ended.out.contains("(1 rows)"), "-f: {} {}", ended.code, ended.out);
        let ended = self.run(0, &["1", "-e", "SHOW HOST"]).await?;
        ensure!(ended.code == NOT_CONNECTED, "nobody listens at port 1: {} {}", ended.code, ended.out);
        Ok("0; 2 when a statement failed, in a file after all others; 1 when nobody answers".into())
    }
}

/// What the described and copied tables are.
const SCHEMA: &str = "
CREATE KEYSPACE shell WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 3};
USE shell;
CREATE TYPE address (street text, phones frozen<set<text>>);
CREATE TABLE people (id int PRIMARY KEY, name text, home frozen<address>, scores list<int>) WITH comment = 'who''s there';
CREATE INDEX by_name ON people (name);
CREATE TABLE events (day date, at timeuuid, what text, place text static, PRIMARY KEY (day, at)) WITH CLUSTERING ORDER BY (at DESC);
CREATE TABLE \"Hits\" (page text PRIMARY KEY, n counter);
INSERT INTO people (id, name, home) VALUES (1, 'Ann', {street: 'Elm', phones: {'1'}});
";

/// What cqlsh prints without its advice to use the version that came with the server.
fn without_advice(text: &str) -> String {
    text.split_inclusive('\n').filter(|line| !line.starts_with("WARNING: cqlsh was built against")).collect()
}

/// Fails unless all of these are in the text.
fn has(text: &str, parts: &[&str]) -> Result<()> {
    for part in parts {
        ensure!(text.contains(part), "expected {part:?} in what cqlsh says:\n{text}");
    }
    Ok(())
}
