//! The open loop: requests at a constant rate, whatever comes of them.
//!
//! There are as many clients as requests were ever open at once, and one more. The one that has waited longest leads: it waits
//! for the next request to be due, lets the next one lead, and sends it.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::net::unix::pipe;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::arrivals::{Arrivals, Due, LATEST};
use crate::course::Course;

/// How often is looked whether this thread gets its processor time.
const LOOK_EVERY: Duration = Duration::from_millis(10);

struct Rate {
    course: Rc<Course>,
    /// Who has it leads.
    lead: Mutex<Lead>,
    /// Those that send nothing.
    idle: Cell<usize>,
    clients: Cell<usize>,
    most: usize,
    /// Until when what is late is late by this thread's own fault.
    starved_until: Cell<Duration>,
    spawned: RefCell<JoinSet<()>>,
}

struct Lead {
    arrivals: Arrivals,
    timer: Timer,
}

/// Sends `per_1000_s` requests in a thousand seconds until the time is over, of which at most `open` are open at once; returns
/// when all are answered.
pub(crate) async fn run(course: &Rc<Course>, per_1000_s: u64, open: usize) -> io::Result<()> {
    let arrivals = Arrivals::new(per_1000_s, course.spec.span);
    let rate = Rc::new(Rate {
        course: course.clone(),
        lead: Mutex::new(Lead { arrivals, timer: Timer::new()? }),
        idle: Cell::new(0),
        clients: Cell::new(0),
        most: open,
        starved_until: Cell::new(Duration::ZERO),
        spawned: RefCell::default(),
    });
    rate.join();
    let watched = async {
        // Clients spawn clients; each is joined.
        loop {
            let next =
                std::future::poll_fn(|context| rate.spawned.borrow_mut().poll_join_next(context)).await;
            if next.is_none() {
                return;
            }
        }
    };
    tokio::select! {
        () = watched => {}
        () = watch(&rate) => {}
    }
    Ok(())
}

/// Notes when this thread was not given its time. Never ends.
async fn watch(rate: &Rate) {
    loop {
        let before = rate.course.now();
        tokio::time::sleep(LOOK_EVERY).await;
        let now = rate.course.now();
        if now - before > LOOK_EVERY + LATEST / 2 {
            rate.starved_until.set(now + LATEST * 2);
        }
    }
}

impl Rate {
    /// Adds a client, unless there are as many as may be.
    fn join(self: &Rc<Self>) {
        if self.clients.get() < self.most {
            self.clients.set(self.clients.get() + 1);
            self.idle.set(self.idle.get() + 1);
            let rate = self.clone();
            self.spawned.borrow_mut().spawn_local(async move { rate.work().await });
        }
    }

    async fn work(self: Rc<Self>) {
        let mut client = self.course.client();
        // Whether all clients were at work until this one was done.
        let mut all_busy = false;
        while let Some(due) = self.next(all_busy).await {
            self.idle.set(self.idle.get() - 1);
            if self.idle.get() == 0 {
                self.join();
            }
            self.course.send(&mut client, due).await;
            all_busy = self.idle.get() == 0;
            self.idle.set(self.idle.get() + 1);
        }
    }

    /// Leads until a request is due that can be sent; returns when it was due. None once all had their time.
    async fn next(&self, mut all_busy: bool) -> Option<Duration> {
        let mut lead = self.lead.lock().await;
        loop {
            let now = self.course.now();
            match lead.arrivals.take(now) {
                Due::Send(due) => {
                    self.course.board().sent.due += 1;
                    return Some(due);
                }
                Due::Missed(due) => {
                    self.course.board().sent.due += 1;
                    if all_busy && now >= self.starved_until.get() {
                        self.course.unsent(due);
                    } else {
                        self.course.board().sent.missed += 1;
                    }
                }
                Due::Wait(until) => {
                    all_busy = false;
                    lead.timer.wait(until.saturating_sub(now)).await;
                }
                Due::Over => return None,
            }
        }
    }
}

/// A timer that is exact to some microseconds. That of the runtime rounds up to milliseconds, which would be latency.
///
/// To the runtime it is a pipe, which it does not check: something that becomes readable, and is read.
struct Timer(pipe::Receiver);

impl Timer {
    fn new() -> io::Result<Timer> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        Ok(Timer(pipe::Receiver::from_owned_fd_unchecked(timer)?))
    }

    /// # Cancel safety
    /// Dropped, it leaves a timer that the next call sets anew.
    async fn wait(&self, span: Duration) {
        let ns = span.as_nanos().max(1);
        let value = Timespec {
            tv_sec: i64::try_from(ns / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(ns % 1_000_000_000).unwrap_or(0),
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        if timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once).is_err() {
            return tokio::time::sleep(span).await;
        }
        let mut times = [0; 8];
        while self.0.readable().await.is_ok() {
            // It may have been readable for an earlier time that nobody read.
            if self.0.try_read(&mut times).is_ok() {
                return;
            }
        }
    }
}
