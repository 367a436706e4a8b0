//! The encoder and its head on a GPU: the same paper, the same loader, other buffers. A wave is copied in one block, goes
//! through all layers without the host waiting, and comes back as its logits.
//!
//! Of the last layer, queries, output projection and feed-forward are computed for the CLS rows alone.

mod arena;
mod embeddings;
mod head;
mod replays;
mod turns;
mod weights;

use std::sync::{Mutex, PoisonError};

use super::config::{Family, ModelConfig};
use super::loader::{self, Loader, Names};
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::kernels::gpu::{self, Buffer, GRAIN, Gpu, GpuError, Outcome, Precision, Queue, WIDEST_HEAD, Wave};
use crate::kernels::{Activation, Compute};
use crate::weights::Weights;
use arena::{Arena, Parts, Rows};
use embeddings::Embeddings;
use head::Head;
use turns::Turns;
use weights::{Linear, Norm, Uploader};

/// Waves that a GPU is given at a time: one is copied and queued while the other is computed.
pub const WAVES_EACH: usize = 2;

/// A model on one or several GPUs.
pub struct Gpus {
    replicas: Vec<Replica>,
    turns: Turns,
}

impl Gpus {
    pub fn load(
        weights: &Weights,
        config: &ModelConfig,
        (encoder, outer): (&str, &str),
        compute: Compute,
        gpus: &[Gpu],
        precision: Precision,
    ) -> Result<Self> {
        check(weights, config)?;
        let loader = Loader { weights, config, compute: compute.full(), prefix: encoder.to_string() };
        let replicas = gpus
            .iter()
            .map(|gpu| Replica::load(&loader, outer, gpu, precision))
            .collect::<Result<Vec<_>>>()?;
        let turns = Turns::new(replicas.len());
        Ok(Self { replicas, turns })
    }

    /// Waves that may be in work at a time.
    pub fn waves(&self) -> usize {
        WAVES_EACH * self.replicas.len()
    }

    /// One logit for each of the batch's pairs, on the GPU that has least to do.
    pub fn forward(&self, batch: &Batch) -> Result<Vec<f32>> {
        let turn = self.turns.take();
        self.replicas[turn.index].forward(batch)
    }
}

/// Opens GPUs by their numbers.
pub fn open(kind: &str, ordinals: &[usize]) -> Result<Vec<Gpu>> {
    let one = |&ordinal: &usize| {
        Gpu::open(kind, ordinal).map_err(|error| Error::Device(format!("{kind}:{ordinal}: {}", told(&error))))
    };
    ordinals.iter().map(one).collect()
}

/// What the kernels have no room for.
fn check(weights: &Weights, config: &ModelConfig) -> Result<()> {
    if super::packed::Form::of(weights).is_some() {
        return Err(
            weights.refusal(format_args!("packed for a CPU; serve the checkpoint that it was made from"))
        );
    }
    let widths = [config.hidden, config.embedding, config.intermediate, config.head_dim()];
    if config.head_dim() > WIDEST_HEAD || widths.iter().any(|width| !width.is_multiple_of(GRAIN)) {
        return Err(weights.refusal(format_args!(
            "config.json asks for widths {widths:?}; on a GPU they are multiples of {GRAIN}, and a head has at most \
             {WIDEST_HEAD}: use device cpu"
        )));
    }
    Ok(())
}

fn told(error: &GpuError) -> String {
    match error {
        GpuError::Memory => "its memory is full".into(),
        GpuError::Lost(why) => format!("the GPU is lost: {why}"),
        GpuError::Refused(why) => why.clone(),
    }
}

fn failed_load(gpu: &Gpu, error: GpuError) -> Error {
    Error::Device(format!("the weights can't be copied to {}: {}", gpu.name(), told(&error)))
}

/// What follows a layer's attention.
struct Block {
    output: Linear,
    attention_norm: Norm,
    up: Linear,
    activation: Activation,
    down: Linear,
    norm: Norm,
}

struct Layer {
    qkv: Linear,
    block: Block,
}

struct LastLayer {
    q: Linear,
    kv: Linear,
    value_bias: Buffer, // kv's, of the values alone
    block: Block,
}

/// The model on one GPU.
struct Replica {
    idle: Mutex<Vec<Arena>>, // before the weights: dropped first
    gpu: Gpu,
    config: ModelConfig,
    precision: Precision,
    embeddings: Embeddings,
    layers: Vec<Layer>,
    last: LastLayer,
    head: Head,
}

impl Replica {
    fn load(loader: &Loader, outer: &str, gpu: &Gpu, precision: Precision) -> Result<Self> {
        let config = loader.config.clone();
        let queue = gpu.queue().map_err(|e| failed_load(gpu, e))?;
        let up = Uploader { gpu, queue, precision };
        let names = if config.family == Family::DistilBert { &loader::DISTILBERT } else { &loader::BERT };
        let at = |index: usize| loader.below(&format!("{}.{index}", names.layer));
        let layers = (0..config.layers - 1)
            .map(|index| Layer::load(&up, &at(index), names))
            .collect::<Result<Vec<_>>>()?;
        let made = Self {
            idle: Mutex::default(),
            gpu: gpu.clone(),
            embeddings: Embeddings::load(&up, loader)?,
            layers,
            last: LastLayer::load(&up, &at(config.layers - 1), names)?,
            head: Head::load(&up, loader, outer)?,
            config,
            precision,
        };
        match made.try_waves() {
            // What there is memory for is found out when it is needed.
            Ok(()) | Err(GpuError::Memory) => Ok(made),
            Err(error) => {
                Err(Error::Device(format!("{} can't compute a wave: {}", gpu.name(), told(&error))))
            }
        }
    }

    /// Computes waves of the usual sizes in each of the arenas that will be used, twice: the second is captured.
    fn try_waves(&self) -> Outcome<()> {
        let waves = self.gpu.tried();
        let Some(largest) = waves.last() else { return Ok(()) };
        let mut arenas = Vec::new();
        for _ in 0..WAVES_EACH {
            let mut arena = self.arena(largest.tokens, largest.sequences)?;
            for &wave in waves.iter().chain(&waves) {
                // No longer than there are positions, however many of them a family leaves out.
                let length = (wave.tokens / wave.sequences).min(self.config.positions / 2);
                let mut batch = Batch::new();
                (0..wave.sequences).for_each(|_| batch.push(&vec![0; length], &vec![0; length]));
                self.run(&batch, wave, &mut arena)?;
            }
            arenas.push(arena);
        }
        self.idle().append(&mut arenas);
        Ok(())
    }

    fn forward(&self, batch: &Batch) -> Result<Vec<f32>> {
        let tokens = batch.tokens();
        let failed = |error: GpuError| match error {
            GpuError::Memory => {
                Error::Memory(format!("{} has no memory for a wave of {tokens} tokens", self.gpu.name()))
            }
            GpuError::Lost(why) => Error::Lost(format!("{} is lost: {why}", self.gpu.name())),
            GpuError::Refused(why) => Error::Internal(format!("{}: {why}", self.gpu.name())),
        };
        let exact = Wave::of(batch.cu_seqlens());
        let wave = exact.rounded().unwrap_or(exact);
        let mut arena = self.arena(wave.tokens, wave.sequences).map_err(failed)?;
        let mut logits = self.run(batch, wave, &mut arena).map_err(failed)?;
        logits.truncate(batch.sequences() * self.config.labels);
        // One in which something failed is not used again.
        self.idle().push(arena);
        Ok(self.head.finish(logits))
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Arena>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An idle arena that is large enough, or a new one in its place.
    fn arena(&self, tokens: usize, sequences: usize) -> Outcome<Arena> {
        let taken = self.idle().pop();
        let (mut most_tokens, mut most_sequences) = (tokens, sequences);
        if let Some(arena) = taken {
            if arena.holds(tokens, sequences) {
                return Ok(arena);
            }
            (most_tokens, most_sequences) =
                (tokens.max(arena.capacity().0), sequences.max(arena.capacity().1));
        }
        let made = Arena::new(&self.gpu, &self.config, self.precision, most_tokens, most_sequences);
        if !matches!(made, Err(GpuError::Memory)) {
            return made;
        }
        // What others left idle may be what is missing; and no more than is needed.
        self.idle().clear();
        Arena::new(&self.gpu, &self.config, self.precision, tokens, sequences)
    }

    /// The logits `[sequences, labels]` of all sequences that the wave has room for, to which the last bias has not been added.
    fn run(&self, batch: &Batch, wave: Wave, arena: &mut Arena) -> Outcome<Vec<f32>> {
        let parts = arena.parts(&self.config, self.precision);
        let Arena { replays, queue, buffer, words, .. } = arena;
        self.embeddings.pack(batch, wave, words);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        queue.write(buffer, 0, &bytes)?;
        match wave.rounded() == Some(wave) {
            true => replays.run(queue, wave, || self.queue(queue, &parts, &wave))?,
            false => self.queue(queue, &parts, &wave)?,
        }
        let mut logits = vec![0.0; wave.sequences * self.config.labels];
        queue.read(parts.logits, &mut logits)?;
        Ok(logits)
    }

    /// All that is computed of a wave, from its block to its logits.
    fn queue(&self, queue: &Queue, parts: &Parts, wave: &Wave) -> Outcome<()> {
        let (hidden, heads) = (self.config.hidden, self.config.heads);
        let rows = parts.tokens;
        self.embeddings.forward(queue, parts, wave)?;
        for layer in &self.layers {
            queue.product(rows.x, layer.qkv.weight(), wave.tokens, hidden, parts.qkv)?;
            queue.attention(parts.qkv, layer.qkv.bias(), parts.block, wave, heads, rows.context)?;
            layer.block.forward(queue, &rows, wave.tokens, rows.x)?;
        }
        let LastLayer { q, kv, value_bias, block } = &self.last;
        let cls = parts.cls;
        queue.product(rows.x, kv.weight(), wave.tokens, hidden, parts.qkv)?;
        queue.gather(rows.x, parts.block, wave, hidden, cls.x)?;
        queue.product(cls.x, q.weight(), wave.sequences, hidden, parts.q)?;
        queue.activate(parts.q, q.bias(), Activation::None, wave.sequences)?;
        let value_bias = value_bias.slice(Precision::F32);
        queue.cls_attention(parts.q, parts.qkv, value_bias, parts.block, wave, heads, cls.context)?;
        block.forward(queue, &cls, wave.sequences, parts.normed)?;
        self.head.forward(queue, parts, wave.sequences)
    }
}

impl Block {
    fn load(up: &Uploader, loader: &Loader, names: &Names) -> Result<Self> {
        let (hidden, wide) = (loader.config.hidden, loader.config.intermediate);
        Ok(Self {
            output: up.linear(loader, names.output, hidden, hidden)?,
            attention_norm: up.norm(loader, names.attention_norm, hidden)?,
            up: up.linear(loader, names.up, hidden, wide)?,
            activation: loader.config.activation,
            down: up.linear(loader, names.down, wide, hidden)?,
            norm: up.norm(loader, names.norm, hidden)?,
        })
    }

    /// From attention's result in `rows.context` and the layer's input in `rows.x` to its output in `out`.
    fn forward(&self, queue: &Queue, rows: &Rows, count: usize, out: gpu::Slice) -> Outcome<()> {
        let Rows { x, context, mixed, wide } = *rows;
        queue.product(context, self.output.weight(), count, self.output.inputs, mixed)?;
        queue.add_norm(mixed, self.output.bias(), x, &self.attention_norm.vectors(), count, mixed)?;
        queue.product(mixed, self.up.weight(), count, self.up.inputs, wide)?;
        queue.activate(wide, self.up.bias(), self.activation, count)?;
        queue.product(wide, self.down.weight(), count, self.down.inputs, x)?;
        queue.add_norm(x, self.down.bias(), mixed, &self.norm.vectors(), count, out)
    }
}

impl Layer {
    fn load(up: &Uploader, loader: &Loader, names: &Names) -> Result<Self> {
        let hidden = loader.config.hidden;
        let part = |name, scale| -> Result<_> {
            let (weight, bias) = loader.weight_and_bias(name, hidden, hidden)?;
            Ok((weight, bias, scale))
        };
        // 1/sqrt(d) goes into the query projection once, not into every score.
        let scale = super::encoder::query_scale(loader.config);
        let parts = [part(names.query, scale)?, part(names.key, 1.0)?, part(names.value, 1.0)?];
        Ok(Self { qkv: up.linear_in(up.precision, &parts)?, block: Block::load(up, loader, names)? })
    }
}

impl LastLayer {
    fn load(up: &Uploader, loader: &Loader, names: &Names) -> Result<Self> {
        let hidden = loader.config.hidden;
        let part = |name, scale| -> Result<_> {
            let (weight, bias) = loader.weight_and_bias(name, hidden, hidden)?;
            Ok((weight, bias, scale))
        };
        let (key, value) = (part(names.key, 1.0)?, part(names.value, 1.0)?);
        let value_bias = up.stack(Precision::F32, &[(&value.1, 1.0)])?;
        let q =
            up.linear_in(up.precision, &[part(names.query, super::encoder::query_scale(loader.config))?])?;
        let kv = up.linear_in(up.precision, &[key, value])?;
        Ok(Self { q, kv, value_bias, block: Block::load(up, loader, names)? })
    }
}
