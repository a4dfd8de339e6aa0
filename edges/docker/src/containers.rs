//! What is asked of the engine about containers; each call names the end state, so repeating it is harmless.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use bollard::errors::Error;
use bollard::models::{ContainerCreateBody, ContainerSummary, NetworkConnectRequest};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, InspectContainerOptions, ListContainersOptionsBuilder,
    RemoveContainerOptionsBuilder, RestartContainerOptionsBuilder, StartContainerOptions,
    StopContainerOptionsBuilder,
};
use cutover_core::{Blame, Fault, InstanceId, ServiceName};
use futures_util::future::try_join_all;

use crate::Engine;
use crate::container::Container;
use crate::names::{self, Labels};

/// How much longer than its grace the engine may take to stop a container.
const BEYOND_GRACE: Duration = Duration::from_secs(30);

/// The containers that one state folder made in an engine.
#[derive(Clone)]
pub(crate) struct Containers {
    pub(crate) engine: Engine,
    pub(crate) owner: String,
}

/// What became of a container that was to be made.
pub(crate) enum Made {
    /// It is there now; its id.
    New(String),
    /// One of that name is there.
    Taken,
}

/// Whose the container of a name is.
pub(crate) enum Found {
    Ours(Box<Container>),
    Foreign,
    Nobodys,
}

/// What became of a container that was to be started.
pub(crate) enum Started {
    /// It runs, or did.
    Yes,
    /// Somebody has the port that it is published on.
    PortTaken,
    /// It is not there.
    Gone,
}

impl Containers {
    /// Returns a short look at the containers of a service, running or not.
    pub(crate) async fn list(&self, service: &ServiceName) -> Result<Vec<ContainerSummary>, Fault> {
        let label = format!("{}={service}", names::SERVICE);
        self.labelled(&[&label], &format!("look at the containers of {service}")).await
    }

    /// Returns the loopback ports of all containers of this state folder, whichever their service, also of those that do not
    /// run: who gets one of them gets the requests of its last owner.
    pub(crate) async fn published(&self) -> Result<BTreeSet<u16>, Fault> {
        let listed = self.labelled(&[], "look at all containers").await?;
        let ids = listed.into_iter().filter_map(|one| one.id);
        let found = try_join_all(ids.map(|id| async move { self.look(&id).await })).await?;
        Ok(found.iter().flatten().filter_map(Container::published).collect())
    }

    async fn labelled(&self, labels: &[&str], doing: &str) -> Result<Vec<ContainerSummary>, Fault> {
        let owner = format!("{}={}", names::OWNER, self.owner);
        let labels = labels.iter().copied().chain([owner.as_str()]).collect();
        let filters = HashMap::from([("label", labels)]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let listed = self.engine.docker().await?.list_containers(Some(options)).await;
        listed.map_err(|error| self.engine.fault(doing, &error))
    }

    /// Returns the containers of a service, running or not, in a fixed order.
    pub(crate) async fn of(&self, service: &ServiceName) -> Result<Vec<Container>, Fault> {
        let listed = self.list(service).await?;
        let ids = listed.into_iter().filter_map(|one| one.id);
        let found = try_join_all(ids.map(|id| async move { self.look(&id).await })).await?;
        let mut found: Vec<Container> = found.into_iter().flatten().collect();
        found.sort_by(|a, b| (&a.labels.place, &a.id).cmp(&(&b.labels.place, &b.id)));
        Ok(found)
    }

    /// Returns the container of this instance; none where there is none.
    pub(crate) async fn of_instance(
        &self,
        service: &ServiceName,
        instance: &InstanceId,
    ) -> Result<Option<Container>, Fault> {
        let is = |one: &ContainerSummary| {
            one.labels.as_ref().and_then(Labels::read).is_some_and(|labels| labels.instance == *instance)
        };
        for id in self.list(service).await?.into_iter().filter(is).filter_map(|one| one.id) {
            // Somebody may have made one with our labels: from an image that a container of ours was committed to.
            if let Some(one) = self.look(&id).await? {
                return Ok(Some(one));
            }
        }
        Ok(None)
    }

    /// Returns the container of this name or id; none where there is none, or somebody else made it.
    pub(crate) async fn look(&self, name: &str) -> Result<Option<Container>, Fault> {
        Ok(match self.find(name).await? {
            Found::Ours(one) => Some(*one),
            Found::Foreign | Found::Nobodys => None,
        })
    }

    /// Says whose the container of this name or id is.
    pub(crate) async fn find(&self, name: &str) -> Result<Found, Fault> {
        let docker = self.engine.docker().await?;
        match docker.inspect_container(name, None::<InspectContainerOptions>).await {
            Ok(seen) => Ok(match Container::read(seen).filter(|one| one.labels.owner == self.owner) {
                Some(one) => Found::Ours(Box::new(one)),
                None => Found::Foreign,
            }),
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(Found::Nobodys),
            Err(error) => Err(self.engine.fault(format!("look at container {name}"), &error)),
        }
    }

    /// Makes a container, which does not run yet.
    pub(crate) async fn make(
        &self,
        name: &str,
        body: ContainerCreateBody,
        networks: &[String],
    ) -> Result<Made, Fault> {
        let docker = self.engine.docker().await?;
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        let id = match docker.create_container(Some(options), body).await {
            Ok(made) => made.id,
            Err(Error::DockerResponseServerError { status_code: 409, .. }) => return Ok(Made::Taken),
            Err(error) => return Err(self.refused(format!("make container {name}"), &error)),
        };
        for network in networks.iter().skip(1) {
            let request = NetworkConnectRequest { container: id.clone(), endpoint_config: None };
            if let Err(error) = docker.connect_network(network, request).await {
                // Half of its networks are none: it is made anew another time.
                self.remove(&id).await?;
                return Err(self.refused(format!("join {name} to network {network}"), &error));
            }
        }
        Ok(Made::New(id))
    }

    /// Ensures that a container runs.
    pub(crate) async fn start(&self, name: &str) -> Result<Started, Fault> {
        let docker = self.engine.docker().await?;
        match docker.start_container(name, None::<StartContainerOptions>).await {
            Ok(()) | Err(Error::DockerResponseServerError { status_code: 304, .. }) => Ok(Started::Yes),
            Err(Error::DockerResponseServerError { message, .. }) if is_port_conflict(&message) => {
                Ok(Started::PortTaken)
            }
            Err(Error::DockerResponseServerError { status_code: 404, message })
                if message.contains("No such container") =>
            {
                Ok(Started::Gone)
            }
            Err(error) => Err(self.refused(format!("start container {name}"), &error)),
        }
    }

    /// Ensures that a container does not run, nor is started again by the engine: stop signal, grace, kill.
    pub(crate) async fn stop(&self, name: &str, grace_s: i64) -> Result<(), Fault> {
        let docker = self.patient(grace_s).await?;
        let options =
            StopContainerOptionsBuilder::new().t(i32::try_from(grace_s).unwrap_or(i32::MAX)).build();
        match docker.stop_container(name, Some(options)).await {
            Ok(()) | Err(Error::DockerResponseServerError { status_code: 304 | 404, .. }) => Ok(()),
            Err(error) => Err(self.engine.fault(format!("stop container {name}"), &error)),
        }
    }

    /// Ends a container as a stop would, and starts it again.
    pub(crate) async fn restart(&self, name: &str, grace_s: i64) -> Result<(), Fault> {
        let docker = self.patient(grace_s).await?;
        let options =
            RestartContainerOptionsBuilder::new().t(i32::try_from(grace_s).unwrap_or(i32::MAX)).build();
        let answer = docker.restart_container(name, Some(options)).await;
        answer.map_err(|error| self.engine.fault(format!("restart container {name}"), &error))
    }

    /// Ensures that a container is not there, with the volumes that have no name.
    pub(crate) async fn remove(&self, name: &str) -> Result<(), Fault> {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        match self.engine.docker().await?.remove_container(name, Some(options)).await {
            // 409: somebody removes it already.
            Ok(()) | Err(Error::DockerResponseServerError { status_code: 404 | 409, .. }) => Ok(()),
            Err(error) => Err(self.engine.fault(format!("remove container {name}"), &error)),
        }
    }

    /// Returns a client that waits as long as a stop may take.
    async fn patient(&self, grace_s: i64) -> Result<bollard::Docker, Fault> {
        let grace = Duration::from_secs(u64::try_from(grace_s).unwrap_or(0));
        Ok(self.engine.docker().await?.clone().with_timeout(grace + BEYOND_GRACE))
    }

    /// Says whose fault it is that a container could not be made or started: what the image lacks is the candidate's.
    fn refused(&self, doing: String, error: &Error) -> Fault {
        let fault = self.engine.fault(doing, error);
        let Error::DockerResponseServerError { message, .. } = error else { return fault };
        let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
        if says(&["executable file not found", "exec format error", "No command specified", "stat /"])
            || says(&["permission denied: unknown", "unable to find user", "no users found"])
        {
            return Fault { blame: Blame::Candidate, ..fault.fatal() }
                .hint("Look at platform.docker.command, entrypoint and user, and at what the image has.");
        }
        if says(&["No such image"]) {
            return fault.hint("Somebody removed it from the engine; deploy again.");
        }
        if says(&["no space left on device"]) {
            return Fault { blame: Blame::Platform, ..fault }.hint(
                "Free some space where the engine keeps its data: docker system df, docker image prune.",
            );
        }
        fault
    }
}

fn is_port_conflict(message: &str) -> bool {
    ["port is already allocated", "address already in use", "Ports are not available"]
        .iter()
        .any(|words| message.contains(words))
}
