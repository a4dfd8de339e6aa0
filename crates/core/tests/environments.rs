//! Environments: what is merged, what is replaced, what is removed, and what the base must hold by itself.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use cutover_core::file::{Document, Platform};
use cutover_core::{ReleaseFile, Span};
use expect_test::expect;

const FILE: &str = r#"service: shop
platform:
  local: {command: [./shop, --all], replicas: 2, env: {LOG: info, CACHE: "on"}, memory: 1Gi}
route:
  - proxy: {listen: "127.0.0.1:8080"}
  - proxy: {listen: "127.0.0.1:8081"}
guard: {success: 99%, p95: 500ms}
bake: 10m
environments:
  staging:
    service: shop-staging
    platform: {local: {replicas: 1, env: {LOG: debug, CACHE: null}, memory: null}}
    route: [{proxy: {listen: "127.0.0.1:9090"}}]
    guard: {p95: 2s}
    bake: 1m
  production:
"#;

fn document(source: &str) -> Document {
    Document::read("cutover.yaml", source.as_bytes()).unwrap()
}

fn environment(source: &str, name: &str) -> ReleaseFile {
    document(source).environment(name).unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn keys_are_merged_lists_replaced_and_null_removes() {
    let staging = environment(FILE, "staging");
    let Platform::Local(local) = &staging.platform else { panic!("local") };
    assert_eq!(staging.service.as_str(), "shop-staging");
    assert_eq!(local.command, ["./shop", "--all"]);
    assert_eq!((local.replicas, local.memory), (1, None));
    assert_eq!(local.env.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>(), ["LOG=debug"]);
    assert_eq!(staging.route.len(), 1);
    assert_eq!(staging.guard.success.to_string(), "99%");
    assert_eq!(staging.guard.p95, Some(Span::from_secs(2)));
    assert_eq!(staging.bake, Span::from_secs(60));
    assert_eq!(staging.environment.as_deref(), Some("staging"));
}

#[test]
fn an_empty_environment_is_the_base_by_another_name() {
    let base = document(FILE).base().unwrap();
    assert_eq!(base.environment, None);
    let production = environment(FILE, "production");
    assert_eq!(production.environment.as_deref(), Some("production"));
    assert_eq!(ReleaseFile { environment: None, ..production }, base);
}

#[test]
fn an_unknown_environment_is_told_the_nearest() {
    let said = |source: &str, name: &str| document(source).environment(name).unwrap_err().to_string();
    expect![[r#"
        cutover.yaml:10:3: the release file has no environment `stagign`
          10 |   staging:
             |   ^
          hint: did you mean `staging`? There are: staging, production"#]]
    .assert_eq(&said(FILE, "stagign"));
    expect![[r#"
        cutover.yaml:1:1: the release file has no environment `staging`
          1 | service: shop
            | ^
          hint: it has none: leave --env out, or add `environments:` to it"#]]
    .assert_eq(&said(&FILE[..FILE.find("environments").unwrap()], "staging"));
}

#[test]
fn a_base_may_leave_to_its_environments_what_each_adds() {
    let file = r#"service: shop
platform: {local: {command: [./shop]}}
environments:
  staging: {route: [{proxy: {listen: "127.0.0.1:9090"}}]}
  production: {route: [{proxy: {listen: "127.0.0.1:8080"}}]}
"#;
    let checked = document(file).check().unwrap();
    assert_eq!((checked.base, checked.lacks.as_str()), (None, "the key `route` is missing"));
    assert_eq!(checked.environments.len(), 2);
    expect![[r#"
        cutover.yaml:1:1: the key `route` is missing
          1 | service: shop
            | ^
          hint: name an environment that has it: --env staging, --env production; or say where requests come in: `route: [{proxy: {listen: "127.0.0.1:8080"}}]`"#]]
    .assert_eq(&document(file).base().unwrap_err().to_string());
}

#[test]
fn one_environment_is_not_held_up_by_a_mistake_in_another() {
    let file = FILE.replace("bake: 1m", "bake: soon");
    assert!(document(&file).environment("production").is_ok());
    assert!(document(&file).base().is_ok());
    assert!(document(&file).check().is_err());
}
