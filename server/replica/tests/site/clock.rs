//! A wall clock that can be set for one process and those that it starts.

use std::path::PathBuf;
use std::process::Command;

/// Shifts the wall clock of the process that loads it.
const SHIM: &str = include_str!("../../../../tests/src/local/clock_shim.c");

/// Processes with its [variables](Clock::variables) see a shifted clock.
pub struct Clock {
    _dir: tempfile::TempDir,
    library: PathBuf,
    offset: PathBuf,
}

impl Clock {
    /// None without a C compiler, which it says.
    pub fn new() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let [source, library, offset] = ["clock.c", "clock.so", "offset"].map(|name| dir.path().join(name));
        std::fs::write(&source, SHIM).unwrap();
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let mut command = Command::new(compiler);
        command.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source);
        let Ok(output) = command.output() else {
            println!("SKIPPED: no C compiler to shift a process's clock with");
            return None;
        };
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        let clock = Self { _dir: dir, library, offset };
        clock.set(0);
        Some(clock)
    }

    /// How far off it is from now on, s. A process looks ten times a second.
    pub fn set(&self, seconds: i64) {
        let new = self.offset.with_extension("new");
        std::fs::write(&new, seconds.to_string()).unwrap();
        std::fs::rename(&new, &self.offset).unwrap();
    }

    pub fn variables(&self) -> Vec<(String, String)> {
        let text = |path: &PathBuf| path.display().to_string();
        vec![("LD_PRELOAD".into(), text(&self.library)), ("TEST_CLOCK_OFFSET".into(), text(&self.offset))]
    }
}
