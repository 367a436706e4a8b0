//! A vocabulary's pieces in three flat arrays, to find those that a text begins with.

use std::collections::VecDeque;

/// A byte trie, its nodes in breadth-first order, so that a node's children stand together.
pub(super) struct Trie {
    labels: Vec<u8>, // [nodes]: the byte that leads to each
    first: Vec<u32>, // [nodes + 1]: a node's children are first[node]..first[node + 1], by ascending label
    ids: Vec<u32>,   // [nodes]: the piece that ends here, or NO_PIECE
}

const NO_PIECE: u32 = u32::MAX;

impl Trie {
    /// `pieces` ascend and none stands twice.
    pub(super) fn new(pieces: &[(&[u8], u32)]) -> Self {
        let mut trie = Self { labels: vec![0], first: Vec::new(), ids: Vec::new() };
        let mut ranges = VecDeque::from([(pieces, 0)]); // of each node: the pieces below it, and its depth
        while let Some((mut below, depth)) = ranges.pop_front() {
            trie.first.push(trie.labels.len() as u32);
            let ends_here = below.first().filter(|(piece, _)| piece.len() == depth);
            trie.ids.push(ends_here.map_or(NO_PIECE, |(_, id)| *id));
            below = &below[usize::from(ends_here.is_some())..];
            for child in below.chunk_by(|(a, _), (b, _)| a[depth] == b[depth]) {
                trie.labels.push(child[0].0[depth]);
                ranges.push_back((child, depth + 1));
            }
        }
        trie.first.push(trie.labels.len() as u32);
        trie
    }

    fn child(&self, node: usize, label: u8) -> Option<usize> {
        let first = self.first[node] as usize;
        let labels = &self.labels[first..self.first[node + 1] as usize];
        // Most nodes have a child or two; the root has hundreds.
        let found = match labels.len() {
            0..16 => labels.iter().position(|other| *other == label),
            _ => labels.binary_search(&label).ok(),
        };
        found.map(|index| first + index)
    }

    /// The id of a piece.
    pub(super) fn get(&self, piece: &[u8]) -> Option<u32> {
        let node = piece.iter().try_fold(0, |node, label| self.child(node, *label))?;
        Some(self.ids[node]).filter(|id| *id != NO_PIECE)
    }

    /// The pieces that `text` begins with, shortest first, as (length, id).
    pub(super) fn prefixes<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = (usize, u32)> + 'a {
        let nodes = text.iter().scan(0, |node, label| {
            *node = self.child(*node, *label)?;
            Some(*node)
        });
        (1..).zip(nodes).map(|(length, node)| (length, self.ids[node])).filter(|(_, id)| *id != NO_PIECE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_prefix_and_nothing_else() {
        let mut words: Vec<Vec<u8>> = (0..=255u8).map(|byte| vec![byte]).collect();
        words.extend([&b"ab"[..], b"abc", b"abcdef", b"b\xff\x00", b"zz"].map(<[u8]>::to_vec));
        words.sort();
        let pieces: Vec<(&[u8], u32)> = words.iter().map(Vec::as_slice).zip(0..).collect();
        let trie = Trie::new(&pieces);
        for (piece, id) in &pieces {
            assert_eq!(trie.get(piece), Some(*id));
            let found: Vec<(usize, u32)> = trie.prefixes(piece).collect();
            let expected: Vec<(usize, u32)> = pieces
                .iter()
                .filter(|(other, _)| piece.starts_with(other))
                .map(|(other, id)| (other.len(), *id))
                .collect();
            assert_eq!(found, expected);
        }
        for absent in [&b""[..], b"abcd", b"abx", b"zzz"] {
            assert_eq!(trie.get(absent), None);
        }
        assert_eq!(Trie::new(&[]).prefixes(b"a").count(), 0);
    }
}
