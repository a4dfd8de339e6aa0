//! Clients that come without pause while a proxy is replaced.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::harness::{Proxy, Wire, table, track, until};
use super::upstream::Upstream;

/// New connections as fast as they come; counts those refused or reset before a response, except while excused.
pub(crate) struct Knocking {
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    served: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    broken: Arc<AtomicU64>,
}

impl Knocking {
    pub(crate) fn start(addr: std::net::SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let counters: [Arc<AtomicU64>; 3] = Default::default();
        let tasks = (0..4).map(|_| {
            let (stop, [served, refused, broken]) = (stop.clone(), counters.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let Ok(stream) = tokio::net::TcpStream::connect(addr).await else {
                        refused.fetch_add(1, Ordering::SeqCst);
                        continue;
                    };
                    let mut wire = Wire { stream: tokio::io::BufReader::new(stream) };
                    let sent = wire.post("/id", "x").await;
                    let counter =
                        if sent.is_ok_and(|response| response.status == 200) { &served } else { &broken };
                    counter.fetch_add(1, Ordering::SeqCst);
                }
            })
        });
        let tasks = tasks.collect();
        let [served, refused, broken] = counters;
        Self { stop, tasks, served, refused, broken }
    }

    pub(crate) async fn serve_more(&self) {
        let goal = self.served.load(Ordering::SeqCst) + 100;
        until("more requests are served", || (self.served.load(Ordering::SeqCst) >= goal).then_some(()))
            .await;
    }

    pub(crate) async fn end(self) -> (u64, u64) {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.unwrap();
        }
        (self.refused.load(Ordering::SeqCst), self.broken.load(Ordering::SeqCst))
    }
}

/// A proxy with a service of one revision.
pub(crate) async fn serving() -> (Proxy, Upstream) {
    let (proxy, v1) = (Proxy::start().await, Upstream::start("v1").await);
    proxy.set(0, &table(vec![track("v1", 10_000, &[v1.addr])])).await;
    (proxy, v1)
}
