//! What BuildKit says during a build, as lines for people.

use std::collections::BTreeMap;

use super::proto::{Fields, Value};

/// How many of the last lines of a step are shown when it fails.
const LAST: usize = 20;

/// The steps of a build so far.
#[derive(Debug, Default)]
pub(super) struct Trace {
    /// By digest.
    steps: BTreeMap<String, Step>,
    count: usize,
}

#[derive(Debug, Default)]
struct Step {
    number: usize,
    name: String,
    /// The beginning of a line whose end did not come yet.
    open: String,
    last: Vec<String>,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    New,
    Started,
    Ended,
}

#[derive(Default)]
struct Vertex {
    digest: String,
    name: String,
    cached: bool,
    started: bool,
    completed: bool,
    error: String,
}

/// A step that failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failed {
    /// The line of the Dockerfile, such as `[2/3] RUN make`.
    pub(super) name: String,
    /// The last that it said.
    pub(super) last: Vec<String>,
}

impl Trace {
    /// Takes in one message, and returns the lines that it makes.
    pub(super) fn hear(&mut self, message: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for (field, value) in Fields(message).flatten() {
            match field {
                1 => self.vertex(&vertex(value.bytes()), &mut lines),
                3 => self.output(value.bytes(), &mut lines),
                _ => {}
            }
        }
        lines
    }

    /// Returns the step that failed last.
    pub(super) fn failed(&self) -> Option<Failed> {
        let told = |step: &&Step| {
            !step.last.is_empty() && step.last.last().is_some_and(|last| last.starts_with("error: "))
        };
        let step = self.steps.values().filter(told).max_by_key(|step| step.number)?;
        Some(Failed { name: step.name.clone(), last: step.last[..step.last.len() - 1].to_vec() })
    }

    fn vertex(&mut self, vertex: &Vertex, lines: &mut Vec<String>) {
        let step = self.steps.entry(vertex.digest.clone()).or_default();
        if step.number == 0 {
            self.count += 1;
            step.number = self.count;
            step.name = vertex.name.clone();
        }
        let number = step.number;
        let begun = vertex.started || vertex.cached || !vertex.error.is_empty();
        if step.state == State::New && begun {
            step.state = State::Started;
            lines.push(format!("#{number} {}", step.name));
        }
        let ended = vertex.completed || !vertex.error.is_empty();
        if step.state == State::Started && ended {
            step.state = State::Ended;
            if !step.open.is_empty() {
                let open = std::mem::take(&mut step.open);
                lines.push(step.keep(open));
            }
            lines.push(match (vertex.error.is_empty(), vertex.cached) {
                (false, _) => step.keep(format!("error: {}", vertex.error)),
                (true, true) => format!("#{number} cached"),
                (true, false) => format!("#{number} done"),
            });
        }
    }

    fn output(&mut self, message: &[u8], lines: &mut Vec<String>) {
        let (mut digest, mut text) = (String::new(), String::new());
        for (field, value) in Fields(message).flatten() {
            match field {
                1 => digest = value.text(),
                4 => text = value.text(),
                _ => {}
            }
        }
        let Some(step) = self.steps.get_mut(&digest) else { return };
        step.open.push_str(&text);
        while let Some(end) = step.open.find('\n') {
            let line: String = step.open.drain(..=end).collect();
            // What a progress bar writes over is not of interest.
            let line = line.trim_end().rsplit('\r').next().unwrap_or_default().to_owned();
            lines.push(step.keep(line));
        }
    }
}

impl Step {
    fn keep(&mut self, line: String) -> String {
        let shown = format!("#{} {line}", self.number);
        if self.last.len() > LAST {
            self.last.remove(0);
        }
        self.last.push(line);
        shown
    }
}

fn vertex(message: &[u8]) -> Vertex {
    let mut vertex = Vertex::default();
    for (field, value) in Fields(message).flatten() {
        match (field, value) {
            (1, _) => vertex.digest = value.text(),
            (3, _) => vertex.name = value.text(),
            (4, _) => vertex.cached = value.number() != 0,
            (5, Value::Bytes(_)) => vertex.started = true,
            (6, Value::Bytes(_)) => vertex.completed = true,
            (7, _) => vertex.error = value.text(),
            _ => {}
        }
    }
    vertex
}

#[cfg(test)]
mod tests {
    use super::super::proto::Message;
    use super::*;

    fn step(digest: &str, name: &str) -> Message {
        Message::default().bytes(1, digest.as_bytes()).bytes(3, name.as_bytes())
    }

    fn said(digest: &str, text: &str) -> Vec<u8> {
        let log =
            Message::default().bytes(1, digest.as_bytes()).number(3, 1).bytes(4, text.as_bytes()).done();
        Message::default().present(3, &log).done()
    }

    fn of(step: Message) -> Vec<u8> {
        Message::default().present(1, &step.done()).done()
    }

    #[test]
    fn each_step_is_told_from_its_beginning_to_its_end() {
        let mut trace = Trace::default();
        assert!(trace.hear(&of(step("a", "[1/2] COPY"))).is_empty());
        assert_eq!(
            trace.hear(&of(step("a", "[1/2] COPY").number(4, 1).present(5, b"x").present(6, b"x"))),
            ["#1 [1/2] COPY", "#1 cached"]
        );
        assert_eq!(trace.hear(&of(step("b", "[2/2] RUN make").present(5, b"x"))), ["#2 [2/2] RUN make"]);
        assert_eq!(trace.hear(&said("b", "one\ntw")), ["#2 one"]);
        assert_eq!(trace.hear(&said("b", "o\r10%\r20%\nend")), ["#2 20%"]);
        let failed = step("b", "[2/2] RUN make").present(5, b"x").bytes(7, b"exit code: 2");
        assert_eq!(trace.hear(&of(failed)), ["#2 end", "#2 error: exit code: 2"]);
        let failed = trace.failed().unwrap();
        assert_eq!(
            failed,
            Failed { name: "[2/2] RUN make".into(), last: ["one", "20%", "end"].map(String::from).into() }
        );
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        let mut trace = Trace::default();
        trace.hear(&of(step("a", "RUN").present(5, b"x")));
        (0..100).for_each(|i| drop(trace.hear(&said("a", &format!("{i}\n")))));
        trace.hear(&of(step("a", "RUN").bytes(7, b"no")));
        let last = trace.failed().unwrap().last;
        assert_eq!((last.len(), last[0].as_str(), last[LAST - 1].as_str()), (LAST, "80", "99"));
    }

    #[test]
    fn garbage_makes_no_line() {
        assert!(Trace::default().hear(&[0xff, 0xff, 1, 2]).is_empty());
    }
}
