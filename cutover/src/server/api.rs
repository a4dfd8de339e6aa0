//! The server's HTTP API, on a unix socket that only this user (and root) can talk to.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use cutover_core::{ReleaseId, RevisionId, ServiceName};
use cutover_engine::{DeployRequest, EngineError, Started};
use cutover_ports::LeaseSupport;
use serde::Deserialize;
use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};

use super::protocol::{
    CommandBody, DeployAnswer, DeployBody, GateAnswer, Hello, HistoryAnswer, JudgeAnswer, LoadAnswer,
    LogsAnswer, PROTOCOL, PlanAnswer, RecordsAnswer, RollbackBody, ServiceStatus, StatusAnswer,
};
use super::run::Context;
use crate::failure::Failure;

type Answer<T> = Result<Json<T>, Failure>;

/// Long polls end after this, so that a client that went away does not hold anything.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Serves until `stop`.
pub(crate) async fn serve(
    listener: UnixListener,
    context: Arc<Context>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Failure> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/v1/hello", get(hello))
        .route("/v1/plan", post(plan))
        .route("/v1/deploy", post(deploy))
        .route("/v1/rollback", post(rollback))
        .route("/v1/command", post(command))
        .route("/v1/status", get(status))
        .route("/v1/history", get(history))
        .route("/v1/releases/{release}/records", get(records))
        .route("/v1/releases/{release}/gate/{step}", get(gate))
        .route("/v1/releases/{release}/build", get(build))
        .route("/v1/releases/{release}/load", get(load))
        .route("/v1/releases/{release}/judge", get(judge))
        .route("/v1/services/{service}/logs", get(logs))
        .route("/v1/services/{service}/pin", get(pin))
        .route("/v1/services/{service}/destroy", post(destroy))
        .with_state(context);
    // A long poll must not keep a stopping server alive.
    let serving = async move { axum::serve(SameUser(listener), router).await };
    tokio::select! {
        done = serving => done.map_err(|error| Failure::own(format!("failed to serve the socket: {error}"))),
        () = stop => Ok(()),
    }
}

/// Accepts only connections of this user and of root: the folder's mode says so too, but a socket that was moved
/// or bind-mounted elsewhere would not.
struct SameUser(UnixListener);

impl axum::serve::Listener for SameUser {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (UnixStream, SocketAddr) {
        loop {
            let Ok((stream, address)) = self.0.accept().await else {
                // Out of descriptors, most likely: a moment later there may be one.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let uid = stream.peer_cred().map(|peer| peer.uid());
            if uid.is_ok_and(|uid| uid == 0 || uid == rustix::process::geteuid().as_raw()) {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (StatusCode::CONFLICT, Json(self)).into_response()
    }
}

async fn metrics(State(context): State<Arc<Context>>) -> Result<Response, Failure> {
    let page = context.metrics.scrape(&context).await?;
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page).into_response())
}

async fn hello(State(context): State<Arc<Context>>) -> Json<Hello> {
    Json(self_hello(&context))
}

fn self_hello(context: &Context) -> Hello {
    Hello {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        state: context.state.path().to_path_buf(),
        shared_cgroup: context.shared_cgroup.clone(),
    }
}

impl From<DeployBody> for DeployRequest {
    fn from(body: DeployBody) -> Self {
        let DeployBody { file, base, secrets, by, again, supersede } = body;
        DeployRequest { file, base, secrets, by, again, supersede }
    }
}

async fn plan(State(context): State<Arc<Context>>, Json(body): Json<DeployBody>) -> Answer<PlanAnswer> {
    let (_, plan) = context.engine.plan(body.into()).await?;
    let leased = context.edges.router.lease_support() == LeaseSupport::Yes;
    Ok(Json(PlanAnswer {
        plan,
        lease_ms: leased.then_some(cutover_proxy_router::LEASE_MS),
        notes: Vec::new(),
    }))
}

async fn deploy(State(context): State<Arc<Context>>, Json(body): Json<DeployBody>) -> Answer<DeployAnswer> {
    Ok(Json(started(whole(async move { context.engine.deploy(body.into()).await }).await?)))
}

async fn rollback(
    State(context): State<Arc<Context>>,
    Json(body): Json<RollbackBody>,
) -> Answer<DeployAnswer> {
    Ok(Json(started(whole(async move { context.engine.rollback(&body.service, &body.by).await }).await?)))
}

/// Does what changes something to its end, also when the client has gone: half of it would be worse than either.
async fn whole<T: Send + 'static>(
    work: impl Future<Output = Result<T, EngineError>> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::spawn(work).await {
        Ok(done) => Ok(done?),
        Err(error) => {
            Err(Failure::own(format!("the server failed at it: {error}")).hint("see its log: server.log"))
        }
    }
}

fn started(started: Started) -> DeployAnswer {
    match started {
        Started::Release { id, plan } => DeployAnswer::Started { release: id, plan },
        Started::UpToDate { service, revision } => DeployAnswer::UpToDate { service, revision },
    }
}

async fn command(State(context): State<Arc<Context>>, Json(body): Json<CommandBody>) -> Answer<ReleaseId> {
    Ok(Json(whole(async move { context.engine.command(&body.service, body.command, &body.by).await }).await?))
}

async fn status(State(context): State<Arc<Context>>) -> Answer<StatusAnswer> {
    let mut services = Vec::new();
    for service in context.engine.services().await? {
        let mut notes = Vec::new();
        let router =
            context.edges.router.observe(&service.name).await.map_err(|fault| notes.push(fault.what)).ok();
        let revisions = context.edges.platform.observe(&service.name).await.unwrap_or_else(|fault| {
            notes.push(fault.what);
            Vec::new()
        });
        services.push(ServiceStatus { service, router, revisions, notes });
    }
    Ok(Json(StatusAnswer { server: self_hello(&context), services }))
}

#[derive(Deserialize)]
struct HistoryQuery {
    service: Option<String>,
    limit: Option<u32>,
}

async fn history(
    State(context): State<Arc<Context>>,
    Query(query): Query<HistoryQuery>,
) -> Answer<HistoryAnswer> {
    let service = query.service.map(ServiceName::new);
    let releases = context.engine.history(service.as_ref(), query.limit.unwrap_or(20).min(1000)).await?;
    Ok(Json(HistoryAnswer { releases }))
}

#[derive(Deserialize)]
struct RecordsQuery {
    from: Option<u64>,
    wait_ms: Option<u64>,
}

async fn records(
    State(context): State<Arc<Context>>,
    Path(release): Path<String>,
    Query(query): Query<RecordsQuery>,
) -> Answer<RecordsAnswer> {
    let release = ReleaseId::new(release);
    let from = query.from.unwrap_or(0);
    let records = match query.wait_ms {
        None => context.engine.records(&release, from).await?,
        Some(ms) => {
            context.engine.follow(&release, from, Duration::from_millis(ms).min(LONGEST_WAIT)).await?
        }
    };
    Ok(Json(RecordsAnswer { records }))
}

#[derive(Deserialize)]
struct GateQuery {
    from: Option<u64>,
}

/// The output of a gate from a position on, whole lines only, so that following it never shows half a one.
async fn gate(
    State(context): State<Arc<Context>>,
    Path((release, step)): Path<(String, usize)>,
    Query(query): Query<GateQuery>,
) -> Answer<GateAnswer> {
    let from = query.from.unwrap_or(0);
    let bytes = context.engine.gate_output(&ReleaseId::new(release), step, from).await?;
    Ok(Json(whole_lines(&bytes, from)))
}

/// What storing the candidate has said from a position on, in the same way.
async fn build(
    State(context): State<Arc<Context>>,
    Path(release): Path<String>,
    Query(query): Query<GateQuery>,
) -> Answer<GateAnswer> {
    let from = query.from.unwrap_or(0);
    let bytes = context.engine.build_output(&ReleaseId::new(release), from).await?;
    Ok(Json(whole_lines(&bytes, from)))
}

fn whole_lines(bytes: &[u8], from: u64) -> GateAnswer {
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    let text = String::from_utf8_lossy(&bytes[..whole]).into_owned();
    GateAnswer { text, next: from + whole as u64 }
}

/// Where the load test of a release is.
async fn load(State(context): State<Arc<Context>>, Path(release): Path<String>) -> Answer<LoadAnswer> {
    let progress = context.engine.load_progress(&ReleaseId::new(release));
    Ok(Json(LoadAnswer { progress }))
}

/// How far the judge of a release is.
async fn judge(State(context): State<Arc<Context>>, Path(release): Path<String>) -> Answer<JudgeAnswer> {
    let progress = context.engine.judge_progress(&ReleaseId::new(release)).await;
    Ok(Json(JudgeAnswer { progress }))
}

#[derive(Deserialize)]
struct LogsQuery {
    revision: Option<String>,
    lines: Option<usize>,
}

async fn logs(
    State(context): State<Arc<Context>>,
    Path(service): Path<String>,
    Query(query): Query<LogsQuery>,
) -> Answer<LogsAnswer> {
    let service = ServiceName::new(service);
    let lines = query.lines.unwrap_or(50).min(10_000);
    let revisions = match query.revision {
        Some(revision) => vec![RevisionId::new(revision)],
        None => {
            context.edges.platform.observe(&service).await?.into_iter().map(|seen| seen.revision).collect()
        }
    };
    let mut instances = Vec::new();
    for revision in revisions {
        for (instance, log) in context.edges.platform.logs(&service, &revision, lines).await? {
            instances.push((revision.clone(), instance, log));
        }
    }
    Ok(Json(LogsAnswer { instances }))
}

#[derive(Deserialize)]
struct PinQuery {
    revision: String,
}

async fn pin(
    State(context): State<Arc<Context>>,
    Path(service): Path<String>,
    Query(query): Query<PinQuery>,
) -> Answer<String> {
    let signed = cutover_proxy::sign_pin(&context.pin_key, &service, &query.revision);
    Ok(Json(format!("{}: {signed}", cutover_proxy::PIN_HEADER)))
}

async fn destroy(State(context): State<Arc<Context>>, Path(service): Path<String>) -> Answer<()> {
    whole(async move { context.engine.destroy(&ServiceName::new(service)).await }).await.map(Json)
}
