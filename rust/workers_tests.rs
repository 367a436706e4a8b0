//! Faults of our own, planted in a wave: what becomes of those who asked, and of the pool.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use super::Post;
use crate::completions::Completions;
use crate::engine::{Engine, Options};
use crate::error::Error;
use crate::pool::Pool;
use crate::request::{Completion, Job};
use crate::scheduler::{Limits, Priority};
use crate::tokenize::Overflow;

fn engine(threads: usize) -> Engine {
    let pool = Pool::new(Limits { threads, wave_tokens: 256, queue_tokens: 100_000 }).unwrap();
    let options = Options {
        directory: Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/bert"),
        device: "cpu".into(),
        dtype: "f32".into(),
        kernels: "auto".into(),
        emulate: false,
        max_tokens: None,
    };
    Engine::load(Arc::new(pool), &options).unwrap()
}

fn submit(engine: &Engine) -> Arc<Completions<Completion>> {
    let completions = Arc::new(Completions::new().unwrap());
    let job = Job {
        query: "q".into(),
        contexts: vec!["a context".into()],
        max_tokens: None,
        overflow: Overflow::Truncate,
        priority: Priority::Interactive,
        deadline: None,
        budget: None,
        progressive: false,
        more: false,
        key_bytes: 0,
        keeps_texts: true,
    };
    engine.submit(job, completions.clone()).unwrap();
    completions
}

fn answer(completions: &Completions<Completion>) -> Completion {
    completions.wait(Duration::from_secs(60)).pop().expect("nothing came for a minute")
}

fn plant(engine: &Engine, fault: impl FnMut() + Send + 'static) {
    *engine.pool().shared().fault.lock().unwrap() = Some(Box::new(fault));
}

#[test]
fn a_panic_fails_the_requests_of_its_wave_and_the_engine_goes_on() {
    let engine = engine(1);
    let mut panics = 1;
    plant(&engine, move || {
        panics -= 1;
        assert!(panics < 0, "planted");
    });
    let failed = answer(&submit(&engine));
    assert!(failed.last);
    assert!(matches!(&failed.error, Some(Error::Internal(text)) if text.contains("planted")), "{failed:?}");
    let next = answer(&submit(&engine));
    assert_eq!((next.error.is_none(), next.ids), (true, vec![0]));
    assert_eq!((engine.stats().counters.failed, engine.stats().tickets), (1, 0));
    assert_eq!((engine.pool().stats().threads, engine.pool().stats().held_tokens), (1, 0));
}

#[test]
fn a_step_that_does_not_end_is_seen_and_an_idle_pool_is_no_such_step() {
    let engine = engine(1);
    let (begun, waits) = channel();
    let (go, gate) = channel::<()>();
    assert_eq!(engine.pool().stats().oldest_step, Duration::ZERO);
    plant(&engine, move || {
        begun.send(()).unwrap();
        let _ = gate.recv();
    });
    let completions = submit(&engine);
    waits.recv().unwrap();
    std::thread::sleep(Duration::from_millis(5));
    assert!(engine.pool().stats().oldest_step >= Duration::from_millis(5));
    drop(go);
    assert!(answer(&completions).error.is_none());
    while engine.pool().stats().oldest_step > Duration::ZERO {
        std::thread::yield_now(); // the answer leaves a moment before its thread is idle
    }
}

#[test]
fn a_thread_that_dies_is_missed_and_who_waits_is_told() {
    let engine = engine(2);
    let shared = engine.pool().shared().clone();
    let (begun, waits) = channel();
    let (go, gate) = channel::<()>();
    plant(&engine, move || {
        begun.send(()).unwrap();
        let _ = gate.recv();
    });
    let completions = submit(&engine);
    waits.recv().unwrap();
    // As a worker's thread that panics outside a step, where nothing catches it.
    let dies = std::thread::spawn(move || {
        let _post = Post { shared: &shared, index: 1 };
        panic!("planted");
    });
    assert!(dies.join().is_err());
    let failed = answer(&completions);
    assert!(matches!(failed.error, Some(Error::Internal(_))), "{failed:?}");
    assert_eq!((engine.pool().stats().threads, engine.pool().stats().held_tokens), (1, 0));
    drop(go);
}
