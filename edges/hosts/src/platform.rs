//! The platform: counts are those of all hosts together, spread evenly, the first hosts first.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use async_trait::async_trait;
use cutover_core::{Fault, Fence, InstanceId, ProcessCounts, RevisionId, ServiceName};
use cutover_ports::{ObservedInstance, ObservedRevision, Platform, RevisionSpec};
use futures_util::future::join_all;

use crate::answers::{acted, asked};
use crate::hosts::{Hosts, Member};

/// Runs a part of each revision on every host.
pub struct HostsPlatform(pub Arc<Hosts>);

impl HostsPlatform {
    /// Returns what the host runs, with names and addresses that are good here.
    fn translated(member: &Member, mut seen: Vec<ObservedRevision>) -> Result<Vec<ObservedRevision>, Fault> {
        for revision in &mut seen {
            for instance in &mut revision.instances {
                instance.id = member.named(&instance.id);
                instance.address = member.reach.here(instance.address)?;
            }
            for worker in revision.processes.iter_mut().flat_map(|process| &mut process.instances) {
                worker.id = member.named(&worker.id);
            }
        }
        Ok(seen)
    }
}

#[async_trait]
impl Platform for HostsPlatform {
    async fn identify(&self, spec: &RevisionSpec) -> Result<RevisionId, Fault> {
        let named = asked(self.0.each(None, |_, member| member.platform.identify(spec)).await)?;
        let Some(first) = named.first() else {
            return Err(Fault::cutover("name a revision: there are no hosts"));
        };
        if let Some(other) = named.iter().position(|name| name != first) {
            let (one, two) = (&self.0.members[0].name, &self.0.members[other].name);
            let what = format!(
                "name one revision for all hosts: the image of that name is another one on {two} than on {one}"
            );
            return Err(Fault::configuration(what).hint(
                "Push it to a registry that all hosts use, and say `pull: always` or name it by its digest.",
            ));
        }
        Ok(first.clone())
    }

    async fn losses(&self, spec: &RevisionSpec) -> Result<Vec<String>, Fault> {
        let all = asked(self.0.each(None, |_, member| member.platform.losses(spec)).await)?;
        let hosts = self.0.names();
        let mut said =
            vec![format!("{} hosts: {}; {}", hosts.len(), hosts.join(", "), self.0.lost_host.rule())];
        for (host, losses) in hosts.iter().zip(all) {
            said.extend(losses.into_iter().map(|loss| format!("host {host}: {loss}")));
        }
        Ok(said)
    }

    async fn preflight(&self, spec: &RevisionSpec, candidate: &RevisionId) -> Result<String, Fault> {
        let lines = asked(self.0.each(None, |_, member| member.platform.preflight(spec, candidate)).await)?;
        Ok(told(&self.0, lines))
    }

    async fn build(&self, fence: Fence, spec: &RevisionSpec, revision: &RevisionId) -> Result<String, Fault> {
        let answers = self.0.each(None, |_, member| member.platform.build(fence, spec, revision)).await;
        Ok(told(&self.0, acted(&self.0.names(), answers)?))
    }

    async fn build_output(&self, revision: &RevisionId, from: u64) -> Result<Vec<u8>, Fault> {
        // All hosts do the same; one is enough to look on.
        match self.0.members.first() {
            Some(member) => member.platform.build_output(revision, from).await,
            None => Ok(Vec::new()),
        }
    }

    fn build_may_drop(&self, revision: &RevisionId) -> bool {
        self.0.members.iter().all(|member| member.platform.build_may_drop(revision))
    }

    async fn ensure(
        &self,
        fence: Fence,
        service: &ServiceName,
        revision: &RevisionId,
        count: u32,
    ) -> Result<(), Fault> {
        let hosts = self.0.members.len();
        let call = |index, member: &Member| {
            let (platform, count) = (member.platform.clone(), share(count, index, hosts));
            async move { platform.ensure(fence, service, revision, count).await }
        };
        let answers = self.0.each(None, call).await;
        acted(&self.0.names(), answers).map(drop)
    }

    async fn ensure_processes(
        &self,
        fence: Fence,
        service: &ServiceName,
        revision: &RevisionId,
        run: &ProcessCounts,
    ) -> Result<(), Fault> {
        let hosts = self.0.members.len();
        let call = |index, member: &Member| {
            let platform = member.platform.clone();
            let own: ProcessCounts =
                run.iter().map(|(name, count)| (name.clone(), share(*count, index, hosts))).collect();
            async move { platform.ensure_processes(fence, service, revision, &own).await }
        };
        acted(&self.0.names(), self.0.each(None, call).await).map(drop)
    }

    /// Shows of a host that is silent what it showed last: to be silent is not to be gone. Fails where all are.
    async fn observe(&self, service: &ServiceName) -> Result<Vec<ObservedRevision>, Fault> {
        let look = self.0.patience.look;
        let answers = self.0.each(Some(look), |_, member| member.platform.observe(service)).await;
        if answers.iter().all(Result::is_err) {
            return asked(answers).map(|_: Vec<Vec<ObservedRevision>>| Vec::new());
        }
        let mut parts = Vec::new();
        for (index, (member, answer)) in self.0.members.iter().zip(answers).enumerate() {
            let mut seen = self.0.last_instances(index, service, answer.as_ref().ok().map(Vec::as_slice));
            if let Err(fault) = answer {
                for instance in seen.iter_mut().flat_map(|seen| &mut seen.instances) {
                    instance.why = format!("as seen last: {}", fault.what);
                }
            }
            parts.push(Self::translated(member, seen)?);
        }
        Ok(joined(parts))
    }

    async fn stamp(&self, service: &ServiceName) -> Option<u64> {
        let mut hash = DefaultHasher::new();
        for stamp in join_all(self.0.members.iter().map(|member| member.platform.stamp(service))).await {
            stamp?.hash(&mut hash);
        }
        Some(hash.finish())
    }

    async fn vouch(&self, service: &ServiceName, instance: &InstanceId) -> Result<(), Fault> {
        let (member, own) = self.0.home(instance)?;
        member.platform.vouch(service, &own).await
    }

    async fn restart(
        &self,
        fence: Fence,
        service: &ServiceName,
        instance: &InstanceId,
        why: &str,
    ) -> Result<(), Fault> {
        let (member, own) = self.0.home(instance)?;
        member.platform.restart(fence, service, &own, why).await
    }

    async fn retire(&self, fence: Fence, service: &ServiceName, revision: &RevisionId) -> Result<(), Fault> {
        let answers = self.0.each(None, |_, member| member.platform.retire(fence, service, revision)).await;
        acted(&self.0.names(), answers).map(drop)
    }

    async fn stored(&self, service: &ServiceName) -> Result<Vec<RevisionId>, Fault> {
        let mut all: Vec<RevisionId> =
            asked(self.0.each(None, |_, member| member.platform.stored(service)).await)?.concat();
        all.sort();
        all.dedup();
        Ok(all)
    }

    async fn discard(&self, fence: Fence, service: &ServiceName, revision: &RevisionId) -> Result<(), Fault> {
        let answers = self.0.each(None, |_, member| member.platform.discard(fence, service, revision)).await;
        acted(&self.0.names(), answers).map(drop)
    }

    async fn logs(
        &self,
        service: &ServiceName,
        revision: &RevisionId,
        lines: usize,
    ) -> Result<Vec<(InstanceId, Vec<String>)>, Fault> {
        let answers = self.0.each(None, |_, member| member.platform.logs(service, revision, lines)).await;
        let mut all = Vec::new();
        for (member, logs) in self.0.members.iter().zip(answers) {
            match logs {
                Ok(logs) => all.extend(logs.into_iter().map(|(id, lines)| (member.named(&id), lines))),
                // The logs of the others are wanted all the more.
                Err(fault) => {
                    all.push((InstanceId::new(&*member.name), vec![format!("no logs: {}", fault.what)]))
                }
            }
        }
        Ok(all)
    }
}

fn told(hosts: &Hosts, lines: Vec<String>) -> String {
    let lines = hosts.names().into_iter().zip(lines).map(|(host, line)| format!("{host}: {line}"));
    lines.collect::<Vec<_>>().join("; ")
}

/// Returns how many of `count` are the host's.
fn share(count: u32, index: usize, hosts: usize) -> u32 {
    let (index, hosts) =
        (u32::try_from(index).unwrap_or(u32::MAX), u32::try_from(hosts).unwrap_or(u32::MAX).max(1));
    count / hosts + u32::from(index < count % hosts)
}

/// Puts together what runs on the hosts. The first of each come first, so that the first `count` are those that
/// [`share`] leaves: whoever lets the last ones leave relies on it.
fn joined(parts: Vec<Vec<ObservedRevision>>) -> Vec<ObservedRevision> {
    let mut all: Vec<ObservedRevision> = Vec::new();
    let mut ranked: BTreeMap<(RevisionId, usize, usize), ObservedInstance> = BTreeMap::new();
    for (host, part) in parts.into_iter().enumerate() {
        for mut seen in part {
            for (rank, instance) in std::mem::take(&mut seen.instances).into_iter().enumerate() {
                ranked.insert((seen.revision.clone(), rank, host), instance);
            }
            match all.iter_mut().find(|one| one.revision == seen.revision) {
                Some(one) => join(one, seen),
                None => all.push(seen),
            }
        }
    }
    for ((revision, ..), instance) in ranked {
        if let Some(one) = all.iter_mut().find(|one| one.revision == revision) {
            one.instances.push(instance);
        }
    }
    all
}

fn join(seen: &mut ObservedRevision, more: ObservedRevision) {
    seen.desired += more.desired;
    for process in more.processes {
        match seen.processes.iter_mut().find(|one| one.name == process.name) {
            Some(one) => {
                one.desired += process.desired;
                one.instances.extend(process.instances);
            }
            None => seen.processes.push(process),
        }
    }
}
