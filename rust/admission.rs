//! What a request is admitted for, in tokens: the work that it brings, and the memory that it takes until it is answered.
//!
//! One number limits both, so that the worst queue that is let in fits in memory: a token that is held stands for at most
//! `TOKEN_BYTES`. Pure arithmetic on counts.

use crate::tokenize::Overflow;

/// Bytes of text that count as a token, beside the work they make: a long text that is truncated is little work and much
/// memory, and so is a query, which is read once.
const BYTES_PER_TOKEN: usize = 64;

/// The most memory, in bytes, that a held token stands for: ten times the text that counts as one. The caller has it as
/// it came, as a message and as a string of up to four bytes a character; the engine has its own; and an answer may
/// echo it.
pub const TOKEN_BYTES: usize = 10 * BYTES_PER_TOKEN;

/// Every request's own, whatever its size: the call, its task and its entry here take some tens of KB.
const REQUEST_TOKENS: usize = 64;

/// Every context's own: strings, a message, a score.
const CONTEXT_TOKENS: usize = 4;

/// Bytes that make a token of the model's: text averages four.
const BYTES_PER_MODEL_TOKEN: usize = 4;

/// What is known of a request before any of it is tokenized.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Of the query's text.
    pub query_bytes: usize,
    /// Tokens per pair.
    pub max_tokens: usize,
    pub overflow: Overflow,
    /// Whether the caller keeps the texts until the answer.
    pub keeps_texts: bool,
    /// For a stream, whose contexts come and go: tokens that may wait of it at a time.
    pub window: Option<usize>,
}

impl Terms {
    /// A context's tokens before it is tokenized; a pair never passes its limit, and windows are as many pairs.
    pub fn work(&self, text_bytes: usize) -> usize {
        let query = self.query_bytes / BYTES_PER_MODEL_TOKEN + 3;
        let text = text_bytes / BYTES_PER_MODEL_TOKEN;
        if self.overflow != Overflow::Chunk || query + text <= self.max_tokens {
            return (query + text).min(self.max_tokens);
        }
        // As the tokenizer cuts them: the query takes at most half of a window, and windows share a quarter of the rest.
        let room = (self.max_tokens - query.min(self.max_tokens / 2)).max(1);
        text.div_ceil(room - room / 4) * self.max_tokens
    }

    /// What the request is admitted for before its contexts are counted.
    pub fn request(&self) -> usize {
        REQUEST_TOKENS + self.query_bytes / BYTES_PER_TOKEN + self.window.unwrap_or(0)
    }

    /// The contexts' tokens before they are tokenized.
    pub fn works(&self, texts: &[String]) -> usize {
        texts.iter().map(|text| self.work(text.len())).fold(0, usize::saturating_add)
    }

    /// What contexts add to it: of a stream only what stays when they have been computed. `key_bytes`: of their keys.
    pub fn contexts(&self, texts: &[String], key_bytes: usize) -> usize {
        let kept = if self.keeps_texts { texts.iter().map(String::len).sum() } else { 0 } + key_bytes;
        let own = texts.iter().map(|text| match self.window {
            Some(_) => CONTEXT_TOKENS,
            None => CONTEXT_TOKENS.max(self.work(text.len())),
        });
        own.fold(kept / BYTES_PER_TOKEN, usize::saturating_add)
    }
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
