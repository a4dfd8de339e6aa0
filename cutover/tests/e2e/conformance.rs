//! The conformance suite of the ports against the real edges: local processes, and cutover's own proxy.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use cutover_core::file::{LocalPlatform as LocalSection, Platform as PlatformSection, Process, Route};
use cutover_core::{InstanceId, ReleaseFile, RevisionId, ServiceName};
use cutover_local::{LocalPlatform, Options};
use cutover_ports::conformance::{PlatformFixture, RouterFixture, platform_cases, router_cases};
use cutover_ports::{Platform, RevisionSpec, Router, Target};
use cutover_proxy_router::ProxyRouter;

use crate::harness::{Scratch, wait};

struct Local {
    platform: Arc<LocalPlatform>,
    scratch: Scratch,
}

impl Local {
    fn spec_of(&self, service: &ServiceName, command: &str) -> RevisionSpec {
        let file = ReleaseFile::read(
            "conformance",
            &format!(
                "service: {service}\nplatform: {{local: {{command: {command}, stop_grace: 5s}}}}\n\
                 route: [{{proxy: {{listen: '127.0.0.1:1'}}}}]\n"
            ),
        );
        let platform: PlatformSection = file.unwrap().platform;
        RevisionSpec {
            service: service.clone(),
            platform,
            processes: BTreeMap::new(),
            settings: String::new(),
            base: self.scratch.path().to_path_buf(),
            secrets: BTreeMap::new(),
        }
    }
}

impl PlatformFixture for Local {
    fn platform(&self) -> Arc<dyn Platform> {
        self.platform.clone()
    }

    fn spec(&self, service: &ServiceName, variant: u32) -> RevisionSpec {
        let mut spec = self
            .spec_of(service, "[sh, -c, 'echo begins; exec python3 -m http.server $PORT --bind 127.0.0.1']");
        let PlatformSection::Local(LocalSection { env, .. }) = &mut spec.platform else { panic!("local") };
        env.insert("VARIANT".into(), variant.to_string());
        spec
    }

    fn exiting(&self, service: &ServiceName) -> Option<RevisionSpec> {
        Some(self.spec_of(service, "[sh, -c, 'echo no config; exit 3']"))
    }

    fn process(&self) -> Process {
        let command = ["sh", "-c", "echo begins; exec sleep 100000"].map(String::from).to_vec();
        Process { command, replicas: 1, overlap: true, stop_grace: None }
    }
}

#[test]
fn the_local_platform_conforms() {
    if !crate::harness::python_there("the_local_platform_conforms") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let scratch = Scratch::new();
        let platform = LocalPlatform::open(scratch.state(), Options::default()).await.unwrap();
        let fixture = Local { platform: Arc::new(platform), scratch };
        let passed = platform_cases(&fixture).await.unwrap();
        println!("local: {}", passed.join(", "));
        assert!(passed.len() >= 14);
    });
}

struct Proxy {
    router: Arc<ProxyRouter>,
    scratch: Scratch,
    listeners: std::sync::Mutex<Vec<std::net::TcpListener>>,
}

#[async_trait]
impl RouterFixture for Proxy {
    fn router(&self) -> Arc<dyn Router> {
        self.router.clone()
    }

    fn routes(&self, service: &ServiceName) -> Vec<Route> {
        let text = format!(
            "service: shop\nplatform: {{local: {{command: [x]}}}}\n\
             route: [{{proxy: {{listen: '{}', host: {service}.localhost}}}}]\n",
            self.scratch.address
        );
        ReleaseFile::read("conformance", &text).unwrap().route
    }

    async fn targets(&self, _: &ServiceName, revision: &RevisionId) -> Vec<Target> {
        let mut listeners = self.listeners.lock().unwrap();
        (0..2)
            .map(|i| {
                let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
                let address = listener.local_addr().unwrap();
                listeners.push(listener);
                Target {
                    revision: revision.clone(),
                    instance: InstanceId::new(format!("{revision}-{i}")),
                    address,
                }
            })
            .collect()
    }

    async fn edit(&self, service: &ServiceName) -> bool {
        let client = cutover_proxy::Client::new(self.scratch.state().join("proxy"));
        let seen = client.observe_service(service.as_str()).await.unwrap();
        let seen = &seen.services[service.as_str()];
        let mut table = seen.table.clone();
        table.tracks.reverse();
        let weights: Vec<u16> = table.tracks.iter().map(|track| track.weight_bp).rev().collect();
        for (track, weight) in table.tracks.iter_mut().zip(weights) {
            track.weight_bp = weight;
        }
        table.maintenance = Some("somebody else was here".into());
        client.set(service.as_str(), table.generation, table.epoch, &table).await.unwrap();
        true
    }

    async fn trip(&self, service: &ServiceName) -> bool {
        let client = cutover_proxy::Client::new(self.scratch.state().join("proxy"));
        // Refused where nobody could take over.
        let _ = client.back(service.as_str(), "planned").await;
        true
    }
}

#[test]
fn the_proxy_conforms() {
    let scratch = Scratch::new();
    let mut holder = scratch.spawn(&["proxy"]);
    wait("the proxy", || (scratch.run(&["proxy", "status"]).code == 0).then_some(()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let router = Arc::new(ProxyRouter::new(&scratch.state().join("proxy"), "ab".repeat(32)));
        let fixture = Proxy { router, scratch, listeners: std::sync::Mutex::default() };
        let passed = router_cases(&fixture).await.unwrap();
        println!("proxy: {}", passed.join(", "));
        assert!(passed.len() >= 10);
        drop(fixture);
    });
    let _ = holder.wait();
}
