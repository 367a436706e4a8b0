//! Text to token ids: the query once per request, each context once, spliced by the pair template.
//!
//! The ids are those of transformers' fast tokenizers, to the token, truncation included: they tokenize the two
//! sequences of a pair separately as well, so a query's tokens don't depend on the context beside it.
//!
//! A pair whose context is some 330 characters (64 to 75 tokens) costs, its query already tokenized, on one core of an
//! AMD EPYC (Zen 3): WordPiece 100 us, byte-level BPE 75, Unigram 50; the library's own pair encoding 138, 99 and 76.
//! It is malloc and normalizing for the most part. Measured on a busy machine, best of many rounds; the test
//! `microseconds_per_pair` prints it.

mod load;
mod template;
mod trie;
mod truncate;
mod unigram;

use tokenizers::{
    DecoderWrapper, Model, NormalizerWrapper, OffsetReferential, OffsetType, PostProcessorWrapper,
    PreTokenizer, PreTokenizerWrapper, TokenizerImpl, TruncationDirection,
};

use crate::error::{Error, Result};
use template::Template;
use truncate::{Side, longest_first, windows};
use unigram::PieceModel;

/// What becomes of a pair that is longer than `max_tokens`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// The longer of the two is cut, both once they are equal: transformers' `longest_first`.
    Truncate,
    /// The query is kept whole and the context is cut: transformers' `only_second`. Only a query that would leave no
    /// room for one token of the context is cut too, to leave that room, where transformers fails.
    TruncateContext,
    /// Windows over the context, a quarter of each shared with the next; the query is kept whole in every window. Only
    /// a query that would leave the windows less than half of the room is cut, to what `longest_first` leaves of it.
    Chunk,
    /// An error.
    Reject,
}

/// A query's tokens, without special tokens.
#[derive(Debug, Clone)]
pub struct EncodedQuery {
    ids: Vec<u32>,
}

impl EncodedQuery {
    /// How many tokens the query has, special tokens not counted.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }
}

/// One sequence as the model reads it: `types[i]` is the token type of `ids[i]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedPair {
    pub ids: Vec<u32>,
    pub types: Vec<u8>,
}

/// A query and a context, ready for the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Exactly one, unless the overflow is `Chunk`; never none.
    pub windows: Vec<EncodedPair>,
    /// Whether a token of the query or of the context is in no window.
    pub truncated: bool,
}

/// The library's tokenizer with our choice of model.
type Tokenizer =
    TokenizerImpl<PieceModel, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// A checkpoint's tokenizer, for pairs. Shared by threads, and none waits for another: BPE's cache is the thread's
/// own, and Unigram's is passed by when another thread holds its lock.
#[derive(Debug)]
pub struct PairTokenizer {
    tokenizer: Tokenizer,
    template: Template,
    side: Side,
    max_tokens: usize,
}

impl PairTokenizer {
    /// The most tokens a pair may have, special tokens included.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Tokenizes a query, once for all its contexts.
    pub fn query(&self, text: &str) -> Result<EncodedQuery> {
        Ok(EncodedQuery { ids: self.ids(text, None)? })
    }

    /// Tokenizes a context and splices it with the query into at most `max_tokens` tokens.
    pub fn pair(
        &self,
        query: &EncodedQuery,
        context: &str,
        max_tokens: usize,
        overflow: Overflow,
    ) -> Result<Encoded> {
        let room = self.room(max_tokens)?;
        // A long text is tokenized no further than can matter: with more tokens than there is room for, it is cut;
        // with more than the query, it is the longer one. (The library's own early stop is shorter by the latter,
        // which gives the odd token of a query and a context that both pass the limit to the wrong one.)
        let limit = match overflow {
            Overflow::Truncate | Overflow::TruncateContext => Some(room.max(query.ids.len()) + 1),
            Overflow::Chunk | Overflow::Reject => None,
        };
        let context = self.ids(context, limit)?;
        let total = query.ids.len() + context.len();
        if total <= room {
            return Ok(self.one(query, &context, query.ids.len(), context.len()));
        }
        match overflow {
            Overflow::Truncate => {
                let (kept_query, kept) = longest_first(query.ids.len(), context.len(), room);
                Ok(self.one(query, &context, kept_query, kept))
            }
            Overflow::TruncateContext => {
                // Truncation never fails a request: a query that leaves no room is cut to leave one token's.
                let kept_query = query.ids.len().min(room - context.len().min(1));
                Ok(self.one(query, &context, kept_query, room - kept_query))
            }
            Overflow::Chunk => Ok(self.chunk(query, &context, room)),
            Overflow::Reject => Err(Error::input(
                "text",
                format!(
                    "has {} tokens with its query and the pair's special tokens, above the limit of {max_tokens}",
                    total + self.template.added(),
                ),
            )),
        }
    }

    /// The tokens that a pair of at most `max_tokens` has for its query and context.
    fn room(&self, max_tokens: usize) -> Result<usize> {
        let least = self.template.added() + 2;
        if max_tokens > self.max_tokens {
            let message =
                format!("is {max_tokens}; the model reads at most {} tokens a pair", self.max_tokens);
            return Err(Error::input("max_tokens", message));
        }
        if max_tokens < least {
            let message = format!(
                "is {max_tokens}; a pair takes at least {least}: {} special tokens and one each of query and context",
                self.template.added()
            );
            return Err(Error::input("max_tokens", message));
        }
        Ok(max_tokens - self.template.added())
    }

    /// A single window with so many tokens of the query and of the context.
    fn one(&self, query: &EncodedQuery, context: &[u32], kept_query: usize, kept: usize) -> Encoded {
        let query_range = self.side.keep(query.ids.len(), kept_query);
        let window =
            self.template.splice(&query.ids[query_range], &context[self.side.keep(context.len(), kept)]);
        Encoded { windows: vec![window], truncated: kept_query < query.ids.len() || kept < context.len() }
    }

    fn chunk(&self, query: &EncodedQuery, context: &[u32], room: usize) -> Encoded {
        let (kept, _) = longest_first(query.ids.len(), context.len(), room);
        let query_ids = &query.ids[self.side.keep(query.ids.len(), kept)];
        let windows = windows(context.len(), room - kept)
            .into_iter()
            .map(|window| self.template.splice(query_ids, &context[window]))
            .collect();
        Encoded { windows, truncated: kept < query.ids.len() }
    }

    /// A text's tokens, at least `limit` of them if it has so many. These are the steps of the library's
    /// `encode_fast`, called apart: each text comes with its own limit, which `encode_fast` has no word for, and
    /// of the seven vectors it builds we need one.
    fn ids(&self, text: &str, limit: Option<usize>) -> Result<Vec<u32>> {
        let normalizer = self.tokenizer.get_normalizer();
        let mut words = self.tokenizer.get_added_vocabulary().extract_and_normalize(normalizer, text);
        if let Some(pre_tokenizer) = self.tokenizer.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut words).map_err(fault)?;
        }
        let direction = match self.side {
            Side::Left => TruncationDirection::Left,
            Side::Right => TruncationDirection::Right,
        };
        let limit = limit.map(|limit| (limit, direction));
        self.tokenizer.get_model().tokenize_in_pretokenized(&mut words, limit).map_err(fault)?;
        let splits = words.get_splits(OffsetReferential::Normalized, OffsetType::None);
        Ok(splits
            .iter()
            .filter_map(|(_, _, tokens)| tokens.as_ref())
            .flatten()
            .map(|token| token.id)
            .collect())
    }
}

/// The loaded tokenizer was tried on a text it had never seen, so no request's text should bring it here.
fn fault(error: tokenizers::Error) -> Error {
    Error::Internal(format!("tokenizing: {error}"))
}
