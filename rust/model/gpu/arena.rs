//! What a wave is computed in: a queue of its own, and one allocation cut into all its buffers.

use super::replays::Replays;
use crate::kernels::gpu::{Buffer, Gpu, Outcome, Precision, Queue, Slice, Wave};
use crate::model::config::ModelConfig;

/// Buffers with a row for each of the rows computed.
#[derive(Clone, Copy)]
pub struct Rows {
    pub x: Slice,       // [rows, hidden]
    pub context: Slice, // [rows, hidden]
    pub mixed: Slice,   // [rows, hidden]
    pub wide: Slice,    // [rows, intermediate]
}

pub struct Arena {
    pub replays: Replays, // before the queue that they were captured on
    pub queue: Queue,     // before the buffer: dropped first, it waits for what uses that
    pub buffer: Buffer,
    pub words: Vec<u32>, // the wave's block, here; at the buffer's beginning, there
    tokens: usize,
    sequences: usize,
}

/// The buffers of one wave, in an arena.
pub struct Parts {
    pub block: Slice, // words, which the kernels read as such
    pub tokens: Rows,
    pub embedded: Slice, // [tokens, embedding]
    pub qkv: Slice,      // [tokens, 3 * hidden]
    pub cls: Rows,       // rows: sequences
    pub q: Slice,        // [sequences, hidden]
    pub normed: Slice,   // [sequences, hidden], f32
    pub dense: Slice,    // [sequences, hidden], f32
    pub logits: Slice,   // [sequences, labels], f32
}

/// Sizes of all parts, in elements, and their precision, in the order in which they lie.
fn sizes(
    config: &ModelConfig,
    precision: Precision,
    tokens: usize,
    sequences: usize,
) -> Vec<(usize, Precision)> {
    let (hidden, wide) = (config.hidden, config.intermediate);
    let embedded = if config.embedding == hidden { 0 } else { tokens * config.embedding };
    let mut all = vec![(Wave::most_words(tokens, sequences), Precision::F32)];
    for rows in [tokens, sequences] {
        all.extend([hidden, hidden, hidden, wide].map(|width| (rows * width, precision)));
    }
    all.extend([embedded, tokens * 3 * hidden, sequences * hidden].map(|size| (size, precision)));
    all.extend([hidden, hidden, config.labels].map(|width| (sequences * width, Precision::F32)));
    all
}

impl Arena {
    /// For waves of so many tokens and sequences, and smaller ones.
    pub fn new(
        gpu: &Gpu,
        config: &ModelConfig,
        precision: Precision,
        tokens: usize,
        sequences: usize,
    ) -> Outcome<Self> {
        let bytes: Vec<usize> =
            sizes(config, precision, tokens, sequences).iter().map(|(size, of)| size * of.size()).collect();
        let buffer = gpu.buffer(Buffer::room(&bytes))?;
        Ok(Self {
            replays: Replays::default(),
            queue: gpu.queue()?,
            buffer,
            words: Vec::new(),
            tokens,
            sequences,
        })
    }

    pub fn holds(&self, tokens: usize, sequences: usize) -> bool {
        tokens <= self.tokens && sequences <= self.sequences
    }

    pub fn capacity(&self) -> (usize, usize) {
        (self.tokens, self.sequences)
    }

    /// The buffers, cut for the largest wave: a smaller one uses their beginnings.
    pub fn parts(&self, config: &ModelConfig, precision: Precision) -> Parts {
        let mut cutter = self.buffer.cutter();
        let mut sizes = sizes(config, precision, self.tokens, self.sequences).into_iter();
        let mut next = || {
            sizes
                .next()
                .map_or_else(|| unreachable!("a part for each size"), |(size, of)| cutter.cut(size, of))
        };
        let block = next();
        let tokens = Rows { x: next(), context: next(), mixed: next(), wide: next() };
        let cls = Rows { x: next(), context: next(), mixed: next(), wide: next() };
        let (embedded, qkv, q) = (next(), next(), next());
        Parts { block, tokens, embedded, qkv, cls, q, normed: next(), dense: next(), logits: next() }
    }
}
