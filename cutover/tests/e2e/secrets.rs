//! A secret's value, planted and searched: it is in its sealed file and in the environment of its instances, nowhere else.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::harness::{Said, Scratch, kill, wait};
use crate::service::{Shop, pids, whole};

const SECRET: &str = "hunter2-very-secret-value";
const MORE: &str = "gate: ['env; cat /proc/self/environ; exit 0']\nbake: 0s\nkeep_warm: 0s\ndrain: 1s";

fn deploy(scratch: &Scratch, value: &str) -> Said {
    scratch.command(&["deploy", "--output", "json"]).env("TOKEN", value).output().unwrap().into()
}

fn has(bytes: &[u8]) -> bool {
    bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes())
}

/// Every file below that holds the value.
fn holders(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(holders(&entry.path()));
        } else if kind.is_file() && fs::read(entry.path()).is_ok_and(|bytes| has(&bytes)) {
            found.push(entry.path());
        }
    }
    found
}

/// Nothing of ours but the instances at `version` has the value; `sealed` files do, for their owner alone.
fn hidden(scratch: &Scratch, version: &str, sealed: usize) {
    let found = holders(scratch.path());
    assert!(found.iter().all(|path| path.starts_with(scratch.state().join("local"))), "{found:?}");
    let modes: Vec<u32> =
        found.iter().map(|path| fs::metadata(path).unwrap().permissions().mode() & 0o777).collect();
    assert_eq!(modes, vec![0o600; sealed], "{found:?}");

    let instances = pids(scratch, version);
    assert!(!instances.is_empty());
    for (pid, command) in scratch.processes() {
        let of = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        assert!(!has(&of("cmdline")), "argument of {command}");
        assert_eq!(has(&of("environ")), instances.contains(&pid), "environment of {command}");
    }

    let newest = scratch.run(&["history", "--output", "json", "--limit", "1"]).expect(0).json();
    let newest = newest["releases"][0]["release"].as_str().unwrap().to_string();
    for verb in [
        vec!["status"],
        vec!["status", "--output", "json"],
        vec!["history", "--output", "json"],
        vec!["show", &newest],
        vec!["show", &newest, "--output", "json"],
        vec!["logs"],
        vec!["proxy", "status", "--output", "json"],
    ] {
        let said = scratch.run(&verb).expect(0);
        assert!(!said.out.contains(SECRET) && !said.err.contains(SECRET), "{verb:?}: {said:?}");
    }
    let planned = scratch.command(&["plan", "--output", "json"]).env("TOKEN", SECRET).output().unwrap();
    let planned: Said = planned.into();
    assert!(!planned.out.contains(SECRET) && !planned.err.contains(SECRET), "{planned:?}");
}

#[test]
fn a_value_is_in_its_sealed_file_and_in_its_instances_alone() {
    let scratch = Scratch::new();
    let file = |version: &str, more: &str| {
        Shop { version, local: ", secrets: [TOKEN]", more, ..Shop::default() }.file(&scratch);
    };
    file("v1", MORE);
    assert!(scratch.run(&["deploy"]).expect(2).err.contains("TOKEN is not set"));
    // The server is started by the very command that was given the value.
    assert!(scratch.processes().is_empty());
    let said = deploy(&scratch, SECRET).expect(0);
    assert!(!said.out.contains(SECRET) && !said.err.contains(SECRET));
    whole(&scratch, 2);
    let gate = fs::read_to_string(scratch.state().join("gates/shop-1-2.log")).unwrap();
    assert!(gate.contains("CUTOVER_REVISION="), "the gate did say what it has: {gate}");
    hidden(&scratch, "v1", 1);

    // A next server, which opens the seal and starts what died, and a release that is refused.
    kill(scratch.server_pid(), Signal::KILL);
    let victim = pids(&scratch, "v1")[0];
    kill(victim, Signal::KILL);
    whole(&scratch, 2);
    file("v2", &MORE.replace("exit 0", "exit 1"));
    let said = deploy(&scratch, SECRET).expect(3);
    assert!(!said.out.contains(SECRET) && !said.err.contains(SECRET));
    whole(&scratch, 2);
    hidden(&scratch, "v1", 2);

    // Destroyed, it is gone from the disk as well.
    scratch.run(&["destroy", "--yes"]).expect(0);
    wait("the sealed files to go", || holders(scratch.path()).is_empty().then_some(()));
}

#[test]
fn a_login_at_a_registry_is_the_servers_alone() {
    let scratch = Scratch::new();
    Shop { version: "v1", more: MORE, ..Shop::default() }.file(&scratch);
    let deploy = scratch.command(&["deploy"]).env("CUTOVER_REGISTRY_PASSWORD", SECRET).output().unwrap();
    Said::from(deploy).expect(0);
    whole(&scratch, 2);
    assert!(holders(scratch.path()).is_empty(), "{:?}", holders(scratch.path()));
    let server = scratch.server_pid();
    for (pid, command) in scratch.processes() {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        assert_eq!(has(&environ), pid == server, "environment of {command}");
    }
}
