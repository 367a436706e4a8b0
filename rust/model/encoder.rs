//! One post-LN encoder for BERT, RoBERTa, XLM-R, ELECTRA and DistilBERT, read as the paper (Devlin et al. 2019):
//! embeddings, then layers of self-attention and feed-forward, each added to its input and normalized.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use candle_core::Tensor;

use super::config::{Family, ModelConfig};
use super::embeddings::Embeddings;
use super::known;
use super::layers::{Attention, ClsAttention, ClsRows, Norm};
use super::linear::Linear;
use super::loader::{BERT, DISTILBERT, Loader, Names};
use super::scratch::{Rows, Scratch};
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::kernels::{Activation, Compute, Inputs, NarrowInputs};
use crate::weights::Weights;

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
        let widened = if loader.compute.assumes() && !loader.packed() {
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
    pub fn load(
        weights: &Weights,
        config: &ModelConfig,
        prefix: &str,
        compute: Compute,
        threads: usize,
    ) -> Result<Self> {
        let loader = Loader { weights, config, compute, prefix: prefix.to_string() };
        let names = if config.family == Family::DistilBert { &DISTILBERT } else { &BERT };
        let embeddings = Embeddings::load(&loader)?;
        let layer = |index: usize| loader.below(&format!("{}.{index}", names.layer));
        // What is known of a layer's input: what the one before normalizes it to.
        let known = |index: usize| match index {
            0 => Result::Ok(embeddings.known()),
            _ => Ok(layer(index - 1).norm(names.norm, config.hidden)?.known()),
        };
        let layers = side_by_side(config.layers - 1, threads, |index| {
            Layer::load(&layer(index), names, &known(index)?)
        })?;
        let last = LastLayer::load(&layer(config.layers - 1), names, &known(config.layers - 1)?)?;
        let (heads, head_dim, hidden) = (config.heads, config.head_dim(), config.hidden);
        Ok(Self { embeddings, layers, last, heads, head_dim, hidden, compute })
    }

    /// All linear layers, and their keys in a packed checkpoint. `prefix` is the encoder's own.
    pub fn linears<'a>(&'a self, config: &ModelConfig, prefix: &str) -> Vec<(String, &'a Linear)> {
        let names = if config.family == Family::DistilBert { &DISTILBERT } else { &BERT };
        let mut all = Vec::new();
        if let Some(project) = &self.embeddings.project {
            all.push((format!("rerankd.{prefix}embeddings_project"), project));
        }
        let blocks = self.layers.iter().map(|layer| ("qkv", &layer.qkv, &layer.block));
        let last = ("q", self.last.attention.query(), &self.last.block);
        for (index, (name, first, block)) in blocks.chain([last]).enumerate() {
            let key = |name: &str| format!("rerankd.{prefix}{}.{index}.{name}", names.layer);
            all.push((key(name), first));
            all.push((key(names.output), &block.output));
            all.push((key(names.up), &block.up));
            all.push((key(names.down), &block.down));
        }
        all
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
                compute: self.compute,
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

/// `make` of every index below `count`, on `threads` threads: packing 340 MB takes one core most of a second.
fn side_by_side<T: Send>(
    count: usize,
    threads: usize,
    make: impl Fn(usize) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let made: Vec<Mutex<Option<Result<T>>>> = (0..count).map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..threads.min(count) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(slot) = made.get(index) else { break };
                    *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(make(index));
                }
            });
        }
    });
    let missing = || Err(Error::Internal("a layer was not loaded".into()));
    let taken = |slot: Mutex<Option<Result<T>>>| slot.into_inner().unwrap_or_else(PoisonError::into_inner);
    made.into_iter().map(|slot| taken(slot).unwrap_or_else(missing)).collect()
}

impl Layer {
    /// `known` is what is known of the layer's input.
    fn load(loader: &Loader, names: &Names, known: &Inputs) -> Result<Self> {
        let hidden = loader.config.hidden;
        if loader.packed() {
            let qkv = loader.restore("qkv", hidden, 3 * hidden)?;
            return Ok(Self { qkv, block: Block::load(loader, names, &Inputs::default())? });
        }
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
        let query = if loader.packed() {
            loader.restore("q", hidden, hidden)?
        } else {
            let (weight, bias) = loader.weight_and_bias(names.query, hidden, hidden)?;
            Linear::stack(compute, hidden, &[(weight, bias, query_scale(loader.config))], known)
        };
        // The key's bias is read for its shape only: it adds the same to every score, so softmax drops it.
        let (key, _) = loader.weight_and_bias(names.key, hidden, hidden)?;
        let (value, value_bias) = loader.weight_and_bias(names.value, hidden, hidden)?;
        let (heads, head_dim) = (loader.config.heads, loader.config.head_dim());
        let attended = known::attended(compute, &value, &value_bias, known);
        let attention = ClsAttention::new(compute.kernels, heads, head_dim, query, key, value, value_bias);
        Ok(Self { attention, block: Block::load(loader, names, &attended)? })
    }
}

pub fn query_scale(config: &ModelConfig) -> f32 {
    1.0 / (config.head_dim() as f32).sqrt()
}
