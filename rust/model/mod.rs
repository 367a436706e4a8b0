//! A loaded cross-encoder: packed batches in, logits out.

pub mod config;
mod embeddings;
mod encoder;
pub mod gpu;
mod head;
mod known;
mod layers;
mod linear;
mod loader;
pub mod packed;
mod scratch;

use std::path::Path;

use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::kernels::Compute;
use crate::kernels::gpu::{Gpu, Precision};
use crate::weights::Weights;
use config::{Family, ModelConfig};
use encoder::Encoder;
use gpu::Gpus;
use head::Head;
pub use scratch::Scratch;

pub struct Model {
    config: ModelConfig,
    body: Body,
    revision: String,
}

/// Where it is computed.
enum Body {
    Cpu(Box<(Encoder, Head)>),
    Gpus(Gpus),
}

/// Where a checkpoint's encoder is: its prefix, and what comes before that, both ending in a dot or empty.
fn prefixes(weights: &Weights) -> Result<(String, String)> {
    // Checkpoints saved from a wrapper carry prefixes of their own; the word table's name shows them.
    let encoder = weights.prefix_of("embeddings.word_embeddings.weight")?;
    let outer = match encoder.trim_end_matches('.').rsplit_once('.') {
        Some((outer, _)) => format!("{outer}."),
        None => String::new(),
    };
    Ok((encoder, outer))
}

impl Model {
    /// Loads a checkpoint directory, config.json and its safetensors, on this many threads.
    pub fn load(directory: &Path, compute: Compute, threads: usize) -> Result<Self> {
        Self::of(&Weights::open(directory)?, directory, compute, threads)
    }

    /// Loads a checkpoint directory onto each of the GPUs.
    pub fn load_on(gpus: &[Gpu], directory: &Path, compute: Compute, precision: Precision) -> Result<Self> {
        let weights = Weights::open(directory)?;
        let (config, encoder, outer) = Self::parts(&weights, directory)?;
        let gpus = Gpus::load(&weights, &config, (&encoder, &outer), compute, gpus, precision)?;
        Ok(Self { config, body: Body::Gpus(gpus), revision: weights.revision().to_string() })
    }

    fn of(weights: &Weights, directory: &Path, compute: Compute, threads: usize) -> Result<Self> {
        let (config, prefix, outer) = Self::parts(weights, directory)?;
        let encoder = Encoder::load(weights, &config, &prefix, compute, threads)?;
        let head = Head::load(weights, &config, &prefix, &outer, compute)?;
        let body = Body::Cpu(Box::new((encoder, head)));
        Ok(Self { config, body, revision: weights.revision().to_string() })
    }

    /// What a checkpoint says of itself, and where its encoder is.
    fn parts(weights: &Weights, directory: &Path) -> Result<(ModelConfig, String, String)> {
        let config = ModelConfig::load(directory)?;
        let (encoder, outer) = prefixes(weights)?;
        if config.family == Family::Bert && !weights.contains(&format!("{outer}classifier.weight")) {
            return Err(Error::model(
                directory,
                format_args!(
                    "the weights have no {outer}classifier.weight: an encoder without a relevance head"
                ),
            ));
        }
        Ok((config, encoder, outer))
    }

    /// Loads a checkpoint and writes its weights, packed for `compute`, as `out/model.safetensors`. config.json and the
    /// tokenizer's files are the caller's to copy.
    pub fn pack(directory: &Path, compute: Compute, form: &packed::Form, out: &Path) -> Result<()> {
        let weights = Weights::open(directory)?;
        if packed::Form::of(&weights).is_some() {
            return Err(Error::model(
                directory,
                "is packed already; pack the checkpoint that it was made from",
            ));
        }
        packed::save(
            &Self::of(&weights, directory, compute, 1)?,
            &weights,
            form,
            &out.join("model.safetensors"),
        )
    }

    /// The encoder's linear layers, by their keys in a packed checkpoint.
    fn linears(&self, weights: &Weights) -> Result<Vec<(String, &linear::Linear)>> {
        match &self.body {
            Body::Cpu(parts) => Ok(parts.0.linears(&self.config, &prefixes(weights)?.0)),
            Body::Gpus(_) => Ok(Vec::new()),
        }
    }

    /// One logit for each of the batch's pairs, in order. `scratch` is the calling thread's own.
    pub fn forward(&self, batch: &Batch, scratch: &mut Scratch) -> Result<Vec<f32>> {
        if batch.sequences() == 0 {
            return Ok(Vec::new());
        }
        match &self.body {
            Body::Cpu(parts) => {
                let (encoder, head) = &**parts;
                let cls = encoder.forward(batch, scratch)?;
                head.forward(&cls, &scratch.cls.mixed.narrow(0, 0, batch.sequences())?, batch)
            }
            Body::Gpus(gpus) => gpus.forward(batch),
        }
    }

    /// Waves that its GPUs can be given at a time; None: it computes on the threads that call it.
    pub fn waves(&self) -> Option<usize> {
        match &self.body {
            Body::Cpu(_) => None,
            Body::Gpus(gpus) => Some(gpus.waves()),
        }
    }

    pub fn scratch(&self) -> Result<Scratch> {
        Scratch::new(&self.config)
    }

    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    pub fn revision(&self) -> &str {
        &self.revision
    }
}
