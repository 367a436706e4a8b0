//! What the integration tests share: the goldens, and an engine to ask.
#![allow(dead_code)] // each test file uses its own part

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rerankd::completions::Completions;
use rerankd::engine::{Engine, Options};
use rerankd::pool::Pool;
use rerankd::request::{Completion, Job};
use rerankd::scheduler::{Limits, Priority};
use rerankd::tokenize::Overflow;
use rerankd::{Error, Result};

pub const GOLDENS: [&str; 6] =
    ["bert", "bert-sbert-identity", "xlm-roberta", "roberta", "electra", "distilbert"];

/// One query of a golden's cases.json, with the reference's answer for each context.
#[derive(serde::Deserialize)]
pub struct Case {
    pub query: String,
    pub contexts: Vec<String>,
    pub logits: Vec<f64>,
    pub tokens: Vec<u64>,
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn golden(name: &str) -> PathBuf {
    root().join("tests/golden").join(name)
}

pub fn mini_en() -> PathBuf {
    root().join("python/rerankd/models/mini-en")
}

pub fn cases(file: &Path) -> Vec<Case> {
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

pub fn options(directory: &Path) -> Options {
    Options {
        directory: directory.to_path_buf(),
        device: "cpu".into(),
        dtype: "f32".into(),
        kernels: "auto".into(),
        emulate: false,
        max_tokens: None,
        gpu_wave_tokens: 16_384,
    }
}

pub fn limits(threads: usize) -> Limits {
    Limits { threads, wave_tokens: 256, queue_tokens: 1_000_000 }
}

pub fn pool(threads: usize) -> Arc<Pool> {
    Arc::new(Pool::new(limits(threads)).unwrap())
}

pub fn engine(directory: &Path, threads: usize) -> Engine {
    Engine::load(pool(threads), &options(directory)).unwrap()
}

pub fn job(query: &str, contexts: &[&str]) -> Job {
    Job {
        query: query.into(),
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
    }
}

pub fn completions() -> Arc<Completions<Completion>> {
    Arc::new(Completions::new().unwrap())
}

/// Everything of one ticket, up to its last completion.
pub fn collect(completions: &Completions<Completion>) -> Vec<Completion> {
    let mut all: Vec<Completion> = Vec::new();
    while !all.last().is_some_and(|completion| completion.last) {
        let arrived = completions.wait(Duration::from_secs(60));
        assert!(!arrived.is_empty(), "nothing came for a minute");
        all.extend(arrived);
    }
    all
}

/// Asks and waits.
pub fn ask(engine: &Engine, job: Job) -> Result<Completion> {
    let completions = completions();
    engine.submit(job, completions.clone())?;
    let mut all = collect(&completions);
    assert_eq!(all.len(), 1, "one completion");
    let mut completion = all.remove(0);
    match completion.error.take() {
        Some(error) => Err(error),
        None => Ok(completion),
    }
}

pub fn logits(engine: &Engine, query: &str, contexts: &[&str]) -> Vec<f32> {
    ask(engine, job(query, contexts)).unwrap().logits
}

pub fn model_error(result: Result<Engine>) -> String {
    match result {
        Err(Error::Model(message)) => message,
        Err(other) => panic!("not a ModelError: {other:?}"),
        Ok(_) => panic!("it was loaded"),
    }
}

/// A copy of a golden in a fresh directory, to be changed.
pub fn copy_of(name: &str, test: &str) -> PathBuf {
    let to = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    let _ = std::fs::remove_dir_all(&to);
    std::fs::create_dir_all(&to).unwrap();
    for entry in std::fs::read_dir(golden(name)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
    to
}
