//! The connection to an engine: where it listens, which API it speaks, and what its refusals mean.

use std::fmt;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use bollard::errors::Error;
use bollard::{ClientVersion, Docker};
use cutover_core::{After, Blame, Fault};
use tokio::sync::OnceCell;

/// Where Docker listens if nothing else is said.
const SOCKET: &str = "/var/run/docker.sock";
/// How long one call may take until it answers. What takes longer has a deadline of its own.
const PATIENCE_S: u64 = 120;
/// The oldest API that Docker 29 still speaks; what is used here is in all of them.
const TODAY: ClientVersion = ClientVersion { major_version: 1, minor_version: 44 };
/// That of Docker 20.10 and of podman 4.
const OLDEST: ClientVersion = ClientVersion { major_version: 1, minor_version: 41 };

/// A Docker engine on this machine, or podman's socket.
#[derive(Clone)]
pub struct Engine {
    place: String,
    client: Arc<OnceCell<Docker>>,
}

impl Engine {
    /// Names the engine of `DOCKER_HOST`, else `unix:///var/run/docker.sock`. Connects to nothing yet.
    ///
    /// # Errors
    /// `DOCKER_HOST` is no `unix://` address.
    pub fn of_environment() -> Result<Engine, Fault> {
        match std::env::var("DOCKER_HOST") {
            Ok(place) if !place.is_empty() => Engine::at(&place),
            _ => Engine::at(&format!("unix://{SOCKET}")),
        }
    }

    /// Names the engine at `place`, such as `unix:///var/run/docker.sock`. Connects to nothing yet.
    ///
    /// # Errors
    /// It is no `unix://` address.
    pub fn at(place: &str) -> Result<Engine, Fault> {
        if !place.strip_prefix("unix://").is_some_and(|path| Path::new(path).is_absolute()) {
            return Err(Fault::configuration(format!("use the engine at {place}: it is no unix socket"))
                .hint("Set DOCKER_HOST to an engine of this machine, such as unix:///var/run/docker.sock."));
        }
        Ok(Engine { place: place.into(), client: Arc::default() })
    }

    /// Returns where it listens, such as `unix:///var/run/docker.sock`.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Returns the client of its API. Each call of it connects anew, so an engine that was started again is no matter.
    ///
    /// # Errors
    /// It cannot be reached, with what to do.
    pub async fn docker(&self) -> Result<&Docker, Fault> {
        self.client.get_or_try_init(|| self.connect()).await
    }

    /// Says what a refusal of the engine means; `doing` continues "failed to …".
    pub fn fault(&self, doing: impl fmt::Display, error: &Error) -> Fault {
        match error {
            Error::DockerResponseServerError { status_code, message } => {
                let what = format!("{doing}: {}", message.trim());
                match status_code {
                    // What the engine itself could not do may go another time; what it refuses stays refused.
                    500.. => Fault::platform(what),
                    _ => Fault::new(Blame::Configuration, After::Final, what),
                }
            }
            Error::RequestTimeoutError => {
                Fault::unknown(format!("{doing}: the engine at {self} does not answer within {PATIENCE_S} s"))
                    .hint("See what it does: journalctl -u docker")
            }
            Error::SocketNotFoundError(_) => self.absent(doing),
            _ => match refusal(error) {
                Some(ErrorKind::PermissionDenied) => self.forbidden(doing),
                Some(ErrorKind::NotFound | ErrorKind::ConnectionRefused) => self.absent(doing),
                // The connection broke, or the answer makes no sense: it may have happened.
                _ => {
                    Fault::unknown(format!("{doing}: the engine at {self} gave no answer: {}", chain(error)))
                }
            },
        }
    }

    async fn connect(&self) -> Result<Docker, Fault> {
        for version in [&TODAY, &OLDEST] {
            let docker = self.client(version)?;
            match docker.version().await {
                Ok(_) => return Ok(docker),
                Err(Error::DockerResponseServerError { status_code: 400, .. }) => {}
                Err(error) => return Err(self.fault("reach the Docker engine", &error)),
            }
        }
        Err(Fault::configuration(format!("use the engine at {self}: it is older than Docker 20.10"))
            .hint("Install a newer one."))
    }

    fn client(&self, version: &ClientVersion) -> Result<Docker, Fault> {
        Docker::connect_with_unix(&self.place, PATIENCE_S, version)
            .map_err(|error| self.fault("reach the Docker engine", &error))
    }

    fn absent(&self, doing: impl fmt::Display) -> Fault {
        Fault::platform(format!("{doing}: no engine listens at {self}"))
            .hint("Start it: systemctl start docker. One that listens elsewhere is named by DOCKER_HOST.")
    }

    fn forbidden(&self, doing: impl fmt::Display) -> Fault {
        Fault::configuration(format!("{doing}: this user may not use the engine at {self}")).hint(
            "Join its group: sudo usermod -aG docker \"$USER\", then log in anew and start the server again.",
        )
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)
    }
}

/// Returns why the socket could not be used, if that is what failed.
fn refusal(error: &Error) -> Option<ErrorKind> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(one) = cause {
        if let Some(io) = one.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        cause = one.source();
    }
    None
}

/// Returns the whole story of an error: the outermost alone often says nothing.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(one) = cause {
        let more = one.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = one.source();
    }
    text
}
