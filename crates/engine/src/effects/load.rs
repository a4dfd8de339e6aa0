//! The load effect: the candidate carries what users will send, before they do.

use std::net::SocketAddr;

use cutover_core::file::{Load, LoadAgainst, Route, TargetProtocol};
use cutover_core::{Evidence, Fault, LoadProgress, Outcome, ReleaseId, RevisionId};
use cutover_ports::{LoadRequest, ObservedInstance};
use tokio::sync::watch;

use super::{Act, check};
use crate::engine::Shared;
use crate::util::lock;

pub(super) async fn load(
    act: &Act,
    revision: &RevisionId,
    beside: Option<&RevisionId>,
    test: &Load,
) -> Outcome {
    let instances = check::running(act, revision).await?;
    // An address may have become somebody else's: only who is vouched for gets load.
    for instance in &instances {
        check::vouch(act, &instance.id).await?;
    }
    let stable = match beside.filter(|_| test.against == LoadAgainst::Both) {
        Some(stable) => check::running(act, stable).await?,
        None => Vec::new(),
    };
    let addresses =
        |of: &[ObservedInstance]| -> Vec<SocketAddr> { of.iter().map(|one| one.address).collect() };
    let told = Told::new(act);
    let request = LoadRequest {
        service: act.service.name.clone(),
        revision: revision.clone(),
        candidate: addresses(&instances),
        stable: addresses(&stable),
        test: test.clone(),
        host: act.release.file.route.iter().find_map(|Route::Proxy(route)| route.host.clone()),
        protocol: TargetProtocol::of(&act.release.file.route),
        progress: told.progress.clone(),
    };
    // Load that goes on after an instance fell over would meet whoever takes its port.
    tokio::select! {
        answer = act.edges().checker.load(&request) => match answer {
            Ok(result) => Ok(Evidence::Loaded { result: Box::new(result) }),
            Err(fault) => Err(explained(act, revision, &instances, fault).await),
        },
        fault = check::fallen_since(act, revision, &instances) => Err(fault),
    }
}

/// Where an instance fell over, that is the better story; the numbers stay.
async fn explained(act: &Act, revision: &RevisionId, instances: &[ObservedInstance], fault: Fault) -> Fault {
    for instance in instances {
        if let Some(fell) = check::fell(act, revision, instance).await {
            return Fault { load: fault.load, ..fell };
        }
    }
    fault
}

/// Where the load test of a release is, for whoever looks; nothing once it is over.
struct Told<'a> {
    shared: &'a Shared,
    release: &'a ReleaseId,
    progress: watch::Sender<Option<LoadProgress>>,
}

impl<'a> Told<'a> {
    fn new(act: &'a Act) -> Told<'a> {
        let progress = watch::Sender::new(None);
        lock(&act.shared.loads).insert(act.release.id.clone(), progress.subscribe());
        Told { shared: &act.shared, release: &act.release.id, progress }
    }
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        lock(&self.shared.loads).remove(self.release);
    }
}
