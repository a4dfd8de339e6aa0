//! Plain GET clients, over TLS if need be: every answer must be a whole 200.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

const HOST: &str = "shop.localhost";

/// What a request is written to and its answer read from.
trait Wire: Read + Write {}
impl<T: Read + Write> Wire for T {}
type Connection = BufReader<Box<dyn Wire>>;

/// Where to connect to, and whom to trust there; without TLS nobody.
#[derive(Clone)]
struct Server {
    address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
}

impl Server {
    fn connect(&self) -> Result<Connection, String> {
        let words = |error: std::io::Error| format!("connect: {error}");
        let stream = TcpStream::connect(self.address).map_err(words)?;
        stream.set_read_timeout(Some(Duration::from_secs(15))).map_err(words)?;
        let Some(tls) = &self.tls else { return Ok(BufReader::new(Box::new(stream))) };
        let name = ServerName::try_from(HOST).unwrap();
        let session =
            ClientConnection::new(tls.clone(), name).map_err(|error| format!("connect: {error}"))?;
        Ok(BufReader::new(Box::new(StreamOwned::new(session, stream))))
    }
}

/// Sends one GET over TLS, trusting `root`; returns the whole answer.
pub(crate) fn get_tls(address: SocketAddr, root: &CertificateDer<'static>) -> Result<String, String> {
    let mut connection = Server { address, tls: Some(trusting(root)) }.connect()?;
    let request = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
    connection.get_mut().write_all(request.as_bytes()).map_err(|error| error.to_string())?;
    let mut text = String::new();
    connection.read_to_string(&mut text).map_err(|error| error.to_string())?;
    Ok(text)
}

fn trusting(root: &CertificateDer<'static>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    Arc::new(config.with_no_client_auth())
}

#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    sent: AtomicU64,
    failures: Mutex<Vec<String>>,
}

pub(crate) struct Clients {
    seen: Arc<Seen>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    /// Four clients that keep their connection, four with a new one for each request.
    pub(crate) fn start(address: SocketAddr) -> Clients {
        Clients::of(&Server { address, tls: None })
    }

    /// The same, over TLS.
    pub(crate) fn start_tls(address: SocketAddr, root: &CertificateDer<'static>) -> Clients {
        Clients::of(&Server { address, tls: Some(trusting(root)) })
    }

    fn of(server: &Server) -> Clients {
        let seen = Arc::new(Seen::default());
        let threads = (0..8).map(|i| {
            let (seen, server) = (seen.clone(), server.clone());
            std::thread::spawn(move || run(&server, &seen, i % 2 == 0))
        });
        Clients { threads: threads.collect(), seen }
    }

    pub(crate) fn sent(&self) -> u64 {
        self.seen.sent.load(Ordering::Relaxed)
    }

    /// Stops, and returns how many were sent and what failed.
    pub(crate) fn stop(self) -> (u64, Vec<String>) {
        self.seen.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let failures = self.seen.failures.lock().unwrap().clone();
        (self.seen.sent.load(Ordering::Relaxed), failures)
    }
}

fn run(server: &Server, seen: &Seen, keep: bool) {
    let mut kept: Option<Connection> = None;
    while !seen.stop.load(Ordering::Relaxed) {
        match ask(server, kept.take(), keep) {
            Ok(connection) => kept = connection,
            Err(why) => seen.failures.lock().unwrap().push(why),
        }
        seen.sent.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn ask(server: &Server, kept: Option<Connection>, keep: bool) -> Result<Option<Connection>, String> {
    let words = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
    let mut connection = match kept {
        Some(connection) => connection,
        None => server.connect()?,
    };
    let close = if keep { "" } else { "connection: close\r\n" };
    let request = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n{close}\r\n");
    connection.get_mut().write_all(request.as_bytes()).map_err(words("send"))?;
    let mut line = String::new();
    connection.read_line(&mut line).map_err(words("status"))?;
    if !line.starts_with("HTTP/1.1 200") {
        return Err(format!("status: {line:?}"));
    }
    let (mut length, mut chunked, mut closes) = (None, false, !keep);
    loop {
        line.clear();
        connection.read_line(&mut line).map_err(words("headers"))?;
        let header = line.trim().to_ascii_lowercase();
        match header.split_once(':').map(|(name, value)| (name, value.trim())) {
            None if header.is_empty() => break,
            Some(("content-length", value)) => length = value.parse::<usize>().ok(),
            Some(("transfer-encoding", value)) => chunked = value.contains("chunked"),
            Some(("connection", value)) => closes |= value.contains("close"),
            _ => {}
        }
    }
    match (length, chunked) {
        (Some(length), _) => {
            let mut body = vec![0; length];
            connection.read_exact(&mut body).map_err(words("body"))?;
        }
        (None, true) => chunks(&mut connection)?,
        (None, false) => return Err("an answer without a length".into()),
    }
    Ok((!closes).then_some(connection))
}

fn chunks(connection: &mut Connection) -> Result<(), String> {
    loop {
        let mut line = String::new();
        connection.read_line(&mut line).map_err(|error| format!("chunk: {error}"))?;
        let size = usize::from_str_radix(line.trim(), 16)
            .map_err(|error| format!("chunk size {line:?}: {error}"))?;
        let mut chunk = vec![0; size + 2];
        connection.read_exact(&mut chunk).map_err(|error| format!("chunk: {error}"))?;
        if size == 0 {
            return Ok(());
        }
    }
}
