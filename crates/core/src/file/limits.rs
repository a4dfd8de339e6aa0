//! What the proxy lets a service take at most; all of it is off by default.

use serde::{Deserialize, Serialize};

use super::validate::Mistake;
use super::{Route, targets};
use crate::units::Span;

/// What a service takes at most. Without a key there is no such limit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RouteLimits {
    /// Most requests in flight to one instance at once, WebSockets among them. More wait, as `queue` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_target: Option<u32>,
    /// Who waits while all instances of a revision have as many requests as they may. Without it nobody does: the answer
    /// is 503 at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<RouteQueue>,
}

/// A bounded line of requests; what comes too late or waits too long is answered 503 with `Retry-After`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RouteQueue {
    /// How many requests may wait at once.
    #[serde(default = "default_limit")]
    pub limit: u32,
    /// How long one may wait.
    #[serde(default = "default_wait")]
    pub wait: Span,
}

const fn default_limit() -> u32 {
    1000
}

const fn default_wait() -> Span {
    Span::from_secs(5)
}

/// Says what is wrong with the limits of the routes.
pub(super) fn mistakes(routes: &[Route]) -> Vec<Mistake> {
    let mut found = targets::differing(routes, "limits", |route| route.limits.as_ref());
    for (i, Route::Proxy(route)) in routes.iter().enumerate() {
        let Some(limits) = &route.limits else { continue };
        let mut say = |key: &str, what: String, hint: &str| {
            found.push(Mistake { path: format!("route[{i}].proxy.limits{key}"), what, hint: hint.into() });
        };
        if limits.per_target == Some(0) {
            say(".per_target", "0 requests at once let nothing through".into(), "leave it out for no limit");
        }
        let Some(queue) = limits.queue else { continue };
        if limits.per_target.is_none() {
            say(".queue", "without `per_target` nobody ever waits".into(), "add it, or remove `queue`");
        }
        if queue.limit > 100_000 {
            let what = format!("{} requests cannot wait at once", queue.limit);
            say(".queue.limit", what, "give at most 100000");
        }
        if queue.wait == Span::default() {
            say(".queue.wait", "a request needs some time to wait".into(), "such as `wait: 5s`");
        }
    }
    found
}
