//! Address ranges for stacks that must not meet: those of tests, and a user's own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Result, bail};

use crate::probe;
use crate::settings::Settings;

/// The ranges from which [`RangeClaim::find`] chooses; lower ones are left to people.
pub const FREE_RANGES: std::ops::RangeInclusive<u8> = 100..=250;
/// Whoever listens on this port of 127.R.255.1 has the range R.
const CLAIM_PORT: u16 = 9470;

/// An address range that nobody else on this machine claims while this value lives.
#[derive(Debug)]
pub struct RangeClaim {
    range: u8,
    _listener: TcpListener,
}

impl RangeClaim {
    /// A range in which every address of a stack like `settings` is free.
    pub fn find(settings: &Settings) -> Result<Self> {
        for range in FREE_RANGES {
            let address = SocketAddr::from((Ipv4Addr::new(127, range, 255, 1), CLAIM_PORT));
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let there = Settings { range, ..settings.clone() };
            let addresses = there.members().into_iter().flat_map(|member| there.listens(member));
            // Processes of a test that was killed may still hold some.
            if addresses.into_iter().all(|address| probe::check_free(address).is_ok()) {
                return Ok(Self { range, _listener: listener });
            }
        }
        bail!("no address range among 127.{}.0.0 to 127.{}.0.0 is free", FREE_RANGES.start(), FREE_RANGES.end())
    }

    /// The second number of the addresses.
    #[must_use]
    pub fn range(&self) -> u8 {
        self.range
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_claims_differ() {
        let settings = Settings::standard();
        let first = RangeClaim::find(&settings).unwrap();
        let second = RangeClaim::find(&settings).unwrap();
        assert_ne!(first.range(), second.range());
    }

    #[test]
    fn a_range_with_a_port_in_use_is_passed_over() {
        let mut settings = Settings::standard();
        let claim = RangeClaim::find(&settings).unwrap();
        settings.range = claim.range();
        let holder = TcpListener::bind(settings.replica_cql(1)).unwrap();
        drop(claim);
        assert_ne!(RangeClaim::find(&settings).unwrap().range(), settings.range);
        drop(holder);
    }
}
