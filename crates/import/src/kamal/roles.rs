//! Servers and their roles: the primary one is the service, the others are processes beside it.

use cutover_core::file::FileErrors;
use cutover_core::file::foreign::short;

use super::ruby::is_ruby;
use super::{PRIMARY_ROLE, env};
use crate::compose::process_name;
use crate::cursor::Cursor;
use crate::draft::Process;
use crate::import::Work;
use crate::{quantity, words};

/// Returns the primary role, where it has keys.
pub(super) fn import<'a>(work: &mut Work<'_>, root: &Cursor<'a>) -> Result<Option<Cursor<'a>>, FileErrors> {
    let named = root.get("primary_role");
    let primary = named.as_ref().and_then(|at| at.text()).unwrap_or(PRIMARY_ROLE).to_string();
    let Some(servers) = root.get("servers") else { return Ok(None) };
    if servers.is_list() {
        hosts(work, &servers, &servers, None);
        return Ok(None);
    }
    let roles = servers.entries();
    if !roles.is_empty() && servers.get(&primary).is_none() {
        let list = roles.iter().map(|(name, _)| short(name)).collect::<Vec<_>>().join(", ");
        let what = format!("there is no role `{}`, which would be the service itself", short(&primary));
        return Err(work.file.error(
            servers.place,
            what,
            format!("name it with `primary_role:`; there are: {list}"),
        ));
    }
    if let Some(at) = &named {
        work.ledger.took(at);
    }
    let mut found = None;
    for (name, role) in roles {
        let list = if role.is_list() { Some(role.clone()) } else { role.get("hosts") };
        if name == primary {
            if let Some(list) = &list {
                hosts(work, list, &role, None);
            }
            service(work, &role);
            found = Some(role);
        } else {
            process(work, name, &role, list.as_ref());
        }
    }
    Ok(found)
}

/// Of several hosts only the one is served that cutover runs on.
fn hosts(work: &mut Work<'_>, at: &Cursor<'_>, role: &Cursor<'_>, process: Option<&str>) {
    let count = at.each().len();
    let whose = process.map_or_else(|| "the service".into(), |name| format!("`{name}`"));
    if count > 1 {
        let what = format!(
            "Kamal runs {whose} on {count} hosts, one instance each; several hosts are not possible yet"
        );
        let next = "run cutover on each host by itself, or give one host more `replicas`";
        work.ledger.left(at, what, next);
        let key = if process.is_some() { "processes" } else { "replicas" };
        work.draft.decide(key, format!("Kamal ran {whose} on {count} hosts, one instance each"));
    } else {
        work.ledger.differs(at, "the host is the machine that cutover runs on", "run `cutover deploy` there");
    }
    let tagged = at.items().into_iter().any(|item| item.is_map());
    if tagged && at.path != role.path {
        work.draft.decide("env", "hosts have tags, which give them variables of their own: `env.tags`");
    }
}

fn service(work: &mut Work<'_>, role: &Cursor<'_>) {
    if let Some(at) = role.get("cmd")
        && let Some(words) = command(&at)
    {
        work.draft.command = words;
        work.ledger.took(&at);
    }
    env::import(work, role.get("env").as_ref());
    options(work, role);
    if let Some(at) = role.find(&["logging", "options", "max-size"])
        && let Some(size) = at.text().and_then(quantity::size)
    {
        work.draft.log_size = Some(cutover_core::Size::from_bytes(size.bytes().max(64 << 10)));
        work.ledger.became(
            &at,
            "platform.docker.log_size",
            "the most that the log of one instance keeps",
            "",
        );
    }
}

fn options(work: &mut Work<'_>, role: &Cursor<'_>) {
    let option = |key: &str| role.find(&["options", key]);
    if let Some(at) = option("memory")
        && let Some(size) = at.text().and_then(quantity::size).filter(|size| size.bytes() >= 1 << 20)
    {
        work.draft.memory = Some(size);
        work.ledger.took(&at);
    }
    if let Some(at) = option("cpus")
        && let Some(cores) = at.text().and_then(quantity::cores)
    {
        work.draft.cpu = Some(cores);
        work.ledger.took(&at);
    }
    if let Some(at) = option("pids-limit")
        && let Some(pids) = at.text().and_then(quantity::whole).filter(|pids| *pids > 0)
    {
        work.draft.pids = Some(pids);
        work.ledger.took(&at);
    }
    if let Some(at) = option("user")
        && let Some(user) = at.text()
        && !user.is_empty()
        && !user.contains(|c: char| c.is_whitespace() || c.is_control())
    {
        work.draft.user = Some(user.to_string());
        work.ledger.took(&at);
    }
}

fn process(work: &mut Work<'_>, name: &str, role: &Cursor<'_>, list: Option<&Cursor<'_>>) {
    let cmd = role.get("cmd");
    let proxied = role.get("proxy").is_some_and(|at| at.is_map() || at.truth());
    let words = cmd.as_ref().and_then(command);
    let why = match (&words, proxied) {
        (_, true) => Some("this role takes requests of its own: import it as a service of its own"),
        (None, _) => Some("this role has no command by which it could be told from the service"),
        (Some(words), _) if words.iter().any(|word| word.contains("$PORT") || word.contains("${PORT")) => {
            Some("its command asks for a port, and only the service itself has one")
        }
        _ => None,
    };
    if let Some(why) = why {
        return work.ledger.left(role, why, "write a release file for it, or stay with Kamal for it");
    }
    let (Some(cmd), Some(command)) = (cmd, words) else { return };
    let name = process_name(name, |name| work.draft.processes.contains_key(name));
    work.ledger.became(
        &cmd,
        "processes.*.command",
        format!("it is the process `{name}` of the same release"),
        "",
    );
    if let Some(list) = list {
        hosts(work, list, role, Some(&name));
    }
    // Processes have the service's environment: what a role has of its own goes to all of them.
    env::import(work, role.get("env").as_ref());
    for (key, at) in role.get("options").map(|at| at.entries()).unwrap_or_default() {
        let what =
            format!("the process `{name}` has the limits of the service, not its own `{}`", short(key));
        work.ledger.left(&at, what, "set the larger one in platform.docker");
    }
    let alone = ["clock", "cron", "scheduler"].iter().any(|word| name.contains(word));
    work.draft.processes.insert(name, Process { command, alone, ..Process::default() });
}

fn command(at: &Cursor<'_>) -> Option<Vec<String>> {
    let words = match at.text() {
        Some(text) if is_ruby(text) => None,
        Some(text) => words::split(text),
        None => at.texts().map(|words| words.into_iter().map(str::to_string).collect()),
    }?;
    let good =
        words.first().is_some_and(|word| !word.is_empty()) && !words.iter().any(|word| word.contains('\0'));
    good.then_some(words)
}
