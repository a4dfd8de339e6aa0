//! Takes a service away altogether.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cutover_core::effect::Resource;
use cutover_core::{Command, Fault, Machine, RevisionId, ServiceName, Shift, Step};
use tokio::time::{Instant, sleep, timeout};

use crate::effects::fenced;
use crate::engine::{Engine, Shared, Taken};
use crate::error::{EngineError, EngineErrorKind};
use crate::service::Service;

const DRAIN: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(300);

impl Engine {
    /// Takes a service away: its route answers 503, then nothing; what it runs finishes its requests and is stopped.
    /// Its journal stays. Repeating it finishes what a first try left.
    ///
    /// # Errors
    /// When a release holds the service, another driver has it, or an edge fails.
    pub async fn destroy(&self, service: &ServiceName) -> Result<(), EngineError> {
        self.shared.start_background();
        let Some(row) = self.shared.service_row(service).await? else {
            return Err(EngineError::not_found(service));
        };
        if let Taken::Held { owner, .. } = self.shared.take(service, self.shared.options.sole).await? {
            let what = format!("{service} is driven by {owner}");
            return Err(
                EngineError::new(EngineErrorKind::Busy, what).hinting("ask that driver, or wait for its end")
            );
        }
        if let Some(holder) = row.holder {
            let by = self.shared.store.release(&holder).await?.map_or_else(String::new, |row| row.by);
            return Err(EngineError::busy(service, holder, &by, self.shared.options.owner.clone())
                .hinting("withdraw it first: cutover abort"));
        }
        let Some(service) = self.shared.service(service) else { return Err(EngineError::not_found(service)) };
        service.closing.store(true, Ordering::Relaxed);
        let destroyed = self.shared.destroy(&service).await;
        service.closing.store(false, Ordering::Relaxed);
        destroyed
    }
}

impl Shared {
    async fn destroy(&self, service: &Arc<Service>) -> Result<(), EngineError> {
        for tail in service.lives() {
            if tail.look(|machine| matches!(machine.step(), Step::Warm { .. })) {
                let release = tail.release.id.clone();
                self.say(&tail, Command::Hurry { release }, "destroy").await?;
            }
            let mut state = tail.state.clone();
            let _ = timeout(STOP, state.wait_for(|state| Machine::ended(&state.machine))).await;
        }
        // Journal before acting: a crash in between leaves a service that is to be destroyed again, not one that
        // comes back by itself.
        {
            let _turn = service.journal.lock().await;
            self.store.destroy(&service.name, service.epoch()).await?;
        }
        self.empty(service).await.map_err(EngineError::refused)
    }

    async fn empty(&self, service: &Arc<Service>) -> Result<(), Fault> {
        let (name, edges) = (&service.name, &self.edges);
        let look = self.options.timeouts.look;
        let late = |what: &str| Fault::unknown(format!("{what}: no answer"));
        let seen = timeout(look, edges.platform.observe(name))
            .await
            .map_err(|_| late("look at the instances"))??;
        let router = held(service, Resource::Router).await?;
        let view =
            timeout(look, edges.router.observe(name)).await.map_err(|_| late("look at the router"))??;
        if view.generation > 0 && !view.tracks.is_empty() {
            let none = Shift { weights: Vec::new(), lease: None };
            let set = fenced(service, |fence| edges.router.set(fence, name, &[], &none, &[]));
            timeout(self.options.timeouts.shift, set).await.map_err(|_| late("take the traffic away"))??;
            for track in &view.tracks {
                let drain = fenced(service, |fence| edges.router.drain(fence, name, &track.revision, DRAIN));
                timeout(DRAIN * 2, drain).await.map_err(|_| late("drain"))??;
            }
        }
        let remove = fenced(service, |fence| edges.router.remove(fence, name));
        timeout(self.options.timeouts.shift, remove).await.map_err(|_| late("remove the route"))??;
        drop(router);
        for revision in seen.into_iter().map(|seen| seen.revision) {
            let _hold = held(service, Resource::Revision(RevisionId::clone(&revision))).await?;
            let retire = fenced(service, |fence| edges.platform.retire(fence, name, &revision));
            timeout(STOP, retire).await.map_err(|_| late("stop the instances"))??;
        }
        Ok(())
    }
}

async fn held(service: &Arc<Service>, resource: Resource) -> Result<crate::service::Hold, Fault> {
    let end = Instant::now() + STOP;
    loop {
        if let Some(hold) = service.hold(resource.clone()) {
            return Ok(hold);
        }
        if Instant::now() >= end {
            return Err(Fault::cutover(format!("{}: something else acts on it", service.name)));
        }
        sleep(Duration::from_millis(50)).await;
    }
}
