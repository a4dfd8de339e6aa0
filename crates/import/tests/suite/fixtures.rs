//! Files as people have them: the release file and the findings, as they are shown.

use std::fs;
use std::path::Path;

use cutover_core::ReleaseFile;
use cutover_core::file::Platform;
use expect_test::expect_file;

use crate::of;

/// Imports a fixture, and compares the release file and what is said with what lies beside it.
fn check(path: &str, service: Option<&str>) -> ReleaseFile {
    let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path);
    let name = path.split_once('/').map_or(path, |(_, name)| name);
    let text = fs::read_to_string(&whole).unwrap();
    let import = of(name, text.as_bytes(), service).unwrap_or_else(|errors| panic!("{errors}"));
    let said =
        format!("{}\n--- said\n{}\n--- next\n{}\n", import.text, import.report(), import.next.join("\n"));
    assert!(!said.contains("hunter2") && !said.contains("abc123"), "a secret was printed:\n{said}");
    expect_file![whole.with_extension("out")].assert_eq(&said);
    let json = format!("{:?}", import.findings);
    assert!(!json.contains("hunter2") && !json.contains("abc123"), "a secret is in the findings:\n{json}");
    ReleaseFile::read("cutover.yaml", &import.text).unwrap_or_else(|errors| panic!("{errors}"))
}

fn docker(file: &ReleaseFile) -> &cutover_core::file::DockerPlatform {
    match &file.platform {
        Platform::Docker(docker) => docker,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_compose_file_of_one_service() {
    let file = check("compose/plain.yaml", None);
    assert_eq!(docker(&file).volumes, ["shop_data:/data"]);
    assert_eq!(docker(&file).port, Some(3000));
}

#[test]
fn a_compose_file_with_workers_stores_anchors_and_an_env_file() {
    let file = check("compose/rails.yaml", None);
    let names: Vec<&str> = file.processes.keys().map(cutover_core::ProcessName::as_str).collect();
    assert_eq!(names, ["clock", "sidekiq"]);
    assert_eq!(docker(&file).secrets, ["DATABASE_URL", "SECRET_KEY_BASE", "MAIL_TOKEN", "LOCALE"]);
    assert_eq!(docker(&file).networks, ["shop_backend"]);
}

#[test]
fn a_compose_file_behind_traefik() {
    let file = check("compose/traefik.yaml", Some("app"));
    assert_eq!(file.route.len(), 2);
}

#[test]
fn a_compose_file_for_swarm() {
    let file = check("compose/swarm.yaml", None);
    assert_eq!(file.strategy.name(), "rolling");
    assert_eq!(docker(&file).entrypoint, ["/api"]);
}

#[test]
fn a_compose_file_of_variables() {
    let file = check("compose/variables.yaml", None);
    assert_eq!(docker(&file).image.as_deref(), Some("ghcr.io/acme/blog:1.4"));
    assert_eq!(docker(&file).env.get("MODE").map(String::as_str), Some("live"));
}

#[test]
fn a_compose_file_of_odd_keys() {
    check("compose/odd.yaml", None);
}

#[test]
fn a_compose_file_as_compose_writes_it_out() {
    let file = check("compose/whole.json", None);
    assert_eq!(docker(&file).build.as_ref().unwrap().secrets, ["NPM_TOKEN", "pip_conf", "ssh_key"]);
}

#[test]
fn a_kamal_file_as_it_is_made() {
    let file = check("kamal/plain.yml", None);
    assert_eq!(file.route.len(), 2);
    assert_eq!(docker(&file).port, Some(80));
}

#[test]
fn a_kamal_file_with_roles_hosts_and_accessories() {
    let file = check("kamal/roles.yml", None);
    let names: Vec<&str> = file.processes.keys().map(cutover_core::ProcessName::as_str).collect();
    assert_eq!(names, ["cron_scheduler", "job"]);
    assert!(!file.processes.values().next().unwrap().overlap);
}

#[test]
fn a_kamal_file_with_ruby() {
    check("kamal/ruby.yml", None);
}

#[test]
fn a_kamal_file_with_certificates_and_paths() {
    let file = check("kamal/certs.yml", None);
    assert_eq!(file.service.as_str(), "api-v2");
    assert_eq!(file.route.len(), 8);
}
