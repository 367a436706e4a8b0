//! What the engine remembers of one request: the question, the options, and the scores so far.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::admission::Terms;
use crate::completions::Completions;
use crate::error::{Error, Result};
use crate::scheduler::{ModelId, Priority, Ticket};
use crate::tokenize::{EncodedPair, EncodedQuery, Overflow, PairTokenizer};

/// A request as it is submitted.
pub struct Job {
    pub query: String,
    pub contexts: Vec<String>,
    /// Tokens per pair; None: the model's limit.
    pub max_tokens: Option<usize>,
    pub overflow: Overflow,
    pub priority: Priority,
    /// When the answer is of no more use.
    pub deadline: Option<Instant>,
    /// When to answer with what there is.
    pub budget: Option<Instant>,
    /// A completion a wave, not only one at the end.
    pub progressive: bool,
    /// More contexts will come.
    pub more: bool,
    /// Bytes of the keys that the caller keeps with the contexts.
    pub key_bytes: usize,
    /// Whether the caller keeps the texts too, until the answer.
    pub keeps_texts: bool,
}

/// Scores of one ticket: of one wave, or of all of it.
#[derive(Debug, Default)]
pub struct Completion {
    pub ticket: Ticket,
    pub last: bool,
    pub error: Option<Error>,
    pub ids: Vec<u32>,        // [n]
    pub logits: Vec<f32>,     // [n]
    pub truncated: Vec<bool>, // [n]
    pub tokens: u64,
    pub unscored: Vec<u32>,
    pub timing: Timing,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Timing {
    /// From acceptance to the first wave with one of its pairs, less tokenizing.
    pub queue: Duration,
    /// Summed over threads.
    pub tokenize: Duration,
    /// Summed over the waves that held its pairs.
    pub compute: Duration,
}

/// A context that waits to be tokenized.
pub struct Text {
    pub id: u32,
    pub text: String,
}

/// A pair that waits for the model. A context cut into windows is as many pairs; its logit is the largest.
pub struct Pair {
    pub id: u32,
    pub windows: usize,
    pub truncated: bool,
    pub encoded: EncodedPair,
}

/// The query, tokenized once by whichever thread comes first.
pub struct Query {
    text: String,
    encoded: OnceLock<Result<EncodedQuery>>,
    pub max_tokens: usize,
    pub overflow: Overflow,
}

impl Query {
    pub fn new(text: String, max_tokens: usize, overflow: Overflow) -> Self {
        Self { text, encoded: OnceLock::new(), max_tokens, overflow }
    }

    /// The pairs of some contexts.
    pub fn pairs(&self, tokenizer: &PairTokenizer, texts: &[Text]) -> Result<Vec<Pair>> {
        let query =
            self.encoded.get_or_init(|| tokenizer.query(&self.text)).as_ref().map_err(Clone::clone)?;
        let mut pairs = Vec::with_capacity(texts.len());
        for Text { id, text } in texts {
            let encoded =
                tokenizer.pair(query, text, self.max_tokens, self.overflow).map_err(|error| match error {
                    // The tokenizer sees one context; the caller knows it by its place.
                    Error::Input { field, message } if field == "text" => {
                        Error::input(format!("contexts[{id}].text"), message)
                    }
                    other => other,
                })?;
            let (windows, truncated) = (encoded.windows.len(), encoded.truncated);
            pairs.extend(encoded.windows.into_iter().map(|encoded| Pair {
                id: *id,
                windows,
                truncated,
                encoded,
            }));
        }
        Ok(pairs)
    }
}

#[derive(Clone, Copy)]
struct Scored {
    id: u32,
    logit: f32,
    truncated: bool,
}

/// A request in work.
pub struct Request {
    pub model: ModelId,
    pub terms: Terms,
    pub query: Arc<Query>,
    pub contexts: u32,
    pub open: bool,
    completions: Arc<Completions<Completion>>,
    progressive: bool,
    accepted: Instant,
    computing: bool,
    timing: Timing,
    scored: Vec<Scored>,
    windows: HashMap<u32, (usize, f32)>, // contexts in windows: how many are missing, the best logit so far
    unscored: Vec<u32>,
    tokens: u64,
}

impl Request {
    pub fn new(
        model: ModelId,
        terms: Terms,
        query: Query,
        job: &Job,
        now: Instant,
        completions: Arc<Completions<Completion>>,
    ) -> Self {
        Self {
            model,
            terms,
            query: Arc::new(query),
            contexts: 0,
            open: job.more,
            completions,
            progressive: job.progressive,
            accepted: now,
            computing: false,
            timing: Timing::default(),
            scored: Vec::new(),
            windows: HashMap::new(),
            unscored: Vec::new(),
            tokens: 0,
        }
    }

    pub fn tokenized_in(&mut self, time: Duration) {
        self.timing.tokenize += time;
    }

    /// A wave began at `started`, took `time`, and held pairs of this request. After its first one: how long it waited.
    pub fn computed_in(&mut self, started: Instant, time: Duration) -> Option<Duration> {
        self.timing.compute += time;
        if self.computing {
            return None;
        }
        self.computing = true;
        let waited = started.saturating_duration_since(self.accepted);
        self.timing.queue = waited.saturating_sub(self.timing.tokenize);
        Some(self.timing.queue)
    }

    /// One pair's logit.
    pub fn score(&mut self, pair: &Pair, logit: f32) {
        self.tokens += pair.encoded.ids.len() as u64;
        let (missing, best) = self.windows.remove(&pair.id).unwrap_or((pair.windows, f32::NEG_INFINITY));
        let best = best.max(logit);
        if missing > 1 {
            self.windows.insert(pair.id, (missing - 1, best));
        } else {
            self.scored.push(Scored { id: pair.id, logit: best, truncated: pair.truncated });
        }
    }

    /// The budget did not reach these contexts. Who sees scores come is told that less waits now, by a completion of none: a
    /// stream's writer that is held back until there is room would else wait for a wave that never comes.
    pub fn give_up(&mut self, ticket: Ticket, ids: impl IntoIterator<Item = u32>) {
        let before = self.unscored.len();
        self.unscored.extend(ids);
        if self.progressive && self.unscored.len() > before {
            let completion = self.completion(ticket, false);
            self.completions.push(completion);
        }
    }

    /// Sends what has been scored since the last call, where the caller wants to see it come.
    pub fn progress(&mut self, ticket: Ticket) {
        if self.progressive && !self.scored.is_empty() {
            let completion = self.completion(ticket, false);
            self.completions.push(completion);
        }
    }

    /// Sends the end.
    pub fn finish(mut self, ticket: Ticket) {
        self.progress(ticket);
        self.scored.sort_unstable_by_key(|scored| scored.id);
        let mut completion = self.completion(ticket, true);
        let partial = self.windows.keys().copied();
        completion.unscored = self.unscored.iter().copied().chain(partial).collect();
        completion.unscored.sort_unstable();
        completion.unscored.dedup();
        self.completions.push(completion);
    }

    /// Sends the failure.
    pub fn fail(self, ticket: Ticket, error: Error) {
        self.completions.push(Completion { ticket, last: true, error: Some(error), ..Default::default() });
    }

    fn completion(&mut self, ticket: Ticket, last: bool) -> Completion {
        let scored = std::mem::take(&mut self.scored);
        Completion {
            ticket,
            last,
            error: None,
            ids: scored.iter().map(|s| s.id).collect(),
            logits: scored.iter().map(|s| s.logit).collect(),
            truncated: scored.iter().map(|s| s.truncated).collect(),
            tokens: std::mem::take(&mut self.tokens),
            unscored: Vec::new(),
            timing: self.timing,
        }
    }
}
