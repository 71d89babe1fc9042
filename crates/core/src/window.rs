//! The data window: the answers generated in this iteration and in the few before it.

use std::collections::VecDeque;

/// Generated answers of the last few iterations, oldest first; the newest is this iteration's.
///
/// Only the answers carry over. The opponent's log-probs of them do not: each iteration scores the
/// whole window again with its own opponent.
#[derive(Debug, Clone)]
pub struct Window<G> {
    size: usize,
    held: VecDeque<(usize, G)>,
}

impl<G> Window<G> {
    /// An empty window over `size` iterations (at least 1).
    pub fn new(size: usize) -> Self {
        Window {
            size: size.max(1),
            held: VecDeque::new(),
        }
    }

    /// Takes in iteration `t`'s answers and lets go of those that have left the window.
    pub fn push(&mut self, t: usize, generated: G) {
        self.held.push_back((t, generated));
        while self.held.len() > self.size {
            self.held.pop_front();
        }
    }

    /// Iteration and answers, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (usize, &G)> + ExactSizeIterator {
        self.held.iter().map(|(t, generated)| (*t, generated))
    }

    /// How many iterations it holds.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether it holds nothing: only before iteration 0 has generated.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}
