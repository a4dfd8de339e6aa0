//! The verbs that ask or say one thing.

use std::path::Path;

use clap::CommandFactory;
use cutover_core::machine::HoldReason;
use cutover_core::text::{Report, elapsed, story_text};
use cutover_core::{Command, HoldDefault, InstanceId, Mode, ReleaseId, Span};
use cutover_ports::{InstanceState, ObservedInstance, ObservedWorker};

use super::args::{Args, Global, Then};
use super::deploy::by;
use super::file::service as named;
use super::view::print;
use crate::exit;
use crate::failure::Failure;
use crate::server::Client;
use crate::server::install::{self, Starter};
use crate::server::protocol::{
    CommandBody, HistoryAnswer, LogsAnswer, RecordsAnswer, ServiceStatus, StatusAnswer,
};

async fn connect(global: &Global) -> Result<Client, Failure> {
    let state = global.state_dir()?;
    // Where there is a journal there is something to tell, and perhaps a release to finish: a server that was
    // killed is replaced by whoever asks next.
    if state.journal().exists() {
        return Client::connect_or_start(&state).await;
    }
    Client::connect(&state).await?.ok_or_else(|| {
        Failure::new(exit::USAGE, format!("nothing was ever released from {}", state.path().display()))
            .hint("release something: cutover deploy; or name another state folder with --state DIR")
    })
}

/// Says a command to the release that holds the service.
pub(super) async fn say(global: &Global, service: Option<String>, command: Command) -> Result<u8, Failure> {
    let service = named(global, service)?;
    let client = connect(global).await?;
    let name = command.name();
    let release: ReleaseId = client.post("/v1/command", &CommandBody { service, command, by: by() }).await?;
    if global.json() {
        print(&serde_json::json!({ "release": release, "command": name }).to_string());
    } else {
        print(&format!("{name}: {release}; follow it with: cutover show {release}"));
    }
    Ok(exit::OK)
}

/// `cutover pause`.
pub(super) async fn pause(
    global: &Global,
    service: Option<String>,
    span: &str,
    then: Then,
) -> Result<u8, Failure> {
    let span: Span = span.parse().map_err(|error| Failure::new(exit::USAGE, format!("--for: {error}")))?;
    let then = match then {
        Then::Resume => HoldDefault::Resume,
        Then::Abort => HoldDefault::Abort,
    };
    say(global, service, Command::Pause { span, then }).await
}

/// `cutover status`.
pub(super) async fn status(global: &Global, service: Option<String>) -> Result<u8, Failure> {
    let client = connect(global).await?;
    let mut answer: StatusAnswer = client.get("/v1/status").await?;
    if let Some(service) = &service {
        answer.services.retain(|status| status.service.name.as_str() == service);
        if answer.services.is_empty() {
            return Err(Failure::new(exit::REFUSED, format!("there is no service \"{service}\""))
                .hint("see all of them: cutover status"));
        }
    }
    if global.json() {
        print(&serde_json::json!(answer).to_string());
        return Ok(exit::OK);
    }
    let server = &answer.server;
    print(&format!(
        "server pid {}, cutover {}, state {}",
        server.pid,
        server.version,
        server.state.display()
    ));
    if let Some(group) = &server.shared_cgroup {
        print(&format!("note: {}", crate::server::cgroup_warning(group)));
    }
    for status in &answer.services {
        print(&status_text(status));
    }
    if answer.services.is_empty() {
        print("no service yet: cutover deploy");
    }
    Ok(exit::OK)
}

fn status_text(status: &ServiceStatus) -> String {
    let ServiceStatus { service, router, revisions, notes } = status;
    let mut text = format!("\n{}", service.name);
    let stable = service.stable.as_ref();
    for track in router.iter().flat_map(|view| &view.tracks) {
        let role = if Some(&track.revision) == stable {
            "stable"
        } else if service.current.as_ref().is_some_and(|current| current.candidate == track.revision) {
            "candidate"
        } else {
            "previous"
        };
        text += &format!(
            "\n  {role:<9} {}  weight {:<6} in flight {:<4} requests {}, failed {}",
            track.revision,
            track.weight.to_string(),
            track.in_flight,
            cutover_core::text::count(track.requests),
            cutover_core::text::count(track.failed)
        );
    }
    for seen in revisions {
        for instance in &seen.instances {
            let ObservedInstance { id, address, pid, state, restarts, why, .. } = instance;
            text += &instance_text(id, &address.to_string(), (*state, *pid), *restarts, why);
        }
        for process in &seen.processes {
            for worker in &process.instances {
                let ObservedWorker { id, pid, state, restarts, why, .. } = worker;
                text += &instance_text(id, process.name.as_str(), (*state, *pid), *restarts, why);
            }
        }
    }
    if let Some(current) = &service.current {
        let (release, step, owner) = (&current.release, &current.step, &current.owner);
        let mode = mode_text(&current.mode);
        text += &format!("\n  release   {release} by {}: at {step}{mode} (driven by {owner})", current.by);
    }
    for tail in &service.tails {
        let left = tail.warm_left_ms.map(|ms| format!(", {} left", elapsed(ms))).unwrap_or_default();
        text += &format!("\n  tail      {}: {}{left}", tail.release, tail.step);
    }
    for note in router.iter().flat_map(|view| &view.notes).chain(notes) {
        text += &format!("\n  note: {note}");
    }
    if let Some(previous) = &service.previous {
        let how = if service.previous_warm {
            "warm: a rollback is a weight change"
        } else {
            "a rollback starts it again"
        };
        text += &format!("\n  previous  {} ({how}): cutover rollback {}", previous, service.name);
    }
    text
}

/// One row: `place` is where requests reach it, or the process that it is.
fn instance_text(
    id: &InstanceId,
    place: &str,
    (state, pid): (InstanceState, Option<u32>),
    restarts: u32,
    why: &str,
) -> String {
    let state = match state {
        InstanceState::Running => "running",
        InstanceState::Restarting => "restarting",
        InstanceState::CrashLoop => "crash loop",
        InstanceState::Stopping => "stopping",
    };
    let pid = pid.map(|pid| format!("pid {pid}")).unwrap_or_default();
    let mut text = format!("\n  {id:<24} {place:<21} {state:<10} {pid}");
    if restarts > 0 || !why.is_empty() {
        text += &format!("  {restarts} restarts {why}");
    }
    text
}

fn mode_text(mode: &Mode) -> String {
    match mode {
        Mode::Forward | Mode::Ended { .. } => String::new(),
        Mode::Held(hold) => match &hold.why {
            HoldReason::Paused { by } => {
                format!(", paused by {by}, then {}: cutover resume, cutover abort", hold.then)
            }
            HoldReason::Approval { point } => {
                format!(", waits for approval ({}): cutover approve, cutover abort", point.name())
            }
            HoldReason::Inconclusive => ", held without a verdict: cutover resume, cutover abort".into(),
            HoldReason::Unmeasured { what } => {
                format!(", held, not measured ({what}): cutover resume goes on without it, cutover abort")
            }
        },
        Mode::Back(back) => match &back.stuck {
            Some(fault) => format!(", going back NEEDS A PERSON: {}", fault.what),
            None => format!(", going back: {}", back.why),
        },
    }
}

/// `cutover history`.
pub(super) async fn history(global: &Global, service: Option<String>, limit: u32) -> Result<u8, Failure> {
    let client = connect(global).await?;
    let query = service.map(|service| format!("&service={service}")).unwrap_or_default();
    let answer: HistoryAnswer = client.get(&format!("/v1/history?limit={limit}{query}")).await?;
    if global.json() {
        print(&serde_json::json!(answer).to_string());
        return Ok(exit::OK);
    }
    if answer.releases.is_empty() {
        print("no release yet: cutover deploy");
    }
    for release in &answer.releases {
        let took = release.took_ms.map(elapsed).unwrap_or_default();
        let line = format!(
            "{:<16} {:<20} {:<16} {:<12} {took:>8}  by {}{}  {}",
            release.release.as_str(),
            utc(release.opened_wall_ms),
            release.candidate.as_str(),
            release.outcome,
            release.by,
            release.environment.as_ref().map(|name| format!(" for {name}")).unwrap_or_default(),
            release.why
        );
        print(line.trim_end());
    }
    Ok(exit::OK)
}

/// `cutover show`.
pub(super) async fn show(global: &Global, release: &str, junit: Option<&Path>) -> Result<u8, Failure> {
    let client = connect(global).await?;
    let answer: RecordsAnswer = client.get(&format!("/v1/releases/{release}/records")).await?;
    let report = Report::of(&answer.records);
    if let (Some(path), Some(report)) = (junit, &report) {
        let text = cutover_core::text::junit(report);
        if path == Path::new("-") {
            print(text.trim_end());
            return Ok(exit::OK);
        }
        std::fs::write(path, text)
            .map_err(|error| Failure::new(exit::USAGE, format!("write {}: {error}", path.display())))?;
    }
    if global.json() {
        for record in &answer.records {
            print(&serde_json::json!(record).to_string());
        }
        return Ok(exit::OK);
    }
    if let Some(first) = answer.records.first() {
        print(&format!("{release}, begun {}", utc(first.wall_ms)));
    }
    print(story_text(&answer.records).trim_end());
    if let Some(report) = report {
        print(&report.to_string());
    }
    Ok(exit::OK)
}

/// `cutover show RELEASE --verdict`.
pub(super) async fn rejudge(global: &Global, release: &str) -> Result<u8, Failure> {
    let client = connect(global).await?;
    let answer: RecordsAnswer = client.get(&format!("/v1/releases/{release}/records")).await?;
    let Some(rejudged) = cutover_core::text::rejudge(&answer.records) else {
        let why = format!(
            "the journal of {release} has no account of a judge: nothing was compared, or it is not over"
        );
        return Err(Failure::new(exit::FAILED, why).hint(format!("see what decided: cutover show {release}")));
    };
    if global.json() {
        let differences = &rejudged.differences;
        print(&serde_json::json!({ "text": rejudged.text, "differences": differences }).to_string());
    } else {
        print(rejudged.text.trim_end());
    }
    Ok(if rejudged.differences.is_empty() { exit::OK } else { exit::FAILED })
}

/// `cutover logs`.
pub(super) async fn logs(
    global: &Global,
    service: Option<String>,
    revision: Option<String>,
    lines: usize,
) -> Result<u8, Failure> {
    let service = named(global, service)?;
    let client = connect(global).await?;
    let revision = revision.map(|revision| format!("&revision={revision}")).unwrap_or_default();
    let answer: LogsAnswer =
        client.get(&format!("/v1/services/{service}/logs?lines={lines}{revision}")).await?;
    if global.json() {
        print(&serde_json::json!(answer).to_string());
        return Ok(exit::OK);
    }
    for (revision, instance, log) in &answer.instances {
        for line in log {
            print(&format!("{revision} {instance} | {line}"));
        }
    }
    Ok(exit::OK)
}

/// `cutover destroy`.
pub(super) async fn destroy(global: &Global, service: Option<String>, yes: bool) -> Result<u8, Failure> {
    let service = named(global, service)?;
    if !yes {
        return Err(Failure::new(
            exit::USAGE,
            format!("this takes {service} off the air: its route and its instances"),
        )
        .hint(format!("if that is what you want: cutover destroy {service} --yes")));
    }
    let client = connect(global).await?;
    let () = client.post(&format!("/v1/services/{service}/destroy"), &()).await?;
    print(&format!("{service} is off this machine; its journal stays: cutover history {service}"));
    Ok(exit::OK)
}

/// `cutover server stop`.
pub(super) async fn stop_server(global: &Global) -> Result<u8, Failure> {
    let stopped = crate::server::stop(&global.state_dir()?).await?;
    print(if stopped { "the server stopped; traffic goes on" } else { "no server was running" });
    Ok(exit::OK)
}

/// `cutover server metrics`.
pub(super) async fn server_metrics(global: &Global) -> Result<u8, Failure> {
    let client = Client::connect(&global.state_dir()?).await?;
    let client =
        client.ok_or_else(|| Failure::own("no server runs").hint("start one with: cutover server"))?;
    print(client.metrics().await?.trim_end());
    Ok(exit::OK)
}

/// `cutover server install`.
pub(super) fn install_server(
    global: &Global,
    user: bool,
    cron: bool,
    just_print: bool,
) -> Result<u8, Failure> {
    let state = global.state_dir()?;
    let starter = match (user, cron) {
        (true, _) => Starter::User,
        (_, true) => Starter::Cron,
        // What has to be started can be shown anywhere.
        _ => {
            Starter::find().or_else(|failure| if just_print { Ok(Starter::System) } else { Err(failure) })?
        }
    };
    print(&if just_print { install::printed(&state, starter)? } else { install::install(&state, starter)? });
    Ok(exit::OK)
}

/// `cutover server uninstall`.
pub(super) fn uninstall_server(global: &Global) -> Result<u8, Failure> {
    print(&install::uninstall(&global.state_dir()?)?);
    Ok(exit::OK)
}

/// `cutover proxy back`.
pub(super) async fn proxy_back(global: &Global, service: &str) -> Result<u8, Failure> {
    let client = proxy(global).await?;
    client
        .back(service, &format!("taken back by {}", by()))
        .await
        .map_err(|error| crate::server::proxy_failure(&error))?;
    print(&format!("the candidate of {service} has no traffic any more"));
    Ok(exit::OK)
}

/// `cutover proxy status`.
pub(super) async fn proxy_status(global: &Global) -> Result<u8, Failure> {
    let client = proxy(global).await?;
    let failed = |error| crate::server::proxy_failure(&error);
    let (hello, seen) = (client.hello().await.map_err(failed)?, client.observe().await.map_err(failed)?);
    print(&if global.json() {
        serde_json::json!({ "proxy": hello, "observed": seen }).to_string()
    } else {
        super::proxy_status::now(&hello, &seen).trim_end().to_owned()
    });
    Ok(exit::OK)
}

/// `cutover proxy metrics`.
pub(super) async fn proxy_metrics(global: &Global) -> Result<u8, Failure> {
    let seen = proxy(global).await?.observe().await;
    print(seen.map_err(|error| crate::server::proxy_failure(&error))?.prometheus().trim_end());
    Ok(exit::OK)
}

/// `cutover proxy stop`.
pub(super) async fn stop_proxy(global: &Global) -> Result<u8, Failure> {
    let state = global.state_dir()?;
    if let Some(pid) = crate::server::owner(&state) {
        return Err(Failure::new(exit::USAGE, format!("the server (pid {pid}) would start the proxy again"))
            .hint("stop it first: cutover server stop"));
    }
    crate::server::stop_proxy(&state).await?;
    print("the proxy stopped; its addresses are closed");
    Ok(exit::OK)
}

pub(super) async fn proxy(global: &Global) -> Result<cutover_proxy::Client, Failure> {
    let state = global.state_dir()?;
    cutover_proxy::Client::connect(state.proxy()).await.map_err(|error| crate::server::proxy_failure(&error))
}

/// `cutover completions`.
pub(super) fn completions(shell: clap_complete::Shell) -> Result<u8, Failure> {
    clap_complete::generate(shell, &mut Args::command(), "cutover", &mut std::io::stdout());
    Ok(exit::OK)
}

/// `cutover schema`.
#[cfg(feature = "schema")]
pub(super) fn schema(markdown: bool) -> Result<u8, Failure> {
    if markdown {
        print(cutover_core::file::release_file_reference().trim_end());
        return Ok(exit::OK);
    }
    let text = serde_json::to_string_pretty(&cutover_core::file::release_file_schema())
        .map_err(|error| Failure::own(format!("failed to print the schema: {error}")))?;
    print(&text);
    Ok(exit::OK)
}

/// Prints wall-clock milliseconds as UTC: `2026-11-24 03:05:09`.
fn utc(wall_ms: u64) -> String {
    let seconds = wall_ms / 1000;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days since 1970 to a civil date, by eras of 400 years that begin in March.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02}:{:02}", rest / 3600, rest % 3600 / 60, rest % 60)
}

#[cfg(test)]
mod tests {
    #[test]
    fn wall_time_prints_as_a_date() {
        assert_eq!(super::utc(0), "1970-01-01 00:00:00");
        assert_eq!(super::utc(951_827_696_000), "2000-02-29 12:34:56");
        assert_eq!(super::utc(1_795_478_400_000), "2026-11-24 00:00:00");
    }
}
