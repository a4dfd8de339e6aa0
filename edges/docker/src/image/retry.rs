//! Trying again what may pass: a registry that is restarted, a connection that broke off.

use std::time::Duration;

use cutover_core::Fault;
use futures_util::future::BoxFuture;

use super::refusal::Refusal;
use super::watch::Watch;

/// How often something is tried, and how long between two tries.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// How often at most, the first included.
    pub tries: u32,
    /// The longest pause after the first; it doubles from there.
    pub first: Duration,
    /// The longest pause there is.
    pub most: Duration,
}

impl Default for Retry {
    /// Seven tries in about a minute: a registry that is restarted is back by then.
    fn default() -> Self {
        Self { tries: 7, first: Duration::from_secs(1), most: Duration::from_secs(20) }
    }
}

impl Retry {
    /// Tries until it succeeds, fails for good, or was tried often enough. `doing` and `registry` are words for the fault.
    // No async closure: of one the compiler cannot prove that it may be awaited on another thread.
    pub(crate) async fn run<'a, T>(
        &self,
        doing: &str,
        registry: &str,
        watch: &Watch,
        mut attempt: impl FnMut() -> BoxFuture<'a, Result<T, Refusal>>,
    ) -> Result<T, Fault> {
        let mut tried = 1;
        loop {
            let refusal = match attempt().await {
                Ok(done) => return Ok(done),
                Err(refusal) => refusal,
            };
            let fault = refusal.fault(doing, registry);
            if !refusal.passes() || tried >= self.tries {
                let what =
                    if tried > 1 { format!("{}; tried {tried} times", fault.what) } else { fault.what };
                return Err(Fault { what, ..fault });
            }
            let pause = self.pause(tried, fastrand::f64());
            watch.line(&format!("{}; trying again ({} of {})", fault.what, tried + 1, self.tries));
            tokio::time::sleep(pause).await;
            tried += 1;
        }
    }

    /// Returns the pause after so many tries. `luck` (0..1) spreads those who failed together: between half and all of it.
    fn pause(&self, tried: u32, luck: f64) -> Duration {
        let doubled = self.first.saturating_mul(2u32.saturating_pow(tried - 1)).min(self.most);
        doubled.mul_f64(0.5 + luck / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_never_vanish() {
        let retry = Retry::default();
        let all: Vec<u64> = (1..=7).map(|tried| retry.pause(tried, 1.0).as_secs()).collect();
        assert_eq!(all, [1, 2, 4, 8, 16, 20, 20]);
        assert_eq!(retry.pause(3, 0.0), Duration::from_secs(2));
        assert_eq!(retry.pause(40, 1.0), Duration::from_secs(20));
    }
}
