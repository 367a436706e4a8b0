//! Who gets how much of the threads, and when: the scheduler run against a clock that only the test moves.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

const WAVE: usize = 256;

/// A token takes a microsecond to compute; tokenizing takes no time.
const TOKEN: Duration = Duration::from_micros(1);

/// A thread in a wave.
struct Running {
    end: Instant,
    pairs: Vec<(Ticket, u32)>,
}

/// Threads that do what the scheduler says, in simulated time.
struct Threads {
    scheduler: Scheduler<u32, u32>,
    now: Instant,
    threads: usize,
    running: Vec<Running>,
    /// Tokens of each pair of a ticket, and how many pairs a text of it becomes.
    sizes: HashMap<Ticket, (usize, u32)>,
    waves: Vec<(ModelId, Vec<Ticket>)>,
    answered: HashMap<Ticket, Instant>,
}

impl Threads {
    fn new(threads: usize) -> Self {
        let limits = Limits { threads, wave_tokens: WAVE, queue_tokens: 1_000_000 };
        Self {
            scheduler: Scheduler::new(limits),
            now: Instant::now(),
            threads,
            running: Vec::new(),
            sizes: HashMap::new(),
            waves: Vec::new(),
            answered: HashMap::new(),
        }
    }

    fn submit(&mut self, ticket: Ticket, model: ModelId, priority: Priority, texts: u32, tokens: usize) {
        self.submit_with(ticket, (model, priority), (texts, tokens, 1), None);
    }

    fn submit_with(
        &mut self,
        ticket: Ticket,
        (model, priority): (ModelId, Priority),
        (texts, tokens, windows): (u32, usize, u32),
        budget: Option<Instant>,
    ) {
        self.sizes.insert(ticket, (tokens, windows));
        self.scheduler.open(ticket, model, priority, None, budget);
        let estimate = tokens * windows as usize;
        self.scheduler.push(ticket, (0..texts).map(|text| (text, estimate)));
        self.scheduler.close(ticket);
    }

    fn answer_if_done(&mut self, ticket: Ticket) {
        if self.scheduler.finished(ticket) {
            self.scheduler.remove(ticket);
            self.answered.insert(ticket, self.now);
        }
    }

    /// Gives every free thread something to do; the time then is that of the next end of a wave. False: nothing is left.
    fn step(&mut self) -> bool {
        let mut timer = None;
        while self.running.len() < self.threads {
            match self.scheduler.next(self.now) {
                Step::Tokenize { ticket, texts } => {
                    let (tokens, windows) = self.sizes[&ticket];
                    let pairs = texts.iter().flat_map(|text| (0..windows).map(|_| (*text, tokens))).collect();
                    self.scheduler.tokenized(ticket, texts.len(), pairs);
                    self.answer_if_done(ticket);
                }
                Step::Compute { model, pairs } => {
                    let tokens: usize = pairs.iter().map(|(ticket, _)| self.sizes[ticket].0).sum();
                    self.waves.push((model, pairs.iter().map(|(ticket, _)| *ticket).collect()));
                    self.running.push(Running { end: self.now + TOKEN * tokens as u32, pairs });
                }
                Step::Spent { ticket, .. } => self.answer_if_done(ticket),
                Step::Expired(ticket) => panic!("{ticket} has no deadline"),
                Step::Wait(until) => {
                    timer = until;
                    break;
                }
            }
        }
        let end = self.running.iter().map(|running| running.end).min();
        let Some(next) = end.into_iter().chain(timer).min() else { return false };
        self.now = self.now.max(next);
        for running in std::mem::take(&mut self.running) {
            if running.end > self.now {
                self.running.push(running);
                continue;
            }
            for (ticket, _) in running.pairs {
                self.scheduler.computed(ticket);
                self.answer_if_done(ticket);
            }
        }
        true
    }

    fn has(&self, ticket: Ticket) -> usize {
        self.waves.iter().filter(|(_, tickets)| tickets.contains(&ticket)).count()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..Default::default() })]

    /// Models that all have work get as many waves as each other, however many requests of each there are.
    #[test]
    fn models_take_waves_in_turn(
        requests in prop::collection::vec(1u64..6, 2..5),
        tokens in 8usize..200,
        threads in 1usize..4,
    ) {
        let mut threads = Threads::new(threads);
        let mut ticket = 0;
        for (model, count) in requests.iter().enumerate() {
            for _ in 0..*count {
                ticket += 1;
                threads.submit(ticket, model, Priority::Interactive, 2000 / *count as u32, tokens);
            }
        }
        while threads.waves.len() < 60 {
            prop_assert!(threads.step());
        }
        let of = |model| threads.waves.iter().filter(|(served, _)| *served == model).count();
        let counts: Vec<usize> = (0..requests.len()).map(of).collect();
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        prop_assert!(most - least <= 1, "{counts:?}");
    }

    /// A small request waits for no more than the waves in progress, one of every other model, and two of its own.
    #[test]
    fn a_small_request_is_not_held_up_by_another_models_big_one(
        models in 2usize..5,
        tokens in 8usize..400,
        windows in 1u32..200,
        threads in 1usize..4,
        before in 1usize..20,
    ) {
        let count = threads;
        let mut threads = Threads::new(threads);
        for model in 0..models {
            let big = (400, tokens, windows);
            threads.submit_with(model as u64, (model, Priority::Interactive), big, None);
        }
        while threads.waves.len() < before {
            prop_assert!(threads.step());
        }
        let (small, since) = (1000, threads.waves.len());
        threads.submit(small, 0, Priority::Interactive, 1, tokens);
        while threads.has(small) == 0 {
            prop_assert!(threads.step());
        }
        let first = threads.waves.iter().position(|(_, tickets)| tickets.contains(&small)).unwrap();
        prop_assert!(first - since <= 2 * models + count, "{} waves", first - since);
    }

    /// While interactive requests fill every wave, batch requests of every model get their share, and no more than that.
    #[test]
    fn batch_work_advances_at_saturation(
        models in 1usize..5,
        tokens in 8usize..200,
        threads in 1usize..4,
    ) {
        let mut threads = Threads::new(threads);
        // Of model 0 interactive requests alone, so that batch requests of the others can't fill up its waves.
        for ticket in 1..4 {
            threads.submit(ticket, 0, Priority::Interactive, 4000, tokens);
        }
        for model in 1..=models {
            threads.submit(10 + model as u64, model, Priority::Batch, 400, tokens);
        }
        let waves = 10 * models * 8;
        while threads.waves.len() < waves {
            prop_assert!(threads.step());
        }
        let batch: Vec<usize> = (1..=models).map(|model| threads.has(10 + model as u64)).collect();
        prop_assert!(batch.iter().all(|share| (8..=11).contains(share)), "{batch:?} of {waves}");
    }

    /// Requests that keep coming don't keep those from their end that have begun.
    #[test]
    fn new_requests_do_not_starve_begun_ones(tokens in 16usize..200, threads in 1usize..4) {
        let mut threads = Threads::new(threads);
        threads.submit(1, 0, Priority::Interactive, 100, tokens);
        for ticket in 2..4000 {
            if threads.answered.contains_key(&1) {
                return Ok(());
            }
            // More comes, every time, than can be done.
            threads.submit(ticket, 0, Priority::Interactive, 16, tokens);
            prop_assert!(threads.step());
        }
        prop_assert!(false, "the first request is still not answered");
    }

    /// The budget's promise: an answer within the budget and one wave, whatever else is in work.
    #[test]
    fn a_budget_is_kept_within_a_wave(
        others in prop::collection::vec((0usize..3, 1u32..300, 8usize..512), 0..5),
        texts in 1u32..600,
        tokens in 8usize..512,
        budget_us in 1u64..20_000,
        threads in 1usize..4,
    ) {
        let mut threads = Threads::new(threads);
        let mut wave = WAVE.max(tokens);
        for (ticket, (model, texts, tokens)) in (10..).zip(others) {
            threads.submit(ticket, model, Priority::Interactive, texts, tokens);
            wave = wave.max(tokens);
        }
        for _ in 0..3 {
            threads.step();
        }
        let budget = threads.now + Duration::from_micros(budget_us);
        threads.submit_with(1, (0, Priority::Interactive), (texts, tokens, 1), Some(budget));
        while threads.step() && !threads.answered.contains_key(&1) {}
        let late = threads.answered[&1].saturating_duration_since(budget);
        prop_assert!(late <= TOKEN * wave as u32, "{late:?} after the budget; a wave is {wave} us");
    }
}
