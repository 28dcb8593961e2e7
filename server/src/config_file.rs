//! Settings from a file (`--config`): what is neither on the command line nor in the environment.

use std::{collections::BTreeMap, ffi::OsString, fs, path::Path};

use anyhow::{Context, bail, ensure};
use clap::{
    Arg, ArgAction, ArgMatches, CommandFactory, Parser,
    error::ErrorKind,
    parser::{MatchesError, ValueSource},
};
use serde_json::Value;

use crate::args::Cli;

/// Largest file, bytes: a file of settings has a hundred lines.
const MAX_BYTES: u64 = 1 << 20;
/// The flag that names the file; no setting of it.
const CONFIG: &str = "config";

/// The command line, and what its `--config` adds: a YAML file whose keys are the names of flags. What is also on the command line
/// or in the environment counts as it stands there.
///
/// # Errors
/// As [`Cli::try_parse_from`], or the file can't be used; the message says why.
pub fn command_line(mut argv: Vec<OsString>) -> Result<Cli, clap::Error> {
    // Flags that are missing may be in the file; what is wrong is told below.
    let seen = Cli::command().ignore_errors(true).try_get_matches_from(&argv)?;
    let (Some((name, given)), Some(file)) = (seen.subcommand(), config(&seen)?) else {
        return Cli::try_parse_from(argv);
    };
    let refused =
        |error: &anyhow::Error| raw(ErrorKind::InvalidValue, &format!("--config {}: {error:#}", file.display()));
    let added =
        read(file).and_then(|settings| flags(&settings, name, &seen, given)).map_err(|error| refused(&error))?;
    argv.extend(added.into_iter().map(OsString::from));
    Cli::try_parse_from(argv).map_err(|error| match error.use_stderr() {
        true => {
            let message = error.render().to_string();
            let message = message.strip_prefix("error: ").unwrap_or(&message).trim_end();
            raw(error.kind(), &format!("{message}\n\nSettings were also taken from {}.", file.display()))
        }
        false => error,
    })
}

fn config(seen: &ArgMatches) -> Result<Option<&Path>, clap::Error> {
    let file: Result<Option<&std::path::PathBuf>, MatchesError> = seen.try_get_one(CONFIG);
    file.map(|file| file.map(std::path::PathBuf::as_path))
        .map_err(|error| raw(ErrorKind::InvalidValue, &error.to_string()))
}

fn raw(kind: ErrorKind, message: &str) -> clap::Error {
    clap::Error::raw(kind, format!("{message}\n"))
}

fn read(file: &Path) -> anyhow::Result<BTreeMap<String, Value>> {
    let size = fs::metadata(file).context("it can't be read")?.len();
    ensure!(size <= MAX_BYTES, "it has {size} bytes; settings have {MAX_BYTES} at most");
    let text = fs::read_to_string(file).context("it can't be read")?;
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(BTreeMap::new());
    }
    serde_saphyr::from_str(&text).context("it is not YAML with lines of the form `listen: 0.0.0.0:9042`")
}

/// The settings as flags of the command `name`, without those that are given elsewhere.
fn flags(
    settings: &BTreeMap<String, Value>,
    name: &str,
    seen: &ArgMatches,
    given: &ArgMatches,
) -> anyhow::Result<Vec<String>> {
    let cli = Cli::command();
    let command = cli.find_subcommand(name).context("there is no such command")?;
    let mut flags = Vec::new();
    for (key, value) in settings {
        let mut arguments = command.get_arguments().chain(cli.get_arguments());
        let Some(argument) = arguments.find(|argument| argument.get_long() == Some(key) && key != CONFIG) else {
            bail!(
                "`{key}` is no setting of `{name}`. Its settings are the flags of `replicateddb-server {name} --help`, without \
                 the dashes before them"
            );
        };
        if [seen, given].into_iter().any(|matches| is_given(matches, argument)) {
            continue;
        }
        flags.extend(as_flags(key, value, argument)?);
    }
    Ok(flags)
}

/// Whether it is on the command line or in the environment.
fn is_given(matches: &ArgMatches, argument: &Arg) -> bool {
    let id = argument.get_id();
    matches.ids().any(|present| present == id)
        && matches!(matches.value_source(id.as_str()), Some(ValueSource::CommandLine | ValueSource::EnvVariable))
}

fn as_flags(key: &str, value: &Value, argument: &Arg) -> anyhow::Result<Vec<String>> {
    let with = |text: &str| vec![format!("--{key}={text}")];
    Ok(match value {
        Value::Bool(on) if matches!(argument.get_action(), ArgAction::SetTrue) => match on {
            true => vec![format!("--{key}")],
            false => Vec::new(),
        },
        _ if matches!(argument.get_action(), ArgAction::SetTrue) => bail!("`{key}` is true or false"),
        Value::Bool(on) => with(&on.to_string()),
        Value::Number(number) => with(&number.to_string()),
        Value::String(text) => with(text),
        Value::Array(items) => {
            let flags: Result<Vec<_>, _> = items.iter().map(|item| as_flags(key, item, argument)).collect();
            flags?.concat()
        }
        Value::Null => bail!("`{key}` has no value: give one, or leave the line out"),
        Value::Object(_) => bail!("`{key}` has settings of its own, and takes one value"),
    })
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, time::Duration};

    use super::*;
    use crate::args::{Command, LogFormat, ReplicaArgs};

    fn parse(text: &str, more: &[&str]) -> Result<Cli, String> {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(text.as_bytes()).expect("written");
        let path = file.path().display().to_string();
        let argv = ["replicateddb-server", "replica", "--config", &path].into_iter().chain(more.iter().copied());
        command_line(argv.map(OsString::from).collect()).map_err(|error| error.to_string())
    }

    fn replica(text: &str, more: &[&str]) -> ReplicaArgs {
        match parse(text, more).unwrap_or_else(|error| panic!("{error}")).command {
            Command::Replica(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    const LEAST: &str = "zookeeper: a:1,b:2\ncassandra: 127.0.0.2:9142\nkeyspace: r{id}\n";

    #[test]
    fn a_file_has_what_the_command_line_has_not() {
        let text = format!("# of the test\n{LEAST}log-segment-entries: 12\nrestore-point-interval: 5s\n");
        let args = replica(&text, &["--restore-point-interval", "7s"]);
        assert_eq!(args.order.zookeeper, "a:1,b:2");
        assert_eq!(args.log_segment_entries, 12);
        assert_eq!(args.restore_point_interval, Duration::from_secs(7), "the command line counts");
        assert_eq!(args.max_clients, replicateddb_replica::frontend::limits::DEFAULT_MAX_CLIENTS);
        let cli = parse(&format!("{LEAST}log-format: json"), &[]).expect("a flag of all commands");
        assert_eq!(cli.log_format, LogFormat::Json);
        let cli = parse(&format!("{LEAST}log-format: json"), &["--log-format", "text"]).expect("both");
        assert_eq!(cli.log_format, LogFormat::Text);
        let args = ["--zookeeper", "a:1", "--cassandra", "b:2", "--keyspace", "k"];
        assert_eq!(replica("# nothing\n", &args).order.zookeeper, "a:1");
    }

    #[test]
    fn switches_and_lists() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(b"replica: [a:1, b:2]\nreport-only: true\n").expect("written");
        let path = file.path().display().to_string();
        let argv = ["replicateddb-server", "verify", "--config", &path].map(OsString::from);
        match command_line(argv.to_vec()).unwrap_or_else(|error| panic!("{error}")).command {
            Command::Verify(args) => assert_eq!((args.replicas.len(), args.report_only), (2, true)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, said) in [
            ("listn: 1\n".to_owned(), "`listn` is no setting of `replica`"),
            ("config: /x\n".to_owned(), "`config` is no setting"),
            ("output: /x\n".to_owned(), "`output` is no setting of `replica`"),
            ("listen:\n".to_owned(), "`listen` has no value"),
            ("listen: {a: b}\n".to_owned(), "`listen` has settings of its own"),
            ("listen\n".to_owned(), "it is not YAML"),
            ("listen: [\n".to_owned(), "it is not YAML"),
            (format!("{LEAST}listen: nowhere\n"), "invalid value 'nowhere' for '--listen"),
            (format!("{LEAST}listen: nowhere\n"), "Settings were also taken from"),
            ("cassandra: b:2\nkeyspace: k\n".to_owned(), "--zookeeper"),
        ] {
            let error = parse(&text, &[]).expect_err(&text);
            assert!(error.contains(said), "{text}: {error}");
        }
        let argv = ["replicateddb-server", "replica", "--config", "/nowhere/at/all"].map(OsString::from);
        let error = command_line(argv.to_vec()).expect_err("no file").to_string();
        assert!(error.contains("--config /nowhere/at/all: it can't be read"), "{error}");
    }

    #[test]
    fn without_a_file_nothing_changes() {
        let argv = ["replicateddb-server", "replica", "--id", "x"].map(OsString::from);
        let error = command_line(argv.to_vec()).expect_err("wrong");
        assert_eq!(error.kind(), ErrorKind::ValueValidation);
        let argv = ["replicateddb-server", "--help"].map(OsString::from);
        assert_eq!(command_line(argv.to_vec()).expect_err("help").kind(), ErrorKind::DisplayHelp);
    }
}
