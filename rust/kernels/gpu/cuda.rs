//! CUDA's driver and cuBLAS, both loaded when they are first asked for: the extension is linked to neither.

use std::collections::HashMap;
use std::ffi::{CString, c_int, c_void};
use std::sync::Arc;

use cudarc::cublas::{result as blas, sys as blas_sys};
use cudarc::driver::{result, sys};

use super::driver::{Argument, Driver, Graph, Outcome, Product, Stream};
use super::{GpuError, Precision};

/// The kernels, as build.rs has compiled them.
const PTX: &str = include_str!(concat!(env!("OUT_DIR"), "/kernels.ptx"));

/// What cuBLAS asks for on Hopper. Its own it would take and give back in the middle of what is captured.
const WORKSPACE: usize = 32 << 20;

/// How many GPUs there are, or why none.
pub fn count() -> Result<usize, String> {
    // SAFETY: the libraries of NVIDIA's own names, whose initialization is what every CUDA program runs.
    let (driver, cublas) = unsafe { (sys::is_culib_present(), cudarc::cublas::sys::is_culib_present()) };
    if !driver {
        return Err("there is no NVIDIA driver here (libcuda.so.1)".into());
    }
    result::init().map_err(|e| format!("the NVIDIA driver can't be used: {}", told(e)))?;
    match result::device::get_count() {
        Err(e) => Err(format!("the NVIDIA driver can't be used: {}", told(e))),
        Ok(0) => Err("the NVIDIA driver sees no GPU".into()),
        Ok(_) if !cublas => {
            Err("there is no cuBLAS here (libcublas.so.13 or .12): pip install 'rerankd[cuda]'".into())
        }
        Ok(count) => Ok(count as usize),
    }
}

fn told(error: result::DriverError) -> String {
    let name = error.error_name().map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|_| format!("{:?}", error.0))
}

impl From<result::DriverError> for GpuError {
    fn from(error: result::DriverError) -> Self {
        use sys::CUresult as Code;
        match error.0 {
            Code::CUDA_ERROR_OUT_OF_MEMORY => GpuError::Memory,
            // What each of them leaves is a context that answers nothing any more.
            Code::CUDA_ERROR_DEVICE_UNAVAILABLE
            | Code::CUDA_ERROR_ECC_UNCORRECTABLE
            | Code::CUDA_ERROR_NVLINK_UNCORRECTABLE
            | Code::CUDA_ERROR_ILLEGAL_ADDRESS
            | Code::CUDA_ERROR_LAUNCH_TIMEOUT
            | Code::CUDA_ERROR_ASSERT
            | Code::CUDA_ERROR_HARDWARE_STACK_ERROR
            | Code::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | Code::CUDA_ERROR_MISALIGNED_ADDRESS
            | Code::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | Code::CUDA_ERROR_INVALID_PC
            | Code::CUDA_ERROR_LAUNCH_FAILED
            | Code::CUDA_ERROR_EXTERNAL_DEVICE
            | Code::CUDA_ERROR_CONTEXT_IS_DESTROYED
            | Code::CUDA_ERROR_SYSTEM_NOT_READY
            | Code::CUDA_ERROR_DEINITIALIZED
            | Code::CUDA_ERROR_UNKNOWN => GpuError::Lost(told(error)),
            _ => GpuError::Refused(told(error)),
        }
    }
}

impl From<blas::CublasError> for GpuError {
    fn from(error: blas::CublasError) -> Self {
        match error.0 {
            blas_sys::cublasStatus_t::CUBLAS_STATUS_ALLOC_FAILED => GpuError::Memory,
            blas_sys::cublasStatus_t::CUBLAS_STATUS_EXECUTION_FAILED
            | blas_sys::cublasStatus_t::CUBLAS_STATUS_MAPPING_ERROR => GpuError::Lost(error.to_string()),
            _ => GpuError::Refused(error.to_string()),
        }
    }
}

/// One GPU's primary context, with the kernels in it.
pub struct Cuda(Arc<Context>);

struct Context {
    name: String,
    device: sys::CUdevice,
    context: sys::CUcontext,
    functions: HashMap<String, sys::CUfunction>,
}

// SAFETY: handles of the driver, which may be used from any thread that has made the context its own (`enter`).
unsafe impl Send for Context {}
// SAFETY: as above; the driver locks what it shares.
unsafe impl Sync for Context {}

impl Cuda {
    /// The GPU of this number, which `count` has found. `kernels`: all names that will be launched.
    pub fn open(ordinal: usize, kernels: &[String]) -> Outcome<Self> {
        let device = result::device::get(ordinal as c_int)?;
        let name = result::device::get_name(device)?;
        let attribute = |which| {
            // SAFETY: the device is one that the driver gave.
            unsafe { result::device::get_attribute(device, which) }
        };
        use sys::CUdevice_attribute as Attribute;
        let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        if major < 8 {
            let why = format!("{name} is of compute capability {major}.x; 8.0 (Ampere) or later is needed");
            return Err(GpuError::Refused(why));
        }
        // SAFETY: the device is one that the driver gave; what is retained is released by `Context`.
        let context = unsafe { result::primary_ctx::retain(device) }?;
        let mut opened = Context { name, device, context, functions: HashMap::new() };
        opened.enter()?;
        let ptx = CString::new(PTX).map_err(|_| GpuError::Refused("the kernels' text has a zero".into()))?;
        // SAFETY: a text that ends in a zero, as the driver asks. The module stays for as long as its context.
        let module = unsafe { result::module::load_data(ptx.as_ptr().cast()) }?;
        for kernel in kernels {
            let name = CString::new(kernel.as_str()).map_err(|e| GpuError::Refused(e.to_string()))?;
            // SAFETY: the module is loaded, and is not unloaded before the context goes.
            let function = unsafe { result::module::get_function(module, name) }?;
            opened.functions.insert(kernel.clone(), function);
        }
        Ok(Self(Arc::new(opened)))
    }
}

impl Context {
    /// Makes it the calling thread's context, as each call of the driver needs.
    fn enter(&self) -> Outcome<()> {
        // SAFETY: the context is retained for as long as this lives.
        Ok(unsafe { result::ctx::set_current(self.context) }?)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once, by `open`, and released once. One that is lost refuses, which changes nothing.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

impl Driver for Cuda {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn tried_tokens(&self) -> usize {
        usize::MAX
    }

    fn alloc(&self, bytes: usize) -> Outcome<u64> {
        self.0.enter()?;
        // SAFETY: the context is current. An allocation of nothing is an error to the driver.
        Ok(unsafe { result::malloc_sync(bytes.max(1)) }?)
    }

    // SAFETY: by the trait's contract, which this function asks of its callers.
    unsafe fn free(&self, at: u64, _bytes: usize) {
        if self.0.enter().is_ok() {
            // SAFETY: allocated by `alloc`, and not freed before. One that is lost refuses, and has no memory to free.
            let _ = unsafe { result::free_sync(at) };
        }
    }

    fn stream(&self) -> Outcome<Box<dyn Stream>> {
        self.0.enter()?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking)?;
        let mut made =
            CudaStream { context: self.0.clone(), stream, blas: std::ptr::null_mut(), workspace: 0 };
        made.blas = blas::create_handle()?;
        made.workspace = self.alloc(WORKSPACE)?;
        let workspace = made.workspace as *mut c_void;
        // SAFETY: all were made above, in this context, and live as long as the handle. A stream that is set takes the
        // handle's workspace away, so that this is given after it.
        unsafe {
            blas::set_stream(made.blas, made.stream.cast())?;
            blas_sys::cublasSetWorkspace_v2(made.blas, workspace, WORKSPACE).result()?;
        }
        Ok(Box::new(made))
    }
}

struct CudaStream {
    context: Arc<Context>,
    stream: sys::CUstream,
    blas: blas_sys::cublasHandle_t,
    workspace: u64,
}

// SAFETY: handles that one thread uses at a time, whichever; each call makes the context that thread's own.
unsafe impl Send for CudaStream {}

impl Drop for CudaStream {
    fn drop(&mut self) {
        if self.context.enter().is_err() {
            return;
        }
        // SAFETY: all were made by `Driver::stream` and are destroyed once. Whoever drops a queue may free what its work
        // uses: that is waited for. Refusals are a lost GPU's, and change nothing.
        unsafe {
            let _ = result::stream::synchronize(self.stream);
            if !self.blas.is_null() {
                let _ = blas::destroy_handle(self.blas);
            }
            if self.workspace != 0 {
                let _ = result::free_sync(self.workspace);
            }
            let _ = result::stream::destroy(self.stream);
        }
    }
}

struct CudaGraph {
    context: Arc<Context>,
    stream: sys::CUstream,
    graph: sys::CUgraphExec,
}

// SAFETY: handles that one thread uses at a time, whichever; each call makes the context that thread's own.
unsafe impl Send for CudaGraph {}

impl Drop for CudaGraph {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: instantiated by `capture` and destroyed once. A lost GPU's refusal changes nothing.
            let _ = unsafe { result::graph::exec_destroy(self.graph) };
        }
    }
}

impl Graph for CudaGraph {
    // SAFETY: by the trait's contract.
    unsafe fn replay(&self) -> Outcome<()> {
        self.context.enter()?;
        // SAFETY: whoever has a graph has its stream; the memory is the caller's.
        Ok(unsafe { result::graph::launch(self.graph, self.stream) }?)
    }
}

impl Stream for CudaStream {
    // SAFETY: by the trait's contract. Memory that isn't pinned is copied aside by the driver before it returns.
    unsafe fn write(&self, to: u64, from: &[u8]) -> Outcome<()> {
        self.context.enter()?;
        // SAFETY: the caller's: as many bytes are allocated at `to`.
        Ok(unsafe { result::memcpy_htod_async(to, from, self.stream) }?)
    }

    // SAFETY: by the trait's contract.
    unsafe fn read(&self, from: u64, to: &mut [u8]) -> Outcome<()> {
        self.context.enter()?;
        // SAFETY: the caller's: as many bytes are allocated at `from`; and `to` is waited for below, while it is borrowed.
        unsafe { result::memcpy_dtoh_async(to, from, self.stream) }?;
        // SAFETY: the stream lives.
        Ok(unsafe { result::stream::synchronize(self.stream) }?)
    }

    // SAFETY: by the trait's contract.
    unsafe fn launch(&self, kernel: &str, grid: [u32; 2], block: u32, arguments: &[Argument]) -> Outcome<()> {
        let Some(function) = self.context.functions.get(kernel) else {
            return Err(GpuError::Refused(format!("there is no kernel {kernel}")));
        };
        self.context.enter()?;
        let mut words: Vec<u64> = arguments.iter().map(|argument| argument.word()).collect();
        let mut addresses: Vec<*mut c_void> =
            words.iter_mut().map(|word| std::ptr::from_mut(word).cast()).collect();
        let grid = (grid[0], grid[1], 1);
        // SAFETY: the caller's: these are the kernel's arguments. The driver copies them before it returns.
        Ok(unsafe { result::launch_kernel(*function, grid, (block, 1, 1), 0, self.stream, &mut addresses) }?)
    }

    // SAFETY: by the trait's contract.
    unsafe fn product(&self, product: &Product) -> Outcome<()> {
        let &Product { precision, x, weight, out, rows, inputs, outputs } = product;
        self.context.enter()?;
        let kind = match precision {
            Precision::F32 => blas_sys::cudaDataType::CUDA_R_32F,
            Precision::F16 => blas_sys::cudaDataType::CUDA_R_16F,
            Precision::Bf16 => blas_sys::cudaDataType::CUDA_R_16BF,
        };
        let (one, zero) = (1.0f32, 0.0f32);
        use blas_sys::cublasOperation_t::{CUBLAS_OP_N, CUBLAS_OP_T};
        // cuBLAS counts columns first: to it our rows are columns, and what it is asked for is out^T = weight x^T.
        // SAFETY: the caller's: the memory is allocated and of the shape. The scalars are read before the call returns.
        Ok(unsafe {
            blas::gemm_ex(
                self.blas,
                CUBLAS_OP_T,
                CUBLAS_OP_N,
                outputs as c_int,
                rows as c_int,
                inputs as c_int,
                std::ptr::from_ref(&one).cast(),
                weight as *const c_void,
                kind,
                inputs as c_int,
                x as *const c_void,
                kind,
                inputs as c_int,
                std::ptr::from_ref(&zero).cast(),
                out as *mut c_void,
                kind,
                outputs as c_int,
                blas_sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                blas_sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }?)
    }

    fn capture(&self, work: &mut dyn FnMut() -> Outcome<()>) -> Outcome<Box<dyn Graph>> {
        self.context.enter()?;
        // In any stricter mode a thread's first product now and then fails: what cuBLAS sets up then is not allowed.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream lives.
        unsafe { result::stream::begin_capture(self.stream, mode) }?;
        let done = work();
        // SAFETY: as above. Ended whatever came of the work: a stream that captures does nothing.
        let captured = unsafe { result::stream::end_capture(self.stream) };
        done?;
        let captured = captured?;
        if captured.is_null() {
            return Err(GpuError::Refused("nothing was captured".into()));
        }
        // SAFETY: captured just now; what is instantiated from it needs it no longer.
        let graph = unsafe {
            let graph = result::graph::instantiate(captured, sys::CUgraphInstantiate_flags(0));
            let _ = result::graph::destroy(captured);
            graph
        }?;
        Ok(Box::new(CudaGraph { context: self.context.clone(), stream: self.stream, graph }))
    }
}
