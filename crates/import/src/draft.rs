//! What was understood, and the release file that says it.

use std::collections::BTreeMap;
use std::fmt::Write;

use cutover_core::file::write::{comment, list, scalar};
use cutover_core::{Cores, Size, Span};

/// A release file to be written.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    /// Comments above everything.
    pub(crate) heading: Vec<String>,
    pub(crate) service: String,
    pub(crate) image: Option<String>,
    pub(crate) build: Option<Build>,
    pub(crate) pull: Option<&'static str>,
    pub(crate) command: Vec<String>,
    pub(crate) entrypoint: Vec<String>,
    pub(crate) port: Option<u16>,
    pub(crate) replicas: Option<u32>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) secrets: Vec<String>,
    pub(crate) user: Option<String>,
    pub(crate) volumes: Vec<String>,
    pub(crate) networks: Vec<String>,
    pub(crate) stop_signal: Option<String>,
    pub(crate) stop_grace: Option<Span>,
    pub(crate) memory: Option<Size>,
    pub(crate) cpu: Option<Cores>,
    pub(crate) pids: Option<u32>,
    pub(crate) log_size: Option<Size>,
    pub(crate) routes: Vec<Route>,
    pub(crate) processes: BTreeMap<String, Process>,
    pub(crate) health: Vec<Check>,
    pub(crate) within: Option<Span>,
    pub(crate) rolling: Option<Rolling>,
    pub(crate) drain: Option<Span>,
    /// Comments for the person who reads it, by the key that they stand above.
    pub(crate) decisions: Vec<(&'static str, String)>,
}

#[derive(Debug, Default)]
pub(crate) struct Build {
    pub(crate) context: Option<String>,
    pub(crate) dockerfile: Option<String>,
    pub(crate) target: Option<String>,
    pub(crate) args: BTreeMap<String, String>,
    pub(crate) secrets: Vec<String>,
    pub(crate) push: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Route {
    pub(crate) listen: String,
    pub(crate) host: Option<String>,
    pub(crate) path: Option<String>,
    pub(crate) tls: Option<Tls>,
    pub(crate) redirect: bool,
    pub(crate) assets: Vec<String>,
    pub(crate) body: Option<Size>,
    pub(crate) access_log: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Tls {
    Acme,
    Files { cert: String, key: String },
}

#[derive(Debug, Default)]
pub(crate) struct Process {
    pub(crate) command: Vec<String>,
    pub(crate) replicas: Option<u32>,
    pub(crate) stop_grace: Option<Span>,
    pub(crate) alone: bool,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Ask {
    Http(String),
    Tcp,
    Grpc(String),
}

#[derive(Debug)]
pub(crate) struct Check {
    pub(crate) ask: Ask,
    pub(crate) interval: Option<Span>,
    pub(crate) timeout: Option<Span>,
    pub(crate) status: Option<&'static str>,
}

#[derive(Debug)]
pub(crate) struct Rolling {
    pub(crate) surge: u32,
    pub(crate) unavailable: u32,
    pub(crate) bake: Option<Span>,
}

impl Draft {
    pub(crate) fn decide(&mut self, key: &'static str, what: impl Into<String>) {
        let decision = (key, what.into());
        if !self.decisions.contains(&decision) {
            self.decisions.push(decision);
        }
    }

    /// Takes a variable's value from the environment of `cutover deploy`.
    pub(crate) fn secret(&mut self, name: &str) {
        self.env.remove(name);
        if !self.secrets.iter().any(|known| known == name) {
            self.secrets.push(name.to_string());
        }
    }

    /// Writes the release file.
    pub(crate) fn text(&self) -> String {
        let mut page = Page { draft: self, text: String::new() };
        for line in &self.heading {
            let _ = writeln!(page.text, "# {}", comment(line));
        }
        page.line(0, "service", &scalar(&self.service));
        page.text += "platform:\n  docker:\n";
        page.what_runs();
        page.how_it_runs();
        page.routes();
        page.checks();
        page.processes();
        if let Some(Rolling { surge, unavailable, bake }) = &self.rolling {
            let bake = bake.map(|bake| format!(", bake: {bake}")).unwrap_or_default();
            page.line(
                0,
                "strategy",
                &format!("{{rolling: {{max_surge: {surge}, max_unavailable: {unavailable}{bake}}}}}"),
            );
        }
        page.some(0, "drain", self.drain);
        if let Some(deadline) = self.deadline() {
            page.line(0, "deadline", &deadline.to_string());
        }
        page.text
    }

    /// Batches that are watched for long need a longer release than usual.
    fn deadline(&self) -> Option<Span> {
        let rolling = self.rolling.as_ref()?;
        let batch = (rolling.surge + rolling.unavailable).max(1);
        let batches = u64::from(self.replicas.unwrap_or(1).div_ceil(batch));
        let bakes = rolling.bake?.ms().saturating_mul(batches);
        let (hour, most) = (3_600_000, 366 * 86_400_000);
        (bakes > hour).then(|| Span::from_ms(bakes.saturating_add(2 * hour).min(most)))
    }
}

/// The text as far as it is written.
struct Page<'a> {
    draft: &'a Draft,
    text: String,
}

impl Page<'_> {
    fn decisions(&mut self, depth: usize, key: &str) {
        for (_, what) in self.draft.decisions.iter().filter(|(about, _)| *about == key) {
            let _ = writeln!(self.text, "{:depth$}# decide: {}", "", comment(what));
        }
    }

    fn line(&mut self, depth: usize, key: &str, value: &str) {
        self.decisions(depth, key);
        let _ = writeln!(self.text, "{:depth$}{key}: {value}", "");
    }

    fn some<T: ToString>(&mut self, depth: usize, key: &str, value: Option<T>) {
        match value {
            Some(value) => self.line(depth, key, &value.to_string()),
            None => self.decisions(depth, key),
        }
    }

    fn texts(&mut self, depth: usize, key: &str, texts: &[String]) {
        match texts {
            [] => self.decisions(depth, key),
            texts => self.line(depth, key, &list(texts)),
        }
    }

    fn map(&mut self, depth: usize, key: &str, map: &BTreeMap<String, String>) {
        self.decisions(depth, key);
        if map.is_empty() {
            return;
        }
        let _ = writeln!(self.text, "{:depth$}{key}:", "");
        for (name, value) in map {
            let _ = writeln!(self.text, "{:depth$}  {}: {}", "", scalar(name), scalar(value));
        }
    }

    fn what_runs(&mut self) {
        let draft = self.draft;
        self.some(4, "image", draft.image.as_deref().map(scalar));
        if let Some(build) = &draft.build {
            self.decisions(4, "build");
            let context = build.context.as_deref().unwrap_or(".");
            let _ = writeln!(self.text, "    build:\n      context: {}", scalar(context));
            self.some(6, "dockerfile", build.dockerfile.as_deref().map(scalar));
            self.some(6, "target", build.target.as_deref().map(scalar));
            self.map(6, "args", &build.args);
            self.texts(6, "build.secrets", &[]);
            if !build.secrets.is_empty() {
                self.text += &format!("      secrets: {}\n", list(&build.secrets));
            }
            self.some(6, "push", build.push.as_deref().map(scalar));
        }
        self.some(4, "pull", draft.pull);
        self.texts(4, "entrypoint", &draft.entrypoint);
        self.texts(4, "command", &draft.command);
        self.some(4, "port", draft.port);
    }

    fn how_it_runs(&mut self) {
        let draft = self.draft;
        self.some(4, "replicas", draft.replicas);
        self.map(4, "env", &draft.env);
        self.texts(4, "secrets", &draft.secrets);
        self.some(4, "user", draft.user.as_deref().map(scalar));
        self.texts(4, "volumes", &draft.volumes);
        self.texts(4, "networks", &draft.networks);
        self.some(4, "memory", draft.memory);
        self.some(4, "cpu", draft.cpu);
        self.some(4, "pids", draft.pids);
        self.some(4, "stop_signal", draft.stop_signal.as_deref());
        self.some(4, "stop_grace", draft.stop_grace);
        self.some(4, "log_size", draft.log_size);
    }

    fn routes(&mut self) {
        self.decisions(0, "route");
        self.text += "route:\n";
        for route in &self.draft.routes {
            let Route { listen, host, path, tls, redirect, assets, body, access_log } = route;
            let mut parts = vec![format!("listen: {}", scalar(listen))];
            parts.extend(host.as_ref().map(|host| format!("host: {}", scalar(host))));
            parts.extend(path.as_ref().map(|path| format!("path: {}", scalar(path))));
            parts.extend(tls.as_ref().map(|tls| match tls {
                Tls::Acme => "tls: {acme: {}}".to_string(),
                Tls::Files { cert, key } => format!("tls: {{cert: {}, key: {}}}", scalar(cert), scalar(key)),
            }));
            if *redirect {
                parts.push("redirect: https".into());
            }
            if !assets.is_empty() {
                parts.push(format!("assets: {}", list(assets)));
            }
            parts.extend(body.map(|body| format!("limits: {{body: {body}}}")));
            if *access_log {
                parts.push("access_log: {}".into());
            }
            let _ = writeln!(self.text, "  - proxy: {{{}}}", parts.join(", "));
        }
    }

    fn checks(&mut self) {
        let draft = self.draft;
        self.text += "checks:\n";
        self.decisions(2, "health");
        self.text += "  health:\n";
        if draft.health.is_empty() {
            self.text += "    # That it accepts a connection. Better is to ask it how it is: `- path: /health`\n    - tcp: true\n";
        }
        for Check { ask, interval, timeout, status } in &draft.health {
            let mut parts = vec![match ask {
                Ask::Http(path) => format!("path: {}", scalar(path)),
                Ask::Tcp => "tcp: true".into(),
                Ask::Grpc(service) => format!("grpc: {}", scalar(service)),
            }];
            parts.extend(interval.map(|interval| format!("interval: {interval}")));
            parts.extend(timeout.map(|timeout| format!("timeout: {timeout}")));
            parts.extend(status.map(|status| format!("expect: {{status: {status}}}")));
            let _ = writeln!(self.text, "    - {{{}}}", parts.join(", "));
        }
        self.some(2, "within", draft.within);
    }

    fn processes(&mut self) {
        if self.draft.processes.is_empty() {
            return;
        }
        self.text += "# What runs beside it, from the same image. Two revisions of a process overlap until the new one is\n";
        self.text += "# stable; `overlap: false` ends the old one before the new one starts.\n";
        self.decisions(0, "processes");
        self.text += "processes:\n";
        for (name, process) in &self.draft.processes {
            let Process { command, replicas, stop_grace, alone } = process;
            let mut parts = vec![format!("command: {}", list(command))];
            parts.extend(replicas.map(|replicas| format!("replicas: {replicas}")));
            parts.extend(stop_grace.map(|grace| format!("stop_grace: {grace}")));
            if *alone {
                parts.push("overlap: false".into());
            }
            let _ = writeln!(self.text, "  {}: {{{}}}", scalar(name), parts.join(", "));
        }
    }
}
