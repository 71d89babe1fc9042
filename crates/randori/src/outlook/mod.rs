//! How long a whole run will still take, said beside the progress of each of its stages.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::watch::{Progress, Watch};

mod rest;
mod speed;
mod stages;
#[cfg(test)]
mod tests;

pub use rest::{Ahead, Planner};
use rest::{Kind, Rest, Running};
pub use speed::planner;
pub use stages::{Data, planned};

/// A watch that tells another everything, and how long all that is ahead will take.
pub struct Outlook {
    watch: Arc<dyn Watch>,
    rest: Arc<Mutex<Rest>>,
}

impl Outlook {
    /// For a run of these stages, whose speed is planned so.
    pub fn new(watch: Arc<dyn Watch>, ahead: Vec<Ahead>, planner: Planner) -> Outlook {
        let rest = Arc::new(Mutex::new(Rest::of(ahead, planner)));
        Outlook { watch, rest }
    }
}

impl Watch for Outlook {
    fn say(&self, line: String) {
        self.watch.say(line);
    }

    fn note(&self, line: String) {
        self.watch.note(line);
    }

    fn warn(&self, line: String) {
        self.watch.warn(line);
    }

    fn result(&self, text: String) {
        self.watch.result(text);
    }

    fn columns(&self) -> Option<usize> {
        self.watch.columns()
    }

    fn stage(&self, label: &str, total: usize, unit: &'static str) -> Box<dyn Progress> {
        let shown = self.watch.stage(label, total, unit);
        let expected = Kind::of(unit).and_then(|kind| held(&self.rest).begin(label, kind));
        match expected {
            None => {
                self.left(None);
                shown
            }
            Some(stage) => Box::new(Timed {
                shown,
                watch: self.watch.clone(),
                rest: self.rest.clone(),
                stage,
                began: Instant::now(),
                first: 0,
                done: 0,
                total,
            }),
        }
    }

    fn keeps_in(&self, dir: &Path) {
        self.watch.keeps_in(dir);
    }

    fn left(&self, time: Option<Duration>) {
        self.watch.left(time);
    }

    fn trains(&self, on: bool) {
        self.watch.trains(on);
    }

    fn stops(&self) -> bool {
        self.watch.stops()
    }

    fn stopped(&self) {
        self.watch.stopped();
    }
}

/// An expected stage that runs.
struct Timed {
    shown: Box<dyn Progress>,
    watch: Arc<dyn Watch>,
    rest: Arc<Mutex<Rest>>,
    stage: Ahead,
    began: Instant,
    first: usize,
    done: usize,
    total: usize,
}

impl Timed {
    fn now(&self) -> Running<'_> {
        let share = |done: usize| match self.total {
            0 => 0.0,
            total => (done as f64 / total as f64).min(1.0),
        };
        Running {
            stage: &self.stage,
            first: share(self.first),
            done: share(self.done),
            seconds: self.began.elapsed().as_secs_f64(),
        }
    }
}

impl Progress for Timed {
    fn resumed_at(&mut self, done: usize) {
        (self.first, self.done) = (done, done);
        self.shown.resumed_at(done);
    }

    fn set(&mut self, done: usize, tokens: usize) {
        self.done = done;
        let left = held(&self.rest).left(Some(&self.now()));
        self.watch.left(left);
        self.shown.set(done, tokens);
    }

    fn of(&mut self, total: usize) {
        self.total = total;
        self.shown.of(total);
    }

    fn note(&mut self, note: String) {
        self.shown.note(note);
    }

    fn finish(self: Box<Self>) {
        let left = {
            let mut rest = held(&self.rest);
            rest.end(&self.now());
            rest.left(None)
        };
        self.watch.left(left);
        let Timed { shown, .. } = *self;
        shown.finish();
    }
}

fn held(rest: &Mutex<Rest>) -> MutexGuard<'_, Rest> {
    rest.lock().unwrap_or_else(PoisonError::into_inner)
}
