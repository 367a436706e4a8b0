//! A loaded cross-encoder: packed batches in, logits out.

pub mod config;
mod encoder;
mod head;
mod known;
mod layers;
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

impl Model {
    /// Loads a checkpoint directory: config.json and its safetensors.
    pub fn load(directory: &Path, compute: Compute) -> Result<Self> {
        let config = ModelConfig::load(directory)?;
        let weights = Weights::open(directory)?;
        // Checkpoints saved from a wrapper carry prefixes of their own; the word table's name shows them.
        let encoder_prefix = weights.prefix_of("embeddings.word_embeddings.weight")?;
        let outer = match encoder_prefix.trim_end_matches('.').rsplit_once('.') {
            Some((outer, _)) => format!("{outer}."),
            None => String::new(),
        };
        if config.family == Family::Bert && !weights.contains(&format!("{outer}classifier.weight")) {
            return Err(Error::model(
                directory,
                format_args!(
                    "the weights have no {outer}classifier.weight: an encoder without a relevance head"
                ),
            ));
        }
        let encoder = Encoder::load(&weights, &config, &encoder_prefix, compute)?;
        let head = Head::load(&weights, &config, &encoder_prefix, &outer, compute)?;
        Ok(Self { config, encoder, head, revision: weights.revision().to_string() })
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
