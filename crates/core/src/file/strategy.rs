//! How traffic moves to the candidate.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::validate::Mistake;
use crate::units::{Span, Weight};

/// More weights than anybody watches.
const MOST_WEIGHTS: usize = 50;

/// How traffic moves to the candidate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// All traffic at once, after the candidate passed its checks.
    BlueGreen(BlueGreen),
    /// Weight by weight, with an observation between.
    Canary(Canary),
    /// Batch by batch: instances of the candidate replace instances of stable.
    Rolling(Rolling),
}

/// All traffic at once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct BlueGreen {}

/// Weight by weight; stable keeps all its instances until the release is decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Canary {
    /// The candidate's shares of requests one after the other: rising, the last 100%, at most 50.
    #[serde(default = "default_weights")]
    pub weights: Vec<Weight>,
    /// How long the candidate is watched at each weight below 100%, or `auto`: until it is proven on live requests that it
    /// is not worse than stable. At 100% it is the file's own `bake`.
    #[serde(default = "default_canary_bake")]
    pub bake: CanaryBake,
    /// How long `bake: auto` waits for that proof at one weight; then it goes on as the guard's `on_inconclusive` says.
    #[serde(default = "default_at_most", skip_serializing_if = "is_default_at_most")]
    pub at_most: Span,
}

/// How long a canary stays at one weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CanaryBake {
    /// Until the judge has proven that the candidate is not worse, and 2 seconds at least.
    Auto,
    /// A fixed time.
    For(Span),
}

impl Serialize for CanaryBake {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            CanaryBake::Auto => serializer.serialize_str("auto"),
            CanaryBake::For(span) => span.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for CanaryBake {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "auto" {
            return Ok(CanaryBake::Auto);
        }
        text.parse().map(CanaryBake::For).map_err(|why| {
            serde::de::Error::custom(format!(
                "{why}, or `auto`: until the candidate is proven to be no worse"
            ))
        })
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for CanaryBake {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "CanaryBake".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "`auto`, or a time such as 30s, 5m"
        })
    }
}

/// Batch by batch. Needs room for `max_surge` instances more, not for all of both revisions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Rolling {
    /// How many instances of both revisions may run beyond `replicas`.
    #[serde(default = "default_max_surge")]
    pub max_surge: u32,
    /// How many of `replicas` may be missing at a time; fewer than `replicas`. This or `max_surge` must be at least 1.
    #[serde(default)]
    pub max_unavailable: u32,
    /// How long the candidate is watched after each batch but the last; after the last it is the file's own `bake`.
    #[serde(default = "default_rolling_bake")]
    pub bake: Span,
}

impl Default for Canary {
    fn default() -> Self {
        Canary { weights: default_weights(), bake: default_canary_bake(), at_most: default_at_most() }
    }
}

impl Default for Rolling {
    fn default() -> Self {
        Rolling { max_surge: default_max_surge(), max_unavailable: 0, bake: default_rolling_bake() }
    }
}

fn default_weights() -> Vec<Weight> {
    [5, 10, 25, 50, 75, 100].map(|percent| Weight::from_bp(percent * 100)).to_vec()
}

const fn default_canary_bake() -> CanaryBake {
    CanaryBake::For(Span::from_secs(300))
}

const fn default_at_most() -> Span {
    Span::from_secs(1200)
}

fn is_default_at_most(at_most: &Span) -> bool {
    *at_most == default_at_most()
}

const fn default_max_surge() -> u32 {
    1
}

const fn default_rolling_bake() -> Span {
    Span::from_secs(10)
}

impl Default for Strategy {
    fn default() -> Self {
        Strategy::BlueGreen(BlueGreen {})
    }
}

impl Strategy {
    /// Returns the strategy's name as the release file writes it.
    pub fn name(&self) -> &'static str {
        match self {
            Strategy::BlueGreen(_) => "blue_green",
            Strategy::Canary(_) => "canary",
            Strategy::Rolling(_) => "rolling",
        }
    }

    /// Returns the time that the strategy's own observations take at least, without the last one.
    pub(super) fn bakes(&self, replicas: u32) -> Span {
        let bakes = |bake: Span, count: u64| Span::from_ms(bake.ms().saturating_mul(count));
        match self {
            Strategy::BlueGreen(_) => Span::default(),
            Strategy::Canary(canary) => match canary.bake {
                // What it takes at least.
                CanaryBake::Auto => Span::default(),
                CanaryBake::For(bake) => bakes(bake, canary.weights.len().saturating_sub(1) as u64),
            },
            Strategy::Rolling(rolling) => {
                let batch = (rolling.max_surge + rolling.max_unavailable).max(1);
                bakes(rolling.bake, u64::from(replicas.div_ceil(batch)).saturating_sub(1))
            }
        }
    }

    pub(super) fn mistakes(&self, replicas: u32) -> Vec<Mistake> {
        match self {
            Strategy::BlueGreen(_) => Vec::new(),
            Strategy::Canary(canary) => canary.mistakes(),
            Strategy::Rolling(rolling) => rolling.mistakes(replicas),
        }
    }
}

impl Canary {
    fn mistakes(&self) -> Vec<Mistake> {
        let mut found = Vec::new();
        let mut say = |key: String, what: String, hint: &str| {
            found.push(Mistake { path: format!("strategy.canary.{key}"), what, hint: hint.into() });
        };
        if self.bake == CanaryBake::Auto && self.at_most < Span::from_secs(10) {
            let what = format!("{} is too short for any proof", self.at_most);
            say("at_most".into(), what, "give `bake: auto` at least 10s, usually minutes");
        }
        let example = "give rising weights that end with everything, such as [5%, 25%, 50%, 100%]";
        if self.weights.is_empty() {
            say("weights".into(), "the list of weights is empty".into(), example);
        }
        if self.weights.len() > MOST_WEIGHTS {
            let what = format!("{} weights are more than anybody watches", self.weights.len());
            say("weights".into(), what, "give at most 50");
        }
        if self.weights.first() == Some(&Weight::ZERO) {
            say(
                "weights[0]".into(),
                "a weight of 0% observes nothing".into(),
                "begin with the first real share, such as 5%",
            );
        }
        for (i, pair) in self.weights.windows(2).enumerate() {
            if pair[1] <= pair[0] {
                let what = format!("{} does not rise above the {} before it", pair[1], pair[0]);
                say(format!("weights[{}]", i + 1), what, example);
            }
        }
        if let Some(last) = self.weights.last().filter(|last| **last != Weight::FULL) {
            let what = format!("the last weight is {last}: the release would never be complete");
            say(format!("weights[{}]", self.weights.len() - 1), what, "end the list with 100%");
        }
        found
    }
}

impl Rolling {
    fn mistakes(&self, replicas: u32) -> Vec<Mistake> {
        let mut found = Vec::new();
        let mut say = |key: &str, what: String, hint: &str| {
            found.push(Mistake { path: format!("strategy.rolling{key}"), what, hint: hint.into() });
        };
        if self.max_surge == 0 && self.max_unavailable == 0 {
            say(
                "",
                "with max_surge 0 and max_unavailable 0 no instance can be replaced".into(),
                "allow one of them, such as `max_surge: 1`",
            );
        }
        if self.max_unavailable >= replicas.max(1) {
            let what = format!(
                "max_unavailable {} of {replicas} replicas would leave nobody to answer",
                self.max_unavailable
            );
            say(".max_unavailable", what, "give less than `replicas`, or 0 and a `max_surge`");
        }
        if self.max_surge > 1000 {
            say(
                ".max_surge",
                format!("a surge of {} is not possible", self.max_surge),
                "give at most `replicas`",
            );
        }
        found
    }
}
