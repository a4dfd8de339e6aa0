//! `cutover host`: what a host needs before a service can be released to it, and whether it has it.

use std::io::{BufRead, IsTerminal, Write};
use std::process::{Command, Stdio};

use cutover_core::file::{HOST_STATE, Host};

use crate::exit;
use crate::failure::Failure;

/// Says line by line what the host has. Each line begins with `ok` or `missing`.
const CHECK: &str = r#"
if [ -S "$engine" ]; then
  if [ -r "$engine" ] && [ -w "$engine" ]; then echo "ok engine: $engine"
  else echo "missing engine: this user may not use $engine; run there: sudo usermod -aG docker \$USER"; fi
else echo "missing engine: no socket at $engine; install Docker, or name its socket with ?docker="; fi
if [ -x "$state/bin/cutover" ]; then echo "ok program: $("$state/bin/cutover" --version)"
else echo "missing program: $state/bin/cutover; run: cutover host prepare"; fi
if [ -x "$state/bin/cutover" ] && "$state/bin/cutover" proxy status --state "$state" >/dev/null 2>&1
then echo "ok proxy: answers on $state"
else echo "missing proxy: none answers on $state; run: cutover host prepare"; fi
"#;

/// Makes the folders, puts the program in its place, and sees that a proxy runs. The program comes on the standard input.
const PREPARE: &str = r#"
set -e
umask 077
mkdir -p "$state/bin"
cat > "$state/bin/cutover.new"
chmod 755 "$state/bin/cutover.new"
mv "$state/bin/cutover.new" "$state/bin/cutover"
if "$state/bin/cutover" proxy status --state "$state" >/dev/null 2>&1; then
  echo "a proxy answers on $state already"
elif [ -d /run/systemd/system ] && [ "$(id -u)" = 0 ]; then
  cat > /etc/systemd/system/cutover-proxy.service <<UNIT
[Unit]
Description=cutover proxy: the data plane
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
ExecStart=$state/bin/cutover proxy --state $state
ExecReload=/bin/kill -HUP \$MAINPID
Restart=on-failure
RestartSec=1
KillMode=process
NotifyAccess=main
FileDescriptorStoreMax=128
TimeoutStopSec=60
LimitNOFILE=524288
Environment=CUTOVER_CGROUP=keep

[Install]
WantedBy=multi-user.target
UNIT
  systemctl daemon-reload
  systemctl enable --now cutover-proxy.service
else
  setsid nohup "$state/bin/cutover" proxy --background --state "$state" </dev/null >>"$state/proxy.log" 2>&1 &
  echo "no systemd of root's: the proxy runs as a plain process, and does not start with the machine"
fi
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
  "$state/bin/cutover" proxy status --state "$state" >/dev/null 2>&1 && exit 0
  sleep 0.5
done
echo "the proxy does not answer; its log: $state/proxy.log" >&2
exit 1
"#;

fn read(text: &str) -> Result<Host, Failure> {
    let host = Host::read(text).map_err(|(what, hint)| Failure::new(exit::USAGE, what).hint(hint))?;
    if host.ssh.is_none() && host.state.is_none() {
        let what = "this machine's own proxy needs no preparation: cutover server starts it";
        return Err(
            Failure::new(exit::USAGE, what).hint("for a second proxy here name its folder: ?state=/FOLDER")
        );
    }
    Ok(host)
}

/// Returns the script with what it works on, and the words that run it on the host.
fn on(host: &Host, script: &str) -> (String, Vec<String>) {
    let state = host.state.as_deref().unwrap_or(HOST_STATE);
    let script = format!("engine={}; state={}\n{}", quoted(&host.engine), quoted(state), script.trim_start());
    let words = match &host.ssh {
        None => vec!["sh".to_owned(), "-c".into(), script.clone()],
        Some(to) => {
            let said = std::env::var("CUTOVER_SSH").unwrap_or_default();
            let mut words: Vec<String> = said.split_whitespace().map(String::from).collect();
            if words.is_empty() {
                words.push("ssh".into());
            }
            words.extend(["-o", "BatchMode=yes", "-o", "ConnectTimeout=10"].map(String::from));
            words.extend(to.port.iter().flat_map(|port| ["-p".to_owned(), port.to_string()]));
            words.extend([to.to_string(), format!("sh -c {}", quoted(&script))]);
            words
        }
    };
    (script, words)
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// Looks at a host; the failure says what is missing.
pub(super) fn check(text: &str) -> Result<(), Failure> {
    let host = read(text)?;
    let (_, words) = on(&host, CHECK);
    let output = Command::new(&words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Failure::own(format!("failed to run {}: {error}", words[0])))?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() || said.trim().is_empty() {
        return Err(unreached(&host, &String::from_utf8_lossy(&output.stderr)));
    }
    let mut out = std::io::stdout().lock();
    drop(write!(out, "{said}"));
    match said.lines().any(|line| line.starts_with("missing")) {
        true => Err(Failure::own(format!("host {} is not ready", host.name))),
        false => Ok(()),
    }
}

/// Installs on a host what it needs. Shows the commands first, and asks unless `yes`. Running it again changes nothing but the
/// program, which becomes this one.
pub(super) fn prepare(text: &str, yes: bool) -> Result<(), Failure> {
    let host = read(text)?;
    let (script, words) = on(&host, PREPARE);
    let exe = std::env::current_exe()
        .map_err(|error| Failure::own(format!("failed to find this program: {error}")))?;
    println!("on host {}, with {} on its standard input:\n\n{script}", host.name, exe.display());
    if !yes && !agreed()? {
        return Err(
            Failure::new(exit::REFUSED, "nothing was done").hint("say --yes where nobody can be asked")
        );
    }
    let program = std::fs::File::open(&exe)
        .map_err(|error| Failure::own(format!("failed to read {}: {error}", exe.display())))?;
    let output = Command::new(&words[0])
        .args(&words[1..])
        .stdin(program)
        .output()
        .map_err(|error| Failure::own(format!("failed to run {}: {error}", words[0])))?;
    drop(write!(std::io::stdout().lock(), "{}", String::from_utf8_lossy(&output.stdout)));
    if !output.status.success() {
        return Err(unreached(&host, &String::from_utf8_lossy(&output.stderr)));
    }
    check(text)
}

fn unreached(host: &Host, said: &str) -> Failure {
    let last = said.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it says nothing");
    let failure = Failure::own(format!("failed to work on host {}: {last}", host.name));
    match &host.ssh {
        Some(to) => failure.hint(format!("try it by hand, with no password: ssh {to} true")),
        None => failure,
    }
}

fn agreed() -> Result<bool, Failure> {
    let mut input = std::io::stdin().lock();
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    print!("do this? [y/N] ");
    drop(std::io::stdout().flush());
    let mut line = String::new();
    input
        .read_line(&mut line)
        .map_err(|error| Failure::own(format!("failed to read the answer: {error}")))?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}
