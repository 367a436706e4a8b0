//! An encoder's tensors by their path, as families name them; packed ones by their key.

use super::config::ModelConfig;
use super::layers::Norm;
use super::linear::Linear;
use super::packed::Form;
use crate::error::Result;
use crate::kernels::{Compute, Inputs};
use crate::weights::{View, Weights};

/// Where a family keeps its tensors.
pub struct Names {
    pub layer: &'static str,
    pub query: &'static str,
    pub key: &'static str,
    pub value: &'static str,
    pub output: &'static str,
    pub attention_norm: &'static str,
    pub up: &'static str,
    pub down: &'static str,
    pub norm: &'static str,
}

pub const BERT: Names = Names {
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

pub const DISTILBERT: Names = Names {
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
pub struct Loader<'a> {
    pub weights: &'a Weights,
    pub config: &'a ModelConfig,
    pub compute: Compute,
    pub prefix: String,
}

impl Loader<'_> {
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<View> {
        self.weights.tensor(&format!("{}{name}", self.prefix), shape)
    }

    pub fn weight_and_bias(&self, name: &str, inputs: usize, outputs: usize) -> Result<(View, View)> {
        let weight = self.tensor(&format!("{name}.weight"), &[outputs, inputs])?;
        Ok((weight, self.tensor(&format!("{name}.bias"), &[outputs])?))
    }

    /// Whether this is a packed checkpoint, whose linear layers are found by key.
    pub fn packed(&self) -> bool {
        Form::of(self.weights).is_some()
    }

    pub fn key(&self, name: &str) -> String {
        format!("rerankd.{}{name}", self.prefix)
    }

    pub fn restore(&self, name: &str, inputs: usize, outputs: usize) -> Result<Linear> {
        Linear::restore(self.weights, &self.key(name), self.compute, inputs, outputs)
    }

    pub fn linear(&self, name: &str, inputs: usize, outputs: usize, known: &Inputs) -> Result<Linear> {
        if self.packed() {
            return self.restore(name, inputs, outputs);
        }
        let (weight, bias) = self.weight_and_bias(name, inputs, outputs)?;
        Ok(Linear::new(self.compute, inputs, weight, bias, known))
    }

    pub fn norm(&self, name: &str, width: usize) -> Result<Norm> {
        let gamma = self.tensor(&format!("{name}.weight"), &[width])?;
        let beta = self.tensor(&format!("{name}.bias"), &[width])?;
        Ok(Norm::new(self.compute.kernels, gamma, beta, self.config.eps))
    }

    pub fn below(&self, path: &str) -> Self {
        Self { prefix: format!("{}{path}.", self.prefix), ..*self }
    }
}
