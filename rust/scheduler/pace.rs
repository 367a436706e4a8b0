//! How fast the threads get on, as measured: what deadlines and budgets are held against. Given the time, like all here.

use std::time::{Duration, Instant};

/// What one more wave weighs in the averages: they remember some 32 of them.
const WEIGHT: f64 = 1.0 / 32.0;

/// Waves before there is a figure.
const FEW_WAVES: usize = 4;

/// Part of a full wave that a wave must be to count. Smaller ones are what threads with little to do get, and slower for each
/// token: they don't tell how fast a backlog would go.
const COUNTS: usize = 4;

/// One rate for all the models of a pool: that of the mix that they are asked for.
#[derive(Debug)]
pub(super) struct Pace {
    least: usize, // tokens of a wave that counts
    waves: usize,
    // Sums that decay: each ratio of two is an average.
    tokens: f64,
    seconds: f64,
    jumped: f64,
    cut: f64,
    counted: f64,
    estimated: f64,
    out: usize, // steps in work
    at: Option<Instant>,
    busy: Duration, // since the last wave's end, while any step was in work
}

impl Pace {
    pub fn new(wave_tokens: usize) -> Self {
        Self {
            least: wave_tokens / COUNTS,
            waves: 0,
            tokens: 0.0,
            seconds: 0.0,
            jumped: 0.0,
            cut: 0.0,
            counted: 0.0,
            estimated: 0.0,
            out: 0,
            at: None,
            busy: Duration::ZERO,
        }
    }

    /// There is a model with waves of so many tokens, where it isn't computed on the threads.
    pub fn regard(&mut self, wave_tokens: usize) {
        self.least = self.least.max(wave_tokens / (4 * COUNTS));
    }

    /// A step is handed out.
    pub fn begin(&mut self, now: Instant) {
        self.pass(now);
        self.out += 1;
    }

    /// A step has ended that computed so many tokens; none where it tokenized, which is time that a backlog takes too.
    pub fn end(&mut self, now: Instant, tokens: usize) {
        self.pass(now);
        self.out = self.out.saturating_sub(1);
        if tokens == 0 {
            return;
        }
        let busy = std::mem::take(&mut self.busy);
        if tokens >= self.least {
            self.waves += 1;
            decay(&mut self.tokens, tokens as f64);
            decay(&mut self.seconds, busy.as_secs_f64());
        }
    }

    fn pass(&mut self, now: Instant) {
        if let Some(at) = self.at
            && self.out > 0
        {
            self.busy += now.saturating_duration_since(at);
        }
        self.at = self.at.max(Some(now));
    }

    /// A wave is cut, of which so many tokens are of requests that were not the first in line.
    pub fn cut(&mut self, tokens: usize, jumped: usize) {
        decay(&mut self.cut, tokens as f64);
        decay(&mut self.jumped, jumped as f64);
    }

    /// Texts that were taken for so many tokens had so many.
    pub fn read(&mut self, estimated: usize, counted: usize) {
        decay(&mut self.estimated, estimated as f64);
        decay(&mut self.counted, counted as f64);
    }

    /// Tokens a second, all threads together; None until it is known.
    pub fn rate(&self) -> Option<f64> {
        (self.waves >= FEW_WAVES && self.seconds > 0.0).then(|| self.tokens / self.seconds)
    }

    /// The part of them that goes to requests in the order in which they came.
    pub fn in_order(&self) -> f64 {
        if self.cut > 0.0 { 1.0 - self.jumped / self.cut } else { 1.0 }
    }

    /// Tokens that a token as estimated turns out to be.
    pub fn worth(&self) -> f64 {
        if self.estimated > 0.0 { (self.counted / self.estimated).clamp(0.25, 4.0) } else { 1.0 }
    }
}

fn decay(sum: &mut f64, more: f64) {
    *sum += more - *sum * WEIGHT;
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Waves one after the other, each of so many tokens in a millisecond, with as much time for nothing after each.
    fn waves(pace: &mut Pace, now: &mut Instant, count: usize, tokens: usize) {
        for _ in 0..count {
            pace.begin(*now);
            *now += MS;
            pace.end(*now, tokens);
            *now += MS;
        }
    }

    fn near(got: Option<f64>, want: f64) -> bool {
        got.is_some_and(|got| (got / want - 1.0).abs() < 0.05)
    }

    #[test]
    fn the_rate_is_that_of_busy_time_alone_and_follows_what_changes() {
        let (mut pace, mut now) = (Pace::new(256), Instant::now());
        assert_eq!(pace.rate(), None);
        waves(&mut pace, &mut now, 3, 200);
        assert_eq!(pace.rate(), None, "three waves are no measure");
        waves(&mut pace, &mut now, 1, 200);
        assert!(near(pace.rate(), 200_000.0), "{:?}", pace.rate());
        waves(&mut pace, &mut now, 200, 100);
        assert!(near(pace.rate(), 100_000.0), "{:?}", pace.rate());
        waves(&mut pace, &mut now, 1000, 10);
        assert!(near(pace.rate(), 100_000.0), "small waves tell nothing: {:?}", pace.rate());
    }

    #[test]
    fn threads_side_by_side_are_faster_and_tokenizing_is_time_too() {
        let (mut pace, mut now) = (Pace::new(256), Instant::now());
        for _ in 0..200 {
            (0..3).for_each(|_| pace.begin(now));
            now += MS;
            pace.end(now, 0);
            pace.begin(now);
            now += MS;
            (0..3).for_each(|_| pace.end(now, 200));
        }
        assert!(near(pace.rate(), 300_000.0), "{:?}", pace.rate());
    }

    #[test]
    fn what_jumps_the_line_and_what_texts_are_worth_are_parts() {
        let mut pace = Pace::new(256);
        assert_eq!((pace.in_order(), pace.worth()), (1.0, 1.0));
        for _ in 0..100 {
            pace.cut(200, 50);
            pace.read(100, 150);
        }
        assert!(near(Some(pace.in_order()), 0.75) && near(Some(pace.worth()), 1.5));
    }
}
