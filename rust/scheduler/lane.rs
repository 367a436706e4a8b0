//! One model's requests of one priority, and who of them is next.

use std::collections::BTreeSet;

use super::{ModelId, Priority, Ticket};

/// Batch requests that have waited for this many waves get the next one, once in so many: at saturation batch work
/// goes on, and costs the interactive no more than that.
pub(super) const AGE_WAVES: u64 = 8;

/// Who is asked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    Aged,
    Interactive,
    Batch,
}

pub(super) type LaneKey = (Priority, ModelId);

/// The two orders in which requests are served, half of the work each over time; by size goes more than that for a few waves
/// (see `wave`).
///
/// By age: who came first is finished first. Of many alike that share the threads in turns none is done before nearly all
/// are, and under overload all of them too late; in order, as many are done as there is time for, and none waits for ever.
/// Not by deadline: then those who give little time would push aside those who give much, or set none.
///
/// By size: a small request never waits for a whole big one. It is the size that counts, and not what is left: a stream that
/// brings little at a time would always be small. Where all are alike both orders are one, and so nothing is lost by the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Age,
    Size,
}

impl Order {
    pub fn other(self) -> Self {
        match self {
            Order::Age => Order::Size,
            Order::Size => Order::Age,
        }
    }
}

/// Requests in line, in both orders. Tickets are given in the order of arrival.
#[derive(Debug, Default)]
pub(super) struct Line {
    by_age: BTreeSet<Ticket>,
    by_size: BTreeSet<(usize, Ticket)>,
}

impl Line {
    pub fn is_empty(&self) -> bool {
        self.by_age.is_empty()
    }

    pub fn insert(&mut self, ticket: Ticket, size: usize) {
        self.by_age.insert(ticket);
        self.by_size.insert((size, ticket));
    }

    /// Whether it was there.
    pub fn remove(&mut self, ticket: Ticket, size: usize) -> bool {
        self.by_size.remove(&(size, ticket));
        self.by_age.remove(&ticket)
    }

    pub fn first(&self, order: Order) -> Option<Ticket> {
        match order {
            Order::Age => self.by_age.first().copied(),
            Order::Size => self.by_size.first().map(|(_, ticket)| *ticket),
        }
    }

    /// Its first, where it comes before all of another line.
    fn first_before(&self, other: &Line, order: Order) -> Option<Ticket> {
        let before = match order {
            Order::Age => self.by_age.first() < other.by_age.first(),
            Order::Size => self.by_size.first() < other.by_size.first(),
        };
        if before { self.first(order) } else { None }
    }
}

/// It is there while it has requests.
#[derive(Debug)]
pub(super) struct Lane {
    pub requests: usize,
    pub texts: Line, // requests with texts to tokenize
    pub pairs: Line, // requests with pairs to compute
    pub pair_tokens: usize,
    pub reading: usize, // steps of tokenizing that are under way, and soon over
    pub waiting: usize, // tokens of all that waits, as far as they are known
    pub lead: usize,    // tokens that went to others than the first in line, less those that went to it
    reads: Order,       // in which texts are tokenized next
    pub turn: u64,      // how many waves there had been at its last one, or when it began
}

impl Lane {
    pub fn new(waves: u64) -> Self {
        Self {
            requests: 0,
            texts: Line::default(),
            pairs: Line::default(),
            pair_tokens: 0,
            reading: 0,
            waiting: 0,
            lead: 0,
            reads: Order::Age,
            turn: waves,
        }
    }

    /// Of batch requests, those that have waited for long are asked first, once in a while. `waves`: how many there have been;
    /// `aged`: at the last one that some got for their age.
    pub fn rank(&self, priority: Priority, waves: u64, aged: u64) -> Rank {
        let aged = waves.saturating_sub(aged) >= AGE_WAVES && waves.saturating_sub(self.turn) >= AGE_WAVES;
        match priority {
            Priority::Interactive => Rank::Interactive,
            Priority::Batch if aged => Rank::Aged,
            Priority::Batch => Rank::Batch,
        }
    }

    /// Tokenizing goes first until a wave is full, so that the model has work; and for who is first in line and has nothing
    /// ready, so that the order is kept. All others can wait: what is ready early is only memory.
    pub fn wants_texts(&self, rank: Rank, wave_tokens: usize) -> bool {
        if rank == Rank::Aged {
            // For its age a request gets a wave of what is ready, and no time to make more of it ready.
            return !self.texts.is_empty() && self.pair_tokens == 0;
        }
        !self.texts.is_empty() && (self.pair_tokens < wave_tokens || self.unready().is_some())
    }

    /// Whose texts are tokenized next.
    pub fn next_text(&mut self) -> Option<Ticket> {
        self.unready().or_else(|| {
            self.reads = self.reads.other();
            self.texts.first(self.reads)
        })
    }

    /// Who is first in line, in either order, and has no pairs.
    fn unready(&self) -> Option<Ticket> {
        if self.pairs.is_empty() {
            return None;
        }
        let first = |order| self.texts.first_before(&self.pairs, order);
        first(Order::Age).or_else(|| first(Order::Size))
    }
}
