//! The pair template: which special tokens stand around the query and the context, and every token's type.

use tokenizers::{Encoding, Token};

use super::{EncodedPair, Tokenizer};

/// A special token and its type.
type Special = (u32, u8);

/// `lead query middle context tail`: `[CLS] q [SEP] d [SEP]`, or `<s> q </s></s> d </s>`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Template {
    lead: Vec<Special>,
    middle: Vec<Special>,
    tail: Vec<Special>,
    query_type: u8,
    context_type: u8,
}

/// Ids that no vocabulary reaches, to find the two sequences again in what the post-processor makes of them.
const QUERY: u32 = u32::MAX - 1;
const CONTEXT: u32 = u32::MAX;

impl Template {
    /// Learns the template by running the post-processor on two sequences of one known token each. Reading its
    /// declaration instead would take a case for every kind of post-processor, and a chain of them.
    pub(super) fn derive(tokenizer: &Tokenizer) -> Result<Self, String> {
        let sequence = |id| Encoding::from_tokens(vec![Token::new(id, "x".to_owned(), (0, 1))], 0);
        let encoding = tokenizer
            .post_process(sequence(QUERY), Some(sequence(CONTEXT)), true)
            .map_err(|error| format!("post_processor: fails on a pair: {error}"))?;
        let ids = encoding.get_ids();
        let types = encoding
            .get_type_ids()
            .iter()
            .map(|&kind| {
                u8::try_from(kind).map_err(|_| format!("post_processor: type id {kind} is above 255"))
            })
            .collect::<Result<Vec<u8>, String>>()?;
        let query =
            only(ids, QUERY).ok_or("post_processor: a pair must hold the first sequence exactly once")?;
        let context =
            only(ids, CONTEXT).ok_or("post_processor: a pair must hold the second sequence exactly once")?;
        if context < query {
            return Err(
                "post_processor: puts the second sequence before the first, which is not supported".into()
            );
        }
        if ids.len() == 2 {
            return Err(
                "post_processor: adds no special tokens to a pair, so the model could not tell the query \
                        from the context; a template such as [CLS] $A [SEP] $B [SEP] is needed"
                    .into(),
            );
        }
        let specials = |range: std::ops::Range<usize>| {
            ids[range.clone()].iter().copied().zip(types[range].iter().copied()).collect::<Vec<Special>>()
        };
        Ok(Self {
            lead: specials(0..query),
            middle: specials(query + 1..context),
            tail: specials(context + 1..ids.len()),
            query_type: types[query],
            context_type: types[context],
        })
    }

    fn specials(&self) -> impl Iterator<Item = Special> {
        self.lead.iter().chain(&self.middle).chain(&self.tail).copied()
    }

    /// How many special tokens a pair has.
    pub(super) fn added(&self) -> usize {
        self.lead.len() + self.middle.len() + self.tail.len()
    }

    pub(super) fn highest_id(&self) -> u32 {
        self.specials().map(|(id, _)| id).max().unwrap_or(0)
    }

    pub(super) fn highest_type(&self) -> u8 {
        self.specials().map(|(_, kind)| kind).chain([self.query_type, self.context_type]).max().unwrap_or(0)
    }

    /// For a model without token types, or fed none: every type is zero.
    pub(super) fn without_types(mut self) -> Self {
        for special in self.lead.iter_mut().chain(&mut self.middle).chain(&mut self.tail) {
            special.1 = 0;
        }
        Self { query_type: 0, context_type: 0, ..self }
    }

    pub(super) fn splice(&self, query: &[u32], context: &[u32]) -> EncodedPair {
        let len = self.added() + query.len() + context.len();
        let mut pair = EncodedPair { ids: Vec::with_capacity(len), types: Vec::with_capacity(len) };
        pair.specials(&self.lead);
        pair.sequence(query, self.query_type);
        pair.specials(&self.middle);
        pair.sequence(context, self.context_type);
        pair.specials(&self.tail);
        pair
    }
}

impl EncodedPair {
    fn specials(&mut self, specials: &[Special]) {
        self.ids.extend(specials.iter().map(|&(id, _)| id));
        self.types.extend(specials.iter().map(|&(_, kind)| kind));
    }

    fn sequence(&mut self, ids: &[u32], kind: u8) {
        self.ids.extend_from_slice(ids);
        self.types.resize(self.ids.len(), kind);
    }
}

/// Where `id` stands, if it stands there exactly once.
fn only(ids: &[u32], id: u32) -> Option<usize> {
    let mut places = ids.iter().enumerate().filter(|&(_, &found)| found == id).map(|(place, _)| place);
    places.next().filter(|_| places.next().is_none())
}
