//! Copies of safe requests for the candidate: its answers are compared to those of stable and thrown away.
//!
//! Nobody waits for a copy, and nothing of it reaches a client: it is counted in an arm of its own, which no guard judges.
//! A thread has few of them at a time; what is too much is not copied.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use http::header::HeaderName;
use http::{HeaderValue, Method, Request};
use tokio::time::timeout;

use crate::assets::read_off;
use crate::body::UpBody;
use crate::cells::ArmCell;
use crate::claim::Claim;
use crate::forward::{Attempt, Sending, attempt, copy, keep_of};
use crate::route::{Router, Wish};
use crate::table::WHOLE;

/// Request header of a copy: a service that counts or writes on a GET can tell.
pub const MIRROR_HEADER: &str = "x-cutover-mirror";
/// Most copies that a thread has under way.
const MOST: u64 = 32;
/// How long a copy may take, its body included.
const PATIENCE: Duration = Duration::from_secs(10);
/// A copy that takes so much longer than twice the answer that the client got was clearly slower.
const MUCH_SLOWER_US: u64 = 10_000;
/// The body of an answer is read up to here; a longer one ends its connection.
const WORTH_READING: usize = 1 << 20;

/// Both answers to one request; whichever comes last compares.
#[derive(Debug)]
pub(crate) struct Pair {
    arm: Rc<ArmCell>,
    first: Cell<Option<Seen>>,
}

/// What is seen of one of the answers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) status: u16,
    pub(crate) latency_us: u64,
    /// It is the copy's.
    pub(crate) copy: bool,
}

impl Pair {
    /// Notes one of the answers.
    pub(crate) fn answered(&self, seen: Seen) {
        let Some(other) = self.first.replace(Some(seen)) else { return };
        let (copy, original) = if seen.copy { (seen, other) } else { (other, seen) };
        let mut counts = self.arm.counts.borrow_mut();
        counts.mirror_compared += 1;
        counts.mirror_differs += u64::from(copy.status != original.status);
        counts.mirror_latency_us += copy.latency_us;
        counts.mirrored_latency_us += original.latency_us;
        let much = original.latency_us.saturating_mul(2).saturating_add(MUCH_SLOWER_US);
        counts.mirror_slower += u64::from(copy.latency_us > much);
    }
}

/// Counts a copy for as long as it is under way.
struct UnderWay(Rc<Router>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.mirrors.set(self.0.mirrors.get().saturating_sub(1));
    }
}

/// Sends a copy of a request that goes to another revision, if it is safe and its turn; returns where the first answer
/// is noted.
pub(crate) fn begin<B>(
    router: &Rc<Router>,
    wish: &Wish,
    original: &Request<B>,
    share_bp: u16,
) -> Option<Rc<Pair>> {
    let safe = matches!(*original.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let room = router.mirrors.get() < MOST;
    if !safe || !room || fastrand::u16(..WHOLE) >= share_bp {
        return None;
    }
    let claim = router.claim_mirror(wish)?;
    let mut request = copy(original.method(), original.uri(), original.headers());
    request.headers_mut().insert(HeaderName::from_static(MIRROR_HEADER), HeaderValue::from_static("1"));
    router.mirrors.set(router.mirrors.get() + 1);
    let (pair, under_way) =
        (Rc::new(Pair { arm: claim.arm.clone(), first: Cell::new(None) }), UnderWay(router.clone()));
    let theirs = pair.clone();
    tokio::task::spawn_local(async move {
        let _counted = under_way;
        send(claim, request, &theirs).await;
    });
    Some(pair)
}

async fn send(mut claim: Claim, request: Request<UpBody>, pair: &Pair) {
    let sending = Sending { repeatable: true, response_timeout: Some(PATIENCE), ..Sending::default() };
    let (response, conn) = match attempt(&claim, &mut Some(request), &sending, &mut None).await {
        Attempt::Answered(response, conn) => (response, conn),
        Attempt::Unsent(reason) | Attempt::Lost(reason) => {
            claim.fail(reason);
            return;
        }
    };
    claim.head(response.status().as_u16());
    let latency_us = u64::try_from(claim.started.elapsed().as_micros()).unwrap_or(u64::MAX);
    pair.answered(Seen { status: response.status().as_u16(), latency_us, copy: true });
    let keep = keep_of(response.headers());
    match timeout(PATIENCE, read_off(response.into_body(), WORTH_READING)).await {
        Ok(true) => {
            claim.finish();
            conn.give_back(keep);
        }
        // Too long to be read for nobody.
        Ok(false) | Err(_) => claim.pass_over(),
    }
}
