//! The open loop: what is due is sent, and nothing else.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use cutover_load::{Pace, Protocol};
use tokio::sync::watch;

use super::harness::{MS, candidate, rate, run, seen, server, spec, status};

/// All requests wait until the last of 50 has come. At 200 a second that is 245 ms after the first, so half of them wait for
/// 120 ms at least. A generator that waits for an answer before it sends the next would never get one; one that counts
/// from when it found time would find nothing slow.
#[tokio::test]
async fn a_stall_is_seen_by_every_request_that_meets_it() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let (came, _) = watch::channel(0);
        let came = Arc::new(came);
        let address = server(protocol, move |_| {
            let came = came.clone();
            async move {
                came.send_modify(|count| *count += 1);
                let _ = came.subscribe().wait_for(|count| *count >= 50).await;
                status(200)
            }
        })
        .await;
        // The time is long enough for 50 requests also where some are missed.
        let mut spec = spec(rate(200), MS * 2000);
        spec.protocol = protocol;
        let report = run(spec, &[candidate(address)]).await;
        let seen = seen(&report);
        assert_eq!((seen.failed, seen.requests + report.sent.missed), (0, 400), "{seen:?}");
        assert!(seen.max_us >= 244_000, "{seen:?}");
        let slow = 400.0 - 25.0;
        assert!(quantile_of(&seen.histogram, 120_000) <= slow / 400.0, "{protocol:?} {seen:?}");
    }
}

/// Returns the share of latencies below `us`, as a reader of the histogram's text finds it.
fn quantile_of(text: &str, us: u64) -> f64 {
    super::nginx::decode(text)
        .into_iter()
        .fold((0, 0), |(below, all), (value, count)| {
            (below + if value < us { count } else { 0 }, all + count)
        })
        .pipe(|(below, all)| below as f64 / all as f64)
}

trait Pipe: Sized {
    fn pipe<T>(self, through: impl FnOnce(Self) -> T) -> T {
        through(self)
    }
}
impl<T> Pipe for T {}

#[tokio::test]
async fn the_rate_is_never_exceeded() {
    let times = Arc::new(Mutex::new(Vec::new()));
    let noted = times.clone();
    let address = server(Protocol::Http1, move |_| {
        noted.lock().unwrap().push(Instant::now());
        async { status(200) }
    })
    .await;
    let begun = Instant::now();
    let report = run(spec(rate(500), MS * 1000), &[candidate(address)]).await;
    let times = times.lock().unwrap();
    assert_eq!(seen(&report).requests, times.len() as u64);
    assert_eq!(times.len() as u64 + report.sent.missed, 500);
    for (n, time) in times.iter().enumerate() {
        assert!(
            *time - begun >= MS * 2 * n as u32,
            "request {n} came {:?} after the beginning",
            *time - begun
        );
    }
}

#[tokio::test]
async fn what_cannot_be_sent_counts_as_failed_and_is_not_caught_up() {
    let count = Arc::new(Mutex::new(0));
    let counted = count.clone();
    let address = server(Protocol::Http1, move |_| {
        *counted.lock().unwrap() += 1;
        std::future::pending()
    })
    .await;
    let mut spec = spec(Pace::Rate { per_1000_s: 200_000, open: 2 }, MS * 1000);
    spec.timeout = MS * 300;
    let report = run(spec, &[candidate(address)]).await;
    let seen = seen(&report);
    assert_eq!((seen.requests + report.sent.missed, seen.failed), (200, seen.requests), "{report:?}");
    assert_eq!(seen.failures.timeout, *count.lock().unwrap(), "{seen:?}");
    // Two at a time, 300 ms each: 8 at most in this time.
    assert!(seen.failures.timeout <= 8 && seen.failures.unsent > 0, "{seen:?}");
    assert!(seen.first_failure.contains("in time"), "{seen:?}");
}
