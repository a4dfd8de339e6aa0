//! The report as JUnit XML, for the pages of CI systems: gates, health checks, smoke tests and load tests as
//! test cases.

use std::borrow::Cow;
use std::fmt::Write;

use super::report::Report;
use crate::check::{CheckKind, CheckOutcome, CheckResult};
use crate::load::{LoadOutcome, LoadResult};

/// One test case: its name, how long it took, why it did not pass, its output.
struct Case<'a> {
    class: String,
    name: &'a str,
    us: u64,
    /// The element, and what it says.
    wrong: Option<(&'static str, Cow<'a, str>)>,
    output: &'a [String],
}

/// Renders `report` as one `testsuites` element, with a suite for each kind of test that the release had.
///
/// The form is the one that Jenkins and GitLab read: <https://github.com/testmoapp/junitxml>.
pub fn junit(report: &Report) -> String {
    let gates = report.gate.iter().map(|gate| Case {
        class: format!("{}.gate", report.service),
        name: &gate.command,
        us: gate.took_ms.saturating_mul(1000),
        wrong: (!gate.passed).then_some(("failure", report.why.as_str().into())),
        output: &[],
    });
    let mut suites = vec![("gate", gates.collect())];
    for kind in [CheckKind::Health, CheckKind::Smoke] {
        let of_kind = report.checks.iter().filter(|result| result.kind == kind);
        suites.push((kind.words(true), of_kind.map(|result| case(report, result)).collect()));
    }
    suites.push(("load tests", report.loads.iter().map(|result| load_case(report, result)).collect()));
    suites.retain(|(_, cases): &(_, Vec<Case>)| !cases.is_empty());
    let all = || suites.iter().flat_map(|(_, cases)| cases);
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = writeln!(text, "<testsuites name=\"{}\" {}>", escaped(report.release.as_str()), sums(all()));
    for (name, cases) in &suites {
        let _ = writeln!(text, "  <testsuite name=\"{name}\" {}>", sums(cases.iter()));
        cases.iter().for_each(|case| write_case(&mut text, case));
        text.push_str("  </testsuite>\n");
    }
    text.push_str("</testsuites>\n");
    text
}

fn case<'a>(report: &Report, result: &'a CheckResult) -> Case<'a> {
    let kind = match result.kind {
        CheckKind::Health => "health",
        CheckKind::Smoke => "smoke",
    };
    Case {
        class: format!("{}.{kind}.{}", report.service, result.instance),
        name: &result.check,
        us: result.duration_us,
        wrong: match result.outcome {
            CheckOutcome::Passed => None,
            CheckOutcome::Failed => Some(("failure", result.detail.as_str().into())),
            CheckOutcome::Error => Some(("error", result.detail.as_str().into())),
        },
        output: &result.output,
    }
}

fn load_case<'a>(report: &Report, result: &'a LoadResult) -> Case<'a> {
    Case {
        class: format!("{}.load", report.service),
        name: &result.test,
        us: result.took_ms.saturating_mul(1000),
        wrong: match result.outcome {
            LoadOutcome::Passed => None,
            LoadOutcome::Failed => Some(("failure", result.why().into())),
            LoadOutcome::Inconclusive => Some(("error", result.why().into())),
        },
        output: &[],
    }
}

fn sums<'a>(cases: impl Iterator<Item = &'a Case<'a>>) -> String {
    let (mut tests, mut failures, mut errors, mut us) = (0, 0, 0, 0_u64);
    for case in cases {
        tests += 1;
        us = us.saturating_add(case.us);
        match case.wrong {
            Some(("failure", _)) => failures += 1,
            Some(_) => errors += 1,
            None => {}
        }
    }
    format!("tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\" time=\"{}\"", seconds(us))
}

fn write_case(text: &mut String, case: &Case) {
    let (class, name, time) = (escaped(&case.class), escaped(case.name), seconds(case.us));
    let _ = write!(text, "    <testcase classname=\"{class}\" name=\"{name}\" time=\"{time}\"");
    if case.wrong.is_none() && case.output.is_empty() {
        text.push_str("/>\n");
        return;
    }
    text.push_str(">\n");
    if let Some((element, why)) = &case.wrong {
        let _ = writeln!(text, "      <{element} message=\"{}\"/>", escaped(why));
    }
    if !case.output.is_empty() {
        let _ = writeln!(text, "      <system-out>{}</system-out>", escaped(&case.output.join("\n")));
    }
    text.push_str("    </testcase>\n");
}

fn seconds(us: u64) -> String {
    format!("{}.{:03}", us / 1_000_000, us % 1_000_000 / 1000)
}

/// Writes a text so that it can stand in an element or an attribute. What XML has no way to write is shown as `?`.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(letter),
            '\u{fffe}' | '\u{ffff}' => out.push('?'),
            letter if letter < ' ' => out.push('?'),
            letter => out.push(letter),
        }
    }
    out
}
