//! What the models of a process share: the threads, the queue that they work off, and the limit on what it holds.
//!
//! One lock guards the queue; it is never held while tokenizing or computing.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::admission::TOKEN_BYTES;
#[cfg(test)]
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::histogram::{Histogram, WAIT_US, WAVE_TOKENS};
use crate::kernels::Crew;
use crate::model::Model;
use crate::request::{Pair, Request, Text};
use crate::scheduler::{Bounds, Limits, ModelId, Scheduler, Ticket};
use crate::tokenize::PairTokenizer;
use crate::workers;

pub struct Pool {
    shared: Arc<Shared>,
    limits: Limits,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// The whole pool at one moment.
#[derive(Debug, Clone, Copy)]
pub struct PoolStats {
    /// Tokens that wait.
    pub queue_tokens: u64,
    /// Tokens that the requests in work were admitted for.
    pub held_tokens: u64,
    /// Requests in work.
    pub tickets: u64,
    /// Threads that are alive: fewer than there were means a fault that none of them could catch.
    pub threads: u64,
    /// Whether a GPU is lost: what it had in hand has failed, and all that comes is refused.
    pub lost: bool,
    /// How long the step has been going on that is the longest in work; zero where all threads are idle. No step is more than
    /// a wave, or a few texts to tokenize, so what goes on for minutes is stuck, whatever the load.
    pub oldest_step: Duration,
}

/// Counters of one model since it was loaded.
#[derive(Debug, Clone)]
pub struct Counters {
    pub waves: u64,
    pub pairs: u64,
    pub tokens: u64,
    pub cancelled: u64,
    pub expired: u64,
    pub refused: u64,
    pub failed: u64,
    /// Tokens per wave.
    pub wave_tokens: Histogram,
    /// Microseconds from a request's acceptance to its first wave, less tokenizing.
    pub queue_us: Histogram,
}

/// What callers and workers have in common.
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Where threads sleep that have nothing to do and nobody to assist.
    pub work: Condvar,
    /// Where the thread sleeps that minds deadlines and budgets: told when there is an earlier one.
    pub clock: Condvar,
    /// Goes up when there may be something new to do: what an assistant watches, who holds no lock.
    calls: AtomicU64,
    /// Threads that assist, or would.
    pub free: Arc<AtomicUsize>,
    /// What tests have done at the beginning of a wave.
    #[cfg(test)]
    pub fault: Mutex<Option<Fault>>,
}

/// What becomes of a wave that a test has plans for.
#[cfg(test)]
pub(crate) type Fault = Box<dyn FnMut(&Batch) -> Result<()> + Send>;

/// A model and its tokenizer.
pub(crate) struct Loaded {
    pub model: Model,
    pub tokenizer: PairTokenizer,
}

/// A model that the pool serves.
pub(crate) struct Served {
    pub loaded: Arc<Loaded>,
    pub counters: Counters,
    /// Refuses what is new.
    pub draining: bool,
}

pub(crate) struct State {
    pub scheduler: Scheduler<Text, Pair>,
    pub requests: HashMap<Ticket, Request>,
    pub models: BTreeMap<ModelId, Served>,
    /// The crews of the threads that are in a wave.
    pub leads: Vec<Arc<Crew>>,
    /// Since when each thread has been in its step; None: it is idle, or dead.
    pub steps: Vec<Option<Instant>>,
    pub alive: usize,
    /// Why a GPU answers nothing any more. Its context can't be made anew in this process.
    pub lost: Option<String>,
    pub stopped: bool,
    tickets: Ticket,
    next_model: ModelId,
}

impl Pool {
    /// Starts the threads. The limits are all at least 1.
    pub fn new(limits: Limits) -> Result<Self> {
        for (field, value) in [
            ("threads", limits.threads),
            ("wave_tokens", limits.wave_tokens),
            ("queue_tokens", limits.queue_tokens),
        ] {
            if value == 0 {
                return Err(Error::input(field, "must be at least 1"));
            }
        }
        let state = State {
            scheduler: Scheduler::new(limits),
            requests: HashMap::new(),
            models: BTreeMap::new(),
            leads: Vec::new(),
            steps: vec![None; limits.threads],
            alive: limits.threads,
            lost: None,
            stopped: false,
            tickets: 0,
            next_model: 0,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            work: Condvar::new(),
            clock: Condvar::new(),
            calls: AtomicU64::new(0),
            free: Arc::default(),
            #[cfg(test)]
            fault: Mutex::default(),
        });
        let pool = Self { shared, limits, threads: Mutex::default() };
        // In the pool from the first on: where one can't be started, those that could are stopped.
        for index in 0..limits.threads {
            let thread = workers::spawn(&pool.shared, index)?;
            pool.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        let clock = workers::spawn_clock(&pool.shared)?;
        pool.threads.lock().unwrap_or_else(PoisonError::into_inner).push(clock);
        Ok(pool)
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The most memory, in bytes, that requests take together, from their messages to their answers.
    pub fn queue_bytes(&self) -> usize {
        self.limits.most_tokens().saturating_mul(TOKEN_BYTES)
    }

    pub fn stats(&self) -> PoolStats {
        let (state, now) = (self.shared.lock(), Instant::now());
        let begun = state.steps.iter().flatten().min();
        PoolStats {
            queue_tokens: state.scheduler.queued_tokens() as u64,
            held_tokens: state.scheduler.held_tokens() as u64,
            tickets: state.requests.len() as u64,
            threads: state.alive as u64,
            lost: state.lost.is_some(),
            oldest_step: begun.map_or(Duration::ZERO, |begun| now.saturating_duration_since(*begun)),
        }
    }

    /// Stops the threads after the steps they are in; what is queued fails. Blocks for those steps.
    pub fn close(&self) {
        self.stop();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // A worker catches its panics; one that died all the same has nothing more to say.
            let _ = thread.join();
        }
    }

    fn stop(&self) {
        let mut state = self.shared.lock();
        state.stopped = true;
        state.fail_all(|_| true, &Error::Overloaded("this server is shutting down".into()));
        drop(state);
        self.shared.call();
        self.shared.clock.notify_all();
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Drop for Pool {
    /// Without waiting: the threads hold what they need, and end after the steps they are in.
    fn drop(&mut self) {
        self.stop();
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            waves: 0,
            pairs: 0,
            tokens: 0,
            cancelled: 0,
            expired: 0,
            refused: 0,
            failed: 0,
            wave_tokens: Histogram::new(WAVE_TOKENS),
            queue_us: Histogram::new(WAIT_US),
        }
    }
}

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        // The state is changed in whole steps, none of which can panic halfway with another's work in hand.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has every idle thread look for work: after a change of the state, and out of the lock.
    pub fn call(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.work.notify_all();
    }

    /// Has assistants look again, who might wait for the parts of a wave that is over.
    pub fn dismiss(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// Read under the lock, it tells later whether there has been a call since.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
impl Shared {
    pub fn fault(&self, batch: &Batch) -> Result<()> {
        let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        fault.as_mut().map_or(Ok(()), |fault| fault(batch))
    }
}

impl State {
    /// Takes a model into service. gpu_wave_tokens: the largest wave, if it is on GPUs.
    pub fn serve(&mut self, loaded: Arc<Loaded>, gpu_wave_tokens: usize) -> ModelId {
        self.next_model += 1;
        if let Some(waves) = loaded.model.waves() {
            self.scheduler.bound(self.next_model, Bounds { waves, wave_tokens: gpu_wave_tokens });
        }
        self.models
            .insert(self.next_model, Served { loaded, counters: Counters::default(), draining: false });
        self.next_model
    }

    /// Takes a model out of service.
    pub fn dismiss(&mut self, model: ModelId) {
        self.models.remove(&model);
        self.scheduler.unbound(model);
    }

    /// A GPU is lost: all are told, and those who come will be.
    pub fn lose(&mut self, why: &str) {
        self.lost = Some(why.to_string());
        self.fail_all(|_| true, &Error::Lost(why.to_string()));
    }

    pub fn next_ticket(&mut self) -> Ticket {
        self.tickets += 1;
        self.tickets
    }

    /// A model's counters, for one more of something; of a model that is gone nothing is counted.
    pub fn count(&mut self, model: ModelId, what: impl FnOnce(&mut Counters)) {
        if let Some(served) = self.models.get_mut(&model) {
            what(&mut served.counters);
        }
    }

    pub fn finish_if_done(&mut self, ticket: Ticket) {
        if self.scheduler.finished(ticket) {
            self.scheduler.remove(ticket);
            if let Some(request) = self.requests.remove(&ticket) {
                request.finish(ticket);
            }
        }
    }

    pub fn fail(&mut self, ticket: Ticket, error: Error) {
        self.scheduler.remove(ticket);
        if let Some(request) = self.requests.remove(&ticket) {
            self.count(request.model, |counters| counters.failed += 1);
            request.fail(ticket, error);
        }
    }

    /// Fails the requests of these models.
    pub fn fail_all(&mut self, these: impl Fn(ModelId) -> bool, error: &Error) {
        let mine = self.requests.iter().filter(|(_, request)| these(request.model));
        let tickets: Vec<Ticket> = mine.map(|(ticket, _)| *ticket).collect();
        for ticket in tickets {
            self.fail(ticket, error.clone());
        }
    }
}
