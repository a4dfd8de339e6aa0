//! Very many releases in a row, and very many requests at once.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use cutover_bench::load::{Load, Mix, Options, Pace};

use crate::harness::{Said, Scratch, servers_wanted, wait};
use crate::service::{self, Shop, bakes_at, finish, load, whole};

const STORM: u32 = 200;
const QUICK: &str =
    "strategy: {canary: {weights: [50%, 100%], bake: 20ms}}\nbake: 20ms\nkeep_warm: 0s\ndrain: 8s";
/// A bake that only an abort ends.
const LONG: &str =
    "strategy: {canary: {weights: [50%, 100%], bake: 30m}}\nbake: 30m\nkeep_warm: 0s\ndrain: 8s";

fn resident_kib(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn open_files(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Loopback ports that processes of this scratch folder listen on.
fn listeners(scratch: &Scratch) -> usize {
    let mut mine = BTreeSet::new();
    for (pid, _) in scratch.processes() {
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            let target = fs::read_link(entry.path()).unwrap_or_default().to_string_lossy().into_owned();
            let inode = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
            mine.extend(inode.map(str::to_string));
        }
    }
    let text = fs::read_to_string("/proc/net/tcp").unwrap();
    // 0A is LISTEN.
    let listens = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(3) == Some(&"0A") && fields.get(9).is_some_and(|inode| mine.contains(*inode))
    };
    text.lines().filter(listens).count()
}

fn entries(scratch: &Scratch, folder: &str) -> usize {
    fs::read_dir(scratch.state().join(folder)).map_or(0, Iterator::count)
}

#[test]
fn two_hundred_releases_half_of_them_aborted_leave_nothing_behind() {
    if !servers_wanted("two_hundred_releases_half_of_them_aborted_leave_nothing_behind") {
        return;
    }
    let scratch = Scratch::new();
    Shop { version: "v0", replicas: 1, more: QUICK, ..Shop::default() }.file(&scratch);
    scratch.deploy().expect(0);
    whole(&scratch, 1);
    let options =
        Options::new(scratch.address, "shop.localhost").mix(Mix::small()).pace(Pace::PerSecond(50.0));
    let load = Load::start(options);
    let (server, worker) = (scratch.server_pid(), scratch.proxy_pids().1);
    let mut early = None;
    for number in 1..=STORM {
        let abort = number % 2 == 0;
        let (version, more) = (format!("v{number}"), if abort { LONG } else { QUICK });
        Shop { version: &version, replicas: 1, more, ..Shop::default() }.file(&scratch);
        if abort {
            scratch.run(&["deploy", "--detach"]).expect(8);
            // At whatever step it is by then.
            scratch.run(&["abort"]).expect(0);
            wait("the way back", || {
                let said = scratch.run(&["history", "--output", "json", "--limit", "1"]).expect(0).json();
                (said["releases"][0]["outcome"] == "withdrawn").then_some(())
            });
        } else {
            scratch.run(&["deploy"]).expect(0);
        }
        if number == STORM / 5 {
            early = Some((resident_kib(server), open_files(server), open_files(worker)));
        }
    }
    whole(&scratch, 1);
    let report = finish(&scratch, load);
    assert_eq!(report.failed(), 0, "{report}");
    assert_eq!((scratch.server_pid(), scratch.proxy_pids().1), (server, worker), "nobody died of it");

    // What a fifth of it took is what all of it takes.
    let (memory, files, proxy_files) = early.unwrap();
    wait("connections to be closed", || {
        (open_files(server) <= files + 10 && open_files(worker) <= proxy_files + 10).then_some(())
    });
    let now = resident_kib(server);
    println!("the server takes {now} KiB after {STORM} releases, {memory} KiB after a fifth of them");
    assert!(now < memory + (32 << 10), "{now} KiB, {memory} KiB before");

    let kept = || (entries(&scratch, "local/revisions"), entries(&scratch, "local/services/shop/logs"));
    wait("old revisions to go", || (kept().0 <= 6 && kept().1 <= 6).then_some(()));
    let ports = listeners(&scratch);
    assert_eq!(ports, 2, "the address and one instance");
    let processes = scratch.processes();
    assert_eq!(processes.len(), 4, "server, holder, worker, one instance: {processes:?}");

    // The journal tells all of it, to the next server too.
    scratch.run(&["server", "stop"]).expect(0);
    let limit = (STORM + 10).to_string();
    let history = scratch.run(&["history", "--output", "json", "--limit", &limit]).expect(0).json();
    let all = history["releases"].as_array().unwrap();
    let ended = |how: &str| all.iter().filter(|release| release["outcome"] == how).count();
    assert_eq!((ended("released"), ended("withdrawn")), (1 + STORM as usize / 2, STORM as usize / 2));
    assert!(scratch.run(&["show", "shop-100"]).expect(0).out.contains("shop-100"));
    let journal: u64 = ["journal.db", "journal.db-wal"]
        .iter()
        .filter_map(|name| fs::metadata(scratch.state().join(name)).ok())
        .map(|meta| meta.len())
        .sum();
    println!("the journal takes {} KiB", journal >> 10);
    assert!(journal < u64::from(STORM) * (64 << 10), "{journal} bytes");
}

#[test]
fn ten_times_the_traffic_in_the_middle_of_a_release() {
    let scratch = Scratch::new();
    service::file(&scratch, "v1", "", LONG);
    scratch.deploy().expect(0);
    whole(&scratch, 2);
    let usual = load(&scratch);
    service::file(&scratch, "v2", "", LONG);
    let deploy = scratch.spawn(&["deploy", "--output", "json"]);
    bakes_at(&scratch, "50%");
    service::more(&usual, 60);
    // Ten times the clients, ten times the pace, all at once.
    let small = Mix::small();
    let mix = Mix {
        get_kept: small.get_kept * 10,
        get_new: small.get_new * 10,
        post: small.post * 10,
        slow_upload: small.slow_upload * 10,
        slow_download: small.slow_download * 10,
        websocket: small.websocket * 10,
        ..small
    };
    let mut spike = Options::new(scratch.address, "shop.localhost").mix(mix).pace(Pace::PerSecond(1_500.0));
    // Whoever is late on a busy machine is late, not lost.
    spike.limit = Duration::from_secs(60);
    let spike = Load::start(spike);
    service::more(&spike, 1_000);
    scratch.run(&["advance"]).expect(0);
    bakes_at(&scratch, "100%");
    service::more(&spike, 1_000);
    scratch.run(&["promote"]).expect(0);
    let told = Said::from(deploy.wait_with_output().unwrap()).expect(0).report();
    assert_eq!(told["failed_by_router"], 0, "{told}");
    let mut spike = spike.stop();
    spike.check_received(&[scratch.path().join("received.txt")]).unwrap();
    whole(&scratch, 2);
    let usual = finish(&scratch, usual);
    println!("{spike}");
    assert_eq!((usual.failed(), spike.failed()), (0, 0), "{usual}\n{spike}");
}
