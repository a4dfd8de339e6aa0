//! What targets speak.

use serde::{Deserialize, Serialize};

use super::Route;
use super::validate::Mistake;

/// What the proxy speaks to the instances.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum TargetProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 without TLS, with prior knowledge, as servers of gRPC speak it.
    H2c,
}

impl TargetProtocol {
    /// Returns what all routes say of their targets.
    pub fn of(routes: &[Route]) -> TargetProtocol {
        routes.first().map(|Route::Proxy(route)| route.target_protocol).unwrap_or_default()
    }

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    pub(super) fn is_default(&self) -> bool {
        *self == TargetProtocol::default()
    }
}

/// All routes lead to the same instances.
pub(super) fn mistakes(routes: &[Route]) -> Vec<Mistake> {
    let wanted = TargetProtocol::of(routes);
    let differs = |(_, Route::Proxy(route)): &(usize, &Route)| route.target_protocol != wanted;
    let say = |(i, _): (usize, &Route)| Mistake {
        path: format!("route[{i}].proxy"),
        what: "the routes say different things of the same instances".into(),
        hint: "give each route the same `target_protocol`".into(),
    };
    routes.iter().enumerate().filter(differs).map(say).collect()
}
