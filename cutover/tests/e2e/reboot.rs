//! After a reboot: everything is gone, the boot is another one, and what was installed starts all of it again.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::harness::{Scratch, get, wait};
use crate::service;

const QUICK: &str = "bake: 0s\nkeep_warm: 0s\ndrain: 1s";

/// Runs commands as after a reboot: with another boot id, where that can be arranged.
struct Boot {
    id: Option<PathBuf>,
}

impl Boot {
    fn another(scratch: &Scratch) -> Boot {
        let id = scratch.path().join("boot_id");
        fs::write(&id, "01234567-89ab-cdef-0123-456789abcdef\n").unwrap();
        let mut boot = Boot { id: Some(id) };
        let seen = boot.shell("cat /proc/sys/kernel/random/boot_id").stdout(Stdio::piped()).output();
        if !seen.is_ok_and(|seen| seen.stdout.starts_with(b"01234567-")) {
            println!("the boot stays the same: only root may put another id in its place");
            boot.id = None;
        }
        boot
    }

    fn shell(&self, script: &str) -> Command {
        let mut command = match &self.id {
            Some(id) => {
                let mut command = Command::new("unshare");
                let bind = format!("mount --bind '{}' /proc/sys/kernel/random/boot_id", id.display());
                command.args(["-m", "sh", "-c", &format!("{bind} && {script}")]);
                command
            }
            None => {
                let mut command = Command::new("sh");
                command.args(["-c", script]);
                command
            }
        };
        command.env_clear().current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Starts a unit: exactly what its `ExecStart=` says, with what its `Environment=` says.
    fn start(&self, unit: &str) -> Child {
        let values = |key: &str| unit.lines().filter_map(|line| line.strip_prefix(key)).collect::<Vec<_>>();
        let [start] = values("ExecStart=")[..] else { panic!("not one start in {unit}") };
        let mut command = self.shell(&format!("exec {start}"));
        for variable in values("Environment=") {
            let (name, value) = variable.trim_matches('"').split_once('=').unwrap();
            command.env(name, value);
        }
        command.spawn().unwrap()
    }
}

/// Waits until stable answers; nothing else may in the meantime.
fn only_stable(scratch: &Scratch, stable: &str) {
    wait("stable to serve again", || {
        let (status, body) = get(scratch.address, "/")?;
        assert!(status != 200 || body == format!("{stable}\n"), "{body} has traffic, which is not stable");
        (status == 200).then_some(())
    });
}

#[test]
fn stable_serves_again_by_its_units_alone_and_a_candidate_has_nothing() {
    let scratch = Scratch::new();
    let boot = Boot::another(&scratch);
    service::file(&scratch, "v1", "", QUICK);
    scratch.deploy().expect(0);
    service::file(&scratch, "v2", "", "bake: 1h\nkeep_warm: 0s\ndrain: 1s\ndeadline: 2h");
    scratch.run(&["deploy", "--detach"]).expect(8);
    wait("traffic on the candidate", || {
        (get(scratch.address, "/") == Some((200, "v2\n".into()))).then_some(())
    });
    let printed = scratch.run(&["server", "install", "--user", "--print"]).expect(0).out;
    let units: Vec<&str> = printed.split("\n[Unit]").skip(1).collect();
    assert_eq!(units.len(), 2, "{printed}");

    scratch.end_all();
    assert!(get(scratch.address, "/").is_none(), "the machine is down");
    let mut started: Vec<Child> = units.iter().map(|unit| boot.start(unit)).collect();
    if boot.id.is_some() {
        only_stable(&scratch, "v1");
    }
    // The lease of before the reboot means nothing now: the release goes back, with nobody there to say so.
    wait("the release to be over", || {
        let history = scratch.run(&["history", "--output", "json", "--limit", "1"]).expect(0).json();
        (history["releases"][0]["outcome"] == "rolled back").then_some(())
    });
    only_stable(&scratch, "v1");
    let status = scratch.status();
    let tracks = status["services"][0]["router"]["tracks"].as_array().unwrap();
    assert!(tracks.iter().all(|track| (track["weight"] == "100%")
        == (track["revision"] == status["services"][0]["service"]["stable"])));
    assert_eq!(scratch.server_pid(), started[1].id().cast_signed(), "the unit's server, no other");
    assert_eq!(scratch.proxy_pids().0, started[0].id().cast_signed(), "the unit's proxy, no other");

    // What `systemctl restart` does to the server's unit: its first process alone.
    crate::harness::kill(scratch.server_pid(), rustix::process::Signal::TERM);
    started[1].wait().unwrap();
    assert_eq!(get(scratch.address, "/"), Some((200, "v1\n".into())));
    started.push(boot.start(units[1]));
    // No verb may ask before: it would start a server of its own, which lives in the boot of before.
    let next = started[2].id().cast_signed();
    wait("the next server", || (scratch.server_answers() == Some(next)).then_some(()));
    scratch.run(&["status"]).expect(0);
    assert_eq!(get(scratch.address, "/"), Some((200, "v1\n".into())));
    scratch.end_all();
    started.iter_mut().for_each(|child| drop(child.wait()));
}

/// Puts a program of that name in front of the path.
fn program(scratch: &Scratch, name: &str, script: &str) -> String {
    let bin = scratch.path().join("bin");
    fs::create_dir_all(&bin).unwrap();
    fs::write(bin.join(name), format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:{}", bin.display(), std::env::var("PATH").unwrap())
}

#[test]
fn without_systemd_a_line_of_the_crontab_brings_stable_back() {
    let scratch = Scratch::new();
    let table = scratch.path().join("crontab");
    fs::write(&table, "5 4 * * * something else\n").unwrap();
    let script =
        format!("case $1 in -l) cat {0};; -) cat > {0}.new && mv {0}.new {0};; esac", table.display());
    let path = program(&scratch, "crontab", &script);
    let run = |args: &[&str]| -> crate::harness::Said {
        scratch.command(args).env("PATH", &path).output().unwrap().into()
    };
    service::file(&scratch, "v1", "", QUICK);
    scratch.deploy().expect(0);
    for _ in 0..2 {
        run(&["server", "install", "--cron"]).expect(0);
    }
    let lines: Vec<String> = fs::read_to_string(&table).unwrap().lines().map(str::to_string).collect();
    assert_eq!((lines.len(), lines[0].as_str()), (2, "5 4 * * * something else"), "{lines:?}");

    scratch.end_all();
    let boot = Boot::another(&scratch);
    let line = lines[1].strip_prefix("@reboot ").unwrap().replace("\\%", "%");
    // Cron starts it with next to nothing in its environment.
    let mut started = boot.shell(&line).env("PATH", "/usr/bin:/bin").spawn().unwrap();
    only_stable(&scratch, "v1");
    let said = run(&["server", "uninstall"]).expect(0).out;
    assert!(said.contains("a line of the crontab") && said.contains("what runs goes on"), "{said}");
    assert_eq!(fs::read_to_string(&table).unwrap(), "5 4 * * * something else\n");
    assert_eq!(get(scratch.address, "/"), Some((200, "v1\n".into())));
    scratch.end_all();
    started.wait().unwrap();
}

#[test]
fn units_are_written_enabled_and_taken_away_again() {
    let scratch = Scratch::new();
    let said = scratch.path().join("said");
    let path = program(&scratch, "systemctl", &format!("echo \"$@\" >> {}", said.display()));
    program(&scratch, "loginctl", "exit 1");
    program(&scratch, "crontab", "exit 1");
    let run = |args: &[&str], state: &str| -> crate::harness::Said {
        let mut command = scratch.command(args);
        command.env("PATH", &path).env("HOME", scratch.path()).env_remove("XDG_CONFIG_HOME");
        command.env("CUTOVER_STATE", scratch.path().join(state)).output().unwrap().into()
    };
    let folder = scratch.path().join(".config/systemd/user");
    let units = || fs::read_dir(&folder).unwrap().count();
    for _ in 0..2 {
        let out = run(&["server", "install", "--user"], "state").expect(0).out;
        assert!(out.contains("start with the machine") || out.contains("with the machine"), "{out}");
        assert!(out.contains("enable-linger"), "{out}");
    }
    assert_eq!(units(), 2);
    let other = run(&["server", "install", "--user"], "other").expect(2).err;
    assert!(other.contains("serves another state folder") && other.contains("uninstall"), "{other}");
    assert!(run(&["server", "uninstall"], "other").expect(0).out.contains("nothing was installed"));
    assert_eq!(units(), 2);
    run(&["server", "uninstall"], "state").expect(0);
    assert_eq!(units(), 0);
    let said = fs::read_to_string(said).unwrap();
    let both = "cutover-proxy.service cutover-server.service";
    let turn = format!("--user daemon-reload\n--user enable {both}\n");
    assert_eq!(said, format!("{turn}{turn}--user disable {both}\n--user daemon-reload\n"));
}
