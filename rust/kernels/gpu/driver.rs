//! What is asked of a GPU's driver: memory, copies, launches, products. CUDA's is in `cuda.rs`; a GPU's twin, which runs
//! the same kernels on the CPU for tests, in `twin.rs`.

use super::{GpuError, Precision};

pub type Outcome<T> = Result<T, GpuError>;

/// One argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub enum Argument {
    Address(u64),
    Int(i32),
    Float(f32),
}

impl Argument {
    /// Its value in the first bytes of a word, which is where a kernel reads it.
    pub fn word(self) -> u64 {
        let small =
            |bytes: [u8; 4]| u64::from_ne_bytes([bytes, [0; 4]].concat().try_into().unwrap_or_default());
        match self {
            Argument::Address(at) => at,
            Argument::Int(value) => small(value.to_ne_bytes()),
            Argument::Float(value) => small(value.to_ne_bytes()),
        }
    }
}

/// out `[rows, outputs]` = x `[rows, inputs]` weight `[outputs, inputs]`^T, all of one precision, summed in f32. Addresses.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    pub precision: Precision,
    pub x: u64,
    pub weight: u64,
    pub out: u64,
    pub rows: usize,
    pub inputs: usize,
    pub outputs: usize,
}

/// One GPU.
pub trait Driver: Send + Sync {
    /// As `NVIDIA H200`.
    fn name(&self) -> &str;

    /// Waves of up to so many tokens are tried when a model is loaded: what is set up for each size by its first products, and what
    /// is captured then, keeps no request waiting.
    fn tried_tokens(&self) -> usize;

    fn alloc(&self, bytes: usize) -> Outcome<u64>;

    /// # Safety
    /// `at` came from `alloc` of as many bytes, and no work that was queued still uses it.
    unsafe fn free(&self, at: u64, bytes: usize);

    /// A queue of work; what is in two of them may go on side by side.
    fn stream(&self) -> Outcome<Box<dyn Stream>>;
}

/// What is queued here is done in order. Whatever fails may be told by a later call.
pub trait Stream: Send {
    /// # Safety
    /// As many bytes are allocated at `to`. `from` may change when the call has returned.
    unsafe fn write(&self, to: u64, from: &[u8]) -> Outcome<()>;

    /// Waits for all that is queued.
    ///
    /// # Safety
    /// As many bytes are allocated at `from`.
    unsafe fn read(&self, from: u64, to: &mut [u8]) -> Outcome<()>;

    /// # Safety
    /// The arguments are those of the kernel, their memory is allocated, and is as large as the kernel's text says.
    unsafe fn launch(&self, kernel: &str, grid: [u32; 2], block: u32, arguments: &[Argument]) -> Outcome<()>;

    /// # Safety
    /// The memory at the three addresses is allocated and of the product's shape.
    unsafe fn product(&self, product: &Product) -> Outcome<()>;

    /// Keeps the launches and products that `work` queues here, none of which is done.
    fn capture(&self, work: &mut dyn FnMut() -> Outcome<()>) -> Outcome<Box<dyn Graph>>;
}

/// What a stream has captured, to be queued there again, whole and in one call.
pub trait Graph: Send {
    /// # Safety
    /// All memory that the work uses is allocated still.
    unsafe fn replay(&self) -> Outcome<()>;
}
