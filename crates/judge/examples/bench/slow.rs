//! What others decide about latency by, on the same requests.

use cutover_judge::Arm;

use crate::kayenta;

/// Names, in the order of the tables.
pub(crate) const NAMES: [&str; 5] =
    ["flagger_p99_1", "flagger_p99_5", "kayenta_mean", "kayenta_p99", "article_mean"];
const FLAGGER_MS: f64 = 500.0;
const ARTICLE_MS: f64 = 2_000.0;

/// All of them: Flagger wants a 99th percentile below 500 ms each minute, threshold 1 or 5, and acts at the next minute;
/// Kayenta compares means, or 99th percentiles, of minutes each five minutes; the article wants a mean below 2 s after five.
#[derive(Default)]
pub(crate) struct Slow {
    minute: [Vec<f64>; 2],
    minutes: u32,
    high: u32,
    means: [Vec<f64>; 2],
    p99s: [Vec<f64>; 2],
    /// Of the candidate, in these five minutes.
    five: Vec<f64>,
}

impl Slow {
    pub(crate) fn add(&mut self, arm: Arm, ms: f64) {
        self.minute[arm as usize].push(ms);
    }

    /// Ends a minute. Returns who takes the candidate back.
    pub(crate) fn end_minute(&mut self) -> [bool; NAMES.len()] {
        self.minutes += 1;
        let flagger = [1, 5].map(|threshold| self.high >= threshold);
        self.five.extend(&self.minute[1]);
        for (arm, minute) in self.minute.iter_mut().enumerate() {
            let mut minute = std::mem::take(minute);
            minute.sort_by(f64::total_cmp);
            let p99 = minute.get((minute.len() as f64 * 0.99) as usize).copied();
            self.means[arm].extend(mean(&minute));
            self.p99s[arm].extend(p99);
            // A minute without requests fails as well.
            if arm == 1 && p99.is_none_or(|p99| p99 > FLAGGER_MS) {
                self.high += 1;
            }
        }
        let judged = self.minutes.is_multiple_of(5);
        let five = if judged { std::mem::take(&mut self.five) } else { Vec::new() };
        let article = mean(&five).is_some_and(|mean| mean >= ARTICLE_MS);
        let kayenta = [&self.means, &self.p99s].map(|values| judged && kayenta::high(values));
        [flagger[0], flagger[1], kayenta[0], kayenta[1], article]
    }
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}
