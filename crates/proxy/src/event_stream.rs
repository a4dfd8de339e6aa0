//! Server-sent events under way: a drain ends them between two events, and the client comes back by itself.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use tokio::sync::Notify;

use crate::cells::TargetCell;
use crate::pool::next_id;

/// One response with events.
pub(crate) struct EventStream {
    id: u64,
    target: Rc<TargetCell>,
    /// Asked for by a drain.
    close: Pin<Box<dyn Future<Output = ()>>>,
    closing: bool,
    /// The last bytes that were passed on.
    tail: [u8; 3],
}

impl std::fmt::Debug for EventStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventStream").field("id", &self.id).field("closing", &self.closing).finish()
    }
}

impl EventStream {
    /// Returns one for a response that says it has events.
    pub(crate) fn of(headers: &HeaderMap, target: &Rc<TargetCell>) -> Option<Box<Self>> {
        let kind = headers.get(CONTENT_TYPE)?.as_bytes();
        let kind = kind.split(|byte| *byte == b';').next()?.trim_ascii();
        // Where one event ends is not to be seen in a coded stream.
        if !kind.eq_ignore_ascii_case(b"text/event-stream") || headers.contains_key(CONTENT_ENCODING) {
            return None;
        }
        let (id, close) = (next_id(), Rc::new(Notify::new()));
        target.event_streams.borrow_mut().insert(id, close.clone());
        let close = Box::pin(async move { close.notified().await });
        Some(Box::new(Self { id, target: target.clone(), close, closing: false, tail: *b"\n\n\n" }))
    }

    /// Tells whether it ends here: a drain asked for it, and no event is under way.
    pub(crate) fn ends(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.closing {
            self.closing = matches!(self.close.as_mut().poll(cx), Poll::Ready(()));
        }
        self.closing && self.is_between()
    }

    /// Notes what was passed on.
    pub(crate) fn passed(&mut self, data: &[u8]) {
        for byte in &data[data.len().saturating_sub(self.tail.len())..] {
            self.tail.rotate_left(1);
            self.tail[2] = *byte;
        }
    }

    /// An empty line ends an event, whatever ends its lines (WHATWG HTML, 9.2.6).
    fn is_between(&self) -> bool {
        matches!(self.tail, [_, b'\n', b'\n'] | [_, b'\r', b'\r'] | [b'\n', b'\r', b'\n'])
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.target.event_streams.borrow_mut().remove(&self.id);
        self.target.wake_drain();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cells::RevisionCell;

    #[test]
    fn it_ends_between_events_only() {
        let revision = Rc::new(RevisionCell::new("shop".into(), "v1".into()));
        let target = Rc::new(TargetCell::new("127.0.0.1:1".parse().unwrap(), revision, Rc::default()));
        let headers = |kind: &'static str| HeaderMap::from_iter([(CONTENT_TYPE, kind.parse().unwrap())]);
        assert!(EventStream::of(&headers("text/html"), &target).is_none());
        let mut coded = headers("text/event-stream");
        coded.insert(CONTENT_ENCODING, "gzip".parse().unwrap());
        assert!(EventStream::of(&coded, &target).is_none(), "a blank line in it is chance");
        let mut stream = EventStream::of(&headers("text/event-stream; charset=utf-8"), &target).unwrap();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(!stream.ends(&mut cx), "nobody asked");
        target.event_streams.borrow().values().for_each(|close| close.notify_one());
        for (passed, ends) in [
            ("data: a\n\n", true),
            ("data: b", false),
            ("\n", false),
            ("\n", true),
            ("data: c\r\n\r\n", true),
            (": d\r", false),
            ("\r", true),
        ] {
            stream.passed(passed.as_bytes());
            assert_eq!(stream.ends(&mut cx), ends, "{passed:?}");
        }
        drop(stream);
        assert!(target.event_streams.borrow().is_empty());
    }
}
