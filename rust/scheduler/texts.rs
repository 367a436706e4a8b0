//! From texts to pairs: who is tokenized next, and how pairs come into line.

use super::lane::LaneKey;
use super::{Scheduler, Step, Ticket};

/// Texts tokenized in one step, where they have not a wave's tokens before: short enough that compute starts early, long
/// enough that the lock is seldom taken, and that the first in line has its part of a wave ready however short its texts are.
const TEXTS_PER_STEP: usize = 64;

/// Texts that were handed out together, until their pairs are in line: not before those of the texts before them.
#[derive(Debug)]
pub(super) struct Reading<P> {
    pub texts: usize,
    pub estimate: usize,
    /// Whether it is no more than a step of usual length, which a wave may wait for.
    pub short: bool,
    pub pairs: Option<Vec<(P, usize)>>,
}

impl<T, P> Scheduler<T, P> {
    /// Adds texts, each with an estimate of its tokens. Gives back those that a spent budget leaves undone.
    pub fn push(&mut self, ticket: Ticket, texts: impl IntoIterator<Item = (T, usize)>) -> Vec<T> {
        let Some(request) = self.requests.get_mut(&ticket) else { return Vec::new() };
        if request.spent {
            return texts.into_iter().map(|(text, _)| text).collect();
        }
        let Some(lane) = self.lanes.get_mut(&request.lane) else { return Vec::new() };
        let size = request.size;
        for (text, tokens) in texts {
            self.queued_tokens += tokens;
            lane.waiting += tokens;
            request.waiting += tokens;
            request.size += tokens;
            request.texts.push_back((text, tokens));
        }
        lane.texts.remove(ticket, size);
        lane.pairs.remove(ticket, size);
        self.stand(ticket);
        let last = self.requests.get(&ticket).and_then(|request| self.last_start(request));
        self.look_at(ticket, last);
        Vec::new()
    }

    /// Has a request stand in line for what waits of it.
    pub(super) fn stand(&mut self, ticket: Ticket) {
        let Some(request) = self.requests.get(&ticket) else { return };
        let Some(lane) = self.lanes.get_mut(&request.lane) else { return };
        if !request.texts.is_empty() {
            lane.texts.insert(ticket, request.size);
        }
        if !request.pairs.is_empty() {
            lane.pairs.insert(ticket, request.size);
        }
    }

    /// The texts handed out from this place on have become these pairs, each with its tokens. Gives back those that a spent
    /// budget leaves undone.
    pub fn tokenized(&mut self, ticket: Ticket, first: usize, pairs: Vec<(P, usize)>) -> Vec<P> {
        let Some(request) = self.requests.get_mut(&ticket) else { return Vec::new() };
        let Some(mut reading) = request.reading.remove(&first) else { return Vec::new() };
        let Some(lane) = self.lanes.get_mut(&request.lane) else { return Vec::new() };
        request.busy -= reading.texts;
        lane.reading -= usize::from(reading.short);
        if request.spent {
            return pairs.into_iter().map(|(pair, _)| pair).collect();
        }
        let tokens: usize = pairs.iter().map(|(_, tokens)| tokens).sum();
        self.pace.read(reading.estimate, tokens);
        self.queued_tokens += tokens;
        lane.waiting += tokens;
        request.waiting += tokens;
        reading.pairs = Some(pairs);
        request.reading.insert(first, reading);
        while let Some(entry) = request.reading.first_entry()
            && entry.get().pairs.is_some()
        {
            for (pair, tokens) in entry.remove().pairs.into_iter().flatten() {
                lane.pair_tokens += tokens;
                request.pairs.push_back((pair, tokens));
            }
        }
        self.stand(ticket);
        Vec::new()
    }

    pub(super) fn cut_texts(&mut self, key: LaneKey) -> Step<T, P> {
        let step = self.width(key.1).step;
        let Some(lane) = self.lanes.get_mut(&key) else { return Step::Wait(None) };
        let Some(ticket) = lane.next_text() else { return Step::Wait(None) };
        let Some(request) = self.requests.get_mut(&ticket) else { return Step::Wait(None) };
        let share = request.texts.len().div_ceil(self.limits.threads).min(TEXTS_PER_STEP);
        let mut texts = Vec::with_capacity(share);
        let mut estimate = 0;
        // About a wave, no more: what is ready delays whoever comes next.
        while texts.len() < share
            && estimate < step
            && let Some((text, tokens)) = request.texts.pop_front()
        {
            estimate += tokens;
            texts.push(text);
        }
        self.queued_tokens -= estimate;
        lane.waiting -= estimate;
        request.waiting -= estimate;
        request.busy += texts.len();
        if request.texts.is_empty() {
            lane.texts.remove(ticket, request.size);
        }
        let first = request.read;
        request.read += texts.len();
        let short = estimate <= step;
        lane.reading += usize::from(short);
        request.reading.insert(first, Reading { texts: texts.len(), estimate, short, pairs: None });
        Step::Tokenize { ticket, first, texts }
    }
}
