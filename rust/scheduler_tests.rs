use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

type TestScheduler = Scheduler<u32, u32>;
type Wave = Vec<(Ticket, u32)>;

const LIMITS: Limits = Limits { threads: 2, wave_tokens: 256, queue_tokens: 10_000 };

fn scheduler() -> TestScheduler {
    Scheduler::new(LIMITS)
}

/// A closed request of `texts` texts, each estimated at 10 tokens.
fn submit(scheduler: &mut TestScheduler, ticket: Ticket, priority: Priority, texts: u32) {
    scheduler.open(ticket, 0, priority, None, None);
    scheduler.push(ticket, (0..texts).map(|id| (id, 10)));
    scheduler.close(ticket);
}

/// Tokenizes until there is a wave, and computes it; every pair has `tokens` tokens.
fn first_wave(scheduler: &mut TestScheduler, now: Instant, tokens: usize) -> Wave {
    wave_of(scheduler, now, |_| tokens)
}

/// The same, with the tokens of each ticket's pairs.
fn wave_of(scheduler: &mut TestScheduler, now: Instant, tokens: impl Fn(Ticket) -> usize) -> Wave {
    loop {
        match scheduler.next(now) {
            Step::Tokenize { ticket, first, texts } => {
                let pairs = texts.iter().map(|id| (*id, tokens(ticket))).collect();
                assert!(scheduler.tokenized(ticket, first, pairs).is_empty());
            }
            Step::Compute { pairs: wave, .. } => {
                wave.iter().for_each(|(ticket, _)| scheduler.computed(*ticket));
                return wave;
            }
            Step::Wait(_) => return Vec::new(),
            other => panic!("{other:?}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..Default::default() })]

    /// Whatever the lengths: a pair that comes behind a big request is in one of the next waves.
    #[test]
    fn a_small_request_does_not_wait_for_a_whole_big_one(tokens in 1usize..400, small in 1usize..400) {
        let (mut scheduler, now) = (scheduler(), Instant::now());
        scheduler.open(1, 0, Priority::Interactive, None, None);
        scheduler.push(1, (0..500).map(|id| (id, tokens)));
        scheduler.close(1);
        first_wave(&mut scheduler, now, tokens);
        submit(&mut scheduler, 2, Priority::Interactive, 1);
        let joins = |scheduler: &mut TestScheduler| {
            let size = |ticket| if ticket == 2 { small } else { tokens };
            wave_of(scheduler, now, size).iter().any(|(ticket, _)| *ticket == 2)
        };
        prop_assert!((0..3).any(|_| joins(&mut scheduler)));
    }
}

#[test]
fn interactive_goes_before_batch_which_fills_what_is_left() {
    let (mut scheduler, now) = (scheduler(), Instant::now());
    submit(&mut scheduler, 1, Priority::Batch, 50);
    first_wave(&mut scheduler, now, 50);
    submit(&mut scheduler, 2, Priority::Interactive, 2);
    let wave = first_wave(&mut scheduler, now, 50);
    assert_eq!(wave[..2].iter().map(|(t, _)| *t).collect::<Vec<_>>(), [2, 2]);
    assert!(wave[2..].iter().all(|(t, _)| *t == 1) && wave.len() > 2, "{wave:?}");
}

#[test]
fn the_last_pairs_are_shared_among_threads() {
    let (mut scheduler, now) = (scheduler(), Instant::now());
    submit(&mut scheduler, 1, Priority::Interactive, 2);
    let Step::Tokenize { first, texts, .. } = scheduler.next(now) else { panic!() };
    assert_eq!(texts, [0], "two threads, two texts: one each");
    scheduler.tokenized(1, first, vec![(0, 128)]);
    let Step::Tokenize { first, .. } = scheduler.next(now) else { panic!() };
    scheduler.tokenized(1, first, vec![(1, 128)]);
    assert_eq!(scheduler.next(now), Step::Compute { model: 0, pairs: vec![(1, 0)] });
    assert_eq!(scheduler.next(now), Step::Compute { model: 0, pairs: vec![(1, 1)] });
    assert_eq!(scheduler.next(now), Step::Wait(None));
}

#[test]
fn expired_work_is_never_handed_out() {
    let (mut scheduler, now) = (scheduler(), Instant::now());
    let deadline = now + Duration::from_millis(5);
    scheduler.open(1, 0, Priority::Interactive, Some(deadline), None);
    scheduler.push(1, [(0, 10)]);
    scheduler.close(1);
    assert!(matches!(scheduler.next(now), Step::Tokenize { .. }));
    scheduler.tokenized(1, 0, vec![(0, 10)]);
    assert_eq!(scheduler.next(deadline), Step::Expired(1));
    assert_eq!(scheduler.next(deadline), Step::Wait(None));
    assert_eq!(scheduler.queued_tokens(), 0);
}

#[test]
fn a_spent_budget_gives_back_what_was_not_reached() {
    let (mut scheduler, now) = (scheduler(), Instant::now());
    let budget = now + Duration::from_millis(5);
    scheduler.open(1, 0, Priority::Interactive, None, Some(budget));
    scheduler.push(1, (0..40).map(|id| (id, 10)));
    scheduler.close(1);
    let Step::Tokenize { first, texts, .. } = scheduler.next(now) else { panic!() };
    let Step::Tokenize { first: second, texts: late, .. } = scheduler.next(now) else { panic!() };
    scheduler.tokenized(1, first, texts.iter().map(|id| (*id, 100)).collect());
    let Step::Compute { pairs: wave, .. } = scheduler.next(now) else { panic!() };
    let Step::Spent { ticket: 1, texts: unread, pairs } = scheduler.next(budget) else { panic!() };
    assert!(!scheduler.finished(1), "a wave and some texts are still out");
    let undone = scheduler.tokenized(1, second, late.iter().map(|id| (*id, 100)).collect());
    assert_eq!(undone, late, "what comes too late is not computed");
    assert_eq!(scheduler.push(1, [(99, 10)]), [99]);
    wave.iter().for_each(|_| scheduler.computed(1));
    assert!(scheduler.finished(1));
    let mut all: Vec<u32> =
        wave.into_iter().map(|(_, id)| id).chain(unread).chain(pairs).chain(undone).collect();
    all.sort_unstable();
    assert_eq!(all, (0..40).collect::<Vec<_>>());
}

#[test]
fn the_queue_is_bounded_but_never_refuses_for_ever() {
    let mut scheduler = scheduler();
    assert!(scheduler.admits(1_000_000), "an empty queue takes any request");
    submit(&mut scheduler, 1, Priority::Interactive, 3);
    scheduler.hold(1, 9_000);
    assert!(scheduler.admits(1_000));
    assert!(!scheduler.admits(1_001));
    assert!(!scheduler.admits(usize::MAX));
    // What is being done is held until it is answered.
    assert_eq!(first_wave(&mut scheduler, Instant::now(), 50).len(), 2);
    assert!(!scheduler.admits(1_001));
    // Who is in already may have a quarter more.
    assert!(scheduler.admits_more(3_500));
    assert!(!scheduler.admits_more(3_501));
    scheduler.remove(1);
    assert_eq!((scheduler.queued_tokens(), scheduler.held_tokens()), (0, 0));
    assert!(scheduler.admits(1_000_000));
}

#[test]
fn what_waits_of_a_request_is_what_is_neither_out_nor_done() {
    let (mut scheduler, now) = (scheduler(), Instant::now());
    submit(&mut scheduler, 1, Priority::Interactive, 4);
    assert_eq!((scheduler.waiting(1), scheduler.waiting(2)), (40, 0));
    let Step::Tokenize { first, texts, .. } = scheduler.next(now) else { panic!() };
    assert_eq!(scheduler.waiting(1), 20);
    scheduler.tokenized(1, first, texts.iter().map(|id| (*id, 200)).collect());
    assert_eq!(scheduler.waiting(1), 420);
    let Step::Compute { pairs, .. } = scheduler.next(now) else { panic!() };
    assert_eq!((pairs.len(), scheduler.waiting(1)), (1, 220));
}

#[test]
fn an_idle_thread_is_told_when_the_next_deadline_is() {
    let (mut scheduler, now) = (scheduler(), Instant::now());
    let deadline = now + Duration::from_millis(5);
    scheduler.open(1, 0, Priority::Interactive, Some(deadline), None);
    assert_eq!(scheduler.next(now), Step::Wait(Some(deadline)));
    scheduler.remove(1);
    assert_eq!(scheduler.next(now), Step::Wait(None));
}

#[derive(Debug, Clone)]
enum Event {
    Open { batch: bool, model: ModelId, deadline: Option<u64>, budget: Option<u64> },
    Push { which: usize, texts: u32 },
    Close { which: usize },
    Cancel { which: usize },
    Step,
    Finish { which: usize, tokens: usize },
    Sleep(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let time = || proptest::option::weighted(0.2, 0u64..50);
    prop_oneof![
        2 => (any::<bool>(), 0..3usize, time(), time())
            .prop_map(|(batch, model, deadline, budget)| Event::Open { batch, model, deadline, budget }),
        4 => (any::<usize>(), 0u32..40).prop_map(|(which, texts)| Event::Push { which, texts }),
        2 => any::<usize>().prop_map(|which| Event::Close { which }),
        1 => any::<usize>().prop_map(|which| Event::Cancel { which }),
        8 => Just(Event::Step),
        8 => (any::<usize>(), 1usize..400).prop_map(|(which, tokens)| Event::Finish { which, tokens }),
        1 => (0u64..20).prop_map(Event::Sleep),
    ]
}

/// What a caller keeps, and the law it checks: every text is accounted for exactly once.
#[derive(Default)]
struct World {
    live: Vec<Ticket>,
    models: HashMap<Ticket, ModelId>,
    deadlines: HashMap<Ticket, Instant>,
    closed: HashSet<Ticket>,
    gone: HashSet<Ticket>,
    pushed: HashMap<Ticket, u32>,
    done: HashMap<Ticket, HashSet<u32>>,
    out: Vec<Out>,
}

enum Out {
    Texts(Ticket, usize, Vec<u32>),
    Pairs(Wave),
}

impl World {
    fn account(&mut self, ticket: Ticket, ids: impl IntoIterator<Item = u32>) {
        for id in ids {
            assert!(self.done.entry(ticket).or_default().insert(id), "{ticket}/{id} came out twice");
        }
    }

    fn step(&mut self, step: Step<u32, u32>, now: Instant, sizes: &HashMap<(Ticket, u32), usize>) -> bool {
        let late = |world: &Self, t: &Ticket| world.deadlines.get(t).is_some_and(|at| *at <= now);
        match step {
            Step::Wait(at) => {
                assert!(at.is_none_or(|at| at > now));
                return false;
            }
            Step::Tokenize { ticket, first, texts } => {
                assert!(!self.gone.contains(&ticket) && !late(self, &ticket) && !texts.is_empty());
                self.out.push(Out::Texts(ticket, first, texts));
            }
            Step::Compute { model, pairs: wave } => {
                assert!(!wave.is_empty());
                assert!(wave.iter().all(|(t, _)| self.models[t] == model), "a wave is one model's");
                assert!(wave.iter().all(|(t, _)| !self.gone.contains(t) && !late(self, t)));
                let tokens: usize = wave.iter().map(|pair| sizes[pair]).sum();
                assert!(wave.len() == 1 || tokens <= LIMITS.wave_tokens, "{tokens} tokens in a wave");
                self.out.push(Out::Pairs(wave));
            }
            Step::Expired(ticket) => {
                assert!(late(self, &ticket));
                self.gone.insert(ticket);
            }
            Step::Spent { ticket, texts, pairs } => self.account(ticket, texts.into_iter().chain(pairs)),
        }
        true
    }

    fn finish(
        &mut self,
        scheduler: &mut TestScheduler,
        which: usize,
        tokens: usize,
        sizes: &mut HashMap<(Ticket, u32), usize>,
    ) {
        match self.out.swap_remove(which) {
            Out::Texts(ticket, first, texts) => {
                let pairs = texts.iter().map(|id| (*id, tokens)).collect();
                texts.iter().for_each(|id| _ = sizes.insert((ticket, *id), tokens));
                let undone = scheduler.tokenized(ticket, first, pairs);
                self.account(ticket, undone);
            }
            Out::Pairs(wave) => {
                for (ticket, id) in wave {
                    scheduler.computed(ticket);
                    self.account(ticket, [id]);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    /// Whatever happens in whatever order: each text comes out exactly once (computed, or given back by a spent budget),
    /// nothing expired or cancelled is handed out, waves keep their limit and to one model, and at the end nothing is
    /// left.
    #[test]
    fn every_text_is_accounted_for_exactly_once(events in prop::collection::vec(event(), 1..200)) {
        let (mut scheduler, mut world, mut sizes) = (scheduler(), World::default(), HashMap::new());
        let mut now = Instant::now();
        let mut tickets = 0;
        for event in events {
            let pick = |which: usize, from: &[Ticket]| from.get(which % from.len().max(1)).copied();
            match event {
                Event::Open { batch, model, deadline, budget } => {
                    tickets += 1;
                    let after = |ms: Option<u64>| ms.map(|ms| now + Duration::from_millis(ms));
                    let priority = if batch { Priority::Batch } else { Priority::Interactive };
                    scheduler.open(tickets, model, priority, after(deadline), after(budget));
                    scheduler.hold(tickets, 7);
                    world.models.insert(tickets, model);
                    world.deadlines.extend(after(deadline).map(|at| (tickets, at)));
                    world.live.push(tickets);
                }
                Event::Push { which, texts } => {
                    if let Some(ticket) = pick(which, &world.live)
                        && !world.closed.contains(&ticket) && !world.gone.contains(&ticket)
                    {
                        let first = *world.pushed.get(&ticket).unwrap_or(&0);
                        world.pushed.insert(ticket, first + texts);
                        let undone = scheduler.push(ticket, (first..first + texts).map(|id| (id, 10)));
                        world.account(ticket, undone);
                    }
                }
                Event::Close { which } => {
                    if let Some(ticket) = pick(which, &world.live) {
                        scheduler.close(ticket);
                        world.closed.insert(ticket);
                    }
                }
                Event::Cancel { which } => {
                    if let Some(ticket) = pick(which, &world.live) {
                        scheduler.remove(ticket);
                        world.gone.insert(ticket);
                    }
                }
                Event::Step => _ = world.step(scheduler.next(now), now, &sizes),
                Event::Finish { which, tokens } => {
                    if !world.out.is_empty() {
                        let which = which % world.out.len();
                        world.finish(&mut scheduler, which, tokens, &mut sizes);
                    }
                }
                Event::Sleep(ms) => now += Duration::from_millis(ms),
            }
        }
        // Let all of it run out.
        world.live.iter().for_each(|ticket| scheduler.close(*ticket));
        loop {
            let more = !world.out.is_empty() | world.step(scheduler.next(now), now, &sizes);
            while !world.out.is_empty() {
                world.finish(&mut scheduler, 0, 20, &mut sizes);
            }
            if !more {
                break;
            }
        }
        for ticket in &world.live {
            if world.gone.contains(ticket) {
                continue;
            }
            prop_assert!(scheduler.finished(*ticket), "{} is not finished", ticket);
            let done = world.done.get(ticket).map_or(0, HashSet::len);
            prop_assert_eq!(done as u32, *world.pushed.get(ticket).unwrap_or(&0));
        }
        prop_assert_eq!(scheduler.queued_tokens(), 0);
        world.live.iter().for_each(|ticket| scheduler.remove(*ticket));
        prop_assert_eq!((scheduler.held_tokens(), scheduler.lanes.len()), (0, 0));
    }
}
