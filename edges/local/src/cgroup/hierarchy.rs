//! The hierarchies that are mounted, and where this process is in each.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use sha2::{Digest, Sha256};

use crate::disk;

/// One hierarchy of control groups. Version 1 has one per controller, version 2 one for all; machines may have both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    pub(crate) mount: PathBuf,
    /// Version 2.
    pub(crate) unified: bool,
    /// The controllers of a version 1 hierarchy, or its name: `name=systemd`.
    pub(crate) controllers: Vec<String>,
    /// The group of this process, `/` at the top.
    pub(crate) own: PathBuf,
}

/// Returns the hierarchies that can be looked at; none where there are no control groups.
pub(crate) fn hierarchies() -> Vec<Hierarchy> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    parse(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"))
}

/// Returns the name of the tree of a state folder.
pub(crate) fn tree_name(state_dir: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let path = state_dir.canonicalize().unwrap_or_else(|_| state_dir.to_path_buf());
    let hash = disk::hex(&Sha256::digest(path.as_os_str().as_bytes()));
    format!("cutover-{}", &hash[..12])
}

impl Hierarchy {
    /// Returns the folder of a group.
    pub(crate) fn folder(&self, group: &Path) -> PathBuf {
        self.mount.join(group.strip_prefix("/").unwrap_or(group))
    }

    /// Returns the highest group on the way to this process's that it may make groups in and move processes between:
    /// the top as root, what was delegated to it otherwise.
    pub(crate) fn base(&self) -> Option<&Path> {
        let mut ancestors: Vec<&Path> = self.own.ancestors().collect();
        ancestors.reverse();
        ancestors.into_iter().find(|group| {
            let folder = self.folder(group);
            let may = |path: &Path| access(path, Access::WRITE_OK).is_ok();
            may(&folder) && may(&folder.join("cgroup.procs"))
        })
    }

    /// Tells whether groups of this hierarchy need to be set up before a process may enter: those of the processor sets
    /// of version 1 do, and nobody ends processes by them.
    pub(crate) fn is_left_alone(&self) -> bool {
        self.controllers.iter().any(|controller| controller == "cpuset")
    }
}

fn parse(mountinfo: &str, groups: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let (left, right): (Vec<&str>, Vec<&str>) = (left.split(' ').collect(), right.split(' ').collect());
        let (Some(root), Some(mount), Some(kind)) = (left.get(3), left.get(4), right.first()) else {
            continue;
        };
        let options: Vec<&str> = right.get(2).unwrap_or(&"").split(',').collect();
        let member = groups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            let mine = match *kind {
                "cgroup2" => controllers.is_empty(),
                "cgroup" => controllers.split(',').all(|one| !one.is_empty() && options.contains(&one)),
                _ => false,
            };
            mine.then(|| (controllers, PathBuf::from(path)))
        });
        let Some((controllers, path)) = member else { continue };
        // Of a container that sees a part of the hierarchy only, the top is that part's.
        let own = path.strip_prefix(root).map_or(path.clone(), |rest| Path::new("/").join(rest));
        let outside = own.components().any(|part| part == std::path::Component::ParentDir);
        let hierarchy = Hierarchy {
            mount: PathBuf::from(mount),
            unified: *kind == "cgroup2",
            controllers: controllers.split(',').filter(|one| !one.is_empty()).map(str::to_string).collect(),
            own,
        };
        let known =
            |one: &Hierarchy| (one.unified, &one.controllers) == (hierarchy.unified, &hierarchy.controllers);
        if !outside && !found.iter().any(known) {
            found.push(hierarchy);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(mountinfo: &str, groups: &str) -> Vec<String> {
        let found = parse(mountinfo, groups).into_iter();
        found
            .map(|h| format!("{} {} {}", h.mount.display(), h.controllers.join("+"), h.own.display()))
            .collect()
    }

    #[test]
    fn version_2_alone() {
        let mounts = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n\
                      31 23 0:27 / /proc rw - proc proc rw\n\
                      40 23 0:26 / /mnt/again rw - cgroup2 cgroup2 rw";
        let groups = "0::/user.slice/user-1000.slice/session-3.scope\n";
        assert_eq!(said(mounts, groups), ["/sys/fs/cgroup  /user.slice/user-1000.slice/session-3.scope"]);
    }

    #[test]
    fn both_versions_beside_each_other() {
        let mounts = "1 2 0:1 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      2 2 0:2 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
                      3 2 0:3 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                      4 2 0:4 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";
        let groups = "3:name=systemd:/job/7\n2:cpu,cpuacct:/\n0::/job/7\n";
        let wanted = [
            "/sys/fs/cgroup/cpu,cpuacct cpu+cpuacct /",
            "/sys/fs/cgroup/systemd name=systemd /job/7",
            "/sys/fs/cgroup/unified  /job/7",
        ];
        assert_eq!(said(mounts, groups), wanted);
    }

    #[test]
    fn a_container_sees_its_part_as_the_top() {
        let mounts = "2 2 0:2 /docker/ab /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory";
        assert_eq!(said(mounts, "5:memory:/docker/ab\n"), ["/sys/fs/cgroup/memory memory /"]);
        let mounts = "2 2 0:2 / /sys/fs/cgroup ro - cgroup2 cgroup rw";
        assert_eq!(said(mounts, "0::/../outside\n"), [""; 0], "what is outside cannot be named");
        assert_eq!(said("", ""), [""; 0]);
    }
}
