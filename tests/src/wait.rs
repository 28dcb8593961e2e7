//! Waiting for a condition with a deadline: the only way in which these tests wait.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Time between two looks at a condition that comes from another process.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Looks at `condition` until it gives a value, at most for `limit`.
///
/// `Ok(None)` and `Err` both mean "not yet"; the last error is part of the message when the time is over, because that
/// is mostly the reason.
///
/// # Errors
/// When `limit` has passed; the message names `what`.
pub fn until<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        let last = match condition() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if start.elapsed() > limit {
            match last {
                Some(error) => bail!("{what}: not so after {} s; last: {error:#}", limit.as_secs()),
                None => bail!("{what}: not so after {} s", limit.as_secs()),
            }
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// As [`until`], for a condition that is just true or false.
///
/// # Errors
/// As [`until`].
pub fn until_true(what: &str, limit: Duration, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    until(what, limit, || Ok(condition()?.then_some(())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_comes_true_gives_its_value() {
        let mut looks = 0;
        let value = until("third look", Duration::from_secs(5), || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        });
        assert_eq!(value.unwrap(), 3);
    }

    #[test]
    fn the_message_names_the_condition_and_the_last_error() {
        let error = until_true("the moon", Duration::ZERO, || bail!("it is cloudy")).unwrap_err().to_string();
        assert!(error.contains("the moon") && error.contains("it is cloudy"), "{error}");
    }
}
