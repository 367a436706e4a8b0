//! The threads. Each takes a step from the scheduler, does it outside the lock, and hands back what came of it.
//! Tokenizing and computing share the same threads, so cores are used once, and no step waits for another. A thread with
//! nothing to do assists one that computes: a single pair has all the cores too, and so has the last wave of many.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::batch::Batch;
use crate::engine::{Shared, State};
use crate::error::{Error, Result};
use crate::kernels::Crew;
use crate::model::Scratch;
use crate::request::{Pair, Text};
use crate::scheduler::{Step, Ticket};

/// Between two looks at a wave that has had no part for an assistant: its leader was in one that isn't shared, or its core was
/// taken from it.
const NAP: Duration = Duration::from_millis(1);

pub(crate) fn spawn(shared: &Arc<Shared>, threads: usize) -> Result<Vec<JoinHandle<()>>> {
    (0..threads)
        .map(|index| {
            let shared = shared.clone();
            let scratch = shared.model.scratch()?;
            let crew = Arc::new(Crew::new(shared.free.clone()));
            std::thread::Builder::new()
                .name(format!("rerankd-{index}"))
                .spawn(move || Worker { shared: &shared, scratch, crew }.run())
                .map_err(|e| Error::Device(format!("can't start thread {index} of {threads}: {e}")))
        })
        .collect()
}

struct Worker<'a> {
    shared: &'a Shared,
    scratch: Scratch,
    /// Those who assist when this thread computes.
    crew: Arc<Crew>,
}

/// A step that is done outside the lock.
enum Work {
    Tokenize(Ticket, Vec<Text>),
    Compute(Vec<(Ticket, Pair)>),
}

impl Worker<'_> {
    fn run(mut self) {
        while let Some(work) = self.next() {
            match work {
                Work::Tokenize(ticket, texts) => self.tokenize(ticket, texts),
                Work::Compute(wave) => self.compute(wave),
            }
        }
    }

    /// The next work; None when the engine stops.
    fn next(&self) -> Option<Work> {
        let mut state = self.shared.lock();
        loop {
            if state.stopped {
                return None;
            }
            match state.scheduler.next(Instant::now()) {
                Step::Tokenize { ticket, texts } => return Some(Work::Tokenize(ticket, texts)),
                Step::Compute(wave) => {
                    state.leads.push(self.crew.clone());
                    return Some(Work::Compute(wave));
                }
                Step::Expired(ticket) => {
                    state.stats.expired += 1;
                    state.fail(ticket, Error::Deadline("the deadline passed in the queue".into()));
                }
                Step::Spent { ticket, texts, pairs } => {
                    if let Some(request) = state.requests.get_mut(&ticket) {
                        request.give_up(texts.iter().map(|text| text.id));
                        request.give_up(pairs.iter().map(|pair| pair.id));
                    }
                    state.finish_if_done(ticket);
                }
                Step::Wait(until) => {
                    self.shared.free.fetch_add(1, Ordering::Relaxed);
                    state = self.wait(state, until);
                    self.shared.free.fetch_sub(1, Ordering::Relaxed);
                }
            }
        }
    }

    /// Until `until`, or a call: assists the lead that has the fewest assistants, or sleeps where nobody leads. No lead begins
    /// unseen by a sleeper: what makes a wave ready is followed by a call.
    fn wait<'a>(&'a self, mut state: MutexGuard<'a, State>, until: Option<Instant>) -> MutexGuard<'a, State> {
        let mut time = until.map(|at| at.saturating_duration_since(Instant::now()));
        if let Some(crew) = state.leads.iter().min_by_key(|crew| crew.assistants()).cloned() {
            let seen = self.shared.calls();
            drop(state);
            let called = || self.shared.calls() != seen || until.is_some_and(|until| until <= Instant::now());
            let look_again = crew.assist(called);
            state = self.shared.lock();
            if look_again || self.shared.calls() != seen {
                return state;
            }
            time = Some(time.map_or(NAP, |time| time.min(NAP)));
        }
        let work = &self.shared.work;
        match time {
            None => work.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(time) => work.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0,
        }
    }

    fn tokenize(&self, ticket: Ticket, texts: Vec<Text>) {
        let Some(query) = self.shared.lock().requests.get(&ticket).map(|request| request.query.clone())
        else {
            return; // cancelled
        };
        let started = Instant::now();
        let pairs = caught("tokenizing", || query.pairs(&self.shared.tokenizer, &texts));
        let mut state = self.shared.lock();
        let State { scheduler, requests, .. } = &mut *state;
        let Some(request) = requests.get_mut(&ticket) else { return };
        request.tokenized_in(started.elapsed());
        match pairs {
            Err(error) => state.fail(ticket, error),
            Ok(pairs) => {
                let sized = pairs.into_iter().map(|pair| {
                    let tokens = pair.encoded.ids.len();
                    (pair, tokens)
                });
                let undone = scheduler.tokenized(ticket, texts.len(), sized.collect());
                request.give_up(undone.iter().map(|pair| pair.id));
                state.finish_if_done(ticket);
            }
        }
        drop(state);
        self.shared.call();
    }

    fn compute(&mut self, wave: Vec<(Ticket, Pair)>) {
        let mut batch = Batch::new();
        for (_, pair) in &wave {
            batch.push(&pair.encoded.ids, &pair.encoded.types);
        }
        let started = Instant::now();
        let (model, scratch) = (&self.shared.model, &mut self.scratch);
        let logits = caught("a wave", || self.crew.lead(|| model.forward(&batch, scratch)))
            .and_then(|logits| finite(logits, &wave));
        let time = started.elapsed();
        if logits.is_err() {
            // What a panic leaves in the arena is unknown. Where even a new one can't be had, the next wave tries again.
            if let Ok(scratch) = model.scratch() {
                self.scratch = scratch;
            }
        }
        let mut state = self.shared.lock();
        state.leads.retain(|crew| !Arc::ptr_eq(crew, &self.crew));
        self.shared.dismiss();
        state.stats.waves += 1;
        state.stats.tokens += batch.tokens() as u64;
        state.stats.pairs += wave.len() as u64;
        match logits {
            Ok(logits) => deliver(&mut state, &wave, &logits, started, time),
            Err(error) => wave.iter().for_each(|(ticket, _)| state.fail(*ticket, error.clone())),
        }
    }
}

fn deliver(
    state: &mut State,
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
        request.computed_in(started, time);
        for index in pairs {
            request.score(&wave[index].1, logits[index]);
            state.scheduler.computed(ticket);
        }
        request.progress(ticket);
        state.finish_if_done(ticket);
    }
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
