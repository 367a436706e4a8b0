use proptest::prelude::*;

use super::*;

const TERMS: Terms =
    Terms { query_bytes: 40, max_tokens: 512, overflow: Overflow::Truncate, keeps_texts: true, window: None };

#[test]
fn a_pair_is_no_more_work_than_its_limit_but_windows_are() {
    let chunk = Terms { overflow: Overflow::Chunk, ..TERMS };
    assert_eq!(TERMS.work(400), 113);
    assert_eq!(chunk.work(400), 113);
    assert_eq!(TERMS.work(1 << 20), 512);
    // A MiB is 262,144 tokens, read in windows of which a quarter is shared.
    assert!(chunk.work(1 << 20) > 262_144 * 4 / 3, "{}", chunk.work(1 << 20));
}

#[test]
fn what_is_kept_counts_until_the_answer() {
    let texts = ["a".repeat(6400), "b".to_string()];
    assert_eq!(TERMS.contexts(&texts, 640), 512 + 13 + 100 + 10);
    let stream = Terms { window: Some(1000), keeps_texts: false, ..TERMS };
    assert_eq!(stream.contexts(&texts, 640), 4 + 4 + 10);
    assert_eq!(Terms { keeps_texts: true, ..stream }.contexts(&texts, 0), 4 + 4 + 100);
    assert_eq!((TERMS.request(), stream.request()), (64, 1064));
    assert_eq!(Terms { query_bytes: 64_000, ..TERMS }.request(), 1064);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    /// The promise: whatever is let in, its bytes are covered ten times by what it is admitted for.
    #[test]
    fn no_text_is_admitted_for_less_than_it_takes(
        query_bytes in 1usize..1 << 24,
        sizes in prop::collection::vec(1usize..100_000, 0..50),
        chunk: bool,
        max_tokens in 8usize..600,
    ) {
        let overflow = if chunk { Overflow::Chunk } else { Overflow::Truncate };
        let terms = Terms { query_bytes, overflow, max_tokens, ..TERMS };
        let texts: Vec<String> = sizes.iter().map(|size| "x".repeat(*size)).collect();
        let held = (terms.request() + terms.contexts(&texts, 0)) * TOKEN_BYTES;
        prop_assert!(held >= 10 * (query_bytes + sizes.iter().sum::<usize>()));
        // More text is never less work, and more of it is never admitted for less.
        prop_assert!(sizes.iter().all(|size| terms.work(*size) <= terms.work(size * 2)));
    }
}
