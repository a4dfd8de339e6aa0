//! A test under way: what its clients share.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cutover_judge::Ticket;
use tokio::time::Instant;

use crate::comparison::{Comparison, PAIR};
use crate::exchange::{Answer, Link, Miss, Prepared, prepare};
use crate::http1::Http1;
use crate::http2::{Http2, STREAMS};
use crate::mix::Mix;
use crate::report::{Report, Sent, Share};
use crate::spec::{Against, Protocol, Side, Spec, Target};
use crate::tally::Tally;

/// After a refused connection a client waits so long: without it a closed loop would knock as fast as it can.
const AFTER_REFUSAL: Duration = Duration::from_millis(10);

/// What was counted, seen from the test's thread and from whoever looks at it.
#[derive(Debug)]
pub(crate) struct Board {
    pub(crate) sides: Vec<(Side, Vec<Tally>)>,
    pub(crate) sent: Sent,
    comparison: Option<Comparison>,
    /// Requests that are open, over both sides.
    pub(crate) open: u64,
}

impl Board {
    pub(crate) fn new(spec: &Spec) -> Board {
        let sides: &[Side] = match spec.against {
            Against::Candidate => &PAIR[..1],
            Against::Both => &PAIR,
        };
        let tallies = || spec.scenarios.iter().map(|_| Tally::new(spec.timeout)).collect();
        Board {
            sides: sides.iter().map(|side| (*side, tallies())).collect(),
            sent: Sent::default(),
            comparison: (spec.against == Against::Both).then(|| Comparison::new(spec.span)),
            open: 0,
        }
    }

    pub(crate) fn report(&self, spec: &Spec, took: Duration) -> Report {
        let mut shares = Vec::new();
        for (side, tallies) in &self.sides {
            let share = |scenario, tally: &Tally| Share { side: *side, scenario, summary: tally.summary() };
            let mut whole = Tally::new(spec.timeout);
            tallies.iter().for_each(|tally| whole.merge(tally));
            shares.push(share(None, &whole));
            if tallies.len() > 1 {
                let named = spec.scenarios.iter().zip(tallies);
                shares.extend(named.map(|(scenario, tally)| share(Some(scenario.name.clone()), tally)));
            }
        }
        Report {
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            sent: self.sent,
            shares,
            compared: self.comparison.as_ref().map(|comparison| comparison.compared(took)),
        }
    }
}

/// A test under way.
pub(crate) struct Course {
    pub(crate) spec: Arc<Spec>,
    board: Arc<Mutex<Board>>,
    sides: Vec<Targets>,
    mix: RefCell<Mix>,
    begun: Instant,
    clients: Cell<usize>,
}

/// The instances of a side.
struct Targets {
    /// Of each instance, by scenario.
    prepared: Vec<Vec<Prepared>>,
    targets: Vec<Target>,
    shared: RefCell<Vec<Rc<Http2>>>,
}

/// One who sends a request at a time, to each side.
pub(crate) struct Client {
    /// By side: the instance, and the way to it.
    links: Vec<(usize, Link)>,
}

impl Course {
    pub(crate) fn new(spec: Arc<Spec>, targets: &[Target], board: Arc<Mutex<Board>>) -> Rc<Course> {
        let side = |side: &(Side, Vec<Tally>)| {
            let targets: Vec<Target> =
                targets.iter().filter(|target| target.side == side.0).copied().collect();
            let prepare = |target: &Target| -> Vec<Prepared> {
                spec.scenarios.iter().map(|scenario| prepare(scenario, *target, spec.protocol)).collect()
            };
            let prepared = targets.iter().map(prepare).collect();
            Targets { prepared, targets, shared: RefCell::default() }
        };
        let sides = lock(&board).sides.iter().map(side).collect();
        let mix = RefCell::new(Mix::new(spec.scenarios.iter().map(|scenario| scenario.weight)));
        Rc::new(Course { spec, board, sides, mix, begun: Instant::now(), clients: Cell::new(0) })
    }

    pub(crate) fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    pub(crate) fn board(&self) -> MutexGuard<'_, Board> {
        lock(&self.board)
    }

    /// Makes another client. They are spread over the instances, one after the other.
    pub(crate) fn client(&self) -> Client {
        let number = self.clients.replace(self.clients.get() + 1);
        let link = |side: &Targets| {
            let at = number % side.targets.len();
            let address = side.targets[at].address;
            let link = match self.spec.protocol {
                Protocol::Http1 => Link::Http1(Http1::new(address)),
                Protocol::Http2 => Link::Http2(side.share(number / side.targets.len() / STREAMS, at)),
            };
            (at, link)
        };
        Client { links: self.sides.iter().map(link).collect() }
    }

    /// Sends the next request to each side, and counts what comes of it. It was due `due` after the beginning.
    pub(crate) async fn send(&self, client: &mut Client, due: Duration) {
        let scenario = self.mix.borrow_mut().deal();
        let tickets = self.tickets();
        self.board().open += self.sides.len() as u64;
        let refused = match &mut client.links[..] {
            [link] => self.ask(0, scenario, link, due, None).await,
            [candidate, stable] => {
                let [first, second] =
                    tickets.map_or([None, None], |[first, second]| [Some(first), Some(second)]);
                let (first, second) = tokio::join!(
                    self.ask(0, scenario, candidate, due, first),
                    self.ask(1, scenario, stable, due, second)
                );
                first || second
            }
            _ => false,
        };
        if refused {
            tokio::time::sleep(AFTER_REFUSAL).await;
        }
    }

    /// Counts a request that was due and not sent, because as many as may be were open.
    pub(crate) fn unsent(&self, due: Duration) {
        let scenario = self.mix.borrow_mut().deal();
        let tickets = self.tickets();
        let waited = self.now().saturating_sub(due);
        for side in 0..self.sides.len() {
            let ticket = tickets.map(|tickets| tickets[side]);
            self.count(side, scenario, &Answer::Miss(Miss::Unsent), waited, ticket);
        }
    }

    fn tickets(&self) -> Option<[Ticket; 2]> {
        let now = self.now();
        self.board().comparison.as_mut().map(|comparison| comparison.pair(now))
    }

    /// Returns whether there was no connection.
    async fn ask(
        &self,
        side: usize,
        scenario: usize,
        (at, link): &mut (usize, Link),
        due: Duration,
        ticket: Option<Ticket>,
    ) -> bool {
        let request = &self.sides[side].prepared[*at][scenario];
        let answer = match tokio::time::timeout(self.spec.timeout, link.exchange(request)).await {
            Ok(Ok(status)) if self.spec.scenarios[scenario].expect.contains(&status) => Answer::Ok,
            Ok(Ok(status)) => Answer::Status(status),
            Ok(Err(miss)) => Answer::Miss(miss),
            Err(_) => Answer::Miss(Miss::Timeout),
        };
        self.board().open -= 1;
        self.count(side, scenario, &answer, self.now().saturating_sub(due), ticket);
        matches!(answer, Answer::Miss(Miss::Refused(_)))
    }

    fn count(
        &self,
        side: usize,
        scenario: usize,
        answer: &Answer,
        latency: Duration,
        ticket: Option<Ticket>,
    ) {
        let mut board = self.board();
        board.sides[side].1[scenario].add(answer, latency);
        if let (Some(ticket), Some(comparison)) = (ticket, &mut board.comparison) {
            comparison.score(ticket, answer, latency);
        }
    }
}

impl Targets {
    /// Returns the `round`-th connection that clients of an instance share.
    fn share(&self, round: usize, at: usize) -> Rc<Http2> {
        let mut shared = self.shared.borrow_mut();
        let number = round * self.targets.len() + at;
        while shared.len() <= number {
            let address = self.targets[shared.len() % self.targets.len()].address;
            shared.push(Rc::new(Http2::new(address)));
        }
        shared[number].clone()
    }
}

pub(crate) fn lock(board: &Mutex<Board>) -> MutexGuard<'_, Board> {
    board.lock().unwrap_or_else(PoisonError::into_inner)
}
