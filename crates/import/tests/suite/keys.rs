//! Every key that the tools know is accounted for. The lists are those of the compose specification and of Kamal's own
//! configuration reference, written down here by themselves: a key that the importer forgot shows.

use cutover_import::{Fate, Finding, Import, Tool, fields};

use crate::of;

/// Keys of a compose service, each with a value.
const SERVICE: &str = r#"
annotations={a: b} attach=false build.additional_contexts={a: ../a} build.args={A: "1"} build.cache_from=[a] build.cache_to=[a]
build.context=. build.dockerfile=Dockerfile.prod build.dockerfile_inline="FROM scratch" build.entitlements=[a] build.extra_hosts=["a:1.1.1.1"]
build.isolation=default build.labels={a: b} build.network=host build.no_cache=true build.no_cache_filter=[a] build.platforms=[linux/amd64] build.privileged=true
build.provenance=true build.pull=true build.sbom=true build.secrets=[token] build.shm_size=1g build.ssh=[default] build.tags=["a:b"]
build.target=prod build.ulimits={nofile: 1} blkio_config={weight: 300} cap_add=[ALL] cap_drop=[ALL] cgroup=host cgroup_parent=a
command=[serve] configs=[a] container_name=web cpu_count=2 cpu_percent=50 cpu_period=1000 cpu_quota=500 cpu_rt_period=1000 cpu_rt_runtime=500
cpu_shares=512 cpus=0.5 cpuset="0,1" credential_spec={file: a.json} depends_on=[db] deploy.endpoint_mode=vip deploy.labels={a: b} deploy.mode=global
deploy.placement={constraints: [a]} deploy.replicas=3 deploy.resources.limits.cpus="0.5" deploy.resources.limits.memory=512m
deploy.resources.limits.pids=100 deploy.resources.reservations.cpus="0.1" deploy.resources.reservations.devices=[{capabilities: [gpu]}]
deploy.resources.reservations.generic_resources=[{discrete_resource_spec: {kind: a, value: 1}}] deploy.resources.reservations.memory=64m
deploy.restart_policy={condition: any} deploy.rollback_config={parallelism: 1} deploy.update_config.delay=10s deploy.update_config.failure_action=rollback
deploy.update_config.max_failure_ratio=0.1 deploy.update_config.monitor=5s deploy.update_config.order=start-first deploy.update_config.parallelism=1
develop={watch: [{path: ., action: sync}]} device_cgroup_rules=["c 1:3 mr"] devices=["/dev/a:/dev/a"] dns=1.1.1.1 dns_opt=[a] dns_search=a.example
domainname=a.example entrypoint=[/run] env_file=.env.production environment={LOG: info} expose=["3000"] extends={service: db} external_links=[a]
extra_hosts=["a:1.1.1.1"] gpus=all group_add=[mail] healthcheck.disable=false healthcheck.interval=5s healthcheck.retries=3
healthcheck.start_interval=1s healthcheck.start_period=10s healthcheck.test="curl http://localhost:3000/up" healthcheck.timeout=2s hostname=web
image=acme/web init=true ipc=host isolation=default label_file=a labels={a: b} links=[db] logging={driver: json-file} mac_address=02:42:ac:11:65:43
mem_limit=512m mem_reservation=64m mem_swappiness=10 memswap_limit=1g models=[a] network_mode=host networks=[back] oom_kill_disable=true
oom_score_adj=100 pid=host pids_limit=100 platform=linux/amd64 ports=["8080:3000"] post_start=[{command: a}] pre_stop=[{command: a}] privileged=true
profiles=[a] provider={type: a} pull_policy=always pull_refresh_after=1d read_only=true restart=always runtime=runc scale=2 secrets=[a]
security_opt=[a] shm_size=64m stdin_open=true stop_grace_period=10s stop_signal=SIGINT storage_opt={size: 1g} sysctls={a: 1} tmpfs=/tmp tty=true
ulimits={nofile: 1} use_api_socket=true user=app userns_mode=host uts=host volumes=["data:/data"] volumes_from=[db] working_dir=/srv
"#;

/// Keys of a compose file.
const FILE: &str = r"
version='3' name=shop include=[a.yaml] networks={back: {}} volumes={data: {}} secrets={a: {file: a}} configs={a: {file: a}} models={a: {model: b}}
x-anything={a: 1}
";

/// Keys of Kamal's file.
const KAMAL: &str = r#"
labels={a: b} volumes=["a:/a"] registry.server=ghcr.io registry.username=a registry.password=[SECRET] env.clear={A: b} env.secret=[TOKEN]
env.tags={a: {B: c}} asset_path=/app/public/assets hooks_path=.hooks hooks_output=quiet secrets_path=a error_pages_path=public
require_destination=true primary_role=web allow_empty_roles=true retain_containers=3 minimum_version=2.0.0 readiness_delay=4 deploy_timeout=10
drain_timeout=10 run_directory=/run ssh={user: a} builder.arch=amd64 builder.remote="ssh://a" builder.local=true builder.driver=docker
builder.cache={type: gha} builder.context=. builder.dockerfile=Dockerfile builder.target=a builder.args={A: b} builder.secrets=[S]
builder.ssh=default builder.provenance=true builder.sbom=true builder.pack={builder: a} accessories={db: {image: a}} proxy.app_port=3000
proxy.ssl=true proxy.ssl_redirect=false proxy.forward_headers=true proxy.response_timeout=10 proxy.path_prefix=/api
proxy.strip_path_prefix=false proxy.host=shop.example.com proxy.hosts=[a.example.com] proxy.healthcheck.interval=3 proxy.healthcheck.path=/health
proxy.healthcheck.timeout=3 proxy.buffering.requests=true proxy.buffering.responses=true proxy.buffering.max_request_body=1000000
proxy.buffering.max_response_body=0 proxy.buffering.memory=1000 proxy.logging={request_headers: [a]} proxy.run={http_port: 80}
proxy.loadbalancer=a sshkit={dns_retries: 3} boot.limit=2 boot.wait=10 logging.driver=json-file logging.options={max-size: 1m}
output={file: {path: a}} aliases={a: b} rollout={max_percent: 25} otel={endpoint: "http://a"} x-anything={a: 1}
servers.web.hosts=[a] servers.web.cmd=serve servers.web.options.memory=1g servers.web.options.cpus=1 servers.web.options.init=true
servers.web.logging={driver: json-file} servers.web.labels={a: b} servers.web.env={C: d} servers.web.asset_path=/app/public/packs
servers.web.proxy={app_port: 3000} servers.web.rollout=true servers.job={hosts: [a], cmd: work}
"#;

/// Splits a list at spaces outside of quotes and brackets.
fn pairs(list: &str) -> Vec<(&str, &str)> {
    let (mut found, mut from, mut depth, mut quote) = (Vec::new(), 0, 0, None);
    for (at, c) in list.char_indices().chain([(list.len(), ' ')]) {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '[' | '{') => depth += 1,
            (None, ']' | '}') => depth -= 1,
            (None, c) if c.is_whitespace() && depth == 0 => {
                found.extend(list[from..at].trim().split_once('='));
                from = at;
            }
            _ => {}
        }
    }
    found
}

/// `a.b.c: value` as nested keys.
fn nested(key: &str, value: &str, indent: usize) -> String {
    let mut text = String::new();
    let parts: Vec<&str> = key.split('.').collect();
    for (i, part) in parts.iter().enumerate() {
        let end = if i + 1 == parts.len() { format!(" {value}") } else { String::new() };
        text += &format!("{:width$}{part}:{end}\n", "", width = indent + 2 * i);
    }
    text
}

/// Something is said of the key, and it is not that nobody knows it.
fn accounted(key: &str, path: &str, findings: &[Finding]) {
    let about: Vec<&Finding> = findings
        .iter()
        .filter(|finding| {
            let rest = finding.key.strip_prefix(path);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
        .collect();
    assert!(!about.is_empty(), "nothing is said of {key}: {findings:#?}");
    for finding in about {
        assert!(!finding.what.contains("key that cutover knows"), "{key}: {finding}");
        assert!(!finding.what.contains("cannot be read as this key"), "{key}: {finding}");
        assert!(finding.line > 0);
        if finding.fate == Fate::NotHonoured {
            assert!(
                !finding.what.is_empty() && !finding.next.is_empty(),
                "{key} needs words and a next step"
            );
        }
    }
}

/// A key that is honoured changes the release file; what is said to be so is so.
fn tells(tool: Tool, key: &str, with: &Import, without: &Import) {
    let Some(field) = fields(tool).find(|field| field.key == key) else { return };
    if field.fate == Fate::Honoured {
        assert_ne!(with.text, without.text, "{key} is said to become {}", field.becomes);
        let last = field.becomes.rsplit('.').next().unwrap();
        assert!(with.text.contains(last), "{key} is said to become {}:\n{}", field.becomes, with.text);
    }
    if field.fate == Fate::NotHonoured {
        let without_comments =
            |text: &str| -> String { text.lines().filter(|line| !line.contains('#')).collect() };
        assert_eq!(
            without_comments(&with.text),
            without_comments(&without.text),
            "{key} is said to be left out"
        );
    }
}

#[test]
fn every_key_of_a_compose_service_is_accounted_for() {
    let all = pairs(SERVICE);
    assert!(all.len() > 140, "{}", all.len());
    for (key, value) in all {
        let mut text = String::from("services:\n  db: {image: postgres}\n  web:\n");
        if key != "image" && !key.starts_with("build") {
            text += "    image: shop\n";
        }
        // What is said of some keys depends on another.
        if key.starts_with("deploy.update_config") {
            text += "    scale: 4\n";
        }
        let nested = match key {
            "healthcheck.interval" | "healthcheck.timeout" => {
                text += "    healthcheck:\n      test: curl http://localhost:3000/up\n";
                format!("      {}: {value}\n", &key[12..])
            }
            _ => nested(key, value, 4),
        };
        text += &nested;
        let import = of("compose.yaml", text.as_bytes(), Some("web"))
            .unwrap_or_else(|errors| panic!("{key}: {errors}"));
        accounted(key, &format!("services.web.{key}"), &import.findings);
        let without = text.replace(&nested, "");
        // A network of its own keeps it from the one of compose.
        if key != "image" && key != "network_mode" && !key.starts_with("build") {
            let base = of("compose.yaml", without.as_bytes(), Some("web")).unwrap();
            tells(Tool::Compose, key, &import, &base);
        }
    }
}

#[test]
fn every_key_of_a_compose_file_is_accounted_for() {
    for (key, value) in pairs(FILE) {
        let text = format!("services:\n  web:\n    image: shop\n{}", nested(key, value, 0));
        let import =
            of("compose.yaml", text.as_bytes(), None).unwrap_or_else(|errors| panic!("{key}: {errors}"));
        accounted(key, key, &import.findings);
    }
}

#[test]
fn every_key_of_a_kamal_file_is_accounted_for() {
    let all = pairs(KAMAL);
    assert!(all.len() > 70, "{}", all.len());
    for (key, value) in all {
        let mut text = String::from("service: shop\nimage: acme/shop\n");
        if key == "servers.job" {
            text += "servers:\n  web: {hosts: [a]}\n  job: {hosts: [a], cmd: work}\n";
        } else {
            text += &nested(key, value, 0);
        }
        // Some keys mean something beside a host alone.
        if key.starts_with("proxy.ssl") {
            text += "  host: shop.example.com\n";
        }
        if key == "boot.wait" {
            text += "  limit: 1\n";
        }
        if key == "primary_role" {
            text += "servers: {web: {hosts: [a]}}\n";
        }
        let import = of("deploy.yml", text.as_bytes(), None)
            .unwrap_or_else(|errors| panic!("{key}: {errors}\n{text}"));
        accounted(key, key, &import.findings);
        let without = text.replace(&nested(key, value, 0), "");
        // These say what is so without them, or stand beside others here.
        if !key.starts_with("proxy.ssl")
            && !["boot.wait", "primary_role", "builder.context", "builder.dockerfile", "accessories"]
                .contains(&key)
        {
            tells(Tool::Kamal, key, &import, &of("deploy.yml", without.as_bytes(), None).unwrap());
        }
    }
}

#[test]
fn a_key_that_nobody_knows_is_said_so_wherever_it_stands() {
    let text = "services:\n  web:\n    image: shop\n    colour: red\n    build2: {a: 1}\n    deploy: {speed: 9}\n    healthcheck: 5\nsurprise: 1\n";
    let import = of("compose.yaml", text.as_bytes(), None).unwrap();
    for key in [
        "services.web.colour",
        "services.web.build2",
        "services.web.deploy.speed",
        "services.web.healthcheck",
        "surprise",
    ] {
        let finding = import.findings.iter().find(|finding| finding.key == key);
        assert_eq!(finding.map(|finding| finding.fate), Some(Fate::NotHonoured), "{key}");
    }
}
