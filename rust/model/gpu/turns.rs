//! Which of several alike is next: the one that has least in work.

use std::sync::{Mutex, PoisonError};

pub struct Turns(Mutex<Vec<usize>>);

/// A place with one of them, given up when dropped.
pub struct Turn<'a> {
    turns: &'a Turns,
    pub index: usize,
}

impl Turns {
    pub fn new(count: usize) -> Self {
        Self(Mutex::new(vec![0; count]))
    }

    /// The first of those with least in work.
    pub fn take(&self) -> Turn<'_> {
        let mut busy = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let index = (0..busy.len()).min_by_key(|&index| busy[index]).unwrap_or(0);
        busy[index] += 1;
        Turn { turns: self, index }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.0.lock().unwrap_or_else(PoisonError::into_inner)[self.index] -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_least_in_work_is_next() {
        let turns = Turns::new(3);
        let taken: Vec<Turn> = (0..5).map(|_| turns.take()).collect();
        assert_eq!(taken.iter().map(|turn| turn.index).collect::<Vec<_>>(), [0, 1, 2, 0, 1]);
        let mut taken = taken.into_iter();
        let first = taken.next();
        drop(first);
        drop(taken.nth(2));
        assert_eq!(turns.take().index, 0, "none is in work there");
        assert_eq!(turns.take().index, 0, "as many as anywhere, and it is the first of them");
    }
}
