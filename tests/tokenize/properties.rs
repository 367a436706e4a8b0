//! Against the tokenizers library: every kind of post-processor, either side, any text.

use std::sync::LazyLock;

use proptest::prelude::*;
use tokenizers::{TruncationDirection, TruncationParams};

use super::*;

struct Variant {
    name: &'static str,
    tokenizer: PairTokenizer,
    library: Tokenizer,
    direction: TruncationDirection,
}

impl Variant {
    fn new(name: &'static str, from: &str, change: impl FnOnce(&mut Value, &mut Value)) -> Self {
        let directory = changed(name, from, change);
        let left = read(&directory.join("tokenizer_config.json"))["truncation_side"] == "left";
        let mut library = Tokenizer::from_file(directory.join("tokenizer.json")).unwrap();
        library.with_truncation(None).unwrap().with_padding(None);
        let direction = if left { TruncationDirection::Left } else { TruncationDirection::Right };
        Self { name, tokenizer: load(&directory), library, direction }
    }

    /// The library's truncation and post-processing, by true lengths as in its 0.23.3: its `encode` stops early.
    fn reference(&self, query: &str, context: &str, max_length: usize) -> (Vec<u32>, Vec<u8>) {
        let encode = |text| self.library.encode(text, false).unwrap();
        let (query, context) = (encode(query), encode(context));
        let mut library = self.library.clone();
        let params = TruncationParams { max_length, direction: self.direction, ..Default::default() };
        library.with_truncation(Some(params)).unwrap();
        let pair = library.post_process(query, Some(context), true).unwrap();
        (pair.get_ids().to_vec(), pair.get_type_ids().iter().map(|&kind| kind as u8).collect())
    }
}

static VARIANTS: LazyLock<Vec<Variant>> = LazyLock::new(|| {
    let bert = json!({"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]});
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let roberta = json!({"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0], "trim_offsets": true,
               "add_prefix_space": true});
    let (byte_level, roberta) = (&byte_level, &roberta);
    vec![
        Variant::new("template", "bert", |_, _| ()),
        Variant::new("template-left", "bert", |_, config| config["truncation_side"] = json!("left")),
        Variant::new("bert-processing", "bert", |tokenizer, _| tokenizer["post_processor"] = bert),
        Variant::new("roberta-processing", "roberta", |_, _| ()),
        Variant::new("prefix-space-left", "roberta", |tokenizer, config| {
            tokenizer["pre_tokenizer"] = byte_level.clone();
            tokenizer["post_processor"] = roberta.clone();
            config["truncation_side"] = json!("left");
        }),
        Variant::new("sequence", "roberta", |tokenizer, _| {
            tokenizer["pre_tokenizer"] = byte_level.clone();
            tokenizer["post_processor"] = json!({"type": "Sequence", "processors": [byte_level, roberta]});
        }),
        Variant::new("unigram", "xlm-roberta", |_, _| ()),
        Variant::new("saved-limit-and-padding", "electra", |tokenizer, _| {
            tokenizer["truncation"] =
                json!({"direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 0});
            tokenizer["padding"] = json!({"strategy": {"Fixed": 64}, "direction": "Right",
                "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"});
        }),
    ]
});

/// Words, marks, special tokens, scripts and any characters at all, a few tokens to some dozens.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        6 => "[a-zA-Z]{1,9}",
        2 => prop::sample::select(vec!["[SEP]", "</s>", "<mask>", "[CLS]", "東京", "é", "  ", "\n", "ﬁ", "🔥"])
            .prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
        1 => "[ -~]{0,6}",
    ];
    (prop::collection::vec(piece, 0..24), prop::bool::weighted(0.8))
        .prop_map(|(pieces, apart)| pieces.join(if apart { " " } else { "" }))
}

proptest! {
    // No file of past failures: a case that failed belongs above as a test of its own.
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn truncate_is_the_librarys(variant in 0..8usize, query in text(), context in text(), max in 14..64usize) {
        let variant = &VARIANTS[variant];
        let encoded = pair(&variant.tokenizer, &query, &context, max, Overflow::Truncate).unwrap();
        let (encoded, truncated) = single(encoded);
        let (ids, types) = variant.reference(&query, &context, max);
        prop_assert_eq!(&encoded.ids, &ids, "{}", variant.name);
        prop_assert_eq!(&encoded.types, &types, "{}", variant.name);
        let (whole, _) = variant.reference(&query, &context, 100_000);
        prop_assert!(ids.len() <= max);
        prop_assert_eq!(truncated, whole.len() > max);
    }

    #[test]
    fn reject_takes_what_fits(variant in 0..8usize, query in text(), context in text(), max in 14..64usize) {
        let variant = &VARIANTS[variant];
        let (whole, _) = variant.reference(&query, &context, 100_000);
        match pair(&variant.tokenizer, &query, &context, max, Overflow::Reject) {
            Ok(encoded) => prop_assert_eq!(single(encoded).0.ids, whole),
            Err(Error::Input { field, message }) => {
                prop_assert_eq!(field, "text");
                prop_assert!(whole.len() > max);
                prop_assert!(message.contains(&whole.len().to_string()) && message.contains(&max.to_string()));
            }
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn truncate_context_keeps_the_query(query in text(), context in text(), max in 14..64usize) {
        let bert = &VARIANTS[0];
        let ids = |text: &str| bert.library.encode(text, false).unwrap().get_ids().to_vec();
        let (query_ids, context_ids) = (ids(&query), ids(&context));
        let total = query_ids.len() + context_ids.len() + 3;
        let encoded = pair(&bert.tokenizer, &query, &context, max, Overflow::TruncateContext).unwrap();
        let (encoded, truncated) = single(encoded);
        prop_assert_eq!(encoded.ids.len(), total.min(max));
        prop_assert_eq!(truncated, total > max);
        // The whole query, or all that leaves room for one token of the context.
        let kept_query = query_ids.len().min(max - 3 - context_ids.len().min(1));
        prop_assert_eq!(&encoded.ids[1..=kept_query], &query_ids[..kept_query]);
        let kept = &encoded.ids[kept_query + 2..encoded.ids.len() - 1];
        prop_assert!(context_ids.starts_with(kept));
        prop_assert!(!kept.is_empty() || context_ids.is_empty());
    }

    #[test]
    fn chunk_covers_the_context(query in text(), context in text(), max in 5..48usize) {
        let bert = &VARIANTS[0];
        let ids = |text: &str| bert.library.encode(text, false).unwrap().get_ids().to_vec();
        let (query_ids, context_ids) = (ids(&query), ids(&context));
        let encoded = pair(&bert.tokenizer, &query, &context, max, Overflow::Chunk).unwrap();
        let room = max - 3;
        let kept = query_ids.len().min((room / 2).max(room.saturating_sub(context_ids.len())));
        // The odd token is the query's when it is the longer one.
        let kept = if query_ids.len() > context_ids.len() { query_ids.len().min(kept.max(room - room / 2)) } else { kept };
        prop_assert_eq!(encoded.truncated, kept < query_ids.len());
        let mut covered = 0;
        for window in &encoded.windows {
            prop_assert!(window.ids.len() <= max);
            prop_assert_eq!(&window.ids[1..=kept], &query_ids[..kept]);
            let part = &window.ids[kept + 2..window.ids.len() - 1];
            let start = (0..=covered).rev().find(|&start| {
                context_ids[start..].starts_with(part) && start + part.len() >= covered
            });
            prop_assert!(start.is_some(), "a gap, or tokens out of order");
            // Repeated tokens may match in several places; the one that leads furthest can't hide a gap that is
            // there, for the last window must end with the context.
            covered = start.unwrap() + part.len();
        }
        prop_assert_eq!(covered, context_ids.len());
    }
}
