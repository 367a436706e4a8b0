//! The engine: a model and a tokenizer in a pool, which has the queue and the threads.
//!
//! `submit` hands a request in and returns at once; `workers` tokenize it and run its waves; its scores arrive in the
//! `Completions` that it brought.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::admission::Terms;
use crate::completions::Completions;
use crate::device::{Choice, Device};
use crate::error::{Error, Overload, Result};
use crate::model::packed::Form;
use crate::model::{self, Model};
use crate::pool::{Counters, Loaded, Pool, State};
use crate::request::{Completion, Job, Query, Request, Text};
use crate::scheduler::{Ask, ModelId, Refusal, Ticket};
use crate::tokenize::PairTokenizer;

/// What the operator wants; every value is given, none is a default of ours.
pub struct Options {
    pub directory: PathBuf,
    pub device: String,
    pub dtype: String,
    pub kernels: String,
    pub emulate: bool,
    pub max_tokens: Option<usize>,
    /// The largest wave where it is computed on GPUs.
    pub gpu_wave_tokens: usize,
}

/// One model at one moment.
#[derive(Debug, Clone)]
pub struct Stats {
    /// Tokens that wait.
    pub queue_tokens: u64,
    /// Requests in work.
    pub tickets: u64,
    pub counters: Counters,
}

pub struct Engine {
    pool: Arc<Pool>,
    model: ModelId,
    loaded: Arc<Loaded>,
    device: Device,
    max_tokens: usize,
    gpu_wave_tokens: usize,
}

impl Engine {
    /// Loads a checkpoint, to be run by the pool's threads beside its other models.
    pub fn load(pool: Arc<Pool>, options: &Options) -> Result<Self> {
        let device = resolve(options, pool.limits().threads)?;
        let (model, tokenizer) = load(&options.directory, &device)?;
        let max_tokens = limit(options.max_tokens, tokenizer.max_tokens())?;
        let gpu_wave_tokens = options.gpu_wave_tokens;
        if gpu_wave_tokens == 0 {
            return Err(Error::input("gpu_wave_tokens", "must be at least 1"));
        }
        let loaded = Arc::new(Loaded { model, tokenizer });
        let served = pool.shared().lock().serve(loaded.clone(), gpu_wave_tokens);
        Ok(Self { pool, model: served, loaded, device, max_tokens, gpu_wave_tokens })
    }

    /// Queues a request; its completions follow. Never blocks on the model.
    pub fn submit(&self, job: Job, completions: Arc<Completions<Completion>>) -> Result<Ticket> {
        let now = Instant::now();
        if job.query.is_empty() {
            return Err(Error::input("query", "is empty; a question is needed"));
        }
        check_texts(&job.contexts, 0)?;
        let max_tokens = limit(job.max_tokens, self.max_tokens)?;
        let terms = Terms {
            query_bytes: job.query.len(),
            max_tokens,
            overflow: job.overflow,
            keeps_texts: job.keeps_texts,
            window: job.more.then(|| self.window()),
        };
        let query = Query::new(job.query.clone(), max_tokens, job.overflow);
        let work = terms.works(&job.contexts);
        let holds = terms.request().saturating_add(terms.contexts(&job.contexts, job.key_bytes));
        let mut state = self.pool.shared().lock();
        if let Some(why) = &state.lost {
            return Err(Error::Lost(why.clone()));
        }
        let draining = state.models.get(&self.model).is_none_or(|served| served.draining);
        let (model, priority, deadline, budget) = (self.model, job.priority, job.deadline, job.budget);
        let refused = if draining || state.stopped {
            Some("this server is shutting down".into())
        } else {
            let ask = Ask { model, priority, holds, work, deadline, budget };
            state.scheduler.refuses(&ask, now).map(|refusal| refused(&state, &ask, refusal))
        };
        if let Some(why) = refused {
            state.count(self.model, |counters| counters.refused += 1);
            return Err(Error::Overloaded(why));
        }
        let timer = state.scheduler.timer();
        let ticket = state.next_ticket();
        state.scheduler.open(ticket, model, priority, deadline, budget);
        state.scheduler.hold(ticket, holds);
        let request = Request::new(self.model, terms, query, &job, now, completions);
        state.requests.insert(ticket, request);
        push(&mut state, ticket, job.contexts, job.more);
        let sooner = state.scheduler.timer() != timer;
        drop(state);
        self.pool.shared().call();
        if sooner {
            self.pool.shared().clock.notify_one();
        }
        Ok(ticket)
    }

    /// Adds contexts to an open request; without `more` it is closed. A finished ticket ignores the call. What waits of it is
    /// the caller's to bound, by `waiting` and `window`; what it keeps of them is refused where it is too much.
    pub fn extend(&self, ticket: Ticket, contexts: Vec<String>, key_bytes: usize, more: bool) -> Result<()> {
        let mut state = self.pool.shared().lock();
        let Some(request) = state.requests.get(&ticket) else { return Ok(()) };
        if !request.open {
            return Err(Error::Internal(format!("ticket {ticket} is closed")));
        }
        check_texts(&contexts, request.contexts)?;
        let tokens = request.terms.contexts(&contexts, key_bytes);
        if state.requests.len() > 1 && !state.scheduler.admits_more(tokens) {
            let message = full(&state, tokens, "message");
            state.count(self.model, |counters| counters.refused += 1);
            return Err(Error::Overloaded(Overload { message, retry_after: None }));
        }
        state.scheduler.hold(ticket, tokens);
        push(&mut state, ticket, contexts, more);
        drop(state);
        self.pool.shared().call();
        Ok(())
    }

    /// A ticket's tokens that wait; 0 for one that has ended.
    pub fn waiting(&self, ticket: Ticket) -> usize {
        self.pool.shared().lock().scheduler.waiting(ticket)
    }

    /// Tokens that should wait of a stream at a time: two waves for each thread keep them all busy while more is fetched,
    /// and no stream is admitted for more than a small part of the queue.
    pub fn window(&self) -> usize {
        const STREAMS: usize = 256;
        let limits = self.pool.limits();
        let (waves, wave_tokens) = match self.loaded.model.waves() {
            None => (limits.threads, limits.wave_tokens),
            Some(waves) => (waves, self.gpu_wave_tokens),
        };
        (2 * waves * wave_tokens).min(limits.queue_tokens / STREAMS).max(1)
    }

    /// Frees a request's place at once; nothing more of it is completed. Unknown tickets are ignored.
    pub fn cancel(&self, ticket: Ticket) {
        let mut state = self.pool.shared().lock();
        if state.requests.remove(&ticket).is_some() {
            state.scheduler.remove(ticket);
            state.count(self.model, |counters| counters.cancelled += 1);
        }
    }

    /// Refuses what is new from now on; what is queued is still served.
    pub fn drain(&self) {
        if let Some(served) = self.pool.shared().lock().models.get_mut(&self.model) {
            served.draining = true;
        }
    }

    /// Refuses what is new, and fails what is queued. The pool goes on.
    pub fn close(&self) {
        self.drain();
        let closed = Error::Overloaded("this server is shutting down".into());
        self.pool.shared().lock().fail_all(|model| model == self.model, &closed);
    }

    pub fn stats(&self) -> Stats {
        let state = self.pool.shared().lock();
        let mine = || state.requests.iter().filter(|(_, request)| request.model == self.model);
        Stats {
            queue_tokens: mine().map(|(ticket, _)| state.scheduler.waiting(*ticket) as u64).sum(),
            tickets: mine().count() as u64,
            // The pool keeps a model for as long as its engine lives.
            counters: state.models.get(&self.model).map(|served| served.counters.clone()).unwrap_or_default(),
        }
    }

    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The checkpoint's model_type.
    pub fn architecture(&self) -> &str {
        &self.loaded.model.config().model_type
    }

    pub fn revision(&self) -> &str {
        self.loaded.model.revision()
    }

    /// Tokens per pair, special tokens included.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// The most memory of the host, in bytes, that the pool's threads come to need to run this model, beside its weights.
    pub fn arena_bytes(&self) -> usize {
        if let Some(waves) = self.loaded.model.waves() {
            // The rest is the GPUs'; here is what of a wave is copied to and fro.
            return waves * self.gpu_wave_tokens * 8 * size_of::<u32>();
        }
        let (config, limits) = (self.loaded.model.config(), self.pool.limits());
        let rows = limits.wave_tokens.max(self.max_tokens);
        // What the layers go through, a row for a token and one for a sequence, of which the shortest has three tokens; ...
        let layer = 10 * config.hidden + 2 * config.intermediate + config.embedding;
        let sequence = config.heads * config.hidden;
        // ... and attention's keys, values and scores. All of it twice, for a larger arena is made before the other goes.
        2 * size_of::<f32>() * limits.threads * (rows * (layer + layer / 3 + sequence / 3) + rows * 256)
    }
}

impl Drop for Engine {
    /// Without waiting: a thread that is in a wave of this model holds what it needs.
    fn drop(&mut self) {
        self.close();
        self.pool.shared().lock().dismiss(self.model);
    }
}

fn refused(state: &State, ask: &Ask, refusal: Refusal) -> Overload {
    match refusal {
        Refusal::Full { retry_after } => Overload { message: full(state, ask.holds, "request"), retry_after },
        Refusal::Late { takes, retry_after } => {
            let queued = state.scheduler.queued_tokens();
            let message = format!(
                "with {queued} tokens in line it would take about {} ms, which is past its deadline",
                takes.as_millis()
            );
            Overload { message, retry_after: Some(retry_after) }
        }
    }
}

fn full(state: &State, tokens: usize, what: &str) -> String {
    format!(
        "the queue holds {} tokens, and this {what}'s {tokens} would pass its limit",
        state.scheduler.held_tokens()
    )
}

fn push(state: &mut State, ticket: Ticket, contexts: Vec<String>, more: bool) {
    let Some(request) = state.requests.get_mut(&ticket) else { return };
    let first = request.contexts;
    request.contexts += contexts.len() as u32;
    request.open = more;
    let terms = request.terms;
    let texts = (first..).zip(contexts).map(|(id, text)| {
        let tokens = terms.work(text.len());
        (Text { id, text }, tokens)
    });
    let undone = state.scheduler.push(ticket, texts);
    request.give_up(ticket, undone.into_iter().map(|text| text.id));
    if !more {
        state.scheduler.close(ticket);
        state.finish_if_done(ticket);
    }
}

/// The device that the options ask for. A packed checkpoint has chosen its precision and kernels already.
fn resolve(options: &Options, threads: usize) -> Result<Device> {
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
        threads: Some(threads),
        kernels: &chosen("kernels", &options.kernels, form.as_ref().map(|form| &form.kernels))?,
        packed: form.is_some() && options.kernels == "auto",
        emulate: options.emulate,
    })
}

/// Saves the checkpoint in `directory` packed for this machine, or for the options' kernels: `out/model.safetensors`.
pub fn pack(directory: &Path, out: &Path, dtype: &str, kernels: &str, emulate: bool) -> Result<Device> {
    let device =
        Device::resolve(&Choice { device: "cpu", dtype, threads: Some(1), kernels, packed: false, emulate })?;
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
        let model = match &device.gpus {
            None => Model::load(directory, device.compute, device.threads)?,
            Some(gpus) => {
                let opened = model::gpu::open(gpus.kind, &gpus.ordinals)?;
                Model::load_on(&opened, directory, device.compute, gpus.precision)?
            }
        };
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
