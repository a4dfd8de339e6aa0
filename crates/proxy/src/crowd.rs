//! How many connections each thread has, and who takes a new one.
//!
//! All threads accept from the same sockets, and the kernel wakes whichever it likes: one may end up with most of the
//! connections while others sleep, and its clients wait for each other. So a thread that has clearly more than another one
//! hands a new connection on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::forward::From;

/// Connections that may be on their way to a thread; beyond it they stay where they were accepted.
const ON_THE_WAY: usize = 256;
/// How many more than another thread one may have: to hand a connection on costs a few microseconds.
const UNEVEN: usize = 2;

/// The threads of a worker.
#[derive(Debug)]
pub(crate) struct Crowd(Box<[Place]>);

#[derive(Debug)]
struct Place {
    connections: AtomicUsize,
    inbox: mpsc::Sender<Handed>,
}

/// A connection on its way to another thread. It counts there already.
#[derive(Debug)]
pub(crate) struct Handed {
    pub(crate) stream: std::net::TcpStream,
    pub(crate) from: From,
}

/// What hands a thread the connections that others accepted for it.
pub(crate) type Inbox = mpsc::Receiver<Handed>;

impl Crowd {
    /// Makes places for so many threads.
    pub(crate) fn new(threads: usize) -> (Arc<Self>, Vec<Inbox>) {
        let (mut places, mut inboxes) = (Vec::new(), Vec::new());
        for _ in 0..threads {
            let (inbox, receiver) = mpsc::channel(ON_THE_WAY);
            places.push(Place { connections: AtomicUsize::new(0), inbox });
            inboxes.push(receiver);
        }
        (Arc::new(Self(places.into())), inboxes)
    }

    /// Returns how many threads there are.
    pub(crate) fn threads(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn joined(&self, thread: usize) {
        self.0[thread].connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn left(&self, thread: usize) {
        self.0[thread].connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// Hands a connection that `thread` accepted to one that has clearly fewer; returns it if it stays.
    pub(crate) fn share(&self, thread: usize, stream: TcpStream, from: From) -> Option<TcpStream> {
        let has = |at: usize| self.0[at].connections.load(Ordering::Relaxed);
        let Some(least) = (0..self.0.len()).min_by_key(|at| has(*at)) else { return Some(stream) };
        if has(thread) < has(least) + UNEVEN {
            return Some(stream);
        }
        // A thread that leaves takes nothing more.
        let Ok(permit) = self.0[least].inbox.try_reserve() else { return Some(stream) };
        match stream.into_std() {
            Ok(stream) => {
                self.joined(least);
                permit.send(Handed { stream, from });
            }
            Err(error) => tracing::error!(%error, "a connection is lost between two threads"),
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_thread_with_clearly_fewer_gets_the_next() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let listen = listener.local_addr().expect("an address");
        let (crowd, mut inboxes) = Crowd::new(2);
        let mut clients = Vec::new();
        for taken in 0..12 {
            clients.push(TcpStream::connect(listen).await.expect("a connection"));
            let (stream, peer) = listener.accept().await.expect("a connection");
            // All are accepted by the first.
            if crowd.share(0, stream, From { peer, listener: listen, secure: false }).is_some() {
                crowd.joined(0);
            }
            let had: Vec<_> = crowd.0.iter().map(|place| place.connections.load(Ordering::Relaxed)).collect();
            assert_eq!(had.iter().sum::<usize>(), taken + 1);
            assert!(had[0].abs_diff(had[1]) <= UNEVEN, "{had:?}");
        }
        // One that leaves gets none, and nothing is lost.
        inboxes[1].close();
        for _ in 0..4 {
            clients.push(TcpStream::connect(listen).await.expect("a connection"));
            let (stream, peer) = listener.accept().await.expect("a connection");
            assert!(crowd.share(0, stream, From { peer, listener: listen, secure: false }).is_some());
            crowd.joined(0);
        }
        let mut handed = 0;
        while inboxes[1].recv().await.is_some() {
            handed += 1;
        }
        assert_eq!(handed, 5);
    }
}
