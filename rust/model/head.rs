//! The classification heads: dense, activation, projection to one logit, all on the CLS row. The families differ in
//! the tensors' names and in the activation between.

use candle_core::Tensor;

use super::config::{Family, ModelConfig};
use super::layers::Fill;
use super::linear::Linear;
use crate::batch::Batch;
use crate::error::Result;
use crate::kernels::{Activation, Compute, Inputs, NarrowInputs};
use crate::weights::Weights;

pub struct Head {
    dense: Linear,
    activation: Activation,
    project: Linear,
}

impl Head {
    /// `encoder` is the encoder's prefix, `outer` what comes before that, both ending in a dot or empty.
    pub fn load(
        weights: &Weights,
        config: &ModelConfig,
        encoder: &str,
        outer: &str,
        compute: Compute,
    ) -> Result<Self> {
        let (dense, activation, project) = layers(config, encoder, outer);
        let linear = |name: &str, outputs: usize| -> Result<Linear> {
            let weight = weights.tensor(&format!("{name}.weight"), &[outputs, config.hidden])?;
            let bias = weights.tensor(&format!("{name}.bias"), &[outputs])?;
            // In f32 whatever the precision: a coarse logit would tie pairs that differ.
            Ok(Linear::new(compute.full(), config.hidden, weight, bias, &Inputs::default()))
        };
        Ok(Self {
            dense: linear(&dense, config.hidden)?,
            activation,
            project: linear(&project, config.labels)?,
        })
    }

    /// One logit a sequence, from the CLS rows `[sequences, hidden]`. Two labels (not relevant, relevant) give the
    /// difference of theirs, whose sigmoid is the softmax of the second.
    pub fn forward(&self, cls: &Tensor, mixed: &Tensor, batch: &Batch) -> Result<Vec<f32>> {
        let narrow = &mut NarrowInputs::default(); // unused: see load
        match self.activation {
            // Not a kernel: hidden numbers a pair, so the standard library's exact one is as good as free.
            Activation::Tanh => {
                self.dense.forward(cls, Activation::None, mixed, narrow)?;
                mixed
                    .inplace_op1(&Fill(|values: &mut [f32]| values.iter_mut().for_each(|v| *v = v.tanh())))?;
            }
            activation => self.dense.forward(cls, activation, mixed, narrow)?,
        }
        let labels = self.project.outputs();
        let logits = Tensor::zeros((batch.sequences(), labels), mixed.dtype(), mixed.device())?;
        self.project.forward(mixed, Activation::None, &logits, narrow)?;
        let logits = logits.flatten_all()?.to_vec1::<f32>()?;
        Ok(self::logits(logits, labels))
    }
}

/// One logit a sequence from `[sequences, labels]`.
pub fn logits(all: Vec<f32>, labels: usize) -> Vec<f32> {
    match labels {
        1 => all,
        _ => all.chunks_exact(2).map(|pair| pair[1] - pair[0]).collect(),
    }
}

/// The names of a family's dense layer and of its projection, and the activation between them.
pub fn layers(config: &ModelConfig, encoder: &str, outer: &str) -> (String, Activation, String) {
    let (dense, activation, project) = match config.family {
        Family::Bert => (format!("{encoder}pooler.dense"), Activation::Tanh, "classifier"),
        Family::Roberta => (format!("{outer}classifier.dense"), Activation::Tanh, "classifier.out_proj"),
        // transformers has gelu here whatever hidden_act says.
        Family::Electra => (format!("{outer}classifier.dense"), Activation::Gelu, "classifier.out_proj"),
        Family::DistilBert => (format!("{outer}pre_classifier"), Activation::Relu, "classifier"),
    };
    (dense, activation, format!("{outer}{project}"))
}
