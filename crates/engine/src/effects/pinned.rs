//! The way through the router to a revision that nobody else is sent to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use cutover_core::effect::Resource;
use cutover_core::file::{ProxyRoute, Route, Through};
use cutover_core::{Fault, Release, RevisionId};
use cutover_ports::{CheckedRoute, CheckedTls, InstanceState, ObservedInstance, Target};
use tokio::time::{Instant, sleep, timeout};

use super::{Act, fenced};

const AGAIN: Duration = Duration::from_millis(50);
/// What checks leave in flight is nothing that a user waits for.
const DRAIN: Duration = Duration::from_secs(1);

/// Tells whether one of the release's checks goes through the route.
fn wanted(release: &Release) -> bool {
    let checks = &release.file.checks;
    let mut through =
        checks.health.iter().map(|check| check.through).chain(checks.smoke.iter().map(|test| test.through));
    through.any(|through| through == Through::Route)
}

/// Lets the router know the instances, so that they can be reached by the header that is returned with the way; none
/// where no check wants that.
pub(super) async fn route(
    act: &Act,
    release: &Release,
    revision: &RevisionId,
    instances: &[ObservedInstance],
) -> Result<Option<CheckedRoute>, Fault> {
    if !wanted(release) {
        return Ok(None);
    }
    let routes = release.file.routes();
    // One that redirects leads elsewhere, and one behind another load balancer wants to hear of its clients.
    let usable = |route: &&ProxyRoute| route.redirect.is_none() && !route.proxy_protocol;
    let route = routes.iter().map(|Route::Proxy(route)| route).find(usable);
    let route = route.ok_or_else(|| {
        Fault::configuration("ask through the route: each route redirects, or wants a PROXY protocol header")
            .hint("add a route for checks, or leave `through: route` out")
    })?;
    let running = instances.iter().filter(|instance| instance.state == InstanceState::Running);
    let targets: Vec<Target> = running
        .map(|instance| Target {
            revision: revision.clone(),
            instance: instance.id.clone(),
            address: instance.address,
        })
        .collect();
    let router = &act.edges().router;
    let pin = alone(act, || {
        fenced(&act.service, |fence| router.pin(fence, &act.service.name, &routes, revision, &targets))
    })
    .await?;
    let tls = route.tls.as_ref().map(|tls| {
        let root = tls.acme.as_ref().and_then(|acme| acme.root.as_ref());
        CheckedTls { trust: root.into_iter().chain(&tls.cert).map(PathBuf::from).collect() }
    });
    Ok(Some(CheckedRoute { address: near(route.listen), pin, tls }))
}

/// Takes the revision out of the router again, of a release that goes back before it had traffic.
pub(super) async fn forget(act: &Act, revision: &RevisionId) -> Result<(), Fault> {
    if !wanted(&act.release) {
        return Ok(());
    }
    let router = &act.edges().router;
    let drain = || fenced(&act.service, |fence| router.drain(fence, &act.service.name, revision, DRAIN));
    alone(act, drain).await.map(drop)
}

/// Calls the router when nothing else of this service does: two effects on it never run at once.
async fn alone<T, F: Future<Output = Result<T, Fault>>>(act: &Act, call: impl Fn() -> F) -> Result<T, Fault> {
    let end = Instant::now() + act.timeouts().shift;
    loop {
        if let Some(_hold) = act.service.hold(Resource::Router) {
            let late =
                |_| Err(Fault::unknown("reach the revision through the route: the router did not answer"));
            return timeout(act.timeouts().shift, call()).await.unwrap_or_else(late);
        }
        if Instant::now() >= end {
            return Err(Fault::platform(
                "reach the revision through the route: the router is being acted on",
            ));
        }
        sleep(AGAIN).await;
    }
}

/// Who listens everywhere listens here.
fn near(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}
