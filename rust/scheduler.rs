//! Who waits with whom. A pure state machine: no threads, and no clock of its own, since it is given the time.
//!
//! A request is a ticket with texts to tokenize, which become pairs to compute. Compute goes in waves: a few hundred
//! tokens of one model, mixed from all its requests in turn, so that a small request never waits for the whole of a big
//! one. Models take waves in turn, and interactive requests go before batch ones, which age: passed over for long enough,
//! they get a wave all the same. `T` and `P` are the caller's own text and pair; only their sizes matter here.
//!
//! Waves don't keep like lengths together. A wave is packed, so there is no padding to save: the linear layers see rows,
//! whosever they are, and attention costs each sequence its own square, in whatever company.

mod lane;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Instant;

use lane::{Lane, LaneKey, Rank};

pub type Ticket = u64;

/// Which of the models that share the threads.
pub type ModelId = usize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    Interactive,
    Batch,
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Threads that take steps.
    pub threads: usize,
    /// A wave holds at most this many tokens, but always one pair.
    pub wave_tokens: usize,
    /// No request is let in with which they would hold more than this many tokens together; a first one always is.
    pub queue_tokens: usize,
}

impl Limits {
    /// What requests can come to hold together, where there are several: some is added to those that were let in.
    pub fn most_tokens(&self) -> usize {
        self.queue_tokens.saturating_add(self.queue_tokens / 4)
    }
}

/// A wave smaller than this costs more in passes over the weights than a second thread gains.
const SMALL_WAVE_TOKENS: usize = 128;

/// Texts tokenized in one step: short enough that compute starts early, long enough that the lock is seldom taken.
const TEXTS_PER_STEP: usize = 16;

#[derive(Debug, PartialEq)]
pub enum Step<T, P> {
    /// Tokenize these texts of one request, then call `tokenized`.
    Tokenize { ticket: Ticket, texts: Vec<T> },
    /// Compute these pairs, all of one model, in one forward pass, then call `computed` for each.
    Compute { model: ModelId, pairs: Vec<(Ticket, P)> },
    /// The deadline passed: the request is gone from here.
    Expired(Ticket),
    /// The budget is spent: this work of the request will not be done. It may be finished now.
    Spent { ticket: Ticket, texts: Vec<T>, pairs: Vec<P> },
    /// Nothing to do before this time, or before the next arrival.
    Wait(Option<Instant>),
}

#[derive(Debug)]
struct Request<T, P> {
    lane: LaneKey,
    deadline: Option<Instant>,
    budget: Option<Instant>,
    spent: bool,
    open: bool,
    fresh: bool,                 // nothing of it has been tokenized
    texts: VecDeque<(T, usize)>, // with an estimate of their tokens
    pairs: VecDeque<(P, usize)>, // with their tokens
    busy: usize,                 // texts and pairs handed out
    waiting: usize,              // tokens of texts and pairs
    held: usize,                 // tokens that it was admitted for
}

#[derive(Debug)]
pub struct Scheduler<T, P> {
    limits: Limits,
    requests: HashMap<Ticket, Request<T, P>>,
    lanes: BTreeMap<LaneKey, Lane>,
    timers: BTreeSet<(Instant, Ticket)>,
    queued_tokens: usize,
    held_tokens: usize,
    waves: u64, // cut so far
    aged: u64,  // how many there had been at the last one that batch requests got for their age
}

impl<T, P> Scheduler<T, P> {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            requests: HashMap::new(),
            lanes: BTreeMap::new(),
            timers: BTreeSet::new(),
            queued_tokens: 0,
            held_tokens: 0,
            waves: 0,
            aged: 0,
        }
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether a request that holds `tokens` may come in. Where nothing is held any may, so none is refused for ever.
    pub fn admits(&self, tokens: usize) -> bool {
        self.held_tokens == 0 || self.held_tokens.saturating_add(tokens) <= self.limits.queue_tokens
    }

    /// Whether a request that was let in may hold `tokens` more. It has come far, so it has a margin that others don't.
    pub fn admits_more(&self, tokens: usize) -> bool {
        self.held_tokens.saturating_add(tokens) <= self.limits.most_tokens()
    }

    /// Tokens that wait: of texts as estimated, of pairs as counted.
    pub fn queued_tokens(&self) -> usize {
        self.queued_tokens
    }

    /// Tokens that the requests were admitted for which are not yet removed.
    pub fn held_tokens(&self) -> usize {
        self.held_tokens
    }

    /// Tokens of one request that wait; 0 for a ticket that is not here.
    pub fn waiting(&self, ticket: Ticket) -> usize {
        self.requests.get(&ticket).map_or(0, |request| request.waiting)
    }

    /// Begins a request, open for texts.
    pub fn open(
        &mut self,
        ticket: Ticket,
        model: ModelId,
        priority: Priority,
        deadline: Option<Instant>,
        budget: Option<Instant>,
    ) {
        self.timers.extend(deadline.into_iter().chain(budget).map(|at| (at, ticket)));
        let lane = (priority, model);
        self.lanes.entry(lane).or_insert_with(|| Lane::new(self.waves)).requests += 1;
        let request = Request {
            lane,
            deadline,
            budget,
            spent: false,
            open: true,
            fresh: true,
            texts: VecDeque::new(),
            pairs: VecDeque::new(),
            busy: 0,
            waiting: 0,
            held: 0,
        };
        self.requests.insert(ticket, request);
    }

    /// So many tokens more count as the request's own until it is removed, whatever of it has been computed by then.
    pub fn hold(&mut self, ticket: Ticket, tokens: usize) {
        if let Some(request) = self.requests.get_mut(&ticket) {
            request.held += tokens;
            self.held_tokens += tokens;
        }
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
            request.waiting += tokens;
            request.texts.push_back((text, tokens));
        }
        if idle
            && !request.texts.is_empty()
            && let Some(lane) = self.lanes.get_mut(&request.lane)
        {
            if request.fresh { &mut lane.fresh } else { &mut lane.texts }.push_back(ticket);
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
        let Some(lane) = self.lanes.get_mut(&request.lane) else { return Vec::new() };
        if request.pairs.is_empty() && !pairs.is_empty() {
            lane.pairs.push_back(ticket);
        }
        for (pair, tokens) in pairs {
            self.queued_tokens += tokens;
            request.waiting += tokens;
            lane.pair_tokens += tokens;
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
            self.held_tokens -= request.held;
            if let Some(lane) = self.lanes.get_mut(&request.lane) {
                lane.requests -= 1;
                if lane.requests == 0 {
                    self.lanes.remove(&request.lane);
                }
            }
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
        for (rank, _, key) in self.order() {
            let Some(lane) = self.lanes.get(&key) else { continue };
            if lane.wants_texts(rank, self.limits.wave_tokens) {
                return self.cut_texts(key);
            }
            if lane.pair_tokens > 0 {
                if rank == Rank::Aged {
                    self.aged = self.waves + 1;
                }
                return self.cut_wave(key);
            }
        }
        Step::Wait(self.timers.first().map(|(at, _)| *at))
    }

    /// The lanes, in the order in which they are asked for a step; of one rank, those first whose last wave is longest ago.
    fn order(&self) -> Vec<(Rank, u64, LaneKey)> {
        let rank = |key: &LaneKey, lane: &Lane| lane.rank(key.0, self.waves, self.aged);
        let mut order: Vec<_> =
            self.lanes.iter().map(|(key, lane)| (rank(key, lane), lane.turn, *key)).collect();
        order.sort_unstable();
        order
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
        let pair_tokens: usize = request.pairs.iter().map(|(_, tokens)| tokens).sum();
        // A request stands in its lane only while it has work of that kind.
        if let Some(lane) = self.lanes.get_mut(&request.lane) {
            if !request.texts.is_empty() {
                if request.fresh { &mut lane.fresh } else { &mut lane.texts }
                    .retain(|&other| other != ticket);
            }
            if !request.pairs.is_empty() {
                lane.pairs.retain(|&other| other != ticket);
            }
            lane.pair_tokens -= pair_tokens;
        }
        self.queued_tokens -= std::mem::take(&mut request.waiting);
        let texts = request.texts.drain(..).map(|(text, _)| text).collect();
        (texts, request.pairs.drain(..).map(|(pair, _)| pair).collect())
    }

    fn cut_texts(&mut self, key: LaneKey) -> Step<T, P> {
        let Some(lane) = self.lanes.get_mut(&key) else { return Step::Wait(None) };
        let Some(ticket) = lane.next_text() else { return Step::Wait(None) };
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
        request.waiting -= estimate;
        request.busy += texts.len();
        if !request.texts.is_empty() {
            lane.texts.push_back(ticket);
        }
        Step::Tokenize { ticket, texts }
    }

    /// Pairs from every request of the lane in turn, then from the model's other lane, until the wave is full.
    fn cut_wave(&mut self, (priority, model): LaneKey) -> Step<T, P> {
        let ready: usize = self.lanes.values().map(|lane| lane.pair_tokens).sum();
        // When less is left than would fill every thread's wave, the threads share it.
        let small = SMALL_WAVE_TOKENS.min(self.limits.wave_tokens);
        let target = ready.div_ceil(self.limits.threads).clamp(small, self.limits.wave_tokens);
        let mut wave = Wave { pairs: Vec::new(), tokens: 0, target };
        self.waves += 1;
        let other = match priority {
            Priority::Interactive => Priority::Batch,
            Priority::Batch => Priority::Interactive,
        };
        for key in [(priority, model), (other, model)] {
            self.fill_wave(key, &mut wave);
        }
        Step::Compute { model, pairs: wave.pairs }
    }

    fn fill_wave(&mut self, key: LaneKey, wave: &mut Wave<P>) {
        let Some(lane) = self.lanes.get_mut(&key) else { return };
        // A request's turn: half a wave, so that with two or more in line none has a wave to itself.
        let turn = (wave.target / 2).max(1);
        while let Some(ticket) = lane.pairs.pop_front() {
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
                    lane.pair_tokens -= tokens;
                    lane.turn = self.waves;
                    self.queued_tokens -= tokens;
                    request.waiting -= tokens;
                    request.busy += 1;
                }
            }
            match (request.pairs.is_empty(), wave.pairs.len() > had) {
                (true, _) => {}
                // Even where the wave was full before its turn was over: else long pairs would come first every time.
                (false, true) => lane.pairs.push_back(ticket),
                (false, false) => lane.pairs.push_front(ticket),
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

#[cfg(test)]
#[path = "scheduler/fairness_tests.rs"]
mod fairness_tests;
