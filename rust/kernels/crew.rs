//! Threads that help one another: one leads, and whoever has nothing else to do takes parts of its work.
//!
//! The leader posts a task in parts that don't depend on one another. Everyone claims parts by one counter, the leader too,
//! and the leader goes on when all are done. Nobody is waited for who has not claimed a part, so assistants come and go as
//! they like; where no thread is free the task is one call. Which thread runs a part, and how many parts there are, changes
//! no bit of the result: that is the kernels' promise for columns and heads.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Parts for each thread that may take some: with more, less is waited for at a task's end, where one thread may have been
/// slower. Cutting is free: bge-base's products on 128 rows take the same time on one thread in 1, 4, 8, 16 or 32 parts.
const PARTS: usize = 8;

/// How long an assistant looks for a part before it gives up: longer than a part of the largest product takes, which it may
/// have to wait for at a task's end, and than what a forward pass does between its split tasks. (The norms are between
/// them: splitting those too would gain a few thousandths in f32.)
const PATIENCE: Duration = Duration::from_millis(1);

/// Looks, a few tens of microseconds of them, before a thread that waits lets others have its core: the one that it waits
/// for may need it.
const SPINS: usize = 1000;

/// A leader's post: where its assistants find what there is to do.
pub struct Crew {
    /// How many parts the task has, and below that how many are claimed: (parts << 32 | claimed). One number, so that a claim
    /// is one exchange: where it succeeds, the part is of the task that is posted at that very moment, however often tasks
    /// have changed since the number was read.
    claims: Line<AtomicU64>,
    /// Parts that are not done.
    unfinished: Line<AtomicUsize>,
    /// Written by the leader while no part is unfinished; read by whoever has claimed a part and not finished it.
    task: UnsafeCell<Option<Task>>,
    /// The first panic in a part of this task.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    assistants: AtomicUsize,
    /// Threads, here or elsewhere, that would assist.
    free: Arc<AtomicUsize>,
    led: AtomicBool,
}

/// On a cache line of its own (two: neighbours are fetched together), for what many threads write.
#[derive(Default)]
#[repr(align(128))]
struct Line<T>(T);

/// The closure that runs a part, on the leader's stack; valid until the last part is done.
type Task = NonNull<dyn Fn(usize) + Sync>;

// SAFETY: all fields but `task` are Send and Sync. The task is a pointer to a Sync closure, and its cell is written by one
// thread alone (`led` lets one lead, and only that thread's `LED` names the crew), at times when nobody reads it: see `post`
// and `take_part`.
unsafe impl Send for Crew {}
// SAFETY: as above.
unsafe impl Sync for Crew {}

thread_local! {
    /// The crew that this thread leads, while it does and is not inside a task.
    static LED: Cell<Option<NonNull<Crew>>> = const { Cell::new(None) };
}

/// Puts the thread's crew back when dropped, by a panic too.
struct Restore(Option<NonNull<Crew>>);

impl Drop for Restore {
    fn drop(&mut self) {
        LED.set(self.0);
    }
}

/// Runs `part` on ranges that together are 0..n, each beginning at a multiple of `step`: one range on this thread, or several
/// shared with those who assist it.
pub(super) fn split(n: usize, step: usize, part: impl Fn(Range<usize>) + Sync) {
    // Taken, not read: a task within a task must not replace it.
    let led = LED.take();
    let _restore = Restore(led);
    let Some(crew) = &led else { return part(0..n) };
    // SAFETY: `lead` borrows the crew for as long as this thread's LED names it.
    let crew = unsafe { crew.as_ref() };
    // A hint, so Relaxed. Those who are on their way count too, and will be in time for the last parts. Cutting for those
    // alone who are here already was tried: who came late found an uncut task of 7 ms, gave up, and missed most of a wave.
    let threads = 1 + crew.free.load(Ordering::Relaxed);
    let steps = n.div_ceil(step);
    let parts = steps.min(threads * PARTS);
    if threads == 1 || parts < 2 {
        return part(0..n);
    }
    crew.run(parts, &|index| {
        let cut = |index: usize| (index * steps / parts * step).min(n);
        part(cut(index)..cut(index + 1));
    });
}

impl Crew {
    /// `free` counts the threads that may come to assist, whether they are here, at another crew, or asleep. While it is 0
    /// tasks are not cut.
    pub fn new(free: Arc<AtomicUsize>) -> Self {
        Self {
            claims: Line::default(),
            unfinished: Line::default(),
            task: UnsafeCell::new(None),
            panic: Mutex::new(None),
            assistants: AtomicUsize::new(0),
            free,
            led: AtomicBool::new(false),
        }
    }

    /// Runs `work` on this thread, its kernels shared with whoever assists. One thread leads at a time.
    pub fn lead<R>(&self, work: impl FnOnce() -> R) -> R {
        struct Led<'a>(&'a AtomicBool);
        impl Drop for Led<'_> {
            fn drop(&mut self) {
                self.0.store(false, Ordering::Release);
            }
        }
        // Acquire and Release: the next leader's writes come after this one's.
        assert!(!self.led.swap(true, Ordering::Acquire), "a crew has one leader");
        let _led = Led(&self.led);
        let _restore = Restore(LED.replace(Some(NonNull::from(self))));
        work()
    }

    /// Who assists at this moment: a hint.
    pub fn assistants(&self) -> usize {
        self.assistants.load(Ordering::Relaxed)
    }

    /// Takes parts of the leader's tasks until `enough`, which is asked between parts and while waiting for one. False where
    /// none came for so long that waiting elsewhere is cheaper.
    pub fn assist(&self, mut enough: impl FnMut() -> bool) -> bool {
        struct Seat<'a>(&'a AtomicUsize);
        impl Drop for Seat<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.assistants.fetch_add(1, Ordering::Relaxed);
        let _seat = Seat(&self.assistants);
        let (mut last, mut looks) = (Instant::now(), 0);
        while !enough() {
            if self.take_part() {
                (last, looks) = (Instant::now(), 0);
            } else if last.elapsed() > PATIENCE {
                return false;
            } else {
                pause(&mut looks);
            }
        }
        true
    }

    /// The leader's side of a task: `part` for each index below `parts`, and all of them done when it returns. A panic in
    /// any of them, on any thread, goes on in the leader.
    fn run(&self, parts: usize, part: &(dyn Fn(usize) + Sync)) {
        self.post(parts, part);
        while self.take_part() {}
        // Acquire: what the parts wrote, which `take_part` released, is the leader's to read from here on.
        let mut looks = 0;
        while self.unfinished.0.load(Ordering::Acquire) > 0 {
            pause(&mut looks);
        }
        let panic = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    fn post(&self, parts: usize, part: &(dyn Fn(usize) + Sync)) {
        debug_assert!(parts > 0 && parts < u32::MAX as usize);
        // SAFETY: the lifetime is erased, no more. `run` does not return, nor unwind (it catches), before every part is done,
        // and the pointer is followed by `take_part` alone, before it counts its part as done.
        let task = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), Task>(part) };
        // SAFETY: nobody else is at the cell. Of the task before, all parts were claimed and `run` has seen all of them done,
        // by an acquiring load, so each reading of the cell has happened before; and before the store below there is no part
        // to claim. This is the crew's one leader.
        unsafe { *self.task.get() = Some(task) };
        // Relaxed: whoever counts down has claimed a part first, and so has seen this by way of `claims`.
        self.unfinished.0.store(parts, Ordering::Relaxed);
        // Release: a claim acquires it, and with it the cell, the count and all that the closure refers to. Other claims in
        // between don't break the chain: an exchange continues the sequence that this store heads.
        self.claims.0.store((parts as u64) << 32, Ordering::Release);
    }

    /// Claims a part and runs it; false where there is none.
    fn take_part(&self) -> bool {
        /// However the part ends. Release: what it wrote, and that the closure and the cell are no longer looked at.
        struct Done<'a>(&'a AtomicUsize);
        impl Drop for Done<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Release);
            }
        }
        let mut claims = self.claims.0.load(Ordering::Relaxed);
        let index = loop {
            let (parts, claimed) = (claims >> 32, claims & u64::from(u32::MAX));
            if claimed >= parts {
                return false;
            }
            match self.claims.0.compare_exchange_weak(
                claims,
                claims + 1,
                Ordering::Acquire, // with the leader's Release in `post`
                Ordering::Relaxed,
            ) {
                Ok(_) => break claimed as usize,
                Err(now) => claims = now,
            }
        };
        let _done = Done(&self.unfinished.0);
        // SAFETY: this thread has a part that is not done, so the leader is still in `run`: the cell is not being written,
        // and the closure that it points to is alive.
        let part = unsafe { (*self.task.get()).map(|task| task.as_ref()) };
        if let Some(part) = part
            && let Err(panic) = catch_unwind(AssertUnwindSafe(|| part(index)))
        {
            self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
        }
        true
    }
}

/// Between two looks.
fn pause(looks: &mut usize) {
    *looks += 1;
    if *looks < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
}

#[cfg(test)]
#[path = "crew_tests.rs"]
mod tests;
