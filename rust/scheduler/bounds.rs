//! How wide a model's work is: how many of its waves are computed at a time, and how many tokens each of them has. On the
//! CPU that is a wave of `wave_tokens` for each thread. A GPU wants fewer and larger ones, and its threads only prepare them.

use super::lane::Lane;
use super::{ModelId, Scheduler};

/// A wave smaller than this costs more in passes over the weights than a second thread gains.
const SMALL_WAVE_TOKENS: usize = 128;

/// A GPU's part of a full wave below which it isn't worth cutting work in two, and that is tokenized in one step.
const GPU_PART: usize = 8;

/// What a model asks for that isn't computed on the threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Waves in work at a time.
    pub waves: usize,
    /// A wave holds at most this many tokens, but always one pair.
    pub wave_tokens: usize,
}

/// A model's bounds, and how many of its waves are in work.
#[derive(Debug)]
pub(super) struct Bound {
    bounds: Bounds,
    out: usize,
}

/// See the head of this file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Width {
    pub waves: usize,
    pub wave_tokens: usize,
    /// What is left is shared in waves no smaller than this.
    pub small: usize,
    /// Tokens that are kept ready.
    pub ahead: usize,
    /// Tokens, about, that are tokenized in one step.
    pub step: usize,
}

impl<T, P> Scheduler<T, P> {
    /// From now on the model's waves are cut by these bounds, and `landed` is called for each.
    pub fn bound(&mut self, model: ModelId, bounds: Bounds) {
        self.pace.regard(bounds.wave_tokens);
        self.bounds.insert(model, Bound { bounds, out: 0 });
    }

    /// The model is gone.
    pub fn unbound(&mut self, model: ModelId) {
        self.bounds.remove(&model);
    }

    /// A wave of the model's is over.
    pub fn landed(&mut self, model: ModelId) {
        if let Some(bound) = self.bounds.get_mut(&model) {
            bound.out = bound.out.saturating_sub(1);
        }
    }

    /// The model's waves are no larger than this from now on: there was no memory for one of twice as many tokens.
    pub fn shrink(&mut self, model: ModelId, tokens: usize) {
        if let Some(Bound { bounds, .. }) = self.bounds.get_mut(&model) {
            bounds.wave_tokens = bounds.wave_tokens.min(tokens.max(1));
        }
    }

    pub(super) fn width(&self, model: ModelId) -> Width {
        match self.bounds.get(&model) {
            None => {
                let wave_tokens = self.limits.wave_tokens;
                let small = SMALL_WAVE_TOKENS.min(wave_tokens);
                Width {
                    waves: self.limits.threads,
                    wave_tokens,
                    small,
                    ahead: wave_tokens,
                    step: wave_tokens,
                }
            }
            Some(Bound { bounds: Bounds { waves, wave_tokens }, .. }) => {
                let part = wave_tokens.div_ceil(GPU_PART);
                let ahead = waves * wave_tokens;
                Width { waves: *waves, wave_tokens: *wave_tokens, small: part, ahead, step: part }
            }
        }
    }

    /// Whether one more wave of the model's may be computed.
    pub(super) fn has_room(&self, model: ModelId) -> bool {
        self.bounds.get(&model).is_none_or(|bound| bound.out < bound.bounds.waves)
    }

    /// Whether a wave is better cut a little later. A GPU takes a millisecond for however little, and has few waves at a time: the
    /// first texts of a request that are tokenized would have it to themselves, and the rest would wait.
    pub(super) fn waits_for_more(&self, lane: &Lane, model: ModelId) -> bool {
        self.bounds.contains_key(&model) && lane.reading > 0 && lane.pair_tokens < self.width(model).small
    }

    pub(super) fn begun(&mut self, model: ModelId) {
        if let Some(bound) = self.bounds.get_mut(&model) {
            bound.out += 1;
        }
    }

    /// Tokens ready to be computed where this model is: threads are all models', a GPU's waves each model's own.
    pub(super) fn ready(&self, model: ModelId) -> usize {
        let bounded = self.bounds.contains_key(&model);
        let same = |other: ModelId| if bounded { other == model } else { !self.bounds.contains_key(&other) };
        self.lanes.iter().filter(|(key, _)| same(key.1)).map(|(_, lane)| lane.pair_tokens).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::{Limits, Priority, Step};
    use super::*;

    const LIMITS: Limits = Limits { threads: 4, wave_tokens: 100, queue_tokens: 1 << 30 };

    /// A scheduler whose model 1 has a request of so many pairs of 10 tokens ready.
    fn ready(pairs: usize, bounds: Option<Bounds>) -> Scheduler<(), usize> {
        let mut scheduler = Scheduler::new(LIMITS);
        if let Some(bounds) = bounds {
            scheduler.bound(1, bounds);
        }
        scheduler.open(1, 1, Priority::Interactive, None, None);
        scheduler.push(1, vec![((), 10); pairs]);
        // All of its texts, before any wave.
        while let Step::Tokenize { first, texts, .. } = scheduler.cut_texts((Priority::Interactive, 1)) {
            scheduler.tokenized(1, first, texts.iter().map(|()| (0, 10)).collect());
        }
        scheduler
    }

    fn wave(scheduler: &mut Scheduler<(), usize>) -> Option<usize> {
        match scheduler.next(Instant::now()) {
            Step::Compute { pairs, .. } => Some(pairs.len()),
            _ => None,
        }
    }

    #[test]
    fn a_gpu_gets_few_waves_and_large_ones() {
        let mut scheduler = ready(1000, Some(Bounds { waves: 2, wave_tokens: 3000 }));
        assert_eq!(wave(&mut scheduler), Some(300));
        assert_eq!(wave(&mut scheduler), Some(300));
        assert_eq!(wave(&mut scheduler), None, "both are in work");
        scheduler.landed(1);
        assert_eq!(wave(&mut scheduler), Some(200), "what is left is shared by two");
        assert_eq!(wave(&mut scheduler), None);
    }

    /// A scheduler with 40 texts of 10 tokens each, and the steps of 10 texts in which its four threads tokenize them.
    fn reading(bounds: Option<Bounds>) -> (Scheduler<(), usize>, Vec<usize>) {
        let mut scheduler = Scheduler::new(LIMITS);
        if let Some(bounds) = bounds {
            scheduler.bound(1, bounds);
        }
        scheduler.open(1, 1, Priority::Interactive, None, None);
        scheduler.push(1, vec![((), 10); 40]);
        scheduler.close(1);
        let mut firsts = Vec::new();
        while let Step::Tokenize { first, .. } = scheduler.next(Instant::now()) {
            firsts.push(first);
        }
        (scheduler, firsts)
    }

    #[test]
    fn a_gpus_wave_waits_for_texts_that_are_nearly_ready() {
        let (mut scheduler, firsts) = reading(Some(Bounds { waves: 2, wave_tokens: 1600 }));
        assert!(firsts.len() > 3, "{firsts:?}");
        let read = |scheduler: &mut Scheduler<(), usize>, at: usize| {
            let texts = firsts.get(at + 1).unwrap_or(&40) - firsts[at];
            scheduler.tokenized(1, firsts[at], vec![(0, 10); texts]);
        };
        read(&mut scheduler, 0);
        assert_eq!(wave(&mut scheduler), None, "the others are under way");
        // An eighth of a wave is worth a wave, and so is whatever there is when nothing more comes.
        read(&mut scheduler, 1);
        read(&mut scheduler, 2);
        assert_eq!(wave(&mut scheduler), Some(20));
        (3..firsts.len()).for_each(|at| read(&mut scheduler, at));
        assert!(wave(&mut scheduler).is_some());
    }

    #[test]
    fn a_request_that_is_given_up_keeps_no_wave_waiting() {
        let (mut scheduler, firsts) = reading(Some(Bounds { waves: 2, wave_tokens: 1600 }));
        scheduler.open(2, 1, Priority::Interactive, None, None);
        scheduler.push(2, vec![((), 10)]);
        let Step::Tokenize { ticket: 2, first, .. } = scheduler.next(Instant::now()) else { panic!() };
        scheduler.tokenized(2, first, vec![(0, 10)]);
        assert_eq!(wave(&mut scheduler), None);
        scheduler.remove(1);
        assert_eq!(wave(&mut scheduler), Some(1));
        scheduler.tokenized(1, firsts[0], vec![(0, 10); 10]);
        assert_eq!(wave(&mut scheduler), None, "it is gone");
    }

    #[test]
    fn the_cpus_threads_wait_for_nothing() {
        let (mut scheduler, firsts) = reading(None);
        let texts = firsts.get(1).unwrap_or(&40) - firsts[0];
        scheduler.tokenized(1, firsts[0], vec![(0, 10); texts]);
        assert!(wave(&mut scheduler).is_some());
    }

    #[test]
    fn without_bounds_every_thread_has_a_wave() {
        let mut scheduler = ready(100, None);
        assert_eq!((0..5).map(|_| wave(&mut scheduler)).collect::<Vec<_>>(), [Some(10); 5]);
    }

    #[test]
    fn what_there_was_no_memory_for_is_not_tried_again() {
        let mut scheduler = ready(1000, Some(Bounds { waves: 2, wave_tokens: 3000 }));
        scheduler.shrink(1, 1500);
        assert_eq!(wave(&mut scheduler), Some(150));
        scheduler.shrink(1, 2000);
        assert_eq!(wave(&mut scheduler), Some(150), "never larger again");
        scheduler.unbound(1);
        assert_eq!(wave(&mut scheduler), Some(10));
    }

    #[test]
    fn little_work_is_not_cut_up() {
        let mut scheduler = ready(30, Some(Bounds { waves: 2, wave_tokens: 8000 }));
        assert_eq!(wave(&mut scheduler), Some(30));
    }
}
