//! Linear layers: weights packed once, in f32 or in a narrow format; and how a packed checkpoint keeps them.

use std::cell::RefCell;

use candle_core::{CpuStorage, InplaceOp2, Layout, Tensor};

use super::layers::{Op, elements, elements_mut};
use super::packed::Entry;
use crate::error::Result;
use crate::kernels::{
    Activation, Compute, Inputs, Kernels, NarrowInputs, NarrowKernels, NarrowMatrix, PackedMatrix,
};
use crate::weights::{View, Weights};

/// What [`NarrowMatrix::vectors`] are called in a packed checkpoint.
const VECTORS: [&str; 4] = ["scales", "sums", "center", "factor"];

/// Where a linear layer's products happen.
enum Weight {
    Full(Kernels, PackedMatrix),
    /// Boxed: several times the other's size.
    Narrow(NarrowKernels, Box<NarrowMatrix>),
}

/// y = activation(x W^T + b), the weights packed once at load.
pub struct Linear {
    weight: Weight, // [outputs, inputs], in the kernels' panels
    bias: Vec<f32>, // [outputs]
    inputs: usize,
    outputs: usize,
    sources: Vec<String>, // the tensors it was made of
}

/// The row `row` of `(weight [n, inputs], bias [n], scale)` parts stacked, each multiplied by its scale.
fn read_stacked(parts: &[(View, View, f32)], mut row: usize, out: &mut [f32]) {
    for (weight, _, scale) in parts {
        if row < weight.rows() {
            weight.read_row(row, out);
            out.iter_mut().for_each(|w| *w *= scale);
            return;
        }
        row -= weight.rows();
    }
}

impl Linear {
    /// Stacks `(weight [n, inputs], bias [n], scale)` parts into one product. Each part is multiplied by its scale:
    /// attention folds 1/sqrt(head_dim) into its query projection. `known` is what int8 may assume of the inputs.
    pub fn stack(compute: Compute, inputs: usize, parts: &[(View, View, f32)], known: &Inputs) -> Self {
        let outputs = parts.iter().map(|(weight, ..)| weight.rows()).sum();
        let mut bias = Vec::with_capacity(outputs);
        for (_, part, scale) in parts {
            bias.extend(part.to_vec().iter().map(|b| b * scale));
        }
        let fill = |row: usize, out: &mut [f32]| read_stacked(parts, row, out);
        let weight = match compute.narrow {
            None => Weight::Full(compute.kernels, compute.kernels.pack_with(outputs, inputs, fill)),
            Some(narrow) => {
                let packed = narrow.pack(outputs, inputs, known, fill);
                bias.iter_mut().zip(packed.correction()).for_each(|(bias, more)| *bias += more);
                Weight::Narrow(narrow, Box::new(packed))
            }
        };
        parts.iter().for_each(|(weight, ..)| weight.release());
        let sources = parts.iter().flat_map(|(weight, bias, _)| [weight, bias].map(|v| v.name().to_string()));
        Self { weight, bias, inputs, outputs, sources: sources.collect() }
    }

    pub fn new(compute: Compute, inputs: usize, weight: View, bias: View, known: &Inputs) -> Self {
        Self::stack(compute, inputs, &[(weight, bias, 1.0)], known)
    }

    /// What a packed checkpoint keeps of it, under `key`: see [`Linear::restore`].
    pub fn store<'a>(&'a self, key: &str, out: &mut Vec<Entry<'a>>) {
        let panels = match &self.weight {
            Weight::Full(_, weight) => weight.as_bytes(),
            Weight::Narrow(_, weight) => {
                for (name, vector) in VECTORS.iter().zip(weight.vectors()) {
                    if !vector.is_empty() {
                        out.push(Entry::vector(format!("{key}.{name}"), vector));
                    }
                }
                weight.as_bytes()
            }
        };
        out.push(Entry::vector(format!("{key}.bias"), &self.bias));
        out.push(Entry::bytes(format!("{key}.panels"), panels));
    }

    /// One that `store` wrote, its weights read where they lie in the file.
    pub fn restore(
        weights: &Weights,
        key: &str,
        compute: Compute,
        inputs: usize,
        outputs: usize,
    ) -> Result<Self> {
        let (map, bytes) = weights.raw(&format!("{key}.panels"))?;
        let vectors = VECTORS.map(|name| weights.vector(&format!("{key}.{name}")));
        let bias = weights.vector(&format!("{key}.bias"));
        let weight = match compute.narrow {
            None => compute
                .kernels
                .restore(outputs, inputs, map, bytes)
                .map(|weight| Weight::Full(compute.kernels, weight)),
            Some(narrow) => narrow
                .restore(outputs, inputs, map, bytes, vectors)
                .map(|weight| Weight::Narrow(narrow, Box::new(weight))),
        };
        match weight {
            Some(weight) if bias.len() == outputs => {
                Ok(Self { weight, bias, inputs, outputs, sources: Vec::new() })
            }
            _ => Err(weights.refusal(format_args!(
                "{key}.* don't have the sizes that config.json asks for; pack the checkpoint again"
            ))),
        }
    }

    /// The tensors it was made of, which a packed checkpoint has no need of.
    pub fn sources(&self) -> &[String] {
        &self.sources
    }

    /// out `[rows, outputs]` from x `[rows, inputs]`. `narrow` is the thread's scratch, for weights in a narrow format.
    pub fn forward(
        &self,
        x: &Tensor,
        activation: Activation,
        out: &Tensor,
        narrow: &mut NarrowInputs,
    ) -> Result<()> {
        Ok(out.inplace_op2(x, &LinearOp { linear: self, activation, narrow: RefCell::new(narrow) })?)
    }

    pub fn outputs(&self) -> usize {
        self.outputs
    }
}

struct LinearOp<'a> {
    linear: &'a Linear,
    activation: Activation,
    narrow: RefCell<&'a mut NarrowInputs>,
}

impl InplaceOp2 for LinearOp<'_> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, out: &mut CpuStorage, out_layout: &Layout, x: &CpuStorage, x_layout: &Layout) -> Op {
        let Linear { weight, bias, inputs, outputs, .. } = self.linear;
        let x = elements(x, x_layout)?;
        let out = elements_mut(out, out_layout)?;
        let rows = x.len() / inputs;
        match weight {
            Weight::Full(kernels, weight) => {
                kernels.linear(x, *inputs, rows, weight, bias, self.activation, out, *outputs);
            }
            Weight::Narrow(kernels, weight) => {
                let mut narrow = self.narrow.borrow_mut();
                kernels.quantize(x, *inputs, rows, weight, &mut narrow);
                kernels.linear(&narrow, rows, weight, bias, self.activation, 0..*outputs, out, *outputs);
            }
        }
        Ok(())
    }
}
