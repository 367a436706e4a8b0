//! How a wave is cut: whose pairs are in it, and how many.

use std::time::Instant;

use super::lane::{LaneKey, Order, Rank};
use super::{Priority, Scheduler, Step, Ticket};

/// Waves of every thread that may go to small requests alone before the first in line gets its half again. So a small one
/// that comes now and then is done as soon as can be, and costs the first in line no more than these.
pub(super) const CREDIT_WAVES: usize = 4;

struct Wave<P> {
    pairs: Vec<(Ticket, P)>,
    tokens: usize,
    target: usize,
    jumped: usize, // tokens of requests that were not the first in line
}

impl<P> Wave<P> {
    /// Whether so many tokens more are too many; the first pair never is.
    fn passes(&self, tokens: usize, limit: usize) -> bool {
        !self.pairs.is_empty() && self.tokens + tokens > limit
    }
}

/// What became of a request's turn in a wave.
enum Turn {
    /// It has its part, and others may have theirs.
    Done,
    /// The wave is full.
    Full,
    /// With its pairs the wave would not be over before its budget is.
    Late,
}

impl<T, P> Scheduler<T, P> {
    /// Pairs of the lane, then of the model's other lane, until the wave is full.
    pub(super) fn cut_wave(&mut self, (priority, model): LaneKey, rank: Rank, now: Instant) -> Step<T, P> {
        let width = self.width(model);
        // When less is left than would fill every thread's wave, the threads share it.
        let target = self.ready(model).div_ceil(width.waves).clamp(width.small, width.wave_tokens);
        let mut wave = Wave { pairs: Vec::new(), tokens: 0, target, jumped: 0 };
        self.waves += 1;
        self.begun(model);
        let other = match priority {
            Priority::Interactive => Priority::Batch,
            Priority::Batch => Priority::Interactive,
        };
        for key in [(priority, model), (other, model)] {
            self.fill_wave(key, &mut wave, now);
        }
        let jumped = if rank == Rank::Aged { wave.tokens } else { wave.jumped };
        self.pace.cut(wave.tokens, jumped);
        Step::Compute { model, pairs: wave.pairs }
    }

    /// By age goes first what keeps the others' lead within their credit: half of what there is room for where they have
    /// none left. All else goes by size.
    fn fill_wave(&mut self, key: LaneKey, wave: &mut Wave<P>, now: Instant) {
        let Some(lane) = self.lanes.get(&key) else { return };
        let width = self.width(key.1);
        let credit = CREDIT_WAVES * width.waves * width.wave_tokens;
        let (had, had_jumped) = (wave.tokens, wave.jumped);
        let room = wave.target.saturating_sub(had);
        let by_age = had + ((lane.lead + room).saturating_sub(credit) / 2).min(room);
        let mut late = Vec::new();
        for (order, end) in [(Order::Age, by_age), (Order::Size, usize::MAX)] {
            while wave.tokens < end.min(wave.target)
                && let Some(ticket) = self.lanes.get(&key).and_then(|lane| lane.pairs.first(order))
            {
                match self.take_pairs(key, ticket, end, wave, now) {
                    Turn::Done => {}
                    Turn::Full => wave.target = wave.tokens,
                    Turn::Late => late.push(ticket),
                }
            }
        }
        if let Some(lane) = self.lanes.get_mut(&key) {
            let jumped = wave.jumped - had_jumped;
            let in_order = wave.tokens - had - jumped;
            lane.lead = (lane.lead + jumped).saturating_sub(in_order).min(credit);
        }
        for ticket in late {
            self.stand(ticket);
        }
    }

    /// Pairs of one request, in the order of its texts, until the wave has `end` tokens or is full.
    fn take_pairs(
        &mut self,
        key: LaneKey,
        ticket: Ticket,
        end: usize,
        wave: &mut Wave<P>,
        now: Instant,
    ) -> Turn {
        let waves = self.width(key.1).waves;
        let (Some(lane), Some(request)) = (self.lanes.get_mut(&key), self.requests.get_mut(&ticket)) else {
            return Turn::Full;
        };
        // A wave is over for all that is in it at once: it is no longer than the time that the budget leaves.
        let left = request.budget.map(|at| at.saturating_duration_since(now).as_secs_f64());
        let fits = left
            .zip(self.pace.rate())
            .map_or(usize::MAX, |(left, rate)| (left * rate / waves as f64) as usize);
        let jumps = lane.pairs.first(Order::Age) != Some(ticket);
        let had = wave.pairs.len();
        while wave.tokens < end
            && let Some(&(_, tokens)) = request.pairs.front()
        {
            if wave.passes(tokens, wave.target) {
                return Turn::Full;
            }
            if wave.passes(tokens, fits) {
                if wave.pairs.len() > had {
                    return Turn::Full;
                }
                lane.pairs.remove(ticket, request.size);
                return Turn::Late;
            }
            wave.target = wave.target.min(fits.max(tokens));
            let Some((pair, _)) = request.pairs.pop_front() else { break };
            wave.pairs.push((ticket, pair));
            wave.tokens += tokens;
            wave.jumped += if jumps { tokens } else { 0 };
            lane.pair_tokens -= tokens;
            lane.waiting -= tokens;
            lane.turn = self.waves;
            self.queued_tokens -= tokens;
            request.waiting -= tokens;
            request.busy += 1;
        }
        if request.pairs.is_empty() {
            lane.pairs.remove(ticket, request.size);
        }
        Turn::Done
    }
}
