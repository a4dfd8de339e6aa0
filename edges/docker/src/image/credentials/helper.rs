//! Credential helpers: programs that keep logins elsewhere, such as `docker-credential-ecr-login`.

use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use cutover_core::{After, Blame, Fault};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::Login;

/// The most of its output that is read.
const OUTPUT: u64 = 1 << 20;
/// The user's name that says: the secret is an identity token.
const TOKEN: &str = "<token>";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    secret: String,
}

/// Asks the helper `docker-credential-NAME` for a login; none where it knows of none.
pub(super) async fn ask(
    name: &str,
    server: &str,
    path: &OsStr,
    limit: Duration,
) -> Result<Option<Login>, Fault> {
    let program = format!("docker-credential-{name}");
    let doing = format!("ask {program} for the login of {server}");
    let child = start(&program, path).map_err(|error| {
        let what = match error.kind() {
            io::ErrorKind::NotFound => format!("{doing}: there is no such program"),
            _ => format!("{doing}: {error}"),
        };
        Fault::configuration(what).hint(format!(
            "Put {program} into the PATH of cutover's server, or take \"{name}\" out of credsStore and credHelpers of Docker's config.json and log in again."
        ))
    })?;
    // Its end comes with the drop of the child.
    let Ok(talked) = timeout(limit, talk(child, server)).await else {
        let what = format!("{doing}: no answer within {} s, so it was killed", limit.as_secs_f32());
        return Err(Fault::new(Blame::Configuration, After::Retry, what).hint(format!(
            "Run it by hand: echo {server} | {program} get. One that asks a person or a locked key ring cannot serve a server."
        )));
    };
    let (good, output) = talked.map_err(|error| Fault::platform(format!("{doing}: {error}")))?;
    if !good {
        let said = String::from_utf8_lossy(&output);
        let said = said.lines().next().unwrap_or_default().trim();
        if said.contains("credentials not found") {
            return Ok(None);
        }
        let said: String = said.chars().filter(|c| !c.is_control()).take(200).collect();
        let what = format!("{doing}: it failed: {}", if said.is_empty() { "without a word" } else { &said });
        return Err(
            Fault::configuration(what).hint(format!("Run it by hand: echo {server} | {program} get."))
        );
    }
    // Its words may be half a password: they are not shown.
    let answer: Answer = serde_json::from_slice(&output).map_err(|_| {
        Fault::configuration(format!("{doing}: its answer is no JSON with Username and Secret"))
            .hint(format!("Run it by hand: echo {server} | {program} get."))
    })?;
    Ok(Some(match answer.username == TOKEN {
        true => Login { user: String::new(), password: String::new(), identity: answer.secret },
        false => Login { user: answer.username, password: answer.secret, identity: String::new() },
    }))
}

fn start(program: &str, path: &OsStr) -> io::Result<Child> {
    if program.contains('/') {
        return Err(io::ErrorKind::NotFound.into());
    }
    let found = std::env::split_paths(path).map(|folder| folder.join(program)).find(|file| file.is_file());
    let found: PathBuf = found.ok_or(io::ErrorKind::NotFound)?;
    Command::new(found)
        .arg("get")
        .env("PATH", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
}

async fn talk(mut child: Child, server: &str) -> io::Result<(bool, Vec<u8>)> {
    if let Some(mut stdin) = child.stdin.take() {
        // One that needs no question closes its end; what it answers counts all the same.
        let _ = stdin.write_all(server.as_bytes()).await;
    }
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(OUTPUT).read_to_end(&mut output).await?;
    }
    Ok((child.wait().await?.success(), output))
}
