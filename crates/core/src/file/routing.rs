//! Which requests are a service's, and which of them stay together.

use serde::{Deserialize, Serialize};

use super::validate::Mistake;
use super::{Route, targets};

/// How clients stay with their revision while a release is under way: as its weight grows clients come over to the candidate
/// and none goes back, but all of them when it is taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RouteSticky {
    /// By what a client is known again.
    pub by: StickyBy,
    /// The name of the cookie, `cutover-seat` by default, or of the header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// By what clients are known again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum StickyBy {
    /// A signed cookie that the proxy makes; the instances do not see it.
    Cookie,
    /// The hash of what a request header says, such as an id of the user. Requests without it are spread by chance.
    Header,
}

/// Says what is wrong with the paths and the stickiness of the routes.
pub(super) fn mistakes(routes: &[Route]) -> Vec<Mistake> {
    let mut found = targets::differing(routes, "sticky", |route| route.sticky.as_ref());
    found.extend(targets::differing(routes, "mirror", |route| route.mirror.as_ref()));
    for (i, Route::Proxy(route)) in routes.iter().enumerate() {
        let mut say = |key: &str, what: String, hint: &str| {
            found.push(Mistake { path: format!("route[{i}].proxy.{key}"), what, hint: hint.into() });
        };
        if let Some(path) = route.path.as_deref().filter(|path| !is_prefix(path)) {
            let what = format!("\"{}\" is not the beginning of a path", path.escape_debug());
            say("path", what, "begin it with / and end it with a whole segment, such as `/api`");
        }
        let Some(sticky) = &route.sticky else { continue };
        match (&sticky.name, sticky.by) {
            (None, StickyBy::Header) => {
                say("sticky", "no header is named".into(), "add its name, such as `name: x-user-id`");
            }
            (Some(name), _) if !is_token(name) => {
                let what = format!("\"{}\" is not a name", name.escape_debug());
                say("sticky.name", what, "use letters, digits and dashes");
            }
            _ => {}
        }
    }
    found
}

fn is_prefix(path: &str) -> bool {
    path.starts_with('/')
        && !path.contains("//")
        && path.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#\"<>".contains(&byte))
}

/// What names of headers and cookies are made of.
fn is_token(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}
