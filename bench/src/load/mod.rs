//! A mix of clients against one address, counting exactly what failed.
//!
//! Failed is what the first promise of cutover names: a connection refused or reset, an error status that the
//! service did not intend, a body truncated or wrong, a WebSocket cut without a close frame, a POST delivered twice
//! or never. The services must answer like [`crate::service`].
//!
//! The clients live on a thread of their own, so a busy or blocking caller does not slow them:
//!
//! ```no_run
//! use cutover_bench::load::{Load, Mix, Options};
//! let options = Options::new("127.0.0.1:8080".parse().unwrap(), "shop.localhost").mix(Mix::small());
//! let load = Load::start(options);
//! // … switch, kill, upgrade …
//! let mut report = load.stop();
//! report.check_received(&["received.txt"]).unwrap();
//! assert_eq!(report.failed(), 0, "{report}");
//! ```

mod http;
mod report;
mod seat;
mod shared;
mod streams;
mod websocket;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

pub use report::{Answered, Failure, Kind, KindReport, Receipts, Report, VersionSeen};
pub use wire::Secure;

use http::HttpClient;
use shared::Shared;
use streams::StreamClient;
use websocket::WebSocketClient;

/// How many clients of each kind run at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mix {
    /// GETs over a kept connection.
    pub get_kept: usize,
    /// GETs over a new connection each.
    pub get_new: usize,
    /// POSTs with unique ids over a kept connection.
    pub post: usize,
    /// Uploads that drip, chunked and with a length by turns.
    pub slow_upload: usize,
    /// Downloads that drip, chunked and with a length by turns.
    pub slow_download: usize,
    /// WebSockets that live for a while and are echoed to.
    pub websocket: usize,
    /// GETs in streams of a kept connection of HTTP/2; in the clear the address must speak it with prior knowledge.
    pub http2: usize,
    /// Calls of gRPC whose messages come back one by one; the service, too, must be spoken to in HTTP/2.
    pub grpc: usize,
    /// GETs with the cookie that the answer before has set, half of them on a new connection each.
    pub sticky: usize,
}

impl Mix {
    /// Returns one or two clients of every kind of HTTP/1.1.
    pub fn small() -> Self {
        let slow = 1;
        Self {
            get_kept: 2,
            get_new: 2,
            post: 2,
            slow_upload: slow,
            slow_download: slow,
            websocket: 2,
            ..Self::default()
        }
    }

    fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::GetKept => self.get_kept,
            Kind::GetNew => self.get_new,
            Kind::Post => self.post,
            Kind::SlowUpload => self.slow_upload,
            Kind::SlowDownload => self.slow_download,
            Kind::WebSocket => self.websocket,
            Kind::Http2 => self.http2,
            Kind::Grpc => self.grpc,
            Kind::Sticky => self.sticky,
        }
    }
}

/// How fast the clients send.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// Each client sends again as soon as it was answered.
    Closed,
    /// At most so many GETs and POSTs per second, all clients together; the slow kinds and calls set their own pace.
    PerSecond(f64),
}

/// What to send, where, and how much of it.
#[derive(Debug, Clone)]
pub struct Options {
    /// The address to connect to.
    pub address: SocketAddr,
    /// The Host header.
    pub host: String,
    /// How many clients of each kind; [`Mix::small`] by default.
    pub mix: Mix,
    /// How fast; [`Pace::PerSecond`] 500 by default.
    pub pace: Pace,
    /// Ends by itself after so many requests; none (the default): runs until stopped.
    pub total: Option<u64>,
    /// About how long a slow upload or download takes; 300 ms by default.
    pub slow: Duration,
    /// How long the longest WebSockets live, one in four; the others a tenth of it. 3 s by default.
    pub websocket_life: Duration,
    /// The longest silence or request; then it failed. 20 s by default.
    pub limit: Duration,
    /// Whether every answer is kept with its times; no by default.
    pub timeline: bool,
    /// How all clients speak TLS; none (the default): they do not.
    pub secure: Option<Secure>,
}

impl Options {
    /// Returns the defaults for an address and a Host header.
    pub fn new(address: SocketAddr, host: impl Into<String>) -> Self {
        Self {
            address,
            host: host.into(),
            mix: Mix::small(),
            pace: Pace::PerSecond(500.0),
            total: None,
            slow: Duration::from_millis(300),
            websocket_life: Duration::from_secs(3),
            limit: Duration::from_secs(20),
            timeline: false,
            secure: None,
        }
    }

    /// Returns the options with another mix.
    pub fn mix(mut self, mix: Mix) -> Self {
        self.mix = mix;
        self
    }

    /// Returns the options with another pace.
    pub fn pace(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    /// Returns the options with an end after so many requests.
    pub fn total(mut self, total: u64) -> Self {
        self.total = Some(total);
        self
    }
}

/// Clients that are running.
pub struct Load {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

impl Load {
    /// Starts the clients on a thread of their own.
    ///
    /// # Panics
    ///
    /// When the system gives no thread.
    pub fn start(options: Options) -> Self {
        let shared = Arc::new(Shared::new(options));
        let clients = shared.clone();
        let thread = std::thread::Builder::new()
            .name("load".into())
            .spawn(move || run(&clients))
            .expect("the system gives a thread to the load");
        Self { shared, thread }
    }

    /// Returns the counts so far; POSTs are not yet checked against what was received.
    pub fn report(&self) -> Report {
        self.shared.report()
    }

    /// Returns how many requests a version has answered so far.
    pub fn answers(&self, version: &str) -> u64 {
        self.shared.answers(version)
    }

    /// Returns the time on the clock of [`Report::timeline`].
    pub fn now_us(&self) -> u64 {
        self.shared.now_us()
    }

    /// From now on a request answered by another version than this is a stray ([`Report::strays`]).
    ///
    /// Judged is what begins after this call and is answered before the next one, so call it with None before the
    /// version changes, and with the new version once the change is acknowledged.
    pub fn expect_version(&self, version: Option<&str>) {
        self.shared.expect_version(version);
    }

    /// Tells whether all requests of [`Options::total`] were sent and answered.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits until so many requests were sent in all; false: `limit` passed first.
    pub fn wait_for(&self, sent: u64, limit: Duration) -> bool {
        let begun = Instant::now();
        while self.shared.sent() < sent {
            if begun.elapsed() > limit || self.is_finished() {
                return self.shared.sent() >= sent;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// Stops: what is under way is finished (at most [`Options::limit`]) and counted. Blocks until then.
    ///
    /// # Panics
    ///
    /// When a client panicked.
    pub fn stop(self) -> Report {
        self.shared.stop();
        self.finish()
    }

    /// Waits until all requests of [`Options::total`] were sent; without a total it waits forever.
    ///
    /// # Panics
    ///
    /// When a client panicked.
    pub fn finish(self) -> Report {
        if let Err(panic) = self.thread.join() {
            std::panic::resume_unwind(panic);
        }
        self.shared.report()
    }
}

fn run(shared: &Arc<Shared>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("the system gives an event queue to the load");
    runtime.block_on(async {
        let mut clients = JoinSet::new();
        for kind in Kind::ALL {
            for number in 0..shared.options.mix.count(kind) {
                match kind {
                    Kind::WebSocket => clients.spawn(WebSocketClient::new(shared.clone(), number).run()),
                    Kind::Http2 | Kind::Grpc => {
                        clients.spawn(StreamClient::new(shared.clone(), kind, number).run())
                    }
                    _ => clients.spawn(HttpClient::new(shared.clone(), kind, number).run()),
                };
            }
        }
        while let Some(ended) = clients.join_next().await {
            if let Err(error) = ended {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    });
}
