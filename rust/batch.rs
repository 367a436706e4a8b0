//! Packed batches: the tokens of several pairs one after another, with no padding between them.

/// Pairs packed for one forward pass.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    ids: Vec<u32>,        // [tokens]
    types: Vec<u8>,       // [tokens]
    cu_seqlens: Vec<u32>, // [sequences + 1]: where each sequence starts; the last is the number of tokens
}

impl Batch {
    pub fn new() -> Self {
        Self { ids: Vec::new(), types: Vec::new(), cu_seqlens: vec![0] }
    }

    /// Appends one pair: its token ids and their types (segments), both `[tokens]`.
    pub fn push(&mut self, ids: &[u32], types: &[u8]) {
        debug_assert_eq!(ids.len(), types.len());
        self.ids.extend_from_slice(ids);
        self.types.extend_from_slice(types);
        self.cu_seqlens.push(self.ids.len() as u32);
    }

    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    pub fn sequences(&self) -> usize {
        self.cu_seqlens.len() - 1
    }

    /// `[tokens]`
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// `[tokens]`
    pub fn types(&self) -> &[u8] {
        &self.types
    }

    /// `[sequences + 1]`
    pub fn cu_seqlens(&self) -> &[u32] {
        &self.cu_seqlens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_without_padding() {
        let mut batch = Batch::new();
        assert_eq!((batch.tokens(), batch.sequences()), (0, 0));
        batch.push(&[1, 2, 3], &[0, 0, 1]);
        batch.push(&[4], &[0]);
        assert_eq!(batch.ids(), [1, 2, 3, 4]);
        assert_eq!(batch.types(), [0, 0, 1, 0]);
        assert_eq!(batch.cu_seqlens(), [0, 3, 4]);
        assert_eq!((batch.tokens(), batch.sequences()), (4, 2));
    }
}
