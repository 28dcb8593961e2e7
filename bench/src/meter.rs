//! Who uses the machine's CPU: either side, the load tool, and everything else.

use anyhow::{Context, Result};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike as _,
};

use crate::side::Side;

/// Clock ticks of `/proc/stat` in a second, on every Linux.
const TICKS: f64 = 100.0;

/// CPU seconds used since some beginning, or between two readings.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Of all processes of each side.
    pub sides: [f64; 2],
    /// Of the load tool.
    pub tool: f64,
    /// Of everything else; taken away by the machine's host included.
    pub others: f64,
}

impl Usage {
    /// Reads what was used so far.
    ///
    /// # Errors
    /// When a process of a side has ended.
    pub fn read(sides: &[Side; 2]) -> Result<Self> {
        let used = [sides[0].cpu()?, sides[1].cpu()?];
        let own = getrusage(UsageWho::RUSAGE_SELF).context("the CPU of the load tool")?;
        let tool = (own.user_time() + own.system_time()).num_microseconds() as f64 / 1e6;
        let text = std::fs::read_to_string("/proc/stat").context("the machine's CPU")?;
        let all = busy(&text).context("the machine's CPU: unknown text")?;
        Ok(Self { sides: used, tool, others: all - used[0] - used[1] - tool })
    }

    /// What was used between an earlier reading and this one.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let sides = [self.sides[0] - earlier.sides[0], self.sides[1] - earlier.sides[1]];
        // The clocks of processes and of the machine differ by some hundredths.
        let others = (self.others - earlier.others).max(0.0);
        Self { sides, tool: self.tool - earlier.tool, others }
    }
}

/// CPU seconds that all processors were not idle, by the first line of `/proc/stat`: user, nice, system, (idle, waiting,)
/// interrupts of two kinds, stolen.
fn busy(text: &str) -> Option<f64> {
    let fields = text.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace();
    let ticks: Vec<f64> = fields.map(|field| field.parse().ok()).collect::<Option<_>>()?;
    let at = |index: usize| ticks.get(index).copied();
    Some((at(0)? + at(1)? + at(2)? + at(5)? + at(6)? + at(7)?) / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_and_waiting_are_not_busy() {
        assert_eq!(busy("cpu  100 200 300 9999 9999 1 2 97 50 0\ncpu0 1"), Some(7.0));
        assert_eq!(busy("cpu  100 200"), None);
        assert_eq!(busy("intr 1"), None);
    }
}
