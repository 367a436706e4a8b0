//! The arena of one compute thread: every buffer of a forward pass, grown to the largest wave seen and then reused,
//! so that no layer allocates.

use candle_core::{DType, Device, Storage, Tensor};

use super::config::ModelConfig;
use crate::error::Result;
use crate::kernels::{AttentionScratch, NarrowInputs};

/// Values in a cache line.
const LINE: usize = 16;

/// The buffers that one layer's rows go through.
pub struct Rows {
    pub x: Tensor,       // [rows, hidden]: the layer's input and output
    pub context: Tensor, // [rows, hidden]: attention's result
    pub mixed: Tensor,   // [rows, hidden]: after the attention's norm
    pub wide: Tensor,    // [rows, intermediate]
}

pub struct Scratch {
    pub tokens: Rows,     // rows: tokens
    pub qkv: Tensor,      // [tokens, 3 * hidden]
    pub embedded: Tensor, // [tokens, embedding]; of no rows where the embedding is as wide as hidden
    pub cls: Rows,        // rows: sequences
    pub q: Tensor,        // [sequences, hidden]
    pub attention: AttentionScratch,
    pub narrow: NarrowInputs, // a linear layer's inputs, for weights in a narrow format
    config: ModelConfig,
    capacity: (usize, usize), // (tokens, sequences)
}

/// Zeros that begin on a cache line. An allocation of its own begins 16 bytes after one, and then every other vector lies
/// across two: 3 % of a product's time, more of what is elementwise.
fn buffer(rows: usize, width: usize) -> Result<Tensor> {
    let whole = Tensor::zeros(rows * width + LINE, DType::F32, &Device::Cpu)?;
    let start = {
        let (storage, _) = whole.storage_and_layout();
        match &*storage {
            Storage::Cpu(storage) => {
                storage.as_slice::<f32>()?.as_ptr().align_offset(LINE * size_of::<f32>())
            }
            _ => 0,
        }
    };
    Ok(whole.narrow(0, start.min(LINE), rows * width)?.reshape((rows, width))?)
}

impl Rows {
    fn new(rows: usize, config: &ModelConfig) -> Result<Self> {
        Ok(Self {
            x: buffer(rows, config.hidden)?,
            context: buffer(rows, config.hidden)?,
            mixed: buffer(rows, config.hidden)?,
            wide: buffer(rows, config.intermediate)?,
        })
    }

    /// The first `rows` rows of each buffer.
    pub fn view(&self, rows: usize) -> Result<Self> {
        Ok(Self {
            x: self.x.narrow(0, 0, rows)?,
            context: self.context.narrow(0, 0, rows)?,
            mixed: self.mixed.narrow(0, 0, rows)?,
            wide: self.wide.narrow(0, 0, rows)?,
        })
    }
}

impl Scratch {
    pub fn new(config: &ModelConfig) -> Result<Self> {
        Self::with_capacity(config, 1, 1)
    }

    fn with_capacity(config: &ModelConfig, tokens: usize, sequences: usize) -> Result<Self> {
        let embedded = if config.embedding == config.hidden { 0 } else { tokens };
        Ok(Self {
            tokens: Rows::new(tokens, config)?,
            qkv: buffer(tokens, 3 * config.hidden)?,
            embedded: buffer(embedded, config.embedding)?,
            cls: Rows::new(sequences, config)?,
            q: buffer(sequences, config.hidden)?,
            attention: AttentionScratch::default(),
            narrow: NarrowInputs::default(),
            config: config.clone(),
            capacity: (tokens, sequences),
        })
    }

    /// Makes room for a wave. Growing drops what the buffers held.
    pub fn reserve(&mut self, tokens: usize, sequences: usize) -> Result<()> {
        if tokens > self.capacity.0 || sequences > self.capacity.1 {
            *self = Self::with_capacity(
                &self.config,
                tokens.max(self.capacity.0),
                sequences.max(self.capacity.1),
            )?;
        }
        Ok(())
    }
}
