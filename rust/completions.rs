//! Where finished work waits for its reader: a queue, and a descriptor that is readable while the queue is not empty.
//! Many results, one wake-up: the reader drains all in one go, and no worker ever calls into it.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::{Error, Result};

/// A many-writer, one-reader queue of finished things.
pub struct Completions<C> {
    queue: Mutex<Vec<C>>,
    arrived: Condvar,
    bell: Bell,
}

impl<C> Completions<C> {
    pub fn new() -> Result<Self> {
        let bell = Bell::new().map_err(|e| Error::Internal(format!("no descriptor for completions: {e}")))?;
        Ok(Self { queue: Mutex::new(Vec::new()), arrived: Condvar::new(), bell })
    }

    pub fn push(&self, completion: C) {
        let mut queue = self.lock();
        queue.push(completion);
        // Rung under the lock and only for the first, so that the bell is up exactly while the queue is not empty.
        if queue.len() == 1 {
            self.bell.ring();
            self.arrived.notify_one();
        }
    }

    /// All that has arrived; never blocks.
    pub fn drain(&self) -> Vec<C> {
        let mut queue = self.lock();
        if !queue.is_empty() {
            self.bell.silence();
        }
        std::mem::take(&mut queue)
    }

    /// Blocks until something is there or the time is up.
    pub fn wait(&self, timeout: Duration) -> Vec<C> {
        let queue = self.lock();
        let waited = self.arrived.wait_timeout_while(queue, timeout, |queue| queue.is_empty());
        drop(waited);
        self.drain()
    }

    pub fn descriptor(&self) -> RawFd {
        self.bell.descriptor()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<C>> {
        // A panic elsewhere can't leave a Vec half-pushed.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A descriptor that can be made readable and unreadable.
#[cfg(target_os = "linux")]
struct Bell(std::os::fd::OwnedFd);

#[cfg(target_os = "linux")]
impl Bell {
    fn new() -> std::io::Result<Self> {
        use rustix::event::{EventfdFlags, eventfd};
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    fn ring(&self) {
        // Fails only where the counter is full, and then the bell is up.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    fn silence(&self) {
        // Fails only where the counter is zero, and then the bell is down.
        let _ = rustix::io::read(&self.0, &mut [0u8; 8]);
    }

    fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Systems without eventfd: one byte in a socket pair.
#[cfg(not(target_os = "linux"))]
struct Bell {
    reader: std::os::unix::net::UnixStream,
    writer: std::os::unix::net::UnixStream,
}

#[cfg(not(target_os = "linux"))]
impl Bell {
    fn new() -> std::io::Result<Self> {
        let (reader, writer) = std::os::unix::net::UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        Ok(Self { reader, writer })
    }

    fn ring(&self) {
        use std::io::Write;
        let _ = (&self.writer).write(&[1]);
    }

    fn silence(&self) {
        use std::io::Read;
        let _ = (&self.reader).read(&mut [0u8; 8]);
    }

    fn descriptor(&self) -> RawFd {
        self.reader.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn drains_everything_in_order() {
        let completions = Completions::new().unwrap();
        assert!(completions.drain().is_empty());
        (0..5).for_each(|i| completions.push(i));
        assert_eq!(completions.drain(), [0, 1, 2, 3, 4]);
        assert!(completions.wait(Duration::ZERO).is_empty());
    }

    #[test]
    fn a_waiter_is_woken_from_another_thread() {
        let completions = Arc::new(Completions::new().unwrap());
        let writer = completions.clone();
        let thread = std::thread::spawn(move || writer.push(7));
        assert_eq!(completions.wait(Duration::from_secs(60)), [7]);
        thread.join().unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_bell_is_up_exactly_while_something_waits() {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let completions = Completions::new().unwrap();
        let readable = || {
            let mut polled = [PollFd::new(&completions.bell.0, PollFlags::IN)];
            poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
        };
        assert!(!readable());
        completions.push(1);
        completions.push(2);
        assert!(readable());
        assert_eq!(completions.drain(), [1, 2]);
        assert!(!readable());
        completions.push(3);
        assert!(readable());
    }
}
