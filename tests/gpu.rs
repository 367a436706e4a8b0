//! The engine on a GPU's twin (`cuda-twin`): all of its code but CUDA's own calls, against the reference.

mod common;

use std::path::Path;

use common::*;
use rerankd::engine::{Engine, Options};
use rerankd::pool::Pool;
use rerankd::scheduler::Limits;

fn on_gpu(device: &str, dtype: &str, directory: &Path) -> Engine {
    let options =
        Options { device: device.into(), dtype: dtype.into(), gpu_wave_tokens: 1000, ..options(directory) };
    Engine::load(pool(2), &options).unwrap()
}

/// One case, and of it no more than a twin does in seconds.
fn few(file: &Path) -> Vec<Case> {
    let mut cases = cases(file);
    cases.truncate(1);
    cases[0].contexts.truncate(3);
    cases
}

/// The greatest difference from the reference, and the reference's spread.
fn worst(engine: &Engine, cases: &[Case]) -> (f64, f64) {
    let (mut worst, mut low, mut high) = (0.0f64, f64::INFINITY, f64::NEG_INFINITY);
    for case in cases {
        let contexts: Vec<&str> = case.contexts.iter().map(String::as_str).collect();
        let ours = logits(engine, &case.query, &contexts);
        for (ours, reference) in ours.iter().zip(&case.logits) {
            worst = worst.max((f64::from(*ours) - reference).abs());
            (low, high) = (low.min(*reference), high.max(*reference));
        }
    }
    (worst, high - low)
}

/// What PyTorch itself loses in a precision, of a logit; tests/golden/halves.json.
fn lost_by_pytorch(name: &str, dtype: &str) -> f64 {
    let text = std::fs::read(root().join("tests/golden/halves.json")).unwrap();
    serde_json::from_slice::<serde_json::Value>(&text).unwrap()[name][dtype]["logit"].as_f64().unwrap()
}

#[test]
fn every_golden_agrees_with_the_reference_in_every_precision() {
    for name in GOLDENS {
        let cases = few(&golden(name).join("cases.json"));
        for dtype in ["f32", "f16", "bf16"] {
            // Whose roundings fall otherwise may lose more of one pair and less of another.
            let bar = if dtype == "f32" { 1e-4 } else { 2.0 * lost_by_pytorch(name, dtype) };
            let (worst, spread) = worst(&on_gpu("cuda-twin:0", dtype, &golden(name)), &cases);
            println!("{name} in {dtype}: max |logit - reference| = {worst:.1e}, of {spread:.1e}");
            assert!(worst <= bar, "{name} in {dtype}: {worst}, and {bar} is twice what PyTorch loses");
        }
    }
}

#[test]
fn the_embedded_model_agrees_with_the_reference_on_tensor_cores() {
    let cases = few(&root().join("tests/golden/mini-en-cases.json"));
    for (dtype, bar) in [("f16", 0.02), ("bf16", 0.2)] {
        let (worst, _) = worst(&on_gpu("cuda-twin:0", dtype, &mini_en()), &cases);
        println!("mini-en in {dtype}: max |logit - reference| = {worst:.1e}");
        assert!(worst <= bar, "{dtype}: {worst}");
    }
}

#[test]
fn several_gpus_answer_as_one() {
    let case = cases(&golden("roberta").join("cases.json")).remove(0);
    let contexts: Vec<&str> = case.contexts.iter().map(String::as_str).cycle().take(24).collect();
    let one = on_gpu("cuda-twin:1", "f32", &golden("roberta"));
    let all = on_gpu("cuda-twin", "f32", &golden("roberta"));
    assert_eq!((one.device().name.as_str(), all.device().name.as_str()), ("cuda-twin:1", "cuda-twin:0,1"));
    assert_eq!(logits(&one, &case.query, &contexts), logits(&all, &case.query, &contexts));
    assert!(all.stats().counters.waves >= 2, "one for each GPU at the least");
}

#[test]
fn small_waves_are_replayed_with_what_is_new_in_them() {
    let gpu = on_gpu("cuda-twin:0", "f32", &golden("bert"));
    let cpu = on_gpu("cpu", "f32", &golden("bert"));
    let case = cases(&golden("bert").join("cases.json")).remove(0);
    let contexts: Vec<&str> = case.contexts.iter().map(String::as_str).collect();
    // One size is run, captured and replayed, with other texts each time, some of them fewer than there is room for.
    for count in [3, 3, 4, 3, 4] {
        for first in [0, 1] {
            let texts = &contexts[first..(first + count).min(contexts.len())];
            let (there, here) = (logits(&gpu, &case.query, texts), logits(&cpu, &case.query, texts));
            assert_eq!(there.len(), texts.len());
            let off = there.iter().zip(&here).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off < 1e-4, "{count} from {first} on: {off}");
        }
    }
}

#[test]
fn waves_are_as_large_as_a_gpu_wants_them_whatever_the_threads_get() {
    let pool = Pool::new(Limits { threads: 1, wave_tokens: 16, queue_tokens: 1 << 30 }).unwrap();
    let options = Options { device: "cuda-twin:0".into(), gpu_wave_tokens: 4000, ..options(&golden("bert")) };
    let engine = Engine::load(pool.into(), &options).unwrap();
    let contexts = vec!["one two three four five six seven eight"; 30];
    logits(&engine, "how many?", &contexts);
    let stats = engine.stats().counters;
    assert_eq!(stats.pairs, 30);
    assert!(stats.tokens / stats.waves >= 100, "{} tokens in {} waves", stats.tokens, stats.waves);
}

#[test]
fn a_packed_checkpoint_and_a_gpu_that_is_not_there_are_refused() {
    let options = |device: &str, directory: &Path| Options { device: device.into(), ..options(directory) };
    let refused = |options: &Options| match Engine::load(pool(1), options) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("it was loaded"),
    };
    let message = refused(&options("cuda-twin:7", &golden("bert")));
    assert!(message.contains("the last of the GPUs here is cuda-twin:1"), "{message}");
    let packed = copy_of("bert", "packed-for-gpu");
    rerankd::engine::pack(&golden("bert"), &packed, "f32", "scalar", false).unwrap();
    let choice = Options { kernels: "scalar".into(), ..options("cuda-twin:0", &packed) };
    let message = refused(&choice);
    assert!(message.contains("packed for a CPU"), "{message}");
}
