//! `cutover import`: files of other tools become release files that check, and nothing of them is lost in silence.

use std::fs;

use cutover_docker_engine::Engine;

use crate::harness::{Scratch, get, servers_wanted};

const COMPOSE: &str = "services:
  db:
    image: postgres:17
    environment: {POSTGRES_PASSWORD: hunter2}
  web:
    image: registry.example/shop:${SHOP_TAG}
    command: bin/shop --serve
    ports: [\"127.0.0.1:18080:3000\"]
    env_file: [web.env]
    environment:
      LOG_LEVEL: ${LOG_LEVEL:-info}
      DATABASE_URL: postgres://shop:hunter2@db/shop
    healthcheck: {test: [CMD, curl, -f, \"http://localhost:3000/up\"], interval: 5s}
    cap_add: [NET_ADMIN]
  worker:
    image: registry.example/shop:${SHOP_TAG}
    command: bin/shop --work
    env_file: [web.env]
";

fn folder() -> Scratch {
    let scratch = Scratch::new();
    fs::write(scratch.path().join("compose.yaml"), COMPOSE).unwrap();
    fs::write(scratch.path().join("web.env"), "MAIL_TOKEN=hunter2\n").unwrap();
    fs::write(scratch.path().join(".env"), "SHOP_TAG=1.4\nLOG_LEVEL=debug\n").unwrap();
    scratch
}

#[test]
fn a_compose_file_becomes_a_release_file_that_checks() {
    let scratch = folder();
    let said = scratch.run(&["import", "compose.yaml"]).expect(0);
    let text = fs::read_to_string(scratch.path().join("cutover.yaml")).unwrap();
    for line in [
        "image: \"registry.example/shop:1.4\"",
        "command: [bin/shop, --serve]",
        "port: 3000",
        "LOG_LEVEL: info",
        "secrets: [DATABASE_URL, MAIL_TOKEN]",
        "listen: \"127.0.0.1:18080\"",
        "{path: /up, interval: 5s}",
        "worker: {command: [bin/shop, --work]}",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(
        said.out.contains("services.web.cap_add (line 14): containers get what the engine gives"),
        "{}",
        said.out
    );
    assert!(said.out.contains("docker compose up -d db"), "{}", said.out);
    assert!(said.out.contains("set -a; . ./web.env; set +a\n      export DATABASE_URL=…"), "{}", said.out);
    assert!(!format!("{}{}{text}", said.out, said.err).contains("hunter2"), "{}", said.out);
    scratch.run(&["check"]).expect(0);
}

#[test]
fn what_is_there_is_left_and_another_place_can_be_named() {
    let scratch = folder();
    fs::write(scratch.path().join("cutover.yaml"), "mine").unwrap();
    let said = scratch.run(&["import", "compose.yaml"]).expect(2);
    assert!(said.err.contains("cutover.yaml is there already, and left as it is"), "{}", said.err);
    let said = scratch.run(&["import", "compose.yaml", "-o", "-"]).expect(0);
    assert!(
        said.out.starts_with("# The release file of") && said.err.contains("not honoured"),
        "{}",
        said.err
    );
    let said = scratch.run(&["import", "compose.yaml", "-o", "other.yaml", "--output", "json"]).expect(0);
    let findings = said.json()["import"]["findings"].as_array().unwrap().len();
    assert!(findings > 10, "{findings}");
    scratch.run(&["check", "-f", "other.yaml"]).expect(0);
    assert_eq!(fs::read_to_string(scratch.path().join("cutover.yaml")).unwrap(), "mine");
    scratch.run(&["import", "compose.yaml", "--force"]).expect(0);
    scratch.run(&["check"]).expect(0);
}

#[test]
fn paths_are_seen_from_where_the_release_file_lies() {
    let scratch = Scratch::new();
    fs::create_dir_all(scratch.path().join("config")).unwrap();
    fs::create_dir_all(scratch.path().join("stack")).unwrap();
    let kamal = "service: shop\nimage: acme/shop\nservers: [192.0.2.1]\nenv: {secret: [TOKEN]}\n";
    fs::write(scratch.path().join("config/deploy.yml"), kamal).unwrap();
    let compose = "services: {web: {build: ./app, ports: ['8080:80'], volumes: ['./conf:/etc/web:ro']}}\n";
    fs::write(scratch.path().join("stack/compose.yaml"), compose).unwrap();
    let said = scratch.run(&["import", "config/deploy.yml"]).expect(0);
    assert!(said.out.contains(". ./.kamal/secrets;"), "{}", said.out);
    let text = fs::read_to_string(scratch.path().join("cutover.yaml")).unwrap();
    assert!(text.contains("context: .\n"), "{text}");
    scratch.run(&["check"]).expect(0);
    let said = scratch.run(&["import", "stack/compose.yaml", "-o", "-"]).expect(0);
    assert!(
        said.out.contains("context: ./stack/app\n") && said.out.contains("./stack/conf:/etc/web:ro"),
        "{}",
        said.out
    );
}

#[test]
fn what_cannot_be_imported_is_said_where_it_stands() {
    let scratch = Scratch::new();
    fs::write(scratch.path().join("k8s.yaml"), "apiVersion: v1\nkind: Pod\n").unwrap();
    let said = scratch.run(&["import", "k8s.yaml"]).expect(2);
    assert!(said.err.contains("k8s.yaml:1:1: this is neither a compose file nor Kamal's"), "{}", said.err);
    let said = scratch.run(&["import", "none.yaml"]).expect(2);
    assert!(said.err.contains("name a compose file, or Kamal's config/deploy.yml"), "{}", said.err);
    scratch.run(&["import", "."]).expect(2);
    assert!(!scratch.path().join("cutover.yaml").exists());
}

#[test]
fn what_was_imported_is_planned_and_released_by_a_real_engine() {
    if !servers_wanted("what_was_imported_is_planned_and_released_by_a_real_engine") {
        return;
    }
    let (engine, mut scratch) = (Engine::start(), Scratch::new());
    scratch.docker_host = Some(engine.host());
    let exe = std::env::current_exe().unwrap();
    let entry = "CMD [\"/shop\", \"--exact\", \"service::entry\", \"--nocapture\"]";
    engine.image("shop:v1", &[(&exe, "/shop")], &["ENV E2E_SERVICE=1 EVERYWHERE=1", entry]);
    let received = scratch.path().join("received.txt");
    fs::write(received, "").unwrap();
    let compose = format!(
        "services:\n  shop:\n    image: shop:${{TAG:-v1}}\n    ports: ['{}:9000']\n    \
         environment: [VERSION=v1, RECEIVED=/data/received.txt]\n    volumes: ['./:/data']\n    \
         healthcheck: {{test: curl -f http://localhost:9000/health, interval: 1s}}\n    deploy: {{replicas: 2}}\n",
        scratch.address
    );
    fs::write(scratch.path().join("compose.yaml"), compose).unwrap();
    scratch.run(&["import", "compose.yaml", "-o", "shop.yaml"]).expect(0);
    let plan = scratch.run(&["plan", "-f", "shop.yaml"]).expect(0);
    assert!(plan.out.contains("2 instances of d-"), "{}", plan.out);
    let path = scratch.path().join("shop.yaml");
    let text = fs::read_to_string(&path).unwrap() + "bake: 0s\nkeep_warm: 0s\n";
    fs::write(&path, text).unwrap();
    scratch.run(&["deploy", "-f", "shop.yaml"]).expect(0);
    assert_eq!(get(scratch.address, "/health").map(|(status, _)| status), Some(200));
}
