//! The data window: generated responses of this iteration and of a few before it.

use std::collections::VecDeque;

/// Generated responses of the last few iterations, oldest first.
///
/// Only the responses carry over. The opponent's log-probs do not: each iteration scores the whole
/// window again with its own opponent.
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

    /// Adds iteration `t`'s responses and drops those that leave the window.
    pub fn push(&mut self, t: usize, generated: G) {
        self.held.push_back((t, generated));
        while self.held.len() > self.size {
            self.held.pop_front();
        }
    }

    /// Iterates over (iteration, responses), oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (usize, &G)> + ExactSizeIterator {
        self.held.iter().map(|(t, generated)| (*t, generated))
    }

    /// Number of iterations held.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether the window is empty: only before iteration 0 has generated.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}
