//! From ids to the first hidden rows.

use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::Tensor;

use super::config::ModelConfig;
use super::layers::{Fill, Norm};
use super::linear::Linear;
use super::loader::Loader;
use super::scratch::Scratch;
use crate::batch::Batch;
use crate::error::Result;
use crate::kernels::{Activation, Inputs};
use crate::weights::View;

/// A row read from the map can fault in this much around it (Linux's fault_around_bytes).
const FAULT_BYTES: usize = 64 << 10;

/// A word table larger than this gives its pages back each time reads could have faulted in as much; the file's cache
/// keeps them. Without it, varied text makes the whole of XLM-R's 768 MB table resident. A fault costs about a
/// microsecond, a token of bge-reranker-base more than a thousand.
const RESIDENT_BYTES: usize = 128 << 20;

/// Which row of the position table a token takes.
#[derive(Clone, Copy)]
pub struct Placing {
    offset: usize,
    pad: Option<u32>,
}

impl Placing {
    pub fn of(config: &ModelConfig) -> Self {
        Self { offset: config.position_offset, pad: config.pad }
    }

    /// The next token's, of which `seen` of its sequence have been counted. RoBERTa's rule
    /// (create_position_ids_from_input_ids): a pad, which a text may spell out, takes the position `pad` and counts none.
    pub fn next(self, id: u32, seen: &mut usize) -> usize {
        let position = if Some(id) == self.pad { id as usize } else { self.offset + *seen };
        *seen += usize::from(Some(id) != self.pad);
        position
    }
}

/// Token, position and type embeddings, summed and normalized.
pub struct Embeddings {
    words: View,         // [vocab, embedding], in the map
    positions: Vec<f32>, // [positions, embedding]
    types: Vec<f32>,     // [types, embedding]; empty where there are none
    norm: Norm,
    width: usize,
    placing: Placing,
    pub project: Option<Linear>, // ELECTRA: embedding to hidden
    gathered: AtomicUsize,       // rows since the table last gave its pages back
}

impl Embeddings {
    pub fn load(loader: &Loader) -> Result<Self> {
        let config = loader.config;
        let width = config.embedding;
        let loader_below = loader.below("embeddings");
        let table = |name: &str, rows: usize| loader_below.tensor(&format!("{name}.weight"), &[rows, width]);
        let positions = table("position_embeddings", config.positions)?;
        let types = match config.types {
            0 => Vec::new(),
            rows => table("token_type_embeddings", rows)?.to_vec(),
        };
        let norm = loader_below.norm("LayerNorm", width)?;
        let project = match width == config.hidden {
            true => None,
            false => Some(loader.linear("embeddings_project", width, config.hidden, &norm.known())?),
        };
        let this = Self {
            words: table("word_embeddings", config.vocab)?,
            positions: positions.to_vec(),
            types,
            norm,
            width,
            placing: Placing::of(config),
            project,
            gathered: AtomicUsize::new(0),
        };
        positions.release();
        Ok(this)
    }

    /// What is known of the first hidden rows: of a projection's results, nothing.
    pub fn known(&self) -> Inputs {
        if self.project.is_some() { Inputs::default() } else { self.norm.known() }
    }

    /// The first hidden rows of a batch, into x `[tokens, hidden]`.
    pub fn forward(&self, batch: &Batch, x: &Tensor, scratch: &mut Scratch) -> Result<()> {
        let gather = Fill(|out: &mut [f32]| self.gather(batch, out));
        match &self.project {
            None => Ok(x.inplace_op1(&gather)?),
            Some(project) => {
                let embedded = scratch.embedded.narrow(0, 0, batch.tokens())?;
                embedded.inplace_op1(&gather)?;
                project.forward(&embedded, Activation::None, x, &mut scratch.narrow)
            }
        }
    }

    /// out `[tokens, width]`
    fn gather(&self, batch: &Batch, out: &mut [f32]) {
        let mut rows = out.chunks_exact_mut(self.width).zip(batch.ids().iter().zip(batch.types()));
        for bounds in batch.cu_seqlens().windows(2) {
            let mut seen = 0;
            for _ in bounds[0]..bounds[1] {
                let Some((row, (&id, &kind))) = rows.next() else { return };
                let position = self.placing.next(id, &mut seen);
                self.words.read_row(id as usize, row);
                add(row, &self.positions[position * self.width..][..self.width]);
                if !self.types.is_empty() {
                    add(row, &self.types[kind as usize * self.width..][..self.width]);
                }
            }
        }
        self.norm.apply(out);
        self.bound_residence(batch.tokens());
    }

    fn bound_residence(&self, rows: usize) {
        let gathered = self.gathered.fetch_add(rows, Ordering::Relaxed) + rows;
        if self.words.bytes() > RESIDENT_BYTES && gathered > RESIDENT_BYTES / FAULT_BYTES {
            self.gathered.store(0, Ordering::Relaxed);
            self.words.release();
        }
    }
}

fn add(row: &mut [f32], other: &[f32]) {
    row.iter_mut().zip(other).for_each(|(x, y)| *x += y);
}
