//! cutover-bench: the test service as a program, and the benchmarks. People call `bench/run`.

mod benches;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cutover-bench", version, about, arg_required_else_help = true)]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run the test service on $PORT
    Service,
    /// Run a benchmark; its last line is its result as JSON
    Bench {
        /// Which
        name: benches::Name,
        /// Under 60 seconds
        #[arg(long)]
        quick: bool,
        /// The cutover to measure; by default the one beside this program
        #[arg(long, value_name = "PATH")]
        cutover: Option<PathBuf>,
        /// The repository: peers' configurations are read from it
        #[arg(long, value_name = "DIR", default_value = ".")]
        repository: PathBuf,
    },
    /// Echo standard input byte by byte: the other end of the pipe that shifts are compared to
    #[command(hide = true)]
    PipeEcho,
    /// The server behind the proxies that are measured: one answer to all
    #[command(hide = true)]
    Origin { body: usize },
    /// The same for streams of HTTP/2 and calls of gRPC
    #[command(hide = true)]
    OriginH2,
    /// A server that answers nothing for so long
    #[command(hide = true)]
    Stall { seconds: u64 },
    /// A server that works on so many requests at once, each for so long
    #[command(hide = true)]
    Worker { at_once: usize, ms: u64 },
    /// Sends load as a load test does, and prints how many requests were answered
    #[command(hide = true)]
    Load {
        target: std::net::SocketAddr,
        path: String,
        clients: usize,
        seconds: u64,
        #[arg(long)]
        rate: Option<u64>,
        #[arg(long)]
        http2: bool,
    },
    /// The relay that proxies are compared to
    #[command(hide = true)]
    Copy { target: std::net::SocketAddr },
    /// The relay that is nothing but hyper
    #[command(hide = true)]
    Relay { target: std::net::SocketAddr },
}

fn main() -> ExitCode {
    let done = match Args::parse().verb {
        Verb::Service => cutover_bench::service::run().map_err(anyhow::Error::from),
        Verb::Bench { name, quick, cutover, repository } => {
            benches::run(name, &benches::Setting { quick, cutover, repository }).map(|()| 0)
        }
        Verb::Origin { body } => benches::origin(body).map(|()| 0),
        Verb::OriginH2 => benches::origin_h2().map(|()| 0),
        Verb::Stall { seconds } => benches::stall(seconds).map(|()| 0),
        Verb::Worker { at_once, ms } => {
            benches::worker(at_once, std::time::Duration::from_millis(ms)).map(|()| 0)
        }
        Verb::Load { target, path, clients, seconds, rate, http2 } => {
            benches::load(target, &path, clients, seconds, rate, http2).map(|()| 0)
        }
        Verb::Copy { target } => benches::copy(target).map(|()| 0),
        Verb::Relay { target } => benches::relay(target).map(|()| 0),
        Verb::PipeEcho => benches::pipe_echo().map(|()| 0).map_err(anyhow::Error::from),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
