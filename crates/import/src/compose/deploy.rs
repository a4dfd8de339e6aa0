//! How many instances, what they may take, and how they are replaced.

use cutover_core::{Size, Span};

use crate::cursor::Cursor;
use crate::draft::Rolling;
use crate::import::Work;
use crate::quantity;

pub(super) fn import(work: &mut Work<'_>, service: &Cursor<'_>) {
    work.draft.replicas = replicas(work, service);
    if let Some(at) = service.find(&["deploy", "mode"])
        && at.text() == Some("replicated")
    {
        work.ledger.became_same(&at, "platform.docker.replicas");
    }
    let limit = |keys: &[&str]| service.find(&["deploy", "resources", "limits"]).and_then(|at| at.find(keys));
    for at in [limit(&["memory"]), service.get("mem_limit")].into_iter().flatten() {
        memory(work, &at);
    }
    for at in [limit(&["cpus"]), service.get("cpus")].into_iter().flatten() {
        if let Some(cores) = work.value(&at, "cpu").and_then(|text| quantity::cores(&text)) {
            work.draft.cpu = work.draft.cpu.or(Some(cores));
            work.ledger.took(&at);
        }
    }
    for at in [limit(&["pids"]), service.get("pids_limit")].into_iter().flatten() {
        match work.value(&at, "pids").as_deref() {
            Some("-1" | "0") => work.ledger.differs(&at, "without a limit the engine's own holds", ""),
            text => {
                if let Some(pids) = text.and_then(quantity::whole).filter(|pids| *pids > 0) {
                    work.draft.pids = work.draft.pids.or(Some(pids));
                    work.ledger.took(&at);
                }
            }
        }
    }
    if let Some(at) = service.find(&["deploy", "update_config"]) {
        rolling(work, &at);
    }
}

/// `deploy.replicas`, else `scale`.
pub(super) fn replicas(work: &mut Work<'_>, service: &Cursor<'_>) -> Option<u32> {
    let mut found = None;
    for at in [service.find(&["deploy", "replicas"]), service.get("scale")].into_iter().flatten() {
        let Some(count) = work.value(&at, "replicas").and_then(|text| quantity::whole(&text)) else {
            continue;
        };
        match count {
            1..=1000 => {
                found = found.or(Some(count));
                work.ledger.took(&at);
            }
            0 => work.ledger.left(
                &at,
                "a service without instances answers nobody; one is taken",
                "set `replicas`",
            ),
            _ => work.ledger.left(&at, "more than 1000 instances are not possible", "set `replicas`"),
        }
    }
    found
}

fn memory(work: &mut Work<'_>, at: &Cursor<'_>) {
    let size = work.value(at, "memory").and_then(|text| quantity::size(&text));
    match size.map(Size::bytes) {
        Some(0) => work.ledger.differs(at, "without a limit there is none", ""),
        Some(bytes) if bytes < 1 << 20 => {
            work.ledger.left(
                at,
                "no process lives within so little memory",
                "set `memory` with its unit, such as 512Mi",
            );
        }
        Some(bytes) => {
            work.draft.memory = work.draft.memory.or(Some(Size::from_bytes(bytes)));
            work.ledger.took(at);
        }
        None => {}
    }
}

/// Batches of `parallelism`. With one instance, or without a number, all are replaced at once: blue-green.
fn rolling(work: &mut Work<'_>, at: &Cursor<'_>) {
    let number = |key: &str| at.get(key).and_then(|at| quantity::whole(at.text()?));
    let span = |key: &str| at.get(key).and_then(|at| quantity::span(at.text()?, None));
    let replicas = work.draft.replicas.unwrap_or(1);
    let batch = number("parallelism").unwrap_or(1);
    if replicas < 2 || batch == 0 || batch >= replicas {
        for part in at.entries().into_iter().map(|(_, part)| part) {
            if ["parallelism", "delay", "monitor"].contains(&part.key()) {
                let what = "all instances are replaced at once, after the new ones passed their checks";
                work.ledger.became(&part, "strategy", what, "");
            }
        }
        return;
    }
    let bake = [span("delay"), span("monitor")].into_iter().flatten().max();
    work.draft.rolling =
        Some(Rolling { surge: batch, unavailable: 0, bake: bake.filter(|bake| *bake > Span::default()) });
    for key in ["parallelism", "delay", "monitor", "order"] {
        if let Some(at) = at.get(key) {
            work.ledger.took(&at);
        }
    }
}
