//! Servers to aim at: the real service, and one that answers with given bytes.

use std::net::SocketAddr;
use std::path::Path;

use cutover_bench::load::{Kind, Load, Mix, Options, Pace, Report};
use cutover_bench::service::{Settings, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The real service, inside of the test.
pub(super) struct Running {
    pub(super) address: SocketAddr,
    pub(super) stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Running {
    pub(super) async fn start(version: &str, received: Option<&Path>, fail_after: Option<u64>) -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let settings = Settings {
            version: version.into(),
            received: received.map(Path::to_path_buf),
            fail_after,
            ..Settings::default()
        };
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(serve(listener, settings, async {
            let _ = stopped.await;
        }));
        Running { address, stop, task }
    }

    pub(super) async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap().unwrap();
    }
}

/// Starts a server that answers every connection with these bytes, once it has read some, and closes it.
pub(super) async fn canned(answer: &'static str) -> SocketAddr {
    handled(move |mut stream| async move {
        let mut request = vec![0; 64 << 10];
        let _ = stream.read(&mut request).await;
        let _ = stream.write_all(answer.as_bytes()).await;
    })
    .await
}

/// Starts a server that does this with every connection.
pub(super) async fn handled<F>(handle: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(handle(stream));
        }
    });
    address
}

/// Returns a mix of one client.
pub(super) fn only(kind: Kind) -> Mix {
    let mut mix = Mix::default();
    let count = match kind {
        Kind::GetKept => &mut mix.get_kept,
        Kind::GetNew => &mut mix.get_new,
        Kind::Post => &mut mix.post,
        Kind::SlowUpload => &mut mix.slow_upload,
        Kind::SlowDownload => &mut mix.slow_download,
        Kind::WebSocket => &mut mix.websocket,
        Kind::Http2 => &mut mix.http2,
        Kind::Grpc => &mut mix.grpc,
        Kind::Sticky => &mut mix.sticky,
    };
    *count = 1;
    mix
}

pub(super) fn options(address: SocketAddr, mix: Mix, total: u64) -> Options {
    let mut options = Options::new(address, "shop.test").mix(mix).pace(Pace::Closed).total(total);
    options.slow = std::time::Duration::from_millis(30);
    options.websocket_life = std::time::Duration::from_millis(100);
    options.limit = std::time::Duration::from_secs(5);
    options
}

/// Runs a load to its end.
pub(super) async fn run(options: Options) -> Report {
    tokio::task::spawn_blocking(|| Load::start(options).finish()).await.unwrap()
}
