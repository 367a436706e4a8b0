//! One model's requests of one priority, and when it is their turn.

use std::collections::VecDeque;

use super::{ModelId, Priority, Ticket};

/// A new request's first texts are tokenized at once, so that it joins the next wave, unless this many waves are ready:
/// under overload tokenizing must not starve the model.
const READY_WAVES: usize = 8;

/// ... or unless so many requests are in line with pairs. What one request has ready never keeps others out: it has its
/// turn, half a wave, like them.
const READY_REQUESTS: usize = 2 * READY_WAVES;

/// Batch requests that have waited for this many waves get the next one, once in so many: at saturation batch work
/// goes on, and costs the interactive no more than that.
const AGE_WAVES: u64 = 8;

/// Begun requests among which those that begin take every second turn; of more, every third, and so on.
const FEW_BEGUN: usize = 4;

/// Who is asked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    Aged,
    Interactive,
    Batch,
}

pub(super) type LaneKey = (Priority, ModelId);

/// One model's requests of one priority that have work, each kind in turn. It is there while it has requests.
#[derive(Debug)]
pub(super) struct Lane {
    pub requests: usize,
    pub fresh: VecDeque<Ticket>, // texts, and none tokenized yet
    pub texts: VecDeque<Ticket>,
    pub pairs: VecDeque<Ticket>,
    pub pair_tokens: usize,
    since_fresh: usize, // steps for begun requests since the last one for a fresh one
    pub turn: u64,      // how many waves there had been at its last one, or when it began
}

impl Lane {
    pub fn new(waves: u64) -> Self {
        Self {
            requests: 0,
            fresh: VecDeque::new(),
            texts: VecDeque::new(),
            pairs: VecDeque::new(),
            pair_tokens: 0,
            since_fresh: 0,
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

    /// Tokenizing goes first only until a wave is full: then the model has work, and the rest can wait.
    pub fn wants_texts(&self, rank: Rank, wave_tokens: usize) -> bool {
        let (texts, fresh) = (!self.texts.is_empty(), !self.fresh.is_empty());
        if rank == Rank::Aged {
            // For its age a request gets a wave of what is ready, and no time to make more of it ready.
            return (texts || fresh) && self.pair_tokens == 0;
        }
        let room = self.pair_tokens < READY_WAVES * wave_tokens || self.pairs.len() < READY_REQUESTS;
        (texts && self.pair_tokens < wave_tokens) || (fresh && room)
    }

    /// Whose texts are tokenized next. Requests that begin take turns with those that have begun, and fewer turns the more there
    /// are of these: else they would all be kept from their end by what keeps coming.
    pub fn next_text(&mut self) -> Option<Ticket> {
        let due = self.since_fresh > self.texts.len() / FEW_BEGUN;
        if (due || self.texts.is_empty())
            && let Some(ticket) = self.fresh.pop_front()
        {
            self.since_fresh = 0;
            return Some(ticket);
        }
        self.since_fresh += 1;
        self.texts.pop_front()
    }
}
