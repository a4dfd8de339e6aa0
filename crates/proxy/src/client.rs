//! Client of the admin socket.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::compat;
use crate::error::{ErrorKind, ProxyError};
use crate::holder::ADMIN_SOCKET;
use crate::judging::{JudgeQuestion, Judged};
use crate::protocol::{
    DrainReply, Event, Hello, MAX_LINE, Observation, RenewReply, Reply, Request, SetReply,
};
use crate::table::{SCHEMA, ServiceTable};
use crate::traffic::Traffic;

/// Talks to the proxy of one folder, over a new connection per call: a restarted worker is not noticed.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    deadline: Duration,
}

impl Client {
    /// Returns a client of the proxy on `dir`, with 10 s for each call; connects with the first one.
    pub fn new(dir: impl AsRef<Path>) -> Self {
        Self { socket: dir.as_ref().join(ADMIN_SOCKET), deadline: Duration::from_secs(10) }
    }

    /// Connects to the proxy on `dir` and checks that we understand each other; `Protocol` says what to do if not.
    pub async fn connect(dir: impl AsRef<Path>) -> Result<Self, ProxyError> {
        let client = Self::new(dir);
        compat::agree(&client.hello().await?)?;
        Ok(client)
    }

    /// Returns the client with another deadline per call.
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Asks who answers; every version of the proxy says so.
    pub async fn hello(&self) -> Result<Hello, ProxyError> {
        self.repeat(Request::Hello).await
    }

    /// Ensures that an address accepts connections; returns it as bound (port 0: the system chooses).
    pub async fn listen(&self, addr: SocketAddr) -> Result<SocketAddr, ProxyError> {
        self.call(Request::Listen { addr }).await
    }

    /// Observes everything.
    pub async fn observe(&self) -> Result<Observation, ProxyError> {
        self.repeat(Request::Observe { service: None }).await
    }

    /// Observes one service; `UnknownService` when there is none.
    pub async fn observe_service(&self, service: &str) -> Result<Observation, ProxyError> {
        self.repeat(Request::Observe { service: Some(service.to_owned()) }).await
    }

    /// Replaces the routing of a service if it has `expected_generation` (0: there is none yet).
    ///
    /// Returns once every thread has taken the new table: nothing is claimed by the old weights after that. On
    /// `Timeout`, `Interrupted` and `Unacknowledged` the change may be in force: observe. Whatever the generation and
    /// epoch in `table`, those given beside it count.
    pub async fn set(
        &self,
        service: &str,
        expected_generation: u64,
        epoch: u64,
        table: &ServiceTable,
    ) -> Result<SetReply, ProxyError> {
        let (service, table) = (service.to_owned(), Box::new(table.clone()));
        self.call(Request::Set { service, expected_generation, epoch, schema: SCHEMA, table }).await
    }

    /// Renews the candidate's lease; after a boot of the worker this restores the candidate's weight.
    pub async fn renew(&self, service: &str, release: &str, epoch: u64) -> Result<RenewReply, ProxyError> {
        self.repeat(Request::Renew { service: service.to_owned(), release: release.to_owned(), epoch }).await
    }

    /// Waits until nothing of a revision is in flight and no connection to it is open; at `window` the rest is cut.
    pub async fn drain(
        &self,
        service: &str,
        revision: &str,
        window: Duration,
    ) -> Result<DrainReply, ProxyError> {
        let deadline_ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        let request =
            Request::Drain { service: service.to_owned(), revision: revision.to_owned(), deadline_ms };
        self.repeat_within(request, self.deadline + window).await
    }

    /// Waits until nothing is in flight to `targets`, which the table of the service names no more, and no connection
    /// to them is open; at `window` the rest is cut. Their revision may keep its weight. `StillRouted` when the table
    /// names one of them.
    pub async fn drain_targets(
        &self,
        service: &str,
        targets: &[SocketAddr],
        epoch: u64,
        window: Duration,
    ) -> Result<DrainReply, ProxyError> {
        let deadline_ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        let (service, targets) = (service.to_owned(), targets.to_vec());
        let request = Request::DrainTargets { service, targets, epoch, deadline_ms };
        self.repeat_within(request, self.deadline + window).await
    }

    /// Takes the candidate's traffic away; returns the new generation.
    pub async fn back(&self, service: &str, why: &str) -> Result<u64, ProxyError> {
        #[derive(serde::Deserialize)]
        struct Back {
            generation: u64,
        }
        let request = Request::Back { service: service.to_owned(), why: why.to_owned() };
        Ok(self.repeat::<Back>(request).await?.generation)
    }

    /// Asks the judge of a release's candidate.
    pub async fn judge(
        &self,
        service: &str,
        release: &str,
        question: &JudgeQuestion,
    ) -> Result<Judged, ProxyError> {
        let (service, release) = (service.to_owned(), release.to_owned());
        self.repeat(Request::Judge { service, release, question: Box::new(*question) }).await
    }

    /// Says what the requests of a service do from now on; kept until something else is said.
    pub async fn traffic(&self, service: &str, traffic: &Traffic) -> Result<(), ProxyError> {
        self.repeat(Request::Traffic { service: service.to_owned(), traffic: Box::new(traffic.clone()) })
            .await
    }

    /// Removes a service.
    pub async fn remove_service(
        &self,
        service: &str,
        expected_generation: u64,
        epoch: u64,
    ) -> Result<SetReply, ProxyError> {
        self.call(Request::RemoveService { service: service.to_owned(), expected_generation, epoch }).await
    }

    /// Returns the unacknowledged events with a number above `after`.
    pub async fn events(&self, after: u64) -> Result<Vec<Event>, ProxyError> {
        self.repeat(Request::Events { after }).await
    }

    /// Waits for events with a number above `after`; returns none when `limit` (at most 60 s) passes first.
    pub async fn watch(&self, after: u64, limit: Duration) -> Result<Vec<Event>, ProxyError> {
        let timeout_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        self.repeat_within(Request::Watch { after, timeout_ms }, self.deadline + limit).await
    }

    /// Lets the proxy forget events up to a number.
    pub async fn ack(&self, up_to: u64) -> Result<(), ProxyError> {
        self.repeat(Request::Ack { up_to }).await
    }

    async fn call<T: DeserializeOwned>(&self, request: Request) -> Result<T, ProxyError> {
        // Refused before anything happened: the successor takes it.
        self.until_served(&request, self.deadline, |kind| *kind == ErrorKind::Closing).await
    }

    /// Repeats a harmless request also when the worker went away during the call.
    async fn repeat<T: DeserializeOwned>(&self, request: Request) -> Result<T, ProxyError> {
        self.repeat_within(request, self.deadline).await
    }

    async fn repeat_within<T: DeserializeOwned>(
        &self,
        request: Request,
        limit: Duration,
    ) -> Result<T, ProxyError> {
        let again = |kind: &ErrorKind| matches!(kind, ErrorKind::Closing | ErrorKind::Interrupted);
        self.until_served(&request, limit, again).await
    }

    async fn until_served<T: DeserializeOwned>(
        &self,
        request: &Request,
        limit: Duration,
        again: impl Fn(&ErrorKind) -> bool,
    ) -> Result<T, ProxyError> {
        let end = tokio::time::Instant::now() + limit;
        loop {
            match self.call_within(request, limit).await {
                Err(error) if again(error.kind()) && tokio::time::Instant::now() < end => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                done => return done,
            }
        }
    }

    async fn call_within<T: DeserializeOwned>(
        &self,
        request: &Request,
        limit: Duration,
    ) -> Result<T, ProxyError> {
        match timeout(limit, self.exchange(request)).await {
            Ok(done) => done,
            Err(_) => {
                let text = format!("the proxy on {} did not answer within {limit:?}", self.socket.display());
                Err(ProxyError::new(ErrorKind::Timeout, text))
            }
        }
    }

    async fn exchange<T: DeserializeOwned>(&self, request: &Request) -> Result<T, ProxyError> {
        let at = self.socket.display();
        let mut stream = UnixStream::connect(&self.socket).await.map_err(|source| {
            let text = format!("no proxy answers on {at}; start one with: cutover proxy");
            ProxyError::io(ErrorKind::Unreachable, text, source)
        })?;
        let lost = |source| {
            ProxyError::io(
                ErrorKind::Interrupted,
                format!("the proxy on {at} went away during the call"),
                source,
            )
        };
        let protocol = |error: serde_json::Error| {
            ProxyError::new(
                ErrorKind::Protocol,
                format!("reply of the proxy on {at} cannot be read: {error}"),
            )
        };
        let mut line = serde_json::to_value(request)
            .and_then(|mut value| {
                value["version"] = compat::since(request).into();
                serde_json::to_vec(&value)
            })
            .map_err(protocol)?;
        line.push(b'\n');
        stream.write_all(&line).await.map_err(lost)?;
        let mut reply = Vec::new();
        let mut reader = BufReader::new(stream).take(MAX_LINE as u64);
        reader.read_until(b'\n', &mut reply).await.map_err(lost)?;
        if reply.last() != Some(&b'\n') {
            return Err(lost(std::io::ErrorKind::UnexpectedEof.into()));
        }
        match serde_json::from_slice::<Reply>(&reply).map_err(protocol)? {
            Reply::Ok(value) => serde_json::from_value(value).map_err(protocol),
            Reply::Error { kind, message } => Err(ProxyError::new(kind, message)),
        }
    }
}
