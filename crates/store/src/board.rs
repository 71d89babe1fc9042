//! TensorBoard curves of a run: `train/<key>` from `metrics.jsonl`, `eval/<key>` from the signals.
//!
//! The event file is derived from the run folder and rewritten whenever the run is opened, so a
//! kill neither loses nor doubles a point. The x axis of `train/*` is the step, counted through the
//! whole game; that of `eval/*` is the iteration.

use std::{
    fmt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use randori_core::{Signals, Stage};
use serde_json::{Map, Value};

use crate::{
    EventFile, Manifest, Result, beside,
    json::Appender,
    kept::load_done,
    layout::{CHECKPOINT, iteration, latest_in, metrics_file, step_of},
};

/// Handle on a run's event file; clones share it.
#[derive(Clone)]
pub struct Board {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    events: EventFile,
    /// Number of steps in earlier iterations.
    before: u64,
    /// Last step of this iteration.
    last: u64,
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Board")
    }
}

impl Board {
    /// The event file's name, beside the manifest.
    pub const FILE: &str = "events.out.tfevents.0.randori";

    /// Writes the events of everything the run holds.
    pub(crate) fn open(dir: &Path, manifest: &Manifest) -> Result<Board> {
        let events = EventFile::create(&dir.join(Board::FILE), now())?;
        let inner = Inner {
            events,
            before: 0,
            last: 0,
        };
        let board = Board {
            inner: Arc::new(Mutex::new(inner)),
        };
        for folder in &manifest.folders {
            board.replay(dir, manifest, folder)?;
        }
        Ok(board)
    }

    fn replay(&self, dir: &Path, manifest: &Manifest, folder: &str) -> Result<()> {
        let (home, policy) = (dir.join(folder), Stage::Policy.name());
        let log = metrics_file(policy);
        // Of an unfinished stage, the rows up to its last checkpoint, which a resume keeps.
        let (metrics, last) = match manifest.done(folder, policy) {
            Some(_) => (beside(dir, manifest, folder, policy, &log)?, u64::MAX),
            None => {
                let last = latest_in(&home.join(CHECKPOINT).join(policy))?;
                (Some(home.join(log)), last.map_or(0, |at| at.step))
            }
        };
        if let Some(metrics) = metrics.filter(|path| path.exists()) {
            let stays = |row: &Map<String, Value>| step_of(row).is_some_and(|step| step <= last);
            for row in Appender::peek(&metrics, stays)? {
                self.row(folder, &row)?;
            }
        }
        if let (Some(t), Some(done)) =
            (iteration(folder), manifest.done(folder, Stage::Eval.name()))
        {
            let signals: Signals = load_done(dir, manifest, folder, &done.stage)?;
            self.eval(t, &signals)?;
        }
        Ok(())
    }

    /// Adds a row of training metrics: every number in it but the step. Iterations share one curve,
    /// `train/<key>`; any other folder has its own, `sft/<key>`.
    pub fn row(&self, folder: &str, row: &Map<String, Value>) -> Result<()> {
        let mut inner = self.inner();
        let Some(step) = step_of(row) else {
            return Ok(());
        };
        let (curve, step) = match iteration(folder) {
            None => (folder, step),
            Some(_) => {
                if step <= inner.last {
                    inner.before += inner.last; // the next iteration began
                }
                inner.last = step;
                ("train", inner.before + step)
            }
        };
        for (key, value) in row.iter().filter(|(key, _)| *key != "step") {
            if let Some(value) = value.as_f64() {
                inner
                    .events
                    .scalar(&format!("{curve}/{key}"), step, value, now())?;
            }
        }
        Ok(())
    }

    /// Adds the signals of iteration `t`.
    pub fn eval(&self, t: usize, signals: &Signals) -> Result<()> {
        let mut inner = self.inner();
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
