//! Which versions of the proxy, its clients and its files understand each other.
//!
//! A new verb or a field that may be ignored needs no new version: an older proxy refuses a verb that it does not know,
//! by name, and ignores the field. [`PROTOCOL`] is raised when something old changes its meaning, [`SCHEMA`] when a table
//! says something that must not be ignored; every version reads the tables of those before it. `hello` is answered
//! to every version, so that each side can say who the other one is.

use crate::error::{ErrorKind, ProxyError};
use crate::protocol::{Hello, Request};
use crate::table::SCHEMA;

/// Newest version of the admin protocol that this side speaks.
pub const PROTOCOL: u32 = 1;
/// Oldest version of the admin protocol that this side still understands.
pub const OLDEST_PROTOCOL: u32 = 1;

/// Returns the newest version that this side speaks. A test lets one side speak one more, as the next cutover will.
pub(crate) fn newest() -> u32 {
    #[cfg(debug_assertions)]
    if std::env::var_os("CUTOVER_TEST_NEXT").is_some() {
        return PROTOCOL + 1;
    }
    PROTOCOL
}

/// Returns the version that gave a request its present meaning. It is said with the request, so that every proxy
/// from then on understands it, whatever else this side speaks.
pub(crate) const fn since(_request: &Request) -> u32 {
    // All verbs mean what they meant at first. Where that of one changes, it gets its own number here.
    1
}

/// What proxies speak that do not say how far back they go.
pub(crate) fn first() -> u32 {
    1
}

/// Checks on the client's side that a version exists which both speak.
pub(crate) fn agree(proxy: &Hello) -> Result<(), ProxyError> {
    let (theirs, ours) = (spoken(proxy.oldest_protocol, proxy.protocol), spoken(OLDEST_PROTOCOL, newest()));
    let what_to_do = if proxy.oldest_protocol > newest() {
        format!("use cutover {} on this folder", proxy.version)
    } else if proxy.protocol < OLDEST_PROTOCOL {
        upgrade(proxy.holder_pid)
    } else {
        return Ok(());
    };
    Err(ProxyError::new(
        ErrorKind::Protocol,
        format!(
            "the proxy on {} is of cutover {} and speaks {theirs}, cutover {} speaks {ours}; {what_to_do}; \
             traffic goes on as it is",
            proxy.dir,
            proxy.version,
            env!("CARGO_PKG_VERSION"),
        ),
    ))
}

/// Checks on the proxy's side that it understands a request of this version.
pub(crate) fn understand(version: Option<u64>, holder_pid: Option<u32>) -> Result<(), ProxyError> {
    let said =
        version.map_or_else(|| "no protocol version".to_owned(), |version| format!("protocol {version}"));
    if version.is_some_and(|version| (OLDEST_PROTOCOL.into()..=newest().into()).contains(&version)) {
        return Ok(());
    }
    Err(refuse(&format!("the request speaks {said}"), holder_pid))
}

/// Checks on the proxy's side that it knows everything that a table may say.
pub(crate) fn understand_schema(schema: Option<u64>, holder_pid: Option<u32>) -> Result<(), ProxyError> {
    match schema {
        Some(schema) if schema > SCHEMA.into() => {
            Err(refuse(&format!("the table has schema {schema}, which is above {SCHEMA}"), holder_pid))
        }
        _ => Ok(()),
    }
}

/// Refuses what only another version of the proxy could do.
pub(crate) fn refuse(what: &str, holder_pid: Option<u32>) -> ProxyError {
    let text = format!(
        "{what}; this proxy is of cutover {} and speaks {}; use that cutover, or for another one: {}; traffic goes on \
         as it is",
        env!("CARGO_PKG_VERSION"),
        spoken(OLDEST_PROTOCOL, newest()),
        upgrade(holder_pid)
    );
    ProxyError::new(ErrorKind::Protocol, text)
}

fn upgrade(holder_pid: Option<u32>) -> String {
    match holder_pid {
        Some(pid) => format!(
            "put its program in the place of the proxy's and let the proxy take it over: kill -HUP {pid}"
        ),
        None => "stop the proxy, which has no holder any more, with: cutover proxy stop".to_owned(),
    }
}

fn spoken(oldest: u32, newest: u32) -> String {
    if oldest == newest { format!("protocol {newest}") } else { format!("protocols {oldest} to {newest}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(oldest: u32, newest: u32) -> Hello {
        Hello {
            version: "9.9.9".into(),
            protocol: newest,
            oldest_protocol: oldest,
            worker_pid: 1,
            holder_pid: Some(7),
            threads: 1,
            dir: "/d".into(),
            listeners: Vec::new(),
            tables: None,
        }
    }

    #[test]
    fn one_version_in_common_is_enough() {
        assert!(agree(&hello(1, 1)).is_ok());
        assert!(agree(&hello(1, 5)).is_ok(), "a newer proxy that still understands us");
        let newer = agree(&hello(2, 5)).unwrap_err();
        assert_eq!(newer.kind(), &ErrorKind::Protocol);
        assert!(newer.to_string().contains("speaks protocols 2 to 5"), "{newer}");
        assert!(newer.to_string().contains("use cutover 9.9.9 on this folder"), "{newer}");
        let older = agree(&hello(0, 0)).unwrap_err().to_string();
        assert!(older.contains("kill -HUP 7"), "{older}");
    }
}
