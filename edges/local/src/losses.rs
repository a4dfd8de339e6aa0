//! What this platform cannot do without a gap for a revision, in sentences for the plan.

use cutover_core::{Fault, file};
use cutover_ports::RevisionSpec;

use crate::cgroup::{Groups, Limit};
use crate::store;
use crate::supervise::Shared;

/// Names the losses of a revision on this machine.
pub(crate) fn of(shared: &Shared, spec: &RevisionSpec) -> Result<Vec<String>, Fault> {
    let mut losses = Vec::new();
    match shared.store.artifact(spec)? {
        None => losses.push(format!(
            "no artifact: the files in {} are used as they are; overwriting them changes what a restart or a rollback runs",
            spec.base.display()
        )),
        Some(tree) => {
            let out = tree.links_out();
            if !out.is_empty() {
                losses.push(format!(
                    "links of the artifact lead out of it ({}); what they point at is not copied, and may change",
                    out.join(", ")
                ));
            }
        }
    }
    losses.extend(limits(store::local(spec)?, &shared.groups));
    losses.extend(shared.options.shared_cgroup.as_ref().map(|group| {
        format!(
            "cutover shares the cgroup {group} with what started it: whatever ends that ends the server, the proxy and \
             all instances; let it start with the machine instead: cutover server install"
        )
    }));
    Ok(losses)
}

fn limits(local: &file::LocalPlatform, groups: &Groups) -> Vec<String> {
    let asked = [
        (Limit::Memory, local.memory.map(|memory| memory.to_string())),
        (Limit::Cpu, local.cpu.map(|cpu| cpu.to_string())),
        (Limit::Pids, local.pids.map(|pids| pids.to_string())),
    ];
    let (limited, not): (Vec<_>, Vec<_>) = asked
        .into_iter()
        .filter_map(|(limit, value)| Some((limit, value?)))
        .partition(|(limit, _)| groups.can(*limit));
    let mut losses = Vec::new();
    if let Some((_, memory)) = limited.iter().find(|(limit, _)| *limit == Limit::Memory) {
        losses.push(format!("an instance that goes beyond {memory} of memory is killed and started again"));
    }
    if !not.is_empty() {
        let names: Vec<String> =
            not.iter().map(|(limit, value)| format!("{}: {value}", limit.name())).collect();
        losses.push(format!(
            "not limited on this machine: {}; an instance that takes more takes it from its neighbours ({})",
            names.join(", "),
            groups.why_not()
        ));
    }
    losses
}
