//! Where a wave's rows begin: words, positions and types summed, normalized, and projected where they are narrower.

use super::arena::Parts;
use super::weights::{Linear, Norm, Uploader};
use crate::batch::Batch;
use crate::error::Result;
use crate::kernels::Activation;
use crate::kernels::gpu::{self, Buffer, Outcome, Queue, Tables, Wave};
use crate::model::embeddings::Placing;
use crate::model::loader::Loader;

pub struct Embeddings {
    words: Buffer,
    positions: Buffer,
    types: Option<Buffer>,
    norm: Norm,
    project: Option<Linear>,
    placing: Placing,
}

impl Embeddings {
    pub fn load(up: &Uploader, loader: &Loader) -> Result<Self> {
        let config = loader.config;
        let below = loader.below("embeddings");
        let table = |name: &str, rows: usize| -> Result<Buffer> {
            let view = below.tensor(&format!("{name}.weight"), &[rows, config.embedding])?;
            up.stack(up.precision, &[(&view, 1.0)])
        };
        let types = match config.types {
            0 => None,
            rows => Some(table("token_type_embeddings", rows)?),
        };
        let project = match config.embedding == config.hidden {
            true => None,
            false => Some(up.linear(loader, "embeddings_project", config.embedding, config.hidden)?),
        };
        Ok(Self {
            words: table("word_embeddings", config.vocab)?,
            positions: table("position_embeddings", config.positions)?,
            types,
            norm: up.norm(&below, "LayerNorm", config.embedding)?,
            project,
            placing: Placing::of(config),
        })
    }

    /// The wave's block.
    pub fn pack(&self, batch: &Batch, wave: Wave, words: &mut Vec<u32>) {
        let mut places = Vec::with_capacity(batch.tokens());
        for ends in batch.cu_seqlens().windows(2) {
            let mut seen = 0;
            let ids = &batch.ids()[ends[0] as usize..ends[1] as usize];
            places.extend(ids.iter().map(|&id| self.placing.next(id, &mut seen) as u32));
        }
        gpu::pack(batch.ids(), &places, batch.types(), batch.cu_seqlens(), wave, words);
    }

    /// The first hidden rows, into `parts.tokens.x`.
    pub fn forward(&self, queue: &Queue, parts: &Parts, wave: &Wave) -> Outcome<()> {
        let precision = parts.tokens.x.precision();
        let tables = Tables {
            words: self.words.slice(precision),
            positions: self.positions.slice(precision),
            types: self.types.as_ref().map(|types| types.slice(precision)),
        };
        let norm = self.norm.vectors();
        match &self.project {
            None => queue.embed(&tables, parts.block, wave, &norm, parts.tokens.x),
            Some(project) => {
                queue.embed(&tables, parts.block, wave, &norm, parts.embedded)?;
                queue.product(
                    parts.embedded,
                    project.weight(),
                    wave.tokens,
                    project.inputs,
                    parts.tokens.x,
                )?;
                queue.activate(parts.tokens.x, project.bias(), Activation::None, wave.tokens)
            }
        }
    }
}
