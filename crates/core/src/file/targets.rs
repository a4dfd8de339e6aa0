//! How the proxy treats the targets of a service: what it asks them all the time, how it chooses between them.

use serde::{Deserialize, Serialize};

use super::validate::Mistake;
use super::{Check, Expect, ProxyRoute, ReleaseFile, Route};
use crate::units::{Span, Weight};

/// What the proxy asks each target all the time, released or at rest. A target that fails gets no requests until it
/// passes again; the last one of a revision always keeps its requests. Without `path` and `tcp`: the first of
/// `checks.health` with a path, as its own revision has it, else a connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RouteChecks {
    /// Passes when an HTTP GET of this path is answered as `expect` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// `true` passes when the target accepts a connection.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tcp: bool,
    /// What the answer to `path` must be.
    #[serde(default)]
    pub expect: Expect,
    /// The pause between two checks of a target; a surprising answer is looked at again sooner. `0s`: no checks.
    #[serde(default = "default_interval")]
    pub interval: Span,
    /// How long one check may take.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
    /// How many checks in a row must fail until the target gets no more requests.
    #[serde(default = "default_fall")]
    pub fall: u32,
    /// How many checks in a row must pass until it gets requests again.
    #[serde(default = "default_rise")]
    pub rise: u32,
    /// The question is that of the revision's own health checks. Set by [`ReleaseFile::routes`], never written.
    #[serde(skip)]
    #[cfg_attr(feature = "schema", schemars(skip))]
    pub of_revision: bool,
}

impl Default for RouteChecks {
    fn default() -> Self {
        RouteChecks {
            path: None,
            tcp: false,
            expect: Expect::default(),
            interval: default_interval(),
            timeout: default_timeout(),
            fall: default_fall(),
            rise: default_rise(),
            of_revision: false,
        }
    }
}

const fn default_interval() -> Span {
    Span::from_secs(10)
}

const fn default_timeout() -> Span {
    Span::from_secs(2)
}

const fn default_fall() -> u32 {
    3
}

const fn default_rise() -> u32 {
    2
}

/// How requests are spread over the targets of a revision. It is never the revision that changes by this: what is given to
/// it stays with it as long as one of its targets can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RouteBalance {
    /// How many requests in a row must fail at a target, as one thread of the proxy sees them, until it is left out: for a
    /// second, and twice as long each time that it fails again, up to 16 s. A failure is a connection that is refused,
    /// broken off or too slow; an answer, whatever it says, is none. `0`: never.
    #[serde(default = "default_eject_after")]
    pub eject_after: u32,
    /// How long a target that joins others, or comes back, gets a share that grows from a tenth to a whole one. All targets
    /// of a candidate are new together and share its weight evenly. `0s`: a whole share at once.
    #[serde(default)]
    pub slow_start: Span,
}

impl Default for RouteBalance {
    fn default() -> Self {
        RouteBalance { eject_after: default_eject_after(), slow_start: Span::default() }
    }
}

const fn default_eject_after() -> u32 {
    3
}

/// How many requests may be sent twice. Only those are that do the same when they are done twice (GET, PUT, DELETE, …) and
/// have no body. A request of which nothing was sent goes to another target in any case: that is nobody's second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RouteRetries {
    /// Share of the requests of the last 10 s, as one thread of the proxy sees them. Beyond it the first failure is the
    /// answer: retries must not double the load of a service that fails under its load.
    #[serde(default = "default_budget")]
    pub budget: Weight,
    /// That many within 10 s are retried in any case: a share of very few requests is none.
    #[serde(default = "default_floor")]
    pub floor: u32,
}

impl Default for RouteRetries {
    fn default() -> Self {
        RouteRetries { budget: default_budget(), floor: default_floor() }
    }
}

const fn default_budget() -> Weight {
    Weight::from_bp(2000)
}

const fn default_floor() -> u32 {
    10
}

impl ReleaseFile {
    /// Returns the routes with the checks that they leave to the rest of the file.
    pub fn routes(&self) -> Vec<Route> {
        let said = self.route.iter().find_map(|Route::Proxy(route)| route.checks.clone());
        let mut checks = said.unwrap_or_default();
        if checks.path.is_none() && !checks.tcp {
            checks.of_revision = true;
            // The question that lets an instance in is the one that keeps it in. A command is too dear to be run for
            // every target for ever, and would run as the proxy: then a connection has to do.
            match self.checks.health.iter().find(|check| check.path.is_some()) {
                Some(Check { path, expect, .. }) => {
                    (checks.path, checks.expect) = (path.clone(), expect.clone());
                }
                None => checks.tcp = true,
            }
        }
        let mut routes = self.route.clone();
        for Route::Proxy(route) in &mut routes {
            route.checks = Some(checks.clone());
        }
        routes
    }
}

/// Says what is wrong with what the routes say of their targets.
pub(super) fn mistakes(routes: &[Route]) -> Vec<Mistake> {
    let mut found = check_mistakes(routes);
    found.extend(differing(routes, "balance", |route| route.balance.as_ref()));
    found.extend(differing(routes, "retries", |route| route.retries.as_ref()));
    found
}

/// Finds routes that say different things of the targets that they share.
pub(super) fn differing<T: PartialEq>(
    routes: &[Route],
    key: &str,
    say: impl Fn(&ProxyRoute) -> Option<&T>,
) -> Vec<Mistake> {
    let said = routes.iter().enumerate().filter_map(|(i, Route::Proxy(route))| Some((i, say(route)?)));
    let said: Vec<(usize, &T)> = said.collect();
    let differs = said.iter().filter(|(_, value)| *value != said[0].1);
    differs
        .map(|(i, _)| Mistake {
            path: format!("route[{i}].proxy.{key}"),
            what: format!("two routes to the same targets differ in `{key}`"),
            hint: format!("leave `{key}` to one of the routes"),
        })
        .collect()
}

fn check_mistakes(routes: &[Route]) -> Vec<Mistake> {
    let mut found = differing(routes, "checks", |route| route.checks.as_ref());
    for (i, Route::Proxy(route)) in routes.iter().enumerate() {
        let Some(checks) = &route.checks else { continue };
        let mut say = |key: &str, what: String, hint: &str| {
            found.push(Mistake { path: format!("route[{i}].proxy.checks{key}"), what, hint: hint.into() });
        };
        if checks.path.is_some() && checks.tcp {
            say("", "a check is either `path` or `tcp: true`".into(), "remove one of them");
        }
        let spaced = |path: &str| {
            !path.starts_with('/') || path.contains(|c: char| c.is_whitespace() || c.is_control())
        };
        if checks.path.as_deref().is_some_and(spaced) {
            say(".path", "the path must begin with / and have no spaces".into(), "such as `path: /health`");
        }
        if checks.path.is_none() && checks.expect != Expect::default() {
            let what = "only a check with `path` has an answer to expect".into();
            say(".expect", what, "remove `expect`, or give a `path`");
        }
        if checks.timeout == Span::default() {
            say(".timeout", "a check needs some time".into(), "such as `timeout: 2s`");
        }
        if checks.interval > Span::default() && checks.interval < Span::from_ms(100) {
            let what = format!("checks every {} would be a load of their own", checks.interval);
            say(".interval", what, "give at least `100ms`, or `0s` for no checks");
        }
        for (key, count) in [(".fall", checks.fall), (".rise", checks.rise)] {
            if count == 0 || count > 1000 {
                say(key, format!("{count} checks in a row are not possible"), "give 1 to 1000");
            }
        }
    }
    found
}
