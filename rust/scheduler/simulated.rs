//! Threads that do what the scheduler says, in time that only the test moves.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::*;

pub const WAVE: usize = 256;

/// A token takes a microsecond to compute; tokenizing takes no time.
pub const TOKEN: Duration = Duration::from_micros(1);

/// A thread in a wave.
struct Running {
    end: Instant,
    pairs: Vec<(Ticket, u32)>,
    tokens: usize,
}

/// What a request is like.
#[derive(Clone, Copy)]
pub struct Like {
    pub model: ModelId,
    pub priority: Priority,
    pub texts: u32,
    /// Of each pair.
    pub tokens: usize,
    /// Pairs that a text becomes.
    pub windows: u32,
    pub deadline: Option<Instant>,
    pub budget: Option<Instant>,
}

pub const LIKE: Like = Like {
    model: 0,
    priority: Priority::Interactive,
    texts: 1,
    tokens: 10,
    windows: 1,
    deadline: None,
    budget: None,
};

impl Like {
    pub fn work(&self) -> usize {
        self.texts as usize * self.windows as usize * self.tokens
    }
}

pub struct Threads {
    pub scheduler: Scheduler<u32, u32>,
    pub now: Instant,
    threads: usize,
    running: Vec<Running>,
    likes: HashMap<Ticket, Like>,
    pub waves: Vec<(ModelId, Vec<(Ticket, u32)>)>,
    pub answered: HashMap<Ticket, Instant>,
    pub expired: Vec<Ticket>,
}

impl Threads {
    pub fn new(threads: usize) -> Self {
        let limits = Limits { threads, wave_tokens: WAVE, queue_tokens: 1_000_000_000 };
        Self {
            scheduler: Scheduler::new(limits),
            now: Instant::now(),
            threads,
            running: Vec::new(),
            likes: HashMap::new(),
            waves: Vec::new(),
            answered: HashMap::new(),
            expired: Vec::new(),
        }
    }

    pub fn submit(&mut self, ticket: Ticket, like: Like) {
        self.likes.insert(ticket, like);
        self.scheduler.open(ticket, like.model, like.priority, like.deadline, like.budget);
        let estimate = like.tokens * like.windows as usize;
        self.scheduler.push(ticket, (0..like.texts).map(|text| (text, estimate)));
        self.scheduler.close(ticket);
    }

    /// Submits it, unless it is refused.
    pub fn offer(&mut self, ticket: Ticket, like: Like) -> Option<Refusal> {
        let Like { model, priority, deadline, budget, .. } = like;
        let ask = Ask { model, priority, holds: like.work(), work: like.work(), deadline, budget };
        let refused = self.scheduler.refuses(&ask, self.now);
        if refused.is_none() {
            self.submit(ticket, like);
        }
        refused
    }

    fn answer_if_done(&mut self, ticket: Ticket) {
        if self.scheduler.finished(ticket) {
            self.scheduler.remove(ticket);
            self.answered.insert(ticket, self.now);
        }
    }

    /// Gives every free thread something to do.
    fn hand_out(&mut self) {
        while self.running.len() < self.threads {
            match self.scheduler.next(self.now) {
                Step::Tokenize { ticket, first, texts } => {
                    let Like { tokens, windows, .. } = self.likes[&ticket];
                    let pairs = texts.iter().flat_map(|text| (0..windows).map(|_| (*text, tokens))).collect();
                    self.scheduler.tokenized(ticket, first, pairs);
                    self.scheduler.ended(self.now, 0);
                    self.answer_if_done(ticket);
                }
                Step::Compute { model, pairs } => {
                    let tokens: usize = pairs.iter().map(|(ticket, _)| self.likes[ticket].tokens).sum();
                    self.waves.push((model, pairs.clone()));
                    self.running.push(Running { end: self.now + TOKEN * tokens as u32, pairs, tokens });
                }
                Step::Wait(_) => return,
                step => self.be_told(&step),
            }
        }
    }

    fn be_told(&mut self, step: &Step<u32, u32>) {
        match step {
            Step::Spent { ticket, .. } => self.answer_if_done(*ticket),
            Step::Expired(ticket) => self.expired.push(*ticket),
            other => panic!("{other:?}"),
        }
    }

    /// Gives every free thread something to do; the time then is that of the next end of a wave, or of what is due. False:
    /// nothing is left.
    pub fn step(&mut self) -> bool {
        self.step_until(None)
    }

    /// The same for all that begins before `until`, which is the time then.
    pub fn run_until(&mut self, until: Instant) {
        while self.now < until {
            self.step_until(Some(until));
        }
    }

    fn step_until(&mut self, until: Option<Instant>) -> bool {
        self.hand_out();
        let timer = self.scheduler.timer();
        let end = self.running.iter().map(|running| running.end).min();
        let Some(next) = end.into_iter().chain(timer).chain(until).min() else { return false };
        self.now = self.now.max(next);
        for running in std::mem::take(&mut self.running) {
            if running.end > self.now {
                self.running.push(running);
                continue;
            }
            self.scheduler.ended(self.now, running.tokens);
            for (ticket, _) in running.pairs {
                self.scheduler.computed(ticket);
                self.answer_if_done(ticket);
            }
        }
        while let Some(step) = self.scheduler.due(self.now) {
            self.be_told(&step);
        }
        true
    }

    /// Waves that held pairs of this ticket.
    pub fn has(&self, ticket: Ticket) -> usize {
        self.waves.iter().filter(|(_, pairs)| pairs.iter().any(|(other, _)| *other == ticket)).count()
    }

    /// Its texts, in the order computed.
    pub fn computed(&self, ticket: Ticket) -> Vec<u32> {
        let pairs = self.waves.iter().flat_map(|(_, pairs)| pairs);
        pairs.filter(|(other, _)| *other == ticket).map(|(_, text)| *text).collect()
    }
}
