//! From the CLS rows to logits.

use super::arena::Parts;
use super::weights::{Linear, Uploader};
use crate::error::Result;
use crate::kernels::Activation;
use crate::kernels::gpu::{Outcome, Precision, Queue};
use crate::model::head;
use crate::model::loader::Loader;

/// In f32, whatever the precision: a coarse logit would tie pairs that differ.
pub struct Head {
    dense: Linear,
    activation: Activation,
    project: Linear,
    bias: Vec<f32>, // [labels]
}

impl Head {
    pub fn load(up: &Uploader, loader: &Loader, outer: &str) -> Result<Self> {
        let config = loader.config;
        let (dense, activation, project) = head::layers(config, &loader.prefix, outer);
        let linear = |name: &str, outputs: usize| -> Result<_> {
            let weight = loader.weights.tensor(&format!("{name}.weight"), &[outputs, config.hidden])?;
            let bias = loader.weights.tensor(&format!("{name}.bias"), &[outputs])?;
            Ok((weight, bias, 1.0))
        };
        let dense = linear(&dense, config.hidden)?;
        let project = linear(&project, config.labels)?;
        Ok(Self {
            dense: up.linear_in(Precision::F32, &[dense])?,
            activation,
            bias: project.1.to_vec(),
            project: up.linear_in(Precision::F32, &[project])?,
        })
    }

    pub fn forward(&self, queue: &Queue, parts: &Parts, sequences: usize) -> Outcome<()> {
        queue.product(parts.normed, self.dense.weight(), sequences, self.dense.inputs, parts.dense)?;
        queue.activate(parts.dense, self.dense.bias(), self.activation, sequences)?;
        queue.product(parts.dense, self.project.weight(), sequences, self.project.inputs, parts.logits)
    }

    /// One logit a sequence from the products `[sequences, labels]`.
    pub fn finish(&self, products: Vec<f32>) -> Vec<f32> {
        let labels = self.bias.len();
        let biased: Vec<f32> =
            products.iter().enumerate().map(|(i, product)| product + self.bias[i % labels]).collect();
        head::logits(biased, labels)
    }
}
