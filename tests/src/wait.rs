//! Waiting for something to become true.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a condition that should come true soon is waited for.
pub const SOON: Duration = Duration::from_secs(15);

/// Try `condition` until it gives a value, at most for `limit`; the error says `what` was waited for.
pub fn until_for<T>(
    limit: Duration,
    what: &str,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if Instant::now() >= end {
            bail!("waited {} s in vain: {what}", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// [`until_for`] with the usual limit and a condition that is just true or not.
pub fn until(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    until_for(SOON, what, || Ok(condition()?.then_some(())))
}
