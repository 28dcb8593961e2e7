//! Ticks: the log clock goes on while nobody writes.
//!
//! All replicas would tick; a tick that one has appended silences the others, for each waits a little longer by its
//! own share. Silence grows with each tick in a row, so that a cluster at rest writes little (I7).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Config;
use crate::propose::Proposer;
use crate::record::{Record, RecordKind};
use crate::shared::Shared;

/// Proposes a tick whenever the log has been silent for long enough.
pub async fn propose_ticks(shared: Arc<Shared>, proposer: Proposer) -> Infallible {
    let mut round = u64::from(shared.config.replica);
    loop {
        let share = share(round);
        let (last, ticks) = shared.activity();
        let due = last + silence(&shared.config, ticks).mul_f64(1.0 + share / 2.0);
        tokio::time::sleep_until(due).await;
        if shared.activity().0 == last {
            // Whether it succeeds or not, the next one comes after as long a silence.
            let _ = proposer.propose(Record::bare(RecordKind::Tick)).await;
            if shared.activity().0 == last {
                tokio::time::sleep_until(Instant::now() + shared.config.tick_after).await;
            }
            round += 1;
        }
    }
}

/// Spreads the replicas' turns evenly between 0 and 1, and each replica's own: the multiples of the golden ratio do.
fn share(round: u64) -> f64 {
    (round as f64 * 0.618_033_988_749_895).fract()
}

/// How long the log has to be silent after `ticks` ticks in a row.
fn silence(config: &Config, ticks: u32) -> Duration {
    let doubled = config.tick_after.saturating_mul(1u32.checked_shl(ticks).unwrap_or(u32::MAX));
    doubled.min(config.tick_at_most).max(config.tick_after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i7_silence_grows_and_is_bounded() {
        let config = Config::default();
        assert_eq!(silence(&config, 0), config.tick_after);
        assert_eq!(silence(&config, 2), config.tick_after * 4);
        for ticks in [4, 31, 32, u32::MAX] {
            assert_eq!(silence(&config, ticks), config.tick_at_most);
        }
    }
}
