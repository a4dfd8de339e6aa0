//! What a blue-green release costs beyond the start of the service itself.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::numbers::{Samples, Spread};
use super::releases::{BLUE_GREEN, write_file};
use super::scratch::{Running, Scratch, said};
use super::{Outcome, Setting};

const GOAL_US: f64 = 200_000.0;
/// Starts a service and asks until it answers: what a release is without anything around it.
const SHELL: &str = r#"
"$SERVICE" service >/dev/null 2>&1 & pid=$!
until curl -fsS -o /dev/null "http://127.0.0.1:$PORT/health" 2>/dev/null; do :; done
echo "$pid""#;

pub(super) fn run(setting: &Setting) -> Result<Outcome> {
    let runs = if setting.quick { 8 } else { 30 };
    let scratch = Scratch::new(setting.cutover()?)?;
    let received = scratch.path().join("received.txt");
    let listen = free_address()?;
    // The server and the proxy are running already, and so is a stable revision.
    write_file(&scratch, listen, "v0", 1, &received, &BLUE_GREEN)?;
    scratch.succeed(&["deploy"])?;
    let (mut deploys, mut starts, mut beyond, mut shells) =
        (Samples::default(), Samples::default(), Samples::default(), Samples::default());
    let mut steps = Steps::default();
    for run in 0..runs {
        ensure!(scratch.calm(Duration::from_secs(30))?, "the tail of release {run} does not end");
        let start = own_start()?;
        if let Some(took) = shell()? {
            shells.add(took);
        }
        write_file(&scratch, listen, &format!("v{}", run + 1), 1, &received, &BLUE_GREEN)?;
        let begun = Instant::now();
        let output = scratch.run(&["deploy", "--output", "json"])?;
        let took = begun.elapsed();
        ensure!(output.status.success(), "release {run} ended with {}: {}", output.status, said(&output));
        deploys.add(took);
        starts.add(start);
        beyond.add(took.saturating_sub(start));
        steps.add(&String::from_utf8_lossy(&output.stdout), took)?;
    }
    println!(
        "{runs} releases of one instantly ready instance on {listen}, server running, bake and keep_warm 0s\n"
    );
    println!("{}", Spread::head("whole"));
    println!("{}", deploys.spread().row("cutover deploy"));
    println!("{}", starts.spread().row("limit: start of the service until it accepts"));
    println!("{}", beyond.spread().row("beyond the service's own start"));
    println!("{}", shells.spread().row("peer: shell starts it, curl until 200"));
    println!("\n{}", Spread::head("until the journal says (whole milliseconds)"));
    for (name, samples) in &steps.0 {
        println!("{}", samples.spread().row(name));
    }
    let median = beyond.median();
    let peers = json!({
        "shell_and_curl": shells.spread(),
        "service_start": starts.spread(),
    });
    let by_step: Vec<Value> = steps
        .0
        .iter()
        .map(|(name, samples)| json!({"step": name, "median_ms": samples.median() / 1_000.0}))
        .collect();
    Ok(Outcome {
        bench: "release-time",
        ours: json!({
            "beyond_start_median_ms": (median / 100.0).round() / 10.0,
            "beyond_start": beyond.spread(),
            "deploy": deploys.spread(),
            "releases": runs,
            "steps": by_step,
        }),
        peers,
        ratio: (shells.median() > 0.0).then(|| (deploys.median() / shells.median() * 100.0).round() / 100.0),
        goal: "median of `cutover deploy` beyond the service's own start <= 200 ms",
        holds: median <= GOAL_US,
    })
}

/// Time between the records of a release, by what the later one tells; in the order of the first release.
#[derive(Default)]
struct Steps(Vec<(String, Samples)>);

impl Steps {
    fn add(&mut self, lines: &str, whole: Duration) -> Result<()> {
        let mut spans: Vec<(String, f64)> = Vec::new();
        let (mut first, mut last) = (None, 0);
        for line in lines.lines() {
            let record: Value = serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
            let Some(wall_ms) = record["wall_ms"].as_u64() else { continue };
            let before = first.map_or(wall_ms, |_| last);
            first = first.or(Some(wall_ms));
            last = wall_ms;
            let name =
                record["effect"]["name"].as_str().or(record["event"].as_str()).unwrap_or("?").to_owned();
            spans.push((name, wall_ms.saturating_sub(before) as f64 * 1_000.0));
        }
        let inside = last.saturating_sub(first.unwrap_or(last)) as f64 * 1_000.0;
        spans.push(("command line, plan, before and after".into(), whole.as_secs_f64() * 1e6 - inside));
        let mut seen: HashMap<String, usize> = HashMap::new();
        for (name, us) in spans {
            let again = seen.entry(name.clone()).and_modify(|count| *count += 1).or_insert(1);
            let name = if *again > 1 { format!("{name} {again}") } else { name };
            match self.0.iter_mut().find(|(known, _)| *known == name) {
                Some((_, samples)) => samples.add_us(us),
                None => {
                    let mut samples = Samples::default();
                    samples.add_us(us);
                    self.0.push((name, samples));
                }
            }
        }
        Ok(())
    }
}

/// Measures from the start of the service to its first accepted connection.
fn own_start() -> Result<Duration> {
    let address = free_address()?;
    let begun = Instant::now();
    let child = Command::new(std::env::current_exe()?)
        .arg("service")
        .env_clear()
        .envs([("PORT", address.port().to_string().as_str()), ("VERSION", "start")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    let _running = Running::new(child);
    while TcpStream::connect(address).is_err() {
        ensure!(begun.elapsed() < Duration::from_secs(10), "the service does not listen after 10 s");
        std::thread::sleep(Duration::from_micros(100));
    }
    Ok(begun.elapsed())
}

/// Measures the shell's loop; none: there is no curl.
fn shell() -> Result<Option<Duration>> {
    if Command::new("curl").arg("--version").stdout(Stdio::null()).status().is_err() {
        return Ok(None);
    }
    let port = free_address()?.port().to_string();
    let begun = Instant::now();
    let output = Command::new("bash")
        .args(["-c", SHELL])
        .env("SERVICE", std::env::current_exe()?)
        .envs([("PORT", port.as_str()), ("VERSION", "shell")])
        .output()?;
    let took = begun.elapsed();
    let pid =
        String::from_utf8_lossy(&output.stdout).trim().parse().ok().and_then(rustix::process::Pid::from_raw);
    let pid = pid.with_context(|| format!("the shell's loop failed: {}", said(&output)))?;
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    Ok(Some(took))
}

/// Returns a loopback address that is free at the moment.
pub(super) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
