//! The kept inputs as files, a folder for each target, and back: what `tests/fuzz/run` hands libFuzzer, and keeps.
//!
//! ```text
//! replicateddb-fuzz-corpus list                 the targets: name, longest input
//! replicateddb-fuzz-corpus unpack TARGET FOLDER all inputs to begin with
//! replicateddb-fuzz-corpus words TARGET FILE    what inputs are made of
//! replicateddb-fuzz-corpus keep TARGET FOLDER   those of a folder, in place of those that were kept
//! ```

use std::path::Path;
use std::process::ExitCode;
use std::{env, fs, io};

use replicateddb_fuzz::corpus::{self, CORPUS};
use replicateddb_fuzz::{TARGETS, Target};

/// Bytes of inputs that are kept for a target; the longest are left out.
const KEPT: usize = 24 << 10;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> io::Result<()> {
    let target = |name: &str| Target::named(name).ok_or_else(|| io::Error::other(format!("there is no target {name}")));
    match arguments {
        ["list"] => {
            TARGETS.iter().for_each(|target| println!("{} {}", target.name, target.longest));
            Ok(())
        }
        ["unpack", name, folder] => unpack(target(name)?, Path::new(folder)),
        ["words", name, file] => words(target(name)?, Path::new(file)),
        ["keep", name, folder] => keep(target(name)?, Path::new(folder)),
        _ => Err(io::Error::other("usage: replicateddb-fuzz-corpus list | unpack|words|keep TARGET PATH")),
    }
}

fn unpack(target: &Target, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for (number, input) in corpus::all(target)?.into_iter().enumerate() {
        fs::write(folder.join(format!("kept-{number:05}")), input)?;
    }
    Ok(())
}

fn words(target: &Target, file: &Path) -> io::Result<()> {
    let escaped = |word: &str| word.bytes().map(|byte| format!("\\x{byte:02x}")).collect::<String>();
    let lines: String = target.words.iter().map(|word| format!("\"{}\"\n", escaped(word))).collect();
    fs::write(file, lines)
}

fn keep(target: &Target, folder: &Path) -> io::Result<()> {
    let mut inputs = Vec::new();
    for entry in fs::read_dir(folder)? {
        inputs.push(fs::read(entry?.path())?);
    }
    inputs.sort_by_key(Vec::len);
    let mut bytes = 0;
    inputs.retain(|input| {
        bytes += input.len();
        bytes <= KEPT
    });
    corpus::write(CORPUS, target, inputs)
}
