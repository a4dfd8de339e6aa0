//! Shifts under load: no request fails, none is claimed by the old weights after the acknowledgement.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cutover_proxy::Arm;

use super::harness::{Proxy, SERVICE, Wire, counts, table, track};
use super::upstream::Upstream;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_shifts_lose_nothing_and_none_slips() {
    const SHIFTS: u64 = 200;
    let (proxy, v1, v2) = (Proxy::start().await, Upstream::start("v1").await, Upstream::start("v2").await);
    let shifted = |old: u16| table(vec![track("v1", old, &[v1.addr]), track("v2", 10_000 - old, &[v2.addr])]);
    proxy.set(0, &shifted(10_000)).await;
    let stop = Arc::new(AtomicBool::new(false));
    let ids = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..8)
        .map(|client| {
            let (stop, ids, addr) = (stop.clone(), ids.clone(), proxy.addr);
            tokio::spawn(async move {
                let mut wire = Wire::connect(addr).await;
                let mut sent = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    // Half the clients keep their connection, half open one per request.
                    if client % 2 == 0 {
                        wire = Wire::connect(addr).await;
                    }
                    let id = ids.fetch_add(1, Ordering::SeqCst).to_string();
                    let response = wire.post("/post", &id).await.unwrap();
                    assert_eq!(response.status, 200, "{response:?}");
                    sent.push(id);
                }
                sent
            })
        })
        .collect();
    let mut took = Vec::new();
    for generation in 1..=SHIFTS {
        let (old, arm) = if generation % 2 == 1 { (0, "v1") } else { (10_000, "v2") };
        let reply = proxy.set(generation, &shifted(old)).await;
        assert!(reply.changed);
        took.push(reply);
        let after = counts(&proxy.client.observe().await.unwrap(), arm, Arm::Stable).claimed;
        // Whatever is claimed from here on would have slipped.
        if generation % 20 == 0 || generation < 5 {
            proxy.client.drain(SERVICE, arm, std::time::Duration::from_secs(10)).await.unwrap();
        }
        let later = counts(&proxy.client.observe().await.unwrap(), arm, Arm::Stable).claimed;
        assert_eq!(
            later,
            after,
            "claimed on {arm} after the acknowledgement of generation {}",
            generation + 1
        );
    }
    stop.store(true, Ordering::SeqCst);
    let mut sent = Vec::new();
    for client in clients {
        sent.extend(client.await.unwrap());
    }
    let mut received = v1.shared.posted.lock().unwrap().clone();
    received.extend(v2.shared.posted.lock().unwrap().clone());
    assert!(sent.len() > 200, "{}", sent.len());
    assert_eq!(received.len(), sent.len(), "each POST arrives exactly once");
    assert_eq!(received.iter().collect::<BTreeSet<_>>(), sent.iter().collect());
    let seen = proxy.client.observe().await.unwrap();
    let (a, b) = (counts(&seen, "v1", Arm::Stable), counts(&seen, "v2", Arm::Stable));
    assert_eq!(a.finished + b.finished, sent.len() as u64);
    assert_eq!(a.failed_total() + b.failed_total() + a.cut + b.cut, 0);
    let median = |mut all: Vec<u64>| {
        all.sort_unstable();
        (all[all.len() / 2] / 1_000, all[all.len() * 99 / 100] / 1_000)
    };
    println!(
        "{} requests over {SHIFTS} shifts; set to last acknowledgement: p50, p99 = {:?} us, of which disk {:?} us",
        sent.len(),
        median(took.iter().map(|reply| reply.acknowledged_ns).collect()),
        median(took.iter().map(|reply| reply.persisted_ns).collect()),
    );
}
