//! The one error of the crate. `py.rs` maps each kind to its Python exception, once.

use std::path::Path;
use std::time::Duration;

/// What can go wrong, by who can mend it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The caller's: a field of the request is bad. `field` is its path, as in `contexts[3].text`.
    #[error("{field}: {message}")]
    Input { field: String, message: String },
    /// The checkpoint's: it can't be served. The message names the file, the key and what is supported.
    #[error("{0}")]
    Model(String),
    /// The machine's: no such device, or it can't run what was asked.
    #[error("{0}")]
    Device(String),
    /// The queue is full, or the engine is draining; the same call may go through later or elsewhere.
    #[error("{0}")]
    Overloaded(Overload),
    /// The GPU answers nothing any more, and won't until the process is started anew.
    #[error("{0}")]
    Lost(String),
    /// The GPU has no memory for a wave. Who computes cuts it in two; only of a single pair does it go any further.
    #[error("{0}")]
    Memory(String),
    /// The deadline passed before the work was done.
    #[error("{0}")]
    Deadline(String),
    /// Ours. The message is for the log, never for a caller.
    #[error("{0}")]
    Internal(String),
}

/// Why a request is refused, and when to try again, where that is known.
#[derive(Debug, Clone)]
pub struct Overload {
    pub message: String,
    pub retry_after: Option<Duration>,
}

impl std::fmt::Display for Overload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<&str> for Overload {
    fn from(message: &str) -> Self {
        Self { message: message.into(), retry_after: None }
    }
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn input(field: impl Into<String>, message: impl Into<String>) -> Self {
        Error::Input { field: field.into(), message: message.into() }
    }

    /// A checkpoint's file that can't be served: `<file>: <what is wrong and what is supported>`.
    pub fn model(file: &Path, what: impl std::fmt::Display) -> Self {
        Error::Model(format!("{}: {what}", file.display()))
    }
}

/// candle's errors reach us only from a shape or device fault of our own making.
impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Error::Internal(error.to_string())
    }
}
