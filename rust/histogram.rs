//! How often what happened: counts in fixed buckets, cheap enough for every wave.

/// Tokens of a wave.
pub const WAVE_TOKENS: &[u64] = &[32, 64, 128, 256, 512, 1024, 2048, 4096];

/// Microseconds that a request waited.
pub const WAIT_US: &[u64] = &[
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000,
];

#[derive(Debug, Clone)]
pub struct Histogram {
    /// The largest value of each bucket, ascending.
    pub bounds: &'static [u64],
    /// One more than bounds: the last counts what is above all of them.
    pub counts: Vec<u64>,
    pub sum: u64,
}

impl Histogram {
    pub fn new(bounds: &'static [u64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0 }
    }

    pub fn observe(&mut self, value: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
        self.sum += value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket_and_what_is_above_is_counted_too() {
        let mut histogram = Histogram::new(&[10, 20]);
        [0, 10, 11, 20, 21, 1000].into_iter().for_each(|value| histogram.observe(value));
        assert_eq!((histogram.counts, histogram.sum), (vec![2, 2, 2], 1062));
    }
}
