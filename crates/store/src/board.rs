//! A run's curves for TensorBoard: `train/<key>` from the rows of `metrics.jsonl`, `eval/<key>` from the signals.
//!
//! The event file is a view of what the run folder holds anyway, so it is written anew whenever the run is opened: no
//! point is lost or doubled by a kill. `train/*` count steps through the whole game, `eval/*` iterations.

use std::{
    fmt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use randori_core::{Signals, Stage};
use serde_json::{Map, Value};

use crate::{
    Artefact, EventFile, Manifest, Result,
    desk::{CHECKPOINT, latest_in, metrics_file, step_of},
    json::Appender,
    place_of,
};

/// A handle on a run's event file; clones share it.
#[derive(Clone)]
pub struct Board {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    events: EventFile,
    /// Steps of the iterations before this one.
    before: u64,
    /// The last step of this one.
    last: u64,
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Board")
    }
}

impl Board {
    /// The event file, beside the manifest.
    pub const FILE: &str = "events.out.tfevents.0.randori";

    /// Writes what the run holds, iteration by iteration.
    pub(crate) fn open(dir: &Path, manifest: &Manifest) -> Result<Board> {
        let events = EventFile::create(&dir.join(Board::FILE), now())?;
        let board = Board {
            inner: Arc::new(Mutex::new(Inner {
                events,
                before: 0,
                last: 0,
            })),
        };
        for t in 0.. {
            let (name, policy) = (place_of(t), Stage::Policy.name());
            let place = dir.join(&name);
            let metrics = place.join(metrics_file(policy));
            if !metrics.exists() {
                break;
            }
            // Of an unfinished iteration, the rows that its desk will keep.
            let last = match manifest.done(&name, policy) {
                Some(_) => u64::MAX,
                None => latest_in(&place.join(CHECKPOINT).join(policy))?
                    .map_or(0, |checkpoint| checkpoint.step),
            };
            let stays = |row: &Map<String, Value>| step_of(row).is_some_and(|step| step <= last);
            for row in Appender::peek(&metrics, stays)? {
                board.row(&row)?;
            }
            if let Some(done) = manifest.done(&name, Stage::Eval.name()) {
                let path = place.join(&done.file);
                let signals =
                    Signals::load(&path).map_err(|e| crate::Error::artefact("load", &path, e))?;
                board.eval(t, &signals)?;
            }
        }
        Ok(board)
    }

    /// A row of training metrics: every number in it but the step.
    pub fn row(&self, row: &Map<String, Value>) -> Result<()> {
        let mut inner = self.inner();
        inner.last = step_of(row).unwrap_or(inner.last);
        let step = inner.before + inner.last;
        for (key, value) in row.iter().filter(|(key, _)| *key != "step") {
            if let Some(value) = value.as_f64() {
                inner
                    .events
                    .scalar(&format!("train/{key}"), step, value, now())?;
            }
        }
        Ok(())
    }

    /// Iteration `t` ended with these signals.
    pub fn eval(&self, t: usize, signals: &Signals) -> Result<()> {
        let mut inner = self.inner();
        inner.before += std::mem::take(&mut inner.last);
        for (key, value) in signals
            .entries()
            .into_iter()
            .filter(|(_, value)| value.is_finite())
        {
            inner
                .events
                .scalar(&format!("eval/{key}"), t as u64, value, now())?;
        }
        Ok(())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}
