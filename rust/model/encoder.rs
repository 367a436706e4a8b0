//! One post-LN encoder for BERT, RoBERTa, XLM-R, ELECTRA and DistilBERT, read as the paper (Devlin et al. 2019):
//! embeddings, then layers of self-attention and feed-forward, each added to its input and normalized.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::Tensor;

use super::config::{Family, ModelConfig};
use super::known;
use super::layers::{Attention, ClsAttention, ClsRows, Fill, Linear, Norm};
use super::scratch::{Rows, Scratch};
use crate::batch::Batch;
use crate::error::Result;
use crate::kernels::{Activation, Compute, Inputs, NarrowInputs};
use crate::weights::{View, Weights};

/// Where a family keeps its tensors.
struct Names {
    layer: &'static str,
    query: &'static str,
    key: &'static str,
    value: &'static str,
    output: &'static str,
    attention_norm: &'static str,
    up: &'static str,
    down: &'static str,
    norm: &'static str,
}

const BERT: Names = Names {
    layer: "encoder.layer",
    query: "attention.self.query",
    key: "attention.self.key",
    value: "attention.self.value",
    output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    norm: "output.LayerNorm",
};

const DISTILBERT: Names = Names {
    layer: "transformer.layer",
    query: "attention.q_lin",
    key: "attention.k_lin",
    value: "attention.v_lin",
    output: "attention.out_lin",
    attention_norm: "sa_layer_norm",
    up: "ffn.lin1",
    down: "ffn.lin2",
    norm: "output_layer_norm",
};

/// Reads one encoder's tensors by their path below a prefix.
struct Loader<'a> {
    weights: &'a Weights,
    config: &'a ModelConfig,
    compute: Compute,
    prefix: String,
}

impl Loader<'_> {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<View> {
        self.weights.tensor(&format!("{}{name}", self.prefix), shape)
    }

    fn weight_and_bias(&self, name: &str, inputs: usize, outputs: usize) -> Result<(View, View)> {
        let weight = self.tensor(&format!("{name}.weight"), &[outputs, inputs])?;
        Ok((weight, self.tensor(&format!("{name}.bias"), &[outputs])?))
    }

    fn linear(&self, name: &str, inputs: usize, outputs: usize, known: &Inputs) -> Result<Linear> {
        let (weight, bias) = self.weight_and_bias(name, inputs, outputs)?;
        Ok(Linear::new(self.compute, inputs, weight, bias, known))
    }

    fn norm(&self, name: &str, width: usize) -> Result<Norm> {
        let gamma = self.tensor(&format!("{name}.weight"), &[width])?;
        let beta = self.tensor(&format!("{name}.bias"), &[width])?;
        Ok(Norm::new(self.compute.kernels, gamma, beta, self.config.eps))
    }

    fn below(&self, path: &str) -> Self {
        Self { prefix: format!("{}{path}.", self.prefix), ..*self }
    }
}

/// A row read from the map can fault in this much around it (Linux's fault_around_bytes).
const FAULT_BYTES: usize = 64 << 10;

/// A word table larger than this gives its pages back each time reads could have faulted in as much; the file's cache
/// keeps them. Without it, varied text makes the whole of XLM-R's 768 MB table resident. A fault costs about a
/// microsecond, a token of bge-reranker-base more than a thousand.
const RESIDENT_BYTES: usize = 128 << 20;

/// Token, position and type embeddings, summed and normalized.
struct Embeddings {
    words: View,         // [vocab, embedding], in the map
    positions: Vec<f32>, // [positions, embedding]
    types: Vec<f32>,     // [types, embedding]; empty where there are none
    norm: Norm,
    width: usize,
    offset: usize,
    pad: Option<u32>,
    project: Option<Linear>, // ELECTRA: embedding to hidden
    gathered: AtomicUsize,   // rows since the table last gave its pages back
}

impl Embeddings {
    fn load(loader: &Loader) -> Result<Self> {
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
            offset: config.position_offset,
            pad: config.pad,
            project,
            gathered: AtomicUsize::new(0),
        };
        positions.release();
        Ok(this)
    }

    /// What is known of the first hidden rows: of a projection's results, nothing.
    fn known(&self) -> Inputs {
        if self.project.is_some() { Inputs::default() } else { self.norm.known() }
    }

    /// The first hidden rows of a batch, into x `[tokens, hidden]`.
    fn forward(&self, batch: &Batch, x: &Tensor, scratch: &mut Scratch) -> Result<()> {
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
                // RoBERTa's rule (create_position_ids_from_input_ids): a pad, which a text may spell out, takes the
                // position `pad` and counts none.
                let position = if Some(id) == self.pad { id as usize } else { self.offset + seen };
                seen += usize::from(Some(id) != self.pad);
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

/// What follows a layer's attention: the output projection and the feed-forward, on any number of rows.
struct Block {
    output: Linear,
    attention_norm: Norm,
    up: Linear,
    activation: Activation,
    down: Linear,
    norm: Norm,
}

impl Block {
    /// `attended` is what is known of attention's results.
    fn load(loader: &Loader, names: &Names, attended: &Inputs) -> Result<Self> {
        let (hidden, wide) = (loader.config.hidden, loader.config.intermediate);
        let activation = loader.config.activation;
        let attention_norm = loader.norm(names.attention_norm, hidden)?;
        let normed = attention_norm.known();
        let widened = if loader.compute.assumes() {
            let (weight, bias) = loader.weight_and_bias(names.up, hidden, wide)?;
            known::activated(&weight, &bias.to_vec(), &normed, activation)
        } else {
            Inputs::default()
        };
        Ok(Self {
            output: loader.linear(names.output, hidden, hidden, attended)?,
            attention_norm,
            up: loader.linear(names.up, hidden, wide, &normed)?,
            activation,
            down: loader.linear(names.down, wide, hidden, &widened)?,
            norm: loader.norm(names.norm, hidden)?,
        })
    }

    /// From attention's result in `rows.context` to the layer's output in `rows.x`, for any number of rows.
    fn forward(&self, rows: &Rows, narrow: &mut NarrowInputs) -> Result<()> {
        let Rows { x, context, mixed, wide } = rows;
        self.output.forward(context, Activation::None, mixed, narrow)?;
        self.attention_norm.add(mixed, x)?;
        self.up.forward(mixed, self.activation, wide, narrow)?;
        self.down.forward(wide, Activation::None, x, narrow)?;
        self.norm.add(x, mixed)
    }
}

/// A whole layer: every row attends to every row of its sequence.
struct Layer {
    qkv: Linear,
    block: Block,
}

/// The last layer, of which only the CLS row is ever read.
struct LastLayer {
    attention: ClsAttention,
    block: Block,
}

pub struct Encoder {
    embeddings: Embeddings,
    layers: Vec<Layer>,
    last: LastLayer,
    heads: usize,
    head_dim: usize,
    hidden: usize,
    compute: Compute,
}

impl Encoder {
    /// `prefix` is the encoder's own in the checkpoint, as `bert.`.
    pub fn load(weights: &Weights, config: &ModelConfig, prefix: &str, compute: Compute) -> Result<Self> {
        let loader = Loader { weights, config, compute, prefix: prefix.to_string() };
        let names = if config.family == Family::DistilBert { &DISTILBERT } else { &BERT };
        let embeddings = Embeddings::load(&loader)?;
        let mut layers: Vec<Layer> = Vec::with_capacity(config.layers - 1);
        let mut known = embeddings.known();
        for index in 0..config.layers - 1 {
            let layer = Layer::load(&loader.below(&format!("{}.{index}", names.layer)), names, &known)?;
            known = layer.block.norm.known();
            layers.push(layer);
        }
        let last = &loader.below(&format!("{}.{}", names.layer, config.layers - 1));
        let last = LastLayer::load(last, names, &known)?;
        let (heads, head_dim, hidden) = (config.heads, config.head_dim(), config.hidden);
        Ok(Self { embeddings, layers, last, heads, head_dim, hidden, compute })
    }

    /// The CLS rows of the last layer, `[sequences, hidden]`, in the arena.
    pub fn forward(&self, batch: &Batch, scratch: &mut Scratch) -> Result<Tensor> {
        let (tokens, sequences) = (batch.tokens(), batch.sequences());
        scratch.reserve(tokens, sequences)?;
        let rows = scratch.tokens.view(tokens)?;
        let qkv = scratch.qkv.narrow(0, 0, tokens)?;
        self.embeddings.forward(batch, &rows.x, scratch)?;
        for layer in &self.layers {
            layer.qkv.forward(&rows.x, Activation::None, &qkv, &mut scratch.narrow)?;
            let attention = Attention {
                kernels: self.compute.kernels,
                heads: self.heads,
                head_dim: self.head_dim,
                cu_seqlens: batch.cu_seqlens(),
                scratch: RefCell::new(&mut scratch.attention),
            };
            attention.forward(&qkv, &rows.context)?;
            layer.block.forward(&rows, &mut scratch.narrow)?;
        }
        let cls = scratch.cls.view(sequences)?;
        cls.x.inplace_op2(&rows.x, &ClsRows { cu_seqlens: batch.cu_seqlens(), width: self.hidden })?;
        let q = scratch.q.narrow(0, 0, sequences)?;
        let last = &self.last;
        last.attention.forward(
            &rows.x,
            &cls.x,
            batch.cu_seqlens(),
            &q,
            &cls.context,
            &mut scratch.attention,
            &mut scratch.narrow,
        )?;
        last.block.forward(&cls, &mut scratch.narrow)?;
        Ok(cls.x)
    }
}

impl Layer {
    /// `known` is what is known of the layer's input.
    fn load(loader: &Loader, names: &Names, known: &Inputs) -> Result<Self> {
        let hidden = loader.config.hidden;
        let part = |name, scale| -> Result<_> {
            let (weight, bias) = loader.weight_and_bias(name, hidden, hidden)?;
            Ok((weight, bias, scale))
        };
        // 1/sqrt(d) goes into the query projection once, not into every score.
        let parts =
            [part(names.query, query_scale(loader.config))?, part(names.key, 1.0)?, part(names.value, 1.0)?];
        let [_, _, (value, value_bias, _)] = &parts;
        let attended = known::attended(loader.compute, value, value_bias, known);
        let qkv = Linear::stack(loader.compute, hidden, &parts, known);
        Ok(Self { qkv, block: Block::load(loader, names, &attended)? })
    }
}

impl LastLayer {
    fn load(loader: &Loader, names: &Names, known: &Inputs) -> Result<Self> {
        let (hidden, compute) = (loader.config.hidden, loader.compute);
        let (weight, bias) = loader.weight_and_bias(names.query, hidden, hidden)?;
        let query = Linear::stack(compute, hidden, &[(weight, bias, query_scale(loader.config))], known);
        // The key's bias is read for its shape only: it adds the same to every score, so softmax drops it.
        let (key, _) = loader.weight_and_bias(names.key, hidden, hidden)?;
        let (value, value_bias) = loader.weight_and_bias(names.value, hidden, hidden)?;
        let (heads, head_dim) = (loader.config.heads, loader.config.head_dim());
        let attended = known::attended(compute, &value, &value_bias, known);
        let attention = ClsAttention::new(compute.kernels, heads, head_dim, query, key, value, value_bias);
        Ok(Self { attention, block: Block::load(loader, names, &attended)? })
    }
}

fn query_scale(config: &ModelConfig) -> f32 {
    1.0 / (config.head_dim() as f32).sqrt()
}
