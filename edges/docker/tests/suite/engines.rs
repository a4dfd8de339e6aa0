//! The engines of the tests themselves: beside each other, with images out of files, and gone at the end.

use std::path::Path;

use cutover_docker_engine::Engine;

use crate::suite::harness::engines_wanted;

#[test]
fn two_engines_run_beside_each_other() {
    if !engines_wanted("two_engines_run_beside_each_other") {
        return;
    }
    let (one, mut other) = (Engine::start(), Engine::start());
    let id =
        one.image("sleeper", &[(Path::new("/bin/sleep"), "/bin/sleep")], &["CMD [\"/bin/sleep\", \"1000\"]"]);
    assert!(id.starts_with("sha256:"), "{id}");
    let container = one.docker(&["run", "--detach", "sleeper"]);
    assert!(one.docker(&["ps", "--quiet", "--no-trunc"]).contains(container.trim()));
    assert_eq!(other.docker(&["images", "--quiet"]), "");
    other.kill();
    other.start_again();
    other.stop();
    let socket = other.socket();
    drop(other);
    assert!(!socket.parent().unwrap().exists());
}
