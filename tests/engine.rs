//! The engine's manners: what it refuses, and what becomes of requests that end early.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::*;
use rerankd::Error;
use rerankd::engine::{Engine, Options};
use rerankd::pool::Pool;
use rerankd::scheduler::Limits;
use rerankd::tokenize::Overflow;

fn many(n: usize) -> Vec<&'static str> {
    vec!["Bamboo forests grow quickly, and pandas eat little else than bamboo."; n]
}

#[test]
fn a_score_has_the_same_bits_alone_in_any_batch_and_with_any_number_of_threads() {
    let bits = |logits: Vec<f32>| logits.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    for (directory, dtype) in [mini_en(), golden("xlm-roberta"), golden("electra")]
        .iter()
        .flat_map(|directory| ["f32", "bf16", "int8"].map(|dtype| (directory, dtype)))
    {
        let engine = |threads| {
            let options = Options { dtype: dtype.into(), emulate: true, ..options(directory) };
            Engine::load(pool(threads), &options).unwrap()
        };
        let contexts: Vec<String> = (0..23).map(|i| "Pandas eat bamboo. ".repeat(1 + i * 7 % 23)).collect();
        let contexts: Vec<&str> = contexts.iter().map(String::as_str).collect();
        let want = bits(logits(&engine(1), "what is a panda?", &contexts));
        for threads in 1..=3 {
            let engine = engine(threads);
            for _ in 0..3 {
                let got = bits(logits(&engine, "what is a panda?", &contexts));
                assert_eq!(got, want, "{dtype}, {threads} threads");
                for (context, want) in contexts.iter().zip(&want) {
                    assert_eq!(bits(logits(&engine, "what is a panda?", &[context])), [*want], "{dtype}");
                }
            }
        }
    }
}

#[test]
fn requests_that_come_while_threads_assist_have_the_same_bits() {
    let engine = engine(&mini_en(), 3);
    let contexts: Vec<String> = (0..12).map(|i| "Pandas eat bamboo. ".repeat(1 + i * 5 % 12)).collect();
    let contexts: Vec<&str> = contexts.iter().map(String::as_str).collect();
    let want = logits(&engine, "what is a panda?", &contexts);
    std::thread::scope(|scope| {
        for asker in 0..4usize {
            let (engine, contexts, want) = (&engine, &contexts, &want);
            scope.spawn(move || {
                for round in 0..40 {
                    // One pair, or a few; with a deadline to watch, or none.
                    let some = (asker + round) % 12..((asker + round) % 12 + 1 + round % 4).min(12);
                    let deadline = (round % 2 == 0).then(|| Instant::now() + Duration::from_secs(600));
                    let request = rerankd::request::Job {
                        deadline,
                        ..job("what is a panda?", &contexts[some.clone()])
                    };
                    assert_eq!(ask(engine, request).unwrap().logits, want[some]);
                }
            });
        }
    });
    assert_eq!((engine.stats().tickets, engine.stats().queue_tokens), (0, 0));
    assert_eq!(engine.pool().stats().held_tokens, 0);
}

#[test]
fn progressive_completions_bring_every_context_once_and_then_the_end() {
    let engine = engine(&mini_en(), 2);
    let whole = logits(&engine, "what is a panda?", &many(60));
    let completions = completions();
    let mut first = job("what is a panda?", &many(40));
    (first.progressive, first.more) = (true, true);
    let ticket = engine.submit(first, completions.clone()).unwrap();
    engine.extend(ticket, many(20).iter().map(|text| text.to_string()).collect(), 0, false).unwrap();
    let all = collect(&completions);
    assert!(all.len() > 2, "more than one wave");
    assert!(all.iter().rev().skip(1).all(|c| !c.last && !c.ids.is_empty()));
    assert!(all.last().unwrap().ids.is_empty());
    let mut scored: Vec<(u32, f32)> =
        all.iter().flat_map(|c| c.ids.iter().copied().zip(c.logits.iter().copied())).collect();
    scored.sort_by_key(|(id, _)| *id);
    assert_eq!(scored.iter().map(|(id, _)| *id).collect::<Vec<_>>(), (0..60).collect::<Vec<_>>());
    assert_eq!(scored.into_iter().map(|(_, logit)| logit).collect::<Vec<_>>(), whole);
}

#[test]
fn bad_fields_are_named() {
    let engine = engine(&golden("bert"), 1);
    let field = |job| match ask(&engine, job) {
        Err(Error::Input { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(field(job("", &["a"])), "query");
    assert_eq!(field(job("q", &["a", "b", ""])), "contexts[2].text");
    assert_eq!(field(rerankd::request::Job { max_tokens: Some(129), ..job("q", &["a"]) }), "max_tokens");
    assert_eq!(field(rerankd::request::Job { max_tokens: Some(2), ..job("q", &["a"]) }), "max_tokens");
    let long = "word ".repeat(200);
    let reject = rerankd::request::Job { overflow: Overflow::Reject, ..job("q", &["a", &long]) };
    assert_eq!(field(reject), "contexts[1].text");
}

#[test]
fn no_contexts_are_an_empty_answer_and_windows_give_the_best_one() {
    let engine = engine(&mini_en(), 1);
    assert!(ask(&engine, job("q", &[])).unwrap().ids.is_empty());
    let filler =
        "Nothing of note happened in the harbour that year, and the ledgers stay silent. ".repeat(60);
    let context = format!("{filler}The giant panda is a bear native to China.");
    let ask_with = |overflow| {
        ask(&engine, rerankd::request::Job { overflow, ..job("where do giant pandas live?", &[&context]) })
            .unwrap()
    };
    let (cut, windows) = (ask_with(Overflow::Truncate), ask_with(Overflow::Chunk));
    assert_eq!((windows.ids.clone(), windows.truncated.clone()), (vec![0], vec![false]));
    assert!(cut.truncated[0]);
    assert!(windows.logits[0] > cut.logits[0] + 1.0, "{} {}", windows.logits[0], cut.logits[0]);
}

#[test]
fn a_deadline_that_has_passed_costs_no_wave() {
    let engine = engine(&mini_en(), 1);
    let late = rerankd::request::Job { deadline: Some(Instant::now()), ..job("q", &many(100)) };
    assert!(matches!(ask(&engine, late), Err(Error::Deadline(_))));
    let stats = engine.stats();
    assert_eq!(
        (stats.counters.expired, stats.counters.pairs, stats.tickets, stats.queue_tokens),
        (1, 0, 0, 0)
    );
}

#[test]
fn a_budget_scores_a_prefix_with_the_same_bits() {
    let engine = engine(&mini_en(), 2);
    let whole = logits(&engine, "what is a panda?", &many(400));
    let budget = Some(Instant::now() + Duration::from_millis(100));
    let partial =
        ask(&engine, rerankd::request::Job { budget, ..job("what is a panda?", &many(400)) }).unwrap();
    let mut all: Vec<u32> = partial.ids.iter().chain(&partial.unscored).copied().collect();
    all.sort_unstable();
    assert_eq!(all, (0..400).collect::<Vec<_>>());
    assert!(partial.unscored.is_sorted());
    for (id, logit) in partial.ids.iter().zip(&partial.logits) {
        assert_eq!(logit.to_bits(), whole[*id as usize].to_bits());
    }
    let spent = rerankd::request::Job { budget: Some(Instant::now()), ..job("what is a panda?", &many(5)) };
    assert_eq!(ask(&engine, spent).unwrap().unscored, [0, 1, 2, 3, 4]);
}

#[test]
fn a_cancelled_request_leaves_nothing_behind() {
    let engine = engine(&mini_en(), 1);
    let completions = completions();
    let ticket = engine.submit(job("what is a panda?", &many(500)), completions.clone()).unwrap();
    engine.cancel(ticket);
    engine.cancel(ticket);
    engine.cancel(12345);
    let stats = engine.stats();
    assert_eq!((stats.tickets, stats.queue_tokens, stats.counters.cancelled), (0, 0, 1));
    // The next request is served, and of the cancelled one nothing has been completed.
    assert_eq!(logits(&engine, "q", &["a"]).len(), 1);
    assert!(completions.drain().is_empty());
}

#[test]
fn draining_refuses_what_is_new_and_serves_what_is_queued() {
    let engine = engine(&mini_en(), 1);
    let completions = completions();
    engine.submit(job("q", &many(20)), completions.clone()).unwrap();
    engine.drain();
    assert!(matches!(ask(&engine, job("q", &["a"])), Err(Error::Overloaded(_))));
    assert_eq!(collect(&completions).pop().unwrap().ids.len(), 20);
    engine.close();
    assert!(matches!(ask(&engine, job("q", &["a"])), Err(Error::Overloaded(_))));
}

#[test]
fn closing_fails_what_is_queued() {
    let engine = engine(&mini_en(), 1);
    let completions = completions();
    engine.submit(job("q", &many(500)), completions.clone()).unwrap();
    engine.close();
    let last = collect(&completions).pop().unwrap();
    assert!(matches!(last.error, Some(Error::Overloaded(_))), "{last:?}");
}

#[test]
fn a_full_queue_refuses() {
    let pool = Arc::new(Pool::new(Limits { queue_tokens: 1000, ..limits(1) }).unwrap());
    let engine = Engine::load(pool, &options(&mini_en())).unwrap();
    let completions = completions();
    let big = engine.submit(job("q", &many(500)), completions.clone()).unwrap();
    assert!(matches!(ask(&engine, job("q", &many(500))), Err(Error::Overloaded(_))));
    engine.cancel(big);
    assert_eq!(logits(&engine, "q", &["a"]).len(), 1);
}

#[test]
fn what_can_not_be_done_by_its_deadline_is_refused_with_when_to_come_back() {
    let engine = engine(&mini_en(), 2);
    // It knows how fast it is when it has computed something.
    logits(&engine, "what is a panda?", &many(500));
    let completions = completions();
    let big = engine.submit(job("what is a panda?", &many(900)), completions.clone()).unwrap();
    let within =
        |time| rerankd::request::Job { deadline: Some(Instant::now() + time), ..job("q", &many(800)) };
    let Err(Error::Overloaded(refusal)) = ask(&engine, within(Duration::from_millis(1))) else {
        panic!("900 contexts and 800 more are no work for a millisecond");
    };
    assert!(refusal.message.contains("past its deadline"), "{refusal}");
    assert!(refusal.retry_after.is_some_and(|after| after >= Duration::from_millis(10)));
    assert_eq!(engine.stats().counters.refused, 1);
    assert_eq!(ask(&engine, within(Duration::from_secs(600))).unwrap().ids.len(), 800);
    engine.cancel(big);
}

#[test]
fn models_of_one_pool_share_its_threads_and_its_queue() {
    let shared = Arc::new(Pool::new(Limits { queue_tokens: 25_000, ..limits(2) }).unwrap());
    let [one, two] =
        [mini_en(), golden("electra")].map(|dir| Engine::load(shared.clone(), &options(&dir)).unwrap());
    let want = [&mini_en(), &golden("electra")].map(|dir| logits(&engine(dir, 1), "panda", &many(3)));
    let completions = completions();
    let big = one.submit(job("what is a panda?", &many(900)), completions.clone()).unwrap();
    // The queue is one: what the first model holds is not there for the second.
    assert!(matches!(ask(&two, job("q", &many(900))), Err(Error::Overloaded(_))));
    // The small request of the second does not wait for the first's big one.
    assert_eq!(logits(&two, "panda", &many(3)), want[1]);
    assert_eq!((one.stats().tickets, two.stats().tickets), (1, 0));
    one.cancel(big);
    assert_eq!(logits(&one, "panda", &many(3)), want[0]);
    let (first, second) = (one.stats().counters, two.stats().counters);
    assert_eq!((first.cancelled, second.cancelled, first.refused, second.refused), (1, 0, 0, 1));
    assert_eq!(second.pairs, 3);
    assert_eq!(second.wave_tokens.sum, second.tokens);
    assert_eq!(second.queue_us.counts.iter().sum::<u64>(), 1);
    // A model that goes takes nothing with it.
    drop(one);
    assert_eq!(logits(&two, "panda", &many(3)), want[1]);
    assert_eq!((shared.stats().held_tokens, shared.stats().threads), (0, 2));
}

#[test]
fn what_a_stream_keeps_is_bounded_and_what_it_does_not_keep_is_let_go() {
    let pool = Arc::new(Pool::new(Limits { queue_tokens: 4000, ..limits(1) }).unwrap());
    let engine = Engine::load(pool, &options(&mini_en())).unwrap();
    let open = |keeps_texts| {
        let completions = completions();
        let stream = rerankd::request::Job { progressive: true, more: true, keeps_texts, ..job("q", &["a"]) };
        engine.submit(stream, completions.clone()).map(|ticket| (ticket, completions))
    };
    let ((keeping, _), (flowing, completions)) = (open(true).unwrap(), open(false).unwrap());
    let text = || vec!["bamboo ".repeat(4000)]; // 28,000 bytes: 437 tokens where it is kept
    let kept = (0..50).take_while(|_| engine.extend(keeping, text(), 0, true).is_ok()).count();
    assert!((8..12).contains(&kept), "{kept}");
    for _ in 0..50 {
        engine.extend(flowing, text(), 0, true).unwrap();
    }
    engine.extend(flowing, Vec::new(), 0, false).unwrap();
    assert_eq!(collect(&completions).iter().map(|c| c.ids.len()).sum::<usize>(), 51);
    engine.cancel(keeping);
    assert_eq!(engine.pool().stats().held_tokens, 0);
}

#[test]
fn windows_are_counted_before_they_are_read() {
    let pool = Arc::new(Pool::new(Limits { queue_tokens: 20_000, ..limits(1) }).unwrap());
    let engine = Engine::load(pool, &options(&mini_en())).unwrap();
    let _small = engine.submit(job("q", &many(100)), completions()).unwrap();
    let long = "bamboo ".repeat(9000); // one context, at most 512 tokens of it where it is cut
    let with = |overflow| rerankd::request::Job { overflow, ..job("q", &[&long]) };
    assert!(matches!(ask(&engine, with(Overflow::Chunk)), Err(Error::Overloaded(_))));
    assert!(ask(&engine, with(Overflow::Truncate)).unwrap().truncated[0]);
}

#[test]
fn a_model_that_gives_nan_fails_its_request_and_the_engine_goes_on() {
    let directory = copy_of("distilbert", "nan");
    let file = directory.join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let parsed = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let bias = parsed.tensor("classifier.bias").unwrap();
    let at = bias.data().as_ptr() as usize - bytes.as_ptr() as usize;
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&file, bytes).unwrap();
    let engine = engine(&directory, 1);
    for _ in 0..2 {
        assert!(matches!(ask(&engine, job("q", &["a"])), Err(Error::Internal(_))));
    }
}

#[test]
fn checkpoints_that_cannot_be_served_are_refused_in_a_sentence() {
    for name in ["modernbert", "deberta-v2"] {
        let message = model_error(Engine::load(pool(1), &options(&golden(name))));
        assert!(
            message.contains("config.json: model_type") && message.contains("supported: bert"),
            "{message}"
        );
    }
    let refused = |test: &str, change: &dyn Fn(&std::path::Path)| {
        let directory = copy_of("bert", test);
        change(&directory);
        model_error(Engine::load(pool(1), &options(&directory)))
    };
    let truncated = refused("truncated", &|dir| {
        let file = dir.join("model.safetensors");
        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    });
    assert!(truncated.contains("model.safetensors: not a whole safetensors file"), "{truncated}");
    let garbage =
        refused("garbage", &|dir| std::fs::write(dir.join("model.safetensors"), [255; 100]).unwrap());
    assert!(garbage.contains("model.safetensors: not a whole safetensors file"), "{garbage}");
    let missing = refused("no-weights", &|dir| std::fs::remove_file(dir.join("model.safetensors")).unwrap());
    assert!(missing.contains("there is no such file"), "{missing}");
    let tokenizer = refused("no-tokenizer", &|dir| std::fs::remove_file(dir.join("tokenizer.json")).unwrap());
    assert!(tokenizer.contains("tokenizer.json"), "{tokenizer}");
    let shape = refused("shape", &|dir| {
        let file = dir.join("config.json");
        let text = std::fs::read_to_string(&file)
            .unwrap()
            .replace("\"intermediate_size\": 176", "\"intermediate_size\": 180");
        std::fs::write(&file, text).unwrap();
    });
    assert!(shape.contains("has shape [176, 64], but config.json makes it [180, 64]"), "{shape}");
    let layers = refused("layers", &|dir| {
        let file = dir.join("config.json");
        let text = std::fs::read_to_string(&file)
            .unwrap()
            .replace("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 4");
        std::fs::write(&file, text).unwrap();
    });
    assert!(layers.contains("encoder.layer.3.") && layers.contains("is missing"), "{layers}");
    let nowhere = model_error(Engine::load(pool(1), &options(std::path::Path::new("no/such/place"))));
    assert!(nowhere.contains("no such directory"), "{nowhere}");
}
