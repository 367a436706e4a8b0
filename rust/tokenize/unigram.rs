//! The Unigram model (Kudo 2018) in little memory, and the choice between it and the library's models.
//!
//! The library keeps a Unigram vocabulary as a trie of hash maps, one a byte: 390 MB and over a second for the 250,002
//! pieces of XLM-R, more than all of bge-reranker-base's layers. Here the trie is three flat arrays. The paths, their
//! scores and how ties fall are the library's `encode_optimized`; a test compares the two on random texts. A
//! double-array Aho-Corasick automaton (daachorse) was tried: as small, but it took a second to build.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use tokenizers::models::unigram::UnigramTrainer;
use tokenizers::{Model, ModelWrapper, Token};

use super::trie::Trie;

/// Beneath the rarest piece, as SentencePiece has it.
const UNKNOWN_PENALTY: f64 = 10.0;

pub struct Unigram {
    trie: Trie,
    scores: Vec<f64>, // [vocabulary]: log probabilities
    names: String,    // the pieces, one after another
    ends: Vec<usize>, // [vocabulary]: where each ends in `names`
    unknown: Option<u32>,
    unknown_score: f64,
    bytes: Option<Box<[u32; 256]>>, // byte fallback: the ids of <0x00> to <0xFF>
}

/// The best path that ends at some byte of the text.
#[derive(Clone, Copy)]
struct Best {
    score: f64,
    start: usize,
    id: u32,
    known: bool,
}

impl Best {
    /// The first of equals stays.
    fn offer(&mut self, candidate: Best) {
        if self.start == usize::MAX || candidate.score > self.score {
            *self = candidate;
        }
    }
}

impl Unigram {
    fn new(
        vocabulary: Vec<(String, f64)>,
        unknown: Option<u32>,
        byte_fallback: bool,
    ) -> Result<Self, String> {
        if let Some(unknown) = unknown
            && unknown as usize >= vocabulary.len()
        {
            return Err(format!("unk_id {unknown} is past the {} pieces of vocab", vocabulary.len()));
        }
        let scores: Vec<f64> = vocabulary.iter().map(|(_, score)| *score).collect();
        let rarest = scores.iter().copied().fold(f64::INFINITY, f64::min);
        let mut names = String::new();
        let ends: Vec<usize> = vocabulary
            .iter()
            .map(|(piece, _)| {
                names.push_str(piece);
                names.len()
            })
            .collect();
        let trie = trie(&names, &ends);
        let unknown_score = rarest - UNKNOWN_PENALTY;
        let mut this = Self { trie, scores, names, ends, unknown, unknown_score, bytes: None };
        if byte_fallback {
            let ids: Option<Vec<u32>> =
                (0..256).map(|byte| this.token_to_id(&format!("<0x{byte:02X}>"))).collect();
            this.bytes = ids.and_then(|ids| ids.into_boxed_slice().try_into().ok());
        }
        Ok(this)
    }

    /// The best path's pieces, last first, as (start, end, id); None stands for an unknown character.
    fn best_path(&self, text: &str) -> Vec<(usize, usize, Option<u32>)> {
        let unreached = Best { score: 0.0, start: usize::MAX, id: 0, known: false };
        let mut best = vec![unreached; text.len() + 1]; // by the byte where a path ends
        for (start, character) in text.char_indices() {
            let here = best[start].score;
            let mut single = false;
            for (length, id) in self.trie.prefixes(&text.as_bytes()[start..]) {
                single |= length == character.len_utf8();
                let score = self.scores[id as usize] + here;
                best[start + length].offer(Best { score, start, id, known: true });
            }
            if !single {
                let score = self.unknown_score + here;
                best[start + character.len_utf8()].offer(Best { score, start, id: 0, known: false });
            }
        }
        let mut path = Vec::new();
        let mut end = text.len();
        while end > 0 {
            let Best { start, id, known, .. } = best[end];
            path.push((start, end, known.then_some(id)));
            end = start;
        }
        path
    }

    fn push_unknown(&self, text: &str, start: usize, tokens: &mut Vec<Token>) -> tokenizers::Result<()> {
        let offsets = (start, start + text.len());
        match (self.unknown, &self.bytes) {
            (Some(_), Some(ids)) => {
                tokens.extend(text.bytes().map(|byte| token(ids[byte as usize], offsets)))
            }
            (Some(unknown), None) => tokens.push(token(unknown, offsets)),
            (None, _) => return Err("a character is in no piece, and unk_id is missing".into()),
        }
        Ok(())
    }
}

/// Of the pieces that end at `ends` in `names`. Sorted by their first eight bytes as numbers, and then laid end to end: by
/// comparing strings where they lie, 250,002 pieces take a third of the time from a process's start to its first score.
fn trie(names: &str, ends: &[usize]) -> Trie {
    let starts = std::iter::once(0).chain(ends.iter().copied());
    let pieces = starts.zip(ends).map(|(start, &end)| &names.as_bytes()[start..end]);
    // Zeros after a short piece's end: it sorts before those that go on.
    let first_eight = |piece: &[u8]| {
        let mut bytes = [0; 8];
        let length = piece.len().min(8);
        bytes[..length].copy_from_slice(&piece[..length]);
        u64::from_be_bytes(bytes)
    };
    let mut sorted: Vec<(u64, &[u8], u32)> = pieces
        .zip(0..)
        .filter(|(piece, _)| !piece.is_empty())
        .map(|(piece, id)| (first_eight(piece), piece, id))
        .collect();
    // Where a piece stands twice, the library knows it by its last id.
    sorted.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.cmp(b.1)).then(b.2.cmp(&a.2)));
    sorted.dedup_by_key(|(_, piece, _)| *piece);
    let laid: Vec<u8> = sorted.iter().flat_map(|(_, piece, _)| *piece).copied().collect();
    let mut rest = &laid[..];
    let pieces: Vec<(&[u8], u32)> = sorted
        .iter()
        .map(|(_, piece, id)| {
            let (laid, after) = rest.split_at(piece.len());
            rest = after;
            (laid, *id)
        })
        .collect();
    Trie::new(&pieces)
}

/// Without its text, which nothing here reads.
fn token(id: u32, offsets: (usize, usize)) -> Token {
    Token::new(id, String::new(), offsets)
}

impl fmt::Debug for Unigram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unigram").field("pieces", &self.ends.len()).finish_non_exhaustive()
    }
}

impl Model for Unigram {
    type Trainer = UnigramTrainer;

    fn tokenize(&self, text: &str) -> tokenizers::Result<Vec<Token>> {
        let path = self.best_path(text);
        let mut tokens = Vec::with_capacity(path.len());
        let mut steps = path.into_iter().rev().peekable();
        while let Some((start, end, id)) = steps.next() {
            match id {
                // The unknown piece itself, spelled out, is as unknown as any.
                Some(id) if Some(id) != self.unknown => tokens.push(token(id, (start, end))),
                _ => {
                    let mut last = end;
                    while let Some((_, end, _)) =
                        steps.next_if(|(_, _, id)| id.is_none() || *id == self.unknown)
                    {
                        last = end;
                    }
                    let fused = &text[start..last];
                    match self.token_to_id(fused) {
                        Some(id) => tokens.push(token(id, (start, last))),
                        None => self.push_unknown(fused, start, &mut tokens)?,
                    }
                }
            }
        }
        Ok(tokens)
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.trie.get(token.as_bytes())
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        let id = id as usize;
        let start = if id == 0 { 0 } else { *self.ends.get(id - 1)? };
        Some(self.names[start..*self.ends.get(id)?].to_string())
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        (0..self.ends.len() as u32).filter_map(|id| Some((self.id_to_token(id)?, id))).collect()
    }

    fn get_vocab_size(&self) -> usize {
        self.ends.len()
    }

    fn save(&self, _: &Path, _: Option<&str>) -> tokenizers::Result<Vec<PathBuf>> {
        Err("this model is for reading only".into())
    }

    fn get_trainer(&self) -> UnigramTrainer {
        UnigramTrainer::default()
    }
}

/// What turns a word into tokens.
#[derive(Debug)]
pub enum PieceModel {
    Unigram(Unigram),
    Library(ModelWrapper),
}

impl PieceModel {
    /// The highest id in the vocabulary and its token.
    pub fn highest(&self) -> Option<(u32, String)> {
        match self {
            Self::Unigram(model) => {
                let id = model.ends.len().checked_sub(1)? as u32;
                Some((id, model.id_to_token(id)?))
            }
            Self::Library(model) => model.get_vocab().into_iter().map(|(token, id)| (id, token)).max(),
        }
    }
}

macro_rules! either {
    ($model:expr, $name:ident => $call:expr) => {
        match $model {
            PieceModel::Unigram($name) => $call,
            PieceModel::Library($name) => $call,
        }
    };
}

impl Model for PieceModel {
    type Trainer = UnigramTrainer;

    fn tokenize(&self, text: &str) -> tokenizers::Result<Vec<Token>> {
        either!(self, model => model.tokenize(text))
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        either!(self, model => model.token_to_id(token))
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        either!(self, model => model.id_to_token(id))
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        either!(self, model => model.get_vocab())
    }

    fn get_vocab_size(&self) -> usize {
        either!(self, model => model.get_vocab_size())
    }

    fn save(&self, folder: &Path, prefix: Option<&str>) -> tokenizers::Result<Vec<PathBuf>> {
        either!(self, model => model.save(folder, prefix))
    }

    fn get_trainer(&self) -> UnigramTrainer {
        UnigramTrainer::default()
    }
}

impl<'de> Deserialize<'de> for PieceModel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ModelVisitor)
    }
}

struct ModelVisitor;

#[derive(Deserialize)]
struct UnigramFields {
    vocab: Vec<(String, f64)>,
    unk_id: Option<u32>,
    #[serde(default)]
    byte_fallback: bool,
}

impl<'de> Visitor<'de> for ModelVisitor {
    type Value = PieceModel;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a tokenizer's model")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<PieceModel, A::Error> {
        let mut fields = serde_json::Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let value: serde_json::Value = map.next_value()?;
            let unigram = key == "type" && value == "Unigram";
            fields.insert(key, value);
            // The library writes the type first; then the vocabulary is read straight into place, with no tree between.
            if unigram && fields.len() == 1 {
                let rest = serde::de::value::MapAccessDeserializer::new(map);
                return unigram_of(UnigramFields::deserialize(rest)?).map_err(A::Error::custom);
            }
        }
        let unigram = fields.get("type").is_some_and(|kind| kind == "Unigram");
        let value = serde_json::Value::Object(fields);
        if unigram {
            let fields = serde_json::from_value(value).map_err(A::Error::custom)?;
            return unigram_of(fields).map_err(A::Error::custom);
        }
        serde_json::from_value(value).map(PieceModel::Library).map_err(A::Error::custom)
    }
}

fn unigram_of(fields: UnigramFields) -> Result<PieceModel, String> {
    Unigram::new(fields.vocab, fields.unk_id, fields.byte_fallback).map(PieceModel::Unigram)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokenizers::models::unigram::Unigram as Library;

    use super::*;

    fn ids(model: &impl Model, text: &str) -> Result<Vec<u32>, ()> {
        model.tokenize(text).map(|tokens| tokens.iter().map(|token| token.id).collect()).map_err(|_| ())
    }

    fn both(vocabulary: &[(String, f64)], unknown: Option<usize>, byte_fallback: bool) -> (Unigram, Library) {
        let ours = Unigram::new(vocabulary.to_vec(), unknown.map(|id| id as u32), byte_fallback).unwrap();
        (ours, Library::from(vocabulary.to_vec(), unknown, byte_fallback).unwrap())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..Default::default() })]

        /// Few letters and few scores, so that texts are full of rival paths and ties.
        #[test]
        fn ids_are_the_librarys(
            pieces in prop::collection::vec(("[abé东]{1,4}", 0u32..4), 0..40),
            texts in prop::collection::vec("[abcé东🔥]{0,30}", 1..10),
            fallback in any::<bool>(),
        ) {
            let mut vocabulary = vec![("<unk>".to_string(), 0.0)];
            vocabulary.extend(pieces.into_iter().map(|(piece, score)| (piece, -f64::from(score))));
            if fallback {
                vocabulary.extend((0..256).map(|byte| (format!("<0x{byte:02X}>"), -20.0)));
            }
            let (ours, library) = both(&vocabulary, Some(0), fallback);
            for text in texts {
                prop_assert_eq!(ids(&ours, &text), ids(&library, &text), "{:?}", text);
            }
        }
    }

    #[test]
    fn odd_vocabularies_are_the_librarys_too() {
        let piece = |text: &str, score| (text.to_string(), score);
        let vocabulary =
            [piece("<unk>", 0.0), piece("", 0.0), piece("ab", -1.0), piece("ab", -3.0), piece("a", -1.0)];
        for fallback in [false, true] {
            let (ours, library) = both(&vocabulary, Some(0), fallback);
            for text in ["", "ab", "aab", "b", "abba<unk>", "<unk>", "x<unk>y", "<unk><unk>a"] {
                assert_eq!(ids(&ours, text), ids(&library, text), "{text:?} {fallback}");
            }
        }
        let (ours, library) = both(&vocabulary, None, false);
        for text in ["", "ab", "aab", "b", "ax"] {
            assert_eq!(ids(&ours, text), ids(&library, text), "{text:?} without an unknown piece");
        }
        assert!(Unigram::new(vocabulary.to_vec(), Some(5), false).is_err());
    }

    #[test]
    fn the_type_may_stand_anywhere() {
        for json in [
            r#"{"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]]}"#,
            r#"{"unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]], "type": "Unigram", "byte_fallback": false}"#,
        ] {
            let model: PieceModel = serde_json::from_str(json).unwrap();
            assert!(matches!(&model, PieceModel::Unigram(_)));
            assert_eq!(model.token_to_id("a"), Some(1));
            assert_eq!(model.highest(), Some((1, "a".into())));
        }
        let json = r#"{"type": "WordLevel", "vocab": {"a": 0, "[UNK]": 7}, "unk_token": "[UNK]"}"#;
        let model: PieceModel = serde_json::from_str(json).unwrap();
        assert!(matches!(&model, PieceModel::Library(_)));
        assert_eq!(model.highest(), Some((7, "[UNK]".into())));
        assert!(serde_json::from_str::<PieceModel>(r#"{"type": "Unigram", "vocab": 3}"#).is_err());
    }
}
