//! One request: find its service, claim a target, send, pass the response.

use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use http::header::{CONNECTION, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use crate::access::Entry;
use crate::acme;
use crate::assets;
use crate::body::{DownBody, UpBody, Upload};
use crate::claim::Claim;
use crate::clients::forwarded_for;
use crate::count::Arm;
use crate::event_stream::EventStream;
use crate::exhausted::EXHAUSTED;
use crate::extended::{self, Alive};
use crate::framing::ambiguous;
use crate::grpc::{self, Ends};
use crate::headers;
use crate::mirror::{self, Pair};
use crate::multiplex;
use crate::passing::{Told, identify};
use crate::pool::{self, Answer, Conn, KEEP_IDLE, Needs, SendFailure};
use crate::preview;
use crate::readiness;
use crate::redirect::redirect;
use crate::refusal::{Refusal, lost, reason_of, what};
use crate::route::{MAX_ATTEMPTS, Router, Tried, Wish};
use crate::sticky;
use crate::tunnel;
use crate::wait;

/// Response header of an asset that came from another revision than the one that the request was given to.
pub const BRIDGED_HEADER: &str = "x-cutover-bridged";

/// A request in its place is taken once, by who sends it, and put back when nothing was sent.
const THERE: &str = "the request is in its place until it is sent";

/// The connection a request came on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct From {
    pub(crate) peer: SocketAddr,
    pub(crate) listener: SocketAddr,
    /// It came by TLS.
    pub(crate) secure: bool,
}

/// What an attempt came to.
pub(crate) enum Attempt {
    Answered(Response<Incoming>, Conn),
    /// Nothing was sent, and the request is back where it was: another target may take it, whatever it is.
    Unsent(&'static str),
    /// The request may have reached the target.
    Lost(&'static str),
}

#[derive(Default)]
pub(crate) struct Sending {
    pub(crate) upload: Option<Rc<Upload>>,
    /// May be sent twice: idempotent and without a body.
    pub(crate) repeatable: bool,
    pub(crate) upgrade: bool,
    /// The client asks for the upgrade by a stream of HTTP/2.
    pub(crate) extended: Option<Alive>,
    pub(crate) response_timeout: Option<Duration>,
}

/// A request on its way to a target, with what is needed to ask another one.
struct UnderWay {
    /// Taken by each attempt, and back if nothing of it was sent.
    request: Option<Request<UpBody>>,
    /// Copy of a request that may be sent twice.
    spare: Option<Request<UpBody>>,
    /// Copy of a request for a static file that any revision may have.
    asset: Option<Box<Request<UpBody>>>,
    sending: Sending,
    /// The client's side of an upgrade.
    client: Option<OnUpgrade>,
    mirrored: Option<Rc<Pair>>,
}

/// A response whose head is there, with the claim and the connection that its body still holds.
pub(crate) struct Answered {
    pub(crate) response: Response<Incoming>,
    pub(crate) conn: Conn,
    pub(crate) claim: Claim,
    /// It comes from another revision than the one that was chosen.
    pub(crate) bridged: bool,
}

/// Serves one request. Never fails: what goes wrong becomes a response.
pub(crate) async fn forward(
    router: Rc<Router>,
    request: Request<Incoming>,
    from: From,
    extended: Option<Alive>,
) -> Response<DownBody> {
    // Handed on in its place: each future that took it by value would hold it twice, and be moved with it.
    let mut request = Some(request);
    let mut told = Told::default();
    // Taken by the claim whose response is passed on; what is left here was answered by the proxy itself.
    let mut log = None;
    let mut response = serve(&router, &mut request, from, extended, &mut told, &mut log).await;
    if let Some(unread) = request {
        // Dropped as the body it would have been, so that the client can send it and then read the refusal.
        let version = unread.version();
        drop(UpBody::new(unread.into_body(), version));
    }
    told.tell(response.headers_mut());
    if let Some(mut log) = log {
        log.status = Some(response.status().as_u16());
        log.reason = reason_of(&response);
        log.bytes = http_body::Body::size_hint(response.body()).exact().unwrap_or(0);
        log.whole = true;
    }
    response
}

/// Takes the request only to send it: what is refused is left to the caller.
async fn serve(
    router: &Rc<Router>,
    asked: &mut Option<Request<Incoming>>,
    from: From,
    extended: Option<Alive>,
    told: &mut Told,
    log: &mut Option<Box<Entry>>,
) -> Response<DownBody> {
    let request = asked.as_mut().expect(THERE);
    if let Some(own) = acme::answer(router, request)
        .or_else(|| readiness::answer(router, request, from))
        .or_else(|| redirect(router, request, from))
    {
        return own;
    }
    let connects = request.method() == Method::CONNECT && extended.is_none();
    let (mut wish, plan) = match admit(router, request, from, connects, told, log) {
        Ok(admitted) => admitted,
        Err(refusal) => return refusal.count(router),
    };
    // Nothing was read of the body: who waits costs no more than its head.
    let claim = match wait::claim(router, &mut wish).await {
        Ok(claim) => claim,
        Err(refused) => return refused.count(router),
    };
    let mut under_way = prepare(asked.take().expect(THERE), from, extended, &plan, &wish);
    if plan.mirror_bp > 0 && under_way.sending.repeatable && claim.arm.arm == Arm::Stable {
        under_way.mirrored = under_way
            .request
            .as_ref()
            .and_then(|copied| mirror::begin(router, &wish, copied, plan.mirror_bp));
    }
    pass(router, &mut wish, claim, &mut under_way, log).await
}

/// Makes a client's request one that targets can be asked.
fn prepare(
    mut request: Request<Incoming>,
    from: From,
    extended: Option<Alive>,
    plan: &Plan,
    wish: &Wish,
) -> UnderWay {
    let upgrade = match &extended {
        Some(_) => Some(HeaderValue::from_static("websocket")),
        None => headers::upgrade_of(request.headers()).filter(|_| request.version() == Version::HTTP_11),
    };
    let client = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
    let (mut head, body) = request.into_parts();
    if extended.is_some() {
        extended::to_upgrade(&mut head);
    }
    let (mut body, upload) = UpBody::new(body, head.version);
    body.watch(wish.service.watch_upload());
    headers::to_target(&mut head, from, upgrade.as_ref(), plan.trusted, plan.forwarded);
    let sending = Sending {
        upload,
        repeatable: body.is_empty() && upgrade.is_none() && headers::is_idempotent(&head.method),
        upgrade: upgrade.is_some(),
        extended,
        response_timeout: plan.response_timeout,
    };
    let copied = || copy(&head.method, &head.uri, &head.headers);
    let spare = sending.repeatable.then(copied);
    let asset = (plan.asset && sending.repeatable).then(|| Box::new(copied()));
    let request = Some(Request::from_parts(head, body));
    UnderWay { request, spare, asset, sending, client, mirrored: None }
}

/// Asks one target after the other until one answers, or the request must not be sent again.
async fn pass(
    router: &Rc<Router>,
    wish: &mut Wish,
    claim: Claim,
    under_way: &mut UnderWay,
    log: &mut Option<Box<Entry>>,
) -> Response<DownBody> {
    let mut claim = claim;
    loop {
        let UnderWay { request, spare, sending, .. } = under_way;
        let reason = match attempt(&claim, request, sending, spare).await {
            Attempt::Answered(response, conn) => {
                if let Some(pair) = &under_way.mirrored {
                    let latency_us = u64::try_from(claim.started.elapsed().as_micros()).unwrap_or(u64::MAX);
                    pair.answered(mirror::Seen {
                        status: response.status().as_u16(),
                        latency_us,
                        copy: false,
                    });
                }
                let mut answered = Answered { response, conn, claim, bridged: false };
                if let Some(asset) = under_way.asset.take().filter(|_| assets::is_missing(&answered.response))
                {
                    answered =
                        Box::pin(assets::ask_others(router, &wish.service.name, &asset, answered)).await;
                }
                answered.claim.guest = wish.guest.take();
                answered.claim.log = log.take();
                return answer(answered, under_way.client.take(), &under_way.sending);
            }
            Attempt::Unsent(EXHAUSTED) => {
                // No other target could be reached either.
                claim.excuse();
                return lost(claim.fail(EXHAUSTED));
            }
            Attempt::Unsent(reason) => reason,
            Attempt::Lost(reason) => match under_way.once_more(&claim, wish, reason) {
                Again::Yes => reason,
                Again::No => return lost(claim.fail(reason)),
                Again::TheClient(reason) => {
                    drop(claim);
                    return lost(reason);
                }
            },
        };
        wish.tried.push(claim.target.address);
        wish.last = Some(claim.revision.revision.clone());
        let next = if wish.tried.len() < MAX_ATTEMPTS { router.claim(wish) } else { Tried::Nobody };
        match next {
            Tried::Claimed(next) => std::mem::replace(&mut claim, next).hand_on(),
            Tried::Nobody => return lost(claim.fail(reason)),
            Tried::Full(..) => {
                // It holds nothing while it waits: a drain must not wait for what nobody has.
                claim.hand_on();
                claim = match wait::claim(router, wish).await {
                    Ok(next) => next,
                    Err(refused) => return refused.count(router),
                };
            }
        }
    }
}

/// Whether a request that may have reached a target is sent again.
enum Again {
    Yes,
    No,
    /// It broke off by the client's doing: no fault of the target.
    TheClient(&'static str),
}

impl UnderWay {
    fn once_more(&mut self, claim: &Claim, wish: &Wish, reason: &'static str) -> Again {
        if let Some(upload) = &self.sending.upload {
            // Whatever the target makes of the rest, the client asked for too much.
            if let Some(refused) = upload.refused.get() {
                return Again::TheClient(refused);
            }
            if upload.failed.get() {
                return Again::TheClient("client-aborted");
            }
        }
        if self.spare.is_none() || reason == "response-timeout" || claim.target.cutting.get() {
            return Again::No;
        }
        if !wish.service.may_retry() {
            claim.not_retried();
            return Again::No;
        }
        self.request = self.spare.take();
        Again::Yes
    }
}

/// What the table says about the whole request.
struct Plan {
    /// What the client says of the request's way is believed.
    trusted: bool,
    forwarded: bool,
    response_timeout: Option<Duration>,
    /// It asks for a static file that any revision may have.
    asset: bool,
    /// How likely the candidate gets a copy.
    mirror_bp: u16,
}

fn admit(
    router: &Router,
    request: &mut Request<Incoming>,
    from: From,
    connects: bool,
    told: &mut Told,
    log: &mut Option<Box<Entry>>,
) -> Result<(Wish, Plan), Refusal> {
    let compiled = router.compiled.borrow();
    let unavailable =
        |reason, text: String| Refusal { status: StatusCode::SERVICE_UNAVAILABLE, reason, text };
    let bad = |status, reason, text: &str| Refusal { status, reason, text: text.to_owned() };
    if connects {
        return Err(bad(StatusCode::NOT_IMPLEMENTED, "connect-method", "this is not a proxy for CONNECT"));
    }
    if let Some(reason) = ambiguous(request) {
        return Err(Refusal { status: StatusCode::BAD_REQUEST, reason, text: what(reason).to_owned() });
    }
    let host = headers::host_of(request.uri(), request.headers());
    let Some(at) = compiled.find(host, request.uri().path(), from.listener) else {
        return Err(if compiled.damaged {
            unavailable(
                "table-damaged",
                "the proxy lost its table; set it again, or see: cutover proxy status".into(),
            )
        } else {
            let text =
                format!("no service is routed for host \"{}\" and this path here", host.escape_debug());
            Refusal { status: StatusCode::NOT_FOUND, reason: "no-service", text }
        });
    };
    let service = &compiled.services[at];
    told.hsts =
        service.hsts.iter().find(|(listener, _)| *listener == from.listener).map(|(_, value)| value.clone());
    let trusted = service.trust_forwarded || service.passing.trusts(from.peer.ip());
    if service.passing.request_id {
        told.request_id = Some(identify(request.headers_mut(), trusted));
    }
    let cell = router
        .service(at)
        .ok_or_else(|| unavailable("no-target", format!("service \"{}\" is not known here", service.name)))?;
    *log = cell.log(request, from.peer.ip());
    let guest = cell.admit(request, from.peer.ip(), trusted)?;
    let client = if trusted { forwarded_for(request.headers()) } else { None };
    let pinned = preview::pinned(service, request.headers_mut(), client.unwrap_or(from.peer.ip()));
    if let Some(text) = service.maintenance.as_ref().filter(|_| pinned.is_none()) {
        return Err(unavailable("maintenance", text.clone()));
    }
    // Who pins a revision wants to know what that one says.
    let asset = pinned.is_none() && assets::is_asset(request.method(), request.uri(), &service.assets);
    cell.request(std::time::Instant::now());
    // Who is pinned needs no seat, but the target is not to see its cookie either.
    let seat = service.sticky.as_ref().and_then(|sticky| {
        sticky::seat(sticky, request.headers_mut(), service.issuer(from.secure).filter(|_| pinned.is_none()))
    });
    let number = seat.as_ref().map(|seat| seat.number);
    told.seat = seat.and_then(|seat| seat.cookie);
    let plan = Plan {
        trusted,
        forwarded: service.passing.forwarded,
        response_timeout: service.response_timeout_ms.map(Duration::from_millis),
        asset,
        mirror_bp: service.mirror_bp,
    };
    let wish = Wish { guest, seat: number, ..Wish::new(cell, at, pinned) };
    Ok((wish, plan))
}

/// Copies a request that has no body.
pub(crate) fn copy(method: &Method, uri: &Uri, headers: &HeaderMap) -> Request<UpBody> {
    let mut copy = Request::new(UpBody::Empty);
    *copy.method_mut() = method.clone();
    *copy.uri_mut() = uri.clone();
    *copy.headers_mut() = headers.clone();
    copy
}

/// Tries one target: on a kept connection, and on a new one when that had died.
///
/// Takes the request; if nothing of it was sent it is back afterwards.
pub(crate) async fn attempt(
    claim: &Claim,
    request: &mut Option<Request<UpBody>>,
    sending: &Sending,
    spare: &mut Option<Request<UpBody>>,
) -> Attempt {
    let needs = Needs { strict: !sending.repeatable, own: sending.upgrade };
    let mut kept = pool::checkout(&claim.target, needs);
    loop {
        let (mut conn, is_kept) = match kept.take() {
            Some(conn) => (conn, true),
            // Apart: most requests find a connection, and what a future may ever hold is moved for each of them.
            None => match Box::pin(pool::connect(&claim.target, needs)).await {
                Ok(conn) => (conn, false),
                Err(reason) => return Attempt::Unsent(reason),
            },
        };
        let sent = std::pin::pin!(conn.send(request.take().expect(THERE)));
        match head_of(sent, sending).await {
            Ok(response) => return Attempt::Answered(response, conn),
            Err(Failure::TimedOut) => return Attempt::Lost("response-timeout"),
            Err(Failure::Send(SendFailure::Unsent(again))) => {
                *request = Some(*again);
                if !is_kept {
                    return Attempt::Unsent("target-closed");
                }
            }
            Err(Failure::Send(SendFailure::Sent(_))) if is_kept => {
                // A kept connection that dies says nothing about the target: its server may have closed it just then.
                let Some(again) = spare.take().filter(|_| !conn.is_killed()) else {
                    return Attempt::Lost("target-closed");
                };
                *spare = Some(copy(again.method(), again.uri(), again.headers()));
                *request = Some(again);
            }
            Err(Failure::Send(SendFailure::Sent(error))) => return Attempt::Lost(multiplex::reason(&error)),
        }
        claim.reconnected();
    }
}

enum Failure {
    Send(SendFailure),
    TimedOut,
}

/// Waits for the head of a response; the time limit counts silence, so that a slow upload may take as long as it moves.
async fn head_of(
    mut sent: Pin<&mut impl Future<Output = Answer>>,
    sending: &Sending,
) -> Result<Response<Incoming>, Failure> {
    let Some(limit) = sending.response_timeout else {
        return sent.await.map_err(Failure::Send);
    };
    let started = std::time::Instant::now();
    let mut left = limit;
    loop {
        if let Ok(done) = tokio::time::timeout(left, sent.as_mut()).await {
            return done.map_err(Failure::Send);
        }
        let moved = sending.upload.as_ref().map_or(started, |upload| upload.moved.get());
        left = limit.saturating_sub(moved.elapsed());
        if left.is_zero() {
            return Err(Failure::TimedOut);
        }
    }
}

fn answer(answered: Answered, client: Option<OnUpgrade>, sending: &Sending) -> Response<DownBody> {
    let Answered { response, conn, mut claim, bridged } = answered;
    let (mut head, body) = response.into_parts();
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        let Some(client) = client.filter(|_| sending.upgrade) else {
            return lost(claim.fail("bad-response"));
        };
        claim.head(head.status.as_u16());
        let upgrade = head.headers.get(http::header::UPGRADE).cloned();
        let target = hyper::upgrade::on(Response::from_parts(head.clone(), body));
        headers::strip_hop_by_hop(&mut head.headers);
        head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        if let Some(protocol) = upgrade {
            tunnel::spawn(claim, client, target, &protocol, sending.extended.clone());
            head.headers.insert(http::header::UPGRADE, protocol);
        } else {
            return lost(claim.fail("bad-response"));
        }
        if sending.extended.is_some() {
            extended::accept(&mut head);
        }
        return Response::from_parts(head, DownBody::Own(None));
    }
    if sending.extended.is_some() && head.status.is_success() {
        // The client would take it for its WebSocket.
        return lost(claim.fail("bad-response"));
    }
    let ends = grpc::ends(head.status, &head.headers);
    match ends {
        Ends::Failed => claim.head_refuted(head.status.as_u16()),
        Ends::AsHttp | Ends::InTrailers => claim.head(head.status.as_u16()),
    }
    let keep = keep_of(&head.headers);
    let events = EventStream::of(&head.headers, &claim.target);
    if bridged {
        head.headers.insert(HeaderName::from_static(BRIDGED_HEADER), HeaderValue::from_static("1"));
    }
    headers::strip_hop_by_hop(&mut head.headers);
    // The client's version decides how the body is framed, not the target's.
    head.version = Version::HTTP_11;
    Response::from_parts(head, DownBody::stream(body, claim, conn, keep, events, ends))
}

/// Returns how long the connection of a response may be kept idle.
pub(crate) fn keep_of(headers: &HeaderMap) -> Duration {
    headers::keep_alive_hint(headers).map_or(KEEP_IDLE, |hint| hint.min(KEEP_IDLE))
}
