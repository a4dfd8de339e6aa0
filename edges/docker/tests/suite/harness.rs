//! What the tests share: whether there can be engines at all.

/// Whether engines must be there: `./test` says so, a bare `cargo test` does not.
pub(crate) fn engines_wanted(test: &str) -> bool {
    if std::env::var_os("CUTOVER_TEST_SERVERS").is_none() {
        println!("skipped: {test}: it needs a Docker engine; ./test runs it");
        return false;
    }
    if !cutover_docker_engine::possible() && std::env::var_os("CI").is_none() {
        println!("skipped: {test}: it needs root, dockerd, docker and ip");
        return false;
    }
    true
}
