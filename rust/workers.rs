//! The threads. Each takes a step from the scheduler, does it outside the lock, and hands back what came of it.
//! Tokenizing and computing share the same threads, so cores are used once, and no step waits for another. A thread with
//! nothing to do assists one that computes: a single pair has all the cores too, and so has the last wave of many.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::kernels::Crew;
use crate::model::Scratch;
use crate::pool::{Loaded, Shared, State};
use crate::request::{Pair, Query, Text};
use crate::scheduler::{ModelId, Step, Ticket};

/// Between two looks at a wave that has had no part for an assistant: its leader was in one that isn't shared, or its core was
/// taken from it.
const NAP: Duration = Duration::from_millis(1);

/// Starts the thread of this index.
pub(crate) fn spawn(shared: &Arc<Shared>, index: usize) -> Result<JoinHandle<()>> {
    let shared = shared.clone();
    let crew = Arc::new(Crew::new(shared.free.clone()));
    std::thread::Builder::new()
        .name(format!("rerankd-{index}"))
        .spawn(move || {
            let _post = Post { shared: &shared, index };
            Worker { shared: &shared, index, scratch: BTreeMap::new(), crew }.run();
        })
        .map_err(|e| Error::Device(format!("can't start thread {index}: {e}")))
}

/// Starts the thread that minds deadlines and budgets while all others may be in a wave: it never computes.
pub(crate) fn spawn_clock(shared: &Arc<Shared>) -> Result<JoinHandle<()>> {
    let shared = shared.clone();
    std::thread::Builder::new()
        .name("rerankd-clock".into())
        .spawn(move || {
            let mut state = shared.lock();
            while !state.stopped {
                if let Some(step) = state.scheduler.due(Instant::now()) {
                    take(&mut state, step);
                    continue;
                }
                let until = state.scheduler.timer();
                state = sleep(&shared.clock, state, until);
            }
        })
        .map_err(|e| Error::Device(format!("can't start the clock's thread: {e}")))
}

/// A thread's place in the pool: the pool knows when it is given up.
struct Post<'a> {
    shared: &'a Shared,
    index: usize,
}

impl Drop for Post<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.alive -= 1;
        if state.steps[self.index].take().is_some() {
            state.scheduler.ended(Instant::now(), 0);
        }
        if std::thread::panicking() {
            // A fault in the bookkeeping itself: whose work this thread had in hand is not known, and all are told.
            state.fail_all(|_| true, &Error::Internal(format!("thread {} died", self.index)));
        }
    }
}

struct Worker<'a> {
    shared: &'a Shared,
    index: usize,
    /// An arena for each model that this thread has run.
    scratch: BTreeMap<ModelId, Scratch>,
    /// Those who assist when this thread computes.
    crew: Arc<Crew>,
}

/// A step that is done outside the lock.
enum Work {
    Tokenize { loaded: Arc<Loaded>, ticket: Ticket, query: Arc<Query>, first: usize, texts: Vec<Text> },
    Compute { loaded: Arc<Loaded>, model: ModelId, wave: Vec<(Ticket, Pair)> },
}

impl Worker<'_> {
    fn run(mut self) {
        while let Some(work) = self.next() {
            match work {
                Work::Tokenize { loaded, ticket, query, first, texts } => {
                    self.tokenize(&loaded, ticket, &query, first, &texts);
                }
                Work::Compute { loaded, model, wave } => self.compute(&loaded, model, &wave),
            }
        }
    }

    /// The next work; None when the pool stops.
    fn next(&mut self) -> Option<Work> {
        let shared = self.shared;
        let mut state = shared.lock();
        state.steps[self.index] = None;
        loop {
            if state.stopped {
                return None;
            }
            let now = Instant::now();
            match state.scheduler.next(now) {
                Step::Wait(until) => {
                    shared.free.fetch_add(1, Ordering::Relaxed);
                    state = wait(shared, state, until);
                    shared.free.fetch_sub(1, Ordering::Relaxed);
                }
                step => {
                    let handed_out = matches!(step, Step::Tokenize { .. } | Step::Compute { .. });
                    let model = if let Step::Compute { model, .. } = step { Some(model) } else { None };
                    let Some(work) = take(&mut state, step) else {
                        if handed_out {
                            state.scheduler.ended(now, 0);
                        }
                        if let Some(model) = model {
                            state.scheduler.landed(model);
                        }
                        continue;
                    };
                    state.steps[self.index] = Some(now);
                    if let Work::Compute { loaded, .. } = &work {
                        // A GPU's wave has no parts for other threads.
                        if loaded.model.waves().is_none() {
                            state.leads.push(self.crew.clone());
                        }
                        self.scratch.retain(|model, _| state.models.contains_key(model));
                    }
                    return Some(work);
                }
            }
        }
    }

    fn tokenize(&self, loaded: &Loaded, ticket: Ticket, query: &Query, first: usize, texts: &[Text]) {
        let started = Instant::now();
        let pairs = caught("tokenizing", || query.pairs(&loaded.tokenizer, texts));
        let mut state = self.shared.lock();
        let State { scheduler, requests, .. } = &mut *state;
        scheduler.ended(Instant::now(), 0);
        let Some(request) = requests.get_mut(&ticket) else { return };
        request.tokenized_in(started.elapsed());
        match pairs {
            Err(error) => state.fail(ticket, error),
            Ok(pairs) => {
                let sized = pairs.into_iter().map(|pair| {
                    let tokens = pair.encoded.ids.len();
                    (pair, tokens)
                });
                let undone = scheduler.tokenized(ticket, first, sized.collect());
                request.give_up(ticket, undone.iter().map(|pair| pair.id));
                state.finish_if_done(ticket);
            }
        }
        drop(state);
        self.shared.call();
    }

    fn compute(&mut self, loaded: &Loaded, model: ModelId, wave: &[(Ticket, Pair)]) {
        let started = Instant::now();
        let logits = self.logits(loaded, model, wave).and_then(|logits| finite(logits, wave));
        let time = started.elapsed();
        let tokens = tokens(wave);
        if logits.is_err() {
            // What a panic leaves in the arena is unknown.
            self.scratch.remove(&model);
        }
        let mut state = self.shared.lock();
        state.scheduler.ended(started + time, tokens);
        state.scheduler.landed(model);
        state.leads.retain(|crew| !Arc::ptr_eq(crew, &self.crew));
        self.shared.dismiss();
        state.count(model, |counters| {
            counters.waves += 1;
            counters.tokens += tokens as u64;
            counters.pairs += wave.len() as u64;
            counters.wave_tokens.observe(tokens as u64);
        });
        match logits {
            Ok(logits) => deliver(&mut state, model, wave, &logits, started, time),
            Err(Error::Lost(why)) => state.lose(&why),
            Err(error) => wave.iter().for_each(|(ticket, _)| state.fail(*ticket, error.clone())),
        }
        drop(state);
        if loaded.model.waves().is_some() {
            // There is room for a wave that may be ready, and this thread may go on to tokenize.
            self.shared.call();
        }
    }

    /// A wave's logits. One that a GPU has no memory for is done in halves, and waves are no larger from then on.
    fn logits(&mut self, loaded: &Loaded, model: ModelId, wave: &[(Ticket, Pair)]) -> Result<Vec<f32>> {
        let mut batch = Batch::new();
        for (_, pair) in wave {
            batch.push(&pair.encoded.ids, &pair.encoded.types);
        }
        match self.forward(loaded, model, &batch) {
            Err(Error::Memory(_)) if wave.len() > 1 => {
                self.shared.lock().scheduler.shrink(model, batch.tokens() / 2);
                let (first, second) = wave.split_at(wave.len() / 2);
                let mut logits = self.logits(loaded, model, first)?;
                logits.extend(self.logits(loaded, model, second)?);
                Ok(logits)
            }
            logits => logits,
        }
    }

    /// The wave's logits, with the help of who is free. A model's arena is made when the thread first runs it.
    fn forward(&mut self, loaded: &Loaded, model: ModelId, batch: &Batch) -> Result<Vec<f32>> {
        let scratch = match self.scratch.entry(model) {
            Entry::Occupied(made) => made.into_mut(),
            Entry::Vacant(place) => place.insert(loaded.model.scratch()?),
        };
        caught("a wave", || {
            #[cfg(test)]
            self.shared.fault(batch)?;
            self.crew.lead(|| loaded.model.forward(batch, scratch))
        })
    }
}

/// Until `until`, or a call: assists the lead that has the fewest assistants, or sleeps where nobody leads. No lead begins
/// unseen by a sleeper: what makes a wave ready is followed by a call.
fn wait<'a>(
    shared: &'a Shared,
    mut state: MutexGuard<'a, State>,
    until: Option<Instant>,
) -> MutexGuard<'a, State> {
    let mut time = until.map(|at| at.saturating_duration_since(Instant::now()));
    if let Some(crew) = state.leads.iter().min_by_key(|crew| crew.assistants()).cloned() {
        let seen = shared.calls();
        drop(state);
        let called = || shared.calls() != seen || until.is_some_and(|until| until <= Instant::now());
        let look_again = crew.assist(called);
        state = shared.lock();
        if look_again || shared.calls() != seen {
            return state;
        }
        time = Some(time.map_or(NAP, |time| time.min(NAP)));
    }
    sleep(&shared.work, state, time.map(|time| Instant::now() + time))
}

/// Sleeps until then, or a notice.
fn sleep<'a>(on: &Condvar, state: MutexGuard<'a, State>, until: Option<Instant>) -> MutexGuard<'a, State> {
    match until.map(|at| at.saturating_duration_since(Instant::now())) {
        None => on.wait(state).unwrap_or_else(PoisonError::into_inner),
        Some(time) => on.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0,
    }
}

/// What is to be done outside the lock for this step, if anything.
fn take(state: &mut State, step: Step<Text, Pair>) -> Option<Work> {
    match step {
        Step::Tokenize { ticket, first, texts } => {
            let request = state.requests.get(&ticket)?;
            let loaded = state.models.get(&request.model)?.loaded.clone();
            Some(Work::Tokenize { loaded, ticket, query: request.query.clone(), first, texts })
        }
        Step::Compute { model, pairs: wave } => {
            let loaded = state.models.get(&model)?.loaded.clone();
            Some(Work::Compute { loaded, model, wave })
        }
        Step::Expired(ticket) => {
            if let Some(model) = state.requests.get(&ticket).map(|request| request.model) {
                state.count(model, |counters| counters.expired += 1);
            }
            state.fail(
                ticket,
                Error::Deadline("the deadline passed in the queue, or could not be met any more".into()),
            );
            None
        }
        Step::Spent { ticket, texts, pairs } => {
            if let Some(request) = state.requests.get_mut(&ticket) {
                let texts = texts.iter().map(|text| text.id);
                request.give_up(ticket, texts.chain(pairs.iter().map(|pair| pair.id)));
            }
            state.finish_if_done(ticket);
            None
        }
        Step::Wait(_) => None,
    }
}

fn deliver(
    state: &mut State,
    model: ModelId,
    wave: &[(Ticket, Pair)],
    logits: &[f32], // [pairs]
    started: Instant,
    time: Duration,
) {
    // By ticket: a wave mixes requests, and each is told once.
    let mut tickets: BTreeMap<Ticket, Vec<usize>> = BTreeMap::new();
    for (index, (ticket, _)) in wave.iter().enumerate() {
        tickets.entry(*ticket).or_default().push(index);
    }
    for (ticket, pairs) in tickets {
        let Some(request) = state.requests.get_mut(&ticket) else { continue };
        let waited = request.computed_in(started, time);
        for index in pairs {
            request.score(&wave[index].1, logits[index]);
            state.scheduler.computed(ticket);
        }
        request.progress(ticket);
        if let Some(waited) = waited {
            state.count(model, |counters| counters.queue_us.observe(waited.as_micros() as u64));
        }
        state.finish_if_done(ticket);
    }
}

fn tokens(wave: &[(Ticket, Pair)]) -> usize {
    wave.iter().map(|(_, pair)| pair.encoded.ids.len()).sum()
}

/// A score must order: a NaN or an infinity means weights or kernels that are broken.
fn finite(logits: Vec<f32>, wave: &[(Ticket, Pair)]) -> Result<Vec<f32>> {
    match logits.iter().position(|logit| !logit.is_finite()) {
        None => Ok(logits),
        Some(index) => Err(Error::Internal(format!(
            "the model gave {} for context {} of ticket {}",
            logits[index], wave[index].1.id, wave[index].0
        ))),
    }
}

/// A panic in `work` becomes an error of those who asked for it; the engine goes on.
fn caught<R>(what: &str, work: impl FnOnce() -> Result<R>) -> Result<R> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        Err(Error::Internal(format!("{what} panicked: {text}")))
    })
}

#[cfg(test)]
#[path = "workers_tests.rs"]
mod tests;
