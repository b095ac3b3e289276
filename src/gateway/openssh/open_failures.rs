//! Why channels were not opened: ssh's words, and who may have them.
//!
//! ssh says on stderr why, and tells each client that it has none, and not which words
//! are whose: of several at once it tells in another order. So each gets all that were
//! said until as many have asked as words were said.

use std::time::{Duration, Instant};

/// How long words wait for a client: one that had gone by then never asks.
const KEPT: Duration = Duration::from_secs(1);

/// Words that have not all been asked for.
#[derive(Default)]
pub struct OpenFailures {
    words: Vec<String>,
    /// How many have asked since the first.
    told: usize,
    /// When the last was said.
    last: Option<Instant>,
}

impl OpenFailures {
    /// ssh has said so, in this order.
    pub fn add(&mut self, words: impl IntoIterator<Item = String>) {
        self.forget_old();
        for words in words {
            self.words.push(words);
            self.last = Some(Instant::now());
        }
    }

    /// What the next client is told: different words are joined by `or`.
    pub fn tell(&mut self) -> Option<String> {
        self.forget_old();
        let mut all = self.words.clone();
        all.sort();
        all.dedup();
        self.told += 1;
        if self.told >= self.words.len() {
            *self = OpenFailures::default();
        }
        (!all.is_empty()).then(|| all.join(" or "))
    }

    fn forget_old(&mut self) {
        if self.last.is_some_and(|last| last.elapsed() >= KEPT) {
            *self = OpenFailures::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_gets_anothers_words_alone() {
        let mut failures = OpenFailures::default();
        assert_eq!(failures.tell(), None);
        failures.add(["a".into()]);
        assert_eq!(failures.tell().as_deref(), Some("a"));
        failures.add(["b".into(), "a".into()]);
        assert_eq!(failures.tell().as_deref(), Some("a or b"));
        failures.add(["a".into()]);
        assert_eq!(failures.tell().as_deref(), Some("a or b"));
        assert_eq!(failures.tell().as_deref(), Some("a or b"));
        assert_eq!(failures.tell(), None);
        failures.add(["c".into()]);
        failures.last = Some(Instant::now() - KEPT);
        failures.add(["d".into()]);
        assert_eq!(failures.tell().as_deref(), Some("d"));
    }
}
