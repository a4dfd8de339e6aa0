//! Two hosts keep together what every edge promises.

use std::sync::Arc;

use async_trait::async_trait;
use cutover_core::file::{Process, Route};
use cutover_core::{RevisionId, ServiceName};
use cutover_ports::conformance::{PlatformFixture, RouterFixture, platform_cases, router_cases};
use cutover_ports::fake::Behavior;
use cutover_ports::{Platform, RevisionSpec, Router, Target};

use super::harness::{BEYOND, Two, routes, spec};

impl PlatformFixture for Two {
    fn platform(&self) -> Arc<dyn Platform> {
        self.platform.clone()
    }

    fn spec(&self, service: &ServiceName, variant: u32) -> RevisionSpec {
        spec(service, &format!("r-{variant}"))
    }

    fn exiting(&self, service: &ServiceName) -> Option<RevisionSpec> {
        let exits = Some(("exit status 1".to_string(), vec!["no".to_string()]));
        for world in &self.worlds {
            world.behave("r-99", Behavior { exits: exits.clone(), ..Behavior::default() });
        }
        Some(spec(service, "r-99"))
    }

    fn process(&self) -> Process {
        Process { command: vec!["./work".into()], replicas: 1, overlap: true, stop_grace: None }
    }
}

#[async_trait]
impl RouterFixture for Two {
    fn router(&self) -> Arc<dyn Router> {
        self.router.clone()
    }

    fn routes(&self, _service: &ServiceName) -> Vec<Route> {
        routes()
    }

    async fn targets(&self, service: &ServiceName, revision: &RevisionId) -> Vec<Target> {
        let port = if revision.as_str() == "r-stable" { 1_000 } else { 2_000 };
        let target = |(n, host): (u16, &str)| Target {
            revision: revision.clone(),
            instance: format!("{service}-{revision}-{n}@{host}").as_str().into(),
            // The same on both hosts: each is its own host's, and reached at another one here.
            address: ([127, 0, 0, 1], port + n + if host == "b" { BEYOND } else { 0 }).into(),
        };
        [(1, "a"), (1, "b"), (2, "a"), (2, "b")].map(target).to_vec()
    }

    async fn edit(&self, service: &ServiceName) -> bool {
        self.worlds[1].edit_table(service.as_str());
        true
    }

    async fn trip(&self, service: &ServiceName) -> bool {
        // On one host alone: what is shown is what the careful one does.
        self.worlds[1].trip(service.as_str(), "planned");
        true
    }
}

#[tokio::test(start_paused = true)]
async fn two_hosts_conform_as_a_platform() {
    let passed = platform_cases(&Two::new()).await.unwrap();
    assert_eq!(passed.len(), 17, "{passed:?}");
}

#[tokio::test(start_paused = true)]
async fn two_hosts_conform_as_a_router() {
    let two = Two::new();
    let passed = router_cases(&two).await.unwrap();
    assert_eq!(passed.len(), 18, "{passed:?}");
    for world in &two.worlds {
        assert_eq!(world.violations(), Vec::<String>::new());
    }
}
