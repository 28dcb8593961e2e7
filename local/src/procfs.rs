//! What `/proc` tells about a process. The local stack runs on Linux only, for this and for 127.x.y.z addresses.

use std::path::Path;

/// Clock ticks of `/proc/PID/stat` in a second, on every Linux.
const TICKS: f64 = 100.0;

/// The few facts of a process that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Process id.
    pub pid: i32,
    /// Process id of the parent.
    pub parent: i32,
    /// State letter: `R`, `S`, `D`, `T` (frozen), `Z` (dead, not yet collected) and so on.
    pub state: char,
    /// Clock ticks from the start of the machine to the start of the process: tells a reused id from the first.
    pub started: u64,
    /// Clock ticks of CPU that its threads, ended ones included, have used, in user mode and in the kernel.
    pub used: u64,
}

impl Facts {
    /// Reads the facts of `pid`; `None` when there is no such process or it is dead already.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        parse_stat(pid, &text).filter(|facts| !matches!(facts.state, 'Z' | 'X' | 'x') || threads(pid) > 1)
    }

    /// CPU time it has used, seconds; counted in hundredths.
    #[must_use]
    pub fn cpu_seconds(&self) -> f64 {
        self.used as f64 / TICKS
    }

    /// Whether it is stopped by a signal.
    #[must_use]
    pub fn frozen(&self) -> bool {
        matches!(self.state, 'T' | 't')
    }
}

/// Threads of `pid`. A dying process shows as dead as soon as its first thread is, while the others may still hold its
/// ports and files.
fn threads(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, |entries| entries.flatten().count())
}

fn parse_stat(pid: i32, text: &str) -> Option<Facts> {
    // The name stands in parentheses and may hold anything, parentheses and spaces included.
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let user: u64 = fields.nth(9)?.parse().ok()?;
    let kernel: u64 = fields.next()?.parse().ok()?;
    let started = fields.nth(6)?.parse().ok()?;
    Some(Facts { pid, parent, state, started, used: user + kernel })
}

/// Memory of `pid` that is resident, in bytes.
#[must_use]
pub fn resident_bytes(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The id of this start of the machine: a process recorded under another one is gone.
#[must_use]
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Every live process whose environment holds each of `variables` (`NAME=value`).
#[must_use]
pub fn with_environment(variables: &[String]) -> Vec<Facts> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| environment_holds(*pid, variables)).filter_map(Facts::of).collect()
}

fn environment_holds(pid: i32, variables: &[String]) -> bool {
    // Processes of other users can't be read; they are none of ours.
    let Ok(text) = std::fs::read(Path::new("/proc").join(pid.to_string()).join("environ")) else { return false };
    let has = |wanted: &String| text.split(|byte| *byte == 0).any(|found| found == wanted.as_bytes());
    variables.iter().all(has)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_and_spaces_do_not_confuse() {
        let text = "42 (a) S 1 (x) y) T 7 42 42 0 -1 4194304 1 2 3 4 50 6 7 8 20 0 1 0 98765 1000 3";
        let facts = parse_stat(42, text).unwrap();
        assert_eq!((facts.parent, facts.state, facts.started, facts.used), (7, 'T', 98_765, 56));
        assert!(facts.frozen());
    }

    #[test]
    fn cut_off_lines_are_no_facts() {
        for text in ["", "42", "42 (a)", "42 (a) S", "42 (a) S 1 2 3"] {
            assert_eq!(parse_stat(42, text), None, "{text}");
        }
    }

    #[test]
    fn this_process_is_found() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let facts = Facts::of(pid).unwrap();
        assert!(facts.started > 0 && !facts.frozen());
        assert!(resident_bytes(pid).unwrap() > 1 << 16);
        assert!(!boot_id().is_empty());
    }
}
