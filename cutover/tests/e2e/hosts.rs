//! A service on two hosts: one on this machine, one over a real ssh, each with an engine and a proxy of its own.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use cutover_docker_engine::Engine;

use crate::harness::{Said, Scratch, free_address, get, servers_wanted, wait};
use crate::service;

const QUICK: &str = "bake: 300ms\nkeep_warm: 0s\ndrain: 5s";
const CANARY: &str = "strategy: {canary: {weights: [10%, 100%], bake: 300ms}}";

/// An sshd of its own keys and settings, on a free loopback port.
struct Sshd {
    child: Child,
    port: u16,
    config: PathBuf,
}

impl Sshd {
    fn start(folder: &Path) -> Sshd {
        let at = |name: &str| folder.join(name);
        for key in ["host", "user"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(at(key))
                .status();
            assert!(made.unwrap().success(), "ssh-keygen");
        }
        let port = free_address().port();
        fs::copy(at("user.pub"), at("authorized")).unwrap();
        let public = fs::read_to_string(at("host.pub")).unwrap();
        fs::write(at("known"), format!("[127.0.0.1]:{port} {public}")).unwrap();
        // Made by the package's service, which does not run.
        fs::create_dir_all("/run/sshd").unwrap();
        let text = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\n\
             PermitRootLogin yes\nPasswordAuthentication no\nPidFile none\nMaxStartups 100\nMaxSessions 200\n",
            at("host").display(),
            at("authorized").display()
        );
        fs::write(at("sshd_config"), text).unwrap();
        let config = at("ssh_config");
        let text = format!(
            "IdentityFile {}\nIdentitiesOnly yes\nUserKnownHostsFile {}\nGlobalKnownHostsFile /dev/null\n\
             StrictHostKeyChecking yes\n",
            at("user").display(),
            at("known").display()
        );
        fs::write(&config, text).unwrap();
        let child = serve(&at("sshd_config"));
        let sshd = Sshd { child, port, config };
        wait("sshd", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        sshd
    }

    /// Ends it with the connections that it has: its children carry them.
    fn cut(&mut self) {
        let pid = self.child.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let _ = self.child.kill();
        let _ = self.child.wait();
        for child in children.split_whitespace() {
            crate::harness::kill(child.parse().unwrap(), rustix::process::Signal::KILL);
        }
    }

    fn again(&mut self) {
        self.child = serve(&self.config.with_file_name("sshd_config"));
    }
}

fn serve(config: &Path) -> Child {
    Command::new("/usr/sbin/sshd").args(["-D", "-e", "-f"]).arg(config).stderr(Stdio::null()).spawn().unwrap()
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.cut();
    }
}

/// Two hosts: a is this machine, b is reached over ssh. Both listen on the same port of other addresses.
struct Two {
    // The servers first: they must not see their containers end.
    scratch: Scratch,
    other: Scratch,
    sshd: Sshd,
    engines: [Engine; 2],
}

impl Two {
    fn new(versions: &[&str]) -> Two {
        let (mut scratch, other) = (Scratch::new(), Scratch::new());
        let engines = [Engine::start(), Engine::start()];
        scratch.docker_host = Some(engines[0].host());
        let exe = std::env::current_exe().unwrap();
        for version in versions {
            let name = format!("shop:{version}");
            engines[0].image(
                &name,
                &[(&exe, "/shop")],
                &[
                    &format!("ENV E2E_SERVICE=1 EVERYWHERE=1 VERSION={version}"),
                    "EXPOSE 9000",
                    "CMD [\"/shop\", \"--exact\", \"service::entry\", \"--nocapture\"]",
                ],
            );
            let file = other.path().join("image.tar");
            let file = file.to_str().unwrap();
            engines[0].docker(&["save", "-o", file, &name]);
            engines[1].docker(&["load", "-i", file]);
        }
        let sshd = Sshd::start(other.path());
        let two = Two { scratch, other, sshd, engines };
        // A host's proxy runs with no server.
        let proxy = two.other.command(&["proxy", "--background"]).spawn();
        drop(std::thread::spawn(move || proxy.unwrap().wait()));
        wait("the proxy of host b", || two.other.state().join("proxy/proxy.sock").exists().then_some(()));
        two
    }

    fn b(&self) -> SocketAddr {
        ([127, 0, 0, 2], self.scratch.address.port()).into()
    }

    /// Host b, as the release file writes it.
    fn host(&self) -> String {
        let (engine, state) = (self.engines[1].socket(), self.other.state());
        format!(
            "ssh://root@127.0.0.1:{}?name=b&docker={}&state={}&listen=127.0.0.2",
            self.sshd.port,
            engine.display(),
            state.display()
        )
    }

    fn file(&self, version: &str, more: &str) {
        let text = format!(
            "service: shop\nplatform:\n  docker:\n    image: shop:{version}\n    replicas: 1\n    stop_grace: 10s\n    \
             env: {{RECEIVED: /dev/null, TROUBLE: /none}}\n    hosts:\n      - 'unix://{}?name=a'\n      - '{}'\n\
             route: [{{proxy: {{listen: '{}'}}}}]\n\
             checks: {{health: [{{path: /health, interval: 100ms}}], within: 60s}}\n{more}\n",
            self.engines[0].socket().display(),
            self.host(),
            self.scratch.address
        );
        fs::write(self.scratch.path().join("cutover.yaml"), text).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.scratch.command(args);
        command.env("CUTOVER_SSH", format!("ssh -F {}", self.sshd.config.display()));
        command
    }

    fn deploy(&self, version: &str, more: &str) -> Said {
        self.file(version, more);
        self.command(&["deploy", "--output", "json"]).output().unwrap().into()
    }

    /// What both hosts answer.
    fn answers(&self) -> [Option<String>; 2] {
        [self.scratch.address, self.b()].map(|address| match get(address, "/") {
            Some((200, body)) => Some(body.trim().to_owned()),
            _ => None,
        })
    }
}

/// Asks an address until told to stop. Returns how many requests there were, and the answers that were none.
fn ask(address: SocketAddr, stop: &std::sync::atomic::AtomicBool) -> (u64, Vec<String>) {
    let (mut all, mut failed) = (0, Vec::new());
    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
        all += 1;
        match get(address, "/") {
            Some((200, _)) => {}
            other => failed.push(format!("{other:?}")),
        }
    }
    (all, failed)
}

fn both(version: &str) -> [Option<String>; 2] {
    [Some(version.to_owned()), Some(version.to_owned())]
}

#[test]
fn two_hosts_are_released_as_one_and_taken_back_as_one() {
    if !servers_wanted("two_hosts_are_released_as_one_and_taken_back_as_one") {
        return;
    }
    let mut two = Two::new(&["v1", "v2", "v3"]);
    two.deploy("v1", QUICK).expect(0);
    assert_eq!(two.answers(), both("v1"));
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (a, b) = std::thread::scope(|threads| {
        let (first, second) = (two.scratch.address, two.b());
        let stop = &stop;
        let asking = [first, second].map(|address| threads.spawn(move || ask(address, stop)));
        let said = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            two.deploy("v2", &format!("{QUICK}\n{CANARY}")).expect(0)
        }));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let [a, b] = asking.map(|asked| asked.join().unwrap());
        drop(said.unwrap());
        (a, b)
    });
    assert_eq!(two.answers(), both("v2"));
    assert!(a.0 > 10 && b.0 > 10, "{} and {} requests", a.0, b.0);
    assert_eq!((a.1, b.1), (vec![], vec![]), "failed requests");

    // Host b does not have the image: what host a has of it is worth nothing.
    two.engines[1].docker(&["rmi", "shop:v3"]);
    let said = two.deploy("v3", &format!("{QUICK}\n{CANARY}"));
    assert_eq!(said.code, 3, "{}", said.out);
    assert!(said.out.contains("(host b)"), "{}", said.out);
    assert_eq!(two.answers(), both("v2"));

    // Host b is cut off while the candidate bakes: the rule takes the release back where it can be, and the rest by itself.
    two.file(
        "v1",
        &format!("bake: 30m\nkeep_warm: 0s\ndrain: 5s\n{CANARY}").replace("bake: 300ms", "bake: 30m"),
    );
    let deploy = two
        .command(&["deploy", "--output", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    service::bakes_at(&two.scratch, "10%");
    two.sshd.cut();
    wait("host a to be taken back", || {
        let status = two.scratch.status().to_string();
        status.contains("is lost").then_some(())
    });
    two.sshd.again();
    let said = Said::from(deploy.wait_with_output().unwrap());
    assert!([4, 5].contains(&said.code), "{} {}", said.code, said.out);
    wait("both hosts to be back", || (two.answers() == both("v2")).then_some(()));
    assert!(said.out.contains("host b is lost"), "{}", said.out);

    // What host b needs besides: its proxy runs, the program is copied, twice as once.
    let host = two.host();
    let missing = Said::from(two.command(&["host", "check", &host]).output().unwrap()).expect(1);
    assert!(missing.out.contains("ok engine") && missing.out.contains("missing program"), "{}", missing.out);
    let unasked = Said::from(two.command(&["host", "prepare", &host]).output().unwrap()).expect(3);
    assert!(
        unasked.out.contains("mkdir -p") && unasked.err.contains("--yes"),
        "{} {}",
        unasked.out,
        unasked.err
    );
    for _ in 0..2 {
        let said = Said::from(two.command(&["host", "prepare", "--yes", &host]).output().unwrap()).expect(0);
        assert!(said.out.contains("a proxy answers") && said.out.contains("ok proxy"), "{}", said.out);
    }
    Said::from(two.command(&["host", "check", &host]).output().unwrap()).expect(0);
    assert_eq!(two.answers(), both("v2"), "the proxy that was there serves on");
}
