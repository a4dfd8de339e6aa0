//! The worker: data threads that serve, and one control thread that changes what they serve.

use std::cell::{Cell, RefCell};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

use crate::access_file;
use crate::admin;
use crate::control::{Control, SharedControl};
use crate::crowd::Crowd;
use crate::error::{ErrorKind, ProxyError};
use crate::fds;
use crate::holder::{Ask, HOLDER_SOCKET, Held, Holdings, Sockets};
use crate::lock;
use crate::moment;
use crate::store::Store;
use crate::thread::{self, Command};
use crate::turn;

const TICK: Duration = Duration::from_millis(50);
const ANSWER: Duration = Duration::from_secs(5);

/// What a worker needs.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// Folder of its holder.
    pub dir: PathBuf,
    /// Threads that serve requests; 0: one per core.
    pub threads: usize,
    /// How long requests may go on after SIGTERM.
    pub grace: Duration,
}

impl WorkerOptions {
    /// Returns options with one thread per core and 30 s of grace.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), threads: 0, grace: Duration::from_secs(30) }
    }
}

/// The worker's end of its holder, and what both hold.
pub(crate) struct Worker {
    pub(crate) options: WorkerOptions,
    pub(crate) control: SharedControl,
    pub(crate) holdings: RefCell<Holdings>,
    holder: tokio::sync::Mutex<UnixStream>,
    pub(crate) holder_pid: Cell<Option<u32>>,
    /// Its turn to serve, until it is handed on.
    pub(crate) turn: RefCell<Option<OwnedFd>>,
    /// Its successor has the sockets: change nothing any more.
    pub(crate) handing_over: Cell<bool>,
    /// Wakes the admin socket's task when that begins.
    pub(crate) handing: Notify,
    pub(crate) quit: Notify,
    /// Workers before this one that still finish requests.
    pub(crate) leaving: Vec<u32>,
}

/// Runs a worker until SIGTERM, or until a successor has taken over; its holder starts it.
pub fn run_worker(options: WorkerOptions) -> Result<(), ProxyError> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .map_err(|source| system("cannot start the worker", source))?;
    runtime.block_on(work(options))
}

fn system(what: impl Into<String>, source: std::io::Error) -> ProxyError {
    ProxyError::io(ErrorKind::System, what, source)
}

async fn work(options: WorkerOptions) -> Result<(), ProxyError> {
    lock::private_folder(&options.dir)?;
    // Before it takes anything over: the worker before, which can read them, serves on.
    Store::new(&options.dir).refuse_newer()?;
    moment::reached("next-began");
    raise_descriptor_limit();
    let (wake, woken) = mpsc::channel(64);
    let (worker, admin) = prepare(options, wake).await?;
    worker.take_turn().await?;
    let control = &worker.control;
    control.adopt().await?;
    moment::reached("next-may-serve");
    worker.open().await?;
    moment::reached("next-opened");
    tracing::info!(threads = worker.options.threads, "worker serves");
    tokio::task::spawn_local(admin::accept(admin, worker.clone()));
    // Not joined: it waits for nothing but the next check, and ends with the process.
    tokio::task::spawn_local(control.clone().watch_targets());
    tokio::task::spawn_local(control.clone().pump());
    tokio::task::spawn_local(control.clone().keep_counts());
    // Not joined: whatever it is about to do lies on disk before it does it.
    #[cfg(feature = "acme")]
    tokio::task::spawn_local(control.clone().watch_acme(worker.clone()));
    moment::reached("next-serves");
    worker.serve(woken).await?;
    worker.leave().await;
    Ok(())
}

/// Gets the sockets and reads the table: all that does not disturb the worker before, should it fail.
async fn prepare(
    mut options: WorkerOptions,
    wake: mpsc::Sender<()>,
) -> Result<(Rc<Worker>, UnixListener), ProxyError> {
    if options.threads == 0 {
        options.threads = std::thread::available_parallelism().map_or(1, usize::from);
    }
    let holder = UnixStream::connect(options.dir.join(HOLDER_SOCKET)).await.map_err(|source| {
        system("cannot reach the holder; a worker is started by its holder only", source)
    })?;
    let (sockets, received) = ask(&holder, &Ask::Sockets).await?;
    let (holder_pid, leaving, lacks) = (sockets.holder_pid, sockets.leaving.clone(), sockets.lacks.clone());
    let holdings = Holdings::from_message(sockets, received)?;
    let admin = admin_listener(&holdings)?;
    moment::reached("next-has-sockets");
    let mut threads = Vec::new();
    let (crowd, inboxes) = Crowd::new(options.threads);
    for (index, inbox) in inboxes.into_iter().enumerate() {
        let crowd = crowd.clone();
        threads.push(
            thread::start(index, crowd, inbox).map_err(|source| system("cannot start a thread", source))?,
        );
    }
    let addresses = holdings.held.iter().map(|held| held.address).collect();
    let control = Rc::new(Control::new(Store::new(&options.dir), threads, wake, addresses));
    if let Some(lacks) = lacks {
        // Before anything is changed: the worker before, which has them, serves on.
        control.refuse_to_lose_certificates(&lacks)?;
    }
    control.boot().await?;
    moment::reached("next-booted");
    control.succeed(&leaving);
    let worker = Rc::new(Worker {
        options,
        control,
        holdings: RefCell::new(holdings),
        holder: tokio::sync::Mutex::new(holder),
        holder_pid: Cell::new(holder_pid),
        turn: RefCell::default(),
        handing_over: Cell::new(false),
        handing: Notify::new(),
        quit: Notify::new(),
        leaving,
    });
    worker.listen_everywhere().await?;
    moment::reached("next-listens");
    Ok((worker, admin))
}

async fn ask(holder: &UnixStream, ask: &Ask) -> Result<(Sockets, Vec<OwnedFd>), ProxyError> {
    let exchange = async {
        fds::send(holder, ask, &[]).await?;
        fds::receive::<Sockets>(holder).await
    };
    match timeout(ANSWER, exchange).await {
        Ok(Ok(Some(answer))) => Ok(answer),
        Ok(Ok(None)) => Err(ProxyError::new(ErrorKind::Interrupted, "the holder is gone")),
        Ok(Err(source)) => Err(ProxyError::io(ErrorKind::Interrupted, "the holder does not answer", source)),
        Err(_) => Err(ProxyError::new(ErrorKind::Timeout, "the holder does not answer")),
    }
}

fn admin_listener(holdings: &Holdings) -> Result<UnixListener, ProxyError> {
    let failed = |source| system("cannot serve the admin socket", source);
    let listener = std::os::unix::net::UnixListener::from(holdings.admin.try_clone().map_err(failed)?);
    listener.set_nonblocking(true).map_err(failed)?;
    UnixListener::from_std(listener).map_err(failed)
}

/// Every client and every target connection takes a descriptor or two; the soft limit is often 1024.
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "descriptor limit cannot be raised");
    }
}

impl Worker {
    /// Looks after the threads until a signal or a successor ends it.
    async fn serve(&self, mut woken: mpsc::Receiver<()>) -> Result<(), ProxyError> {
        let listen = |kind| signal(kind).map_err(|source| system("cannot listen for signals", source));
        let (mut term, mut int) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = term.recv() => return Ok(()),
                () = self.quit.notified() => return Ok(()),
                // A terminal's Ctrl-C reaches the holder too, which then asks for an orderly end.
                _ = int.recv() => continue,
                _ = woken.recv() => {}
                _ = tick.tick() => self.look_for_holder(),
            }
            if self.control.threads.iter().any(|thread| thread.commands.is_closed()) {
                // Half a worker would serve an old table for ever; the holder starts a whole one.
                return Err(ProxyError::new(ErrorKind::System, "a thread of the worker ended unexpectedly"));
            }
            if !self.handing_over.get() {
                self.control.tick().await;
                self.control.renew_certificates().await;
            }
        }
    }

    /// Finishes what is under way.
    async fn leave(&self) {
        self.handing_over.set(true);
        self.handing.notify_one();
        moment::reached("old-leaves");
        let control = &self.control;
        control.leaving.set(true);
        let grace = self.options.grace;
        let gone = control.ask_within(grace + Duration::from_secs(5), |done| Command::Quit { grace, done });
        tokio::select! {
            last = gone => control.write_counted(last.into_iter().flatten()),
            // Ends never: what this one still serves goes by what the successor is told.
            () = control.follow_successor() => {}
        }
        control.stop_following();
        access_file::flush();
    }

    async fn listen_everywhere(&self) -> Result<(), ProxyError> {
        let held: Vec<(SocketAddr, OwnedFd)> = {
            let holdings = self.holdings.borrow();
            let copies = holdings.held.iter().map(|held| Ok((held.address, held.listener.try_clone()?)));
            copies
                .collect::<std::io::Result<_>>()
                .map_err(|source| system("cannot copy a listener", source))?
        };
        for (address, listener) in held {
            self.accept_on(address, &listener).await?;
        }
        Ok(())
    }

    /// Asks to serve in place of the worker before.
    async fn take_turn(&self) -> Result<(), ProxyError> {
        let given = match ask(&*self.holder.lock().await, &Ask::Ready).await {
            Ok((Sockets { error: Some((kind, message)), .. }, _)) => {
                return Err(ProxyError::new(kind, message));
            }
            Ok((_, given)) => given.into_iter().next(),
            // The worker before may have been told to go already; the turn tells.
            Err(error) => {
                tracing::error!(%error, "holder died during an upgrade");
                None
            }
        };
        let turn = match given {
            Some(turn) => turn,
            None => turn::take(&self.options.dir).await?,
        };
        self.turn.replace(Some(turn));
        Ok(())
    }

    /// Lets every thread accept: until now a worker before this one may have served.
    async fn open(&self) -> Result<(), ProxyError> {
        let answers = self.control.ask(|done| Command::Open { done }).await;
        if answers.iter().any(Option::is_none) {
            return Err(ProxyError::new(ErrorKind::Unacknowledged, "a thread did not begin to accept"));
        }
        Ok(())
    }

    /// Prepares every thread to accept from one listener.
    async fn accept_on(&self, address: SocketAddr, listener: &OwnedFd) -> Result<(), ProxyError> {
        let failed = |source| system(format!("cannot accept on {address}"), source);
        rustix::io::ioctl_fionbio(listener, true).map_err(|errno| failed(errno.into()))?;
        let mut copies = Vec::new();
        for _ in &self.control.threads {
            copies.push(TcpListener::from(listener.as_fd().try_clone_to_owned().map_err(failed)?));
        }
        let copies = RefCell::new(copies);
        let answers = self
            .control
            .ask(|done| match copies.borrow_mut().pop() {
                Some(listener) => Command::Listen { address, listener, done },
                // One copy was made per thread.
                None => unreachable!("a copy of the listener per thread"),
            })
            .await;
        for answer in answers {
            match answer {
                Some(answer) => answer.map_err(failed)?,
                None => {
                    let text = format!("a thread did not start to accept on {address}");
                    return Err(ProxyError::new(ErrorKind::Unacknowledged, text));
                }
            }
        }
        self.control.add_listener(address);
        Ok(())
    }

    /// Has the holder open an address, and serves it.
    pub(crate) async fn listen(&self, address: SocketAddr) -> Result<SocketAddr, ProxyError> {
        if self.holdings.borrow().held.iter().any(|held| held.address == address) {
            return Ok(address);
        }
        let holder = self.holder.lock().await;
        let (sockets, fds) = ask(&holder, &Ask::Open { address }).await.map_err(|error| {
            let text = format!(
                "cannot open {address}: {}; run `cutover proxy` on the folder to give the worker a holder again",
                error.wire_message()
            );
            ProxyError::new(ErrorKind::Address, text)
        })?;
        if let Some((kind, message)) = sockets.error {
            return Err(ProxyError::new(kind, message));
        }
        let mut fds = fds.into_iter();
        let (Some(bound), Some(listener), Some(lock)) = (sockets.addresses.first(), fds.next(), fds.next())
        else {
            return Err(ProxyError::new(ErrorKind::Protocol, "the holder sent no listener"));
        };
        self.accept_on(*bound, &listener).await?;
        self.holdings.borrow_mut().held.push(Held { address: *bound, listener, lock });
        Ok(*bound)
    }

    /// Notes the holder's death: the worker serves on, and lets a new holder take over.
    fn look_for_holder(&self) {
        if self.holder_pid.get().is_none() {
            return;
        }
        let Ok(holder) = self.holder.try_lock() else { return };
        let mut byte = [0_u8; 1];
        let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
        let gone = match rustix::net::recv(holder.as_fd(), &mut byte[..], flags) {
            Ok((_, 0)) => true,
            Ok(_) => false,
            Err(errno) => errno != rustix::io::Errno::AGAIN && errno != rustix::io::Errno::INTR,
        };
        if gone {
            tracing::error!("holder died; the worker serves on, start a new holder on the folder");
            self.holder_pid.set(None);
        }
    }
}
