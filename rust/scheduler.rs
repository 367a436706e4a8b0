//! Who waits with whom. A pure state machine: no threads, and no clock of its own, since it is given the time.
//!
//! A request is a ticket with texts to tokenize, which become pairs to compute. Compute goes in waves: a few hundred
//! tokens, mixed from all requests in turn, so that a small request never waits for the whole of a big one, and
//! interactive requests before batch ones. `T` and `P` are the caller's own text and pair; only their sizes matter here.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Instant;

pub type Ticket = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    Interactive,
    Batch,
}

const PRIORITIES: [Priority; 2] = [Priority::Interactive, Priority::Batch];

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Threads that take steps.
    pub threads: usize,
    /// A wave holds at most this many tokens, but always one pair.
    pub wave_tokens: usize,
    /// More than this many tokens never wait, except in a queue that was empty.
    pub queue_tokens: usize,
}

/// A wave smaller than this costs more in passes over the weights than a second thread gains.
const SMALL_WAVE_TOKENS: usize = 128;

/// Texts tokenized in one step: short enough that compute starts early, long enough that the lock is seldom taken.
const TEXTS_PER_STEP: usize = 16;

/// A new request's first texts are tokenized at once, so that it joins the next wave, unless this many waves are ready:
/// under overload tokenizing must not starve the model.
const READY_WAVES: usize = 8;

#[derive(Debug, PartialEq)]
pub enum Step<T, P> {
    /// Tokenize these texts of one request, then call `tokenized`.
    Tokenize { ticket: Ticket, texts: Vec<T> },
    /// Compute these pairs in one forward pass, then call `computed` for each.
    Compute(Vec<(Ticket, P)>),
    /// The deadline passed: the request is gone from here.
    Expired(Ticket),
    /// The budget is spent: this work of the request will not be done. It may be finished now.
    Spent { ticket: Ticket, texts: Vec<T>, pairs: Vec<P> },
    /// Nothing to do before this time, or before the next arrival.
    Wait(Option<Instant>),
}

#[derive(Debug)]
struct Request<T, P> {
    priority: Priority,
    deadline: Option<Instant>,
    budget: Option<Instant>,
    spent: bool,
    open: bool,
    fresh: bool,                 // nothing of it has been tokenized
    texts: VecDeque<(T, usize)>, // with an estimate of their tokens
    pairs: VecDeque<(P, usize)>, // with their tokens
    busy: usize,                 // texts and pairs handed out
}

/// One priority's requests that have work, each kind in turn.
#[derive(Debug, Default)]
struct Ring {
    fresh: VecDeque<Ticket>, // texts, and none tokenized yet
    texts: VecDeque<Ticket>,
    pairs: VecDeque<Ticket>,
    pair_tokens: usize,
}

#[derive(Debug)]
pub struct Scheduler<T, P> {
    limits: Limits,
    requests: HashMap<Ticket, Request<T, P>>,
    rings: [Ring; 2],
    timers: BTreeSet<(Instant, Ticket)>,
    queued_tokens: usize,
}

impl<T, P> Scheduler<T, P> {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            requests: HashMap::new(),
            rings: Default::default(),
            timers: BTreeSet::new(),
            queued_tokens: 0,
        }
    }

    /// Whether `tokens` more may wait. An empty queue takes any request, so none is refused for ever.
    pub fn admits(&self, tokens: usize) -> bool {
        self.queued_tokens == 0 || self.queued_tokens + tokens <= self.limits.queue_tokens
    }

    /// Tokens that wait: of texts as estimated, of pairs as counted.
    pub fn queued_tokens(&self) -> usize {
        self.queued_tokens
    }

    /// Begins a request, open for texts.
    pub fn open(
        &mut self,
        ticket: Ticket,
        priority: Priority,
        deadline: Option<Instant>,
        budget: Option<Instant>,
    ) {
        self.timers.extend(deadline.into_iter().chain(budget).map(|at| (at, ticket)));
        let request = Request {
            priority,
            deadline,
            budget,
            spent: false,
            open: true,
            fresh: true,
            texts: VecDeque::new(),
            pairs: VecDeque::new(),
            busy: 0,
        };
        self.requests.insert(ticket, request);
    }

    /// Adds texts, each with an estimate of its tokens. Gives back those that a spent budget leaves undone.
    pub fn push(&mut self, ticket: Ticket, texts: impl IntoIterator<Item = (T, usize)>) -> Vec<T> {
        let Some(request) = self.requests.get_mut(&ticket) else { return Vec::new() };
        if request.spent {
            return texts.into_iter().map(|(text, _)| text).collect();
        }
        let idle = request.texts.is_empty();
        for (text, tokens) in texts {
            self.queued_tokens += tokens;
            request.texts.push_back((text, tokens));
        }
        if idle && !request.texts.is_empty() {
            let ring = &mut self.rings[request.priority as usize];
            if request.fresh { &mut ring.fresh } else { &mut ring.texts }.push_back(ticket);
        }
        Vec::new()
    }

    /// No more texts will come.
    pub fn close(&mut self, ticket: Ticket) {
        if let Some(request) = self.requests.get_mut(&ticket) {
            request.open = false;
        }
    }

    /// `texts` of the texts handed out have become these pairs, each with its tokens. Gives back those that a spent
    /// budget leaves undone.
    pub fn tokenized(&mut self, ticket: Ticket, texts: usize, pairs: Vec<(P, usize)>) -> Vec<P> {
        let Some(request) = self.requests.get_mut(&ticket) else { return Vec::new() };
        request.busy -= texts;
        if request.spent {
            return pairs.into_iter().map(|(pair, _)| pair).collect();
        }
        let ring = &mut self.rings[request.priority as usize];
        if request.pairs.is_empty() && !pairs.is_empty() {
            ring.pairs.push_back(ticket);
        }
        for (pair, tokens) in pairs {
            self.queued_tokens += tokens;
            ring.pair_tokens += tokens;
            request.pairs.push_back((pair, tokens));
        }
        Vec::new()
    }

    /// One pair handed out has been computed.
    pub fn computed(&mut self, ticket: Ticket) {
        if let Some(request) = self.requests.get_mut(&ticket) {
            request.busy -= 1;
        }
    }

    /// Whether a request is closed and all its work is done or given up.
    pub fn finished(&self, ticket: Ticket) -> bool {
        self.requests
            .get(&ticket)
            .is_some_and(|r| !r.open && r.busy == 0 && r.texts.is_empty() && r.pairs.is_empty())
    }

    /// Forgets a request and whatever of it waits. What is handed out comes back to no effect.
    pub fn remove(&mut self, ticket: Ticket) {
        self.take_work(ticket);
        if let Some(request) = self.requests.remove(&ticket) {
            for at in request.deadline.into_iter().chain(request.budget) {
                self.timers.remove(&(at, ticket));
            }
        }
    }

    /// What to do now.
    pub fn next(&mut self, now: Instant) -> Step<T, P> {
        if let Some(step) = self.late(now) {
            return step;
        }
        for priority in PRIORITIES {
            let ring = &self.rings[priority as usize];
            // Tokenizing goes first only until a wave is full: then the model has work, and the rest can wait.
            let texts = !ring.texts.is_empty() && ring.pair_tokens < self.limits.wave_tokens;
            let fresh = !ring.fresh.is_empty() && ring.pair_tokens < READY_WAVES * self.limits.wave_tokens;
            if texts || fresh {
                return self.cut_texts(priority);
            }
            if ring.pair_tokens > 0 {
                return self.cut_wave();
            }
        }
        Step::Wait(self.timers.first().map(|(at, _)| *at))
    }

    fn late(&mut self, now: Instant) -> Option<Step<T, P>> {
        while let Some(&(at, ticket)) = self.timers.first()
            && at <= now
        {
            self.timers.pop_first();
            let Some(request) = self.requests.get_mut(&ticket) else { continue };
            if request.deadline.is_some_and(|deadline| deadline <= now) {
                self.remove(ticket);
                return Some(Step::Expired(ticket));
            }
            request.spent = true;
            let (texts, pairs) = self.take_work(ticket);
            return Some(Step::Spent { ticket, texts, pairs });
        }
        None
    }

    /// Takes all that waits of a request out of the queue.
    fn take_work(&mut self, ticket: Ticket) -> (Vec<T>, Vec<P>) {
        let Some(request) = self.requests.get_mut(&ticket) else { return Default::default() };
        let ring = &mut self.rings[request.priority as usize];
        // A request stands in a ring only while it has work of that kind.
        if !request.texts.is_empty() {
            if request.fresh { &mut ring.fresh } else { &mut ring.texts }.retain(|&other| other != ticket);
        }
        if !request.pairs.is_empty() {
            ring.pairs.retain(|&other| other != ticket);
        }
        let pair_tokens: usize = request.pairs.iter().map(|(_, tokens)| tokens).sum();
        ring.pair_tokens -= pair_tokens;
        self.queued_tokens -= pair_tokens + request.texts.iter().map(|(_, tokens)| tokens).sum::<usize>();
        let texts = request.texts.drain(..).map(|(text, _)| text).collect();
        (texts, request.pairs.drain(..).map(|(pair, _)| pair).collect())
    }

    fn cut_texts(&mut self, priority: Priority) -> Step<T, P> {
        let ring = &mut self.rings[priority as usize];
        let Some(ticket) = ring.fresh.pop_front().or_else(|| ring.texts.pop_front()) else {
            return Step::Wait(None);
        };
        let Some(request) = self.requests.get_mut(&ticket) else { return Step::Wait(None) };
        request.fresh = false;
        let share = request.texts.len().div_ceil(self.limits.threads).min(TEXTS_PER_STEP);
        let mut texts = Vec::with_capacity(share);
        let mut estimate = 0;
        // About a wave, no more: what is ready delays whoever comes next.
        while texts.len() < share
            && estimate < self.limits.wave_tokens
            && let Some((text, tokens)) = request.texts.pop_front()
        {
            estimate += tokens;
            texts.push(text);
        }
        self.queued_tokens -= estimate;
        request.busy += texts.len();
        if !request.texts.is_empty() {
            ring.texts.push_back(ticket);
        }
        Step::Tokenize { ticket, texts }
    }

    /// Pairs from every request in turn, interactive ones first, until the wave is full.
    fn cut_wave(&mut self) -> Step<T, P> {
        let ready: usize = self.rings.iter().map(|ring| ring.pair_tokens).sum();
        // When less is left than would fill every thread's wave, the threads share it.
        let small = SMALL_WAVE_TOKENS.min(self.limits.wave_tokens);
        let target = ready.div_ceil(self.limits.threads).clamp(small, self.limits.wave_tokens);
        let mut wave = Wave { pairs: Vec::new(), tokens: 0, target };
        for priority in PRIORITIES {
            self.fill_wave(priority, &mut wave);
        }
        Step::Compute(wave.pairs)
    }

    fn fill_wave(&mut self, priority: Priority, wave: &mut Wave<P>) {
        let ring = &mut self.rings[priority as usize];
        // A request's turn: half a wave, so that with two or more in line none has a wave to itself.
        let turn = (wave.target / 2).max(1);
        while let Some(ticket) = ring.pairs.pop_front() {
            let Some(request) = self.requests.get_mut(&ticket) else { continue };
            let (had, end) = (wave.pairs.len(), wave.tokens + turn);
            let mut full = false;
            while wave.tokens < end
                && let Some(&(_, tokens)) = request.pairs.front()
            {
                full = !wave.pairs.is_empty() && wave.tokens + tokens > wave.target;
                if full {
                    break;
                }
                if let Some((pair, tokens)) = request.pairs.pop_front() {
                    wave.pairs.push((ticket, pair));
                    wave.tokens += tokens;
                    ring.pair_tokens -= tokens;
                    self.queued_tokens -= tokens;
                    request.busy += 1;
                }
            }
            match (request.pairs.is_empty(), wave.pairs.len() > had) {
                (true, _) => {}
                // Even where the wave was full before its turn was over: else long pairs would come first every time.
                (false, true) => ring.pairs.push_back(ticket),
                (false, false) => ring.pairs.push_front(ticket),
            }
            if full {
                return;
            }
        }
    }
}

struct Wave<P> {
    pairs: Vec<(Ticket, P)>,
    tokens: usize,
    target: usize,
}

#[cfg(test)]
#[path = "scheduler_tests.rs"]
mod tests;
