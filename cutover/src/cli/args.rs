//! Verbs and options (design §7).

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use crate::failure::Failure;
use crate::state::StateDir;

/// Releases a new revision of a service so that no request fails, and takes it back when it is worse.
#[derive(Parser)]
#[command(name = "cutover", version, arg_required_else_help = true)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) verb: Verb,
}

#[derive(clap::Args, Clone)]
pub(super) struct Global {
    /// The release file
    #[arg(short = 'f', long = "file", global = true, default_value = "cutover.yaml", value_name = "FILE")]
    pub(super) file: PathBuf,
    /// The environment of the release file
    #[arg(long = "env", global = true, value_name = "ENVIRONMENT")]
    pub(super) env: Option<String>,
    /// The state folder; by default $CUTOVER_STATE, else the user's state folder
    #[arg(long, global = true, value_name = "DIR")]
    pub(super) state: Option<PathBuf>,
    /// How to print
    #[arg(long, global = true, value_enum, default_value_t = Output::Text)]
    pub(super) output: Output,
}

impl Global {
    pub(super) fn state_dir(&self) -> Result<StateDir, Failure> {
        StateDir::find(self.state.as_deref())
    }

    pub(super) fn json(&self) -> bool {
        self.output == Output::Json
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For people
    Text,
    /// For programs: JSON lines
    Json,
}

#[derive(clap::Args, Clone)]
pub(super) struct Deploy {
    /// Release the revision even if it was just rolled back
    #[arg(long)]
    pub(super) again: bool,
    /// Abort the release that holds the service, then release
    #[arg(long)]
    pub(super) supersede: bool,
    /// Return once the release began; it goes on in the server
    #[arg(long)]
    pub(super) detach: bool,
    /// Another artifact than the release file names
    #[arg(long, value_name = "PATH")]
    pub(super) artifact: Option<String>,
    /// Another image than the release file names, or instead of the one that it builds
    #[arg(long, value_name = "IMAGE", conflicts_with = "artifact")]
    pub(super) image: Option<String>,
}

#[derive(Subcommand)]
pub(super) enum Verb {
    /// A whole story on this machine: four releases under load, two of them bad; no files needed
    Demo {
        /// Leave the scratch folder, the server and the services for a look around
        #[arg(long)]
        keep: bool,
    },
    /// Write a release file from what is in the folder: Procfile, Cargo.toml, package.json, Dockerfile and others
    Init {
        /// Overwrite the release file that is there
        #[arg(long)]
        force: bool,
    },
    /// Write a release file from another tool's, a compose file or Kamal's deploy.yml, and say what became of each key
    Import {
        /// The file of the other tool
        #[arg(value_name = "FILE")]
        from: PathBuf,
        /// Where to write; the release file by default, `-` is standard output
        #[arg(short = 'o', long = "out", value_name = "FILE")]
        out: Option<PathBuf>,
        /// The service of a compose file to release, where several can be meant
        #[arg(long)]
        service: Option<String>,
        /// Overwrite the release file that is there
        #[arg(long)]
        force: bool,
    },
    /// Validate the release file: its base and its environments
    Check,
    /// Show every step with its way back, its time, and what is not free of downtime
    Plan(Deploy),
    /// Simulate the release with every failure at every step, and say the worst cases; nothing runs
    Rehearse,
    /// Release
    Deploy(Deploy),
    /// Return to the predecessor
    Rollback {
        /// The service; by default the release file's
        service: Option<String>,
        /// Return once the rollback began
        #[arg(long)]
        detach: bool,
    },
    /// What runs, what takes traffic, what is under way
    Status {
        /// Only this service
        service: Option<String>,
    },
    /// Past releases
    History {
        /// Only this service
        service: Option<String>,
        /// How many
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
    /// The whole story of a release, from its journal
    Show {
        /// The release, such as shop-7
        release: String,
        /// Compute its verdicts again from what the judge counted, and say if the journal differs (exit code 1)
        #[arg(long)]
        verdict: bool,
        /// Write its gates, health checks and smoke tests as JUnit XML; `-`: to standard output, and nothing else
        #[arg(long, value_name = "FILE", conflicts_with = "verdict")]
        junit: Option<PathBuf>,
    },
    /// The last lines of the instances
    Logs {
        /// The service; by default the release file's
        service: Option<String>,
        /// Only this revision, running or not
        #[arg(long)]
        revision: Option<String>,
        /// How many lines of each instance
        #[arg(short = 'n', long, default_value_t = 50)]
        lines: usize,
    },
    /// Stop going forward for a while
    Pause {
        /// The service; by default the release file's
        service: Option<String>,
        /// How long at most
        #[arg(long = "for", default_value = "30m", value_name = "TIME")]
        span: String,
        /// What happens then
        #[arg(long, value_enum, default_value_t = Then::Abort)]
        then: Then,
    },
    /// Go on after a pause or an inconclusive verdict
    Resume {
        /// The service; by default the release file's
        service: Option<String>,
    },
    /// Answer the approval that is asked for
    Approve {
        /// The service; by default the release file's
        service: Option<String>,
    },
    /// End the current bake, go to the next weight
    Advance {
        /// The service; by default the release file's
        service: Option<String>,
    },
    /// Skip the remaining weights and bakes
    Promote {
        /// The service; by default the release file's
        service: Option<String>,
    },
    /// Stop the release and go back
    Abort {
        /// The service; by default the release file's
        service: Option<String>,
    },
    /// Take a service off the machine: route and instances; its journal stays
    Destroy {
        /// The service; by default the release file's
        service: Option<String>,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Run the server: engine, local instances, socket
    Server {
        #[command(subcommand)]
        verb: Option<ServerVerb>,
        /// Wait for a proxy that something else starts, a unit of its own say, instead of starting one
        #[arg(long)]
        no_proxy: bool,
        #[arg(long, hide = true)]
        background: bool,
    },
    /// Let the requests of a service wait, flow, read a page, or pass; with no server needed
    Traffic {
        #[command(subcommand)]
        verb: super::traffic::TrafficVerb,
    },
    /// Run the proxy, or talk to it without a server
    Proxy {
        #[command(subcommand)]
        verb: Option<ProxyVerb>,
        /// Addresses to open at once, beside those of the releases
        #[arg(long, value_name = "ADDRESS")]
        listen: Vec<SocketAddr>,
        #[arg(long, hide = true)]
        background: bool,
    },
    /// Look at a host of `platform.docker.hosts`, or install what it needs
    Host {
        #[command(subcommand)]
        verb: HostVerb,
    },
    /// The JSON schema of the release file
    #[cfg(feature = "schema")]
    Schema {
        /// Every key with its default and meaning, as a page for people
        #[arg(long)]
        markdown: bool,
    },
    /// A completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    #[command(hide = true)]
    DemoService,
}

#[derive(Subcommand)]
pub(super) enum ServerVerb {
    /// Stop the server; traffic goes on
    Stop,
    /// Print what the server did and does, for Prometheus
    Metrics,
    /// Let server and proxy start with the machine: systemd units, else a line of the crontab
    Install {
        /// Units of your own systemd; the default unless you are root
        #[arg(long, conflicts_with = "cron")]
        user: bool,
        /// A line of your crontab; the default without systemd
        #[arg(long)]
        cron: bool,
        /// Print what would be installed, and do nothing
        #[arg(long)]
        print: bool,
    },
    /// Take away what `install` left; what runs goes on
    Uninstall,
}

#[derive(Subcommand)]
pub(super) enum ProxyVerb {
    #[command(hide = true)]
    Worker {
        /// The holder's folder
        dir: PathBuf,
    },
    /// Take the candidate's traffic away, with no server needed
    Back {
        /// The service
        service: String,
    },
    /// What the proxy really does
    Status,
    /// What it has counted, as text for Prometheus
    Metrics,
    /// Stop the proxy: open requests finish, then its addresses close
    Stop,
}

#[derive(Subcommand)]
pub(super) enum HostVerb {
    /// Say what the host has and what is missing: connection, engine, program, proxy
    Check {
        /// The host as the release file writes it, such as `ssh://deploy@b.example`
        host: String,
    },
    /// Copy this program to the host and start its proxy; shows the commands and asks first
    Prepare {
        /// The host as the release file writes it
        host: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Then {
    /// Go on
    Resume,
    /// Go back
    Abort,
}
