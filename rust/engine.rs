//! The engine: a model, a tokenizer, a queue and the threads that work it off.
//!
//! `submit` hands a request in and returns at once; `workers` tokenize it and run its waves; its scores arrive in the
//! `Completions` that it brought. One lock guards the queue; it is never held while tokenizing or computing.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::completions::Completions;
use crate::device::{Choice, Device};
use crate::error::{Error, Result};
use crate::kernels::Crew;
use crate::model::Model;
use crate::model::packed::Form;
use crate::request::{Completion, Job, Pair, Query, Request, Text};
use crate::scheduler::{Limits, Scheduler, Ticket};
use crate::tokenize::PairTokenizer;
use crate::workers;

/// What the operator wants; every value is given, none is a default of ours.
pub struct Options {
    pub directory: PathBuf,
    pub device: String,
    pub dtype: String,
    pub threads: Option<usize>,
    pub kernels: String,
    pub emulate: bool,
    pub max_tokens: Option<usize>,
    pub wave_tokens: usize,
    pub queue_tokens: usize,
}

/// Gauges and counters since the start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stats {
    pub queue_tokens: u64,
    pub tickets: u64,
    pub waves: u64,
    pub pairs: u64,
    pub tokens: u64,
    pub cancelled: u64,
    pub expired: u64,
    pub refused: u64,
    pub failed: u64,
}

pub struct Engine {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    device: Device,
    max_tokens: usize,
}

/// What callers and workers have in common.
pub(crate) struct Shared {
    pub model: Model,
    pub tokenizer: PairTokenizer,
    state: Mutex<State>,
    /// Where threads sleep that have nothing to do and nobody to assist.
    pub work: Condvar,
    /// Goes up when there may be something new to do: what an assistant watches, who holds no lock.
    calls: AtomicU64,
    /// Threads that assist, or would.
    pub free: Arc<AtomicUsize>,
}

pub(crate) struct State {
    pub scheduler: Scheduler<Text, Pair>,
    pub requests: HashMap<Ticket, Request>,
    pub stats: Stats,
    /// The crews of the threads that are in a wave.
    pub leads: Vec<Arc<Crew>>,
    pub stopped: bool,
    draining: bool,
    tickets: Ticket,
}

impl Engine {
    /// Loads a checkpoint and starts the threads.
    pub fn load(options: &Options) -> Result<Self> {
        let device = resolve(options)?;
        for (field, value) in [("wave_tokens", options.wave_tokens), ("queue_tokens", options.queue_tokens)] {
            if value == 0 {
                return Err(Error::input(field, "must be at least 1"));
            }
        }
        let (model, tokenizer) = load(&options.directory, &device)?;
        let max_tokens = limit(options.max_tokens, tokenizer.max_tokens())?;
        let limits = Limits {
            threads: device.threads,
            wave_tokens: options.wave_tokens,
            queue_tokens: options.queue_tokens,
        };
        let state = State {
            scheduler: Scheduler::new(limits),
            requests: HashMap::new(),
            stats: Stats::default(),
            leads: Vec::new(),
            stopped: false,
            draining: false,
            tickets: 0,
        };
        let shared = Arc::new(Shared {
            model,
            tokenizer,
            state: Mutex::new(state),
            work: Condvar::new(),
            calls: AtomicU64::new(0),
            free: Arc::default(),
        });
        let threads = workers::spawn(&shared, device.threads)?;
        Ok(Self { shared, threads: Mutex::new(threads), device, max_tokens })
    }

    /// Queues a request; its completions follow. Never blocks on the model.
    pub fn submit(&self, job: Job, completions: Arc<Completions<Completion>>) -> Result<Ticket> {
        let now = Instant::now();
        if job.query.is_empty() {
            return Err(Error::input("query", "is empty; a question is needed"));
        }
        check_texts(&job.contexts, 0)?;
        let max_tokens = limit(job.max_tokens, self.max_tokens)?;
        let query = Query::new(job.query.clone(), max_tokens, job.overflow);
        let mut state = self.shared.lock();
        if state.draining || state.stopped {
            state.stats.refused += 1;
            return Err(Error::Overloaded("this server is shutting down".into()));
        }
        let tokens = job.contexts.iter().map(|text| estimate(&query, text)).sum();
        if !state.scheduler.admits(tokens) {
            state.stats.refused += 1;
            return Err(Error::Overloaded(format!(
                "the queue holds {} tokens, and this request's {tokens} would pass its limit",
                state.scheduler.queued_tokens()
            )));
        }
        state.tickets += 1;
        let ticket = state.tickets;
        state.scheduler.open(ticket, job.priority, job.deadline, job.budget);
        let request = Request::new(query, &job, now, completions);
        state.requests.insert(ticket, request);
        state.push(ticket, job.contexts, job.more);
        drop(state);
        self.shared.call();
        Ok(ticket)
    }

    /// Adds contexts to an open request; without `more` it is closed. A finished ticket ignores the call.
    pub fn extend(&self, ticket: Ticket, contexts: Vec<String>, more: bool) -> Result<()> {
        let mut state = self.shared.lock();
        let Some(request) = state.requests.get(&ticket) else { return Ok(()) };
        if !request.open {
            return Err(Error::Internal(format!("ticket {ticket} is closed")));
        }
        check_texts(&contexts, request.contexts)?;
        state.push(ticket, contexts, more);
        drop(state);
        self.shared.call();
        Ok(())
    }

    /// Frees a request's place at once; nothing more of it is completed. Unknown tickets are ignored.
    pub fn cancel(&self, ticket: Ticket) {
        let mut state = self.shared.lock();
        if state.requests.remove(&ticket).is_some() {
            state.scheduler.remove(ticket);
            state.stats.cancelled += 1;
        }
    }

    /// Refuses what is new from now on; what is queued is still served.
    pub fn drain(&self) {
        self.shared.lock().draining = true;
    }

    /// Stops the threads after the waves they are in; what is queued fails. Blocks for those waves.
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
        let waiting: Vec<Ticket> = state.requests.keys().copied().collect();
        for ticket in waiting {
            state.fail(ticket, Error::Overloaded("this server is shutting down".into()));
        }
        drop(state);
        self.shared.call();
    }

    pub fn stats(&self) -> Stats {
        let state = self.shared.lock();
        Stats {
            queue_tokens: state.scheduler.queued_tokens() as u64,
            tickets: state.requests.len() as u64,
            ..state.stats
        }
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The checkpoint's model_type.
    pub fn architecture(&self) -> &str {
        &self.shared.model.config().model_type
    }

    pub fn revision(&self) -> &str {
        self.shared.model.revision()
    }

    /// Tokens per pair, special tokens included.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }
}

impl Drop for Engine {
    /// Without waiting: the threads hold what they need, and end after the waves they are in.
    fn drop(&mut self) {
        self.stop();
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

impl State {
    fn push(&mut self, ticket: Ticket, contexts: Vec<String>, more: bool) {
        let Some(request) = self.requests.get_mut(&ticket) else { return };
        let first = request.contexts;
        request.contexts += contexts.len() as u32;
        request.open = more;
        let query = request.query.clone();
        let texts = (first..).zip(contexts).map(|(id, text)| {
            let tokens = estimate(&query, &text);
            (Text { id, text }, tokens)
        });
        let undone = self.scheduler.push(ticket, texts);
        request.give_up(undone.into_iter().map(|text| text.id));
        if !more {
            self.scheduler.close(ticket);
            self.finish_if_done(ticket);
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
            self.stats.failed += 1;
            request.fail(ticket, error);
        }
    }
}

/// The device that the options ask for. A packed checkpoint has chosen its precision and kernels already.
fn resolve(options: &Options) -> Result<Device> {
    if !options.directory.is_dir() {
        return Err(Error::model(&options.directory, "there is no such directory"));
    }
    let form = Form::of_directory(&options.directory)?;
    let chosen = |field: &str, asked: &str, packed: Option<&String>| match packed {
        Some(packed) if asked != "auto" && asked != packed => Err(Error::input(
            field,
            format!("{asked} was asked for, but {} is packed for {packed}", options.directory.display()),
        )),
        Some(packed) => Ok(packed.clone()),
        None => Ok(asked.to_string()),
    };
    Device::resolve(&Choice {
        device: &options.device,
        dtype: &chosen("dtype", &options.dtype, form.as_ref().map(|form| &form.dtype))?,
        threads: options.threads,
        kernels: &chosen("kernels", &options.kernels, form.as_ref().map(|form| &form.kernels))?,
        emulate: options.emulate,
    })
}

/// Saves the checkpoint in `directory` packed for this machine, or for the options' kernels: `out/model.safetensors`.
pub fn pack(directory: &Path, out: &Path, dtype: &str, kernels: &str, emulate: bool) -> Result<Device> {
    let device = Device::resolve(&Choice { device: "cpu", dtype, threads: Some(1), kernels, emulate })?;
    let isa = device.compute.narrow.map_or(device.compute.kernels.name(), |narrow| narrow.isa().name());
    let form = Form { dtype: device.dtype.to_string(), kernels: isa.to_string() };
    Model::pack(directory, device.compute, &form, out)?;
    Ok(device)
}

fn load(directory: &Path, device: &Device) -> Result<(Model, PairTokenizer)> {
    // The tokenizer of a large vocabulary takes as long to read as the weights take to pack: side by side.
    let config = crate::model::config::ModelConfig::load(directory)?;
    std::thread::scope(|scope| {
        let tokenizer = scope
            .spawn(|| PairTokenizer::load(directory, config.position_limit(), config.types, config.vocab));
        let model = Model::load(directory, device.compute, device.threads)?;
        let tokenizer = tokenizer.join().map_err(|_| {
            Error::model(&directory.join("tokenizer.json"), "the tokenizer library failed on it")
        })??;
        Ok((model, tokenizer))
    })
}

/// A pair's limit: what is asked for, at most what there is.
fn limit(asked: Option<usize>, most: usize) -> Result<usize> {
    match asked {
        None => Ok(most),
        Some(asked) if (1..=most).contains(&asked) => Ok(asked),
        Some(asked) => {
            Err(Error::input("max_tokens", format!("{asked} is not between 1 and {most}, the most there is")))
        }
    }
}

fn check_texts(contexts: &[String], first: u32) -> Result<()> {
    match contexts.iter().position(String::is_empty) {
        None => Ok(()),
        Some(index) => Err(Error::input(
            format!("contexts[{}].text", first as usize + index),
            "is empty; leave the context out, or give it text",
        )),
    }
}

/// A pair's tokens before it is tokenized: text averages four bytes a token, and a pair never passes its limit.
fn estimate(query: &Query, text: &str) -> usize {
    ((query.bytes() + text.len()) / 4 + 3).min(query.max_tokens)
}
