//! Makes sources of what a release file says about CloudWatch.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use cutover_core::file::{AWS_VARIABLES, Counters, Metric};
use cutover_sources::{AskError, Setting, Source, Sources};

use crate::alarms::Alarms;
use crate::counts::Counts;
use crate::periods::Periods;
use crate::store::{Budgets, Place, Store};
use crate::value::Value;

/// CloudWatch beside other sources. All that it makes share how often an account and region is asked.
pub struct AwsSources<S> {
    others: S,
    budgets: Mutex<BTreeMap<Account, Arc<Budgets>>>,
}

/// What tells accounts and regions apart without asking: two of these may be the same account, and share nothing then.
type Account = (Place, Vec<Option<String>>);

impl<S: Sources> AwsSources<S> {
    /// Adds CloudWatch to other sources.
    pub fn beside(others: S) -> Self {
        AwsSources { others, budgets: Mutex::default() }
    }

    fn store(&self, place: Place, setting: &Setting) -> (Store, Arc<Budgets>) {
        let names = ["AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_ROLE_ARN", "AWS_REGION", "AWS_DEFAULT_REGION"];
        let account = (place.clone(), names.map(|name| setting.secrets.get(name).cloned()).into());
        let mut all = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        let budgets = all.entry(account).or_insert_with(Budgets::new).clone();
        let given = setting.secrets.iter().filter(|(name, _)| AWS_VARIABLES.contains(&name.as_str()));
        let given = given.map(|(name, value)| (name.clone(), value.clone())).collect();
        (Store::new(place, given, setting.wall.clone()), budgets)
    }
}

impl<S: Sources> Sources for AwsSources<S> {
    fn metric(&self, metric: &Metric, setting: &Setting) -> Result<Box<dyn Source>, AskError> {
        let Some(asked) = &metric.cloudwatch else { return self.others.metric(metric, setting) };
        let place = Place {
            region: asked.region.clone(),
            profile: asked.profile.clone(),
            endpoint: asked.endpoint.clone(),
        };
        let (store, budgets) = self.store(place, setting);
        if !asked.alarms.is_empty() {
            let names = asked.alarms.clone();
            return Ok(Box::new(Alarms { store, budgets, names, opened_ms: setting.opened_ms }));
        }
        let (queries, reduce) =
            Value::questions(asked, &setting.names).ok_or_else(|| incomplete("what to ask"))?;
        Ok(Box::new(Value {
            store,
            budgets,
            queries,
            reduce,
            periods: Periods { length_ms: asked.period.ms(), settle_ms: asked.settle.ms() },
            since_ms: setting.since_ms,
            max_age_ms: asked.max_age.ms(),
        }))
    }

    fn counters(&self, counters: &Counters, setting: &Setting) -> Result<Box<dyn Source>, AskError> {
        let Some(asked) = &counters.cloudwatch else { return self.others.counters(counters, setting) };
        let place = Place {
            region: asked.region.clone(),
            profile: asked.profile.clone(),
            endpoint: asked.endpoint.clone(),
        };
        let (store, budgets) = self.store(place, setting);
        let counts = Counts::new(asked, &setting.names, setting.since_ms, store, budgets);
        Ok(Box::new(counts.ok_or_else(|| incomplete("`preset` or `queries`"))?))
    }
}

/// The file's own checks let nothing of the kind pass.
fn incomplete(what: &str) -> AskError {
    AskError::wrong(format!("`cloudwatch` does not say {what}"), "run: cutover check")
}
