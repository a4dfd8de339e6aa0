//! An upgraded connection: bytes pass both ways until one side ends it, or a drain does.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use http::HeaderValue;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::claim::Claim;
use crate::extended::Alive;
use crate::frames::{Frames, close_frame};
use crate::pool::next_id;

/// Close code: the server is going away.
const GOING_AWAY: u16 = 1001;
/// Close code: the server is restarting; its target died.
const RESTARTING: u16 = 1012;
/// How long the client has to answer a close frame, and a frame under way to end.
const CLOSE_GRACE: Duration = Duration::from_millis(1_000);
const BUFFER: usize = 16 << 10;

/// How the way to the client ended.
enum Down {
    /// The target ended it.
    Target,
    /// A close frame of ours was sent.
    Closed,
    /// The drain cut it without a close frame: not a WebSocket, or a frame that did not end.
    Cut,
    Failed,
}

/// Starts passing bytes once both sides have upgraded; `alive` is kept until the end.
pub(crate) fn spawn(
    claim: Claim,
    client: OnUpgrade,
    target: OnUpgrade,
    protocol: &HeaderValue,
    alive: Option<Alive>,
) {
    let websocket = protocol.as_bytes().eq_ignore_ascii_case(b"websocket");
    let holder = claim.target.clone();
    let id = next_id();
    let close = Rc::new(Notify::new());
    holder.tunnels.borrow_mut().insert(id, close.clone());
    tokio::task::spawn_local(async move {
        run(claim, client, target, websocket, &close).await;
        holder.tunnels.borrow_mut().remove(&id);
        holder.wake_drain();
        drop(alive);
    });
}

async fn run(claim: Claim, client: OnUpgrade, target: OnUpgrade, websocket: bool, close: &Notify) {
    // The client's side upgrades when the 101 is written; the limit is for a client that vanished before.
    let both = timeout(Duration::from_secs(10), async { (client.await, target.await) }).await;
    let Ok((Ok(client), Ok(target))) = both else { return };
    let ended = pass(client, target, websocket, close).await;
    match ended {
        Down::Closed if claim.target.leaves() => claim.finish_closed(),
        Down::Cut => claim.cut(),
        Down::Closed | Down::Target | Down::Failed => claim.finish(),
    }
}

async fn pass(client: Upgraded, target: Upgraded, websocket: bool, close: &Notify) -> Down {
    let (mut from_client, mut to_client) = tokio::io::split(TokioIo::new(client));
    let (mut from_target, mut to_target) = tokio::io::split(TokioIo::new(target));
    let up_frames = RefCell::new(Frames::default());
    // Set once a close frame of ours is out: the client's answer then ends the tunnel.
    let closing = Cell::new(false);
    let mut up = std::pin::pin!(upward(&mut from_client, &mut to_target, &up_frames, websocket, &closing));
    let mut down = std::pin::pin!(downward(&mut from_target, &mut to_client, websocket, close, &closing));
    tokio::select! {
        ended = &mut down => {
            if matches!(ended, Down::Closed | Down::Target) {
                // The answer of the client; whoever does not answer in time is closed without it.
                let _ = timeout(CLOSE_GRACE, up).await;
            }
            ended
        }
        _ = &mut up => {
            // A WebSocket client that ends its side is gone; other protocols may still be owed an answer.
            if websocket {
                timeout(CLOSE_GRACE, down).await.unwrap_or(Down::Target)
            } else {
                down.await
            }
        }
    }
}

async fn upward(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    frames: &RefCell<Frames>,
    websocket: bool,
    closing: &Cell<bool>,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    // The target may be gone while the client's answer to our close frame is still to be read.
    let mut open = true;
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            break;
        }
        if websocket {
            frames.borrow_mut().follow(&buffer[..count], false);
        }
        if open && let Err(error) = to.write_all(&buffer[..count]).await {
            if !closing.get() {
                return Err(error);
            }
            open = false;
        }
        if closing.get() && frames.borrow().closed() {
            break;
        }
    }
    to.shutdown().await
}

async fn downward(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    websocket: bool,
    close: &Notify,
    closing: &Cell<bool>,
) -> Down {
    let mut buffer = vec![0; BUFFER];
    let mut frames = Frames::default();
    loop {
        let count = tokio::select! {
            biased;
            () = close.notified() => {
                if !websocket {
                    return Down::Cut;
                }
                let rest = timeout(CLOSE_GRACE, finish_frame(from, to, &mut frames, &mut buffer)).await;
                if !matches!(rest, Ok(Ok(()))) {
                    return Down::Cut;
                }
                return say_close(to, GOING_AWAY, "the server is going away", &frames, closing).await;
            }
            read = from.read(&mut buffer) => match read {
                Ok(count) => count,
                Err(_) if websocket => 0,
                Err(_) => return Down::Failed,
            },
        };
        if count == 0 {
            if websocket && !frames.closed() && frames.at_boundary() {
                return say_close(to, RESTARTING, "the server ended the connection", &frames, closing).await;
            }
            // Nothing more is owed to the client; it learns so by the end of the stream.
            let _ = to.shutdown().await;
            return Down::Target;
        }
        if websocket {
            frames.follow(&buffer[..count], false);
        }
        let mut written = std::pin::pin!(to.write_all(&buffer[..count]));
        let done = tokio::select! {
            biased;
            done = written.as_mut() => done,
            // A client that reads nothing must not outlive the drain.
            () = close.notified() => match timeout(CLOSE_GRACE, written).await {
                Ok(done) => {
                    close.notify_one();
                    done
                }
                Err(_) => return Down::Cut,
            },
        };
        if done.is_err() {
            return Down::Failed;
        }
    }
}

/// Passes the rest of a frame that is under way, and nothing after it.
async fn finish_frame(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    frames: &mut Frames,
    buffer: &mut [u8],
) -> io::Result<()> {
    while !frames.at_boundary() {
        let count = from.read(buffer).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let rest = frames.follow(&buffer[..count], true);
        to.write_all(&buffer[..rest]).await?;
    }
    Ok(())
}

async fn say_close(
    to: &mut (impl AsyncWrite + Unpin),
    code: u16,
    why: &str,
    frames: &Frames,
    closing: &Cell<bool>,
) -> Down {
    closing.set(true);
    if !frames.closed() {
        let frame = close_frame(code, why);
        if !matches!(timeout(CLOSE_GRACE, to.write_all(&frame)).await, Ok(Ok(()))) {
            return Down::Cut;
        }
    }
    let _ = to.flush().await;
    Down::Closed
}
