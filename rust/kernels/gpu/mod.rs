//! The GPU's kernels: buffers of its memory in, buffers out, queued on a stream. The kernels' texts are in cu/; what they
//! are launched through is a [`Driver`].
//!
//! Shapes are written [rows, columns], row-major. A buffer too short for its shape panics: that is a caller's bug.

#[cfg(feature = "cuda")]
mod cuda;
mod driver;
mod memory;
mod queue;
#[cfg(all(test, feature = "cuda-twin"))]
mod tests;
#[cfg(feature = "cuda-twin")]
pub mod twin;
mod wave;

use std::sync::Arc;

pub use driver::{Argument, Driver, Graph, Outcome, Product, Stream};
pub use memory::{Buffer, Slice};
pub use queue::{LayerNorm, Queue, Tables};
pub use wave::{Wave, pack};

/// What hidden rows and weights are kept in; sums are f32 in all of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Precision {
    F32,
    F16,
    Bf16,
}

impl Precision {
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::F16 => "f16",
            Precision::Bf16 => "bf16",
        }
    }

    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Precision::F32 => 4,
            Precision::F16 | Precision::Bf16 => 2,
        }
    }
}

/// What a GPU answers that can't do what it was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GpuError {
    /// It has not as much memory left. Nothing else is wrong.
    Memory,
    /// It will answer nothing any more.
    Lost(String),
    /// It refuses this; a fault of ours, or of what is installed.
    Refused(String),
}

/// The widest head that the kernels have room for; cu/attention.cuh.
pub const WIDEST_HEAD: usize = 128;

/// All widths are multiples of this; cu/lang.cuh.
pub const GRAIN: usize = 4;

/// One GPU, with the kernels loaded.
#[derive(Clone)]
pub struct Gpu {
    driver: Arc<dyn Driver>,
}

/// How many GPUs of this kind of device ("cuda", or "cuda-twin" in tests) there are, or why none.
pub fn count(kind: &str) -> Result<usize, String> {
    match kind {
        #[cfg(feature = "cuda")]
        "cuda" => cuda::count(),
        #[cfg(feature = "cuda-twin")]
        "cuda-twin" => Ok(twin::COUNT),
        _ => Err("this build computes on the CPU only".into()),
    }
}

/// Whether this build has any.
pub const fn built() -> bool {
    cfg!(feature = "cuda")
}

impl Gpu {
    /// The GPU of this number, of those that `count` found.
    pub fn open(kind: &str, ordinal: usize) -> Outcome<Self> {
        match kind {
            #[cfg(feature = "cuda")]
            "cuda" => Ok(Self::of(Arc::new(cuda::Cuda::open(ordinal, &queue::kernel_names())?))),
            #[cfg(feature = "cuda-twin")]
            "cuda-twin" => Ok(Self::of(Arc::new(twin::Twin::default()))),
            _ => Err(GpuError::Refused(format!("this build has no {kind}:{ordinal}"))),
        }
    }

    pub fn of(driver: Arc<dyn Driver>) -> Self {
        Self { driver }
    }

    pub fn name(&self) -> &str {
        self.driver.name()
    }

    /// The waves that are worth trying when a model is loaded.
    pub fn tried(&self) -> Vec<Wave> {
        Wave::usual(self.driver.tried_tokens())
    }

    /// Memory for so many bytes, with whatever is in it.
    pub fn buffer(&self, bytes: usize) -> Outcome<Buffer> {
        Buffer::new(self.driver.clone(), bytes)
    }

    pub fn queue(&self) -> Outcome<Queue> {
        Ok(Queue::new(self.driver.stream()?))
    }
}
