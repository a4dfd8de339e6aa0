//! A client that takes too little of what is sent to it: its connection ends, for somebody else could use what it holds.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::upload::{Pace, Slowness};

/// What every client must take while something waits for it: one byte in 5 minutes, as long as a video is paused.
pub(crate) const PATIENCE: Pace = Pace { bytes: 1, within_ms: 300_000 };

/// A client's stream, with an eye on how much it takes while the proxy waits for it.
#[derive(Debug)]
pub(crate) struct Paced<I> {
    inner: I,
    pace: Pace,
    /// None until it let us wait for the first time.
    slowness: Option<Box<Slowness>>,
}

impl<I> Paced<I> {
    pub(crate) fn new(inner: I, pace: Pace) -> Self {
        Self { inner, pace, slowness: None }
    }

    fn look(&mut self, polled: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let taken = match &polled {
            Poll::Ready(Ok(bytes)) if self.slowness.is_some() => Some(*bytes as u64),
            Poll::Ready(_) => return polled,
            Poll::Pending => None,
        };
        let slowness = self.slowness.get_or_insert_default();
        if slowness.is_too_slow(self.pace, taken, Instant::now(), cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        polled
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Paced<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Paced<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.look(polled, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.look(polled, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
