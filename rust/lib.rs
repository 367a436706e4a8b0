//! rerankd's core: everything between a request's text and its scores.
//!
//! A cross-encoder reads a query and a context together and gives one logit. This crate tokenizes the pairs,
//! packs them without padding, schedules them in waves and runs them through the model. Python owns the network;
//! `py.rs` (feature `python`) is the only place that knows of it.

pub mod admission;
pub mod batch;
pub mod completions;
pub mod device;
pub mod engine;
pub mod error;
pub mod histogram;
pub mod kernels;
pub mod model;
pub mod pool;
#[cfg(feature = "python")]
mod py;
pub mod request;
pub mod scheduler;
pub mod tokenize;
pub mod weights;
mod workers;

pub use error::{Error, Result};
