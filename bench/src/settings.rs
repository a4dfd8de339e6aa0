//! How the test service behaves, as its environment says.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// How a service behaves. Times are written `250ms`, `2s`, or as a number of milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// `PORT`: where it listens, on loopback.
    pub port: u16,
    /// `EVERYWHERE=1`: listens on all addresses, as a service in a container must.
    pub everywhere: bool,
    /// `VERSION`: what it says it is.
    pub version: String,
    /// `RECEIVED`: the file that ids are appended to; none: they are acknowledged all the same.
    pub received: Option<PathBuf>,
    /// `START_DELAY`: listens only after so long.
    pub start_delay: Duration,
    /// `HEALTH=500`: the status of `/health`; 200 by default.
    pub health: Option<u16>,
    /// `EXIT=now`: ends at once with exit code 3.
    pub exit_now: bool,
    /// `IGNORE_TERM=1`: ignores SIGTERM.
    pub ignore_term: bool,
    /// `WRONG_PORT=1`: listens on another port than it was told.
    pub wrong_port: bool,
    /// `FAIL_AFTER=n`: answers with an intended 500 after n requests, those for `/health` not counted.
    pub fail_after: Option<u64>,
    /// `LATENCY`: waits so long before each answer, those for `/health` excepted.
    pub latency: Duration,
    /// `TROUBLE=file`: what the file says, while it is there, for each request but those for `/health`: `fail` is
    /// an intended 500, `eat` keeps another 4 MiB of memory for good. So a test chooses the moment.
    pub trouble: Option<PathBuf>,
}

impl Settings {
    /// Reads the settings from the environment.
    pub fn from_env() -> io::Result<Self> {
        Self::read(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    /// Reads the settings from anything that has named values.
    pub fn read(value: impl Fn(&str) -> Option<String>) -> io::Result<Self> {
        let flag = |name: &str| value(name).is_some_and(|value| value != "0");
        Ok(Self {
            port: number(&value, "PORT")?.unwrap_or(0),
            everywhere: flag("EVERYWHERE"),
            version: value("VERSION").unwrap_or_else(|| "none".into()),
            received: value("RECEIVED").map(PathBuf::from),
            start_delay: span(&value, "START_DELAY")?,
            health: number(&value, "HEALTH")?,
            exit_now: value("EXIT").is_some_and(|value| value == "now"),
            ignore_term: flag("IGNORE_TERM"),
            wrong_port: flag("WRONG_PORT"),
            fail_after: number(&value, "FAIL_AFTER")?,
            latency: span(&value, "LATENCY")?,
            trouble: value("TROUBLE").map(PathBuf::from),
        })
    }
}

fn number<T: std::str::FromStr>(value: impl Fn(&str) -> Option<String>, name: &str) -> io::Result<Option<T>> {
    let Some(text) = value(name) else { return Ok(None) };
    let wrong = |_| io::Error::new(io::ErrorKind::InvalidInput, format!("{name}={text} is not a number"));
    text.parse().map(Some).map_err(wrong)
}

fn span(value: impl Fn(&str) -> Option<String>, name: &str) -> io::Result<Duration> {
    let Some(text) = value(name) else { return Ok(Duration::ZERO) };
    let (digits, unit_ms) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(digits), _) => (digits, 1),
        (None, Some(digits)) => (digits, 1_000),
        (None, None) => (text.as_str(), 1),
    };
    let wrong =
        |_| io::Error::new(io::ErrorKind::InvalidInput, format!("{name}={text} is not a time such as 250ms"));
    digits.parse::<u64>().map(|count| Duration::from_millis(count * unit_ms)).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_from_named_values() {
        let values =
            [("PORT", "81"), ("LATENCY", "5ms"), ("START_DELAY", "2s"), ("FAIL_AFTER", "7"), ("EXIT", "now")];
        let value = |name: &str| {
            values.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        let settings = Settings::read(value).unwrap();
        let expected = Settings {
            port: 81,
            version: "none".into(),
            latency: Duration::from_millis(5),
            start_delay: Duration::from_secs(2),
            fail_after: Some(7),
            exit_now: true,
            ..Settings::default()
        };
        assert_eq!(settings, expected);
        let wrong = Settings::read(|name| (name == "LATENCY").then(|| "soon".into())).unwrap_err();
        assert_eq!(wrong.to_string(), "LATENCY=soon is not a time such as 250ms");
    }
}
