//! What a health check's command asks, where it is one of the usual probes.

/// A question that cutover can ask itself.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// An HTTP GET of this path at this port; none where the URL leaves it to the scheme.
    Http { port: Option<u16>, path: String },
    /// A connection.
    Tcp { port: Option<u16> },
    /// gRPC's health protocol, for this service.
    Grpc { port: Option<u16>, service: String },
}

impl Probe {
    pub(crate) fn port(&self) -> Option<u16> {
        match self {
            Probe::Http { port, .. } | Probe::Tcp { port } | Probe::Grpc { port, .. } => *port,
        }
    }

    /// Finds the question in the words of a command, or in a shell's line.
    pub(crate) fn find(words: &[String]) -> Option<Probe> {
        let all = words.join(" ");
        let asks =
            |name: &str| all.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| word == name);
        if asks("curl") || asks("wget") {
            return http(&all);
        }
        if asks("grpc_health_probe") {
            return Some(grpc(&all));
        }
        if asks("nc") || asks("netcat") {
            let port = all.split_whitespace().filter_map(|word| word.parse().ok()).next_back();
            return Some(Probe::Tcp { port });
        }
        None
    }
}

fn http(line: &str) -> Option<Probe> {
    let (secure, from) = match (line.find("http://"), line.find("https://")) {
        (Some(at), _) => (false, at + 7),
        (None, Some(at)) => (true, at + 8),
        // `curl localhost:8080/health` needs no scheme.
        (None, None) => (false, line.find("localhost").or_else(|| line.find("127.0.0.1"))?),
    };
    let url = &line[from..];
    let end = url.find(|c: char| c.is_whitespace() || "\"'|;,)&<>".contains(c)).unwrap_or(url.len());
    let (authority, path) = match url[..end].find('/') {
        Some(slash) => (&url[..slash], &url[slash..end]),
        None => (&url[..end], "/"),
    };
    let (host, port) = match authority.rsplit_once(':').filter(|_| !authority.ends_with(']')) {
        Some((host, port)) => (host, Some(port.parse().ok()?)),
        None => (authority, None),
    };
    let own = ["localhost", "127.0.0.1", "0.0.0.0", "[::1]", "$HOSTNAME", "ip6-localhost"].contains(&host);
    (own && !secure && !path.contains('$')).then(|| Probe::Http { port, path: path.to_string() })
}

fn grpc(line: &str) -> Probe {
    let value = |name: &str| {
        let at = line.find(&format!("-{name}"))? + name.len() + 1;
        line[at..].trim_start_matches(['=', ' ']).split_whitespace().next()
    };
    let port = value("addr").and_then(|address| address.rsplit(':').next()?.parse().ok());
    Probe::Grpc { port, service: value("service").unwrap_or_default().trim_matches(['"', '\'']).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(line: &str) -> Option<Probe> {
        Probe::find(&[line.to_string()])
    }

    #[test]
    fn the_usual_probes_are_understood() {
        let get = |port, path: &str| Some(Probe::Http { port, path: path.to_string() });
        for (line, found) in [
            ("curl -f http://localhost:8080/health || exit 1", get(Some(8080), "/health")),
            ("curl --fail --silent localhost/up", get(None, "/up")),
            ("wget -qO- http://127.0.0.1:3000", get(Some(3000), "/")),
            ("wget --spider \"http://[::1]:80/a?b=c\"", get(Some(80), "/a?b=c")),
            ("curl -f https://localhost/health", None),
            ("curl -f http://db:5432/", None),
            ("pg_isready -U postgres", None),
            ("nc -z localhost 5432", Some(Probe::Tcp { port: Some(5432) })),
            (
                "/bin/grpc_health_probe -addr=:50051 -service=shop.Catalog",
                Some(Probe::Grpc { port: Some(50051), service: "shop.Catalog".into() }),
            ),
        ] {
            assert_eq!(probe(line), found, "{line}");
        }
    }
}
