//! Drives one release: starts what the machine wants, journals what came of it, then lets it happen.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cutover_core::machine::Illegal;
use cutover_core::{
    After, Command, Effect, EffectKey, Event, Fault, Machine, Mode, Moment, Outcome, Record, Release,
    ReleaseId, Step, StepKey, Wanted,
};
use futures_util::FutureExt;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tracing::{debug, error, info, warn};

use crate::clock::{Anchor, Reading, until};
use crate::effects::Act;
use crate::engine::Shared;
use crate::error::EngineError;
use crate::service::{Live, LiveState, Message, Service};
use crate::store::{Append, StoreError, StoreErrorKind};
use crate::witness::Happened;

/// How many messages may wait for a driver.
const INBOX: usize = 64;
/// How long a stopping driver waits for effects that change something.
const FINISH: Duration = Duration::from_secs(5);
/// The longest that one write of the journal may take.
const WRITE: Duration = Duration::from_secs(30);
const WRITE_AGAIN: Duration = Duration::from_secs(1);

/// A release as its driver finds it.
pub(crate) struct Begun {
    pub(crate) number: u64,
    pub(crate) release: Release,
    pub(crate) machine: Machine,
    pub(crate) anchor: Anchor,
    pub(crate) next: u64,
    pub(crate) provisioning: Option<Moment>,
    pub(crate) secrets: std::collections::BTreeMap<String, cutover_ports::Secret>,
}

pub(crate) struct Driver {
    shared: Arc<Shared>,
    service: Arc<Service>,
    release: Arc<Release>,
    number: u64,
    secrets: Arc<std::collections::BTreeMap<String, cutover_ports::Secret>>,
    machine: Machine,
    anchor: Anchor,
    next: u64,
    /// When the candidate's instances were asked for, until they are ready.
    provisioning: Option<Moment>,
    inbox: mpsc::Receiver<Message>,
    state: watch::Sender<LiveState>,
    tasks: JoinSet<Finished>,
    running: Vec<Running>,
    started: u64,
    /// What other releases said while the journal could not be written.
    later: Vec<Message>,
    /// What was said to other releases, so that it is said once.
    told: BTreeSet<(ReleaseId, &'static str)>,
}

struct Running {
    id: u64,
    key: EffectKey,
    /// It may be broken off anywhere: it only looks, or a build that its platform can begin again from wherever it was.
    may_drop: bool,
    cancelled: bool,
    abort: AbortHandle,
}

struct Finished {
    id: u64,
    key: EffectKey,
    /// What the router counted, to be journaled first.
    counted: Vec<Event>,
    outcome: Outcome,
}

/// Why a driver stops before its release ended.
enum Stop {
    Shutdown,
    Fenced(String),
}

/// Why an event did not happen.
enum Unhappened {
    Illegal(Illegal),
    Store(StoreError),
}

impl Driver {
    /// Makes the driver, and shows its release to the service.
    pub(crate) fn new(shared: Arc<Shared>, service: Arc<Service>, begun: Begun) -> Driver {
        let Begun { number, release, machine, anchor, next, provisioning, secrets } = begun;
        let release = Arc::new(release);
        let (sender, inbox) = mpsc::channel(INBOX);
        let state = watch::Sender::new(LiveState { machine: machine.clone(), next });
        let live = Live { number, release: release.clone(), inbox: sender, state: state.subscribe() };
        service.enter(release.id.clone(), live);
        Driver {
            shared,
            service,
            release,
            number,
            secrets: Arc::new(secrets),
            machine,
            anchor,
            next,
            provisioning,
            inbox,
            state,
            tasks: JoinSet::new(),
            running: Vec::new(),
            started: 0,
            later: Vec::new(),
            told: BTreeSet::new(),
        }
    }

    /// Drives until the release ended, the engine shuts down, or another engine took the service over.
    pub(crate) async fn run(mut self) {
        let stop = self.drive().await;
        match &stop {
            Ok(()) => info!(release = %self.release.id, "release ended"),
            Err(Stop::Shutdown) => {
                info!(release = %self.release.id, "driver stops, the release stays as it is")
            }
            Err(Stop::Fenced(who)) => {
                warn!(release = %self.release.id, %who, "driver stops: the service was taken over");
                self.service.lose();
                self.shared.forget(&self.service);
            }
        }
        self.finish(matches!(stop, Err(Stop::Shutdown))).await;
        self.service.leave(&self.release.id);
        if stop.is_ok() && self.service.idle() {
            let _ = self.shared.store.vacate(&self.service.name, self.service.epoch()).await;
        }
    }

    async fn drive(&mut self) -> Result<(), Stop> {
        let mut stop = self.shared.stopping();
        let mut changes = self.service.changes();
        // Counting begins with the release, so that its report can say what it cost.
        if self.next == 1 {
            self.count().await?;
        }
        loop {
            if *stop.borrow_and_update() {
                return Err(Stop::Shutdown);
            }
            if self.service.lost() {
                return Err(Stop::Fenced("another driver".into()));
            }
            changes.mark_unchanged();
            for message in std::mem::take(&mut self.later) {
                self.hear(message).await?;
            }
            while self.machine.next_timer().is_some_and(|due| self.now().0 >= due) {
                self.happen(Event::Tick).await?;
            }
            self.reconcile();
            if self.machine.ended() && self.running.iter().all(|running| running.may_drop) {
                return Ok(());
            }
            let sleep = until(self.now().0, self.next_wake());
            tokio::select! {
                _ = stop.changed() => {}
                Some(message) = self.inbox.recv() => self.hear(message).await?,
                Some(finished) = self.tasks.join_next(), if !self.tasks.is_empty() => self.finished(finished).await?,
                _ = changes.changed() => {}
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    fn now(&self) -> (Moment, Reading) {
        let reading = self.shared.options.clock.read();
        (self.anchor.moment(&reading), reading)
    }

    fn next_wake(&self) -> Option<Moment> {
        let waiting = self.machine.wanted().into_iter().map(|wanted| wanted.not_before);
        let now = self.now().0;
        waiting.filter(|at| *at > now).chain(self.machine.next_timer()).min()
    }

    /// Cancels what may be broken off and is no longer wanted, starts what is missing.
    fn reconcile(&mut self) {
        let wanted = self.machine.wanted();
        for running in &mut self.running {
            if running.may_drop
                && !running.cancelled
                && !wanted.iter().any(|wanted| wanted.key == running.key)
            {
                running.cancelled = true;
                running.abort.abort();
            }
        }
        self.tell_tails();
        let now = self.now().0;
        for wanted in wanted {
            let runs = self.running.iter().any(|running| running.key == wanted.key && !running.cancelled);
            if !runs && wanted.not_before <= now && !self.must_wait(&wanted) {
                self.start(wanted);
            }
        }
    }

    fn start(&mut self, wanted: Wanted) {
        let Wanted { key, effect, .. } = wanted;
        let Some(hold) = self.service.hold(effect.resource()) else { return };
        debug!(release = %self.release.id, effect = %key.name, "effect starts");
        self.started += 1;
        let may_drop = hold.is_look() || self.build_may_drop(&effect);
        let id = self.started;
        let act = Act {
            shared: self.shared.clone(),
            service: self.service.clone(),
            release: self.release.clone(),
            secrets: self.secrets.clone(),
        };
        let running = key.clone();
        let task = async move {
            let _hold = hold;
            let key = running;
            let run = std::panic::AssertUnwindSafe(act.run(&key, &effect)).catch_unwind();
            match run.await {
                Ok((outcome, counted)) => Finished { id, key, counted, outcome },
                Err(_) => {
                    let outcome =
                        Err(Fault::cutover(format!("{}: the edge panicked, see cutover's log", key.name)));
                    Finished { id, key, counted: Vec::new(), outcome }
                }
            }
        };
        let abort = self.tasks.spawn(task);
        self.running.push(Running { id, key, may_drop, cancelled: false, abort });
    }

    /// A build can take as long as its author likes: an abort must not wait for it.
    fn build_may_drop(&self, effect: &Effect) -> bool {
        matches!(effect, Effect::Build { revision } if self.shared.edges.platform.build_may_drop(revision))
    }

    /// Tells whether another release of the service comes first.
    fn must_wait(&self, wanted: &Wanted) -> bool {
        let others = self.service.others(&self.release.id);
        match &wanted.effect {
            // The predecessor that a tail keeps or stops is handed over, or gone, before it is started again.
            Effect::Provision { revision, .. } => {
                others.iter().any(|other| other.look(|machine| machine.tail_of() == Some(revision)))
            }
            // What a tail still ends may not run beside what is started here.
            Effect::Processes { .. } => {
                let ends = |machine: &Machine| {
                    machine.tail_of().is_some() && matches!(machine.step(), Step::Processes { .. })
                };
                others.iter().any(|other| other.number < self.number && other.look(ends))
            }
            // A drain holds the router for as long as its slowest request; the way back of a newer release cannot
            // wait for that.
            Effect::Drain { .. } if matches!(wanted.key.step, StepKey::Forward(_)) => {
                others.iter().any(|other| other.look(|machine| machine.holds_service() && machine.moved()))
            }
            _ => false,
        }
    }

    /// Hands the predecessor over that another tail keeps warm, or ends a wait that has no more use.
    fn tell_tails(&mut self) {
        let provisions = matches!(self.machine.mode(), Mode::Forward | Mode::Held(_))
            && matches!(self.machine.step(), Step::Provision { .. });
        let decided = self.machine.decided().is_some();
        if !provisions && !decided {
            return;
        }
        for other in self.service.others(&self.release.id) {
            let (tail_of, warm) = other
                .look(|machine| (machine.tail_of().cloned(), matches!(machine.step(), Step::Warm { .. })));
            let release = self.release.id.clone();
            let command = match tail_of {
                Some(revision) if provisions && warm && revision == self.machine.plan().candidate => {
                    Command::Adopt { release }
                }
                Some(_) if decided && warm && other.number < self.number => Command::Hurry { release },
                _ => continue,
            };
            let told = (other.release.id.clone(), command.name());
            if self.told.contains(&told) {
                continue;
            }
            let message = Message::Command { command, by: self.release.id.to_string(), reply: None };
            if other.inbox.try_send(message).is_ok() {
                self.told.insert(told);
            }
        }
    }

    async fn hear(&mut self, message: Message) -> Result<(), Stop> {
        match message {
            Message::Command { command, by, reply } => {
                let said = match self.try_happen(Event::Commanded { command, by }).await {
                    Ok(()) => Ok(()),
                    Err(Unhappened::Illegal(illegal)) => Err(EngineError::from(illegal)),
                    Err(Unhappened::Store(error)) if error.kind() == StoreErrorKind::Fenced => {
                        let who = error.to_string();
                        answer(reply, Err(error.into()));
                        return Err(Stop::Fenced(who));
                    }
                    Err(Unhappened::Store(error)) => Err(EngineError::from(error)),
                };
                answer(reply, said);
            }
            Message::Trip { number, why, shared, journaled } => {
                self.happen(Event::Tripped { number, why, shared }).await?;
                let _ = journaled.send(());
            }
        }
        Ok(())
    }

    async fn finished(&mut self, finished: Result<Finished, tokio::task::JoinError>) -> Result<(), Stop> {
        let finished = match finished {
            Ok(finished) => finished,
            Err(_) => {
                self.running.retain(|running| !running.cancelled || !running.abort.is_finished());
                return Ok(());
            }
        };
        let cancelled = self.running.iter().any(|running| running.id == finished.id && running.cancelled);
        self.running.retain(|running| running.id != finished.id);
        let Finished { key, counted, outcome, .. } = finished;
        let wanted = !cancelled && self.machine.wanted().iter().any(|wanted| wanted.key == key);
        if !wanted {
            debug!(release = %self.release.id, effect = %key.name, "effect ended that is no longer wanted");
            return Ok(());
        }
        for counted in counted {
            // Once is enough: a driver that dies again and again must come further each time.
            if !(matches!(counted, Event::Judged { .. }) && self.machine.is_accounted()) {
                self.happen(counted).await?;
            }
        }
        let event = match outcome {
            Ok(evidence) => Event::Done { effect: key, evidence },
            Err(fault) => Event::Failed { effect: key, fault: self.unfence(fault).await? },
        };
        self.happen(event).await
    }

    /// An edge says that a newer driver acts. The journal knows: either this driver stops, or a call of its own
    /// engine came first, and the effect is repeated.
    async fn unfence(&self, fault: Fault) -> Result<Fault, Stop> {
        if fault.after != After::Fenced {
            return Ok(fault);
        }
        match self.shared.service_row(&self.service.name).await {
            Ok(Some(row)) if row.epoch > self.service.epoch() => {
                Err(Stop::Fenced(row.owner.unwrap_or_else(|| "another driver".into())))
            }
            _ => Ok(Fault { after: After::Retry, ..fault }),
        }
    }

    async fn count(&mut self) -> Result<(), Stop> {
        match crate::effects::counted(&self.shared, &self.service.name).await {
            Some(event) => self.happen(event).await,
            None => Ok(()),
        }
    }

    /// Journals the event, then lets it happen. Waits while the journal cannot be written: nothing else may happen
    /// meanwhile, but what runs goes on.
    async fn happen(&mut self, event: Event) -> Result<(), Stop> {
        let mut said = false;
        loop {
            match self.try_happen(event.clone()).await {
                Ok(()) => {
                    if said {
                        info!(release = %self.release.id, "the journal can be written again");
                    }
                    return Ok(());
                }
                Err(Unhappened::Illegal(illegal)) => {
                    debug!(release = %self.release.id, %illegal, "event came too late");
                    return Ok(());
                }
                Err(Unhappened::Store(error)) if error.kind() == StoreErrorKind::Fenced => {
                    return Err(Stop::Fenced(error.to_string()));
                }
                Err(Unhappened::Store(error)) => {
                    if !said {
                        error!(release = %self.release.id, %error, hint = error.hint(), "the journal cannot be written");
                        said = true;
                    }
                    let mut stop = self.shared.stopping();
                    tokio::select! {
                        _ = stop.wait_for(|stop| *stop) => return Err(Stop::Shutdown),
                        () = self.turn_away(&error) => {}
                    }
                }
            }
        }
    }

    /// Tells whoever asks for something that it cannot be journaled, for a while: a person is not to wait for a disk.
    async fn turn_away(&mut self, why: &StoreError) {
        let pause = tokio::time::sleep(WRITE_AGAIN);
        tokio::pin!(pause);
        loop {
            let message = tokio::select! {
                () = &mut pause => return,
                Some(message) = self.inbox.recv() => message,
            };
            match message {
                Message::Command { reply: Some(reply), .. } => {
                    let why = StoreError::new(why.kind(), why.to_string()).with_hint(why.hint());
                    answer(Some(reply), Err(why.into()));
                }
                Message::Command { reply: None, .. } => self.later.push(message),
                // It is told again: nobody hears that it was journaled.
                Message::Trip { .. } => {}
            }
        }
    }

    async fn try_happen(&mut self, event: Event) -> Result<(), Unhappened> {
        let service = self.service.clone();
        let _turn = service.journal.lock().await;
        let (at, reading) = self.now();
        let mut machine = self.machine.clone();
        machine.apply(&event, at).map_err(Unhappened::Illegal)?;
        let ready_ms = self.readiness(&machine, at);
        let record =
            Record { sequence: self.next, epoch: service.epoch(), at, wall_ms: reading.wall_ms, event };
        let append = Append {
            service: service.name.clone(),
            release: self.release.id.clone(),
            record,
            reading: reading.clone(),
            decided: machine.decided().is_some() && self.machine.decided().is_none(),
            ended: machine.ending().filter(|_| !self.machine.ended()).cloned(),
            ready_ms,
        };
        // Journal before acting: a crash in between repeats the effect, never forgets it.
        let written = tokio::time::timeout(WRITE, self.shared.store.append(&append)).await;
        let written = written.unwrap_or_else(|_| {
            Err(StoreError::new(
                StoreErrorKind::Locked,
                format!("the journal took longer than {} s", WRITE.as_secs()),
            ))
        });
        written.map_err(Unhappened::Store)?;
        self.next += 1;
        self.anchor = Anchor { at, reading };
        self.provisioning = provisioning(self.provisioning, &self.machine, &machine);
        self.shared.options.witness.happened(&Happened {
            service: &service.name,
            release: &self.release,
            record: &append.record,
            before: &self.machine,
            after: &machine,
        });
        self.machine = machine;
        self.state.send_replace(LiveState { machine: self.machine.clone(), next: self.next });
        self.service.bump();
        Ok(())
    }

    fn readiness(&self, after: &Machine, at: Moment) -> Option<u64> {
        let checked = matches!(self.machine.step(), Step::Check) && after.at() > self.machine.at();
        self.provisioning.filter(|_| checked).map(|since| at.ms_since(since))
    }

    /// Ends what still runs: what may be broken off at once, what changes something when it is done.
    async fn finish(&mut self, journal: bool) {
        for running in self.running.iter().filter(|running| running.may_drop) {
            running.abort.abort();
        }
        let end = tokio::time::Instant::now() + FINISH;
        while let Ok(Some(finished)) = tokio::time::timeout_at(end, self.tasks.join_next()).await {
            if journal && finished.is_ok() && self.finished(finished).await.is_err() {
                break;
            }
        }
        // What did not end is repeated by the next driver: effects are made for that.
        self.tasks.shutdown().await;
    }
}

/// Follows since when the candidate's instances are being started.
pub(crate) fn provisioning(since: Option<Moment>, before: &Machine, after: &Machine) -> Option<Moment> {
    match after.step() {
        Step::Provision { .. } if after.at() != before.at() => Some(after.entered()),
        Step::Provision { .. } | Step::Check => since,
        _ => None,
    }
}

fn answer(
    reply: Option<tokio::sync::oneshot::Sender<Result<(), EngineError>>>,
    answer: Result<(), EngineError>,
) {
    match (reply, answer) {
        // Nobody waits any more: the caller's own deadline was over.
        (Some(reply), answer) => drop(reply.send(answer)),
        (None, Err(error)) => debug!(%error, "another release's word came too late"),
        (None, Ok(())) => {}
    }
}
