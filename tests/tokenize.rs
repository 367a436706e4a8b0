//! PairTokenizer against transformers (golden files) and against the tokenizers library (properties).

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use proptest::prelude::*;
use rerankd::Error;
use rerankd::tokenize::{Encoded, EncodedPair, Overflow, PairTokenizer};
use serde_json::{Value, json};
use tokenizers::{Tokenizer, TruncationDirection, TruncationParams};

const GOLDENS: [&str; 6] = ["bert", "bert-sbert-identity", "xlm-roberta", "roberta", "electra", "distilbert"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn directory(name: &str) -> PathBuf {
    match name {
        "mini-en" => root().join("python/rerankd/models/mini-en"),
        _ => root().join("tests/golden").join(name),
    }
}

fn read(path: &Path) -> Value {
    let text = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// As the engine loads it: what the tables allow comes from elsewhere, here a generous guess.
fn load(directory: &Path) -> PairTokenizer {
    PairTokenizer::load(directory, 512, 2, 30_522).unwrap()
}

/// A copy of a golden's tokenizer with its two files changed, in a directory of its own.
fn changed(test: &str, from: &str, change: impl FnOnce(&mut Value, &mut Value)) -> PathBuf {
    let source = directory(from);
    let mut tokenizer = read(&source.join("tokenizer.json"));
    let mut config = read(&source.join("tokenizer_config.json"));
    change(&mut tokenizer, &mut config);
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tokenize").join(test);
    std::fs::create_dir_all(&target).unwrap();
    std::fs::write(target.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::write(target.join("tokenizer_config.json"), config.to_string()).unwrap();
    target
}

fn pair(
    tokenizer: &PairTokenizer,
    query: &str,
    context: &str,
    max: usize,
    overflow: Overflow,
) -> rerankd::Result<Encoded> {
    tokenizer.pair(&tokenizer.query(query)?, context, max, overflow)
}

fn single(encoded: Encoded) -> (EncodedPair, bool) {
    assert_eq!(encoded.windows.len(), 1);
    (encoded.windows.into_iter().next().unwrap(), encoded.truncated)
}

// --- against transformers ---

#[test]
fn counts_are_the_goldens() {
    let goldens = GOLDENS.map(|name| (name, directory(name).join("cases.json"), 128));
    let mini = ("mini-en", root().join("tests/golden/mini-en-cases.json"), 512);
    for (name, file, max) in goldens.into_iter().chain([mini]) {
        let tokenizer = load(&directory(name));
        assert_eq!(tokenizer.max_tokens(), max, "{name}");
        for case in read(&file).as_array().unwrap() {
            let query = tokenizer.query(case["query"].as_str().unwrap()).unwrap();
            let contexts = case["contexts"].as_array().unwrap().iter();
            for (context, tokens) in contexts.zip(case["tokens"].as_array().unwrap()) {
                let text = context.as_str().unwrap();
                let (encoded, _) = single(tokenizer.pair(&query, text, max, Overflow::Truncate).unwrap());
                assert_eq!(encoded.ids.len() as u64, tokens.as_u64().unwrap(), "{name}: {case} {text}");
                assert_eq!(encoded.ids.len(), encoded.types.len());
            }
        }
    }
}

#[test]
fn ids_and_types_are_transformers() {
    let fixture = read(&root().join("tests/golden/pair_ids.json"));
    let text = |name: &Value| {
        let text = &fixture["texts"][name.as_str().unwrap()];
        text[0].as_str().unwrap().repeat(text[1].as_u64().unwrap() as usize)
    };
    let mut tokenizers = std::collections::HashMap::new();
    for case in fixture["cases"].as_array().unwrap() {
        let (name, side) = (case[0].as_str().unwrap(), case[1].as_str().unwrap());
        let tokenizer = tokenizers.entry((name, side)).or_insert_with(|| {
            load(&changed(&format!("{name}-{side}"), name, |_, config| {
                config["truncation_side"] = json!(side)
            }))
        });
        let max = case[4].as_u64().unwrap() as usize;
        let encoded = pair(tokenizer, &text(&case[2]), &text(&case[3]), max, Overflow::Truncate).unwrap();
        let (encoded, _) = single(encoded);
        let ids: Vec<u32> = serde_json::from_value(case[5].clone()).unwrap();
        assert_eq!(encoded.ids, ids, "{name} {side} {} {} {max}", case[2], case[3]);
        let ones = case[6].as_u64().unwrap() as usize;
        let types: Vec<u8> = (0..ids.len()).map(|i| u8::from(i >= ids.len() - ones)).collect();
        assert_eq!(encoded.types, types, "{name} {side} {} {} {max}", case[2], case[3]);
    }
}

// --- against the library: every kind of post-processor, either side, any text ---

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
    #![proptest_config(ProptestConfig::with_cases(1500))]

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
        match pair(&bert.tokenizer, &query, &context, max, Overflow::TruncateContext) {
            Ok(encoded) => {
                let (encoded, truncated) = single(encoded);
                prop_assert_eq!(encoded.ids.len(), total.min(max));
                prop_assert_eq!(truncated, total > max);
                prop_assert_eq!(&encoded.ids[1..=query_ids.len()], &query_ids[..]);
                let kept = &encoded.ids[query_ids.len() + 2..encoded.ids.len() - 1];
                prop_assert!(context_ids.starts_with(kept));
            }
            Err(Error::Input { field, .. }) => {
                prop_assert_eq!(field, "query");
                prop_assert!(total > max && query_ids.len() + 4 > max);
            }
            Err(other) => panic!("{other}"),
        }
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

// --- shapes by hand ---

#[test]
fn blank_and_special_texts() {
    let tokenizer = load(&directory("bert"));
    let (encoded, truncated) = single(pair(&tokenizer, "pizza", "   ", 128, Overflow::Reject).unwrap());
    assert_eq!(encoded.ids[encoded.ids.len() - 2..], [3, 3]);
    assert!(!truncated);
    // As in transformers, special tokens typed by a caller are special tokens.
    let (encoded, _) = single(pair(&tokenizer, "[SEP]", "[CLS]", 128, Overflow::Reject).unwrap());
    assert_eq!(encoded.ids, [2, 3, 3, 2, 3]);
    assert_eq!(encoded.types, [0, 0, 0, 1, 1]);
    assert_eq!(tokenizer.query("[SEP] [SEP]").unwrap().tokens(), 2);
}

#[test]
fn types_are_zero_where_the_model_has_none() {
    for type_vocab in [0, 1] {
        let tokenizer = PairTokenizer::load(&directory("distilbert"), 512, type_vocab, 1500).unwrap();
        let (encoded, _) = single(pair(&tokenizer, "a", "b", 128, Overflow::Truncate).unwrap());
        assert!(encoded.types.iter().all(|&kind| kind == 0));
    }
    let directory = changed("untyped", "bert", |_, config| {
        config["model_input_names"] = json!(["input_ids", "attention_mask"]);
    });
    let (encoded, _) = single(pair(&load(&directory), "a", "b", 128, Overflow::Truncate).unwrap());
    assert!(encoded.types.iter().all(|&kind| kind == 0));
}

#[test]
fn limits() {
    let no_limit = changed("no-limit", "bert", |_, config| config["model_max_length"] = json!(1e30));
    assert_eq!(load(&no_limit).max_tokens(), 512);
    let as_integer = no_limit.join("tokenizer_config.json");
    std::fs::write(&as_integer, r#"{"model_max_length": 1000000000000000019884624838656}"#).unwrap();
    assert_eq!(load(&no_limit).max_tokens(), 512);
    std::fs::remove_file(as_integer).unwrap();
    assert_eq!(load(&no_limit).max_tokens(), 512);
    assert_eq!(PairTokenizer::load(&directory("bert"), 100, 2, 1500).unwrap().max_tokens(), 100);
}

#[test]
fn chunk_cuts_only_a_query_past_half() {
    let tokenizer = load(&directory("bert"));
    let long = "a ".repeat(300);
    let encoded = pair(&tokenizer, &"b ".repeat(62), &long, 128, Overflow::Chunk).unwrap();
    assert!(!encoded.truncated);
    // 63 of room: windows start at 0, 48, 96, 144, 192 and, flush with the end, 237.
    assert_eq!(encoded.windows.len(), 6);
    assert!(encoded.windows.iter().all(|window| window.ids.len() == 128));
    let encoded = pair(&tokenizer, &"b ".repeat(63), &long, 128, Overflow::Chunk).unwrap();
    assert!(encoded.truncated);
    assert!(encoded.windows.iter().all(|window| window.ids.len() == 128));
}

#[track_caller]
fn refused(error: Result<impl std::fmt::Debug, Error>, field: &str, words: &[&str]) {
    let Err(Error::Input { field: found, message }) = error else { panic!("{error:?}") };
    assert_eq!(found, field);
    assert!(words.iter().all(|word| message.contains(word)), "{message}");
}

#[test]
fn bad_requests() {
    let tokenizer = load(&directory("bert"));
    let long = "a ".repeat(200);
    let at = |query: &str, context: &str, max, overflow| pair(&tokenizer, query, context, max, overflow);
    for overflow in [Overflow::Truncate, Overflow::TruncateContext, Overflow::Chunk, Overflow::Reject] {
        refused(at("a", "b", 4, overflow), "max_tokens", &["is 4", "at least 5"]);
        refused(at("a", "b", 129, overflow), "max_tokens", &["129", "128"]);
        assert!(at("a", "b", 5, overflow).is_ok());
    }
    refused(at("a", &long, 128, Overflow::Reject), "text", &["204", "128"]);
    refused(at(&long, "b", 128, Overflow::TruncateContext), "query", &["200", "203", "128"]);
    assert!(at(&"a ".repeat(124), &long, 128, Overflow::TruncateContext).is_ok());
    refused(at(&"a ".repeat(125), &long, 128, Overflow::TruncateContext), "query", &["125", "128", "128"]);
    // It fits, so nothing is cut, though there is no room to spare.
    assert!(!at(&"a ".repeat(125), " ", 128, Overflow::TruncateContext).unwrap().truncated);
}

#[track_caller]
fn unserved(directory: &Path, words: &[&str]) {
    match PairTokenizer::load(directory, 512, 2, 1500) {
        Err(Error::Model(message)) => assert!(words.iter().all(|word| message.contains(word)), "{message}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn bad_checkpoints() {
    unserved(
        &root().join("tests/golden/modernbert"),
        &["tokenizer.json", "can't be read", "save_pretrained"],
    );
    let broken = changed("broken", "bert", |tokenizer, _| *tokenizer = json!({"version": "1.0"}));
    unserved(&broken, &["tokenizer.json", "save_pretrained"]);
    std::fs::copy(directory("bert").join("tokenizer.json"), broken.join("tokenizer.json")).unwrap();
    std::fs::write(broken.join("tokenizer_config.json"), "{").unwrap();
    unserved(&broken, &["tokenizer_config.json", "can't be parsed"]);

    let template = |name: &str, pair: Value| {
        changed(name, "bert", |tokenizer, _| tokenizer["post_processor"]["pair"] = pair)
    };
    let a = json!({"Sequence": {"id": "A", "type_id": 0}});
    let b = json!({"Sequence": {"id": "B", "type_id": 1}});
    let sep = json!({"SpecialToken": {"id": "[SEP]", "type_id": 0}});
    let far = json!({"SpecialToken": {"id": "[SEP]", "type_id": 2}});
    unserved(
        &template("twice", json!([a, sep, a, b])),
        &["tokenizer.json", "post_processor", "exactly once"],
    );
    unserved(&template("reversed", json!([b, sep, a])), &["post_processor", "before the first"]);
    unserved(&template("bare", json!([a, b])), &["post_processor", "no special tokens"]);
    unserved(&template("types", json!([a, sep, b, far])), &["post_processor", "type 2", "type_vocab_size"]);
    unserved(
        &changed("none", "bert", |tokenizer, _| tokenizer["post_processor"] = Value::Null),
        &["post_processor", "no special tokens"],
    );
    unserved(
        &changed("far-id", "bert", |tokenizer, _| {
            tokenizer["post_processor"]["special_tokens"]["[SEP]"]["ids"] = json!([1500]);
        }),
        &["1500", "vocab_size"],
    );
    unserved(
        &changed("side", "bert", |_, config| config["truncation_side"] = json!("middle")),
        &["tokenizer_config.json", "truncation_side", "middle"],
    );
    unserved(
        &changed("tiny", "bert", |_, config| config["model_max_length"] = json!(4)),
        &["4 tokens", "at least 5"],
    );
    unserved(
        &changed("luck", "roberta", |tokenizer, _| tokenizer["model"]["dropout"] = json!(0.1)),
        &["model.dropout", "0.1"],
    );
    unserved(
        &changed("unknown", "xlm-roberta", |tokenizer, _| tokenizer["model"]["unk_id"] = Value::Null),
        &["unknown character"],
    );
    match PairTokenizer::load(&directory("bert"), 512, 2, 1499) {
        Err(Error::Model(message)) => {
            assert!(message.contains("1499") && message.contains("vocab_size"), "{message}")
        }
        other => panic!("{other:?}"),
    }
}

// --- cost ---

/// Five megabytes are cut to what their beginning gives, and cost seconds at worst, not minutes.
#[test]
fn a_very_long_context() {
    for name in ["bert", "roberta", "xlm-roberta", "mini-en"] {
        let tokenizer = load(&directory(name));
        for unit in ["The quick brown fox, it's said, jumps. ", "0123456789", "東京タワー"] {
            let (long, start) = (unit.repeat(5_000_000 / unit.len()), unit.repeat(400));
            let begun = std::time::Instant::now();
            let encode = |text| single(pair(&tokenizer, "what?", text, 128, Overflow::Truncate).unwrap());
            let (encoded, truncated) = encode(&long);
            println!("{name}: {:.2} s for 5 MB of {unit:?}", begun.elapsed().as_secs_f64());
            assert!(begun.elapsed().as_secs() < 60);
            // Roberta's words of digits are merged as a whole, so a shorter one begins otherwise.
            if unit.contains(' ') {
                assert!(truncated);
                assert_eq!(encoded, encode(&start).0);
            }
        }
    }
}

/// Prints; the only claim is that threads don't get in each other's way badly. Run with --nocapture.
#[test]
fn microseconds_per_pair() {
    let pairs = 4000;
    for name in ["mini-en", "roberta", "xlm-roberta"] {
        let tokenizer = load(&directory(name));
        let cases = read(&directory(if name == "mini-en" { "bert" } else { name }).join("cases.json"));
        let cases = cases.as_array().unwrap();
        let contexts: Vec<&str> = cases
            .iter()
            .flat_map(|case| case["contexts"].as_array().unwrap())
            .map(|context| context.as_str().unwrap())
            .collect();
        let query = tokenizer.query("how to compress files on a server").unwrap();
        let run = |threads: usize| {
            let begun = std::time::Instant::now();
            let tokens: usize = std::thread::scope(|scope| {
                let work = |_| {
                    scope.spawn(|| {
                        let texts = contexts.iter().cycle().take(pairs);
                        let lengths = texts.map(|text| {
                            tokenizer.pair(&query, text, 128, Overflow::Truncate).unwrap().windows[0]
                                .ids
                                .len()
                        });
                        lengths.sum::<usize>()
                    })
                };
                let handles: Vec<_> = (0..threads).map(work).collect();
                handles.into_iter().map(|handle| handle.join().unwrap()).sum()
            });
            let microseconds = begun.elapsed().as_secs_f64() * 1e6;
            (
                microseconds / (pairs * threads) as f64,
                microseconds / tokens as f64,
                tokens / (pairs * threads),
            )
        };
        run(1);
        for threads in [1, 2] {
            let (pair, token, tokens) = run(threads);
            println!(
                "{name}, {threads} threads: {pair:.1} us a pair of {tokens} tokens, {token:.3} us a token"
            );
        }
    }
}
