//! What of a wave's work has been captured, so that waves of the same size are queued in one call: a small wave's hundred
//! launches take the host longer than they take the GPU.

use std::collections::HashMap;

use crate::kernels::gpu::{Graph, Outcome, Queue, Wave};

/// Sizes that are known at a time; a GPU keeps some memory for each that is captured.
const MOST: usize = 128;

/// By their size: None for a wave that was seen once, whose work was queued as it came. A second one of that size is
/// captured: so there is no capture for a size that never comes again, and none before a GPU has all it needs for the work.
#[derive(Default)]
pub struct Replays {
    known: HashMap<Wave, Option<Box<dyn Graph>>>,
    refused: bool,
}

impl Replays {
    /// Queues a wave's work. Where it can't be captured, that is not tried again: whatever is wrong with the GPU, the work
    /// itself will tell.
    pub fn run(&mut self, queue: &Queue, wave: Wave, work: impl Fn() -> Outcome<()>) -> Outcome<()> {
        if self.refused {
            return work();
        }
        if self.known.len() >= MOST && !self.known.contains_key(&wave) {
            self.known.clear();
        }
        let graph = match self.known.get_mut(&wave) {
            None => {
                self.known.insert(wave, None);
                return work();
            }
            Some(Some(graph)) => graph,
            Some(place) => match queue.capture(&work) {
                Ok(graph) => place.insert(graph),
                Err(_) => {
                    self.refused = true;
                    return work();
                }
            },
        };
        queue.replay(graph.as_ref())
    }
}

#[cfg(feature = "cuda-twin")]
#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::kernels::gpu::{Gpu, GpuError};

    #[test]
    fn a_size_is_captured_when_it_comes_again_and_not_asked_for_after() {
        let queue = Gpu::open("cuda-twin", 0).unwrap().queue().unwrap();
        let (mut replays, asked) = (Replays::default(), Cell::new(0));
        let mut run = |tokens: usize| {
            let work = || {
                asked.set(asked.get() + 1);
                Ok(())
            };
            replays.run(&queue, Wave { tokens, sequences: 1, tiles: 1 }, work).unwrap();
            asked.get()
        };
        assert_eq!([run(64), run(128), run(64), run(64), run(64)], [1, 2, 3, 3, 3]);
        assert_eq!([run(128), run(128)], [4, 4]);
        // Whoever brings ever new sizes has none of them kept for ever.
        (0..MOST).for_each(|i| {
            run(1000 + i);
        });
        let before = asked.get();
        assert_eq!(run(64), before + 1);
    }

    #[test]
    fn a_lost_gpu_is_told_and_a_refused_capture_is_not_tried_again() {
        let queue = Gpu::open("cuda-twin", 0).unwrap().queue().unwrap();
        let wave = Wave { tokens: 64, sequences: 1, tiles: 1 };
        let seen = || {
            let mut replays = Replays::default();
            replays.run(&queue, wave, || Ok(())).unwrap();
            replays
        };
        let lost = || Err(GpuError::Lost("gone".into()));
        assert_eq!(seen().run(&queue, wave, lost), lost());
        let asked = Cell::new(0);
        // Refused the first time, as in a capture, and done the second.
        let once = || {
            asked.set(asked.get() + 1);
            if asked.get() == 1 { Err(GpuError::Refused("not now".into())) } else { Ok(()) }
        };
        let mut replays = seen();
        replays.run(&queue, wave, once).unwrap();
        replays.run(&queue, wave, once).unwrap();
        assert_eq!(asked.get(), 3);
    }
}
