//! `cutover proxy status` for people: what the proxy does, and what needs somebody. JSON has all of it.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use cutover_core::Weight;
use cutover_proxy::{CertificateObservation, Hello, Observation, ServiceObservation, day};

const DAY: i64 = 86_400;

/// Returns the text for now.
pub(super) fn now(hello: &Hello, seen: &Observation) -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    text(hello, seen, since.as_secs().cast_signed())
}

fn text(hello: &Hello, seen: &Observation, now_s: i64) -> String {
    let mut out = String::new();
    let holder = match hello.holder_pid {
        Some(pid) => format!("of holder {pid}"),
        None => "WITHOUT A HOLDER: start one with `cutover proxy`".to_owned(),
    };
    say(
        &mut out,
        0,
        &format!(
            "proxy {}: worker {} {holder}, {}",
            hello.version,
            hello.worker_pid,
            many(hello.threads, "thread")
        ),
    );
    let listeners: Vec<String> = seen.listeners.iter().map(ToString::to_string).collect();
    let clients = usize::try_from(seen.connections).unwrap_or(usize::MAX);
    let on = if listeners.is_empty() { "nothing".to_owned() } else { listeners.join(", ") };
    say(&mut out, 0, &format!("listens on {on}; {} of clients", many(clients, "connection")));
    for damage in &seen.damage {
        say(&mut out, 0, &format!("DAMAGED: {damage}"));
    }
    for (name, service) in &seen.services {
        out.push('\n');
        of_a_service(&mut out, name, service, now_s);
    }
    if !seen.events.is_empty() {
        out.push('\n');
        say(&mut out, 0, "happened, and nobody has been told yet:");
        for event in &seen.events {
            let whose = event.service.as_ref().map(|service| format!("{service}: ")).unwrap_or_default();
            say(&mut out, 1, &format!("{whose}{}", event.why));
        }
    }
    out
}

fn of_a_service(out: &mut String, name: &str, seen: &ServiceObservation, now_s: i64) {
    let hosts = match &*seen.table.hosts {
        [] => "any host".to_owned(),
        hosts => hosts.join(", ").replace('*', "any host"),
    };
    say(out, 0, &format!("{name}, generation {}: {hosts}", seen.table.generation));
    for track in &seen.table.tracks {
        let weight = Weight::from_bp(seen.effective.get(&track.revision).copied().unwrap_or(0));
        let held = seen.revisions.get(&track.revision).copied().unwrap_or_default();
        let of_track =
            || seen.targets.iter().filter(|target| target.revision == track.revision && !target.up);
        let mut line = format!(
            "{} {weight}, {}, {} in flight",
            track.revision,
            many(track.targets.len(), "target"),
            held.in_flight
        );
        if held.draining {
            line.push_str(", draining");
        }
        say(out, 1, &line);
        for target in of_track() {
            let why = target.why.as_deref().unwrap_or("not passing often enough yet");
            say(
                out,
                2,
                &format!("DOWN: {} at {} ({}: {why})", target.instance, target.address, target.check),
            );
        }
    }
    for release in &seen.tripped {
        say(out, 1, &format!("the candidate of {release} was taken back"));
    }
    if seen.traffic.name() != "open" {
        say(out, 1, &format!("traffic: {}, {} waiting", seen.traffic.name(), seen.waiting));
    }
    for certificate in &seen.certificates {
        of_a_certificate(out, certificate, now_s);
    }
}

fn of_a_certificate(out: &mut String, seen: &CertificateObservation, now_s: i64) {
    let host = seen.host.as_deref().unwrap_or("any other host");
    let until = match seen.not_after {
        None => "NONE YET, its clients are refused".to_owned(),
        Some(last) if last < now_s => format!("EXPIRED on {}", day(last)),
        Some(last) => {
            let days = usize::try_from((last - now_s) / DAY).unwrap_or(0);
            format!("until {} ({})", day(last), many(days, "day"))
        }
    };
    say(out, 1, &format!("certificate of {host} on {}: {until}, {}", seen.listen, source(seen, now_s)));
    if let Some(problem) = &seen.problem {
        say(out, 2, &format!("PROBLEM: {problem}"));
    }
}

/// Says where a certificate comes from, and when it comes again.
fn source(seen: &CertificateObservation, now_s: i64) -> String {
    let Some(acme) = &seen.acme else { return format!("from {}", seen.cert) };
    let next_s = acme.next_ms.map(|ms| i64::try_from(ms / 1_000).unwrap_or(i64::MAX));
    let when = match next_s {
        _ if acme.under_way => "being asked for right now".to_owned(),
        None => "not asked for by this proxy".to_owned(),
        Some(next) if next <= now_s => "about to be asked for".to_owned(),
        Some(next) if next - now_s < DAY => {
            format!(
                "asked for again in {}",
                many(usize::try_from((next - now_s) / 60 + 1).unwrap_or(0), "minute")
            )
        }
        Some(next) => format!("asked for again on {}", day(next)),
    };
    let failed = match acme.failures {
        0 => String::new(),
        failures => format!(", after {} in a row", many(failures as usize, "failure")),
    };
    format!("from {}, {when}{failed}", acme.directory)
}

fn many(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

fn say(out: &mut String, depth: usize, line: &str) {
    writeln!(out, "{}{line}", "  ".repeat(depth)).expect("a text takes every line");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use cutover_proxy::{
        AcmeObservation, ServiceTable, Target, TargetObservation, TargetProtocol, Track, Traffic,
    };
    use expect_test::expect;

    use super::*;

    const NOW: i64 = 1_790_000_000;

    fn certificate(host: &str, days: Option<i64>, acme: Option<AcmeObservation>) -> CertificateObservation {
        CertificateObservation {
            listen: "0.0.0.0:443".parse().expect("an address"),
            host: Some(host.into()),
            cert: "/etc/ssl/shop.pem".into(),
            not_after: days.map(|days| NOW + days * DAY),
            problem: None,
            acme,
        }
    }

    fn acme(failures: u32, under_way: bool, next_s: i64) -> Option<AcmeObservation> {
        let directory = "https://ca.test/directory".into();
        let next_ms = u64::try_from((NOW + next_s) * 1_000).ok();
        Some(AcmeObservation { directory, under_way, failures, next_ms })
    }

    fn service() -> ServiceObservation {
        let address = "127.0.0.1:9001".parse().expect("an address");
        let track = |revision: &str, weight_bp| Track {
            revision: revision.into(),
            weight_bp,
            targets: vec![Target { instance: format!("{revision}-0"), address, ready: true }],
            checks: None,
            protocol: TargetProtocol::Http1,
        };
        let tracks = vec![track("v1", 9_000), track("v2", 1_000)];
        let hosts = vec!["shop.test".into()];
        ServiceObservation {
            table: ServiceTable { generation: 7, hosts, tracks, ..ServiceTable::default() },
            effective: BTreeMap::from([("v1".into(), 9_000), ("v2".into(), 1_000)]),
            awaiting_renewal: false,
            lease_left_ms: None,
            tripped: Vec::new(),
            certificates: Vec::new(),
            guard: None,
            revisions: BTreeMap::new(),
            arms: Vec::new(),
            targets: vec![TargetObservation {
                revision: "v2".into(),
                instance: "v2-0".into(),
                address,
                up: false,
                check: "GET /health".into(),
                asked: 9,
                why: Some("it answers 500".into()),
            }],
            traffic: Traffic::Open,
            waiting: 0,
            per_hour: None,
            log_lines_lost: 0,
            judge: None,
        }
    }

    #[test]
    fn people_see_who_serves_and_how_the_certificates_are() {
        let mut shop = service();
        let mut failed = certificate("c.test", None, acme(3, false, 540));
        failed.problem = Some("get a certificate for c.test: the authority says dns: no such name".into());
        shop.certificates = vec![
            certificate("a.test", Some(89), acme(0, false, 59 * DAY)),
            certificate("b.test", None, acme(0, true, 0)),
            failed,
            certificate("d.test", Some(-1), None),
        ];
        let listeners: Vec<std::net::SocketAddr> =
            ["0.0.0.0:80", "0.0.0.0:443"].iter().map(|text| text.parse().expect("an address")).collect();
        let hello = Hello {
            version: "1.2.3".into(),
            protocol: 1,
            oldest_protocol: 1,
            worker_pid: 12,
            holder_pid: Some(11),
            threads: 2,
            dir: "/d".into(),
            listeners: listeners.clone(),
            tables: None,
        };
        let seen = Observation {
            worker_pid: 12,
            listeners,
            services: BTreeMap::from([("shop".into(), shop)]),
            unrouted: BTreeMap::new(),
            connections: 1,
            events: Vec::new(),
            damage: Vec::new(),
        };
        expect![[r#"
            proxy 1.2.3: worker 12 of holder 11, 2 threads
            listens on 0.0.0.0:80, 0.0.0.0:443; 1 connection of clients

            shop, generation 7: shop.test
              v1 90%, 1 target, 0 in flight
              v2 10%, 1 target, 0 in flight
                DOWN: v2-0 at 127.0.0.1:9001 (GET /health: it answers 500)
              certificate of a.test on 0.0.0.0:443: until 2026-12-19 (89 days), from https://ca.test/directory, asked for again on 2026-11-19
              certificate of b.test on 0.0.0.0:443: NONE YET, its clients are refused, from https://ca.test/directory, being asked for right now
              certificate of c.test on 0.0.0.0:443: NONE YET, its clients are refused, from https://ca.test/directory, asked for again in 10 minutes, after 3 failures in a row
                PROBLEM: get a certificate for c.test: the authority says dns: no such name
              certificate of d.test on 0.0.0.0:443: EXPIRED on 2026-09-20, from /etc/ssl/shop.pem
        "#]].assert_eq(&text(&hello, &seen, NOW));
    }
}
