//! A checkpoint's weights on a GPU: matrices in the model's precision, biases and LayerNorms' vectors in f32.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::failed_load;
use crate::error::Result;
use crate::kernels::gpu::{Buffer, Gpu, LayerNorm, Precision, Queue, Slice};
use crate::model::loader::Loader;
use crate::weights::View;

/// Elements that are converted and copied at a time: a word table is most of a gigabyte, which no host need hold twice.
const CHUNK: usize = 4 << 20;

/// y = x W^T + b: weight `[outputs, inputs]`, bias `[outputs]`.
pub struct Linear {
    weight: Buffer,
    precision: Precision,
    bias: Buffer,
    pub inputs: usize,
}

impl Linear {
    pub fn weight(&self) -> Slice {
        self.weight.slice(self.precision)
    }

    pub fn bias(&self) -> Slice {
        self.bias.slice(Precision::F32)
    }
}

pub struct Norm {
    gamma: Buffer,
    beta: Buffer,
    eps: f32,
}

impl Norm {
    pub fn vectors(&self) -> LayerNorm {
        let [gamma, beta] = [&self.gamma, &self.beta].map(|vector| vector.slice(Precision::F32));
        LayerNorm { gamma, beta, eps: self.eps }
    }
}

/// Copies tensors to one GPU.
pub struct Uploader<'a> {
    pub gpu: &'a Gpu,
    pub queue: Queue,
    pub precision: Precision,
}

impl Uploader<'_> {
    /// Tensors stacked by their rows, each multiplied by its scale.
    pub fn stack(&self, precision: Precision, parts: &[(&View, f32)]) -> Result<Buffer> {
        let elements = |view: &View| view.rows() * view.row_len();
        let bytes = parts.iter().map(|(view, _)| elements(view) * precision.size()).sum();
        let buffer = self.gpu.buffer(bytes).map_err(|e| failed_load(self.gpu, e))?;
        let mut written = 0;
        for (view, scale) in parts {
            let width = view.row_len();
            let rows_at_once = (CHUNK / width).max(1);
            let mut rows = vec![0.0; rows_at_once.min(view.rows()) * width];
            for first in (0..view.rows()).step_by(rows_at_once) {
                let rows = &mut rows[..rows_at_once.min(view.rows() - first) * width];
                for (i, row) in rows.chunks_exact_mut(width).enumerate() {
                    view.read_row(first + i, row);
                }
                if *scale != 1.0 {
                    rows.iter_mut().for_each(|value| *value *= scale);
                }
                let bytes = encode(rows, precision);
                self.queue.write(&buffer, written, &bytes).map_err(|e| failed_load(self.gpu, e))?;
                written += bytes.len();
            }
            view.release();
        }
        Ok(buffer)
    }

    /// Linear layers `(weight, bias, scale)` with the same inputs as one, in this precision.
    pub fn linear_in(&self, precision: Precision, parts: &[(View, View, f32)]) -> Result<Linear> {
        let weights: Vec<_> = parts.iter().map(|(weight, _, scale)| (weight, *scale)).collect();
        let biases: Vec<_> = parts.iter().map(|(_, bias, scale)| (bias, *scale)).collect();
        let weight = self.stack(precision, &weights)?;
        let bias = self.stack(Precision::F32, &biases)?;
        Ok(Linear { weight, precision, bias, inputs: parts[0].0.row_len() })
    }

    pub fn linear(&self, loader: &Loader, name: &str, inputs: usize, outputs: usize) -> Result<Linear> {
        let (weight, bias) = loader.weight_and_bias(name, inputs, outputs)?;
        self.linear_in(self.precision, &[(weight, bias, 1.0)])
    }

    pub fn norm(&self, loader: &Loader, name: &str, width: usize) -> Result<Norm> {
        let vector = |part: &str| -> Result<Buffer> {
            let view = loader.tensor(&format!("{name}.{part}"), &[width])?;
            self.stack(Precision::F32, &[(&view, 1.0)])
        };
        Ok(Norm { gamma: vector("weight")?, beta: vector("bias")?, eps: loader.config.eps })
    }
}

fn encode(values: &[f32], precision: Precision) -> Vec<u8> {
    match precision {
        Precision::F32 => values.iter().flat_map(|value| value.to_ne_bytes()).collect(),
        Precision::F16 => {
            let mut halves = vec![f16::ZERO; values.len()];
            halves.convert_from_f32_slice(values);
            halves.iter().flat_map(|half| half.to_ne_bytes()).collect()
        }
        Precision::Bf16 => {
            let mut halves = vec![bf16::ZERO; values.len()];
            halves.convert_from_f32_slice(values);
            halves.iter().flat_map(|half| half.to_ne_bytes()).collect()
        }
    }
}
