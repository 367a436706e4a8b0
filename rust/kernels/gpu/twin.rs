//! A GPU's twin: the kernels' own text, compiled for the CPU and run thread by thread (cu/twin.cpp). Slow, and exact about
//! what CUDA leaves open: memory begins as no number, ends at fences, and threads run in an order that tests choose.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::GpuError;
use super::driver::{Argument, Driver, Graph, Outcome, Product, Stream};

// SAFETY: as cu/twin.cpp declares them.
unsafe extern "C" {
    fn twin_launch(
        name: *const c_char,
        grid: *const c_uint,
        block: c_uint,
        arguments: *mut *mut c_void,
        order: c_uint,
    ) -> *const c_char;
    fn twin_product(
        precision: *const c_char,
        x: *const c_void,
        weight: *const c_void,
        out: *mut c_void,
        rows: c_int,
        n: c_int,
        k: c_int,
    );
    fn twin_alloc(bytes: usize) -> *mut c_void;
    fn twin_free(memory: *mut c_void, bytes: usize) -> bool;
    fn twin_f16(x: f32) -> u16;
    fn twin_bf16(x: f32) -> u16;
    fn twin_wide(bits: u16) -> f32;
}

/// The twin's threads are one set for the process.
static LAUNCH: Mutex<()> = Mutex::new(());

/// How many twins there are: enough to try several GPUs.
pub const COUNT: usize = 2;

#[derive(Default)]
struct State {
    order: AtomicU32,
    /// Bytes allocated, and how many there may be; 0: any number.
    used: AtomicUsize,
    limit: AtomicUsize,
}

#[derive(Clone, Default)]
pub struct Twin(Arc<State>);

impl Twin {
    /// Threads run in this order from now on: 0 forwards, 1 backwards, else by strides.
    pub fn order(&self, order: u32) {
        self.0.order.store(order, Ordering::Relaxed);
    }

    /// Has so many bytes of memory from now on.
    pub fn limit(&self, bytes: usize) {
        self.0.limit.store(bytes, Ordering::Relaxed);
    }

    /// Bytes allocated now.
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }
}

impl Driver for Twin {
    fn name(&self) -> &str {
        "twin"
    }

    // Larger ones would take minutes.
    fn tried_tokens(&self) -> usize {
        64
    }

    fn alloc(&self, bytes: usize) -> Outcome<u64> {
        let limit = self.0.limit.load(Ordering::Relaxed);
        let used = self.0.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if limit > 0 && used > limit {
            self.0.used.fetch_sub(bytes, Ordering::Relaxed);
            return Err(GpuError::Memory);
        }
        // SAFETY: it asks nothing of its argument.
        Ok(unsafe { twin_alloc(bytes) } as u64)
    }

    // SAFETY: by the trait's contract.
    unsafe fn free(&self, at: u64, bytes: usize) {
        self.0.used.fetch_sub(bytes, Ordering::Relaxed);
        // SAFETY: the caller's: `alloc` gave it for as many bytes.
        let whole = unsafe { twin_free(at as *mut c_void, bytes) };
        assert!(whole || std::thread::panicking(), "a kernel wrote past an end");
    }

    fn stream(&self) -> Outcome<Box<dyn Stream>> {
        Ok(Box::new(TwinStream { twin: self.clone(), captured: RefCell::default() }))
    }
}

/// What a stream was asked for.
#[derive(Clone)]
enum Work {
    Launch { kernel: String, grid: [u32; 2], block: u32, arguments: Vec<Argument> },
    Product(Product),
}

struct TwinStream {
    twin: Twin,
    /// What is kept and not done, while there is a capture.
    captured: RefCell<Option<Vec<Work>>>,
}

struct TwinGraph {
    twin: Twin,
    work: Vec<Work>,
}

impl Graph for TwinGraph {
    // SAFETY: by the trait's contract.
    unsafe fn replay(&self) -> Outcome<()> {
        for work in &self.work {
            // SAFETY: the caller's, for all of it.
            unsafe { self.twin.run(work) }?;
        }
        Ok(())
    }
}

impl TwinStream {
    /// # Safety
    /// As `Stream` asks of this work.
    unsafe fn queue(&self, work: Work) -> Outcome<()> {
        if let Some(captured) = &mut *self.captured.borrow_mut() {
            captured.push(work);
            return Ok(());
        }
        // SAFETY: the caller's.
        unsafe { self.twin.run(&work) }
    }
}

impl Stream for TwinStream {
    // SAFETY: by the trait's contract.
    unsafe fn write(&self, to: u64, from: &[u8]) -> Outcome<()> {
        // SAFETY: the caller's: as many bytes are allocated at `to`, which no slice of ours lies in.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to as *mut u8, from.len()) };
        Ok(())
    }

    // SAFETY: by the trait's contract.
    unsafe fn read(&self, from: u64, to: &mut [u8]) -> Outcome<()> {
        // SAFETY: the caller's: as many bytes are allocated at `from`, which no slice of ours lies in.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    // SAFETY: by the trait's contract.
    unsafe fn launch(&self, kernel: &str, grid: [u32; 2], block: u32, arguments: &[Argument]) -> Outcome<()> {
        // SAFETY: the caller's.
        unsafe {
            self.queue(Work::Launch { kernel: kernel.into(), grid, block, arguments: arguments.to_vec() })
        }
    }

    // SAFETY: by the trait's contract.
    unsafe fn product(&self, product: &Product) -> Outcome<()> {
        // SAFETY: the caller's.
        unsafe { self.queue(Work::Product(*product)) }
    }

    fn capture(&self, work: &mut dyn FnMut() -> Outcome<()>) -> Outcome<Box<dyn Graph>> {
        *self.captured.borrow_mut() = Some(Vec::new());
        let done = work();
        let work = self.captured.borrow_mut().take().unwrap_or_default();
        done?;
        Ok(Box::new(TwinGraph { twin: self.twin.clone(), work }))
    }
}

impl Twin {
    /// # Safety
    /// As `Stream` asks of this work.
    unsafe fn run(&self, work: &Work) -> Outcome<()> {
        match work {
            // SAFETY: the caller's.
            Work::Launch { kernel, grid, block, arguments } => unsafe {
                self.launch(kernel, *grid, *block, arguments)
            },
            // SAFETY: the caller's.
            Work::Product(product) => unsafe { multiply(product) },
        }
    }

    /// # Safety
    /// As `Stream::launch` asks.
    unsafe fn launch(&self, kernel: &str, grid: [u32; 2], block: u32, arguments: &[Argument]) -> Outcome<()> {
        let _one = LAUNCH.lock().unwrap_or_else(PoisonError::into_inner);
        let name = CString::new(kernel).map_err(|e| GpuError::Refused(e.to_string()))?;
        let mut words: Vec<u64> = arguments.iter().map(|argument| argument.word()).collect();
        let mut addresses: Vec<*mut c_void> =
            words.iter_mut().map(|word| std::ptr::from_mut(word).cast()).collect();
        let grid = [grid[0], grid[1], 1];
        let order = self.0.order.load(Ordering::Relaxed);
        // SAFETY: the caller's: these are the kernel's arguments. The lock keeps others out.
        let fault =
            unsafe { twin_launch(name.as_ptr(), grid.as_ptr(), block, addresses.as_mut_ptr(), order) };
        if fault.is_null() {
            return Ok(());
        }
        // SAFETY: a text that is valid until the next launch, which the lock keeps off.
        let fault = unsafe { CStr::from_ptr(fault) };
        Err(GpuError::Refused(format!("{kernel}: {}", fault.to_string_lossy())))
    }
}

/// # Safety
/// As `Stream::product` asks.
unsafe fn multiply(product: &Product) -> Outcome<()> {
    let &Product { precision, x, weight, out, rows, inputs, outputs } = product;
    let precision = CString::new(precision.name()).map_err(|e| GpuError::Refused(e.to_string()))?;
    let (rows, outputs, inputs) = (rows as c_int, outputs as c_int, inputs as c_int);
    let (x, weight, out) = (x as *const c_void, weight as *const c_void, out as *mut c_void);
    // SAFETY: the caller's: the memory is allocated and of the shape.
    unsafe { twin_product(precision.as_ptr(), x, weight, out, rows, outputs, inputs) };
    Ok(())
}

/// As the kernels round: to f16 and to bf16; and f16 back.
pub fn rounded(x: f32) -> (u16, u16, f32) {
    // SAFETY: they ask nothing of their arguments.
    unsafe {
        let half = twin_f16(x);
        (half, twin_bf16(x), twin_wide(half))
    }
}
