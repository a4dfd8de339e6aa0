//! `rehearse`: the simulator on the release file's own plan. Nothing runs, nothing moves.

use cutover_core::file::Strategy;
use cutover_core::sim::{Scenario, rehearse};
use cutover_core::{Observed, Release, ReleaseId, ReleaseKind, RevisionId};

use super::args::Global;
use super::file;
use crate::cli::view::print;
use crate::exit;
use crate::failure::Failure;
use crate::server::Client;
use crate::server::protocol::StatusAnswer;

/// A batch more adds no other kind of failure, only the square of its places.
const REPLICAS: u32 = 6;

/// `cutover rehearse`.
pub(super) async fn run(global: &Global) -> Result<u8, Failure> {
    let mut file = file::read(global)?;
    let replicas = file.platform.replicas();
    if replicas > REPLICAS && matches!(file.strategy, Strategy::Rolling(_)) {
        eprintln!("note: rehearsed with {REPLICAS} of {replicas} replicas: the other batches are like these");
        file.platform.set_replicas(REPLICAS);
    }
    let service = file.service.clone();
    // Without a server nobody can say what is stable; most releases have a predecessor.
    let stable = match Client::connect(&global.state_dir()?).await? {
        Some(client) => {
            let status: StatusAnswer = client.get("/v1/status").await?;
            let ours = status.services.into_iter().find(|status| status.service.name == service);
            ours.and_then(|status| status.service.stable)
        }
        None => {
            eprintln!("note: no server answers, so a predecessor is assumed");
            Some(RevisionId::new("the-predecessor"))
        }
    };
    let release = Release {
        id: ReleaseId::new(format!("{service}-next")),
        service,
        kind: ReleaseKind::Deploy,
        candidate: RevisionId::new("the-candidate"),
        file,
        base: String::new(),
        by: String::new(),
    };
    let scenario = Scenario::good("rehearsal", release, Observed { stable, ..Observed::default() });
    let rehearsal = rehearse(&scenario);
    if global.json() {
        print(&format!("{}", serde_json::json!(rehearsal)));
    } else {
        let plan = scenario.plan();
        print(&format!("{}: {}, {} steps\n", plan.service, plan.strategy, plan.steps.len()));
        print(&rehearsal.to_string());
    }
    Ok(if rehearsal.broken.is_empty() { exit::OK } else { exit::FAILED })
}
