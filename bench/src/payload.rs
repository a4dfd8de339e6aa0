//! Bodies whose every byte is known, sent whole or dripped over a while.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::grpc::Streamed;
use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

/// Returns the byte at a position; a piece that is lost, repeated or swapped shows.
pub(crate) fn byte_at(position: u64) -> u8 {
    ((position ^ (position >> 8) ^ (position >> 16)) % 251) as u8
}

fn piece(from: u64, length: u64) -> Bytes {
    let mut bytes = BytesMut::with_capacity(usize::try_from(length).unwrap_or(0));
    bytes.extend((from..from + length).map(byte_at));
    bytes.freeze()
}

/// Follows a body and tells whether it is the known one.
#[derive(Debug, Default)]
pub(crate) struct Follower {
    position: u64,
    wrong_at: Option<u64>,
}

impl Follower {
    /// Takes the next bytes.
    pub(crate) fn follow(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if *byte != byte_at(self.position) && self.wrong_at.is_none() {
                self.wrong_at = Some(self.position);
            }
            self.position += 1;
        }
    }

    /// Says what is wrong with a body that should have had `length` bytes.
    pub(crate) fn verdict(&self, length: u64) -> Result<(), String> {
        match (self.wrong_at, self.position) {
            (Some(at), _) => Err(format!("wrong body: byte {at} is not the one that was sent")),
            (None, seen) if seen != length => Err(format!("wrong body: {seen} of {length} bytes")),
            (None, _) => Ok(()),
        }
    }
}

/// A body.
pub(crate) enum Payload {
    Whole(Option<Bytes>),
    Drip(Drip),
    Streamed(Streamed),
}

/// A known body in pieces, one each `pause`.
pub(crate) struct Drip {
    position: u64,
    length: u64,
    piece: u64,
    pause: Duration,
    /// The length is announced; else the body is chunked.
    announced: bool,
    next: Pin<Box<Sleep>>,
}

impl Payload {
    /// Returns a body of `length` known bytes that takes about `span` to send.
    pub(crate) fn drip(length: u64, span: Duration, announced: bool) -> Payload {
        const PIECES: u32 = 16;
        Payload::Drip(Drip {
            position: 0,
            length,
            piece: length.div_ceil(u64::from(PIECES)).max(1),
            pause: span / PIECES,
            announced,
            next: Box::pin(sleep_until(Instant::now())),
        })
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Payload::Whole((!bytes.is_empty()).then_some(bytes))
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Payload::Whole(whole) => Poll::Ready(whole.take().map(|bytes| Ok(Frame::data(bytes)))),
            Payload::Streamed(streamed) => Pin::new(streamed).poll_frame(context),
            Payload::Drip(drip) => {
                if drip.position == drip.length {
                    return Poll::Ready(None);
                }
                if drip.next.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
                let length = drip.piece.min(drip.length - drip.position);
                let bytes = piece(drip.position, length);
                drip.position += length;
                drip.next.as_mut().reset(Instant::now() + drip.pause);
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Payload::Whole(whole) => whole.is_none(),
            Payload::Drip(drip) => drip.position == drip.length,
            Payload::Streamed(streamed) => streamed.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Payload::Whole(whole) => {
                SizeHint::with_exact(whole.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Payload::Drip(drip) if drip.announced => SizeHint::with_exact(drip.length - drip.position),
            Payload::Drip(_) | Payload::Streamed(_) => SizeHint::default(),
        }
    }
}
