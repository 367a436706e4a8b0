//! Whether there is time: who is let in, who has no hope left, and what is told to those who are refused.
//!
//! Without it, an open loop above capacity with deadlines ends with all of them late: whoever is let in takes time from
//! those who could still be answered.

use std::time::{Duration, Instant};

use super::lane::{AGE_WAVES, Lane, LaneKey};
use super::{ModelId, Priority, Request, Scheduler, Ticket, Timer};

/// What is predicted is taken for so much more: rates are averages, and tokens are estimates.
const CAUTION: f64 = 1.25;

/// The shortest time between two looks at a request.
const LOOK: Duration = Duration::from_millis(1);

/// When to try again, at the least and at the most.
const RETRY: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(30)];

/// What is known of a request that would come in.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    pub model: ModelId,
    pub priority: Priority,
    /// Tokens that it would hold.
    pub holds: usize,
    /// Tokens to compute, as estimated.
    pub work: usize,
    pub deadline: Option<Instant>,
    pub budget: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Refusal {
    /// The queue is full.
    Full { retry_after: Option<Duration> },
    /// What is before it leaves too little time until its deadline.
    Late { takes: Duration, retry_after: Duration },
}

impl<T, P> Scheduler<T, P> {
    /// Why a request may not come in now, if so. Where nothing is held any may, so none is refused for ever.
    pub fn refuses(&self, ask: &Ask, now: Instant) -> Option<Refusal> {
        if !self.admits(ask.holds) {
            let over = (self.held_tokens.saturating_add(ask.holds)).saturating_sub(self.limits.queue_tokens);
            let retry_after = self.pace.rate().map(|rate| retry(over as f64 / rate));
            return Some(Refusal::Full { retry_after });
        }
        let deadline = ask.deadline.filter(|at| ask.budget.is_none_or(|budget| budget > *at))?;
        if self.queued_tokens == 0 {
            return None;
        }
        let takes = CAUTION * self.forecast(ask)?;
        let left = deadline.saturating_duration_since(now).as_secs_f64();
        (takes > left).then(|| Refusal::Late {
            takes: Duration::try_from_secs_f64(takes).unwrap_or(Duration::MAX),
            retry_after: retry(takes - left),
        })
    }

    /// Seconds until such a request would be answered, as things are going; None where that isn't known.
    fn forecast(&self, ask: &Ask) -> Option<f64> {
        let rate = self.pace.rate()? / self.pace.worth();
        let sum = |of: &dyn Fn(&LaneKey, &Lane) -> bool| -> usize {
            self.lanes.iter().filter(|(key, lane)| of(key, lane)).map(|(_, lane)| lane.waiting).sum()
        };
        // What is in work already, and what is before it in the order in which requests came.
        let width = self.width(ask.model);
        let out = (width.waves * width.wave_tokens) as f64;
        let own = out + ask.work as f64;
        let models = 1 + self.lanes.keys().filter(|(p, m)| *p == ask.priority && *m != ask.model).count();
        let interactive = sum(&|key, _| key.0 == Priority::Interactive);
        if ask.priority == Priority::Batch {
            let before = sum(&|_, _| true);
            // While there are interactive requests, batch work may get no more than its share for its age.
            let share = if interactive > 0 { AGE_WAVES as f64 } else { 1.0 };
            return Some((own + share * (before - interactive) as f64) / rate);
        }
        let lane = (ask.priority, ask.model);
        let ours = self.lanes.get(&lane).map_or(0, |lane| lane.waiting);
        // Models take waves in turn: a short line is done before the others are.
        let before = interactive.min(models * ours + (models - 1) * ask.work);
        let in_order = (own + before as f64) / (rate * self.pace.in_order());
        // Or half of its model's waves go to those no larger than it is, of whom it is the last.
        let smaller: usize = self
            .requests
            .values()
            .filter(|request| request.lane == lane && request.size <= ask.work)
            .map(|request| request.waiting)
            .sum();
        let by_size = (own + (2 * models * (smaller + ask.work)) as f64) / rate;
        Some(in_order.min(by_size))
    }

    /// When a request has to be looked at, lest it be computed in vain: at the last moment at which it could be done if all
    /// threads did nothing else.
    pub(super) fn last_start(&self, request: &Request<T, P>) -> Option<Instant> {
        let deadline = request.deadline.filter(|at| request.budget.is_none_or(|budget| budget > *at))?;
        let seconds = CAUTION * request.waiting as f64 * self.pace.worth() / self.pace.rate()?;
        deadline.checked_sub(Duration::try_from_secs_f64(seconds).ok()?)
    }

    /// Sets the time of the next look at a request.
    pub(super) fn look_at(&mut self, ticket: Ticket, at: Option<Instant>) {
        let Some(request) = self.requests.get_mut(&ticket) else { return };
        if let Some(before) = std::mem::replace(&mut request.look, at) {
            self.timers.remove(&(before, ticket, Timer::Look));
        }
        self.timers.extend(at.map(|at| (at, ticket, Timer::Look)));
    }

    /// Whether a request can't be done in time any more, and others need what it would take. If it may go on, it is looked at
    /// again later.
    pub(super) fn hopeless(&mut self, ticket: Ticket, now: Instant) -> bool {
        let Some(request) = self.requests.get(&ticket) else { return false };
        let Some((last, deadline)) = self.last_start(request).zip(request.deadline) else {
            self.look_at(ticket, None);
            return false;
        };
        // Alone it is tried all the same: nobody loses by it, and the rate may have been another's.
        if last <= now && self.queued_tokens > request.waiting {
            return true;
        }
        let middle = now + deadline.saturating_duration_since(now) / 2;
        let next = if last <= now { middle } else { last };
        self.look_at(ticket, Some(next.max(now + LOOK)));
        false
    }
}

fn retry(seconds: f64) -> Duration {
    let [least, most] = RETRY;
    Duration::try_from_secs_f64(seconds).unwrap_or(most).clamp(least, most)
}
