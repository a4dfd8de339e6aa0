//! What was asked for each service, in memory and on disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cutover_core::{Fault, Fence, ServiceName};
use cutover_keep::{Wish, disk};
use tokio::sync::Notify;

/// One service. Its wish can be read at any time; who changes it, or acts on it, holds `acting`.
#[derive(Default)]
pub(crate) struct Service {
    pub(crate) acting: tokio::sync::Mutex<()>,
    wish: Mutex<Wish>,
}

impl Service {
    /// Returns what is wanted now.
    pub(crate) fn wish(&self) -> Wish {
        lock(&self.wish).clone()
    }
}

/// All services that were ever asked for.
pub(crate) struct Wishes {
    folder: PathBuf,
    services: Mutex<BTreeMap<ServiceName, Arc<Service>>>,
    /// Told once the first service was asked for.
    pub(crate) asked: Notify,
}

impl Wishes {
    /// Reads what was asked for.
    pub(crate) fn open(folder: PathBuf) -> Result<Wishes, Fault> {
        disk::ensure_folder(&folder, 0o700)?;
        let mut services = BTreeMap::new();
        for name in disk::names(&folder)?.iter().filter_map(|name| name.strip_suffix(".json")) {
            let wish = Wish::read(&folder.join(format!("{name}.json")))?.unwrap_or_default();
            let service = Service { wish: Mutex::new(wish), ..Service::default() };
            services.insert(ServiceName::new(name), Arc::new(service));
        }
        Ok(Wishes { folder, services: Mutex::new(services), asked: Notify::new() })
    }

    /// Returns the names of all services.
    pub(crate) fn names(&self) -> Vec<ServiceName> {
        lock(&self.services).keys().cloned().collect()
    }

    /// Returns the service, none where it was never asked for.
    pub(crate) fn find(&self, name: &ServiceName) -> Option<Arc<Service>> {
        lock(&self.services).get(name).cloned()
    }

    /// Returns the service, made where it was never asked for.
    pub(crate) fn of(&self, name: &ServiceName) -> Result<Arc<Service>, Fault> {
        let text = name.as_str();
        if text.is_empty() || text.starts_with('.') || text.contains('/') {
            return Err(Fault::configuration(format!("use \"{text}\" as the name of a service")));
        }
        let service = lock(&self.services).entry(name.clone()).or_default().clone();
        self.asked.notify_one();
        Ok(service)
    }

    /// Notes the fence and what `change` makes of the wish, on disk before anything acts on it. The caller holds `acting`.
    pub(crate) fn admit(
        &self,
        fence: Fence,
        name: &ServiceName,
        service: &Service,
        change: impl FnOnce(&mut Wish),
    ) -> Result<(), Fault> {
        let mut wish = service.wish().admit(fence, name)?;
        change(&mut wish);
        wish.write(&self.path(name))?;
        *lock(&service.wish) = wish;
        Ok(())
    }

    fn path(&self, name: &ServiceName) -> PathBuf {
        self.folder.join(Path::new(&format!("{name}.json")))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
