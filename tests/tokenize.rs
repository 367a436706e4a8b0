//! PairTokenizer against transformers (golden files) and against the tokenizers library (properties).

use std::path::{Path, PathBuf};

use rerankd::Error;
use rerankd::tokenize::{Encoded, EncodedPair, Overflow, PairTokenizer};
use serde_json::{Value, json};
use tokenizers::Tokenizer;

#[path = "tokenize/properties.rs"]
mod properties;

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
    // The goldens name transformers' generic class, which has no token types; most checkpoints name BERT's.
    if matches!(from, "bert" | "electra") {
        config["tokenizer_class"] = json!("BertTokenizer");
    }
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
                *config = read(&directory(name).join("tokenizer_config.json"));
                config["truncation_side"] = json!(side);
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

// --- shapes by hand ---

#[test]
fn blank_and_special_texts() {
    let tokenizer = load(&changed("typed", "bert", |_, _| ()));
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
    let types = |change: fn(&mut Value)| {
        let directory = changed("untyped", "bert", |_, config| change(config));
        single(pair(&load(&directory), "a", "b", 128, Overflow::Truncate).unwrap()).0.types
    };
    assert_eq!(types(|_| ()), [0, 0, 0, 1, 1]);
    assert_eq!(types(|config| config["tokenizer_class"] = Value::Null), [0, 0, 0, 1, 1]);
    assert_eq!(types(|config| config["tokenizer_class"] = json!("TokenizersBackend")), [0; 5]);
    assert_eq!(types(|config| config["model_input_names"] = json!(["input_ids", "attention_mask"])), [0; 5]);
    let named = |config: &mut Value| {
        config["tokenizer_class"] = json!("TokenizersBackend");
        config["model_input_names"] = json!(["input_ids", "token_type_ids", "attention_mask"]);
    };
    assert_eq!(types(named), [0, 0, 0, 1, 1]);
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

/// A text far past the limit is cut to what its beginning gives, in time that grows as the text does. Measured at
/// 5 MB: 2.3 to 3.7 s, most of it the library's normalizing.
#[test]
fn a_very_long_context() {
    for name in ["bert", "roberta", "xlm-roberta"] {
        let tokenizer = load(&directory(name));
        for unit in ["The quick brown fox, it's said, jumps. ", "0123456789", "東京タワー"] {
            let begun = std::time::Instant::now();
            let encode =
                |text: &str| single(pair(&tokenizer, "what?", text, 128, Overflow::Truncate).unwrap());
            let (encoded, truncated) = encode(&unit.repeat(1_000_000 / unit.len()));
            println!("{name}: {:.2} s for 1 MB of {unit:?}", begun.elapsed().as_secs_f64());
            assert!(begun.elapsed().as_secs() < 60);
            // Without spaces the text may be one word, whose beginning depends on its end.
            if unit.contains(' ') {
                assert!(truncated);
                assert_eq!(encoded, encode(&unit.repeat(400)).0);
            }
        }
    }
}

/// Prints what a pair costs, beside the library's own pair encoding. Run it alone, with --nocapture.
#[test]
fn microseconds_per_pair() {
    let cases = read(&directory("bert").join("cases.json"));
    let contexts = cases.as_array().unwrap().iter().flat_map(|case| case["contexts"].as_array().unwrap());
    let contexts: Vec<String> = contexts.map(|context| context.as_str().unwrap().repeat(4)).collect();
    let (texts, count) = (|| contexts.iter(), contexts.len());
    let question = "how to compress files on a server";
    for name in ["mini-en", "roberta", "xlm-roberta"] {
        let tokenizer = load(&directory(name));
        let query = tokenizer.query(question).unwrap();
        let ours =
            |text: &str| tokenizer.pair(&query, text, 128, Overflow::Truncate).unwrap().windows[0].ids.len();
        let tokens = texts().map(|text| ours(text)).sum::<usize>() / count;
        let one = microseconds(1, count, || texts().map(|text| ours(text)).sum());
        let two = microseconds(2, count, || texts().map(|text| ours(text)).sum());
        let mut library = Tokenizer::from_file(directory(name).join("tokenizer.json")).unwrap();
        library.with_truncation(None).unwrap().with_padding(None);
        let encode = |text: &str| library.encode_fast((question, text), true).unwrap().len();
        let theirs = microseconds(1, count, || texts().map(|text| encode(text)).sum());
        println!(
            "{name}: {tokens} tokens a pair: {one:.1} us; on two threads {two:.1} us each; library {theirs:.1} us"
        );
    }
}

/// Per pair, on each of so many threads; the best of many short rounds, for the machine has other work.
fn microseconds(threads: usize, pairs: usize, work: impl Fn() -> usize + Sync) -> f64 {
    let round = || {
        let begun = std::time::Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| std::hint::black_box(work()));
            }
        });
        begun.elapsed().as_secs_f64() * 1e6 / pairs as f64
    };
    (0..60).map(|_| round()).fold(f64::INFINITY, f64::min)
}
