//! Wires the rooms together and serves until told to stop.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::Duration;

use cutover_checks::NetworkChecker;
use cutover_engine::{Engine, EngineOptions, Store};
use cutover_local::{LocalPlatform, Options as LocalOptions};
use cutover_ports::Edges;
use cutover_proxy_router::ProxyRouter;
use cutover_sources::{OwnSources, Sources};
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use super::lock::ServerLock;
use super::metrics::{CountedChecker, Metrics};
use super::{api, place, proxy};
use crate::failure::Failure;
use crate::state::StateDir;

/// How long a server that was told to stop may take.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// Everything that a request to the server may need.
pub(crate) struct Context {
    pub(crate) engine: Arc<Engine>,
    pub(crate) edges: Edges,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) state: StateDir,
    pub(crate) pin_key: String,
    /// The cgroup that the server shares with whoever started it.
    pub(crate) shared_cgroup: Option<String>,
}

/// Runs the server of `state` until SIGTERM or SIGINT. Stopping it changes no traffic. The proxy is started where none
/// runs, unless that is not this server's to do: then it is waited for.
pub(crate) async fn run(state: StateDir, own_proxy: bool) -> Result<(), Failure> {
    state.create()?;
    let _lock = ServerLock::take(&state)?;
    let place = place::settle(&state, "server")?;
    if let Some(group) = &place.shared {
        warn!(%group, "the server shares its starter's cgroup, and ends with it");
    }
    let store = Store::open(&state.journal()).await?;
    #[cfg(debug_assertions)]
    let store = super::failpoint::wrap(store);
    if own_proxy {
        proxy::ensure(&state).await?;
    } else {
        proxy::wait(&state).await?;
    }
    let pin_key = pin_key(&state)?;
    let options = LocalOptions {
        cgroups: place.cgroups,
        shared_cgroup: place.shared.clone(),
        ..LocalOptions::default()
    };
    let platform = Arc::new(LocalPlatform::open(state.path().to_path_buf(), options).await?);
    let router = Arc::new(ProxyRouter::new(&state.proxy(), pin_key.clone()));
    #[cfg(feature = "docker")]
    let places = super::hosts::Places::open(&state, &pin_key, router).await?;
    #[cfg(feature = "docker")]
    let platform = Arc::new(super::platforms::Platforms::open(&state, platform, places.clone()).await);
    #[cfg(feature = "docker")]
    let router = Arc::new(super::routers::Routers(places));
    let metrics = Metrics::new();
    let edges = Edges {
        platform,
        router,
        checker: Arc::new(CountedChecker {
            within: Arc::new(NetworkChecker::new()),
            metrics: metrics.clone(),
        }),
    };
    // The lock on the state folder proves that no other server drives what its journal says.
    let options = EngineOptions {
        sole: true,
        gate_logs: state.path().join("gates"),
        sources: sources(),
        witness: metrics.clone(),
        ..EngineOptions::new(owner())
    };
    #[cfg(debug_assertions)]
    let options = EngineOptions { clock: super::failpoint::clock(), ..options };
    let engine = Engine::open(store, edges.clone(), options).await?;
    let shared_cgroup = place.shared;
    let context = Arc::new(Context {
        engine: engine.clone(),
        edges,
        metrics,
        state: state.clone(),
        pin_key,
        shared_cgroup,
    });
    let listener = bind(&state)?;
    let recovered = engine.recover().await?;
    info!(state = %state.path().display(), releases = recovered.len(), "server ready");
    let keeper = own_proxy.then(|| tokio::spawn(keep_proxy(state.clone())));
    let stopped = api::serve(listener, context.clone(), shutdown_signal()?).await;
    keeper.iter().for_each(tokio::task::JoinHandle::abort);
    engine.shutdown().await;
    drop(fs::remove_file(state.server_socket()));
    info!("server stopped; traffic goes on");
    stopped
}

/// What can be asked beside the proxy: what is in this build.
fn sources() -> Arc<dyn Sources> {
    #[cfg(feature = "aws")]
    return Arc::new(cutover_aws::AwsSources::beside(OwnSources));
    #[cfg(not(feature = "aws"))]
    Arc::new(OwnSources)
}

/// A holder that died leaves its worker serving alone: a new one takes the listeners over.
async fn keep_proxy(state: StateDir) {
    let mut foreign = false;
    loop {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let holder = match cutover_proxy::Client::connect(state.proxy()).await {
            Ok(client) => client.hello().await.ok().and_then(|hello| hello.holder_pid),
            // Somebody put another version in its place, which has the traffic now: it is not ours to replace.
            Err(error) if *error.kind() == cutover_proxy::ErrorKind::Protocol => {
                if !foreign {
                    error!(why = %error, "the proxy cannot be talked to");
                }
                foreign = true;
                continue;
            }
            Err(_) => None,
        };
        foreign = false;
        if holder.is_none()
            && let Err(failure) = proxy::restart(&state).await
        {
            warn!(why = %failure, "the proxy's holder could not be started");
        }
    }
}

/// Tells the server of `state` to stop, and waits until it has.
pub(crate) async fn stop(state: &StateDir) -> Result<bool, Failure> {
    let Some(pid) = ServerLock::owner(state).and_then(Pid::from_raw) else { return Ok(false) };
    kill_process(pid, Signal::TERM)
        .map_err(|error| Failure::own(format!("failed to stop the server (pid {pid}): {error}")))?;
    let begun = std::time::Instant::now();
    while ServerLock::owner(state).is_some() {
        if begun.elapsed() > STOP_LIMIT {
            return Err(Failure::own(format!("the server (pid {pid}) did not stop within {STOP_LIMIT:?}"))
                .hint(format!("its log: {}", state.server_log().display())));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    place::tidy_after(state, pid).await;
    Ok(true)
}

fn bind(state: &StateDir) -> Result<UnixListener, Failure> {
    let path = state.server_socket();
    // We hold the lock: whatever lies here belongs to a server that is gone.
    drop(fs::remove_file(&path));
    UnixListener::bind(&path).map_err(|error| {
        Failure::own(format!("failed to open the server's socket {}: {error}", path.display()))
    })
}

fn shutdown_signal() -> Result<impl Future<Output = ()> + Send + 'static, Failure> {
    let failed = |error: std::io::Error| Failure::own(format!("failed to listen to signals: {error}"));
    let mut term = signal(SignalKind::terminate()).map_err(failed)?;
    let mut int = signal(SignalKind::interrupt()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}

/// The key that signs headers which pin a revision: made once, readable by this user alone.
fn pin_key(state: &StateDir) -> Result<String, Failure> {
    let path = state.path().join("pin.key");
    let failed = |error: std::io::Error| Failure::own(format!("failed to make {}: {error}", path.display()));
    match fs::read_to_string(&path) {
        Ok(key) if key.trim().len() >= 32 => return Ok(key.trim().to_string()),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let mut bytes = [0_u8; 32];
    std::io::Read::read_exact(&mut fs::File::open("/dev/urandom").map_err(failed)?, &mut bytes)
        .map_err(failed)?;
    let key: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut file = fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    file.write_all(key.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    Ok(key)
}

fn owner() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host}, server pid {}", std::process::id())
}
