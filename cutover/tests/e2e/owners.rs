//! One owner of everything: services, state folders, addresses.

use std::fs;

use crate::harness::{Said, Scratch, kill, wait};

const PYTHON: &str = "command: [python3, -m, http.server, $PORT, --bind, 127.0.0.1]";

#[test]
fn of_two_deploys_at_once_one_is_refused_by_name() {
    if !crate::harness::python_there("of_two_deploys_at_once_one_is_refused_by_name") {
        return;
    }
    let scratch = Scratch::new();
    scratch.file(PYTHON, "bake: 0s");
    scratch.deploy().expect(0);
    scratch.file(&format!("{PYTHON}, env: {{A: one}}"), "bake: 4s");
    let first =
        scratch.command(&["deploy"]).env("USER", "ann").stdout(std::process::Stdio::piped()).spawn().unwrap();
    wait("the first to hold the service", || scratch.run(&["status"]).out.contains("shop-2").then_some(()));
    scratch.file(&format!("{PYTHON}, env: {{A: two}}"), "bake: 0s");
    let second = scratch.run(&["deploy"]).expect(6);
    assert!(second.err.contains("shop-2") && second.err.contains("ann"), "{}", second.err);
    let first: Said = first.wait_with_output().unwrap().into();
    first.expect(0);
}

#[test]
fn two_deploys_in_the_same_moment_never_both_begin() {
    if !crate::harness::python_there("two_deploys_in_the_same_moment_never_both_begin") {
        return;
    }
    let scratch = Scratch::new();
    scratch.file(PYTHON, "bake: 0s");
    scratch.deploy().expect(0);
    scratch.file(&format!("{PYTHON}, env: {{A: one}}"), "bake: 2s");
    let children: Vec<_> = (0..4).map(|_| scratch.spawn(&["deploy"])).collect();
    let mut codes: Vec<i32> =
        children.into_iter().map(|child| Said::from(child.wait_with_output().unwrap()).code).collect();
    codes.sort_unstable();
    assert_eq!(codes, [0, 6, 6, 6]);
}

#[test]
fn supersede_takes_the_first_back_and_goes_on() {
    if !crate::harness::python_there("supersede_takes_the_first_back_and_goes_on") {
        return;
    }
    let scratch = Scratch::new();
    scratch.file(PYTHON, "bake: 0s");
    scratch.deploy().expect(0);
    scratch.file(&format!("{PYTHON}, env: {{A: one}}"), "bake: 10m");
    let first = scratch.spawn(&["deploy"]);
    wait("the first to bake", || scratch.run(&["status"]).out.contains("bake").then_some(()));
    scratch.file(&format!("{PYTHON}, env: {{A: two}}"), "bake: 0s");
    scratch.run(&["deploy", "--supersede"]).expect(0);
    Said::from(first.wait_with_output().unwrap()).expect(7);
}

#[test]
fn two_servers_on_one_state_folder_are_refused() {
    if !crate::harness::python_there("two_servers_on_one_state_folder_are_refused") {
        return;
    }
    let scratch = Scratch::new();
    scratch.file(PYTHON, "");
    scratch.deploy().expect(0);
    let said = scratch.run(&["server"]).expect(1);
    assert!(said.err.contains(&format!("pid {}", scratch.server_pid())), "{}", said.err);
}

#[test]
fn two_proxies_on_one_address_are_refused_not_silently_shared() {
    if !crate::harness::python_there("two_proxies_on_one_address_are_refused_not_silently_shared") {
        return;
    }
    let (one, two) = (Scratch::new(), Scratch::new());
    one.file(PYTHON, "");
    one.deploy().expect(0);
    let text = format!(
        "service: shop\nplatform: {{local: {{{PYTHON}}}}}\nroute: [{{proxy: {{listen: '{}'}}}}]\n",
        one.address
    );
    fs::write(two.path().join("cutover.yaml"), text).unwrap();
    let said = two.run(&["deploy"]).expect(3);
    let all = format!("{}{}", said.out, said.err);
    assert!(all.contains(&one.address.to_string()), "{all}");
    // One folder, two proxies.
    let said = one.run(&["proxy"]).expect(1);
    assert!(said.err.contains("is held by process"), "{}", said.err);
}

#[test]
fn an_address_of_a_stranger_is_refused_with_its_name() {
    if !crate::harness::python_there("an_address_of_a_stranger_is_refused_with_its_name") {
        return;
    }
    let scratch = Scratch::new();
    let _stranger = std::net::TcpListener::bind(scratch.address).unwrap();
    scratch.file(PYTHON, "");
    let said = scratch.run(&["deploy"]).expect(3);
    assert!(format!("{}{}", said.out, said.err).contains(&scratch.address.to_string()), "{said:?}");
}

#[test]
fn a_server_that_is_stopped_leaves_traffic_and_the_next_one_adopts() {
    if !crate::harness::python_there("a_server_that_is_stopped_leaves_traffic_and_the_next_one_adopts") {
        return;
    }
    let scratch = Scratch::new();
    scratch.file(&format!("{PYTHON}, replicas: 2"), "");
    scratch.deploy().expect(0);
    let before = scratch.status();
    scratch.run(&["server", "stop"]).expect(0);
    assert_eq!(crate::harness::get(scratch.address, "/").map(|(status, _)| status), Some(200));
    scratch.run(&["plan"]).expect(0);
    let pids = |status: &serde_json::Value| status["services"][0]["revisions"][0]["instances"].clone();
    let pid = |status: &serde_json::Value, i: usize| pids(status)[i]["pid"].clone();
    let after = scratch.status();
    assert_eq!((pid(&before, 0), pid(&before, 1)), (pid(&after, 0), pid(&after, 1)));
}

#[test]
fn an_instance_that_dies_comes_back() {
    if !crate::harness::python_there("an_instance_that_dies_comes_back") {
        return;
    }
    let scratch = Scratch::new();
    scratch.file(&format!("{PYTHON}, replicas: 2"), "");
    scratch.deploy().expect(0);
    let pid = scratch.status()["services"][0]["revisions"][0]["instances"][0]["pid"].as_i64().unwrap();
    kill(i32::try_from(pid).unwrap(), rustix::process::Signal::KILL);
    wait("the instance to come back", || {
        let now = scratch.status()["services"][0]["revisions"][0]["instances"][0].clone();
        (now["state"] == "running" && now["pid"] != pid).then_some(())
    });
    for _ in 0..20 {
        assert_eq!(crate::harness::get(scratch.address, "/").map(|(status, _)| status), Some(200));
    }
}

/// A proxy of another version holds the traffic: a server that cannot talk to it says so, and starts none beside it.
#[test]
fn a_proxy_of_another_protocol_is_left_as_it_is() {
    use std::io::{BufRead, BufReader, Write};
    let scratch = Scratch::new();
    let folder = scratch.state().join("proxy");
    std::fs::create_dir_all(&folder).unwrap();
    let listener = std::os::unix::net::UnixListener::bind(folder.join("proxy.sock")).unwrap();
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let count = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut line = String::new();
            stream.read_line(&mut line).unwrap();
            assert!(line.contains("\"hello\""), "{line}");
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let hello = "{\"ok\":{\"version\":\"9.9.9\",\"protocol\":99,\"oldest_protocol\":98,\"worker_pid\":1,\
                         \"holder_pid\":null,\"threads\":1,\"dir\":\"/there\",\"listeners\":[]}}\n";
            stream.get_mut().write_all(hello.as_bytes()).unwrap();
        }
    });
    let said = scratch.run(&["server"]).expect(1);
    for words in
        ["of cutover 9.9.9", "speaks protocols 98 to 99", "use cutover 9.9.9", "traffic goes on as it is"]
    {
        assert!(said.err.contains(words), "{said:?}");
    }
    scratch.run(&["proxy", "status"]).expect(1);
    assert!(asked.load(std::sync::atomic::Ordering::SeqCst) >= 2, "it still has its socket");
    assert_eq!(scratch.processes(), Vec::new(), "no proxy was started beside it");
}

/// The folder of a newer proxy is not for this one: the server says so, and nothing is overwritten.
#[test]
fn a_folder_of_a_newer_proxy_is_refused_with_what_to_do() {
    let scratch = Scratch::new();
    let folder = scratch.state().join("proxy");
    fs::create_dir_all(&folder).unwrap();
    // The checksum of an empty object.
    let sum = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
    let newer = format!("{{\"schema\":2,\"sha256\":\"{sum}\",\"payload\":{{}}}}");
    fs::write(folder.join("table.json"), &newer).unwrap();
    let said = scratch.run(&["server"]).expect(1);
    for words in
        ["it has schema 2, this proxy reads up to 1", "written by a newer cutover", "move the file away"]
    {
        assert!(said.err.contains(words), "{said:?}");
    }
    assert_eq!(fs::read_to_string(folder.join("table.json")).unwrap(), newer);
}
