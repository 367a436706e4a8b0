//! The engine against the reference: transformers in float64, each pair alone.

mod common;

use std::collections::HashMap;

use common::*;
use half::{bf16, f16};
use rerankd::engine::{Engine, Options};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors, serialize_to_file};

const BAR: f64 = 1e-4;

fn worst(kernels: &str, directory: &std::path::Path, file: &std::path::Path) -> f64 {
    worst_in("f32", kernels, directory, file).0
}

/// The greatest difference from the reference, and the reference's spread.
fn worst_in(dtype: &str, kernels: &str, directory: &std::path::Path, file: &std::path::Path) -> (f64, f64) {
    let options =
        Options { dtype: dtype.into(), kernels: kernels.into(), emulate: true, ..options(directory) };
    let engine = Engine::load(pool(2), &options).unwrap();
    let (mut worst, mut low, mut high) = (0.0f64, f64::INFINITY, f64::NEG_INFINITY);
    for case in cases(file) {
        let contexts: Vec<&str> = case.contexts.iter().map(String::as_str).collect();
        let answer = ask(&engine, job(&case.query, &contexts)).unwrap();
        assert_eq!(answer.tokens, case.tokens.iter().sum::<u64>(), "tokens of {:?}", case.query);
        assert_eq!(answer.ids, (0..contexts.len() as u32).collect::<Vec<_>>());
        for (ours, reference) in answer.logits.iter().zip(&case.logits) {
            worst = worst.max((f64::from(*ours) - reference).abs());
            (low, high) = (low.min(*reference), high.max(*reference));
        }
    }
    (worst, high - low)
}

#[test]
fn narrow_precisions_keep_near_the_reference() {
    let mini = (mini_en(), root().join("tests/golden/mini-en-cases.json"), "mini-en");
    let goldens = GOLDENS.map(|name| (golden(name), golden(name).join("cases.json"), name));
    for (directory, file, name) in goldens.into_iter().chain([mini]) {
        for (dtype, share) in [("bf16", 0.05), ("int8", 0.5)] {
            let (worst, spread) = worst_in(dtype, "auto", &directory, &file);
            println!("{name} in {dtype}: max |logit - reference| = {:.1e} of the spread", worst / spread);
            assert!(worst <= share * spread, "{name} in {dtype}: {worst} of {spread}");
        }
    }
}

#[test]
fn every_golden_agrees_with_the_reference() {
    // The machine's own, and what 64-bit ARM takes.
    for (kernels, name) in
        ["auto", "gemm"].into_iter().flat_map(|kernels| GOLDENS.map(|name| (kernels, name)))
    {
        let worst = worst(kernels, &golden(name), &golden(name).join("cases.json"));
        println!("{name}, {kernels}: max |logit - reference| = {worst:.1e}");
        assert!(worst <= BAR, "{name}, {kernels}: {worst}");
    }
}

#[test]
fn the_embedded_model_agrees_with_the_reference() {
    let worst = worst("auto", &mini_en(), &root().join("tests/golden/mini-en-cases.json"));
    println!("mini-en: max |logit - reference| = {worst:.1e}");
    assert!(worst <= BAR, "{worst}");
}

#[test]
fn a_pair_alone_equals_the_pair_in_any_batch_with_any_threads() {
    for name in GOLDENS {
        let case = cases(&golden(name).join("cases.json")).remove(0);
        let contexts: Vec<&str> = case.contexts.iter().map(String::as_str).collect();
        let reversed: Vec<&str> = contexts.iter().rev().copied().collect();
        let (one, two) = (engine(&golden(name), 1), engine(&golden(name), 2));
        let bits = |logits: Vec<f32>| logits.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        let alone: Vec<u32> =
            contexts.iter().flat_map(|context| bits(logits(&one, &case.query, &[context]))).collect();
        for engine in [&one, &two] {
            assert_eq!(bits(logits(engine, &case.query, &contexts)), alone, "{name}");
            let mut backwards = bits(logits(engine, &case.query, &reversed));
            backwards.reverse();
            assert_eq!(backwards, alone, "{name}, in reverse");
        }
    }
}

#[test]
fn shards_old_names_and_prefixes_load_too() {
    let directory = copy_of("bert", "shards");
    let file = directory.join("model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let parsed = SafeTensors::deserialize(&bytes).unwrap();
    let mut shards: [HashMap<String, TensorView>; 2] = Default::default();
    let mut map = HashMap::new();
    for (index, (name, tensor)) in parsed.tensors().into_iter().enumerate() {
        let old =
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
        let old = format!("model.{old}");
        map.insert(old.clone(), format!("part-{}.safetensors", index % 2));
        shards[index % 2].insert(old, tensor);
    }
    for (index, shard) in shards.into_iter().enumerate() {
        serialize_to_file(shard, None, &directory.join(format!("part-{index}.safetensors"))).unwrap();
    }
    let index = serde_json::json!({ "weight_map": map });
    std::fs::write(directory.join("model.safetensors.index.json"), index.to_string()).unwrap();
    assert!(worst("auto", &directory, &directory.join("cases.json")) <= BAR);
}

#[test]
fn half_precision_files_are_read_as_f32() {
    for dtype in [Dtype::F16, Dtype::BF16] {
        let directory = copy_of("roberta", &format!("half-{dtype:?}"));
        let file = directory.join("model.safetensors");
        let bytes = std::fs::read(&file).unwrap();
        let parsed = SafeTensors::deserialize(&bytes).unwrap();
        // The same values rounded to half, once as a half file and once as f32: the engine must see no difference.
        let (mut halves, mut floats) = (Vec::new(), Vec::new());
        for (name, tensor) in parsed.tensors() {
            let values = tensor.data().as_chunks::<4>().0.iter().map(|raw| f32::from_le_bytes(*raw));
            let (mut half, mut float): (Vec<u8>, Vec<u8>) = Default::default();
            for value in values {
                let (raw, rounded) = match dtype {
                    Dtype::F16 => (f16::from_f32(value).to_bits(), f16::from_f32(value).to_f32()),
                    _ => (bf16::from_f32(value).to_bits(), bf16::from_f32(value).to_f32()),
                };
                half.extend(raw.to_le_bytes());
                float.extend(rounded.to_le_bytes());
            }
            halves.push((name.clone(), tensor.shape().to_vec(), half));
            floats.push((name, tensor.shape().to_vec(), float));
        }
        let mut answers = Vec::new();
        for (dtype, tensors) in [(dtype, halves), (Dtype::F32, floats)] {
            let views = tensors
                .iter()
                .map(|(name, shape, data)| (name, TensorView::new(dtype, shape.clone(), data).unwrap()));
            serialize_to_file(views, None, &file).unwrap();
            let engine = engine(&directory, 1);
            answers.push(logits(&engine, "how to compress files", &["tar and gzip", "a pizza"]));
        }
        assert_eq!(answers[0], answers[1], "{dtype:?}");
    }
}
