//! Requests that wait: for an operator, or for a target with room. Nothing of a waiting request was sent, so it goes
//! wherever it can once it may: its track may be drained meanwhile, and its target be gone.

use std::time::Duration;

use http::StatusCode;
use tokio::time::{Instant, timeout_at};

use crate::claim::Claim;
use crate::refusal::{Refusal, Refused};
use crate::room::InLine;
use crate::route::{Router, Tried, Wish};
use crate::traffic::{Traffic, Waiting};

/// Claims a target as soon as the request may pass and one has room.
///
/// # Cancel safety
/// Dropped while it waits, it leaves the line, and hands a wake-up that it has got to the next one.
pub(crate) async fn claim(router: &Router, wish: &mut Wish) -> Result<Claim, Refused> {
    if wish.service.kept(wish).is_none() {
        match router.claim(wish) {
            Tried::Claimed(claim) => return Ok(claim),
            Tried::Nobody => return Err(no_target(wish)),
            // Drawn once: while it waits the draw must not fall on whoever happens to have room.
            Tried::Full(revision, _) => wish.last = Some(revision),
        }
    }
    // Apart from those who wait: what a future may ever hold is moved for each request.
    let claim = Box::pin(wait(router, wish)).await;
    if claim.is_err() {
        wish.first_draw.refused();
    }
    claim
}

async fn wait(router: &Router, wish: &mut Wish) -> Result<Claim, Refused> {
    let mut line = Line { begun: Instant::now(), place: None };
    loop {
        if router.closing.get() {
            return Err(refusal("queue-timeout", "the proxy is leaving".to_owned()));
        }
        if let Some(traffic) = wish.service.kept(wish) {
            match traffic.waiting() {
                Some(waiting) => line.wait_for_operator(wish, waiting).await?,
                None => return Err(Refused::Page(traffic)),
            }
            continue;
        }
        match router.claim(wish) {
            Tried::Claimed(claim) => return Ok(claim),
            Tried::Nobody => return Err(no_target(wish)),
            Tried::Full(revision, track) => {
                wish.last = Some(revision);
                let Some(waiting) = wish.service.limits.borrow().queue else {
                    return Err(refusal("targets-full", full(wish)));
                };
                line.enter(wish, waiting, "targets-full")?;
                let at = track.enter();
                let mut freed = std::pin::pin!(at.0.freed.notified());
                // Before the last look: what is freed after it wakes us.
                freed.as_mut().enable();
                wish.in_line = true;
                match router.claim(wish) {
                    Tried::Claimed(claim) => return Ok(claim),
                    Tried::Nobody => return Err(no_target(wish)),
                    Tried::Full(..) => {}
                }
                if timeout_at(line.end(waiting), freed).await.is_err() {
                    return Err(refusal("targets-busy", full(wish)));
                }
            }
        }
    }
}

/// A request that waits, with the place that it has.
struct Line {
    begun: Instant,
    place: Option<InLine>,
}

impl Line {
    fn end(&self, waiting: Waiting) -> Instant {
        self.begun + Duration::from_millis(waiting.wait_ms)
    }

    fn enter(&mut self, wish: &Wish, waiting: Waiting, reason: &'static str) -> Result<(), Refused> {
        if self.place.is_none() {
            let place = wish.service.room.borrow().enter(waiting.limit);
            let place = place.ok_or_else(|| {
                let text =
                    format!("{} requests of service \"{}\" wait already", waiting.limit, wish.service.name);
                refusal(reason, text)
            })?;
            self.place = Some(place);
        }
        Ok(())
    }

    async fn wait_for_operator(&mut self, wish: &mut Wish, waiting: Waiting) -> Result<(), Refused> {
        self.enter(wish, waiting, "queue-full")?;
        let room = wish.service.room.borrow().clone();
        let mut let_go = std::pin::pin!(room.held.notified());
        let_go.as_mut().enable();
        // It may have been said just before we were in line to hear it.
        if wish.service.kept(wish).is_none_or(|traffic| traffic.waiting().is_none()) {
            return Ok(());
        }
        if timeout_at(self.end(waiting), let_go).await.is_err() {
            let text = format!("service \"{}\" is held, and the request waited too long", wish.service.name);
            return Err(refusal("queue-timeout", text));
        }
        wish.passed = matches!(wish.service.kept(wish).as_deref(), Some(Traffic::Flow { .. }));
        Ok(())
    }
}

fn full(wish: &Wish) -> String {
    format!("all targets of service \"{}\" have as many requests as they may", wish.service.name)
}

fn refusal(reason: &'static str, text: String) -> Refused {
    Refused::Plain(Refusal { status: StatusCode::SERVICE_UNAVAILABLE, reason, text })
}

fn no_target(wish: &Wish) -> Refused {
    refusal("no-target", format!("service \"{}\" has no ready target", wish.service.name))
}
