//! Which services run on several hosts, and the hosts themselves: opened when they are first needed.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cutover_core::{Fault, ServiceName, file};
use cutover_docker::{DockerPlatform, Engine, Options};
use cutover_hosts::{Direct, Forwards, Hosts, HostsPlatform, HostsRouter, Member, Merge, Patience, Ssh};
use cutover_ports::{RevisionSpec, Router};
use cutover_proxy_router::ProxyRouter;
use serde::{Deserialize, Serialize};

use crate::state::StateDir;

/// How long a new connection over ssh is waited for, before it is said that there is none.
const CONNECTING: Duration = Duration::from_secs(15);

/// Where a service runs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Listed {
    hosts: Vec<String>,
    lost: String,
}

/// The hosts of one list, as one platform and one router.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) platform: Arc<HostsPlatform>,
    pub(super) router: Arc<HostsRouter>,
}

/// All hosts that this server knows.
pub(super) struct Places {
    folder: PathBuf,
    state: PathBuf,
    pin_key: String,
    /// This machine's own proxy.
    own: Arc<ProxyRouter>,
    /// All proxies, for what they tell by themselves.
    pub(super) trips: Merge,
    known: Mutex<Known>,
    /// Held while hosts are opened: each once.
    opening: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Known {
    services: BTreeMap<ServiceName, Listed>,
    places: BTreeMap<Listed, Place>,
    members: BTreeMap<file::Host, Member>,
}

impl Places {
    /// Opens the hosts of all services that have some. None of them need be reachable.
    pub(super) async fn open(
        state: &StateDir,
        pin_key: &str,
        own: Arc<ProxyRouter>,
    ) -> Result<Arc<Places>, Fault> {
        let folder = state.path().join("hosts");
        let listed: BTreeMap<ServiceName, Listed> = match fs::read(folder.join("services.json")) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                Fault::cutover(format!("read which services have hosts: {error}")).fatal()
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(Fault::cutover(format!("read which services have hosts: {error}"))),
        };
        let places = Arc::new(Places {
            folder,
            state: state.path().to_path_buf(),
            pin_key: pin_key.to_owned(),
            trips: Merge::new(vec![own.clone()]),
            own,
            known: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
        });
        for (service, listed) in listed {
            places.place(&listed).await?;
            places.known().services.insert(service, listed);
        }
        Ok(places)
    }

    /// Returns the hosts of the service; none where it runs on this machine alone.
    pub(super) fn of(&self, service: &ServiceName) -> Option<Place> {
        let known = self.known();
        known.places.get(known.services.get(service)?).cloned()
    }

    pub(super) fn own(&self) -> &Arc<ProxyRouter> {
        &self.own
    }

    /// Returns every list of hosts that is in use.
    pub(super) fn all(&self) -> Vec<Place> {
        self.known().places.values().cloned().collect()
    }

    /// Opens the hosts of the spec, from now on those of its service.
    ///
    /// # Errors
    /// The service is served elsewhere: to move it without a gap is not known yet.
    pub(super) async fn settle(&self, spec: &RevisionSpec) -> Result<Option<Place>, Fault> {
        let service = &spec.service;
        let wanted = listed(spec);
        let before = self.known().services.get(service).cloned();
        let hosts = |listed: &Option<Listed>| listed.as_ref().map(|listed| listed.hosts.clone());
        if hosts(&before) != hosts(&wanted) {
            let view = match self.of(service) {
                Some(place) => place.router.observe(service).await?,
                None => self.own.observe(service).await?,
            };
            if !view.tracks.is_empty() {
                let what = format!("release {service} to other hosts: it is served where it is");
                return Err(Fault::configuration(what).hint(
                    "Hosts of a service that is served cannot change yet. Release it under another name there, move the \
                     balancer, then: cutover destroy",
                ));
            }
        }
        let place = match &wanted {
            Some(listed) => Some(self.place(listed).await?),
            None => None,
        };
        let mut known = self.known();
        match wanted {
            Some(listed) => drop(known.services.insert(service.clone(), listed)),
            None => drop(known.services.remove(service)),
        }
        Ok(place)
    }

    /// Writes down which services have hosts: the next server must know before it looks at any of them.
    pub(super) fn keep(&self) -> Result<(), Fault> {
        let failed =
            |error: std::io::Error| Fault::platform(format!("write {}: {error}", self.folder.display()));
        let text = serde_json::to_vec_pretty(&self.known().services)
            .map_err(|error| Fault::cutover(format!("write which services have hosts: {error}")))?;
        private(&self.folder)?;
        let (path, fresh) = (self.folder.join("services.json"), self.folder.join("services.new"));
        let mut file = fs::File::create(&fresh).map_err(failed)?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(failed)?;
        fs::rename(&fresh, &path).map_err(failed)?;
        fs::File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(failed)
    }

    async fn place(&self, listed: &Listed) -> Result<Place, Fault> {
        let _opening = self.opening.lock().await;
        if let Some(place) = self.known().places.get(listed) {
            return Ok(place.clone());
        }
        let mut members = Vec::new();
        for text in &listed.hosts {
            let host =
                file::Host::read(text).map_err(|(what, hint)| Fault::configuration(what).hint(hint))?;
            members.push(self.member(&host).await?);
        }
        let rule = if listed.lost == "wait" { file::LostHost::Wait } else { file::LostHost::Abort };
        let hosts = Hosts::new(members, Patience::default(), rule);
        let place =
            Place { platform: Arc::new(HostsPlatform(hosts.clone())), router: Arc::new(HostsRouter(hosts)) };
        self.trips.add(place.router.clone());
        self.known().places.insert(listed.clone(), place.clone());
        Ok(place)
    }

    async fn member(&self, host: &file::Host) -> Result<Member, Fault> {
        if let Some(member) = self.known().members.get(host) {
            return Ok(member.clone());
        }
        if self.known().members.keys().any(|other| other.name == host.name) {
            let what = format!("use host {}: another service has another host of that name", host.name);
            return Err(Fault::configuration(what).hint("Give one of them another name: ?name=b"));
        }
        let folder = self.folder.join(&host.name);
        private(&folder)?;
        self.share_key(&folder)?;
        let member = match &host.ssh {
            None => {
                let state = host.state.as_ref().map_or(self.state.clone(), PathBuf::from);
                let engine = Engine::at(&format!("unix://{}", host.engine))?;
                let reach = Arc::new(Direct);
                self.joined(host, &folder, engine, &state.join("proxy"), reach, false).await?
            }
            Some(to) => {
                let proxy = folder.join("proxy");
                private(&proxy)?;
                let (docker, state) =
                    (folder.join("docker.sock"), host.state.as_deref().unwrap_or(file::HOST_STATE));
                let admin = cutover_proxy::ADMIN_SOCKET;
                let sockets = vec![
                    (docker.clone(), host.engine.clone()),
                    (proxy.join(admin), format!("{state}/proxy/{admin}")),
                ];
                let ssh = Ssh::open(to.clone(), &folder, sockets);
                // Whether it is there or not is said by whoever needs it.
                drop(ssh.connected(CONNECTING).await);
                let engine = Engine::at(&format!("unix://{}", docker.display()))?;
                self.joined(host, &folder, engine, &proxy, Arc::new(Forwards::new(ssh)), true).await?
            }
        };
        self.known().members.insert(host.clone(), member.clone());
        Ok(member)
    }

    async fn joined(
        &self,
        host: &file::Host,
        folder: &Path,
        engine: Engine,
        proxy: &Path,
        reach: Arc<dyn cutover_hosts::Reach>,
        elsewhere: bool,
    ) -> Result<Member, Fault> {
        let options = Options { elsewhere, ..Options::default() };
        Ok(Member {
            name: host.name.clone(),
            platform: Arc::new(DockerPlatform::open(folder, engine, options).await?),
            router: Arc::new(ProxyRouter::new(proxy, self.pin_key.clone())),
            listen: host.listen,
            reach,
        })
    }

    /// Lets all hosts name a revision with secrets alike: the names depend on a key.
    fn share_key(&self, folder: &Path) -> Result<(), Fault> {
        let failed = |error: std::io::Error| Fault::platform(format!("share the key of secrets: {error}"));
        let (shared, own) = (self.folder.join("key"), folder.join("docker").join("secrets"));
        if !shared.exists() {
            let mut bytes = [0_u8; 32];
            let random = fs::File::open("/dev/urandom");
            random.and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes)).map_err(failed)?;
            let key: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            write_private(&shared, key.as_bytes()).map_err(failed)?;
        }
        if own.join("key").exists() {
            return Ok(());
        }
        private(&own)?;
        let key = fs::read(&shared).map_err(failed)?;
        write_private(&own.join("key"), &key).map_err(failed)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn listed(spec: &RevisionSpec) -> Option<Listed> {
    match &spec.platform {
        file::Platform::Docker(docker) if !docker.hosts.is_empty() => {
            let lost = if docker.lost_host == file::LostHost::Wait { "wait" } else { "abort" };
            Some(Listed { hosts: docker.hosts.clone(), lost: lost.into() })
        }
        _ => None,
    }
}

fn private(folder: &Path) -> Result<(), Fault> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| Fault::platform(format!("make {}: {error}", folder.display())))
}

/// Whole or not at all: half a key would be damage that nobody can repair.
fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)
}
