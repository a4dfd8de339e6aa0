//! Kamal's `deploy.yml`, version 2.

mod build;
mod env;
pub(crate) mod fields;
mod proxy;
mod roles;
mod ruby;

use cutover_core::Span;
use cutover_core::file::FileErrors;
use cutover_core::file::foreign::short;
use cutover_core::file::write::service_name;

use crate::cursor::Cursor;
use crate::draft::Rolling;
use crate::import::Work;
use crate::quantity;

pub(crate) use ruby::masked;

/// What Kamal stands for where the file says nothing.
const PRIMARY_ROLE: &str = "web";

pub(crate) fn import(work: &mut Work<'_>, root: &Cursor<'_>) -> Result<(), FileErrors> {
    ruby::say(work, root);
    service(work, root)?;
    build::import(work, root)?;
    env::import(work, root.get("env").as_ref());
    let primary = roles::import(work, root)?;
    proxy::import(work, root, primary.as_ref())?;
    volumes(work, root);
    times(work, root);
    boot(work, root);
    logging(work, root);
    accessories(work, root);
    work.draft.heading.push(
        "The first release cannot be without a pause: `kamal proxy stop` frees ports 80 and 443.".into(),
    );
    Ok(())
}

/// Seconds, as Kamal writes times.
fn seconds(at: &Cursor<'_>) -> Option<Span> {
    quantity::span(&at.text()?.replace('_', ""), Some(1000)).filter(|span| *span > Span::default())
}

fn service(work: &mut Work<'_>, root: &Cursor<'_>) -> Result<(), FileErrors> {
    let at = root.get("service").unwrap_or_else(|| root.clone());
    let name = at.text().filter(|text| !ruby::is_ruby(text)).and_then(service_name);
    let Some(name) = name else {
        let what = format!("a service's name is expected here, not {}", at.node.noun());
        return Err(work.file.error(at.node.place, what, "such as `service: shop`"));
    };
    if at.text() == Some(&name) {
        work.ledger.took(&at);
    } else {
        work.ledger.differs(&at, format!("it is called {name}: lower-case letters, digits and dashes"), "");
    }
    work.draft.service = name;
    Ok(())
}

fn volumes(work: &mut Work<'_>, root: &Cursor<'_>) {
    let Some(at) = root.get("volumes") else { return };
    for item in at.items() {
        let Some(text) = item.text() else { continue };
        let parts: Vec<&str> = text.split(':').collect();
        let (source, target, options) = match parts.as_slice() {
            [source, target] => (*source, *target, ""),
            [source, target, options] => (*source, *target, *options),
            _ => ("", "", ""),
        };
        let named = source.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
            && source.starts_with(|c: char| c.is_ascii_alphanumeric());
        let taken = work.draft.volumes.iter().any(|volume| volume.split(':').nth(1) == Some(target));
        let fits =
            target.starts_with('/') && target.len() > 1 && !taken && (named || source.starts_with('/'));
        if !fits {
            let what = format!("`{}` is no volume of a name or a whole path", short(text));
            work.ledger.left(&item, what, "write it into platform.docker.volumes");
            continue;
        }
        let read_only = options.split(',').any(|option| option == "ro");
        work.draft.volumes.push(format!("{source}:{target}{}", if read_only { ":ro" } else { "" }));
        let dropped: Vec<&str> =
            options.split(',').filter(|option| !["", "ro", "rw"].contains(option)).collect();
        match dropped.as_slice() {
            [] => work.ledger.took(&item),
            dropped => {
                let what = format!("mounted without {}", short(&dropped.join(", ")));
                work.ledger.differs(&item, what, "check that the service bears that");
            }
        }
    }
}

fn times(work: &mut Work<'_>, root: &Cursor<'_>) {
    if let Some(at) = root.get("deploy_timeout")
        && let Some(span) = seconds(&at)
    {
        work.draft.within = Some(span);
        work.ledger.took(&at);
    }
    if let Some(at) = root.get("drain_timeout")
        && let Some(span) = seconds(&at)
    {
        work.draft.drain = Some(span);
        work.ledger.took(&at);
    }
}

/// Hosts that boot one after the other become instances that are replaced one after the other.
fn boot(work: &mut Work<'_>, root: &Cursor<'_>) {
    let Some(at) = root.get("boot") else { return };
    let limit = at.get("limit");
    let surge =
        limit.as_ref().and_then(|at| quantity::whole(at.text()?)).filter(|limit| (1..=1000).contains(limit));
    let percent = limit.as_ref().and_then(|at| at.text()).is_some_and(|text| text.ends_with('%'));
    if surge.is_none() && !percent {
        return;
    }
    let bake = at.get("wait").and_then(|at| seconds(&at));
    work.draft.rolling = Some(Rolling { surge: surge.unwrap_or(1), unavailable: 0, bake });
    if let Some(limit) = &limit {
        match percent {
            true => work.ledger.differs(
                limit,
                "a share of hosts has no meaning here: one instance is replaced after the other",
                "set `max_surge`",
            ),
            false => work.ledger.took(limit),
        }
    }
    if let Some(wait) = at.get("wait")
        && bake.is_some()
    {
        work.ledger.took(&wait);
    }
}

fn logging(work: &mut Work<'_>, root: &Cursor<'_>) {
    if let Some(at) = root.find(&["logging", "driver"]) {
        match at.text() {
            Some("json-file" | "local") => work.ledger.took(&at),
            _ => work.ledger.left(
                &at,
                "logs are kept by the engine in bounded files for `cutover logs`, and sent nowhere",
                "let the service itself send them, or read them from the engine",
            ),
        }
    }
    if let Some(at) = root.find(&["logging", "options", "max-size"])
        && let Some(size) = at.text().and_then(quantity::size)
    {
        let bytes = size.bytes().max(64 << 10);
        work.draft.log_size = Some(cutover_core::Size::from_bytes(bytes));
        work.ledger.became(
            &at,
            "platform.docker.log_size",
            "the most that the log of one instance keeps",
            "",
        );
    }
}

fn accessories(work: &mut Work<'_>, root: &Cursor<'_>) {
    let Some(at) = root.get("accessories") else { return };
    let service = work.draft.service.clone();
    for (name, accessory) in at.entries() {
        let own = accessory.get("service").and_then(|at| at.text()).map(str::to_string);
        let host = own.unwrap_or_else(|| format!("{service}-{name}"));
        let what = format!(
            "it stays with Kamal; the service reaches it as `{}` in the network `kamal`",
            short(&host)
        );
        work.ledger.left(&accessory, what, format!("go on with: kamal accessory details {}", short(name)));
    }
    if !at.entries().is_empty() {
        work.draft.networks.push("kamal".into());
        work.draft.decide(
            "networks",
            "Kamal makes this network, in which its accessories are; without them leave it out",
        );
    }
}
