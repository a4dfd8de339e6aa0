//! What a release may get wrong, and how often.

use serde::{Deserialize, Serialize};

use crate::baseline::PPB;
use crate::terms::MARGINS;

/// What a judge is asked to prove.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How often a candidate that is as good as stable may be taken back, in basis points of releases.
    pub alpha_bp: u16,
    /// How often a candidate that is worse by the margin may pass, in basis points.
    pub beta_bp: u16,
    /// Margins of error rates that will be asked for, in parts per billion of requests; at most [`MARGINS`].
    pub margins_ppb: Vec<u64>,
}

impl Settings {
    /// 1 % each way, for the margins given.
    pub fn new(margins_ppb: Vec<u64>) -> Settings {
        Settings { alpha_bp: 100, beta_bp: 100, margins_ppb }
    }

    pub(crate) fn alpha(&self) -> f64 {
        f64::from(self.alpha_bp) / 10_000.0
    }

    pub(crate) fn beta(&self) -> f64 {
        f64::from(self.beta_bp) / 10_000.0
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        let chance = |bp: u16| (1..=5_000).contains(&bp);
        if !chance(self.alpha_bp) || !chance(self.beta_bp) {
            return Err(
                "alpha and beta are chances of an error: give 1 to 5000 basis points; 100 is usual".into()
            );
        }
        if self.margins_ppb.len() > MARGINS {
            return Err(format!("{} margins are too many: give {MARGINS} at most", self.margins_ppb.len()));
        }
        match self.margins_ppb.iter().find(|margin| !(1..PPB).contains(*margin)) {
            Some(margin) => Err(format!(
                "a margin of {margin} parts per billion is no share of requests: give 1 to 999999999"
            )),
            None => Ok(()),
        }
    }
}
