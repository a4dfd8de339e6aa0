//! What the proxy lets a service take at most; all of it is off by default.

use serde::{Deserialize, Serialize};

use super::validate::Mistake;
use super::{Route, targets};
use crate::units::{Size, Span};

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
    /// The longest request body, such as `10Mi`; a longer one is answered 413.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Size>,
    /// The most header fields of a request; more is answered 431.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<RouteHeaders>,
    /// What one client may have, by its address (of IPv6 its network of 64 bits); more is answered 429.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_client: Option<RoutePerClient>,
    /// How slowly a request body may come; slower is answered 408.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<RoutePace>,
    /// How slowly a client may take what is sent to it; a slower one loses its connection. Holds for the whole listener:
    /// where several services share one, the strictest. Without it a client may take nothing at all for 5 minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub download: Option<RoutePace>,
    /// How many WebSockets and event streams of clients a drain closes in a second at most, so that they do not all come back
    /// at once. It begins earlier if need be; what does not fit into the drain's window is closed at its end. Without it they
    /// leave evenly over the last half of the window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closes: Option<u32>,
}

/// The most header fields of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RouteHeaders {
    /// How many fields.
    #[serde(default = "default_count")]
    pub count: u32,
    /// How long their names and values may be together.
    #[serde(default = "default_size")]
    pub size: Size,
}

/// What one client may have. Clients are told apart by the address of their connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RoutePerClient {
    /// How many requests a second in the long run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// How many requests may come at once before the rate holds.
    #[serde(default = "default_burst")]
    pub burst: u32,
    /// How many requests may be open at once, WebSockets among them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_once: Option<u32>,
    /// How many connections may be open at once; one more is closed at once. Holds for the whole listener, before any host
    /// is known: where several services share one, the smallest number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
}

/// The least that must move while the proxy waits for the client; the time that the instance takes does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RoutePace {
    /// How much.
    #[serde(default = "default_least")]
    pub least: Size,
    /// In which time.
    #[serde(default = "default_within")]
    pub within: Span,
}

const fn default_count() -> u32 {
    100
}

const fn default_size() -> Size {
    Size::from_bytes(32 << 10)
}

const fn default_burst() -> u32 {
    20
}

const fn default_least() -> Size {
    Size::from_bytes(1 << 10)
}

const fn default_within() -> Span {
    Span::from_secs(30)
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
        if limits.closes == Some(0) {
            say(
                ".closes",
                "a drain that closes 0 a second would never end".into(),
                "leave it out for no limit",
            );
        }
        if limits.per_target == Some(0) {
            say(".per_target", "0 requests at once let nothing through".into(), "leave it out for no limit");
        }
        if let Some(RoutePerClient { rate, burst, at_once, connections }) = limits.per_client {
            if [rate, at_once, connections].contains(&Some(0)) || burst == 0 {
                let what = "a client with a limit of 0 gets nothing".into();
                say(".per_client", what, "give at least 1, or leave the key out");
            }
            if rate.is_none() && at_once.is_none() && connections.is_none() {
                let what =
                    "neither rate nor open requests nor connections of a client are limited here".into();
                say(".per_client", what, "give a `rate`, how many `at_once`, or how many `connections`");
            }
        }
        let nothing = |pace: RoutePace| pace.least.bytes() == 0 || pace.within == Span::default();
        for (key, pace) in [("upload", limits.upload), ("download", limits.download)] {
            if pace.is_some_and(nothing) {
                let what = "no body is ever slower than nothing".into();
                say(&format!(".{key}"), what, &format!("such as `{key}: {{least: 1Ki, within: 30s}}`"));
            }
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
