//! Faults of our own, planted in a wave: what becomes of those who asked, and of the pool.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use super::Post;
use crate::batch::Batch;
use crate::completions::Completions;
use crate::engine::{Engine, Options};
use crate::error::{Error, Result};
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
        gpu_wave_tokens: 16_384,
    };
    Engine::load(Arc::new(pool), &options).unwrap()
}

fn submit(engine: &Engine) -> Arc<Completions<Completion>> {
    submit_all(engine, &["a context"]).unwrap()
}

fn submit_all(engine: &Engine, contexts: &[&str]) -> Result<Arc<Completions<Completion>>> {
    let completions = Arc::new(Completions::new().unwrap());
    let job = Job {
        query: "q".into(),
        contexts: contexts.iter().map(|text| text.to_string()).collect(),
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
    engine.submit(job, completions.clone())?;
    Ok(completions)
}

fn answer(completions: &Completions<Completion>) -> Completion {
    completions.wait(Duration::from_secs(60)).pop().expect("nothing came for a minute")
}

fn plant(engine: &Engine, mut fault: impl FnMut() + Send + 'static) {
    plant_in(engine, move |_| {
        fault();
        Ok(())
    });
}

fn plant_in(engine: &Engine, fault: impl FnMut(&Batch) -> Result<()> + Send + 'static) {
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

#[test]
fn a_wave_without_memory_is_done_in_halves() {
    let engine = engine(1);
    let contexts =
        ["one", "two words", "three words here", "four words are here", "now there are five", "six"];
    let whole = answer(&submit_all(&engine, &contexts).unwrap());
    let (mut waves, mut refused) = (Vec::new(), 0);
    let (tell, told) = channel();
    plant_in(&engine, move |batch| {
        waves.push(batch.sequences());
        if batch.sequences() > 2 {
            refused += 1;
            return Err(Error::Memory("planted".into()));
        }
        tell.send((waves.clone(), refused)).unwrap();
        Ok(())
    });
    let halves = answer(&submit_all(&engine, &contexts).unwrap());
    assert!(halves.error.is_none(), "{halves:?}");
    assert_eq!((halves.ids, halves.logits), (whole.ids, whole.logits));
    let (waves, refused) = told.try_iter().last().unwrap();
    assert!(refused > 0 && waves.iter().any(|&sequences| sequences <= 2), "{waves:?}");
    assert_eq!(engine.stats().counters.failed, 0);
}

#[test]
fn a_pair_without_memory_fails_alone_and_the_engine_goes_on() {
    let engine = engine(1);
    plant_in(&engine, |_| Err(Error::Memory("planted".into())));
    let failed = answer(&submit(&engine));
    assert!(matches!(failed.error, Some(Error::Memory(_))), "{failed:?}");
    plant(&engine, || ());
    assert!(answer(&submit(&engine)).error.is_none());
    assert!(!engine.pool().stats().lost);
}

#[test]
fn a_lost_gpu_fails_what_is_queued_and_refuses_what_comes() {
    let engine = engine(1);
    let (begun, waits) = channel();
    let (go, gate) = channel::<()>();
    plant_in(&engine, move |_| {
        begun.send(()).unwrap();
        let _ = gate.recv();
        Err(Error::Lost("planted".into()))
    });
    let computed = submit(&engine);
    waits.recv().unwrap();
    let queued = submit(&engine);
    assert!(!engine.pool().stats().lost);
    drop(go);
    for completions in [computed, queued] {
        let failed = answer(&completions);
        assert!(matches!(&failed.error, Some(Error::Lost(why)) if why == "planted"), "{failed:?}");
    }
    assert!(engine.pool().stats().lost);
    assert!(matches!(submit_all(&engine, &["late"]), Err(Error::Lost(_))));
    assert_eq!((engine.stats().tickets, engine.pool().stats().held_tokens), (0, 0));
}
