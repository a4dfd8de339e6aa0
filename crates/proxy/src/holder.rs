//! The holder: a small parent that owns the listening sockets and keeps a worker running.

use std::cell::RefCell;
use std::ffi::OsString;
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::time::timeout;

use crate::compat;
use crate::descriptors;
use crate::error::{ErrorKind, ProxyError};
use crate::fds::{self, MAX_FDS};
use crate::files;
use crate::lock;
use crate::moment;
use crate::protocol::{Envelope, Request};
use crate::store::Store;
use crate::supervise::{self, Handover, Succession};

/// Admin socket in the proxy's folder.
pub const ADMIN_SOCKET: &str = "proxy.sock";
/// Socket over which the holder hands sockets to its worker.
pub(crate) const HOLDER_SOCKET: &str = "holder.sock";
const LOCK: &str = "holder.lock";
const LISTENERS: &str = "listeners.json";
const BACKLOG: i32 = 4096;
const TAKE_OVER: Duration = Duration::from_secs(5);
const MAX_LISTENERS: usize = (MAX_FDS - 2) / 2;

/// What a holder needs.
#[derive(Debug, Clone)]
pub struct HolderOptions {
    /// Folder of the table, the sockets and the locks; created with mode 0700.
    pub dir: PathBuf,
    /// Program and arguments of the worker, which calls [`run_worker`](crate::run_worker) on the same folder.
    pub worker_command: Vec<OsString>,
    /// Addresses to listen on, beside those of earlier runs; port 0 lets the system choose.
    pub listen: Vec<SocketAddr>,
    /// How long the worker may finish requests after SIGTERM; then it is killed.
    pub grace: Duration,
}

impl HolderOptions {
    /// Returns options with no listener and 30 s of grace.
    pub fn new(dir: impl Into<PathBuf>, worker_command: Vec<OsString>) -> Self {
        Self { dir: dir.into(), worker_command, listen: Vec::new(), grace: Duration::from_secs(30) }
    }
}

/// Questions of a worker to its holder.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub(crate) enum Ask {
    /// Hand me everything.
    Sockets,
    /// Open one more address.
    Open { address: SocketAddr },
    /// I am about to serve: may I?
    Ready,
}

/// Says what the descriptors of a message are: folder lock, admin listener, then listener and lock per address.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Sockets {
    pub(crate) holder_pid: Option<u32>,
    pub(crate) addresses: Vec<SocketAddr>,
    /// Workers that still finish requests of their own.
    #[serde(default)]
    pub(crate) leaving: Vec<u32>,
    /// Files of certificates that the worker in charge does not have itself; none: nobody is in charge, or does not say.
    #[serde(default)]
    pub(crate) lacks: Option<Vec<String>>,
    pub(crate) error: Option<(ErrorKind, String)>,
}

impl Sockets {
    pub(crate) fn refuse(error: &ProxyError) -> Self {
        let error = Some((error.kind().clone(), error.wire_message()));
        Self { error, ..Self::default() }
    }
}

/// A listening socket and the lock of its address.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) address: SocketAddr,
    pub(crate) listener: OwnedFd,
    pub(crate) lock: OwnedFd,
}

/// Everything that must not be closed while anybody serves.
#[derive(Debug)]
pub(crate) struct Holdings {
    pub(crate) folder: OwnedFd,
    pub(crate) admin: OwnedFd,
    pub(crate) held: Vec<Held>,
}

impl Holdings {
    pub(crate) fn describe(&self, holder_pid: Option<u32>) -> (Sockets, Vec<BorrowedFd<'_>>) {
        let mut fds = vec![self.folder.as_fd(), self.admin.as_fd()];
        fds.extend(self.held.iter().flat_map(|held| [held.listener.as_fd(), held.lock.as_fd()]));
        let addresses = self.held.iter().map(|held| held.address).collect();
        (Sockets { holder_pid, addresses, ..Sockets::default() }, fds)
    }

    pub(crate) fn from_message(sockets: Sockets, fds: Vec<OwnedFd>) -> Result<Self, ProxyError> {
        if let Some((kind, message)) = sockets.error {
            return Err(ProxyError::new(kind, message));
        }
        let expected = 2 + 2 * sockets.addresses.len();
        let got = fds.len();
        let mut fds = fds.into_iter();
        let (Some(folder), Some(admin)) = (fds.next(), fds.next()) else {
            return Err(ProxyError::new(ErrorKind::Protocol, "the sockets came without descriptors"));
        };
        let mut held = Vec::new();
        for address in sockets.addresses {
            let (Some(listener), Some(lock)) = (fds.next(), fds.next()) else {
                let text =
                    format!("expected {expected} descriptors, got {got}; is the descriptor limit reached?");
                return Err(ProxyError::new(ErrorKind::Protocol, text));
            };
            held.push(Held { address, listener, lock });
        }
        Ok(Self { folder, admin, held })
    }
}

/// Runs the holder until SIGTERM or SIGINT; call it from a process of its own.
///
/// The worker's death is repaired by a new worker while new connections wait in the kernel's queue. The holder's own
/// death leaves the worker serving; a new holder on the folder then takes over from it. SIGHUP replaces the worker by
/// one of the program as it now lies on disk: the old one goes once the new one serves, and no request is lost.
pub fn run_holder(options: HolderOptions) -> Result<(), ProxyError> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .map_err(|source| system("cannot start the holder", source))?;
    runtime.block_on(hold(options))
}

fn system(what: impl Into<String>, source: std::io::Error) -> ProxyError {
    ProxyError::io(ErrorKind::System, what, source)
}

async fn hold(options: HolderOptions) -> Result<(), ProxyError> {
    let dir = options.dir.clone();
    lock::private_folder(&dir)?;
    Store::new(&dir).refuse_newer()?;
    let (mut holdings, predecessor) = match lock::take(&dir.join(LOCK))? {
        Some(folder) => {
            let admin = bind_unix(&dir.join(ADMIN_SOCKET))?;
            lock::sign(&folder, &dir);
            (Holdings { folder: folder.into(), admin, held: Vec::new() }, None)
        }
        None => {
            let (holdings, handover) = take_over(&dir).await?;
            tracing::warn!(listeners = holdings.held.len(), "took over from an orphaned worker");
            if let Ok(folder) = holdings.folder.try_clone() {
                lock::sign(&File::from(folder), &dir);
            }
            (holdings, Some(handover))
        }
    };
    for (address, listener) in descriptors::given() {
        hold_given(&mut holdings, address, listener)?;
    }
    let remembered = match files::read::<Vec<SocketAddr>>(&dir.join(LISTENERS)) {
        files::Read::Good(remembered) => remembered,
        files::Read::Missing => Vec::new(),
        files::Read::Damaged(why) | files::Read::Newer(why) => {
            // The table names its listeners too; whoever needs another one asks for it again.
            tracing::error!(%why, "list of listeners is damaged");
            Vec::new()
        }
    };
    let remembered_fixed =
        remembered.iter().chain(options.listen.iter().filter(|address| address.port() != 0));
    for address in remembered_fixed {
        open(&mut holdings, *address)?;
    }
    // With port 0 an address of an earlier run serves: a restart must not move the listener.
    for address in options.listen.iter().filter(|address| address.port() == 0) {
        if !holdings.held.iter().any(|held| held.address.ip() == address.ip()) {
            open(&mut holdings, *address)?;
        }
    }
    holdings.held.iter().for_each(|held| descriptors::keep(held.address, held.listener.as_fd()));
    // Only now that all are open: a start that failed half way must not forget the rest.
    remember(&holdings, &dir);
    let workers = bind_unix(&dir.join(HOLDER_SOCKET))?;
    workers_nonblocking(&workers)?;
    let workers =
        UnixListener::from_std(workers.into()).map_err(|source| system("cannot serve the worker", source))?;
    let holdings = Rc::new(RefCell::new(holdings));
    let succession = Rc::new(Succession::default());
    if let Some(handover) = predecessor {
        succession.begin(handover);
    }
    let server = tokio::task::spawn_local(serve_workers(workers, holdings.clone(), succession.clone(), dir));
    let ended = supervise::keep_worker(&options, &succession).await;
    server.abort();
    ended
}

fn workers_nonblocking(socket: &OwnedFd) -> Result<(), ProxyError> {
    rustix::io::ioctl_fionbio(socket, true).map_err(|errno| system("cannot set up a socket", errno.into()))
}

fn bind_unix(path: &Path) -> Result<OwnedFd, ProxyError> {
    let failed = |source: std::io::Error| {
        let hint =
            if path.as_os_str().len() > 100 { "; its path is too long, choose a shorter folder" } else { "" };
        system(format!("cannot open socket {}{hint}", path.display()), source)
    };
    // We hold the folder's lock: a socket left here belongs to nobody.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    Ok(std::os::unix::net::UnixListener::bind(path).map_err(failed)?.into())
}

/// Holds a socket that was open before us. One of an orphaned worker is held already: it is the same.
fn hold_given(holdings: &mut Holdings, address: SocketAddr, listener: TcpListener) -> Result<(), ProxyError> {
    if !holdings.held.iter().any(|held| held.address == address) {
        let lock = lock::take_address(address)?.into();
        tracing::info!(%address, "listening on a socket that systemd kept or opened");
        holdings.held.push(Held { address, listener: listener.into(), lock });
    }
    Ok(())
}

/// Opens an address unless it is open; returns its index.
fn open(holdings: &mut Holdings, address: SocketAddr) -> Result<usize, ProxyError> {
    if let Some(at) = holdings.held.iter().position(|held| held.address == address) {
        return Ok(at);
    }
    if holdings.held.len() >= MAX_LISTENERS {
        return Err(ProxyError::new(
            ErrorKind::Address,
            format!("at most {MAX_LISTENERS} addresses can be open"),
        ));
    }
    let early = if address.port() == 0 { None } else { Some(lock::take_address(address)?) };
    let listener = listen(address).map_err(|source| {
        let what_to_do = match source.kind() {
            std::io::ErrorKind::AddrInUse => {
                "another program listens there: find it with `ss -ltnp`, or listen elsewhere"
            }
            std::io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege: choose a higher one",
            std::io::ErrorKind::AddrNotAvailable => "this machine does not have that address",
            _ => "see the cause",
        };
        ProxyError::io(ErrorKind::Address, format!("cannot listen on {address} ({what_to_do})"), source)
    })?;
    let bound =
        listener.local_addr().map_err(|source| system("cannot ask a socket for its address", source))?;
    let lock = match early {
        Some(lock) => lock,
        None => lock::take_address(bound)?,
    };
    holdings.held.push(Held { address: bound, listener: listener.into(), lock: lock.into() });
    Ok(holdings.held.len() - 1)
}

/// Writes the addresses down for the next holder.
fn remember(holdings: &Holdings, dir: &Path) {
    let addresses: Vec<SocketAddr> = holdings.held.iter().map(|held| held.address).collect();
    if let Err(error) = files::write(&dir.join(LISTENERS), &addresses, None) {
        // Serving comes first; only the next holder would not know an address.
        tracing::error!(%error, "listeners cannot be remembered");
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Only against TIME_WAIT; without SO_REUSEPORT a second listener is refused.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Asks an orphaned worker for its sockets; it goes on serving until it is told to go.
///
/// A holder asks its own worker likewise, to replace it.
pub(crate) async fn take_over(dir: &Path) -> Result<(Holdings, Handover), ProxyError> {
    let end = Instant::now() + TAKE_OVER;
    loop {
        match ask_for_all(dir).await {
            // A worker that is leaving took the question; the next one to take it is its successor.
            Err(error) if *error.kind() == ErrorKind::Closing && Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            answered => return answered,
        }
    }
}

async fn ask_for_all(dir: &Path) -> Result<(Holdings, Handover), ProxyError> {
    let asked = timeout(TAKE_OVER, async {
        let stream = UnixStream::connect(dir.join(ADMIN_SOCKET)).await?;
        let request = Request::Handover;
        fds::send(&stream, &Envelope { version: compat::since(&request), request }, &[]).await?;
        let answer = fds::receive::<Sockets>(&stream).await?;
        std::io::Result::Ok((stream, answer))
    });
    let Ok(Ok((stream, Some((sockets, fds))))) = asked.await else {
        let text = format!("folder {} is held by {}", dir.display(), lock::holder_of(&dir.join(LOCK)));
        return Err(ProxyError::new(ErrorKind::Locked, text));
    };
    let (leaving, lacks) = (sockets.leaving.clone(), sockets.lacks.clone());
    Ok((Holdings::from_message(sockets, fds)?, Handover { stream, leaving, lacks }))
}

async fn serve_workers(
    workers: UnixListener,
    holdings: Rc<RefCell<Holdings>>,
    succession: Rc<Succession>,
    dir: PathBuf,
) {
    loop {
        match workers.accept().await {
            Ok((stream, _)) if is_friend(&stream) => {
                tokio::task::spawn_local(serve_worker(
                    stream,
                    holdings.clone(),
                    succession.clone(),
                    dir.clone(),
                ));
            }
            Ok(_) => tracing::error!("another user tried to reach the holder"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Tells whether the peer runs as us or as root.
pub(crate) fn is_friend(stream: &UnixStream) -> bool {
    let me = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == me || peer.uid() == 0)
}

async fn serve_worker(
    stream: UnixStream,
    holdings: Rc<RefCell<Holdings>>,
    succession: Rc<Succession>,
    dir: PathBuf,
) {
    // The end of the stream is the worker's end, which its exit status tells better.
    while let Ok(Some((ask, _))) = fds::receive::<Ask>(&stream).await {
        let sent = match ask {
            Ask::Sockets => answer_all(&stream, &holdings, &succession).await,
            Ask::Open { address } => {
                let opened = open(&mut holdings.borrow_mut(), address);
                if let Ok(at) = opened {
                    let holdings = holdings.borrow();
                    descriptors::keep(holdings.held[at].address, holdings.held[at].listener.as_fd());
                }
                remember(&holdings.borrow(), &dir);
                answer_open(&stream, &holdings, opened).await
            }
            Ask::Ready => {
                // The new worker could accept: now, and not earlier, the old one may go.
                moment::reached("holder-hears-ready");
                let completed = succession.complete().await;
                moment::reached("holder-said-go");
                answer_ready(&stream, completed).await
            }
        };
        if let Err(error) = sent {
            tracing::error!(%error, "worker could not be answered");
            return;
        }
    }
}

async fn answer_all(
    stream: &UnixStream,
    holdings: &RefCell<Holdings>,
    succession: &Succession,
) -> std::io::Result<()> {
    // Copies, so that no borrow is held while the send waits.
    let copies = holdings.borrow().copy()?;
    let (mut message, fds) = copies.describe(Some(std::process::id()));
    message.leaving = succession.leaving();
    message.lacks = succession.lacks();
    fds::send(stream, &message, &fds).await
}

async fn answer_ready(
    stream: &UnixStream,
    completed: Result<Option<OwnedFd>, ProxyError>,
) -> std::io::Result<()> {
    match completed {
        Ok(turn) => {
            let fds: Vec<BorrowedFd<'_>> = turn.iter().map(AsFd::as_fd).collect();
            fds::send(stream, &Sockets::default(), &fds).await
        }
        Err(error) => fds::send(stream, &Sockets::refuse(&error), &[]).await,
    }
}

async fn answer_open(
    stream: &UnixStream,
    holdings: &RefCell<Holdings>,
    opened: Result<usize, ProxyError>,
) -> std::io::Result<()> {
    let copy = opened.map(|at| holdings.borrow().held[at].copy());
    match copy {
        Ok(held) => {
            let held = held?;
            let message = Sockets { addresses: vec![held.address], ..Sockets::default() };
            fds::send(stream, &message, &[held.listener.as_fd(), held.lock.as_fd()]).await
        }
        Err(error) => fds::send(stream, &Sockets::refuse(&error), &[]).await,
    }
}

impl Held {
    fn copy(&self) -> std::io::Result<Self> {
        Ok(Self { address: self.address, listener: self.listener.try_clone()?, lock: self.lock.try_clone()? })
    }
}

impl Holdings {
    pub(crate) fn copy(&self) -> std::io::Result<Self> {
        let held = self.held.iter().map(Held::copy).collect::<std::io::Result<_>>()?;
        Ok(Self { folder: self.folder.try_clone()?, admin: self.admin.try_clone()?, held })
    }
}
