//! Groups of instances: limits, membership, and whether the kernel killed for memory.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use cutover_core::{InstanceId, Size, file};

use super::hierarchy::{Hierarchy, hierarchies, tree_name};

/// The quota of version 1 and 2 counts in periods of this length.
const PERIOD_US: u64 = 100_000;

/// What a group can limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Limit {
    Memory,
    Cpu,
    Pids,
}

impl Limit {
    /// Returns the limit's name: the key of the release file, and the kernel's controller.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Limit::Memory => "memory",
            Limit::Cpu => "cpu",
            Limit::Pids => "pids",
        }
    }
}

/// Where the groups of a state folder are made.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    trees: Vec<Tree>,
    /// Why something cannot be limited.
    why_not: String,
}

#[derive(Debug)]
struct Tree {
    folder: PathBuf,
    unified: bool,
    limits: BTreeSet<Limit>,
}

impl Groups {
    /// Makes the trees of the state folder, where this process may.
    pub(crate) fn open(state_dir: &Path) -> Groups {
        let (mut trees, mut why_not, mut closed) = (Vec::new(), Vec::new(), Vec::new());
        let found = hierarchies();
        if found.is_empty() {
            why_not.push("this machine has no cgroups".to_string());
        }
        for hierarchy in found.iter().filter(|hierarchy| !hierarchy.is_left_alone()) {
            let limits = limits_of(hierarchy);
            // At the top there is nothing to leave, and without a controller nothing to limit.
            if limits.is_empty() && hierarchy.own == Path::new("/") {
                continue;
            }
            let Some(base) = hierarchy.base().map(|base| hierarchy.folder(base)) else {
                closed.push(hierarchy.mount.display().to_string());
                continue;
            };
            match Tree::open(hierarchy.unified, &base, &tree_name(state_dir), &limits) {
                Ok((tree, not_enabled)) => {
                    trees.push(tree);
                    why_not.extend(not_enabled);
                }
                Err(error) => why_not.push(format!("no cgroup can be made in {}: {error}", base.display())),
            }
        }
        if !closed.is_empty() {
            let user = rustix::process::geteuid().as_raw();
            why_not.push(format!("user id {user} may make no cgroup in {}", closed.join(", ")));
        }
        Groups { trees, why_not: why_not.join("; ") }
    }

    /// Makes none: instances stay where the server is.
    pub(crate) fn none() -> Groups {
        Groups { trees: Vec::new(), why_not: "CUTOVER_CGROUP=none".into() }
    }

    /// Tells whether instances can be limited so.
    pub(crate) fn can(&self, limit: Limit) -> bool {
        self.trees.iter().any(|tree| tree.limits.contains(&limit))
    }

    /// Returns why something cannot be limited, for people.
    pub(crate) fn why_not(&self) -> &str {
        if self.why_not.is_empty() { "the kernel has no such cgroup controller here" } else { &self.why_not }
    }

    /// Makes the instance's group anew, with nothing counted yet. What cannot be made is said and left out: an instance
    /// without its limit serves better than none.
    pub(crate) fn make(&self, id: &InstanceId, local: &file::LocalPlatform) -> Group {
        let mut group = Group { folders: Vec::new(), memory: local.memory, killed: 0 };
        for tree in &self.trees {
            let folder = tree.folder.join(group_name(id));
            let _ = fs::remove_dir(&folder);
            let made = make_folder(&folder).and_then(|()| tree.limit(&folder, local));
            match made {
                Ok(()) => group.folders.push(Folder { path: folder, unified: tree.unified }),
                Err(error) => {
                    tracing::warn!(instance = %id, path = %folder.display(), %error, "cgroup not made");
                }
            }
        }
        // Not zero where the old group could not be removed.
        group.killed = group.oom_kills();
        group
    }

    /// Removes the groups of instances that are not `known` any more, if nothing is left in them.
    pub(crate) fn sweep(&self, known: &BTreeSet<String>) {
        for tree in &self.trees {
            for entry in fs::read_dir(&tree.folder).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.strip_prefix("i-").is_some_and(|id| !known.contains(id)) {
                    let _ = fs::remove_dir(entry.path());
                }
            }
        }
    }
}

impl Tree {
    /// Makes the tree below `base`. Returns also why controllers could not be enabled in it: version 2 refuses that where
    /// `base` itself has processes, as in a container.
    fn open(
        unified: bool,
        base: &Path,
        name: &str,
        limits: &BTreeSet<Limit>,
    ) -> io::Result<(Tree, Vec<String>)> {
        let folder = base.join(name);
        make_folder(&folder)?;
        let (mut enabled, mut why_not) = (BTreeSet::new(), Vec::new());
        for limit in limits {
            let enable = || {
                let enable = format!("+{}", limit.name());
                fs::write(base.join("cgroup.subtree_control"), &enable)?;
                fs::write(folder.join("cgroup.subtree_control"), &enable)
            };
            match if unified { enable() } else { Ok(()) } {
                Ok(()) => drop(enabled.insert(*limit)),
                Err(error) => {
                    why_not.push(format!(
                        "{} cannot be enabled in {}: {error}",
                        limit.name(),
                        base.display()
                    ));
                }
            }
        }
        Ok((Tree { folder, unified, limits: enabled }, why_not))
    }

    fn limit(&self, folder: &Path, local: &file::LocalPlatform) -> io::Result<()> {
        let write = |name: &str, value: String| fs::write(folder.join(name), value);
        if let (Some(memory), true) = (local.memory, self.limits.contains(&Limit::Memory)) {
            let bytes = memory.bytes();
            write(if self.unified { "memory.max" } else { "memory.limit_in_bytes" }, bytes.to_string())?;
            // Swap would turn the limit into a crawl. Kernels without swap accounting have no such file.
            let _ = if self.unified {
                write("memory.swap.max", "0".into())
            } else {
                write("memory.memsw.limit_in_bytes", bytes.to_string())
            };
        }
        if let (Some(cpu), true) = (local.cpu, self.limits.contains(&Limit::Cpu)) {
            let quota = u64::from(cpu.milli()) * PERIOD_US / 1000;
            if self.unified {
                write("cpu.max", format!("{quota} {PERIOD_US}"))?;
            } else {
                write("cpu.cfs_period_us", PERIOD_US.to_string())?;
                write("cpu.cfs_quota_us", quota.to_string())?;
            }
        }
        if let (Some(pids), true) = (local.pids, self.limits.contains(&Limit::Pids)) {
            write("pids.max", pids.to_string())?;
        }
        Ok(())
    }
}

/// The group of one instance, in each hierarchy.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    folders: Vec<Folder>,
    memory: Option<Size>,
    /// So many processes the kernel had killed for memory when it was last asked.
    killed: u64,
}

#[derive(Clone, Debug)]
struct Folder {
    path: PathBuf,
    unified: bool,
}

impl Group {
    /// Finds the group that an adopted instance runs in, wherever an earlier server made it.
    pub(crate) fn of(id: &InstanceId, pid: u32, memory: Option<Size>) -> Group {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let mut folders = Vec::new();
        for hierarchy in hierarchies() {
            let member = groups.lines().find_map(|line| {
                let mut fields = line.splitn(3, ':').skip(1);
                let (controllers, path) = (fields.next()?, fields.next()?);
                let of: Vec<&str> = controllers.split(',').filter(|one| !one.is_empty()).collect();
                (of == hierarchy.controllers).then(|| PathBuf::from(path))
            });
            let folder = member.map(|group| hierarchy.folder(&group));
            folders.extend(
                folder
                    .filter(|folder| folder.ends_with(group_name(id)) && folder.is_dir())
                    .map(|path| Folder { path, unified: hierarchy.unified }),
            );
        }
        Group { folders, memory, killed: 0 }
    }

    /// Opens the group for a process that enters it by writing `0`.
    pub(crate) fn doors(&self) -> Vec<File> {
        let open = |folder: &Folder| OpenOptions::new().write(true).open(folder.path.join("cgroup.procs"));
        self.folders.iter().filter_map(|folder| open(folder).ok()).collect()
    }

    /// Returns the hierarchies' folders of the group that the process is not in.
    pub(crate) fn missed(&self, pid: u32) -> Vec<PathBuf> {
        let without = |folder: &&Folder| !members(&folder.path).contains(&pid);
        self.folders.iter().filter(without).map(|folder| folder.path.clone()).collect()
    }

    /// Returns the processes in the group.
    pub(crate) fn pids(&self) -> BTreeSet<u32> {
        self.folders.iter().flat_map(|folder| members(&folder.path)).collect()
    }

    /// Says, once, that the kernel killed processes of the group for memory.
    pub(crate) fn killed_for_memory(&mut self) -> Option<String> {
        let now = self.oom_kills();
        let before = std::mem::replace(&mut self.killed, now);
        (now > before).then(|| match self.memory {
            Some(memory) if self.reached_limit() => {
                format!("out of memory: it went beyond its limit of {memory} (platform.local.memory)")
            }
            _ => "out of memory: this machine had none left".into(),
        })
    }

    /// Removes the group. A process that is left in it keeps it.
    pub(crate) fn remove(&self) {
        for folder in &self.folders {
            let _ = fs::remove_dir(&folder.path);
        }
    }

    /// Returns where the kernel counts what it kills of the group.
    pub(crate) fn kills(&self) -> Kills {
        let file = |folder: &Folder| {
            folder.path.join(if folder.unified { "memory.events" } else { "memory.oom_control" })
        };
        Kills(self.folders.iter().map(file).filter(|file| file.exists()).collect())
    }

    fn oom_kills(&self) -> u64 {
        self.kills().count()
    }

    fn reached_limit(&self) -> bool {
        // Version 1 has a count too, memory.failcnt, but today's kernels kill without counting there.
        let most = self.count("memory.events", "memory.max_usage_in_bytes", "oom ");
        let unified = self.folders.iter().any(|folder| folder.path.join("memory.events").exists());
        let full = |limit: Size| most.saturating_add(rustix::param::page_size() as u64) > limit.bytes();
        if unified { most > 0 } else { self.memory.is_some_and(full) }
    }

    /// Returns the number behind `key` in the file of version 2 or 1; a file with a number alone is that number.
    fn count(&self, unified: &str, version1: &str, key: &str) -> u64 {
        let read = |folder: &Folder| {
            let name = if folder.unified { unified } else { version1 };
            number(&fs::read_to_string(folder.path.join(name)).ok()?, key)
        };
        self.folders.iter().filter_map(read).max().unwrap_or(0)
    }
}

/// The files in which the kernel counts the processes of a group that it killed for memory.
#[derive(Debug, Default)]
pub(crate) struct Kills(Vec<PathBuf>);

impl Kills {
    /// Returns how many it killed.
    pub(crate) fn count(&self) -> u64 {
        let read = |file: &PathBuf| number(&fs::read_to_string(file).ok()?, "oom_kill ");
        self.0.iter().filter_map(read).max().unwrap_or(0)
    }
}

/// Returns the number behind `key`, or that which the text is alone.
fn number(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or(text).trim().parse().ok()
}

pub(super) fn make_folder(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

fn group_name(id: &InstanceId) -> String {
    format!("i-{id}")
}

fn members(folder: &Path) -> BTreeSet<u32> {
    let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid != 0).collect()
}

fn limits_of(hierarchy: &Hierarchy) -> BTreeSet<Limit> {
    let known = match hierarchy.unified {
        true => fs::read_to_string(hierarchy.mount.join("cgroup.controllers")).unwrap_or_default(),
        false => hierarchy.controllers.join(" "),
    };
    let has = |limit: &Limit| known.split_whitespace().any(|controller| controller == limit.name());
    [Limit::Memory, Limit::Cpu, Limit::Pids].into_iter().filter(has).collect()
}

#[cfg(test)]
mod tests {
    use cutover_core::Cores;

    use super::*;
    use crate::disk;

    fn local() -> file::LocalPlatform {
        let mut local: file::LocalPlatform =
            serde_json::from_value(serde_json::json!({ "command": ["x"] })).unwrap();
        local.memory = Some(Size::from_bytes(64 << 20));
        local.cpu = Some(Cores::from_milli(1500));
        local.pids = Some(9);
        local
    }

    /// What is written into a group, by file. A plain folder takes the place of the kernel's: this machine may have
    /// only one of the versions.
    fn written(unified: bool, limits: &[Limit]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree { folder: folder.path().into(), unified, limits: limits.iter().copied().collect() };
        tree.limit(folder.path(), &local()).unwrap();
        let names = disk::names(folder.path()).unwrap().into_iter();
        names
            .map(|name| format!("{name}={}", fs::read_to_string(folder.path().join(&name)).unwrap()))
            .collect()
    }

    #[test]
    fn each_version_has_files_of_its_own() {
        let all = [Limit::Memory, Limit::Cpu, Limit::Pids];
        let unified = ["cpu.max=150000 100000", "memory.max=67108864", "memory.swap.max=0", "pids.max=9"];
        assert_eq!(written(true, &all), unified);
        let version1 = [
            "cpu.cfs_period_us=100000",
            "cpu.cfs_quota_us=150000",
            "memory.limit_in_bytes=67108864",
            "memory.memsw.limit_in_bytes=67108864",
            "pids.max=9",
        ];
        assert_eq!(written(false, &all), version1);
        assert_eq!(written(true, &[Limit::Pids]), ["pids.max=9"]);
    }

    fn said(unified: bool, before: &[(&str, &str)], after: &[(&str, &str)]) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        let write = |files: &[(&str, &str)]| {
            files.iter().for_each(|(name, text)| fs::write(folder.path().join(name), text).unwrap());
        };
        write(before);
        let folders = vec![Folder { path: folder.path().into(), unified }];
        let mut group = Group { folders, memory: local().memory, killed: 0 };
        group.killed = group.oom_kills();
        write(after);
        let said = group.killed_for_memory();
        assert_eq!(group.killed_for_memory(), None, "it is said once");
        said
    }

    #[test]
    fn a_kill_for_memory_is_read_from_either_version() {
        let events = |oom: u64, killed: u64| {
            format!("low 0\nhigh 0\nmax 7\noom {oom}\noom_kill {killed}\noom_group_kill 0\n")
        };
        let (none, limit, machine) = (events(0, 0), events(1, 1), events(0, 1));
        let unified = |now: &str| said(true, &[("memory.events", &none)], &[("memory.events", now)]);
        assert!(unified(&limit).unwrap().contains("beyond its limit of 64Mi"));
        assert!(unified(&machine).unwrap().contains("this machine had none left"));
        assert_eq!(unified(&none), None);
        let control = |killed: u64| format!("oom_kill_disable 0\nunder_oom 0\noom_kill {killed}\n");
        let version1 = |most: &str| {
            let now = [("memory.oom_control", control(3)), ("memory.max_usage_in_bytes", most.to_string())];
            let now: Vec<(&str, &str)> = now.iter().map(|(name, text)| (*name, text.as_str())).collect();
            said(false, &[("memory.oom_control", &control(2))], &now)
        };
        assert!(version1("67108864\n").unwrap().contains("beyond its limit of 64Mi"));
        assert!(version1("1000\n").unwrap().contains("this machine had none left"));
    }
}
