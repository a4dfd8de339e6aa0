//! Processes as /proc shows them: which belong to an instance, and that none is taken for another.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use cutover_core::InstanceId;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use tokio::io::unix::AsyncFd;

use crate::record::{InstanceRecord, ProcessRecord};
use crate::session;

/// The environment variable that marks an instance's processes; its value is unique to the instance.
pub(crate) const MARKER: &str = "CUTOVER_INSTANCE";

/// One process at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) pid: u32,
    pub(crate) parent: u32,
    pub(crate) session: u32,
    /// In clock ticks since boot.
    pub(crate) start: u64,
    pub(crate) resident_pages: u64,
    /// It ended, and its parent has not asked yet.
    pub(crate) zombie: bool,
}

/// Returns the id of this boot: process ids and start times mean nothing in another.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_string())
}

/// Looks at one process.
pub(crate) fn look(pid: u32) -> Option<Seen> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse(pid, &String::from_utf8_lossy(&text))
}

/// Looks at all processes.
pub(crate) fn all() -> Vec<Seen> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| look(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// Returns the living processes of the instance: those of its leader's session, those that carry its mark,
/// and their children.
/// The leader, where it is known, was verified to be the instance's while it lived.
pub(crate) fn members(id: &InstanceId, leader: Option<&ProcessRecord>) -> Vec<Seen> {
    let all = all();
    // A session keeps its number until its last process ends. Someone else under that number as a leader
    // means it was reused.
    let session = leader.filter(|leader| {
        all.iter().find(|seen| seen.pid == leader.pid).is_none_or(|seen| seen.start == leader.start)
    });
    let belongs = |seen: &Seen| {
        session.is_some_and(|leader| seen.session == leader.pid && seen.start >= leader.start)
            || marked(seen.pid, id)
    };
    let (mut ours, mut rest): (Vec<Seen>, Vec<Seen>) =
        all.into_iter().filter(|seen| !seen.zombie).partition(belongs);
    loop {
        let (children, others): (Vec<Seen>, Vec<Seen>) =
            rest.into_iter().partition(|seen| ours.iter().any(|parent| parent.pid == seen.parent));
        if children.is_empty() {
            return ours;
        }
        ours.extend(children);
        rest = others;
    }
}

/// Returns the command line of a process for people.
pub(crate) fn command_line(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = String::from_utf8_lossy(&bytes).replace('\0', " ");
    let words = words.trim();
    if words.is_empty() { "unknown command".into() } else { words.chars().take(200).collect() }
}

/// Sends a signal to exactly the process seen, never to a later one with its number.
pub(crate) fn signal(seen: &Seen, signal: Signal) {
    let Some(pid) = i32::try_from(seen.pid).ok().and_then(Pid::from_raw) else { return };
    if let Ok(fd) = pidfd_open(pid, PidfdFlags::empty())
        && look(seen.pid).is_some_and(|now| now.start == seen.start)
    {
        // It may have ended in between; then there is nothing to do.
        let _ = pidfd_send_signal(fd, signal);
    }
}

/// The first process of an instance, held by a descriptor, so that its number cannot come to mean another.
pub(crate) struct Leader {
    pub(crate) process: ProcessRecord,
    fd: AsyncFd<OwnedFd>,
}

impl Leader {
    /// Takes hold of the process; `None` where it is not there any more, or is another.
    pub(crate) fn hold(process: &ProcessRecord) -> io::Result<Option<Leader>> {
        let Some(pid) = i32::try_from(process.pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        let fd = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if look(process.pid).is_none_or(|seen| seen.start != process.start) {
            return Ok(None);
        }
        Ok(Some(Leader { process: process.clone(), fd: session::watch(fd)? }))
    }

    /// Finds the running process of a recorded instance. Of a mere intent, one that carries the instance's
    /// mark: a crash
    /// between its start and its record left it.
    pub(crate) fn adopt(record: &InstanceRecord, boot: &str) -> io::Result<Option<Leader>> {
        if let Some(process) = &record.process {
            // The mark is not looked for: what carries it now is what the dead process left behind.
            let Some(leader) = (if process.boot == boot { Leader::hold(process)? } else { None }) else {
                return Ok(None);
            };
            if look(process.pid).is_some_and(|seen| !seen.zombie) {
                return Ok(Some(leader));
            }
            leader.reap();
            return Ok(None);
        }
        let leads = |seen: &Seen| seen.pid == seen.session && !seen.zombie && marked(seen.pid, &record.id);
        let Some(seen) = all().into_iter().filter(leads).min_by_key(|seen| (seen.start, seen.pid)) else {
            return Ok(None);
        };
        Leader::hold(&ProcessRecord { pid: seen.pid, start: seen.start, boot: boot.to_string() })
    }

    /// Returns when the process has ended.
    ///
    /// # Cancel safety
    /// It only waits.
    pub(crate) async fn ended(&self) {
        // An error means that the descriptor cannot be waited for; the process is looked at instead.
        while self.fd.readable().await.is_err() {
            if look(self.process.pid).is_none_or(|seen| seen.start != self.process.start || seen.zombie) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(self.fd.get_ref(), signal);
    }

    /// Takes the exit status of the ended process, and says it for people.
    pub(crate) fn reap(&self) -> String {
        use std::os::fd::AsFd;
        let waited =
            waitid(WaitId::PidFd(self.fd.get_ref().as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        match waited {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => format!("exit status {code}"),
                (None, Some(signal)) => cutover_keep::words::killed_by(signal),
                (None, None) => "ended".into(),
            },
            // Adopted from an earlier server: its exit status went to init.
            _ => "ended, exit status unknown".into(),
        }
    }
}

fn marked(pid: u32, id: &InstanceId) -> bool {
    let mark = format!("{MARKER}={id}");
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| {
        environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    })
}

fn parse(pid: u32, stat: &str) -> Option<Seen> {
    // The command may hold anything, brackets too; the fields start behind its last bracket.
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 1..)?.split_whitespace().collect();
    Some(Seen {
        pid,
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        start: fields.get(19)?.parse().ok()?,
        resident_pages: fields.get(21)?.parse().unwrap_or(0),
        zombie: matches!(fields.first(), Some(&"Z" | &"X")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_brackets_does_not_shift_the_fields() {
        let stat =
            "7 (a) R (b)) S 1 7 5 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 1000 42 18446744073709551615";
        let seen = Seen { pid: 7, parent: 1, session: 5, start: 4711, resident_pages: 42, zombie: false };
        assert_eq!(parse(7, stat), Some(seen));
        assert_eq!(parse(7, "7 (half"), None);
    }

    #[test]
    fn this_process_is_seen() {
        let me = look(std::process::id()).unwrap();
        assert!(me.start > 0 && me.resident_pages > 0 && !me.zombie);
        assert!(all().iter().any(|seen| seen.pid == me.pid));
    }
}
