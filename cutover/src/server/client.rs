//! The command line's side: finds the server of a state folder, starts one where none answers.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::lock::ServerLock;
use super::protocol::{Hello, PROTOCOL};
use crate::failure::Failure;
use crate::state::StateDir;

/// How long a new server may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long a server may take to say hello: it only has to be alive for that.
const HELLO_LIMIT: Duration = Duration::from_secs(20);
/// The longest that one question may take; long polls ask for less.
const CALL_LIMIT: Duration = Duration::from_secs(900);
const ANSWER_LIMIT: usize = 64 << 20;

/// A server to ask.
#[derive(Clone)]
pub(crate) struct Client {
    state: StateDir,
}

impl Client {
    /// Connects to the server of `state`; none answers when there is none.
    pub(crate) async fn connect(state: &StateDir) -> Result<Option<Client>, Failure> {
        let client = Client { state: state.clone() };
        if UnixStream::connect(state.server_socket()).await.is_err() {
            return Ok(None);
        }
        let hello = tokio::time::timeout(HELLO_LIMIT, client.get::<Hello>("/v1/hello")).await;
        let hello = hello.unwrap_or_else(|_| Err(client.silent()))?;
        if hello.protocol != PROTOCOL {
            let what =
                format!("the server (pid {}, cutover {}) speaks another protocol", hello.pid, hello.version);
            return Err(
                Failure::own(what).hint("stop it with: cutover server stop; traffic goes on; then try again")
            );
        }
        Ok(Some(client))
    }

    /// Connects to the server of `state`, or starts one in the background and says so.
    pub(crate) async fn connect_or_start(state: &StateDir) -> Result<Client, Failure> {
        if let Some(client) = Client::connect(state).await? {
            return Ok(client);
        }
        state.create()?;
        let mut child = None;
        let begun = Instant::now();
        loop {
            if let Ok(Some(client)) = Client::connect(state).await {
                let hello: Hello = client.get("/v1/hello").await?;
                if let Some(child) = &child {
                    let (pid, state) = (Child::id(child), state.path().display());
                    eprintln!("started a server in the background (pid {pid}, state {state})");
                }
                if let (Some(group), Some(_)) = (hello.shared_cgroup, child) {
                    eprintln!("warning: {}", super::place::warning(&group));
                }
                return Ok(client);
            }
            // One that starts or stops just now holds the lock and does not answer: it is waited for.
            if ServerLock::owner(state).is_none() {
                match child.as_mut().map(Child::try_wait) {
                    None => child = Some(spawn_background(state)?),
                    // It may have given way to another, whose turn is over meanwhile.
                    Some(Ok(Some(status))) if !matches!(Client::connect(state).await, Ok(Some(_))) => {
                        return Err(Failure::own(format!(
                            "failed to start a server: it ended with {status}"
                        ))
                        .hint(format!("its log: {}", state.server_log().display()))
                        .with_lines(last_lines(state)));
                    }
                    Some(_) => {}
                }
            }
            if begun.elapsed() > START_LIMIT {
                return Err(Failure::own(format!(
                    "failed to start a server: no answer within {START_LIMIT:?}"
                ))
                .hint(format!("its log: {}", state.server_log().display()))
                .with_lines(last_lines(state)));
            }
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
    }

    /// Starts another server where the one that answered is gone.
    pub(crate) async fn revive(&self) -> Result<(), Failure> {
        Client::connect_or_start(&self.state).await.map(drop)
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.call("GET", path, Vec::new()).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let body = serde_json::to_vec(body)
            .map_err(|error| Failure::own(format!("failed to write the question to the server: {error}")))?;
        self.call("POST", path, body).await
    }

    /// Returns the server's metrics, as text.
    pub(crate) async fn metrics(&self) -> Result<String, Failure> {
        match tokio::time::timeout(CALL_LIMIT, self.exchange("GET", "/metrics", Vec::new())).await {
            Ok(page) => Ok(String::from_utf8_lossy(&page?).into_owned()),
            Err(_) => Err(self.lost(format!("no answer within {CALL_LIMIT:?}"))),
        }
    }

    async fn call<T: DeserializeOwned>(&self, method: &str, path: &str, body: Vec<u8>) -> Result<T, Failure> {
        match tokio::time::timeout(CALL_LIMIT, self.exchange(method, path, body)).await {
            Ok(answer) => serde_json::from_slice(&answer?).map_err(|error| {
                Failure::own(format!("failed to read the server's answer to {path}: {error}"))
            }),
            Err(_) => Err(self.lost(format!("no answer within {CALL_LIMIT:?}"))),
        }
    }

    async fn exchange(&self, method: &str, path: &str, body: Vec<u8>) -> Result<Bytes, Failure> {
        let stream =
            UnixStream::connect(self.state.server_socket()).await.map_err(|error| self.lost(error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.lost(error))?;
        let driver = tokio::spawn(connection);
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "cutover")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| Failure::own(format!("failed to ask {path}: {error}")))?;
        let response = sender.send_request(request).await.map_err(|error| self.lost(error))?;
        let status = response.status();
        let body = http_body_util::Limited::new(response.into_body(), ANSWER_LIMIT).collect().await;
        driver.abort();
        let body = body.map_err(|error| self.lost(error))?.to_bytes();
        if status.is_success() {
            return Ok(body);
        }
        Err(serde_json::from_slice::<Failure>(&body)
            .unwrap_or_else(|_| Failure::own(format!("the server answered {status} to {path}"))))
    }

    /// It has its socket and says nothing: stopped by a signal, or starved.
    fn silent(&self) -> Failure {
        let pid = ServerLock::owner(&self.state);
        let pid = pid.map_or("unknown".into(), |pid| pid.to_string());
        Failure::own(format!(
            "the server (pid {pid}) does not answer within {HELLO_LIMIT:?}; traffic goes on"
        ))
        .hint(format!("if it was stopped: kill -CONT {pid}; to let the next one take over: kill -KILL {pid}"))
    }

    fn lost(&self, why: impl std::fmt::Display) -> Failure {
        Failure::own(format!("failed to reach the server at {}: {why}", self.state.server_socket().display()))
            .hint("what it was doing goes on when the next one starts; see: cutover status")
    }
}

impl Failure {
    fn with_lines(mut self, lines: Vec<String>) -> Self {
        self.lines = lines;
        self
    }
}

/// What of the command's environment a server in the background keeps. Nothing else: the command may have been given
/// secrets, which are not for the server, its proxy and its gates to keep for as long as they live. Where the engine of
/// containers listens, and how one logs in at registries and at other hosts, are the server's own: its children do not
/// get the logins at registries.
const KEPT: [&str; 23] = [
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "USER",
    "LOGNAME",
    "TMPDIR",
    "XDG_STATE_HOME",
    "RUST_LOG",
    "CUTOVER_STATE",
    "DOCKER_HOST",
    "DOCKER_CONFIG",
    "CUTOVER_SSH",
    "SSH_AUTH_SOCK",
    "CUTOVER_REGISTRY",
    "CUTOVER_REGISTRY_USER",
    "CUTOVER_REGISTRY_PASSWORD",
    // Where this machine's own AWS credentials come from; none of them is one.
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_EC2_METADATA_DISABLED",
    super::place::VARIABLE,
];

fn kept(name: &std::ffi::OsStr) -> bool {
    let name = name.to_string_lossy();
    KEPT.contains(&&*name) || (cfg!(debug_assertions) && name.starts_with("CUTOVER_TEST_"))
}

/// Starts `cutover server` in a session of its own, so that neither Ctrl-C nor a closed terminal ends it.
fn spawn_background(state: &StateDir) -> Result<Child, Failure> {
    let failed = |error: std::io::Error| Failure::own(format!("failed to start a server: {error}"));
    let log = StateDir::open_log(&state.server_log()).map_err(failed)?;
    let mut command = std::process::Command::new(std::env::current_exe().map_err(failed)?);
    command
        .args(["server", "--background", "--state"])
        .arg(state.path())
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| kept(name)))
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(failed)?)
        .stderr(log)
        .current_dir("/");
    if state.is_scratch() {
        command.env(super::place::VARIABLE, "none");
    }
    command.spawn().map_err(failed)
}

fn last_lines(state: &StateDir) -> Vec<String> {
    let text = std::fs::read_to_string(state.server_log()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].iter().map(|line| (*line).to_string()).collect()
}
