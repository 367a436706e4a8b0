//! Who waits with whom. A pure state machine: no threads, and no clock of its own, since it is given the time.
//!
//! A request is a ticket with texts to tokenize, which become pairs to compute. Compute goes in waves: a few hundred
//! tokens of one model, over time half of them from who came first, half from who is smallest, so that requests are
//! finished one after the other, and a small one never waits for the whole of a big one (see `lane::Order`). Models take
//! waves in turn, and interactive requests go before batch ones, which age: passed over for long enough, they get a wave
//! all the same. Who can't be answered by its deadline is not let in, or let go (see `forecast`). `T` and `P` are the
//! caller's own text and pair; only their sizes matter here.
//!
//! Waves don't keep like lengths together. A wave is packed, so there is no padding to save: the linear layers see rows,
//! whosever they are, and attention costs each sequence its own square, in whatever company.

mod bounds;
mod forecast;
mod lane;
mod pace;
mod texts;
mod wave;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Instant;

use bounds::Bound;
pub use bounds::Bounds;
pub use forecast::{Ask, Refusal};
use lane::{Lane, LaneKey, Rank};
use pace::Pace;
use texts::Reading;

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

#[derive(Debug, PartialEq)]
pub enum Step<T, P> {
    /// Tokenize these texts of one request, of which the first has this place, then call `tokenized` and `ended`.
    Tokenize { ticket: Ticket, first: usize, texts: Vec<T> },
    /// Compute these pairs, all of one model, in one forward pass, then call `computed` for each, and `ended`.
    Compute { model: ModelId, pairs: Vec<(Ticket, P)> },
    /// The deadline passed, or can't be met any more: the request is gone from here.
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
    look: Option<Instant>, // when to see whether it has hope left
    open: bool,
    size: usize,                          // tokens of all its texts so far, as estimated
    texts: VecDeque<(T, usize)>,          // with an estimate of their tokens
    read: usize,                          // texts that were handed out
    reading: BTreeMap<usize, Reading<P>>, // by the place of the first text
    pairs: VecDeque<(P, usize)>,          // with their tokens
    busy: usize,                          // texts and pairs handed out
    waiting: usize,                       // tokens of texts and pairs
    held: usize,                          // tokens that it was admitted for
}

/// What the time has come for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// Of a deadline, or of a budget.
    End,
    /// A look at whether there is hope.
    Look,
}

#[derive(Debug)]
pub struct Scheduler<T, P> {
    limits: Limits,
    requests: HashMap<Ticket, Request<T, P>>,
    lanes: BTreeMap<LaneKey, Lane>,
    timers: BTreeSet<(Instant, Ticket, Timer)>,
    pace: Pace,
    bounds: BTreeMap<ModelId, Bound>, // of models that aren't computed on the threads
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
            pace: Pace::new(limits.wave_tokens),
            bounds: BTreeMap::new(),
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
        self.timers.extend(deadline.into_iter().chain(budget).map(|at| (at, ticket, Timer::End)));
        let lane = (priority, model);
        self.lanes.entry(lane).or_insert_with(|| Lane::new(self.waves)).requests += 1;
        let request = Request {
            lane,
            deadline,
            budget,
            spent: false,
            look: None,
            open: true,
            size: 0,
            texts: VecDeque::new(),
            read: 0,
            reading: BTreeMap::new(),
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

    /// No more texts will come.
    pub fn close(&mut self, ticket: Ticket) {
        if let Some(request) = self.requests.get_mut(&ticket) {
            request.open = false;
        }
    }

    /// One pair handed out has been computed.
    pub fn computed(&mut self, ticket: Ticket) {
        if let Some(request) = self.requests.get_mut(&ticket) {
            request.busy -= 1;
        }
    }

    /// A step that was handed out has ended, having computed so many tokens, if any: how fast the threads are is learned here.
    pub fn ended(&mut self, now: Instant, tokens: usize) {
        self.pace.end(now, tokens);
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
                let under_way = |reading: &&Reading<P>| reading.short && reading.pairs.is_none();
                lane.reading -= request.reading.values().filter(under_way).count();
                lane.requests -= 1;
                if lane.requests == 0 {
                    self.lanes.remove(&request.lane);
                }
            }
            for at in request.deadline.into_iter().chain(request.budget) {
                self.timers.remove(&(at, ticket, Timer::End));
            }
            if let Some(at) = request.look {
                self.timers.remove(&(at, ticket, Timer::Look));
            }
        }
    }

    /// What to do now.
    pub fn next(&mut self, now: Instant) -> Step<T, P> {
        if let Some(step) = self.due(now) {
            return step;
        }
        for (rank, _, key) in self.order() {
            let Some(lane) = self.lanes.get(&key) else { continue };
            if lane.wants_texts(rank, self.width(key.1).ahead) {
                self.pace.begin(now);
                return self.cut_texts(key);
            }
            if lane.pair_tokens > 0 && self.has_room(key.1) && !self.waits_for_more(lane, key.1) {
                if rank == Rank::Aged {
                    self.aged = self.waves + 1;
                }
                self.pace.begin(now);
                return self.cut_wave(key, rank, now);
            }
        }
        Step::Wait(self.timer())
    }

    /// When there is something `due`, if nothing else comes before.
    pub fn timer(&self) -> Option<Instant> {
        self.timers.first().map(|(at, ..)| *at)
    }

    /// The lanes, in the order in which they are asked for a step; of one rank, those first whose last wave is longest ago.
    fn order(&self) -> Vec<(Rank, u64, LaneKey)> {
        let rank = |key: &LaneKey, lane: &Lane| lane.rank(key.0, self.waves, self.aged);
        let mut order: Vec<_> =
            self.lanes.iter().map(|(key, lane)| (rank(key, lane), lane.turn, *key)).collect();
        order.sort_unstable();
        order
    }

    /// What a deadline or a budget has come to by now, `Expired` or `Spent`: `next` says it too, but only to a thread that is
    /// free, which may be a wave later.
    pub fn due(&mut self, now: Instant) -> Option<Step<T, P>> {
        while let Some(&(at, ticket, timer)) = self.timers.first()
            && at <= now
        {
            self.timers.pop_first();
            let Some(request) = self.requests.get_mut(&ticket) else { continue };
            let expired = match timer {
                Timer::End => request.deadline.is_some_and(|deadline| deadline <= now),
                Timer::Look => {
                    request.look = None;
                    self.hopeless(ticket, now)
                }
            };
            if expired {
                self.remove(ticket);
                return Some(Step::Expired(ticket));
            }
            let Some(request) = self.requests.get_mut(&ticket) else { continue };
            if timer == Timer::Look {
                continue;
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
        let mut held_back = Vec::new();
        request.reading.retain(|_, reading| match reading.pairs.take() {
            None => true,
            Some(pairs) => {
                held_back.extend(pairs);
                false
            }
        });
        let pair_tokens: usize = request.pairs.iter().map(|(_, tokens)| tokens).sum();
        if let Some(lane) = self.lanes.get_mut(&request.lane) {
            lane.texts.remove(ticket, request.size);
            lane.pairs.remove(ticket, request.size);
            lane.pair_tokens -= pair_tokens;
            lane.waiting -= request.waiting;
        }
        self.queued_tokens -= std::mem::take(&mut request.waiting);
        let texts = request.texts.drain(..).map(|(text, _)| text).collect();
        (texts, request.pairs.drain(..).chain(held_back).map(|(pair, _)| pair).collect())
    }
}

#[cfg(test)]
#[path = "scheduler_tests.rs"]
mod tests;

#[cfg(test)]
mod fairness_tests;

#[cfg(test)]
mod overload_tests;

#[cfg(test)]
mod simulated;
