//! What an engine or a registry refuses, and what that means in words.
//!
//! The engine hands on what the registry, the network and the disk said as one line of text, so that what went wrong can only
//! be read from there. What matches nothing is shown as it is.

use std::io;
use std::path::Path;
use std::time::Duration;

use cutover_core::{After, Blame, Fault};
use serde::Deserialize;

/// What the engine said instead of doing what it was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    /// The status of its answer; none where it broke off, or where there was no answer.
    pub(crate) status: Option<u16>,
    /// What it said.
    pub(crate) text: String,
    trouble: Trouble,
}

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Nobody answers at the engine's socket.
    NoEngine,
    /// The socket may not be opened.
    EngineForbidden,
    /// The engine's answer broke off or makes no sense.
    EngineBroken,
    /// The engine says nothing.
    EngineSilent,
    /// The engine lacks what is asked of it.
    EngineTooOld,
    /// The registry wants a login, or does not accept the one it got.
    Unauthorised,
    /// The login may not do this; or there is no such repository, and the registry does not say so to strangers.
    Denied,
    /// There is no such repository.
    NoRepository,
    /// There is no such tag or digest in the repository.
    NoManifest,
    /// The engine does not have the image.
    NoImage,
    /// Who signed the registry's certificate is unknown.
    UnknownAuthority,
    /// The registry's certificate is not for this name, or not for this day.
    BadCertificate,
    /// The registry speaks HTTP, and the engine wants HTTPS.
    PlainHttp,
    /// The registry's name does not resolve.
    NoName,
    /// Nobody listens at the registry's address.
    Refused,
    /// No packet gets there.
    NoRoute,
    /// The registry does not answer in time.
    Slow,
    /// The connection broke off.
    Cut,
    /// The registry wants fewer requests.
    TooMany,
    /// The registry is in trouble itself.
    RegistryBroken,
    /// The disk of the engine is full.
    DiskFull,
    /// More is not allowed to this account or this file system.
    Quota,
    /// What came is not what its digest says.
    Corrupt,
    /// There is no such image for the machine's architecture.
    Architecture,
    /// A program is for another architecture than the machine's.
    Executable,
    /// Somebody uses it.
    InUse,
    /// Something else.
    Other,
}

/// What stands in the text of a refusal, in lower case, by what it means. The first that is found counts: the cause stands
/// behind what the engine tried, and so does a status of the registry behind words that it has in common with others.
const SIGNS: &[(Trouble, &[&str])] = &[
    (Trouble::DiskFull, &["no space left on device", "not enough space", "insufficient space"]),
    (
        Trouble::Quota,
        &["quota exceeded", "exceeded quota", "quota has been", "storage limit", "insufficient_quota"],
    ),
    (Trouble::TooMany, &["toomanyrequests", "too many requests", "rate limit", "status: 429", "code 429"]),
    (Trouble::UnknownAuthority, &["unknown authority", "self-signed certificate", "self signed certificate"]),
    (
        Trouble::BadCertificate,
        &["x509:", "tls: failed to verify", "certificate has expired", "remote error: tls"],
    ),
    (
        Trouble::PlainHttp,
        &["server gave http response to https client", "first record does not look like a tls"],
    ),
    (
        Trouble::Architecture,
        &[
            "no matching manifest",
            "does not match the specified platform",
            "does not provide the specified platform",
        ],
    ),
    (Trouble::Executable, &["exec format error"]),
    (
        Trouble::Unauthorised,
        &[
            "unauthorized",
            "authentication required",
            "no basic auth credentials",
            "incorrect username or password",
            "401 ",
            "invalid_token",
        ],
    ),
    (
        Trouble::NoManifest,
        &["manifest unknown", "manifest_unknown", "manifest for ", "failed to resolve reference"],
    ),
    (
        Trouble::NoRepository,
        &["name unknown", "name_unknown", "repository name not known", "repository not found"],
    ),
    (
        Trouble::Denied,
        &[
            "denied",
            "403 forbidden",
            "insufficient_scope",
            "insufficient scope",
            "may require 'docker login'",
        ],
    ),
    (
        Trouble::NoName,
        &["no such host", "name resolution", "name or service not known", "server misbehaving", "lookup "],
    ),
    (Trouble::Refused, &["connection refused"]),
    (
        Trouble::NoRoute,
        &["network is unreachable", "no route to host", "host is unreachable", "host is down"],
    ),
    (
        Trouble::Slow,
        &[
            "i/o timeout",
            "timeout exceeded",
            "handshake timeout",
            "deadline exceeded",
            "awaiting headers",
            "timed out",
        ],
    ),
    (
        Trouble::RegistryBroken,
        &[
            "500 internal server error",
            "502 bad gateway",
            "503 service unavailable",
            "504 gateway",
            "status: 500",
            "status: 502",
            "status: 503",
            "status: 504",
            "received unexpected http status: 5",
            "blob upload unknown",
            "blob upload invalid",
        ],
    ),
    (
        Trouble::Corrupt,
        &[
            "verification failed",
            "failed precondition: unexpected commit digest",
            "digest mismatch",
            "did not match",
        ],
    ),
    (
        Trouble::Cut,
        &["connection reset", "unexpected eof", "broken pipe", ": eof", "connection closed", "http2: "],
    ),
    (Trouble::NoImage, &["no such image", "image not known"]),
    (Trouble::InUse, &["is being used", "is in use", "is using its referenced image", "must be forced"]),
];

#[derive(Deserialize)]
struct Message {
    #[serde(alias = "cause")]
    message: String,
}

impl Refusal {
    /// What the engine said in the middle of its work.
    pub(crate) fn said(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { status: None, trouble: recognise(&text), text }
    }

    /// An answer with an error status.
    pub(crate) fn answered(status: u16, body: &[u8]) -> Self {
        let text = match serde_json::from_slice::<Message>(body) {
            Ok(message) => message.message,
            Err(_) => String::from_utf8_lossy(&body[..body.len().min(500)]).trim().to_owned(),
        };
        let trouble = match (recognise(&text), status) {
            (Trouble::Other, 404) => Trouble::NoImage,
            (Trouble::Other, 409) => Trouble::InUse,
            (Trouble::Other, 401) => Trouble::Unauthorised,
            (Trouble::Other, 403) => Trouble::Denied,
            (trouble, _) => trouble,
        };
        Self { status: Some(status), text, trouble }
    }

    pub(crate) fn unreachable(socket: &Path, error: &io::Error) -> Self {
        let trouble = match error.kind() {
            io::ErrorKind::PermissionDenied => Trouble::EngineForbidden,
            _ => Trouble::NoEngine,
        };
        Self { status: None, text: format!("{}: {error}", socket.display()), trouble }
    }

    pub(crate) fn broken(text: impl Into<String>) -> Self {
        Self { status: None, text: text.into(), trouble: Trouble::EngineBroken }
    }

    pub(crate) fn too_old(api: &str) -> Self {
        Self { status: None, text: format!("its API is {api}"), trouble: Trouble::EngineTooOld }
    }

    pub(crate) fn silent(limit: Duration) -> Self {
        let text = format!("no word from the engine within {} s", limit.as_secs());
        Self { status: None, text, trouble: Trouble::EngineSilent }
    }

    /// Says what went wrong.
    pub(crate) fn trouble(&self) -> Trouble {
        self.trouble
    }

    /// Tells whether the same may succeed a moment later.
    pub(crate) fn passes(&self) -> bool {
        use Trouble::*;
        matches!(
            self.trouble,
            NoEngine
                | EngineBroken
                | Refused
                | NoRoute
                | NoName
                | Slow
                | Cut
                | TooMany
                | RegistryBroken
                | Corrupt
        )
    }

    /// Returns the fault: `doing` says what failed, such as `pull registry/shop:1`, and `registry` with whom.
    pub(crate) fn fault(&self, doing: &str, registry: &str) -> Fault {
        let (blame, after, why, hint) = self.meaning(registry);
        let said = self.text.trim();
        let what = match (why.is_empty(), said.is_empty()) {
            (true, _) => format!("{doing}: {said}"),
            (false, true) => format!("{doing}: {why}"),
            (false, false) => format!("{doing}: {why}: {said}"),
        };
        Fault::new(blame, after, what).hint(hint)
    }

    fn meaning(&self, registry: &str) -> (Blame, After, String, String) {
        use Blame::{Configuration, Platform};
        let (blame, after, why, hint) = match self.trouble {
            Trouble::NoEngine => (
                Platform,
                After::Retry,
                "the Docker engine does not answer".into(),
                "Start it (systemctl start docker), or set DOCKER_HOST to where it listens.".into(),
            ),
            Trouble::EngineForbidden => (
                Configuration,
                After::Final,
                "this user may not use the Docker engine".into(),
                "Add the user to the group of the socket (usermod -aG docker USER), log in anew, and start the server again.".into(),
            ),
            Trouble::EngineBroken => (
                Platform,
                After::Unknown,
                "the engine's answer broke off".into(),
                "Look whether the engine was restarted: journalctl -u docker. What it was asked for is repeated by the next try."
                    .into(),
            ),
            Trouble::EngineSilent => (
                Platform,
                After::Unknown,
                "the engine says nothing".into(),
                "Look whether it hangs: docker info; journalctl -u docker.".into(),
            ),
            Trouble::EngineTooOld => (
                Configuration,
                After::Final,
                "the engine is older than Docker 20.10".into(),
                "Install a newer one.".into(),
            ),
            Trouble::Unauthorised => (
                Configuration,
                After::Final,
                format!("{registry} wants a login, or does not accept the one it got"),
                format!("Log in as the user that runs cutover: docker login {registry}; or set CUTOVER_REGISTRY, CUTOVER_REGISTRY_USER and CUTOVER_REGISTRY_PASSWORD."),
            ),
            Trouble::Denied => (
                Configuration,
                After::Final,
                format!("{registry} does not let this login do that, or has no such repository"),
                format!("Compare the name with the registry's own list; if it is right, give the account access to it, or log in as another: docker login {registry}."),
            ),
            Trouble::NoRepository => (
                Configuration,
                After::Final,
                format!("{registry} has no repository of that name"),
                "Correct the name before the tag. What was never pushed there is not there.".into(),
            ),
            Trouble::NoManifest => (
                Configuration,
                After::Final,
                "the repository has no such tag or digest".into(),
                format!("Correct the tag, or push it first; a digest may have been deleted on {registry}. If the tag is right, look at the name: many registries say the same of a repository that is not there."),
            ),
            Trouble::NoImage => (
                Configuration,
                After::Final,
                "the engine does not have that image".into(),
                "Build or pull it, or let cutover pull it: pull: missing.".into(),
            ),
            Trouble::UnknownAuthority => (
                Configuration,
                After::Final,
                format!("the engine does not know who signed the certificate of {registry}"),
                format!("Put the authority's certificate at /etc/docker/certs.d/{registry}/ca.crt on the engine's machine; no restart is needed."),
            ),
            Trouble::BadCertificate => (
                Configuration,
                After::Final,
                format!("the certificate of {registry} is not valid"),
                format!("Compare its names and dates with the clock of this machine: openssl s_client -connect {registry} </dev/null | openssl x509 -noout -text."),
            ),
            Trouble::PlainHttp => (
                Configuration,
                After::Final,
                format!("{registry} speaks HTTP, and the engine wants HTTPS"),
                format!("Give the registry a certificate; or, where everybody on the way is trusted, put \"insecure-registries\": [\"{registry}\"] into /etc/docker/daemon.json and reload the engine (systemctl reload docker)."),
            ),
            Trouble::NoName => (
                Platform,
                After::Retry,
                format!("the name {registry} does not resolve on the engine's machine"),
                "Correct the name, or the machine's DNS (/etc/resolv.conf).".into(),
            ),
            Trouble::Refused => (
                Platform,
                After::Retry,
                format!("nobody listens at {registry}"),
                "Start the registry, or correct its port.".into(),
            ),
            Trouble::NoRoute => (
                Platform,
                After::Retry,
                format!("no packet of the engine's machine reaches {registry}"),
                "Look at its network: routes, firewall, VPN.".into(),
            ),
            Trouble::Slow => (
                Platform,
                After::Retry,
                format!("{registry} does not answer in time"),
                "Look at the registry's load, the network, and whether a firewall drops the packets; a proxy is set for the engine, not for cutover.".into(),
            ),
            Trouble::Cut => (
                Platform,
                After::Retry,
                format!("the connection to {registry} broke off"),
                "Try again: what arrived whole is kept.".into(),
            ),
            Trouble::TooMany => (
                Platform,
                After::Retry,
                format!("{registry} wants fewer requests"),
                format!("Wait, or log in for a higher limit: docker login {registry}; a mirror of your own has none."),
            ),
            Trouble::RegistryBroken => (
                Platform,
                After::Retry,
                format!("{registry} has trouble of its own"),
                "Look at the registry's log and disk; try again.".into(),
            ),
            Trouble::DiskFull => (
                Platform,
                After::Final,
                match self.text.contains("register layer") || self.text.contains("extract") {
                    true => "the engine's disk is full: a layer did not fit when it was unpacked".into(),
                    false => "the disk is full".into(),
                },
                "Make room where the engine keeps its data (docker info shows its Docker Root Dir): docker system df; docker image prune; docker builder prune."
                    .into(),
            ),
            Trouble::Quota => (
                Platform,
                After::Final,
                "a quota is used up".into(),
                format!("Delete what is old on {registry} or raise the quota; if it is the disk's, that of the engine's folder."),
            ),
            Trouble::Corrupt => (
                Platform,
                After::Retry,
                "what arrived is not what its digest says".into(),
                "Try again; if it stays, a proxy on the way or the registry's disk changes it.".into(),
            ),
            Trouble::Architecture => (
                Configuration,
                After::Final,
                "there is no image for the architecture of the engine's machine".into(),
                "Build it for that architecture too (docker buildx build --platform), or release on a machine that fits."
                    .into(),
            ),
            Trouble::Executable => (
                Configuration,
                After::Final,
                "a program in it is for another architecture than that of the engine's machine".into(),
                "Take a base image and programs for the architecture that `docker info` shows.".into(),
            ),
            Trouble::InUse => (Platform, After::Retry, "it is in use".into(), String::new()),
            Trouble::Other => (Platform, After::Retry, String::new(), String::new()),
        };
        (blame, after, why, hint)
    }
}

fn recognise(text: &str) -> Trouble {
    let text = text.to_lowercase();
    let has = |signs: &&[&str]| signs.iter().any(|sign| text.contains(sign));
    SIGNS.iter().find(|(_, signs)| has(signs)).map_or(Trouble::Other, |(trouble, _)| *trouble)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_registries_networks_and_disks_say_is_understood() {
        let check = |text: &str, trouble: Trouble| assert_eq!(recognise(text), trouble, "{text}");
        check(
            "Get \"https://r:5000/v2/\": x509: certificate signed by unknown authority",
            Trouble::UnknownAuthority,
        );
        check("Get \"https://r/v2/\": x509: certificate is valid for a, not r", Trouble::BadCertificate);
        check("Get \"https://r/v2/\": http: server gave HTTP response to HTTPS client", Trouble::PlainHttp);
        check("Get \"https://r/v2/\": dial tcp: lookup r on 8.8.8.8:53: no such host", Trouble::NoName);
        check("dial tcp: lookup r: Temporary failure in name resolution", Trouble::NoName);
        check(
            "Get \"http://127.0.0.1:1/v2/\": dial tcp 127.0.0.1:1: connect: connection refused",
            Trouble::Refused,
        );
        check("dial tcp 10.0.0.1:443: connect: network is unreachable", Trouble::NoRoute);
        check("dial tcp 10.0.0.1:443: i/o timeout", Trouble::Slow);
        check("net/http: request canceled (Client.Timeout exceeded while awaiting headers)", Trouble::Slow);
        check("net/http: TLS handshake timeout", Trouble::Slow);
        check("unauthorized: authentication required", Trouble::Unauthorised);
        check("no basic auth credentials", Trouble::Unauthorised);
        check("errors:\ndenied: requested access to the resource is denied", Trouble::Denied);
        check(
            "pull access denied for x, repository does not exist or may require 'docker login'",
            Trouble::Denied,
        );
        check("manifest for r/shop:2 not found: manifest unknown: manifest unknown", Trouble::NoManifest);
        check("name unknown: repository name not known to registry", Trouble::NoRepository);
        check("toomanyrequests: You have reached your pull rate limit.", Trouble::TooMany);
        check("received unexpected HTTP status: 503 Service Unavailable", Trouble::RegistryBroken);
        check(
            "failed to register layer: Error processing tar file(exit status 1): write /x: no space left on device",
            Trouble::DiskFull,
        );
        check("denied: quota exceeded for project", Trouble::Quota);
        check("write /x: disk quota exceeded", Trouble::Quota);
        check("no matching manifest for linux/arm64/v8 in the manifest list entries", Trouble::Architecture);
        check("filesystem layer verification failed for digest sha256:00", Trouble::Corrupt);
        check("read tcp 1.2.3.4:5->6.7.8.9:443: read: connection reset by peer", Trouble::Cut);
        check("unexpected EOF", Trouble::Cut);
        check("the moon is wrong", Trouble::Other);
    }

    #[test]
    fn a_fault_says_what_failed_why_and_what_next_and_keeps_the_words() {
        let refusal = Refusal::said("dial tcp 127.0.0.1:1: connect: connection refused");
        let fault = refusal.fault("pull 127.0.0.1:1/shop:1", "127.0.0.1:1");
        let what = "pull 127.0.0.1:1/shop:1: nobody listens at 127.0.0.1:1: dial tcp 127.0.0.1:1: connect: connection refused";
        assert_eq!(fault.what, what);
        assert_eq!(fault.hint, "Start the registry, or correct its port.");
        assert_eq!((fault.blame, fault.after), (Blame::Platform, After::Retry));
    }

    #[test]
    fn each_meaning_has_a_next_step_and_only_what_may_pass_is_tried_again() {
        for (trouble, _) in SIGNS.iter().filter(|(trouble, _)| *trouble != Trouble::InUse) {
            let refusal = Refusal { status: None, text: "x".into(), trouble: *trouble };
            let fault = refusal.fault("pull r/x:1", "r");
            assert!(!fault.hint.is_empty(), "{trouble:?}");
            assert_eq!(refusal.passes(), fault.after == After::Retry, "{trouble:?}");
        }
    }

    #[test]
    fn the_status_tells_where_the_words_do_not() {
        assert_eq!(Refusal::answered(404, br#"{"message":"nothing here"}"#).trouble(), Trouble::NoImage);
        assert_eq!(Refusal::answered(409, br#"{"message":"conflict"}"#).trouble(), Trouble::InUse);
        let plain = Refusal::answered(500, b"  oops\n");
        assert_eq!((plain.text.as_str(), plain.trouble()), ("oops", Trouble::Other));
    }
}
