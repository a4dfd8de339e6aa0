//! Asset bridging: a static file that one revision does not have is asked of the others in the table.
//!
//! During a release a page of one revision asks for its script while requests go to another revision, which has never
//! heard of it. Only GET and HEAD without a body below the given prefixes are asked again, and only when the first
//! answer is 404 or 410. That answer waits, unread, and is passed on when nobody has the file.

use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, Uri};
use http_body::Body;
use hyper::body::Incoming;

use crate::body::UpBody;
use crate::forward::{Answered, Attempt, Sending, attempt, copy, keep_of};
use crate::route::Router;

/// Most revisions that are asked after the first: there are hardly ever more than four at once.
const MOST_OTHERS: usize = 3;
/// How long another revision may take to answer: the client waits for a plain 404 meanwhile.
const PATIENCE: Duration = Duration::from_secs(2);
/// The body of an answer that the client does not get is read up to here, to keep its connection.
const WORTH_READING: usize = 64 << 10;
const READING: Duration = Duration::from_secs(1);

/// Tells whether a request is for a static file below one of the prefixes.
pub(crate) fn is_asset(method: &Method, uri: &Uri, prefixes: &[String]) -> bool {
    if prefixes.is_empty() || !matches!(*method, Method::GET | Method::HEAD) {
        return false;
    }
    let path = uri.path();
    // A path that a server could take for one outside of the prefix is none of ours.
    prefixes.iter().any(|prefix| path.starts_with(prefix.as_str())) && !path.split('/').any(climbs)
}

/// Tells whether a segment could mean a folder above, or hides where it ends.
fn climbs(segment: &str) -> bool {
    let plain = segment.to_ascii_lowercase().replace("%2e", ".");
    plain == "." || plain == ".." || plain.contains("%2f") || plain.contains("%5c") || plain.contains('\\')
}

/// Tells whether a revision says that it does not have the file.
pub(crate) fn is_missing(response: &Response<Incoming>) -> bool {
    matches!(response.status(), StatusCode::NOT_FOUND | StatusCode::GONE)
}

/// Asks the other revisions one after the other; returns the first that has the file, else `first`.
pub(crate) async fn ask_others(
    router: &Rc<Router>,
    service: &str,
    request: &Request<UpBody>,
    mut first: Answered,
) -> Answered {
    // Scored now: what the others do says nothing about the revision that was chosen.
    first.claim.head(first.response.status().as_u16());
    let sending = Sending { repeatable: true, response_timeout: Some(PATIENCE), ..Sending::default() };
    let mut asked = vec![first.claim.revision.revision.clone()];
    for _ in 0..MOST_OTHERS {
        let Some(mut claim) = router.claim_other(service, &asked) else { break };
        asked.push(claim.revision.revision.clone());
        let again = copy(request.method(), request.uri(), request.headers());
        match attempt(&claim, &mut Some(again), &sending, &mut None).await {
            Attempt::Answered(response, conn) => {
                claim.head(response.status().as_u16());
                let answered = Answered { response, conn, claim, bridged: true };
                if has_it(answered.response.status()) {
                    pass_over(first);
                    return answered;
                }
                pass_over(answered);
            }
            Attempt::Unsent(..) | Attempt::Lost(_) => claim.pass_over(),
        }
    }
    first
}

fn has_it(status: StatusCode) -> bool {
    status.is_success() || status.is_redirection()
}

/// Ends an answer that nobody gets. Its connection is kept if the rest of its body is short.
fn pass_over(answered: Answered) {
    let Answered { response, conn, claim, .. } = answered;
    let keep = keep_of(response.headers());
    let body = response.into_body();
    if body.is_end_stream() {
        claim.pass_over();
        return conn.give_back(keep);
    }
    tokio::task::spawn_local(async move {
        if let Ok(true) = tokio::time::timeout(READING, read_off(body, WORTH_READING)).await {
            conn.give_back(keep);
        }
        claim.pass_over();
    });
}

/// Reads a body of at most `left` bytes to its end.
pub(crate) async fn read_off(mut body: Incoming, mut left: usize) -> bool {
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let Ok(frame) = frame else { return false };
        let length = frame.data_ref().map_or(0, bytes::Bytes::len);
        if length > left {
            return false;
        }
        left -= length;
    }
    true
}
