//! Who gets how much of the threads, and when: the scheduler run against a clock that only the test moves.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::simulated::{LIKE, Like, TOKEN, Threads, WAVE};
use super::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..Default::default() })]

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
                threads.submit(ticket, Like { model, texts: 2000 / *count as u32, tokens, ..LIKE });
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
            threads.submit(model as u64, Like { model, texts: 400, tokens, windows, ..LIKE });
        }
        while threads.waves.len() < before {
            prop_assert!(threads.step());
        }
        let (small, since) = (1000, threads.waves.len());
        threads.submit(small, Like { tokens, ..LIKE });
        while threads.has(small) == 0 {
            prop_assert!(threads.step());
        }
        let holds = |(_, pairs): &(ModelId, Vec<(Ticket, u32)>)| pairs.iter().any(|(ticket, _)| *ticket == small);
        let first = threads.waves.iter().position(holds).unwrap();
        prop_assert!(first - since <= 2 * models + count, "{} waves", first - since);
    }

    /// Beside a big one a small request that comes now and then has all threads to itself, once their waves are over.
    #[test]
    fn a_small_request_is_not_slowed_by_a_big_one(
        texts in 1u32..20,
        tokens in 8usize..100,
        big in 8usize..200,
        before in 8usize..40,
        threads in 1usize..5,
    ) {
        let mut pool = Threads::new(threads);
        pool.submit(1, Like { texts: (6 * before * threads * WAVE / big) as u32, tokens: big, ..LIKE });
        for small in 2..6 {
            let waves = pool.waves.len() + before * threads;
            while pool.waves.len() < waves {
                prop_assert!(pool.step());
            }
            let like = Like { texts, tokens, ..LIKE };
            // Of each wave it has what its pairs fill.
            let takes = like.work() * WAVE / (WAVE - tokens) / threads;
            let end = pool.now + TOKEN * (takes + 3 * WAVE) as u32;
            pool.submit(small, like);
            while pool.step() && !pool.answered.contains_key(&small) {}
            prop_assert!(pool.answered[&small] <= end, "{:?} late", pool.answered[&small] - end);
        }
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
            threads.submit(ticket, Like { texts: 4000, tokens, ..LIKE });
        }
        for model in 1..=models {
            let priority = Priority::Batch;
            threads.submit(10 + model as u64, Like { model, priority, texts: 400, tokens, ..LIKE });
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
        threads.submit(1, Like { texts: 100, tokens, ..LIKE });
        for ticket in 2..4000 {
            if threads.answered.contains_key(&1) {
                return Ok(());
            }
            // More comes, every time, than can be done.
            threads.submit(ticket, Like { texts: 16, tokens, ..LIKE });
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
            threads.submit(ticket, Like { model, texts, tokens, ..LIKE });
            wave = wave.max(tokens);
        }
        for _ in 0..3 {
            threads.step();
        }
        let budget = threads.now + Duration::from_micros(budget_us);
        threads.submit(1, Like { texts, tokens, budget: Some(budget), ..LIKE });
        while threads.step() && !threads.answered.contains_key(&1) {}
        let late = threads.answered[&1].saturating_duration_since(budget);
        prop_assert!(late <= TOKEN * wave as u32, "{late:?} after the budget; a wave is {wave} us");
    }
}
