//! A stream that was read a little ahead of its time: what was read comes first, then the stream itself.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes read at once before the protocol is known: a request head mostly fits.
const AHEAD: usize = 4 << 10;

/// A stream with the bytes that were read from it already.
#[derive(Debug)]
pub(crate) struct Rewind<I> {
    inner: I,
    ahead: Vec<u8>,
    /// Bytes of `ahead` that were read again.
    at: usize,
}

impl<I: AsyncRead + Unpin> Rewind<I> {
    pub(crate) fn new(inner: I) -> Self {
        Self { inner, ahead: Vec::new(), at: 0 }
    }

    /// What was read ahead and is not consumed.
    pub(crate) fn ahead(&self) -> &[u8] {
        &self.ahead[self.at..]
    }

    /// Takes what was read ahead for read.
    pub(crate) fn consume(&mut self, count: usize) {
        self.at = self.ahead.len().min(self.at + count);
        if self.at == self.ahead.len() {
            (self.ahead, self.at) = (Vec::new(), 0);
        }
    }

    /// Reads more ahead; returns how much, 0 at the end of the stream.
    ///
    /// # Cancel safety
    /// What was read is kept: dropping the future loses nothing.
    pub(crate) async fn read_ahead(&mut self) -> io::Result<usize> {
        std::future::poll_fn(|cx| {
            // Not kept by the future: a connection that waits for its first byte costs no buffer.
            let mut scratch = [std::mem::MaybeUninit::uninit(); AHEAD];
            let mut buffer = ReadBuf::uninit(&mut scratch);
            ready!(Pin::new(&mut self.inner).poll_read(cx, &mut buffer))?;
            self.ahead.extend_from_slice(buffer.filled());
            Poll::Ready(Ok(buffer.filled().len()))
        })
        .await
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Rewind<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buffer);
        }
        let end = self.ahead.len().min(self.at + buffer.remaining());
        buffer.put_slice(&self.ahead[self.at..end]);
        let read = end - self.at;
        self.consume(read);
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Rewind<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
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
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
