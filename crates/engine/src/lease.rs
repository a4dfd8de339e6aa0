//! Keeps this engine's leases on the services that it drives.

use std::sync::Arc;

use tracing::warn;

use crate::engine::Shared;
use crate::store::StoreErrorKind;

/// Renews each lease three times in its length, until the engine stops.
pub(crate) async fn renew(shared: Arc<Shared>) {
    let mut stop = shared.stopping();
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(shared.options.lease / 3) => {}
        }
        for service in shared.services() {
            // Whoever has nothing to drive needs no lease.
            if service.idle() {
                continue;
            }
            let _turn = service.journal.lock().await;
            match shared.store.renew(&service.name, service.epoch(), &shared.tenant()).await {
                Ok(()) => {}
                Err(error) if error.kind() == StoreErrorKind::Fenced => {
                    warn!(service = %service.name, %error, "the service was taken over");
                    service.lose();
                    shared.forget(&service);
                }
                Err(error) => warn!(service = %service.name, %error, "the lease could not be renewed"),
            }
        }
    }
}
