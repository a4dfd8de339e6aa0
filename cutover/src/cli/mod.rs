//! The command line: reads arguments, runs one verb, prints, returns the exit code.

mod args;
mod commands;
mod deploy;
mod file;
mod host;
mod import;
mod init;
mod proxy_status;
mod rehearse;
mod traffic;
mod view;

use clap::Parser;
use clap::error::ErrorKind;

use self::view::print;
use crate::exit;
use crate::failure::Failure;
use args::{Args, HostVerb, Output, ProxyVerb, ServerVerb, Verb};

/// Runs the command line and returns its exit code.
pub(crate) fn main() -> u8 {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => exit::OK,
                _ => exit::USAGE,
            };
        }
    };
    let json = args.global.output == Output::Json;
    match run(args) {
        Ok(code) => code,
        Err(failure) => {
            if json {
                print(&serde_json::json!({ "error": failure }).to_string());
            }
            eprintln!("error: {failure}");
            failure.exit
        }
    }
}

fn run(args: Args) -> Result<u8, Failure> {
    match args.verb {
        // These are processes of their own kind: they build their own runtimes, or need none.
        Verb::Proxy { verb: Some(ProxyVerb::Worker { dir }), .. } => {
            log_to_stderr();
            crate::server::run_worker(&dir)?;
            Ok(exit::OK)
        }
        Verb::Proxy { verb: None, ref listen, background } => {
            leave_terminal(background);
            log_to_stderr();
            crate::server::run_holder(&args.global.state_dir()?, listen.clone())?;
            Ok(exit::OK)
        }
        Verb::Host { verb: HostVerb::Check { host } } => host::check(&host).map(|()| exit::OK),
        Verb::Host { verb: HostVerb::Prepare { host, yes } } => host::prepare(&host, yes).map(|()| exit::OK),
        Verb::DemoService => crate::demo::service(),
        Verb::Completions { shell } => commands::completions(shell),
        Verb::Init { force } => init::init(&args.global, force),
        Verb::Import { from, out, service, force } => {
            import::import(&args.global, &import::Wanted { from, out, service, force })
        }
        #[cfg(feature = "schema")]
        Verb::Schema { markdown } => commands::schema(markdown),
        verb => runtime()?.block_on(run_async(verb, &args.global)),
    }
}

async fn run_async(verb: Verb, global: &args::Global) -> Result<u8, Failure> {
    match verb {
        Verb::Demo { keep } => crate::demo::run(global.output == Output::Json, keep).await,
        Verb::Check => file::check(global),
        Verb::Plan(deploy) => deploy::plan(global, &deploy).await,
        Verb::Rehearse => rehearse::run(global).await,
        Verb::Deploy(deploy) => deploy::deploy(global, &deploy).await,
        Verb::Rollback { service, detach } => deploy::rollback(global, service, detach).await,
        Verb::Status { service } => commands::status(global, service).await,
        Verb::History { service, limit } => commands::history(global, service, limit).await,
        Verb::Show { release, verdict: true, .. } => commands::rejudge(global, &release).await,
        Verb::Show { release, junit, .. } => commands::show(global, &release, junit.as_deref()).await,
        Verb::Logs { service, revision, lines } => commands::logs(global, service, revision, lines).await,
        Verb::Pause { service, span, then } => commands::pause(global, service, &span, then).await,
        Verb::Resume { service } => commands::say(global, service, cutover_core::Command::Resume).await,
        Verb::Approve { service } => commands::say(global, service, cutover_core::Command::Approve).await,
        Verb::Advance { service } => commands::say(global, service, cutover_core::Command::Advance).await,
        Verb::Promote { service } => commands::say(global, service, cutover_core::Command::Promote).await,
        Verb::Abort { service } => commands::say(global, service, cutover_core::Command::Abort).await,
        Verb::Destroy { service, yes } => commands::destroy(global, service, yes).await,
        Verb::Server { verb: Some(ServerVerb::Stop), .. } => commands::stop_server(global).await,
        Verb::Server { verb: Some(ServerVerb::Metrics), .. } => commands::server_metrics(global).await,
        Verb::Server { verb: Some(ServerVerb::Install { user, cron, print }), .. } => {
            commands::install_server(global, user, cron, print)
        }
        Verb::Server { verb: Some(ServerVerb::Uninstall), .. } => commands::uninstall_server(global),
        Verb::Server { verb: None, background, no_proxy } => {
            leave_terminal(background);
            log_to_stderr();
            crate::server::run(global.state_dir()?, !no_proxy).await?;
            Ok(exit::OK)
        }
        Verb::Traffic { verb } => traffic::traffic(global, verb).await,
        Verb::Proxy { verb: Some(ProxyVerb::Back { service }), .. } => {
            commands::proxy_back(global, &service).await
        }
        Verb::Proxy { verb: Some(ProxyVerb::Status), .. } => commands::proxy_status(global).await,
        Verb::Proxy { verb: Some(ProxyVerb::Metrics), .. } => commands::proxy_metrics(global).await,
        Verb::Proxy { verb: Some(ProxyVerb::Stop), .. } => commands::stop_proxy(global).await,
        // Handled before a runtime was built.
        Verb::Proxy { .. }
        | Verb::Host { .. }
        | Verb::DemoService
        | Verb::Completions { .. }
        | Verb::Init { .. }
        | Verb::Import { .. } => Ok(exit::USAGE),
        #[cfg(feature = "schema")]
        Verb::Schema { .. } => Ok(exit::USAGE),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::own(format!("failed to start: {error}")))
}

/// A process that shall outlive its terminal needs a session of its own: Ctrl-C and a hang-up end at its edge.
fn leave_terminal(background: bool) {
    if background {
        let _ = rustix::process::setsid();
    }
}

fn log_to_stderr() {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).with_target(false).init();
}
