//! What of a wave is copied to the GPU: one block of words, in one copy.

/// Rows of queries that one block of the attention kernels answers; cu/lang.cuh.
pub const TILE_ROWS: u32 = 64;

/// Waves of more tokens keep a GPU busy for longer than it takes to queue their launches one by one.
const LARGEST_ROUNDED: usize = 4096;

/// What a pair usually has.
const USUAL_TOKENS: usize = 128;

/// Where in the block what is, in words, and how much of it there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Wave {
    pub tokens: usize,
    pub sequences: usize,
    pub tiles: usize,
}

impl Wave {
    /// A wave of the sequences that start and end here.
    pub fn of(cu_seqlens: &[u32]) -> Self {
        let tiles = cu_seqlens.windows(2).map(|ends| (ends[1] - ends[0]).div_ceil(TILE_ROWS) as usize).sum();
        let tokens = cu_seqlens.last().map_or(0, |&end| end as usize);
        Self { tokens, sequences: cu_seqlens.len().saturating_sub(1), tiles }
    }

    /// Of a small wave, one that is as large and a little larger, of which there are few: what is captured of one is replayed
    /// for all that are rounded to it. None where that wouldn't pay.
    pub fn rounded(&self) -> Option<Self> {
        if self.tokens > LARGEST_ROUNDED {
            return None;
        }
        // A quarter more at the most, where that is more than a tile; finer steps had every other request wait for a
        // capture. A sequence that isn't there costs a row of the last layer.
        let step = (self.tokens.next_power_of_two() / 8).max(TILE_ROWS as usize);
        let tokens = self.tokens.next_multiple_of(step);
        let sequences = self.sequences.max(tokens.div_ceil(USUAL_TOKENS)).next_power_of_two();
        Some(Self { tokens, sequences, tiles: Self::most_tiles(tokens, sequences) })
    }

    /// The sizes that waves of usual pairs are rounded to, up to so many tokens.
    pub fn usual(most_tokens: usize) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        let mut tokens = 1;
        while let Some(wave) = (Self { tokens, sequences: 1, tiles: 0 }).rounded()
            && wave.tokens <= most_tokens
        {
            all.push(wave);
            tokens = wave.tokens + 1;
        }
        all
    }

    /// Words in order: ids, places, kinds `[tokens]` each, starts `[sequences + 1]`, tiles `[tiles, 3]`.
    pub fn words(&self) -> usize {
        3 * self.tokens + self.sequences + 1 + 3 * self.tiles
    }

    /// The most words that a wave of so many tokens in so many sequences can have.
    pub fn most_words(tokens: usize, sequences: usize) -> usize {
        Self { tokens, sequences, tiles: Self::most_tiles(tokens, sequences) }.words()
    }

    fn most_tiles(tokens: usize, sequences: usize) -> usize {
        sequences + tokens / TILE_ROWS as usize
    }

    pub(super) fn starts(&self) -> usize {
        3 * self.tokens
    }

    pub(super) fn tile_words(&self) -> usize {
        self.starts() + self.sequences + 1
    }
}

/// The block of a wave: tokens' ids, their rows in the position table, and their types; where sequences start; and the
/// tiles of rows that they are cut into: a sequence's start, its length, the tile's first row in it. A wave that has room
/// for more than there is gets tokens of id 0 that are in no sequence, and sequences and tiles of no tokens.
pub fn pack(ids: &[u32], places: &[u32], kinds: &[u8], cu_seqlens: &[u32], wave: Wave, block: &mut Vec<u32>) {
    block.clear();
    block.extend_from_slice(ids);
    block.resize(wave.tokens, 0);
    block.extend_from_slice(places);
    block.resize(2 * wave.tokens, 0);
    block.extend(kinds.iter().map(|&kind| u32::from(kind)));
    block.resize(3 * wave.tokens, 0);
    block.extend_from_slice(cu_seqlens);
    block.resize(wave.tile_words(), cu_seqlens.last().copied().unwrap_or(0));
    for ends in cu_seqlens.windows(2) {
        let length = ends[1] - ends[0];
        for first in (0..length).step_by(TILE_ROWS as usize) {
            block.extend([ends[0], length, first]);
        }
    }
    block.resize(wave.words(), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_one_block_and_cuts_each_sequence_by_itself() {
        let lengths = [1u32, 64, 65, 200];
        let mut starts = vec![0];
        for length in lengths {
            starts.push(starts[starts.len() - 1] + length);
        }
        let tokens = 330usize;
        let ids: Vec<u32> = (0..tokens as u32).collect();
        let places: Vec<u32> = (1000..1000 + tokens as u32).collect();
        let mut block = vec![7; 3];
        let wave = Wave::of(&starts);
        assert_eq!(wave, Wave { tokens, sequences: 4, tiles: 1 + 1 + 2 + 4 });
        pack(&ids, &places, &vec![1; tokens], &starts, wave, &mut block);
        assert_eq!(block.len(), wave.words());
        assert!(block.len() <= Wave::most_words(tokens, 4));
        assert_eq!(block[tokens..tokens + 2], [1000, 1001]);
        assert_eq!(block[wave.starts()..wave.tile_words()], starts);
        let tiles: Vec<&[u32]> = block[wave.tile_words()..].chunks(3).collect();
        assert_eq!(tiles[..4], [[0, 1, 0], [1, 64, 0], [65, 65, 0], [65, 65, 64]]);
        assert_eq!(tiles[7], [130, 200, 192]);
    }

    #[test]
    fn small_waves_are_rounded_to_few_that_have_room_for_them() {
        let mut all = std::collections::HashSet::new();
        for tokens in 1..=LARGEST_ROUNDED {
            let sequences = 3.min(tokens);
            let wave = Wave { tokens, sequences, tiles: sequences + tokens / 64 };
            let rounded = wave.rounded().unwrap();
            assert!(rounded.tokens >= tokens && rounded.tokens - tokens < 64.max(tokens.div_ceil(4)));
            assert_eq!(rounded.rounded(), Some(rounded));
            assert!(rounded.sequences >= wave.sequences && rounded.tiles >= wave.tiles);
            assert_eq!(rounded.words(), Wave::most_words(rounded.tokens, rounded.sequences));
            all.insert(rounded);
        }
        assert!(all.len() <= 24, "{}", all.len());
        let large = Wave { tokens: LARGEST_ROUNDED + 1, sequences: 9, tiles: 80 };
        assert_eq!(large.rounded(), None);
    }

    #[test]
    fn what_a_rounded_wave_has_room_for_is_in_no_sequence() {
        let starts = [0, 2, 5];
        let wave = Wave::of(&starts).rounded().unwrap();
        assert_eq!((wave.tokens, wave.sequences, wave.tiles), (64, 2, 3));
        let mut block = Vec::new();
        pack(&[9; 5], &[8; 5], &[1; 5], &starts, wave, &mut block);
        assert_eq!(block.len(), wave.words());
        assert_eq!(block[4..6], [9, 0]);
        assert_eq!(block[64 + 4..64 + 6], [8, 0]);
        assert_eq!(block[wave.starts()..wave.tile_words()], starts);
        assert_eq!(block[wave.tile_words()..], [0, 2, 0, 2, 3, 0, 0, 0, 0]);
        let three = Wave { sequences: 4, ..wave };
        pack(&[9; 5], &[8; 5], &[1; 5], &starts, three, &mut block);
        assert_eq!(block[three.starts()..three.tile_words()], [0, 2, 5, 5, 5], "the last two have no tokens");
    }

    #[test]
    fn usual_waves_are_all_sizes_that_small_ones_are_rounded_to() {
        let usual = Wave::usual(usize::MAX);
        let rounded = (1..=LARGEST_ROUNDED).filter_map(|tokens| {
            let sequences = tokens.div_ceil(USUAL_TOKENS);
            Wave { tokens, sequences, tiles: 0 }.rounded()
        });
        let all: std::collections::HashSet<Wave> = rounded.collect();
        assert_eq!(all, usual.iter().copied().collect());
        assert_eq!(Wave::usual(64), [Wave { tokens: 64, sequences: 1, tiles: 2 }]);
    }
}
