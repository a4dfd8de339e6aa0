//! The health check: what asks over the network becomes a check of the candidate.

use cutover_core::Span;

use crate::cursor::Cursor;
use crate::draft::{Ask, Check};
use crate::import::Work;
use crate::probe::Probe;
use crate::quantity;

/// What the check's command asks, where it is one of the usual probes.
pub(super) fn probe(work: &mut Work<'_>, service: &Cursor<'_>) -> Option<Probe> {
    let at = service.find(&["healthcheck", "test"])?;
    let words: Vec<String> = match at.text() {
        Some(text) => vec![text.to_string()],
        None => at.texts()?.into_iter().map(str::to_string).collect(),
    };
    let words: Vec<String> = words.iter().map(|word| work.variables.fill(word).text).collect();
    Probe::find(&words)
}

pub(super) fn import(work: &mut Work<'_>, service: &Cursor<'_>, probe: Option<Probe>) {
    let Some(at) = service.get("healthcheck") else { return };
    if at.get("disable").is_some_and(|disable| disable.truth()) {
        return;
    }
    if let Some(start) = span(work, &at, "start_period") {
        // Until then failures do not count; after it the retries do.
        let more = Span::from_secs(60);
        work.draft.within = Some(start.plus(more));
    }
    let Some(ask) = at.get("test").and_then(|test| asked(work, &test, probe)) else {
        for at in ["interval", "timeout"].iter().filter_map(|key| at.get(key)) {
            let what = "it belongs to a check that is not in the release file";
            work.ledger.left(
                &at,
                what,
                "give it with the check: checks.health: [{path: /health, interval: 5s}]",
            );
        }
        return;
    };
    let (interval, timeout) = (span(work, &at, "interval"), span(work, &at, "timeout"));
    work.draft.health.push(Check { ask, interval, timeout, status: None });
}

fn span(work: &mut Work<'_>, at: &Cursor<'_>, key: &str) -> Option<Span> {
    let at = at.get(key)?;
    let span = work.value(&at, "health").and_then(|text| quantity::span(&text, None))?;
    work.ledger.took(&at);
    Some(span).filter(|span| *span > Span::default())
}

/// What is asked of a candidate, if cutover can ask it.
fn asked(work: &mut Work<'_>, test: &Cursor<'_>, probe: Option<Probe>) -> Option<Ask> {
    if test.texts().is_some_and(|words| words.first() == Some(&"NONE")) {
        work.ledger.differs(test, "a candidate must accept a connection at least", "");
        return None;
    }
    let Some(probe) = probe else {
        let what = "this command runs in no container: a candidate passes when it accepts a connection, and when the image's own HEALTHCHECK says so";
        let next =
            "make it the image's HEALTHCHECK, or ask over the network: checks.health: [{path: /health}]";
        work.ledger.left(test, what, next);
        return None;
    };
    let (port, asked) = (work.draft.port, probe.port());
    if let (Some(port), Some(asked)) = (port, asked)
        && port != asked
    {
        let what = format!("it asks port {asked}, and requests come to port {port}");
        work.ledger.left(test, what, "answer the check on the port of the requests");
        return None;
    }
    work.ledger.took(test);
    Some(match probe {
        Probe::Http { path, .. } => Ask::Http(path),
        Probe::Tcp { .. } => Ask::Tcp,
        Probe::Grpc { service, .. } => Ask::Grpc(service),
    })
}
