//! What systemd does for a holder, played by the test: it opens sockets, keeps them, and hands them on.

use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use cutover_proxy::Client;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::Signal;

use super::harness::{LIMIT, Proxy, kill_all_of, signal, table, track, until};
use super::upstream::Upstream;

/// Starts a holder as systemd does: the sockets are descriptors from 3 on, and the environment says how many.
fn start(dir: &Path, notify: &Path, sockets: &[OwnedFd]) -> Child {
    let moves: String =
        sockets.iter().enumerate().map(|(at, fd)| format!(" {}<&{}", at + 3, fd.as_raw_fd())).collect();
    let script = format!("export LISTEN_PID=$$; exec \"$0\" holder \"$1\" 1500{moves}");
    let mut command = Command::new("bash");
    command.arg("-c").arg(script).arg(env!("CARGO_BIN_EXE_cutover-proxy-test")).arg(dir);
    command.env("LISTEN_FDS", sockets.len().to_string()).env("NOTIFY_SOCKET", notify);
    command.arg0("bash").stdin(Stdio::null()).stderr(Stdio::null());
    for fd in sockets {
        // The shell is to have them: it moves them to where they belong.
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).unwrap();
    }
    let holder = command.spawn().unwrap();
    for fd in sockets {
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC).unwrap();
    }
    holder
}

/// Returns the sockets that the holder asked to be kept.
fn kept(store: &UnixDatagram, count: usize) -> Vec<OwnedFd> {
    let mut kept = Vec::new();
    while kept.len() < count {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut text = [0; 200];
        let slices = &mut [IoSliceMut::new(&mut text)];
        let read = recvmsg(store, slices, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap().bytes;
        assert!(text[..read].starts_with(b"FDSTORE=1\nFDNAME=127.0.0.1-"), "{text:?}");
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                kept.extend(fds);
            }
        }
    }
    kept
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn systemd_opens_the_sockets_and_keeps_them_while_the_holder_itself_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let store = UnixDatagram::bind(dir.path().join("notify")).unwrap();
    store.set_read_timeout(Some(LIMIT)).unwrap();
    let notify = dir.path().join("notify");
    let state = dir.path().join("state");
    let opened = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr: SocketAddr = opened.local_addr().unwrap();
    let holder = start(&state, &notify, &[opened.into()]);
    let client = Client::new(&state).with_deadline(LIMIT);
    until("a holder", || state.join("proxy.sock").exists().then_some(())).await;
    assert_eq!(client.hello().await.unwrap().listeners, [addr], "it listens where systemd does");
    let v1 = Upstream::start("v1").await;
    let folder = tempfile::tempdir().unwrap();
    let mut proxy = Proxy { dir: folder, holder, client, addr };
    proxy.set(0, &table(vec![track("v1", 10_000, &[v1.addr])])).await;
    // One more, which the server asks for, is kept as well.
    let other = proxy.client.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let sockets = kept(&store, 2);
    for round in 0..2 {
        assert_eq!(proxy.get("/id").await.text(), "v1", "{round}");
        // A restart: everything ends, and the sockets are still open.
        signal(proxy.holder.id(), Signal::TERM);
        until("the holder ends", || proxy.holder.try_wait().unwrap()).await;
        let waiting: Vec<TcpStream> = [addr, other]
            .iter()
            .map(|at| {
                let mut waiting = TcpStream::connect(at).expect("it waits, and is not refused");
                waiting.write_all(b"GET /id HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
                waiting.set_read_timeout(Some(LIMIT)).unwrap();
                waiting
            })
            .collect();
        proxy.holder = start(&state, &notify, &sockets);
        for mut waiting in waiting {
            let answered = tokio::task::spawn_blocking(move || {
                let mut text = String::new();
                waiting.read_to_string(&mut text).map(|_| text)
            });
            let text = answered.await.unwrap().expect("an answer");
            assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("v1"), "{text}");
        }
    }
    let mut listeners = proxy.client.hello().await.unwrap().listeners;
    listeners.sort();
    let mut wanted = vec![addr, other];
    wanted.sort();
    assert_eq!(listeners, wanted);
    kill_all_of(&state);
}
