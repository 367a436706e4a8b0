//! What of a wave is copied to the GPU: one block of words, in one copy.

/// Rows of queries that one block of the attention kernels answers; cu/lang.cuh.
pub const TILE_ROWS: u32 = 64;

/// Where in the block what is, in words, and how much of it there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wave {
    pub tokens: usize,
    pub sequences: usize,
    pub tiles: usize,
}

impl Wave {
    /// Words in order: ids, places, kinds `[tokens]` each, starts `[sequences + 1]`, tiles `[tiles, 3]`.
    pub fn words(&self) -> usize {
        3 * self.tokens + self.sequences + 1 + 3 * self.tiles
    }

    /// The most words that a wave of so many tokens in so many sequences can have.
    pub fn most_words(tokens: usize, sequences: usize) -> usize {
        let tiles = sequences + tokens / TILE_ROWS as usize;
        Self { tokens, sequences, tiles }.words()
    }

    pub(super) fn starts(&self) -> usize {
        3 * self.tokens
    }

    pub(super) fn tile_words(&self) -> usize {
        self.starts() + self.sequences + 1
    }
}

/// The block of a wave: tokens' ids, their rows in the position table, and their types; where sequences start; and the
/// tiles of rows that they are cut into: a sequence's start, its length, the tile's first row in it.
pub fn pack(ids: &[u32], places: &[u32], kinds: &[u8], cu_seqlens: &[u32], block: &mut Vec<u32>) -> Wave {
    block.clear();
    block.extend_from_slice(ids);
    block.extend_from_slice(places);
    block.extend(kinds.iter().map(|&kind| u32::from(kind)));
    block.extend_from_slice(cu_seqlens);
    let mut tiles = 0;
    for ends in cu_seqlens.windows(2) {
        let length = ends[1] - ends[0];
        for first in (0..length).step_by(TILE_ROWS as usize) {
            block.extend([ends[0], length, first]);
            tiles += 1;
        }
    }
    Wave { tokens: ids.len(), sequences: cu_seqlens.len() - 1, tiles }
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
        let wave = pack(&ids, &places, &vec![1; tokens], &starts, &mut block);
        assert_eq!(wave, Wave { tokens, sequences: 4, tiles: 1 + 1 + 2 + 4 });
        assert_eq!(block.len(), wave.words());
        assert!(block.len() <= Wave::most_words(tokens, 4));
        assert_eq!(block[tokens..tokens + 2], [1000, 1001]);
        assert_eq!(block[wave.starts()..wave.tile_words()], starts);
        let tiles: Vec<&[u32]> = block[wave.tile_words()..].chunks(3).collect();
        assert_eq!(tiles[..4], [[0, 1, 0], [1, 64, 0], [65, 65, 0], [65, 65, 64]]);
        assert_eq!(tiles[7], [130, 200, 192]);
    }
}
