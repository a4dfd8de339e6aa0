//! A server that says what a test wants, and a Prometheus that scrapes it.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use cutover_core::file::{Counters, Metric};
use cutover_sources::{AskError, Names, OwnSources, Reading, Setting, Source, Sources};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

/// What a server does with a request, told its first line and all of its head.
pub(crate) enum Does {
    /// Answers so, byte for byte, and closes.
    Says(Vec<u8>),
    /// Never answers.
    Hangs,
}

/// A server on a free port; ends with the runtime of its test.
pub(crate) async fn server(does: impl Fn(&str) -> Does + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let does = Arc::new(does);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let does = does.clone();
            tokio::spawn(async move { serve(stream, &*does).await });
        }
    });
    address
}

pub(crate) async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    does: &(dyn Fn(&str) -> Does + Send + Sync),
) {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut part = [0; 4096];
        match stream.read(&mut part).await {
            Ok(count) if count > 0 => head.extend_from_slice(&part[..count]),
            _ => return,
        }
    }
    match does(&String::from_utf8_lossy(&head)) {
        Does::Says(bytes) => {
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
        }
        Does::Hangs => std::future::pending().await,
    }
}

pub(crate) fn answer(status: u16, body: &str) -> Does {
    let text = format!(
        "HTTP/1.1 {status} Said\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    Does::Says(text.into_bytes())
}

pub(crate) fn setting() -> Setting {
    Setting {
        names: Names { service: "shop".into(), revision: "r-2".into(), stable_revision: "r-1".into() },
        folder: "/".into(),
        secrets: BTreeMap::new(),
        opened_ms: 0,
        since_ms: 0,
        roots: None,
        wall: Arc::new(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            u64::try_from(now.as_millis()).unwrap()
        }),
    }
}

/// A metric with these keys in JSON, beside a name and a limit.
pub(crate) fn metric(keys: serde_json::Value) -> Metric {
    let mut metric = serde_json::json!({"name": "errors", "max": 1});
    metric.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    serde_json::from_value(metric).unwrap()
}

pub(crate) fn source(keys: serde_json::Value) -> Box<dyn Source> {
    OwnSources.metric(&metric(keys), &setting()).unwrap()
}

pub(crate) fn counters(prometheus: serde_json::Value) -> Box<dyn Source> {
    let counters: Counters = serde_json::from_value(serde_json::json!({ "prometheus": prometheus })).unwrap();
    OwnSources.counters(&counters, &setting()).unwrap()
}

/// Asks until the answer is as wanted, and returns it.
pub(crate) async fn until(
    source: &dyn Source,
    wanted: impl Fn(&Result<Reading, AskError>) -> bool,
) -> Result<Reading, AskError> {
    let mut last = None;
    let found = timeout(Duration::from_secs(60), async {
        loop {
            let answer = source.ask().await;
            if wanted(&answer) {
                return answer;
            }
            last = Some(answer);
            sleep(Duration::from_millis(50)).await;
        }
    });
    found.await.unwrap_or_else(|_| panic!("never came; the last answer: {last:?}"))
}

/// What an exporter shows; tests change it.
#[derive(Clone, Default)]
pub(crate) struct Page(Arc<Mutex<String>>);

impl Page {
    pub(crate) fn set(&self, text: String) {
        *self.0.lock().unwrap() = text;
    }

    pub(crate) async fn serve(&self) -> SocketAddr {
        let page = self.clone();
        server(move |_| {
            let body = page.0.lock().unwrap().clone();
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\nconnection: close\r\n";
            Does::Says(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).into_bytes())
        })
        .await
    }
}

/// A Prometheus of the test's own; killed with it.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
    _folder: tempfile::TempDir,
}

impl Server {
    /// Starts one that scrapes `exporter` five times a second; none where it is not wanted, which is said.
    pub(crate) async fn start(exporter: SocketAddr) -> Option<Server> {
        if std::env::var_os("CUTOVER_TEST_SERVERS").is_none() {
            println!("skipped: what a real Prometheus answers; CUTOVER_TEST_SERVERS=1 asks one");
            return None;
        }
        // Somebody may take the port between its choice and the start.
        for _ in 0..5 {
            let mut server = Server::spawn(exporter);
            let ready = format!("{}/-/ready", server.address);
            for _ in 0..600 {
                if server.child.try_wait().unwrap().is_some() {
                    break;
                }
                if is_ready(&ready).await {
                    return Some(server);
                }
                sleep(Duration::from_millis(50)).await;
            }
        }
        panic!("prometheus does not start; ./test installs it");
    }

    fn spawn(exporter: SocketAddr) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("prometheus.yml");
        let text = format!(
            "global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}\n\
             scrape_configs: [{{job_name: test, static_configs: [{{targets: [\"{exporter}\"]}}]}}]\n"
        );
        std::fs::write(&config, text).unwrap();
        let free = StdListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={free}"))
            .arg("--log.level=error")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus is installed: ./test does it");
        Server { child, address: format!("http://{free}"), _folder: folder }
    }

    /// Ends it, and what it listened on.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Its own page is asked with a source: any JSON answer would do, its text is not JSON but comes with 200.
async fn is_ready(url: &str) -> bool {
    let source = source(serde_json::json!({"http": {"url": url, "value": "x"}}));
    matches!(source.ask().await, Err(error) if error.what.contains("no JSON"))
}

/// A folder with a certificate for 127.0.0.1, which is its own root.
pub(crate) fn certificate() -> (tempfile::TempDir, PathBuf, Arc<rustls::ServerConfig>) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_string()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root.pem");
    let text = base64::engine::general_purpose::STANDARD.encode(made.cert.der());
    std::fs::write(&root, format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n"))
        .unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    (folder, root, Arc::new(config))
}
