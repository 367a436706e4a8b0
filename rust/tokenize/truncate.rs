//! Which tokens of a pair are kept: arithmetic on counts, with no tokenizer in sight.

use std::ops::Range;

/// The side that truncation cuts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

impl Side {
    /// The range of `count` tokens that remains when only `kept` may.
    pub(super) fn keep(self, count: usize, kept: usize) -> Range<usize> {
        let kept = kept.min(count);
        match self {
            Side::Left => count - kept..count,
            Side::Right => 0..kept,
        }
    }
}

/// How many tokens of each sequence `longest_first` keeps within `room` (the limit less the special tokens): the
/// shorter one is cut only when both pass half, and the odd token goes to the longer one, the context on a tie.
/// This is the tokenizers library's rule; a loop which removes tokens one by one gives the odd one differently.
pub(super) fn longest_first(query: usize, context: usize, room: usize) -> (usize, usize) {
    if query + context <= room {
        return (query, context);
    }
    let short = query.min(context);
    let short = if 2 * short <= room { short } else { room / 2 };
    let long = room - short;
    if query > context { (long, short) } else { (short, long) }
}

/// The share of consecutive windows' room that they have in common: a quarter, so that a passage cut by one
/// window's edge stands whole in the next, at the price of a third more computing.
const OVERLAP: usize = 4;

/// The windows over `count` tokens, `room` each, in order. The last one ends with the text and is as full as the
/// others: it overlaps more rather than show the model a stub. Every token lies in at least one window.
pub(super) fn windows(count: usize, room: usize) -> Vec<Range<usize>> {
    let room = room.max(1);
    if count <= room {
        return std::iter::once(0..count).collect();
    }
    let last = count - room;
    let starts = (0..last).step_by(room - room / OVERLAP);
    starts.chain(std::iter::once(last)).map(|start| start..start + room).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The library's own code (utils/truncation.rs), kept as it is written there, to check the closed form by.
    fn library(mut n1: usize, mut n2: usize, max: usize) -> (usize, usize) {
        if n1 + n2 <= max {
            return (n1, n2);
        }
        let swap = n1 > n2;
        if swap {
            std::mem::swap(&mut n1, &mut n2);
        }
        n2 = if n1 > max { n1 } else { n1.max(max - n1) };
        if n1 + n2 > max {
            n1 = max / 2;
            n2 = n1 + max % 2;
        }
        if swap { (n2, n1) } else { (n1, n2) }
    }

    #[test]
    fn longest_first_is_the_librarys() {
        for max in 0..24 {
            for query in 0..40 {
                for context in 0..40 {
                    assert_eq!(
                        longest_first(query, context, max),
                        library(query, context, max),
                        "{query} {context} {max}"
                    );
                }
            }
        }
    }

    #[test]
    fn windows_cover_every_token_in_order() {
        for count in 0..200 {
            for room in 1..40 {
                let windows = windows(count, room);
                assert_eq!(windows[0].start, 0);
                assert_eq!(windows[windows.len() - 1].end, count);
                for pair in windows.windows(2) {
                    assert!(pair[0].start < pair[1].start && pair[1].start <= pair[0].end);
                    assert!(pair[0].end - pair[1].start >= room / OVERLAP, "{count} {room}");
                }
                assert!(windows.iter().all(|w| w.len() == room.min(count)));
            }
        }
    }

    #[test]
    fn sides() {
        assert_eq!(Side::Right.keep(5, 3), 0..3);
        assert_eq!(Side::Left.keep(5, 3), 2..5);
        assert_eq!(Side::Left.keep(2, 3), 0..2);
    }
}
