//! The proxy's memory on disk: the table with its trips, and the events.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::error::{ErrorKind, ProxyError};
use crate::files::{self, Read};
use crate::protocol::Event;
use crate::table::Table;
use crate::traffic::Traffic;

/// Most events kept when nobody acknowledges them; the oldest go first.
const MAX_EVENTS: usize = 1_000;

/// Content of `table.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub(crate) table: Table,
    /// Tripped releases by service, with the revision of their candidate.
    #[serde(default)]
    pub(crate) trips: BTreeMap<String, BTreeMap<String, String>>,
    /// Generation and epoch of removed services: a late driver stays fenced.
    #[serde(default)]
    pub(crate) removed: BTreeMap<String, (u64, u64)>,
    /// The table was lost; what is missing here may once have been served.
    #[serde(default)]
    pub(crate) damaged: bool,
    /// What operators let the requests of services do, unless they pass.
    #[serde(default)]
    pub(crate) traffic: BTreeMap<String, Traffic>,
}

impl Stored {
    /// Returns a number that is another one whenever the generation of any service is another one.
    pub(crate) fn stamp(&self) -> u64 {
        let mut hash = DefaultHasher::new();
        self.table.services.iter().for_each(|(name, service)| (name, service.generation).hash(&mut hash));
        hash.finish()
    }
}

/// Content of `events.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EventLog {
    pub(crate) last: u64,
    pub(crate) events: Vec<Event>,
}

impl EventLog {
    /// Numbers an event and keeps it.
    pub(crate) fn push(&mut self, mut event: Event) -> &Event {
        self.last += 1;
        event.number = self.last;
        if self.events.len() >= MAX_EVENTS {
            self.events.remove(0);
        }
        self.events.push(event);
        self.events.last().expect("an event was just pushed")
    }
}

/// Where both lie.
#[derive(Debug)]
pub(crate) struct Store {
    dir: PathBuf,
}

impl Store {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Returns where the access log of a service lies.
    pub(crate) fn access_log(&self, service: &str) -> PathBuf {
        self.dir.join("access").join(format!("{service}.log"))
    }

    /// Reads the table as another worker has written it last; none where it cannot be read just now.
    pub(crate) fn peek(&self) -> Option<Stored> {
        match files::read::<Stored>(&self.path("table.json")) {
            Read::Good(stored) => Some(stored),
            Read::Missing | Read::Damaged(_) | Read::Newer(_) => None,
        }
    }

    /// Returns where a worker that leaves says which table it has taken.
    pub(crate) fn leaving(&self, pid: u32) -> PathBuf {
        self.dir.join(format!("leaving-{pid}"))
    }

    /// Returns the folder of what workers have counted.
    pub(crate) fn counts(&self) -> PathBuf {
        self.dir.join("counts")
    }

    /// Returns where certificates that are asked for lie.
    pub(crate) fn acme(&self) -> PathBuf {
        self.dir.join("acme")
    }

    /// Refuses a folder that a newer proxy has written: taken for damage, its table would be replaced by an old one.
    pub(crate) fn refuse_newer(&self) -> Result<(), ProxyError> {
        let look = |name: &str| files::read::<serde_json::Value>(&self.path(name));
        let mut looked = vec![look("table.json"), look("events.json"), look("listeners.json")];
        if !matches!(looked[0], Read::Good(_)) {
            // Only then is it served.
            looked.push(look("table.prev.json"));
        }
        for read in looked {
            if let Read::Newer(why) = read {
                let text = format!(
                    "{why}; it was written by a newer cutover: use that one on this folder, or move the file away to \
                     begin without what it says"
                );
                return Err(ProxyError::new(ErrorKind::Newer, text));
            }
        }
        Ok(())
    }

    /// Reads the table; says what is wrong with the files, if anything. [`Self::refuse_newer`] comes first.
    pub(crate) fn load(&self) -> (Stored, Vec<String>) {
        let current = files::read::<Stored>(&self.path("table.json"));
        let why = match current {
            Read::Good(stored) => return (stored, Vec::new()),
            Read::Missing => "table.json is missing".to_owned(),
            Read::Damaged(why) | Read::Newer(why) => {
                // Kept for whoever wants to know what happened: the next write replaces it.
                let _ = fs::copy(self.path("table.json"), self.path("table.damaged.json"));
                why
            }
        };
        let was_written = self.path("table.written").exists();
        match files::read::<Stored>(&self.path("table.prev.json")) {
            Read::Good(stored) => {
                (stored, vec![format!("{why}; the copy before it is served: the last change may be lost")])
            }
            Read::Missing if !was_written && why == "table.json is missing" => {
                (Stored::default(), Vec::new())
            }
            previous => {
                let too = match previous {
                    Read::Damaged(too) | Read::Newer(too) => too,
                    _ => "table.prev.json is missing".to_owned(),
                };
                let lost = Stored { damaged: true, ..Stored::default() };
                (
                    lost,
                    vec![format!("{why}; {too}; every request is answered 503 until the table is set again")],
                )
            }
        }
    }

    /// Writes the table; on failure the one before stays.
    pub(crate) fn save(&self, stored: &Stored) -> Result<(), ProxyError> {
        let marker = self.path("table.written");
        let written = || {
            if !marker.exists() {
                fs::write(&marker, "this folder has had a table\n")?;
                files::sync_folder_of(&marker)?;
            }
            files::write(&self.path("table.json"), stored, Some(&self.path("table.prev.json")))
        };
        written().map_err(|source| self.failed("table", source))
    }

    fn failed(&self, what: &str, source: std::io::Error) -> ProxyError {
        let text = format!(
            "cannot write the {what} in {}; make the folder writable and repeat; traffic goes on unchanged",
            self.dir.display()
        );
        ProxyError::io(ErrorKind::Storage, text, source)
    }

    pub(crate) fn load_events(&self) -> (EventLog, Vec<String>) {
        match files::read::<EventLog>(&self.path("events.json")) {
            Read::Good(log) => (log, Vec::new()),
            Read::Missing => (EventLog::default(), Vec::new()),
            Read::Damaged(why) | Read::Newer(why) => {
                // Numbers go on above any that was given out: by the clock, one per millisecond.
                (
                    EventLog { last: wall_ms(), events: Vec::new() },
                    vec![format!("{why}; its events are lost")],
                )
            }
        }
    }

    pub(crate) fn save_events(&self, log: &EventLog) -> Result<(), ProxyError> {
        files::write(&self.path("events.json"), log, None).map_err(|source| self.failed("events", source))
    }
}

/// Returns the wall clock in milliseconds since 1970.
pub(crate) fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Returns the time since boot in milliseconds, suspend included.
pub(crate) fn boot_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(generation: u64) -> Stored {
        let mut stored = Stored::default();
        let service = crate::table::ServiceTable { generation, ..Default::default() };
        stored.table.services.insert("shop".into(), service);
        stored
    }

    #[test]
    fn a_damaged_table_is_never_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        assert_eq!(store.load(), (Stored::default(), Vec::new()), "a first boot is not damage");
        store.save(&stored(1)).unwrap();
        store.save(&stored(2)).unwrap();
        assert_eq!(store.load(), (stored(2), Vec::new()));
        fs::write(dir.path().join("table.json"), "{").unwrap();
        let (previous, damage) = store.load();
        assert_eq!((previous, damage.len()), (stored(1), 1));
        fs::write(dir.path().join("table.prev.json"), "").unwrap();
        let (lost, damage) = store.load();
        assert!(lost.damaged && damage.len() == 1);
        fs::remove_file(dir.path().join("table.json")).unwrap();
        fs::remove_file(dir.path().join("table.prev.json")).unwrap();
        assert!(store.load().0.damaged, "a table that vanished is damage too");
    }
}
