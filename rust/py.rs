//! The Python boundary, the only PyO3 of the crate: copy strings in, call pure Rust, map `Error` to the exceptions of
//! `rerankd.errors`. The signatures are documented in `python/rerankd/_core.pyi`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};

use crate::completions::Completions as Queue;
use crate::device;
use crate::engine::{self, Options};
use crate::error::Error;
use crate::histogram::Histogram;
use crate::pool;
use crate::request::{Completion as Finished, Job};
use crate::scheduler::{Limits, Priority};
use crate::tokenize::Overflow;

#[pymodule]
mod _core {
    #[pymodule_export]
    use super::{Completion, Completions, Engine, Pool, cores, pack};

    #[pymodule_export]
    #[allow(non_upper_case_globals)]
    const __version__: &str = env!("CARGO_PKG_VERSION");

    #[pymodule_export]
    #[allow(non_upper_case_globals)]
    const cuda: bool = crate::device::CUDA;
}

fn exception(py: Python<'_>, error: &Error) -> PyResult<Py<PyAny>> {
    let errors = py.import("rerankd.errors")?;
    let made = match error {
        Error::Input { field, message } => errors.getattr("InputError")?.call1((field, message))?,
        Error::Model(message) => errors.getattr("ModelError")?.call1((message,))?,
        Error::Device(message) => errors.getattr("DeviceError")?.call1((message,))?,
        Error::Overloaded(overload) => {
            let made = errors.getattr("OverloadedError")?;
            match overload.retry_after {
                Some(after) => made.call1((&overload.message, after.as_millis() as u64))?,
                None => made.call1((&overload.message,))?,
            }
        }
        Error::Lost(message) => errors.getattr("LostError")?.call1((message,))?,
        Error::Memory(message) => errors.getattr("DeviceError")?.call1((message,))?,
        Error::Deadline(message) => errors.getattr("DeadlineError")?.call1((message,))?,
        Error::Internal(message) => errors.getattr("InternalError")?.call1((message,))?,
    };
    Ok(made.unbind())
}

fn raise(py: Python<'_>, error: Error) -> PyErr {
    match exception(py, &error) {
        Ok(value) => PyErr::from_value(value.into_bound(py)),
        Err(error) => error,
    }
}

#[pyfunction]
#[pyo3(signature = (directory, out, *, dtype, kernels, emulate))]
fn pack(
    py: Python<'_>,
    directory: PathBuf,
    out: PathBuf,
    dtype: String,
    kernels: String,
    emulate: bool,
) -> PyResult<(&'static str, &'static str)> {
    let packed = || engine::pack(&directory, &out, &dtype, &kernels, emulate);
    let device = py.detach(packed).map_err(|e| raise(py, e))?;
    Ok((device.dtype, device.instructions()))
}

#[pyfunction]
fn cores(py: Python<'_>) -> PyResult<usize> {
    device::threads(None).map_err(|e| raise(py, e))
}

#[pyclass(frozen, module = "rerankd._core")]
struct Pool {
    inner: Arc<pool::Pool>,
}

#[pymethods]
impl Pool {
    #[new]
    #[pyo3(signature = (*, threads, wave_tokens, queue_tokens))]
    fn new(
        py: Python<'_>,
        threads: Option<usize>,
        wave_tokens: usize,
        queue_tokens: usize,
    ) -> PyResult<Self> {
        let start =
            || pool::Pool::new(Limits { threads: device::threads(threads)?, wave_tokens, queue_tokens });
        let inner = py.detach(start).map_err(|e| raise(py, e))?;
        Ok(Self { inner: Arc::new(inner) })
    }

    #[getter]
    fn threads(&self) -> usize {
        self.inner.limits().threads
    }

    #[getter]
    fn queue_bytes(&self) -> usize {
        self.inner.queue_bytes()
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = py.detach(|| self.inner.stats());
        let dict = PyDict::new(py);
        for (name, value) in [
            ("queue_tokens", stats.queue_tokens),
            ("held_tokens", stats.held_tokens),
            ("tickets", stats.tickets),
            ("threads", stats.threads),
            ("lost", u64::from(stats.lost)),
            ("oldest_step_ms", stats.oldest_step.as_millis() as u64),
        ] {
            dict.set_item(name, value)?;
        }
        Ok(dict)
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.inner.close());
    }
}

#[pyclass(frozen, module = "rerankd._core")]
struct Engine {
    inner: engine::Engine,
}

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (directory, pool, *, device, dtype, kernels, emulate, max_tokens, gpu_wave_tokens))]
    #[allow(clippy::too_many_arguments)] // keyword-only, as Python has them
    fn new(
        py: Python<'_>,
        directory: PathBuf,
        pool: &Pool,
        device: String,
        dtype: String,
        kernels: String,
        emulate: bool,
        max_tokens: Option<usize>,
        gpu_wave_tokens: usize,
    ) -> PyResult<Self> {
        let options = Options { directory, device, dtype, kernels, emulate, max_tokens, gpu_wave_tokens };
        let pool = pool.inner.clone();
        let inner = py.detach(|| engine::Engine::load(pool, &options)).map_err(|e| raise(py, e))?;
        Ok(Self { inner })
    }

    #[getter]
    fn architecture(&self) -> &str {
        self.inner.architecture()
    }

    #[getter]
    fn device(&self) -> &str {
        &self.inner.device().name
    }

    #[getter]
    fn note(&self) -> Option<&str> {
        self.inner.device().note.as_deref()
    }

    #[getter]
    fn dtype(&self) -> &str {
        self.inner.device().dtype
    }

    #[getter]
    fn kernels(&self) -> &str {
        self.inner.device().instructions()
    }

    #[getter]
    fn threads(&self) -> usize {
        self.inner.device().threads
    }

    #[getter]
    fn max_tokens(&self) -> usize {
        self.inner.max_tokens()
    }

    #[getter]
    fn revision(&self) -> &str {
        self.inner.revision()
    }

    #[getter]
    fn window(&self) -> usize {
        self.inner.window()
    }

    #[getter]
    fn arena_bytes(&self) -> usize {
        self.inner.arena_bytes()
    }

    #[pyo3(signature = (completions, query, contexts, *, max_tokens=None, overflow="truncate",
                        priority="interactive", timeout_ms=None, budget_ms=None, progressive=false, more=false,
                        key_bytes=0, keeps_texts=true))]
    #[allow(clippy::too_many_arguments)] // keyword-only, as Python has them
    fn submit(
        &self,
        py: Python<'_>,
        completions: &Completions,
        query: String,
        contexts: Vec<String>,
        max_tokens: Option<usize>,
        overflow: &str,
        priority: &str,
        timeout_ms: Option<u64>,
        budget_ms: Option<u64>,
        progressive: bool,
        more: bool,
        key_bytes: usize,
        keeps_texts: bool,
    ) -> PyResult<u64> {
        let overflow = parse_overflow(overflow).map_err(|e| raise(py, e))?;
        let priority = parse_priority(priority).map_err(|e| raise(py, e))?;
        let queue = completions.inner.clone();
        py.detach(|| {
            let now = Instant::now();
            let after = |ms: Option<u64>| ms.and_then(|ms| now.checked_add(Duration::from_millis(ms)));
            let job = Job {
                query,
                contexts,
                max_tokens,
                overflow,
                priority,
                deadline: after(timeout_ms),
                budget: after(budget_ms),
                progressive,
                more,
                key_bytes,
                keeps_texts,
            };
            self.inner.submit(job, queue)
        })
        .map_err(|e| raise(py, e))
    }

    #[pyo3(signature = (ticket, contexts, *, more, key_bytes=0))]
    fn extend(
        &self,
        py: Python<'_>,
        ticket: u64,
        contexts: Vec<String>,
        more: bool,
        key_bytes: usize,
    ) -> PyResult<()> {
        py.detach(|| self.inner.extend(ticket, contexts, key_bytes, more)).map_err(|e| raise(py, e))
    }

    fn waiting(&self, py: Python<'_>, ticket: u64) -> usize {
        py.detach(|| self.inner.waiting(ticket))
    }

    fn cancel(&self, py: Python<'_>, ticket: u64) {
        py.detach(|| self.inner.cancel(ticket));
    }

    fn drain(&self) {
        self.inner.drain();
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.inner.close());
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = py.detach(|| self.inner.stats());
        let counters = &stats.counters;
        let dict = PyDict::new(py);
        for (name, value) in [
            ("queue_tokens", stats.queue_tokens),
            ("tickets", stats.tickets),
            ("waves", counters.waves),
            ("pairs", counters.pairs),
            ("tokens", counters.tokens),
            ("cancelled", counters.cancelled),
            ("expired", counters.expired),
            ("refused", counters.refused),
            ("failed", counters.failed),
        ] {
            dict.set_item(name, value)?;
        }
        Ok(dict)
    }

    fn histograms<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let counters = py.detach(|| self.inner.stats()).counters;
        let dict = PyDict::new(py);
        for (name, histogram) in [("wave_tokens", counters.wave_tokens), ("queue_us", counters.queue_us)] {
            let Histogram { bounds, counts, sum } = histogram;
            dict.set_item(name, (bounds.to_vec(), counts, sum))?;
        }
        Ok(dict)
    }
}

fn parse_overflow(name: &str) -> Result<Overflow, Error> {
    match name {
        "truncate" => Ok(Overflow::Truncate),
        "truncate_context" => Ok(Overflow::TruncateContext),
        "chunk" => Ok(Overflow::Chunk),
        "reject" => Ok(Overflow::Reject),
        other => Err(Error::input(
            "overflow",
            format!("{other:?} is not one of truncate, truncate_context, chunk, reject"),
        )),
    }
}

fn parse_priority(name: &str) -> Result<Priority, Error> {
    match name {
        "interactive" => Ok(Priority::Interactive),
        "batch" => Ok(Priority::Batch),
        other => Err(Error::input("priority", format!("{other:?} is not one of interactive, batch"))),
    }
}

#[pyclass(frozen, module = "rerankd._core")]
struct Completions {
    inner: Arc<Queue<Finished>>,
}

/// How often a blocked `wait` looks for signals: Ctrl-C must end it.
const SIGNAL_CHECK: Duration = Duration::from_millis(100);

#[pymethods]
impl Completions {
    #[new]
    fn new(py: Python<'_>) -> PyResult<Self> {
        Ok(Self { inner: Arc::new(Queue::new().map_err(|e| raise(py, e))?) })
    }

    fn fileno(&self) -> i32 {
        self.inner.descriptor()
    }

    fn drain(&self, py: Python<'_>) -> PyResult<Vec<Completion>> {
        self.inner.drain().into_iter().map(|finished| Completion::new(py, finished)).collect()
    }

    #[pyo3(signature = (timeout_ms=None))]
    fn wait(&self, py: Python<'_>, timeout_ms: Option<u64>) -> PyResult<Vec<Completion>> {
        let end = timeout_ms.and_then(|ms| Instant::now().checked_add(Duration::from_millis(ms)));
        loop {
            let left = end.map_or(SIGNAL_CHECK, |end| end.saturating_duration_since(Instant::now()));
            let finished = py.detach(|| self.inner.wait(left.min(SIGNAL_CHECK)));
            if !finished.is_empty() || end.is_some_and(|end| Instant::now() >= end) {
                return finished.into_iter().map(|finished| Completion::new(py, finished)).collect();
            }
            py.check_signals()?;
        }
    }
}

#[pyclass(frozen, module = "rerankd._core")]
struct Completion {
    inner: Finished,
    error: Option<Py<PyAny>>,
}

impl Completion {
    fn new(py: Python<'_>, inner: Finished) -> PyResult<Self> {
        let error = inner.error.as_ref().map(|error| exception(py, error)).transpose()?;
        Ok(Self { inner, error })
    }
}

#[pymethods]
impl Completion {
    #[getter]
    fn ticket(&self) -> u64 {
        self.inner.ticket
    }

    #[getter]
    fn last(&self) -> bool {
        self.inner.last
    }

    #[getter]
    fn error(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.error.as_ref().map(|error| error.clone_ref(py))
    }

    #[getter]
    fn ids(&self) -> Vec<u32> {
        self.inner.ids.clone()
    }

    #[getter]
    fn logits<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let bytes: Vec<u8> = self.inner.logits.iter().flat_map(|logit| logit.to_ne_bytes()).collect();
        PyBytes::new(py, &bytes)
    }

    #[getter]
    fn truncated(&self) -> Vec<bool> {
        self.inner.truncated.clone()
    }

    #[getter]
    fn tokens(&self) -> u64 {
        self.inner.tokens
    }

    #[getter]
    fn unscored(&self) -> Vec<u32> {
        self.inner.unscored.clone()
    }

    #[getter]
    fn timing<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let timing = self.inner.timing;
        PyTuple::new(py, [timing.queue, timing.tokenize, timing.compute].map(|t| t.as_micros() as u64))
    }
}
