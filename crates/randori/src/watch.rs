//! Who is told what happens: the one way by which the library says anything.

use std::path::Path;
use std::time::Duration;

use crate::recipe::Recipe;

/// One line of results.
macro_rules! result {
    ($watch:expr, $($text:tt)*) => {
        $watch.result(format!("{}\n", format_args!($($text)*)))
    };
}

/// Is told of progress, of what should be known though nothing failed, and of results. A text may
/// quote models, data sets, plugins and servers: who shows it on a terminal escapes it
/// ([`escaped`](crate::escaped)).
pub trait Watch: Send + Sync {
    /// Progress, one line: nobody needs it afterwards.
    fn say(&self, line: String);

    /// What the user should know though nothing failed, one line.
    fn note(&self, line: String);

    /// What the user should think about, one line.
    fn warn(&self, line: String);

    /// A result, one line or several, with the end of the last.
    fn result(&self, text: String);

    /// Columns of the window that results are shown in; `None` where there is none, and lines may
    /// be of any length.
    fn columns(&self) -> Option<usize> {
        None
    }

    /// A stage of `total` units (`prompts`) begins; 0 where the number is not known yet.
    fn stage(&self, label: &str, total: usize, unit: &'static str) -> Box<dyn Progress>;

    /// From now on work is kept in this run folder; [`saved`](crate::saved) says how much of it.
    fn keeps_in(&self, dir: &Path) {
        let _ = dir;
    }

    /// The whole run will be over in about this time; `None` where nobody can say.
    fn left(&self, time: Option<Duration>) {
        let _ = time;
    }

    /// A training begins, which asks [`Watch::stops`] after each step, or is over.
    fn trains(&self, on: bool) {
        let _ = on;
    }

    /// Whether the training that runs should stop after this step, which is saved then, or the
    /// server that runs should answer whom it has and end.
    fn stops(&self) -> bool {
        false
    }

    /// A server begins, which asks [`Watch::stops`] all the time, or is over.
    fn serves(&self, on: bool) {
        let _ = on;
    }

    /// The training that was to stop has been saved; whatever called for it fails now.
    fn stopped(&self) {}
}

/// A stage that runs; dropped before [`Progress::finish`], it has failed or is not worth a line.
pub trait Progress {
    /// What was done before this process began it.
    fn resumed_at(&mut self, done: usize);

    /// `done` units and `tokens` tokens (of this process) so far.
    fn set(&mut self, done: usize, tokens: usize);

    /// The number of units turns out to be `total`.
    fn of(&mut self, total: usize);

    /// Something to see beside the figures, such as `loss 0.512`.
    fn note(&mut self, note: String);

    /// The stage is over.
    fn finish(self: Box<Self>);
}

/// Hears everything and says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Watch for Silent {
    fn say(&self, _: String) {}
    fn note(&self, _: String) {}
    fn warn(&self, _: String) {}
    fn result(&self, _: String) {}
    fn stage(&self, _: &str, _: usize, _: &'static str) -> Box<dyn Progress> {
        Box::new(Silent)
    }
}

impl Progress for Silent {
    fn resumed_at(&mut self, _: usize) {}
    fn set(&mut self, _: usize, _: usize) {}
    fn of(&mut self, _: usize) {}
    fn note(&mut self, _: String) {}
    fn finish(self: Box<Self>) {}
}

/// Tells of each of these notes.
pub fn notes(watch: &dyn Watch, notes: &[String]) {
    notes.iter().for_each(|note| watch.note(note.clone()));
}

/// How many of something are taken at a time; memory may run out, and there are fewer from then on.
pub struct AtOnce {
    now: usize,
    /// Of what, and the recipe's key.
    unit: &'static str,
    key: &'static str,
}

impl AtOnce {
    /// As the recipe asks.
    pub fn new(now: usize, unit: &'static str, key: &'static str) -> AtOnce {
        AtOnce { now, unit, key }
    }

    /// Rows of a micro-batch.
    pub fn rows(recipe: &Recipe) -> AtOnce {
        let key = "train.micro_batch_tokens";
        AtOnce::new(recipe.micro_batch_tokens(), "tokens", key)
    }

    /// Sequences that are answered.
    pub fn slots(recipe: &Recipe) -> AtOnce {
        AtOnce::new(recipe.generate.batch, "prompts", "generate.batch")
    }

    /// So many.
    pub fn now(&self) -> usize {
        self.now
    }

    /// What is said, once, when there are fewer than before. `place` goes behind "memory ran out".
    pub fn fewer(&mut self, now: usize, place: &str) -> Option<String> {
        if now >= self.now {
            return None;
        }
        let was = std::mem::replace(&mut self.now, now);
        let AtOnce { unit, key, .. } = self;
        Some(format!(
            "memory ran out{place}: repeated with {now} {unit} at a time instead of {was}, and so it goes on ({key})"
        ))
    }

    /// Says so if fewer are taken at a time than before.
    pub fn say_fewer(&mut self, watch: &dyn Watch, label: &str, now: usize) {
        if let Some(line) = self.fewer(now, "") {
            watch.say(format!("  {label:<38} {line}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_at_a_time_is_said_once() {
        let mut rows = AtOnce::new(4096, "tokens", "train.micro_batch_tokens");
        assert_eq!(rows.fewer(4096, " in step 1"), None);
        assert_eq!(
            rows.fewer(1024, " in step 2").as_deref(),
            Some(
                "memory ran out in step 2: repeated with 1024 tokens at a time instead of 4096, and so it goes on (train.micro_batch_tokens)"
            )
        );
        assert_eq!((rows.fewer(1024, " in step 3"), rows.now()), (None, 1024));
    }
}
