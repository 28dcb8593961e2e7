//! `log`: the global order, one line per record.

use std::fmt::Write as _;
use std::io::Write as _;

use anyhow::Context;
use futures::StreamExt;
use replicateddb_cql::{request::Values, wire::Value};
use replicateddb_ordering::{
    Committed, OrderedLog, Position,
    znode_log::{Config, ZnodeLog},
};
use replicateddb_replica::{
    record::{Entry, Record, RecordKind},
    state::State,
};

use crate::{args::LogArgs, signals};

/// The number under which the tool opens the log: no replica has it, so no replica loses its incarnation to the tool.
const READER: u32 = u32::MAX;
/// Characters of a statement that are shown.
const SHOWN_TEXT: usize = 160;
/// Characters of a value that are shown.
const SHOWN_VALUE: usize = 24;
/// Values of a statement that are shown.
const SHOWN_VALUES: usize = 8;

/// Prints the order from `--from` on: to its present end, or for ever with `--follow`.
///
/// # Errors
/// ZooKeeper can't be reached, or the log can't be read.
pub async fn run(args: LogArgs) -> anyhow::Result<()> {
    let stop_asked = signals::stop_asked()?;
    tokio::select! {
        done = print(args) => done,
        _ = stop_asked => Ok(()),
    }
}

async fn print(args: LogArgs) -> anyhow::Result<()> {
    // Whose the log is, is for the replicas to say.
    let config = Config { grant: false, ..args.order.config(READER)? };
    let (log, _) = ZnodeLog::open(config).await?;
    let first = log.first().await?;
    let end = log.end().await?;
    // Indexes follow from the whole of the log; what is left of a truncated one only has positions.
    let mut state = (first == Position::START).then(|| State::initial(log.log_id().0));
    if state.is_none() {
        eprintln!("the log was truncated: it starts at {first}, and records are shown without their index");
    }
    let mut tail = log.tail(first);
    let mut next = first;
    let mut out = std::io::stdout().lock();
    while args.follow || next < end {
        let committed = tail.next().await.context("the log ended")??;
        next = committed.position.next();
        let lines = lines(committed, state.as_mut(), args.from)?;
        // A closed pipe, as of `head`, is no error.
        if out.write_all(lines.as_bytes()).and_then(|()| out.flush()).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// The lines of an entry's records.
fn lines(committed: Committed, state: Option<&mut State>, from: u64) -> anyhow::Result<String> {
    let Committed { position, commit_time_ms, entry } = committed;
    let entry = Entry::decode(entry).with_context(|| format!("the entry at {position}"))?;
    let origin = entry.origin;
    let mut text = String::new();
    match state {
        None => {
            for record in &entry.records {
                line(&mut text, None, position, origin, record);
            }
        }
        Some(state) => {
            let admitted = state.admit(position, commit_time_ms, entry);
            for admitted in admitted.with_context(|| format!("the entry at {position}"))? {
                if admitted.index >= from {
                    line(&mut text, Some(admitted.index), position, origin, &admitted.record);
                }
            }
        }
    }
    Ok(text)
}

fn line(out: &mut String, index: Option<u64>, position: Position, origin: u32, record: &Record) {
    let index = index.map_or_else(|| "-".to_owned(), |index| index.to_string());
    let keyspace = record.keyspace.as_deref().unwrap_or("-");
    let position = position.to_string();
    let _ = write!(out, "{index:>10} {position:>12} replica-{origin:<3} {:<9} {keyspace:<16}", record.kind.name());
    if record.kind == RecordKind::Complaint {
        let _ = write!(out, " of record {}:", record.argument);
    }
    for (number, statement) in record.statements.iter().enumerate() {
        let separator = if number == 0 { " " } else { "; " };
        let _ = write!(out, "{separator}{}", shortened(&one_line(&statement.text), SHOWN_TEXT));
        values(out, &statement.values);
    }
    out.push('\n');
}

fn values(out: &mut String, values: &Values) {
    if values.is_empty() {
        return;
    }
    out.push_str(" [");
    for (number, bound) in values.iter().take(SHOWN_VALUES).enumerate() {
        if number > 0 {
            out.push_str(", ");
        }
        if let Some(name) = &bound.name {
            let _ = write!(out, "{name}: ");
        }
        out.push_str(&value(&bound.value));
    }
    if values.len() > SHOWN_VALUES {
        let _ = write!(out, ", and {} more", values.len() - SHOWN_VALUES);
    }
    out.push(']');
}

/// A value's type is not in the log: what reads as text is shown as text, the rest as bytes.
fn value(value: &Value) -> String {
    let bytes = match value {
        Value::Null => return "null".to_owned(),
        Value::Unset => return "unset".to_owned(),
        Value::Bytes(bytes) => bytes,
    };
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.is_empty() && !text.chars().any(char::is_control) => {
            format!("'{}'", shortened(text, SHOWN_VALUE))
        }
        _ => {
            let shown = bytes.iter().take(SHOWN_VALUE / 2);
            let hex = shown.fold(String::from("0x"), |mut hex, byte| {
                let _ = write!(hex, "{byte:02x}");
                hex
            });
            if bytes.len() > SHOWN_VALUE / 2 { format!("{hex}… ({} bytes)", bytes.len()) } else { hex }
        }
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn shortened(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use replicateddb_replica::record::StatementText;

    #[test]
    fn a_line_has_everything_and_stays_short() {
        let values = Values::positional(&[
            Value::Bytes("name".into()),
            Value::Bytes(bytes::Bytes::from_static(&[0, 0, 0, 7])),
            Value::Null,
            Value::Bytes("x".repeat(1000).into()),
        ]);
        let statement = StatementText {
            text: "INSERT INTO t\n  (a, b, c, d) VALUES (?, ?, ?, ?)".into(),
            values: values.expect("short"),
        };
        let record =
            Record { keyspace: Some("shop".into()), statements: vec![statement], ..Record::bare(RecordKind::Dml) };
        let mut out = String::new();
        line(&mut out, Some(42), Position::new(1, 7), 2, &record);
        assert!(out.len() < 200, "{out}");
        for part in ["42", "1/7", "replica-2", "dml", "shop", "INSERT INTO t (a, b", "'name', 0x00000007, null, 'xxx"] {
            assert!(out.contains(part), "{part:?} in {out}");
        }
    }

    #[test]
    fn shortening_keeps_characters_whole() {
        assert_eq!(shortened("äöü", 2), "äö…");
        assert_eq!(shortened("äöü", 3), "äöü");
        assert_eq!(value(&Value::Bytes(vec![0xff; 100].into())), format!("0x{}… (100 bytes)", "ff".repeat(12)));
    }
}
