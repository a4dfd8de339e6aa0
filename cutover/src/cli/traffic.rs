//! `cutover traffic`: what the requests of a service do, said to the proxy itself; no server is needed.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use cutover_core::Span;
use cutover_proxy::{MAX_PAGE, Traffic, Waiting};

use super::args::Global;
use super::commands::proxy;
use super::file::service as named;
use super::view::print;
use crate::exit;
use crate::failure::Failure;

#[derive(Subcommand)]
pub(super) enum TrafficVerb {
    /// Let requests wait, until `open` or `flow`
    Queue {
        /// The service; by default the release file's
        service: Option<String>,
        #[command(flatten)]
        waits: Waits,
    },
    /// Let requests through in the order in which they came, at a bounded rate
    Flow {
        /// The service; by default the release file's
        service: Option<String>,
        /// How many requests a second
        #[arg(long, default_value_t = 100, value_name = "COUNT")]
        per_second: u32,
        #[command(flatten)]
        waits: Waits,
    },
    /// Answer 503 with a page of your own, until `open`
    Maintenance {
        /// The service; by default the release file's
        service: Option<String>,
        /// The page: a file of text, HTML or JSON, which the proxy copies
        #[arg(long, value_name = "FILE")]
        page: Option<PathBuf>,
        /// When clients shall come back
        #[arg(long, default_value = "60s", value_name = "TIME")]
        retry_after: String,
    },
    /// Let requests pass
    Open {
        /// The service; by default the release file's
        service: Option<String>,
    },
}

#[derive(clap::Args)]
pub(super) struct Waits {
    /// Most requests that wait at once; the next one is answered 503
    #[arg(long, default_value_t = 1000, value_name = "COUNT")]
    limit: u32,
    /// How long one waits; then it is answered 503
    #[arg(long, default_value = "30s", value_name = "TIME")]
    wait: String,
}

impl Waits {
    fn waiting(&self) -> Result<Waiting, Failure> {
        Ok(Waiting { limit: self.limit, wait_ms: span("--wait", &self.wait)?.ms() })
    }
}

/// Says it to the proxy, and what it means.
pub(super) async fn traffic(global: &Global, verb: TrafficVerb) -> Result<u8, Failure> {
    let (service, traffic) = match verb {
        TrafficVerb::Queue { service, waits } => (service, Traffic::Queue(waits.waiting()?)),
        TrafficVerb::Flow { service, per_second, waits } => {
            (service, Traffic::Flow { per_second, waiting: waits.waiting()? })
        }
        TrafficVerb::Maintenance { service, page, retry_after } => {
            (service, maintenance(page.as_deref(), &retry_after)?)
        }
        TrafficVerb::Open { service } => (service, Traffic::Open),
    };
    let service = named(global, service)?;
    let said = proxy(global).await?.traffic(service.as_str(), &traffic).await;
    said.map_err(|error| crate::server::proxy_failure(&error))?;
    let means = match &traffic {
        Traffic::Open => "requests pass".to_string(),
        Traffic::Queue(Waiting { limit, wait_ms }) => format!(
            "requests wait, at most {limit} of them for at most {}; then: cutover traffic flow {service}, cutover \
             traffic open {service}",
            Span::from_ms(*wait_ms)
        ),
        Traffic::Flow { per_second, .. } => {
            format!(
                "{per_second} requests a second pass, in order; all of them: cutover traffic open {service}"
            )
        }
        Traffic::Maintenance { .. } => {
            format!(
                "requests are answered 503 with the page; back to service: cutover traffic open {service}"
            )
        }
    };
    print(&format!("{service}: {means}"));
    Ok(exit::OK)
}

fn maintenance(page: Option<&Path>, retry_after: &str) -> Result<Traffic, Failure> {
    let retry_after_s = span("--retry-after", retry_after)?.ms().div_ceil(1000);
    let retry_after_s = u32::try_from(retry_after_s).unwrap_or(u32::MAX);
    let Some(path) = page else {
        let page = "This service is closed for maintenance and will be back soon.\n".into();
        return Ok(Traffic::Maintenance { page, content_type: text("plain"), retry_after_s });
    };
    let failed = |why: String| {
        Failure::new(exit::USAGE, format!("failed to read the page {}: {why}", path.display()))
            .hint(format!("name a file of text, HTML or JSON of at most {} KiB with --page", MAX_PAGE >> 10))
    };
    let page = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    let page = String::from_utf8(page).map_err(|_| failed("it is not UTF-8".into()))?;
    let content_type = match path.extension().and_then(|extension| extension.to_str()) {
        Some("html" | "htm") => text("html"),
        Some("json") => "application/json".into(),
        _ => text("plain"),
    };
    Ok(Traffic::Maintenance { page, content_type, retry_after_s })
}

fn text(kind: &str) -> String {
    format!("text/{kind}; charset=utf-8")
}

fn span(option: &str, text: &str) -> Result<Span, Failure> {
    text.parse().map_err(|error| Failure::new(exit::USAGE, format!("{option}: {error}")))
}
