//! The place of cutover's own processes: outside of what started them, where that is allowed.

use std::fs;
use std::path::{Path, PathBuf};

use super::group::make_folder;
use super::hierarchy::{Hierarchy, hierarchies, tree_name};

/// Moves this process, with all its threads, into a group `who` of its own, outside of the group it was started in:
/// whatever ends that, a CI job that is cleaned up say, does not end this. Where it may not, it stays; ask
/// [`shared_with`] then.
pub fn leave(state_dir: &Path, who: &str) {
    let name = tree_name(state_dir);
    let own = Path::new(&name).join(who);
    // A proxy that the server started leaves the server's group too: each is seen, and ended, by itself.
    let elsewhere = |hierarchy: &&Hierarchy| {
        let top = hierarchy.own == Path::new("/");
        !hierarchy.is_left_alone() && !top && !hierarchy.own.ends_with(&own)
    };
    for hierarchy in hierarchies().iter().filter(elsewhere) {
        let Some(base) = hierarchy.base().filter(|base| *base != hierarchy.own) else { continue };
        let tree = hierarchy.folder(base).join(&name);
        let own = tree.join(who);
        let moved = make_folder(&tree)
            .and_then(|()| make_folder(&own))
            .and_then(|()| fs::write(own.join("cgroup.procs"), std::process::id().to_string()));
        if let Err(error) = moved {
            tracing::debug!(path = %own.display(), %error, "starter's cgroup not left");
        }
    }
}

/// Returns the group that this process shares with whoever started it, and what that is: `/user.slice/session-3.scope (a
/// login session)`. `None` where it has one of its own, or is at the top of all it can see.
pub fn shared_with() -> Option<String> {
    // What systemd, containers and runners end things by comes first.
    let mut found = hierarchies();
    found.sort_by_key(|hierarchy| {
        (!hierarchy.unified, !hierarchy.controllers.iter().any(|c| c.starts_with("name=")))
    });
    let group = found.iter().find_map(starter)?;
    let last = group.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let kind = if last.starts_with("session-") && last.ends_with(".scope") {
        " (a login session)"
    } else if last.starts_with("run-") || last.ends_with(".scope") {
        " (a transient unit)"
    } else if last.ends_with(".service") {
        " (a service)"
    } else {
        ""
    };
    Some(format!("{}{kind}", group.display()))
}

/// Removes the groups of a state folder whose processes are gone. Returns whether none is left.
pub fn tidy(state_dir: &Path) -> bool {
    let mut none_left = true;
    let name = tree_name(state_dir);
    for hierarchy in hierarchies() {
        let Some(base) = hierarchy.base() else { continue };
        let tree = hierarchy.folder(base).join(&name);
        let groups = fs::read_dir(&tree).into_iter().flatten().flatten();
        // A group with processes is kept by the kernel, and so is a tree with groups.
        groups.for_each(|entry| drop(fs::remove_dir(entry.path())));
        let _ = fs::remove_dir(&tree);
        none_left &= !tree.exists();
    }
    none_left
}

/// Returns the group of this process, unless it is the top or one of cutover's own.
fn starter(hierarchy: &Hierarchy) -> Option<PathBuf> {
    let ours = hierarchy.own.components().any(|part| {
        part.as_os_str()
            .to_str()
            .and_then(|part| part.strip_prefix("cutover-"))
            .is_some_and(|hash| hash.len() == 12 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
    });
    let left_alone = hierarchy.is_left_alone() || hierarchy.own == Path::new("/") || ours;
    (!left_alone).then(|| hierarchy.own.clone())
}
