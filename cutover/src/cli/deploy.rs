//! `plan`, `deploy` and `rollback`: start a release and follow its story to the end.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cutover_core::text::{Report, Story, plan_text};
use cutover_core::{JudgeProgress, LoadProgress, Machine, Mode, Record, ReleaseFile, ReleaseId, Span, Step};
use cutover_ports::{Secret, TrackView};

use super::args::{Deploy, Global};
use super::file as release_file;
use super::view::View;
use crate::cli::view::print;
use crate::exit;
use crate::failure::Failure;
use crate::server::Client;
use crate::server::protocol::{
    DeployAnswer, DeployBody, GateAnswer, JudgeAnswer, LoadAnswer, PlanAnswer, RecordsAnswer, RollbackBody,
    StatusAnswer,
};

/// `cutover plan`.
pub(super) async fn plan(global: &Global, deploy: &Deploy) -> Result<u8, Failure> {
    let body = body(global, deploy)?;
    let client = Client::connect_or_start(&global.state_dir()?).await?;
    let answer: Result<PlanAnswer, Failure> = client.post("/v1/plan", &body).await;
    let environment = body.file.environment.as_ref();
    match answer {
        Ok(answer) if global.json() => {
            let mut answer = serde_json::json!(answer);
            answer["environment"] = serde_json::json!(environment);
            print(&answer.to_string());
        }
        Ok(answer) => {
            if let Some(name) = environment {
                print(&format!("environment {name} of {}", global.file.display()));
            }
            print(&plan_text(&answer.plan, answer.lease_ms.map(Span::from_ms)));
        }
        // Nothing to do is not a failure.
        Err(failure) if failure.exit == exit::OK => print(&failure.to_string()),
        Err(failure) => return Err(failure),
    }
    Ok(exit::OK)
}

/// `cutover deploy`.
pub(super) async fn deploy(global: &Global, deploy: &Deploy) -> Result<u8, Failure> {
    let body = body(global, deploy)?;
    let client = Client::connect_or_start(&global.state_dir()?).await?;
    let answer: DeployAnswer = client.post("/v1/deploy", &body).await?;
    attend(global, &client, answer, deploy.detach).await
}

/// `cutover rollback`.
pub(super) async fn rollback(global: &Global, service: Option<String>, detach: bool) -> Result<u8, Failure> {
    let service = release_file::service(global, service)?;
    let client = Client::connect_or_start(&global.state_dir()?).await?;
    let answer: DeployAnswer = client.post("/v1/rollback", &RollbackBody { service, by: by() }).await?;
    attend(global, &client, answer, detach).await
}

async fn attend(global: &Global, client: &Client, answer: DeployAnswer, detach: bool) -> Result<u8, Failure> {
    match answer {
        DeployAnswer::UpToDate { service, revision } => {
            if global.json() {
                print(&format!(
                    "{}",
                    serde_json::json!({ "up_to_date": true, "service": service, "revision": revision })
                ));
            } else {
                print(&format!("{service} is up to date: {revision} is stable already"));
            }
            Ok(exit::OK)
        }
        DeployAnswer::Started { release, .. } if detach => {
            if global.json() {
                print(&format!("{}", serde_json::json!({ "release": release, "detached": true })));
            } else {
                print(&format!(
                    "{release} began; follow it with: cutover show {release}, or stop it with: cutover abort"
                ));
            }
            Ok(exit::DETACHED)
        }
        DeployAnswer::Started { release, .. } => {
            let mut view = View::new(global.json());
            let interrupted = tokio::signal::ctrl_c();
            tokio::select! {
                code = follow(client, &release, &mut view) => code,
                _ = interrupted => {
                    view.clear();
                    eprintln!(
                        "detached: {release} goes on in the server; follow it with: cutover show {release}, \
                         or stop it with: cutover abort"
                    );
                    Ok(exit::DETACHED)
                }
            }
        }
    }
}

/// Prints the release's records as they come, until its exit code is known; then the report.
async fn follow(client: &Client, release: &ReleaseId, view: &mut View) -> Result<u8, Failure> {
    let mut story = Story::default();
    let mut records = Vec::new();
    let mut lost = 0;
    let mut gate = GateTail::default();
    let mut proof = ProofLines::default();
    loop {
        // A gate, or a smoke test, writes no records while it runs: its output is what there is to show.
        let gated = story
            .machine()
            .is_some_and(|machine| matches!(machine.step(), Step::Gate { .. } | Step::Smoke { .. }));
        // What the judge knows changes without records, too.
        let proving = story.machine().is_some_and(is_proving) && view.is_text();
        let wait_ms = view.patience_ms().min(if gated { 500 } else { u64::MAX }).min(if proving {
            2_000
        } else {
            u64::MAX
        });
        let path = format!("/v1/releases/{release}/records?from={}&wait_ms={wait_ms}", records.len());
        let answer: RecordsAnswer = match client.get(&path).await {
            Ok(answer) => answer,
            // A server that is being replaced comes back; the release is in its journal.
            Err(failure) if lost < 30 && failure.exit == exit::FAILED => {
                lost += 1;
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
                // A server that is being replaced is back by now; one that died is not, and the release waits.
                if lost == 3 {
                    view.say(&failure.to_string());
                    client.revive().await?;
                }
                continue;
            }
            Err(failure) => return Err(failure),
        };
        lost = 0;
        for record in answer.records {
            // What a gate wrote comes before the line that says how it went.
            if let Some(machine) = story.machine() {
                gate.follow(client, release, machine, view).await;
            }
            view.record(&record, &story.tell(&record));
            records.push(record);
        }
        let machine = story.machine();
        if let Some(machine) = machine {
            gate.follow(client, release, machine, view).await;
        }
        if let Some(code) = machine.and_then(cutover_core::Machine::exit_code)
            && let Some(report) = Report::of(&records)
        {
            view.report(&report);
            return Ok(code);
        }
        if let Some(machine) = machine
            && view.is_live()
        {
            match machine.step() {
                Step::Load { .. } => view.live_load(machine, &records, load(client, release).await),
                _ if is_proving(machine) => match judge(client, release).await {
                    Some(progress) => view.live_judge(machine, &records, &progress),
                    None => view.live(machine, &records, &split(client, machine).await),
                },
                _ => view.live(machine, &records, &split(client, machine).await),
            }
        } else if let Some(machine) = machine.filter(|machine| is_proving(machine) && view.is_text()) {
            proof.follow(client, release, machine, &records, view).await;
        }
    }
}

/// Tells whether the release waits until it is proven that the candidate is no worse.
fn is_proving(machine: &Machine) -> bool {
    matches!((machine.mode(), machine.step()), (Mode::Forward, Step::Bake { prove: Some(_), .. }))
}

/// When it is said next how far a proof is, where no line can be redrawn.
#[derive(Default)]
struct ProofLines {
    next: Option<(usize, Instant)>,
}

impl ProofLines {
    /// A log is read later: it gets few lines.
    const EVERY: Duration = Duration::from_secs(10);
    /// Right after a shift there is nothing to say.
    const FIRST: Duration = Duration::from_secs(2);

    async fn follow(
        &mut self,
        client: &Client,
        release: &ReleaseId,
        machine: &Machine,
        records: &[Record],
        view: &mut View,
    ) {
        let at = machine.at();
        let now = Instant::now();
        let Some((_, due)) = self.next.filter(|(step, _)| *step == at) else {
            self.next = Some((at, now + Self::FIRST));
            return;
        };
        if now < due {
            return;
        }
        if let Some(progress) = judge(client, release).await {
            view.judge(records, &progress);
            self.next = Some((at, now + Self::EVERY));
        }
    }
}

/// Returns how far the judge is; nothing where that cannot be seen.
async fn judge(client: &Client, release: &ReleaseId) -> Option<JudgeProgress> {
    let path = format!("/v1/releases/{release}/judge");
    let seen = tokio::time::timeout(Duration::from_secs(1), client.get::<JudgeAnswer>(&path)).await;
    seen.ok()?.ok()?.progress
}

/// How far a gate's output was shown.
#[derive(Default)]
struct GateTail {
    step: usize,
    next: u64,
}

impl GateTail {
    /// Shows what the gate or build that runs has written since the last look. Not shown is not lost: it stays in its file.
    async fn follow(&mut self, client: &Client, release: &ReleaseId, machine: &Machine, view: &mut View) {
        if !view.is_text() {
            return;
        }
        let of = match machine.step() {
            Step::Gate { .. } | Step::Smoke { .. } => format!("gate/{}", machine.at()),
            Step::Build => "build".to_owned(),
            _ => return,
        };
        if self.step != machine.at() {
            *self = GateTail { step: machine.at(), next: 0 };
        }
        loop {
            let path = format!("/v1/releases/{release}/{of}?from={}", self.next);
            match client.get::<GateAnswer>(&path).await {
                Ok(answer) if answer.next > self.next => {
                    self.next = answer.next;
                    view.output(&answer.text);
                }
                _ => return,
            }
        }
    }
}

/// Returns where the load test of the release is; nothing where none runs, or it cannot be seen.
async fn load(client: &Client, release: &ReleaseId) -> Option<LoadProgress> {
    let path = format!("/v1/releases/{release}/load");
    let seen = tokio::time::timeout(std::time::Duration::from_secs(1), client.get::<LoadAnswer>(&path)).await;
    seen.ok()?.ok()?.progress
}

/// Returns how traffic is split right now; nothing where that cannot be seen, the live line is no place for errors.
async fn split(client: &Client, machine: &Machine) -> Vec<TrackView> {
    let status = client.get::<StatusAnswer>("/v1/status");
    let status = tokio::time::timeout(std::time::Duration::from_secs(1), status).await;
    let services = status.ok().and_then(Result::ok).map(|status| status.services).unwrap_or_default();
    let ours = services.into_iter().find(|status| status.service.name == machine.plan().service);
    ours.and_then(|status| status.router).map(|view| view.tracks).unwrap_or_default()
}

fn body(global: &Global, deploy: &Deploy) -> Result<DeployBody, Failure> {
    let file = release_file::read_for(global, deploy)?;
    let secrets = secrets(&file)?;
    let absolute = std::path::absolute(&global.file)
        .map_err(|error| Failure::own(format!("failed to resolve {}: {error}", global.file.display())))?;
    let base = absolute.parent().map_or_else(|| PathBuf::from("/"), PathBuf::from);
    Ok(DeployBody { file, base, secrets, by: by(), again: deploy.again, supersede: deploy.supersede })
}

/// Takes the values of the named secrets from our environment; they travel over the socket, never as arguments.
fn secrets(file: &ReleaseFile) -> Result<BTreeMap<String, Secret>, Failure> {
    let mut secrets = BTreeMap::new();
    for name in file.platform.secrets().into_iter().chain(file.metric_secrets()) {
        let value = std::env::var(name).map_err(|_| {
            Failure::new(exit::USAGE, format!("the secret {name} is not set in this environment"))
                .hint(format!("set it for this command: {name}=… cutover deploy"))
        })?;
        secrets.insert(name.to_string(), Secret::new(value));
    }
    for name in file.metric_variables() {
        secrets.extend(std::env::var(name).ok().map(|value| ((*name).to_string(), Secret::new(value))));
    }
    Ok(secrets)
}

/// Who asks: the user, and the CI job where there is one.
pub(super) fn by() -> String {
    let user = std::env::var("USER").ok().filter(|user| !user.is_empty());
    let user = user.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()));
    if std::env::var_os("CI").is_some() { format!("{user} (CI)") } else { user }
}
