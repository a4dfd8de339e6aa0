//! The access log of a service: one line for each request that is sampled, written when the request has ended.

use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, Request, Version, header};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::access_file::AccessFile;

/// Longest part of a line that a client writes: a path, a referrer, the name of a browser.
const LONGEST: usize = 1024;

/// What is logged of a service's requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessLog {
    /// How a line looks.
    #[serde(default)]
    pub format: AccessFormat,
    /// Share of the requests, in basis points.
    #[serde(default = "all")]
    pub sample_bp: u16,
    /// With the query, which may hold secrets.
    #[serde(default)]
    pub query: bool,
    /// Bytes after which the file is put aside as `.1`; the one before goes.
    #[serde(default = "size")]
    pub size: u64,
}

fn all() -> u16 {
    crate::table::WHOLE
}

fn size() -> u64 {
    64 << 20
}

/// How a line of the access log looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessFormat {
    /// An object of JSON.
    #[default]
    Json,
    /// The combined format of web servers.
    Combined,
}

impl AccessLog {
    /// Says what makes it impossible for a service of this name.
    pub(crate) fn mistake(&self, service: &str) -> Option<String> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if !service.bytes().all(plain) || service.starts_with('.') {
            return Some("its name cannot name a file, so it can have no access log".into());
        }
        (self.size < 64 << 10)
            .then(|| format!("an access log of {} bytes is put aside all the time", self.size))
    }
}

/// The access log in force, shared by all threads.
#[derive(Debug)]
pub(crate) struct ServiceLog {
    pub(crate) service: String,
    pub(crate) log: AccessLog,
    pub(crate) file: AccessFile,
}

/// One request, on its way to a line. Dropped, it writes it.
#[derive(Debug)]
pub(crate) struct Entry {
    log: Arc<ServiceLog>,
    begun: Instant,
    wall: SystemTime,
    client: IpAddr,
    method: String,
    path: String,
    host: String,
    referrer: String,
    agent: String,
    version: Version,
    pub(crate) status: Option<u16>,
    pub(crate) reason: Option<&'static str>,
    pub(crate) revision: Option<Arc<str>>,
    pub(crate) arm: Option<&'static str>,
    pub(crate) target: Option<std::net::SocketAddr>,
    pub(crate) head_us: Option<u64>,
    pub(crate) bytes: u64,
    /// The response was passed on to its end.
    pub(crate) whole: bool,
}

impl ServiceLog {
    /// Begins an entry, if the request is in the sample.
    pub(crate) fn begin<B>(self: &Arc<Self>, request: &Request<B>, client: IpAddr) -> Option<Box<Entry>> {
        if self.log.sample_bp < crate::table::WHOLE
            && fastrand::u16(0..crate::table::WHOLE) >= self.log.sample_bp
        {
            return None;
        }
        let uri = request.uri();
        let path = match uri.path_and_query() {
            Some(all) if self.log.query => all.as_str(),
            _ => uri.path(),
        };
        let field = |name| text(request.headers(), name);
        let host = uri.host().map_or_else(|| field(header::HOST), str::to_owned);
        Some(Box::new(Entry {
            log: self.clone(),
            begun: Instant::now(),
            wall: SystemTime::now(),
            client: client.to_canonical(),
            method: request.method().as_str().to_owned(),
            path: short(path),
            host,
            referrer: field(header::REFERER),
            agent: field(header::USER_AGENT),
            version: request.version(),
            status: None,
            reason: None,
            revision: None,
            arm: None,
            target: None,
            head_us: None,
            bytes: 0,
            whole: false,
        }))
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let line = match self.log.log.format {
            AccessFormat::Json => self.json(),
            AccessFormat::Combined => self.combined(),
        };
        self.log.file.write(line);
    }
}

impl Entry {
    fn json(&self) -> String {
        let took_us = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut line = json!({
            "time": Moment::of(self.wall).rfc3339(),
            "service": self.log.service,
            "client": self.client.to_string(),
            "method": self.method,
            "host": self.host,
            "path": self.path,
            "protocol": format!("{:?}", self.version),
            "status": self.status,
            "bytes": self.bytes,
            "took_us": took_us,
            "whole": self.whole,
        });
        let mut say = |key: &str, value: Option<serde_json::Value>| {
            if let Some(value) = value {
                line[key] = value;
            }
        };
        say("head_us", self.head_us.map(Into::into));
        say("revision", self.revision.as_deref().map(Into::into));
        say("arm", self.arm.map(Into::into));
        say("target", self.target.map(|target| target.to_string().into()));
        say("reason", self.reason.map(Into::into));
        say("referrer", (!self.referrer.is_empty()).then(|| self.referrer.clone().into()));
        say("agent", (!self.agent.is_empty()).then(|| self.agent.clone().into()));
        line.to_string()
    }

    /// Status 499 stands for a client that went before it had an answer, as web servers write it.
    fn combined(&self) -> String {
        let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { escape(text) };
        format!(
            "{} - - [{}] \"{} {} {:?}\" {} {} \"{}\" \"{}\"",
            self.client,
            Moment::of(self.wall).common(),
            escape(&self.method),
            escape(&self.path),
            self.version,
            self.status.unwrap_or(499),
            self.bytes,
            or_dash(&self.referrer),
            or_dash(&self.agent),
        )
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> String {
    headers.get(name).map(|value| short(&String::from_utf8_lossy(value.as_bytes()))).unwrap_or_default()
}

fn short(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

/// Nothing that a client sends ends its field or its line.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '"' | '\\' => escaped.extend(['\\', letter]),
            letter if letter.is_control() => {
                write!(escaped, "\\x{:02x}", u32::from(letter)).expect("a text takes every letter");
            }
            letter => escaped.push(letter),
        }
    }
    escaped
}

/// A wall clock time in UTC.
struct Moment {
    year: i64,
    month: u32,
    day: u32,
    seconds: u64,
    ms: u32,
}

impl Moment {
    fn of(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let days = i64::try_from(since.as_secs() / 86_400).unwrap_or(0);
        // Days to a civil date, by eras of 400 years that begin in March (H. Hinnant, "chrono-compatible date algorithms").
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_of_era = (5 * day_of_year + 2) / 153;
        let day = u32::try_from(day_of_year - (153 * month_of_era + 2) / 5 + 1).unwrap_or(1);
        let month = if month_of_era < 10 { month_of_era + 3 } else { month_of_era - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let (seconds, ms) = (since.as_secs() % 86_400, since.subsec_millis());
        Self { year, month: u32::try_from(month).unwrap_or(1), day, seconds, ms }
    }

    fn clock(&self) -> String {
        format!("{:02}:{:02}:{:02}", self.seconds / 3_600, self.seconds / 60 % 60, self.seconds % 60)
    }

    fn rfc3339(&self) -> String {
        format!("{:04}-{:02}-{:02}T{}.{:03}Z", self.year, self.month, self.day, self.clock(), self.ms)
    }

    fn common(&self) -> String {
        const MONTHS: [&str; 12] =
            ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let month = MONTHS[(self.month as usize - 1).min(11)];
        format!("{:02}/{month}/{:04}:{} +0000", self.day, self.year, self.clock())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_written_as_everybody_writes_them() {
        for (since_ms, rfc3339, common) in [
            (0, "1970-01-01T00:00:00.000Z", "01/Jan/1970:00:00:00 +0000"),
            (951_782_400_000_u64, "2000-02-29T00:00:00.000Z", "29/Feb/2000:00:00:00 +0000"),
            (1_735_689_599_999, "2024-12-31T23:59:59.999Z", "31/Dec/2024:23:59:59 +0000"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z", "01/Mar/2100:00:00:00 +0000"),
        ] {
            let moment = Moment::of(UNIX_EPOCH + Duration::from_millis(since_ms));
            assert_eq!((moment.rfc3339().as_str(), moment.common().as_str()), (rfc3339, common));
        }
    }

    #[test]
    fn a_client_cannot_write_a_line_of_its_own() {
        assert_eq!(escape("a\" 200 \"\n127.0.0.1 \\"), "a\\\" 200 \\\"\\x0a127.0.0.1 \\\\");
    }
}
