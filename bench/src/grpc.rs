//! A call of gRPC as bytes: messages that come back one by one, and at the end the status in trailers.

use std::convert::Infallible;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::stream::poll_fn;
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::sync::mpsc;

/// The path of the call.
pub(crate) const CALL: &str = "/bench.Bench/Echo";
pub(crate) const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");
/// Trailer: the outcome, 0 for success.
pub(crate) const STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// Trailer: how many messages the service got.
pub(crate) const MESSAGES: HeaderName = HeaderName::from_static("x-messages");
const HEAD: usize = 5;

/// A body that is still being written.
pub(crate) type Streamed = BoxBody<Bytes, Infallible>;

/// Returns a message on the wire: not compressed, its length, itself.
pub(crate) fn framed(message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(HEAD + message.len());
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    bytes.put(message);
    bytes.freeze()
}

/// Finds messages in what comes.
#[derive(Debug, Default)]
pub(crate) struct Unframed(BytesMut);

impl Unframed {
    /// Takes the next bytes.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Returns the next whole message.
    pub(crate) fn next(&mut self) -> Option<Bytes> {
        let length = self.0.get(1..HEAD)?.try_into().map(u32::from_be_bytes).ok()? as usize;
        if self.0.len() < HEAD + length {
            return None;
        }
        self.0.advance(HEAD);
        Some(self.0.split_to(length).freeze())
    }

    /// Tells whether part of a message is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Returns a body and what is to be sent in it.
pub(crate) fn streamed() -> (mpsc::Sender<Frame<Bytes>>, Streamed) {
    let (sender, mut receiver) = mpsc::channel(1);
    let frames = poll_fn(move |cx| receiver.poll_recv(cx).map(|frame| frame.map(Ok)));
    (sender, BoxBody::new(StreamBody::new(frames)))
}

/// Sends each message back as it comes.
pub(crate) fn echo(mut body: Incoming) -> Streamed {
    let (sender, streamed) = streamed();
    tokio::spawn(async move {
        let (mut unframed, mut count) = (Unframed::default(), 0_u64);
        let mut whole = true;
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else {
                whole = false;
                break;
            };
            unframed.add(frame.data_ref().map_or(&[], |data| &data[..]));
            while let Some(message) = unframed.next() {
                count += 1;
                if sender.send(Frame::data(framed(&message))).await.is_err() {
                    return;
                }
            }
        }
        let mut trailers = HeaderMap::new();
        let status = if whole && unframed.is_empty() { "0" } else { "13" };
        trailers.insert(STATUS, HeaderValue::from_static(status));
        trailers.insert(MESSAGES, HeaderValue::from(count));
        // Who has gone needs no trailers.
        let _ = sender.send(Frame::trailers(trailers)).await;
    });
    streamed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_however_they_are_cut() {
        let wire = [framed(b"one"), framed(b""), framed(b"three")].concat();
        for cut in 0..wire.len() {
            let (mut unframed, mut found) = (Unframed::default(), Vec::new());
            for piece in [&wire[..cut], &wire[cut..]] {
                unframed.add(piece);
                while let Some(message) = unframed.next() {
                    found.push(message);
                }
            }
            assert_eq!(found, ["one", "", "three"]);
            assert!(unframed.is_empty());
        }
    }
}
