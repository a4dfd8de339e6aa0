//! Pages of one revision find their assets while requests go to another.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::harness::{Scratch, get, python_there, wait};

/// A small site: a page that names its revision, and that revision's style sheet.
fn site(scratch: &Scratch, version: &str) {
    let folder = scratch.path().join(version);
    fs::create_dir_all(folder.join("assets")).unwrap();
    fs::write(folder.join("index.html"), version).unwrap();
    fs::write(folder.join("assets").join(format!("{version}.css")), format!("/* {version} */")).unwrap();
}

fn release(scratch: &Scratch, version: &str) {
    scratch.file(
        &format!(
            "command: [python3, -m, http.server, $PORT, --bind, 127.0.0.1], artifact: {version}, replicas: 2"
        ),
        "checks: {health: [{path: /, interval: 100ms}]}\nbake: 1s\nkeep_warm: 1h\ndrain: 5s",
    );
    let path = scratch.path().join("cutover.yaml");
    let listen = format!("listen: '{}'", scratch.address);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace(&listen, &format!("{listen}, assets: [/assets/]"))).unwrap();
    let report = scratch.run(&["deploy", "--output", "json"]).expect(0).report();
    assert_eq!((&report["outcome"], &report["failed"]), (&"released".into(), &0.into()), "{report}");
}

#[test]
fn a_page_finds_its_assets_before_during_and_after_the_switch() {
    if !python_there("a_page_finds_its_assets_before_during_and_after_the_switch") {
        return;
    }
    let scratch = Scratch::new();
    site(&scratch, "v1");
    site(&scratch, "v2");
    release(&scratch, "v1");
    let (stop, pages) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    // A browser: it reads a page, and then, maybe after a switch, the style sheet that the page asks for.
    let browser = {
        let (stop, pages, address) = (stop.clone(), pages.clone(), scratch.address);
        std::thread::spawn(move || {
            let mut waiting: Vec<String> = Vec::new();
            while !stop.load(Ordering::SeqCst) {
                let (status, page) = get(address, "/").unwrap();
                assert_eq!(status, 200);
                waiting.push(page);
                // A page from some requests ago: it may come from another revision than the requests now.
                if waiting.len() > 5 {
                    let page = waiting.remove(0);
                    let asset = get(address, &format!("/assets/{page}.css"));
                    assert_eq!(asset, Some((200, format!("/* {page} */"))));
                }
                pages.fetch_add(1, Ordering::SeqCst);
            }
        })
    };
    wait("some pages", || (pages.load(Ordering::SeqCst) > 20).then_some(()));
    release(&scratch, "v2");
    let after = pages.load(Ordering::SeqCst);
    wait("pages after the switch", || (pages.load(Ordering::SeqCst) > after + 20).then_some(()));
    stop.store(true, Ordering::SeqCst);
    browser.join().unwrap();
    // v1 is warm: a browser that was left open for a while still finds what it needs.
    assert_eq!(get(scratch.address, "/"), Some((200, "v2".into())));
    assert_eq!(get(scratch.address, "/assets/v1.css"), Some((200, "/* v1 */".into())));
    assert_eq!(get(scratch.address, "/assets/none.css").unwrap().0, 404);
    assert_eq!(get(scratch.address, "/none.css").unwrap().0, 404);
}
