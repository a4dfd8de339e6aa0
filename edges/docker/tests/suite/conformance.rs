//! The conformance suite of the ports against a real engine.

use std::sync::Arc;

use cutover_core::ServiceName;
use cutover_core::file::Process;
use cutover_ports::conformance::{PlatformFixture, platform_cases};
use cutover_ports::{Platform, RevisionSpec};

use crate::suite::harness::{Shared, World, engines_wanted, run, serves};

struct Docker {
    platform: Shared,
    world: World,
    /// More keys below `platform.docker`.
    more: &'static str,
}

impl PlatformFixture for Docker {
    fn platform(&self) -> Arc<dyn Platform> {
        self.platform.clone()
    }

    fn spec(&self, service: &ServiceName, variant: u32) -> RevisionSpec {
        self.world.spec_of(service, &format!("{}, env: {{VARIANT: '{variant}'}}, {}", serves(), self.more))
    }

    fn exiting(&self, service: &ServiceName) -> Option<RevisionSpec> {
        Some(self.world.spec_of(service, "command: [sh, -c, 'echo no config; exit 3']"))
    }

    fn process(&self) -> Process {
        let command = ["sh", "-c", "trap 'exit 0' TERM; echo begins; sleep 100000 & wait"];
        let command = command.map(String::from).to_vec();
        Process { command, replicas: 1, overlap: true, stop_grace: None }
    }
}

fn conforms(more: &'static str) {
    run(async {
        let world = World::new();
        let platform = Arc::new(world.open().await);
        let fixture = Docker { platform, world, more };
        let passed = platform_cases(&fixture).await.unwrap();
        println!("docker: {}", passed.join(", "));
        assert_eq!(passed.len(), 17);
    });
}

#[test]
fn the_docker_platform_conforms() {
    if engines_wanted("the_docker_platform_conforms") {
        conforms("");
    }
}

#[test]
fn it_conforms_where_containers_are_reached_by_address() {
    if engines_wanted("it_conforms_where_containers_are_reached_by_address") {
        conforms("reach: address");
    }
}
