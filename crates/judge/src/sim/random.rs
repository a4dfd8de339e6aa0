//! A source of chance with a seed (xorshift64*, Vigna 2016): simulations need nothing better, and come out the same again.

use std::f64::consts::PI;

use crate::outcome::Arm;

/// Random numbers that a seed decides.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The numbers of a seed.
    pub fn new(seed: u64) -> Random {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        // The first numbers of seeds that are close are close.
        for _ in 0..8 {
            random.next();
        }
        random
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Between 0 and 1, without either.
    #[inline]
    pub fn unit(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// An arm by lottery.
    #[inline]
    pub fn arm(&mut self, share: f64) -> Arm {
        if self.unit() < share { Arm::Candidate } else { Arm::Stable }
    }

    /// The time until something that happens at this rate; infinity if it never does.
    pub fn exponential(&mut self, rate: f64) -> f64 {
        if rate > 0.0 { -self.unit().ln() / rate } else { f64::INFINITY }
    }

    /// A normal number.
    pub fn normal(&mut self) -> f64 {
        (-2.0 * self.unit().ln()).sqrt() * (2.0 * PI * self.unit()).cos()
    }

    /// How often something happens that happens `mean` times on average; above 50 by the normal approximation.
    pub fn poisson(&mut self, mean: f64) -> u64 {
        if mean <= 0.0 {
            return 0;
        }
        if mean > 50.0 {
            return (mean + mean.sqrt() * self.normal() + 0.5).max(0.0) as u64;
        }
        let (mut n, mut chance, at) = (0, (-mean).exp(), self.unit());
        let mut sum = chance;
        while at > sum && n < 500 {
            n += 1;
            chance *= mean / n as f64;
            sum += chance;
        }
        n
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_means_are_right() {
        let mut random = Random::new(1);
        for mean in [0.01, 1.0, 30.0, 400.0] {
            let n = 20_000;
            let sum: u64 = (0..n).map(|_| random.poisson(mean)).sum();
            let found = sum as f64 / f64::from(n);
            assert!((found - mean).abs() < 5.0 * (mean / f64::from(n)).sqrt(), "{mean}: {found}");
        }
        let sum: f64 = (0..20_000).map(|_| random.exponential(2.0)).sum();
        assert!((sum / 20_000.0 - 0.5).abs() < 0.02);
    }
}
