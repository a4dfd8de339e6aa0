//! The access log of a service, which the proxy writes.

use serde::{Deserialize, Serialize};

use super::validate::Mistake;
use super::{Route, targets};
use crate::units::{Size, Weight};

/// A line for each request that is sampled, in `STATE/proxy/access/SERVICE.log`. Without this key nothing is logged.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RouteAccessLog {
    /// How a line looks.
    #[serde(default)]
    pub format: AccessLogFormat,
    /// Share of the requests that are logged.
    #[serde(default = "default_sample")]
    pub sample: Weight,
    /// `true` logs the query of a path too, which may hold secrets.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub query: bool,
    /// Size from which on the file is put aside as `.1`; the one before goes.
    #[serde(default = "default_size")]
    pub size: Size,
}

/// How a line of the access log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum AccessLogFormat {
    /// An object of JSON, with revision, target, times and the reason of a refusal.
    #[default]
    Json,
    /// The combined format of web servers.
    Combined,
}

const fn default_sample() -> Weight {
    Weight::FULL
}

const fn default_size() -> Size {
    Size::from_bytes(64 << 20)
}

/// Says what is wrong with the access logs of the routes.
pub(super) fn mistakes(routes: &[Route]) -> Vec<Mistake> {
    let mut found = targets::differing(routes, "access_log", |route| route.access_log.as_ref());
    for (i, Route::Proxy(route)) in routes.iter().enumerate() {
        let Some(log) = &route.access_log else { continue };
        let mut say = |key: &str, what: String, hint: &str| {
            found.push(Mistake {
                path: format!("route[{i}].proxy.access_log.{key}"),
                what,
                hint: hint.into(),
            });
        };
        if log.size.bytes() < 64 << 10 {
            let what = format!("a log of {} is put aside all the time", log.size);
            say("size", what, "give at least `64Ki`");
        }
        if log.sample.is_zero() {
            say("sample", "a sample of nothing is no log".into(), "leave out `access_log`");
        }
    }
    found
}
