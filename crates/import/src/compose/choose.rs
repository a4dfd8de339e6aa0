//! Which service of the file is meant.

use cutover_core::file::FileErrors;
use cutover_core::file::foreign::{Place, short};

use crate::cursor::Cursor;
use crate::import::Work;

/// Images of what a service uses, and what nobody releases this way.
const STORES: [&str; 18] = [
    "postgres",
    "postgis",
    "mysql",
    "mariadb",
    "redis",
    "valkey",
    "mongo",
    "rabbitmq",
    "memcached",
    "elasticsearch",
    "opensearch",
    "minio",
    "kafka",
    "zookeeper",
    "traefik",
    "clickhouse-server",
    "mailhog",
    "etcd",
];

pub(super) fn choose<'a>(work: &Work<'_>, services: &Cursor<'a>) -> Result<Cursor<'a>, FileErrors> {
    let all = services.entries();
    if let Some(name) = work.input.service {
        return match services.get(name) {
            Some(at) => keys(work, at),
            None => {
                let what = format!("the file has no service `{}`", short(name));
                Err(work.file.error(services.place, what, format!("there are: {}", names(&all))))
            }
        };
    }
    if let [(_, only)] = all.as_slice() {
        return keys(work, only.clone());
    }
    let own: Vec<_> = all.iter().filter(|(_, at)| !is_store(at)).cloned().collect();
    let tests: [fn(&Cursor<'_>) -> bool; 3] =
        [|at| has_port(at) && at.get("build").is_some(), has_port, |at| at.get("build").is_some()];
    let routed: Vec<_> = own.iter().filter(|(_, at)| has_port(at)).cloned().collect();
    let meant = |test: &fn(&Cursor<'_>) -> bool| {
        let mut fit = own.iter().filter(|(_, at)| test(at));
        fit.next().filter(|_| fit.next().is_none())
    };
    if let [(_, only)] = routed.as_slice().get(..1).filter(|_| routed.len() == 1).unwrap_or_default() {
        return keys(work, only.clone());
    }
    if let Some((_, at)) = tests.iter().find_map(meant) {
        return keys(work, at.clone());
    }
    if let [(_, only)] = own.as_slice() {
        return keys(work, only.clone());
    }
    let several = if routed.len() > 1 { routed } else { all };
    let what = "several services can be meant, and a release file is of one".to_string();
    let hint = format!("name it with --service; there are: {}", names(&several));
    Err(work.file.error(several.first().map_or(Place::START, |(_, at)| at.place), what, hint))
}

/// What has no keys cannot be released.
fn keys<'a>(work: &Work<'_>, at: Cursor<'a>) -> Result<Cursor<'a>, FileErrors> {
    if at.is_map() {
        return Ok(at);
    }
    let what = format!("the keys of a service are expected here, not {}", at.node.noun());
    Err(work.file.error(at.place, what, "such as `image: shop:1.4`"))
}

fn names(services: &[(&str, Cursor<'_>)]) -> String {
    services.iter().map(|(name, _)| short(name)).collect::<Vec<_>>().join(", ")
}

fn has_port(at: &Cursor<'_>) -> bool {
    let routed = |labels: Cursor<'_>| labels.pairs().iter().any(|pair| pair.key.starts_with("traefik.http."));
    at.get("ports").is_some() || at.get("labels").is_some_and(routed)
}

fn is_store(at: &Cursor<'_>) -> bool {
    let Some(image) = at.get("image").and_then(|image| image.text()) else { return false };
    let name = image.rsplit('/').next().unwrap_or(image);
    let name = name.split([':', '@']).next().unwrap_or(name);
    at.get("build").is_none() && STORES.contains(&name)
}
