//! Parts are run once each, whoever comes and goes; and the kernels that are split give the same bits.

use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::super::tests::{attentions, name};
use super::super::{
    Activation, AttentionScratch, Inputs, Kernels, NarrowInputs, NarrowKernels, Place, Precision,
};
use super::{Crew, split};

fn crew(free: usize) -> Crew {
    Crew::new(Arc::new(AtomicUsize::new(free)))
}

/// `work` on a crew's leader, with `assistants` beside it: there before it begins, and until it ends.
fn assisted<R>(assistants: usize, work: impl FnOnce() -> R) -> R {
    let (crew, over) = (crew(assistants), AtomicBool::new(false));
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    std::thread::scope(|scope| {
        for _ in 0..assistants {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    crew.assist(|| over.load(Ordering::Relaxed));
                }
            });
        }
        let _over = Over(&over);
        while crew.assistants() < assistants {
            std::thread::yield_now();
        }
        crew.lead(work)
    })
}

/// How often each of 0..n was in a range that `split` gave.
fn counts(n: usize, step: usize) -> Vec<usize> {
    let counts: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
    split(n, step, |range| {
        assert!(range.start % step == 0 && range.end <= n);
        for count in &counts[range] {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    counts.into_iter().map(AtomicUsize::into_inner).collect()
}

#[test]
fn every_column_is_in_one_part() {
    for assistants in [0, 1, 3] {
        assisted(assistants, || {
            for n in 0..80 {
                for step in [1, 2, 3, 16, 48] {
                    assert_eq!(counts(n, step), vec![1; n], "{n} by {step}");
                }
            }
        });
    }
}

#[test]
fn without_a_crew_or_a_free_thread_a_task_is_one_call() {
    let calls = AtomicUsize::new(0);
    let count = |range| {
        assert_eq!(range, 0..100);
        calls.fetch_add(1, Ordering::Relaxed);
    };
    split(100, 1, count);
    crew(0).lead(|| split(100, 1, count));
    assert_eq!(calls.into_inner(), 2);
    // One that is expected and does not come holds nothing up.
    crew(1).lead(|| assert_eq!(counts(100, 1), [1; 100]));
}

#[test]
fn a_task_within_a_task_is_its_own_thread_s() {
    assisted(2, || {
        let counts: Vec<AtomicUsize> = (0..64).map(|_| AtomicUsize::new(0)).collect();
        split(8, 1, |outer| {
            for outer in outer {
                split(8, 1, |inner| {
                    for inner in inner {
                        counts[outer * 8 + inner].fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        // And the crew is led again after it.
        assert!(super::LED.get().is_some());
    });
    assert!(super::LED.get().is_none());
}

/// Small tasks, each with its own closure and result, while assistants come and go at every chance.
#[test]
fn assistants_come_and_go() {
    let (crew, over) = (crew(4), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (crew, over) = (&crew, &over);
            scope.spawn(move || {
                for round in 0usize.. {
                    let mut looks = 0;
                    let stay = (thread + round) % 7 * 50;
                    crew.assist(|| {
                        looks += 1;
                        looks > stay || over.load(Ordering::Relaxed)
                    });
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    if round % 16 == 0 {
                        std::thread::sleep(Duration::from_micros(20));
                    }
                }
            });
        }
        crew.lead(|| {
            for task in 0..20_000usize {
                let n = 1 + task % 37;
                // On the heap, and gone after the task: a part that ran late or twice, or not at all, would be seen.
                let mut sums = vec![task as f32; n];
                let place = Place::new(&mut sums, 1, n, n);
                split(n, 1, |columns| {
                    // SAFETY: `split` gives each column to one part.
                    let mut part = unsafe { place.share(columns.clone()) };
                    part.row(0).iter_mut().zip(columns).for_each(|(sum, column)| *sum += column as f32);
                });
                assert!(sums.iter().enumerate().all(|(column, &sum)| sum == (task + column) as f32));
            }
        });
        over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_panic_anywhere_is_the_leader_s_and_the_crew_goes_on() {
    let message = |panic: Box<dyn std::any::Any + Send>| *panic.downcast::<&str>().unwrap();
    assisted(2, || {
        for bad in 0..12 {
            let begun = AtomicUsize::new(0);
            let panic = catch_unwind(|| {
                split(12, 1, |parts| {
                    begun.fetch_add(parts.len(), Ordering::Relaxed);
                    assert!(!parts.contains(&bad), "a bad part");
                });
            });
            assert_eq!(message(panic.unwrap_err()), "a bad part");
            // None was still to come when the leader went on.
            assert_eq!(begun.into_inner(), 12);
            assert_eq!(counts(12, 1), [1; 12]);
        }
    });
}

#[test]
#[should_panic(expected = "one leader")]
fn a_crew_has_one_leader() {
    let crew = crew(0);
    crew.lead(|| crew.lead(|| ()));
}

#[test]
fn assistants_leave_when_nothing_comes_or_enough_is_said() {
    let crew = crew(0);
    assert!(crew.assist(|| true));
    assert!(!crew.assist(|| false));
    assert_eq!(crew.assistants(), 0);
}

/// Values in -1..1.
fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// `work` gives the same alone and with assistants.
fn same_to_the_bit(work: impl Fn() -> Vec<f32>, what: &str) {
    let alone = work();
    for assistants in [1, 2] {
        assert_eq!(bits(&assisted(assistants, &work)), bits(&alone), "{what}");
    }
}

#[test]
fn linear_is_the_same_to_the_bit() {
    let shapes = [(1, 1, 64), (1, 768, 768), (7, 50, 19), (128, 96, 64), (150, 241, 400), (290, 333, 31)];
    for kernels in Kernels::available() {
        for (rows, n, k) in shapes {
            let (x, weight, bias) = (values(rows * k), values(n * k), values(n));
            let packed = kernels.pack(&weight, n, k);
            let product = || {
                let mut out = vec![7.0; rows * (n + 3)];
                kernels.linear(&x, k, rows, &packed, &bias, Activation::Gelu, &mut out, n + 3);
                out
            };
            same_to_the_bit(product, &format!("{} {rows} x {n} x {k}", kernels.name()));
        }
    }
}

#[test]
fn narrow_products_are_the_same_to_the_bit() {
    for kernels in [Precision::Bf16, Precision::Int8].into_iter().flat_map(NarrowKernels::available) {
        for (rows, n, k) in [(1, 768, 768), (7, 50, 19), (150, 241, 400), (70, 240, 128)] {
            let (x, weight, bias) = (values(rows * k), values(n * k), values(n));
            let row = |row: usize, out: &mut [f32]| out.copy_from_slice(&weight[row * k..(row + 1) * k]);
            let packed = kernels.pack(n, k, &Inputs::default(), row);
            let mut inputs = NarrowInputs::default();
            kernels.quantize(&x, k, rows, &packed, &mut inputs);
            let product = || {
                let mut out = vec![7.0; rows * (n + 3)];
                kernels.linear(&inputs, rows, &packed, &bias, Activation::Gelu, 0..n, &mut out, n + 3);
                out
            };
            same_to_the_bit(product, &format!("{} {rows} x {n} x {k}", kernels.name()));
        }
    }
}

#[test]
fn attention_is_the_same_to_the_bit() {
    for kernels in attentions() {
        for (ends, heads, dim) in [
            (vec![0, 128], 12, 64),
            (vec![0, 21, 21, 90], 3, 32),
            (vec![0, 300, 301], 1, 17),
            (vec![0, 5], 5, 1),
        ] {
            let width = heads * dim;
            let tokens = ends[ends.len() - 1] as usize;
            let qkv = values(tokens * 3 * width);
            let attention = || {
                let (mut out, mut scratch) = (vec![7.0; tokens * width], AttentionScratch::default());
                kernels.attention(&qkv, &ends, heads, dim, &mut out, &mut scratch);
                out
            };
            same_to_the_bit(attention, &format!("{} {ends:?} x {heads} x {dim}", name(&kernels)));
        }
    }
}
