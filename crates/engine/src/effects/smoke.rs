//! The smoke effect: one instance of the candidate is tried as users will use it.

use cutover_core::{EffectKey, Evidence, Fault, Outcome, RevisionId, StepKey};
use cutover_ports::InstanceState;

use super::{Act, check, gate, pinned};

pub(super) async fn smoke(act: &Act, key: &EffectKey, revision: &RevisionId) -> Outcome {
    let StepKey::Forward(step) = key.step else {
        return Err(Fault::cutover("a way back has no smoke tests").fatal());
    };
    let log = gate::log_for(act, step)?;
    let instances = check::look(act, revision).await?;
    let running = instances.iter().find(|instance| instance.state == InstanceState::Running);
    let instance =
        running.ok_or_else(|| Fault::platform(format!("try {revision}: none of its instances runs")))?;
    let route = pinned::route(act, &act.release, revision, &instances).await?;
    let request = check::request(act, &act.release, revision, instance, route);
    match act.edges().checker.smoke(&request, &log).await {
        Ok(results) => Ok(Evidence::Checked { results }),
        Err(fault) => {
            // Without its log: what the tests said is the better story, unless it fell over meanwhile.
            let results = fault.results.clone();
            let fell = check::fell(act, revision, instance).await;
            Err(fell.unwrap_or(fault).results(results))
        }
    }
}
