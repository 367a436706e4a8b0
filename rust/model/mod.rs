//! A loaded cross-encoder: packed batches in, logits out.

pub mod config;
mod embeddings;
mod encoder;
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
use crate::weights::Weights;
use config::{Family, ModelConfig};
use encoder::Encoder;
use head::Head;
pub use scratch::Scratch;

pub struct Model {
    config: ModelConfig,
    encoder: Encoder,
    head: Head,
    revision: String,
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

    fn of(weights: &Weights, directory: &Path, compute: Compute, threads: usize) -> Result<Self> {
        let config = ModelConfig::load(directory)?;
        let (encoder_prefix, outer) = prefixes(weights)?;
        if config.family == Family::Bert && !weights.contains(&format!("{outer}classifier.weight")) {
            return Err(Error::model(
                directory,
                format_args!(
                    "the weights have no {outer}classifier.weight: an encoder without a relevance head"
                ),
            ));
        }
        let encoder = Encoder::load(weights, &config, &encoder_prefix, compute, threads)?;
        let head = Head::load(weights, &config, &encoder_prefix, &outer, compute)?;
        Ok(Self { config, encoder, head, revision: weights.revision().to_string() })
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
        Ok(self.encoder.linears(&self.config, &prefixes(weights)?.0))
    }

    /// One logit for each of the batch's pairs, in order. `scratch` is the calling thread's own.
    pub fn forward(&self, batch: &Batch, scratch: &mut Scratch) -> Result<Vec<f32>> {
        if batch.sequences() == 0 {
            return Ok(Vec::new());
        }
        let cls = self.encoder.forward(batch, scratch)?;
        self.head.forward(&cls, &scratch.cls.mixed.narrow(0, 0, batch.sequences())?, batch)
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
