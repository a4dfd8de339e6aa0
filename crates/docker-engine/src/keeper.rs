//! A process that starts and stops one engine, and outlives the test just long enough to clean up after it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// How long an engine may take to answer, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) struct Keeper {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    log: PathBuf,
}

impl Keeper {
    pub(crate) fn new(folder: &Path, data: &Path, arguments: &[String]) -> Keeper {
        let mut command = Command::new("sh");
        command.args(["-c", include_str!("keeper.sh"), "keeper"]).arg(folder).arg(data).args(arguments);
        // A group of its own: an interrupt of the tests is for the tests.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let (orders, answers) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Keeper { child, orders, answers, log: folder.join("dockerd.log") }
    }

    /// Gives an order, and returns when it was carried out.
    pub(crate) fn order(&mut self, order: &str) {
        writeln!(self.orders.as_mut().unwrap(), "{order}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        assert_eq!(answer.trim(), "done");
    }

    /// Starts the engine, and returns when it answers at `socket`.
    pub(crate) fn start(&mut self, socket: &Path) {
        self.order("start");
        let begun = Instant::now();
        while !answers(socket) {
            if begun.elapsed() > PATIENCE {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                let last: Vec<&str> = log.lines().rev().take(15).collect();
                panic!("dockerd does not answer; newest first:\n{}", last.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(30));
        }
    }
}

/// The socket is there before the engine is: it is asked.
fn answers(socket: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(socket) else { return false };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
    if stream.write_all(b"GET /_ping HTTP/1.0\r\nhost: docker\r\n\r\n").is_err() {
        return false;
    }
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).is_ok() && line.contains(" 200 ")
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ = self.child.wait();
    }
}
