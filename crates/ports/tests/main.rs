//! The fakes keep what every edge promises.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use cutover_core::file::{Process, Route};
use cutover_core::{ReleaseFile, RevisionId, ServiceName};
use cutover_ports::conformance::{PlatformFixture, RouterFixture, platform_cases, router_cases};
use cutover_ports::fake::{Behavior, World};
use cutover_ports::{Platform, RevisionSpec, Router, Target};

struct Fake(Arc<World>);

fn file(variant: &str) -> ReleaseFile {
    let text = format!(
        "service: shop\nplatform: {{local: {{command: [./shop], env: {{REVISION: {variant}}}}}}}\n\
         route: [{{proxy: {{listen: \"127.0.0.1:8080\"}}}}]\n"
    );
    ReleaseFile::read("cutover.yaml", &text).unwrap()
}

impl PlatformFixture for Fake {
    fn platform(&self) -> Arc<dyn Platform> {
        self.0.edges().platform
    }

    fn spec(&self, service: &ServiceName, variant: u32) -> RevisionSpec {
        let platform = file(&format!("r-{variant}")).platform;
        RevisionSpec {
            service: service.clone(),
            platform,
            processes: Default::default(),
            settings: String::new(),
            base: PathBuf::from("/"),
            secrets: Default::default(),
        }
    }

    fn exiting(&self, service: &ServiceName) -> Option<RevisionSpec> {
        let exits = Some(("exit status 1".to_string(), vec!["no".to_string()]));
        self.0.behave("r-99", Behavior { exits, ..Behavior::default() });
        Some(self.spec(service, 99))
    }

    fn process(&self) -> Process {
        Process { command: vec!["./work".into()], replicas: 1, overlap: true, stop_grace: None }
    }
}

#[async_trait]
impl RouterFixture for Fake {
    fn router(&self) -> Arc<dyn Router> {
        self.0.edges().router
    }

    fn routes(&self, _service: &ServiceName) -> Vec<Route> {
        file("r-1").route
    }

    async fn targets(&self, service: &ServiceName, revision: &RevisionId) -> Vec<Target> {
        let port = if revision.as_str() == "r-stable" { 1_000 } else { 2_000 };
        let target = |n: u16| Target {
            revision: revision.clone(),
            instance: format!("{service}-{revision}-{n}").as_str().into(),
            address: ([127, 0, 0, 1], port + n).into(),
        };
        vec![target(1), target(2)]
    }

    async fn edit(&self, service: &ServiceName) -> bool {
        self.0.edit_table(service.as_str());
        true
    }

    async fn trip(&self, service: &ServiceName) -> bool {
        self.0.trip(service.as_str(), "planned");
        true
    }
}

#[tokio::test(start_paused = true)]
async fn the_fake_platform_conforms() {
    let passed = platform_cases(&Fake(World::new())).await.unwrap();
    assert_eq!(passed.len(), 17, "{passed:?}");
}

#[tokio::test(start_paused = true)]
async fn the_fake_router_conforms() {
    let world = World::new();
    let passed = router_cases(&Fake(world.clone())).await.unwrap();
    assert_eq!(passed.len(), 18, "{passed:?}");
    assert_eq!(world.violations(), Vec::<String>::new());
}
