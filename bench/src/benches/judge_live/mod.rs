//! The judge at work, not simulated: canaries through the proxy that fail, and good ones that rise, many side by side.

mod arms;
mod clients;
mod rises;
mod service;
mod tell;
mod trips;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::task::JoinSet;

use self::arms::ArmServers;
use self::clients::Crowd;
use self::rises::Rises;
use self::service::Service;
use self::trips::{Begins, Told, Trips};
use super::scratch::Scratch;
use super::{Outcome, Setting};

/// What stable does before the releases. The proxy writes its counts down every 10 s, and a judge begins with those.
const BEFORE: Duration = Duration::from_secs(11);
const WELL: Duration = Duration::from_secs(5);

struct Extent {
    /// Services at this rate, and releases of each that fail at once, and that fail later.
    failing: [(f64, usize, [usize; 2]); 2],
    /// Services at 100 requests/s with a good release each, and how long it may take.
    good: (usize, Duration),
    /// The good ones wait until the others are done: so they have the machine for themselves.
    apart: bool,
}

const FULL: Extent = Extent {
    failing: [(100.0, 25, [2, 2]), (1_000.0, 5, [10, 10])],
    good: (50, Duration::from_secs(240)),
    apart: true,
};
const QUICK: Extent = Extent {
    failing: [(100.0, 10, [1, 1]), (1_000.0, 2, [5, 3])],
    good: (8, Duration::from_secs(44)),
    apart: false,
};

/// Releases that fail, of one rate.
struct Failing {
    rate: f64,
    /// With their first request, and after a while.
    at_once: Trips,
    later: Trips,
}

pub(super) async fn run(setting: &Setting) -> Result<Outcome> {
    let extent = if setting.quick { QUICK } else { FULL };
    let mut scratch = Scratch::new(setting.cutover()?)?;
    let (proxy, address) = scratch.start_proxy().await?;
    let counts = extent.failing.map(|(_, count, _)| count);
    let servers = ArmServers::start(2 * (counts.iter().sum::<usize>() + extent.good.0))?;
    let mut at = 0;
    let mut services = |count, rate| {
        let made: Vec<Arc<Service>> =
            service::make(&proxy, &servers, at, count, rate).into_iter().map(Arc::new).collect();
        at += count;
        made
    };
    let failing = extent.failing.map(|(rate, count, _)| services(count, rate));
    let good = services(extent.good.0, 100.0);
    for service in failing.iter().flatten().chain(&good) {
        service.stable.fail(rises::USUAL_BP);
        service.route(None).await?;
    }
    let users = |services: &[Arc<Service>]| services.iter().map(|service| service.users.clone()).collect();
    let crowd = |services: &[Arc<Service>]| Crowd::start(address, users(services));
    let (told, listening) = Told::listen(&proxy);

    let first: Vec<Arc<Service>> =
        failing.iter().flatten().chain(good.iter().filter(|_| !extent.apart)).cloned().collect();
    let rate: f64 = first.iter().map(|service| service.users.rate).sum();
    println!("cutover on {address}: {} services, {rate} requests a second, open loop", first.len());
    let load = crowd(&first);
    tokio::time::sleep(BEFORE).await;
    let mut good_ones = JoinSet::new();
    let rise = |good: &[Arc<Service>]| {
        let mut rising = JoinSet::new();
        good.iter().for_each(|service| drop(rising.spawn(rises::make(service.clone(), extent.good.1))));
        rising
    };
    if !extent.apart {
        good_ones = rise(&good);
    }
    let mut rows = Vec::new();
    let mut making = JoinSet::new();
    for (row, (services, (rate, _, runs))) in failing.iter().zip(extent.failing).enumerate() {
        rows.push(Failing { rate, at_once: Trips::default(), later: Trips::default() });
        for service in services {
            let (service, told) = (service.clone(), told.clone());
            making.spawn(async move {
                let [at_once, later] = [0..runs[0], runs[0]..runs[0] + runs[1]];
                let at_once = trips::make(service.clone(), told.clone(), Begins::AtOnce, at_once).await?;
                let later = trips::make(service, told, Begins::After(WELL), later).await?;
                Ok::<_, anyhow::Error>((row, at_once, later))
            });
        }
    }
    while let Some(made) = making.join_next().await {
        ensure!(
            !load.gave_up(),
            load.stop().err().map_or("the clients ended".into(), |why| format!("{why:#}"))
        );
        let (row, at_once, later) = made??;
        rows[row].at_once.add(at_once);
        rows[row].later.add(later);
    }
    let load = if extent.apart {
        load.stop()?;
        let load = crowd(&good);
        tokio::time::sleep(BEFORE).await;
        good_ones = rise(&good);
        load
    } else {
        load
    };
    let mut rises = Rises::default();
    while let Some(made) = good_ones.join_next().await {
        rises.add(made??);
    }
    load.stop()?;
    listening.abort();
    Ok(tell::outcome(&rows, &rises, setting.quick))
}
