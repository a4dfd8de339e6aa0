//! Volumes and networks: those that compose made go on being used, by their real names.

use cutover_core::file::foreign::short;

use super::Compose;
use crate::cursor::Cursor;
use crate::import::Work;

pub(super) fn volumes(work: &mut Work<'_>, compose: &Compose<'_>) {
    let Some(at) = compose.service.get("volumes") else { return };
    for item in at.items() {
        let mount = if item.text().is_some() { short_form(work, &item) } else { long_form(work, &item) };
        match mount {
            Some(mount) => volume(work, compose, &item, mount),
            None => {
                let what = "this is no volume with a source and a path";
                work.ledger.left(&item, what, "write it as `NAME:/path` into platform.docker.volumes");
            }
        }
    }
}

struct Mount {
    source: String,
    target: String,
    read_only: bool,
    /// What the file says of it and cutover does not do.
    dropped: Vec<String>,
    /// Neither a folder nor a named volume.
    other: Option<String>,
}

fn short_form(work: &mut Work<'_>, at: &Cursor<'_>) -> Option<Mount> {
    let text = work.value(at, "volumes")?;
    let mut parts = text.split(':');
    let (first, second, options) =
        (parts.next()?.to_string(), parts.next(), parts.next().unwrap_or_default());
    let Some(target) = second else {
        let (source, target) = (String::new(), first);
        return Some(Mount { source, target, read_only: false, dropped: Vec::new(), other: None });
    };
    let options: Vec<&str> = options.split(',').filter(|option| !option.is_empty()).collect();
    let read_only = options.contains(&"ro");
    let dropped =
        options.iter().filter(|option| !["ro", "rw"].contains(*option)).map(|option| short(option)).collect();
    Some(Mount { source: first, target: target.to_string(), read_only, dropped, other: None })
}

fn long_form(work: &mut Work<'_>, at: &Cursor<'_>) -> Option<Mount> {
    let mut part = |key: &str| at.get(key).and_then(|at| work.value(&at, "volumes"));
    let kind = part("type").unwrap_or_else(|| "volume".into());
    let source = part("source").unwrap_or_default();
    let target = part("target")?;
    let known = ["type", "source", "target", "read_only"];
    let more = at.entries().into_iter().map(|(key, _)| key).filter(|key| !known.contains(key));
    let dropped = more.map(short).collect();
    let read_only = at.get("read_only").is_some_and(|at| at.truth());
    let other = (!["bind", "volume"].contains(&kind.as_str())).then_some(kind);
    Some(Mount { source, target, read_only, dropped, other })
}

fn volume(work: &mut Work<'_>, compose: &Compose<'_>, at: &Cursor<'_>, mount: Mount) {
    let Mount { source, target, read_only, dropped, other } = mount;
    if let Some(kind) = other {
        let what = format!("mounts of type `{}` are not possible", short(&kind));
        return work.ledger.left(at, what, "use a folder or a named volume, or let the image have it");
    }
    if source.is_empty() {
        let what = "a volume without a name is another one for each container, and lost with it";
        return work.ledger.left(at, what, "give it a name if it must stay: `NAME:/path`");
    }
    if source.ends_with("docker.sock") {
        let what = "an instance that reaches the engine is not confined";
        work.ledger.differs(at, what, "leave it out unless the service is made for that");
    }
    let is_path = source.starts_with(['.', '/', '~']);
    let real = match is_path {
        true => work.path(&source),
        false => Some(real_name(work, compose, "volumes", &source)).filter(|name| is_word(name)),
    };
    let taken = |volume: &String| volume.split(':').nth(1) == Some(target.as_str());
    let fits = target.len() > 1 && target.starts_with('/') && !target.contains(':');
    let Some(real) = real.filter(|real| fits && !real.contains(':') && !work.draft.volumes.iter().any(taken))
    else {
        let what =
            "this volume is not possible: its source is in somebody's home, or its path is taken or none";
        return work.ledger.left(at, what, "write it into platform.docker.volumes, with the whole path");
    };
    work.draft.volumes.push(format!("{real}:{target}{}", if read_only { ":ro" } else { "" }));
    if !dropped.is_empty() {
        let what = format!("mounted without {}", dropped.join(", "));
        work.ledger.differs(at, what, "check that the service bears that");
    } else if read_only {
        work.ledger.took(at);
    } else {
        let what = "instances of both revisions have it at once during a release";
        work.ledger.differs(at, what, "check that the service bears a second writer, or mount it `:ro`");
    }
}

/// The name that the engine knows: compose puts the project before its own.
fn real_name(work: &Work<'_>, compose: &Compose<'_>, kind: &str, name: &str) -> String {
    let declared = compose.root.find(&[kind, name]);
    let declared = declared.as_ref();
    let given = declared
        .and_then(|at| at.get("name"))
        .or_else(|| declared.and_then(|at| at.find(&["external", "name"])));
    let given = given.and_then(|at| at.text()).map(|text| work.variables.fill(text).text);
    let external = declared.and_then(|at| at.get("external")).is_some_and(|at| at.truth() || at.is_map());
    match given {
        Some(given) => given,
        None if external => name.to_string(),
        None => format!("{}_{name}", compose.project),
    }
}

pub(super) fn networks(work: &mut Work<'_>, compose: &Compose<'_>) {
    let service = &compose.service;
    if let Some(at) = service.get("network_mode") {
        if at.text() == Some("bridge") {
            work.ledger.became(
                &at,
                "platform.docker.networks",
                "the engine's own network is the default",
                "",
            );
        }
        return;
    }
    let Some(at) = service.get("networks").filter(|at| !at.children().is_empty()) else {
        if compose.stays {
            let name = real_name(work, compose, "networks", "default");
            if is_word(&name) {
                work.draft.networks.push(name);
                work.draft.decide("networks", "compose makes this network when it starts the other services");
            }
        }
        return;
    };
    let listed = at.items().into_iter().filter_map(|item| Some((item.text()?, item)));
    let all: Vec<(&str, Cursor<'_>)> = listed.chain(at.entries()).collect();
    for (name, item) in all {
        let real = real_name(work, compose, "networks", name);
        if !is_word(&real) || ["host", "none"].contains(&real.as_str()) || work.draft.networks.contains(&real)
        {
            work.ledger.left(
                &item,
                "instances cannot join this network",
                "name another in platform.docker.networks",
            );
            continue;
        }
        let keys: Vec<&str> = item.entries().into_iter().map(|(key, _)| key).collect();
        if keys.is_empty() {
            work.ledger.differs(
                &item,
                format!("it is called {real}, and must be there before `cutover deploy`"),
                "",
            );
        } else {
            let what =
                format!("it joins {real} without {}: two revisions cannot have the same", keys.join(", "));
            work.ledger.differs(&item, what, "call the service through its route instead");
        }
        work.draft.networks.push(real);
    }
}

fn is_word(name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.len() <= 128 && name.chars().all(word)
}
