//! A layer's parts: candle tensors in and out, each an in-place op over a buffer of the arena. On the CPU an op hands
//! slices to `kernels`.

use std::cell::RefCell;

use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, Layout, Tensor, bail};

use super::linear::Linear;
use crate::error::Result;
use crate::kernels::{Activation, AttentionScratch, Compute, Inputs, Kernels, NarrowInputs};
use crate::weights::View;

pub type Op = candle_core::Result<()>;

/// The contiguous f32 elements that a tensor's layout selects.
pub fn elements<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("a layer's input must be contiguous"),
    }
}

pub fn elements_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> candle_core::Result<&'a mut [f32]> {
    match (layout.contiguous_offsets(), storage) {
        (Some((start, end)), CpuStorage::F32(values)) => Ok(&mut values[start..end]),
        _ => bail!("a layer's output must be contiguous and f32"),
    }
}

/// LayerNorm over the last dimension.
pub struct Norm {
    kernels: Kernels,
    gamma: Vec<f32>, // [width]
    beta: Vec<f32>,  // [width]
    eps: f32,
}

impl Norm {
    pub fn new(kernels: Kernels, gamma: View, beta: View, eps: f32) -> Self {
        Self { kernels, gamma: gamma.to_vec(), beta: beta.to_vec(), eps }
    }

    /// What int8 may assume of its results: they lie around beta, gamma away.
    pub fn known(&self) -> Inputs {
        Inputs { center: self.beta.clone(), spread: self.gamma.clone() }
    }

    /// x `[rows, width]` becomes LayerNorm(x + residual).
    pub fn add(&self, x: &Tensor, residual: &Tensor) -> Result<()> {
        Ok(x.inplace_op2(residual, self)?)
    }

    /// x `[rows, width]`, in place.
    pub fn apply(&self, x: &mut [f32]) {
        self.kernels.layer_norm(x, self.gamma.len(), &self.gamma, &self.beta, self.eps);
    }
}

impl InplaceOp2 for Norm {
    fn name(&self) -> &'static str {
        "add-norm"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, x_layout: &Layout, residual: &CpuStorage, layout: &Layout) -> Op {
        let x = elements_mut(x, x_layout)?;
        let residual = elements(residual, layout)?;
        self.kernels.add_layer_norm(x, residual, self.gamma.len(), &self.gamma, &self.beta, self.eps);
        Ok(())
    }
}

/// Self-attention of packed sequences: softmax(Q K^T) V per sequence and head, every row of every sequence.
pub struct Attention<'a> {
    pub compute: Compute,
    pub heads: usize,
    pub head_dim: usize,
    pub cu_seqlens: &'a [u32], // [sequences + 1]
    pub scratch: RefCell<&'a mut AttentionScratch>,
}

impl Attention<'_> {
    /// out `[tokens, hidden]` from qkv `[tokens, 3 * hidden]`.
    pub fn forward(&self, qkv: &Tensor, out: &Tensor) -> Result<()> {
        Ok(out.inplace_op2(qkv, self)?)
    }
}

impl InplaceOp2 for Attention<'_> {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, out: &mut CpuStorage, out_layout: &Layout, qkv: &CpuStorage, layout: &Layout) -> Op {
        let out = elements_mut(out, out_layout)?;
        let qkv = elements(qkv, layout)?;
        let mut scratch = self.scratch.borrow_mut();
        self.compute.attention(qkv, self.cu_seqlens, self.heads, self.head_dim, out, &mut scratch);
        Ok(())
    }
}

/// The last layer's attention, of each sequence's first row (CLS) alone, with K and V absorbed.
///
/// Only the CLS row of the last layer is ever read, so K and V need not be formed: per head h, scores are
/// (W_k^T q)·x_t, since q·(W_k x_t) = (W_k^T q)·x_t and K's bias adds the same to every score; the result is
/// W_v (sum_t p_t x_t) + b_v, since the p_t sum to 1. Saves most of a layer: 8 % of 12, 16 % of 6.
pub struct ClsAttention {
    kernels: Kernels,
    heads: usize,
    head_dim: usize,
    query: Linear,
    key: Vec<f32>,        // [hidden, hidden], rows by head
    value: Vec<f32>,      // [hidden, hidden], rows by head
    value_bias: Vec<f32>, // [hidden]
}

impl ClsAttention {
    pub fn new(
        kernels: Kernels,
        heads: usize,
        head_dim: usize,
        query: Linear,
        key: View,
        value: View,
        value_bias: View,
    ) -> Self {
        let this = Self {
            kernels,
            heads,
            head_dim,
            query,
            key: key.to_vec(),
            value: value.to_vec(),
            value_bias: value_bias.to_vec(),
        };
        key.release();
        value.release();
        this
    }

    pub fn query(&self) -> &Linear {
        &self.query
    }

    /// out `[sequences, hidden]` from all rows x `[tokens, hidden]` and the CLS rows `[sequences, hidden]`;
    /// q `[sequences, hidden]` is scratch.
    #[allow(clippy::too_many_arguments)]
    pub fn forward(
        &self,
        x: &Tensor,
        cls: &Tensor,
        cu_seqlens: &[u32],
        q: &Tensor,
        out: &Tensor,
        scratch: &mut AttentionScratch,
        narrow: &mut NarrowInputs,
    ) -> Result<()> {
        self.query.forward(cls, Activation::None, q, narrow)?;
        let (storage, layout) = q.storage_and_layout();
        let candle_core::Storage::Cpu(storage) = &*storage else {
            return Err(crate::Error::Internal("the CLS queries are not on the CPU".into()));
        };
        let q = elements(storage, layout)?;
        let op = ClsAttentionOp { attention: self, cu_seqlens, q, scratch: RefCell::new(scratch) };
        Ok(out.inplace_op2(x, &op)?)
    }
}

struct ClsAttentionOp<'a> {
    attention: &'a ClsAttention,
    cu_seqlens: &'a [u32], // [sequences + 1]
    q: &'a [f32],          // [sequences, hidden]
    scratch: RefCell<&'a mut AttentionScratch>,
}

impl InplaceOp2 for ClsAttentionOp<'_> {
    fn name(&self) -> &'static str {
        "cls-attention"
    }

    fn cpu_fwd(&self, out: &mut CpuStorage, out_layout: &Layout, x: &CpuStorage, layout: &Layout) -> Op {
        let ClsAttention { kernels, heads, head_dim, key, value, value_bias, .. } = self.attention;
        let out = elements_mut(out, out_layout)?;
        let x = elements(x, layout)?;
        let mut scratch = self.scratch.borrow_mut();
        kernels.cls_attention(
            x,
            self.cu_seqlens,
            self.q,
            key,
            value,
            value_bias,
            *heads,
            *head_dim,
            out,
            &mut scratch,
        );
        Ok(())
    }
}

/// Copies each sequence's first row: out `[sequences, width]` from x `[tokens, width]`.
pub struct ClsRows<'a> {
    pub cu_seqlens: &'a [u32], // [sequences + 1]
    pub width: usize,
}

impl InplaceOp2 for ClsRows<'_> {
    fn name(&self) -> &'static str {
        "cls-rows"
    }

    fn cpu_fwd(&self, out: &mut CpuStorage, out_layout: &Layout, x: &CpuStorage, layout: &Layout) -> Op {
        let x = elements(x, layout)?;
        let out = elements_mut(out, out_layout)?;
        for (row, start) in out.chunks_exact_mut(self.width).zip(self.cu_seqlens) {
            let start = *start as usize * self.width;
            row.copy_from_slice(&x[start..start + self.width]);
        }
        Ok(())
    }
}

/// Fills a buffer by a function of its elements: how ids become embeddings.
pub struct Fill<F: Fn(&mut [f32])>(pub F);

impl<F: Fn(&mut [f32])> InplaceOp1 for Fill<F> {
    fn name(&self) -> &'static str {
        "fill"
    }

    fn cpu_fwd(&self, out: &mut CpuStorage, layout: &Layout) -> Op {
        (self.0)(elements_mut(out, layout)?);
        Ok(())
    }
}
