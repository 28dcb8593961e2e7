//! Inputs that are kept: a file for each target, an input a line, in hex. What follows a `#` says what it is.
//!
//! `corpus` has what reaches most of the code, as few and as short as will do; `regressions` has what once broke something.

use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::Target;

/// The inputs that lead to most of the code.
pub const CORPUS: &str = "corpus";
/// The inputs that broke something.
pub const REGRESSIONS: &str = "regressions";

fn file(kind: &str, target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(kind).join(format!("{}.hex", target.name))
}

/// The kept inputs of a kind.
///
/// # Errors
/// A line is no hex, or the disk.
pub fn read(kind: &str, target: &Target) -> io::Result<Vec<Vec<u8>>> {
    let path = file(kind, target);
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text?,
    };
    let inputs = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let broken = || io::Error::other(format!("{}: a line is no hex", path.display()));
    inputs.filter(|line| !line.is_empty()).map(|line| unhex(line).ok_or_else(broken)).collect()
}

/// Keeps these and no others, the shortest first.
///
/// # Errors
/// The disk.
pub fn write(kind: &str, target: &Target, mut inputs: Vec<Vec<u8>>) -> io::Result<()> {
    inputs.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    inputs.dedup();
    let lines: String = inputs.iter().filter(|input| !input.is_empty()).map(|input| hex(input) + "\n").collect();
    fs::write(file(kind, target), lines)
}

/// All inputs to begin with.
///
/// # Errors
/// As [`read`].
pub fn all(target: &Target) -> io::Result<Vec<Vec<u8>>> {
    let mut all = (target.seeds)();
    all.extend(read(CORPUS, target)?);
    all.extend(read(REGRESSIONS, target)?);
    Ok(all)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads hex.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    let digit = |digit: u8| char::from(digit).to_digit(16);
    pairs.iter().map(|[high, low]| u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()).collect()
}
