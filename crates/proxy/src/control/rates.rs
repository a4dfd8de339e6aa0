//! How many requests each service gets, over the last minutes.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Two looks at the counters are at least so far apart, and so many are kept: five minutes.
const APART: Duration = Duration::from_secs(10);
const LOOKS: usize = 31;

/// Looks at the counters of each service, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Rates(RefCell<BTreeMap<String, VecDeque<(Instant, u64)>>>);

impl Rates {
    /// Notes how many requests the services have had in all.
    pub(super) fn note(&self, now: Instant, requests: BTreeMap<String, u64>) {
        let mut looks = self.0.borrow_mut();
        looks.retain(|service, _| requests.contains_key(service));
        for (service, requests) in requests {
            let looks = looks.entry(service).or_default();
            if looks.back().is_some_and(|(_, before)| requests < *before) {
                // Counters of revisions that left are forgotten some day.
                looks.clear();
            }
            if looks.back().is_none_or(|(at, _)| now.saturating_duration_since(*at) >= APART) {
                looks.push_back((now, requests));
            }
            if looks.len() > LOOKS {
                looks.pop_front();
            }
        }
    }

    /// Begins anew: what an earlier worker has counted was added at once.
    pub(super) fn forget(&self) {
        self.0.borrow_mut().clear();
    }

    /// Returns the requests per hour of a service; none until two looks are known.
    pub(crate) fn per_hour(&self, service: &str) -> Option<u64> {
        let looks = self.0.borrow();
        let looks = looks.get(service)?;
        let ((from, before), (to, requests)) = (looks.front()?, looks.back()?);
        let ms = u64::try_from(to.saturating_duration_since(*from).as_millis()).ok().filter(|ms| *ms > 0)?;
        Some(requests.saturating_sub(*before).saturating_mul(3_600_000) / ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_of_the_last_minutes() {
        let (rates, begun) = (Rates::default(), Instant::now());
        let mut requests = 0;
        for second in 0..1_000_u64 {
            requests += if second < 500 { 100 } else { 10 };
            let all = BTreeMap::from([("shop".to_owned(), requests)]);
            rates.note(begun + Duration::from_secs(second), all);
            assert_eq!(rates.per_hour("shop").is_some(), second >= 10);
        }
        assert_eq!(rates.per_hour("shop"), Some(36_000));
        rates.note(begun + Duration::from_secs(1_000), BTreeMap::from([("shop".to_owned(), 5)]));
        assert_eq!(rates.per_hour("shop"), None, "counters began anew");
    }
}
