//! A training stage, in the game or before it: resumed from its workspace, logged and saved as it
//! goes.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use randori_engine::Player;
use randori_engine::train::{Control, StepMetrics, TrainSettings, Trainer};
use randori_store::Workspace;

use crate::{session::Session, watch::AtOnce};

/// The longest time between two saves, whatever `train.save_every` says: as much may be lost.
const UNSAVED: Duration = Duration::from_secs(600);

/// Called after each step.
type OnStep<'a> = dyn FnMut(&StepMetrics, &Trainer) -> randori_engine::Result<Control> + 'a;

/// A training stage: resumed from its workspace, logged and saved as it goes. When a step fails (a
/// loss that is not a number), the state before it, if there is one, is kept and the error says
/// where; so it is when the watch wants it to stop.
pub fn run_training(
    session: &Session,
    player: Player,
    settings: TrainSettings,
    workspace: &mut Workspace,
    label: &str,
    run: impl FnOnce(&mut Trainer, &mut OnStep) -> randori_engine::Result<()>,
) -> Result<Player> {
    let mut trainer = match workspace.latest()? {
        Some(kept) => Trainer::load(&kept.path, player, settings)?,
        None => Trainer::new(player, settings)?,
    };
    let resumed = trainer.step();
    let mut tokens_before = None;
    let mut bar = session.watch.stage(label, 0, "steps");
    bar.resumed_at(resumed);
    let mut disk: Option<anyhow::Error> = None;
    let mut rows = AtOnce::new(
        trainer.micro_batch_tokens(),
        "tokens",
        "train.micro_batch_tokens",
    );
    let mut saves = Saves::new(session.recipe.train.save_every, resumed);
    session.watch.trains(true);
    let ended = run(&mut trainer, &mut |metrics, trainer| {
        let before =
            *tokens_before.get_or_insert(if resumed == 0 { 0 } else { metrics.num_tokens });
        let place = format!(" in step {}", metrics.step);
        if let Some(line) = rows.fewer(trainer.micro_batch_tokens(), &place) {
            session.watch.say(format!("  {label:<38} {line}"));
        }
        bar.of(metrics.total_steps);
        if metrics.converged {
            let (step, total) = (metrics.step, metrics.total_steps);
            session.watch.say(format!(
                "  {label:<38} converged at step {step} of {total}: the loss asks no pair for a change, every slope is 0"
            ));
        }
        bar.note(format!("loss {:.4}", metrics.loss));
        bar.set(metrics.step, (metrics.num_tokens - before) as usize);
        let values: serde_json::Map<String, serde_json::Value> = metrics
            .values()
            .into_iter()
            .map(|(k, v)| (k, serde_json::json!(v)))
            .collect();
        let mut kept = workspace.row(metrics.step as u64, &values);
        if kept.is_ok() && metrics.step < metrics.total_steps && saves.is_due(metrics.step) {
            kept = workspace.checkpoint(metrics.step as u64, |dir| trainer.save(dir));
            saves.done(metrics.step);
        }
        match kept {
            Ok(()) if session.watch.stops() => Ok(Control::Stop),
            Ok(()) => Ok(Control::Continue),
            Err(e) => {
                disk = Some(e.into());
                Ok(Control::Stop)
            }
        }
    });
    session.watch.trains(false);
    if let Some(e) = disk {
        return Err(e);
    }
    if let Err(e) = ended {
        let stopped = stopped(&trainer, workspace, label)?;
        return Err(anyhow::Error::new(e).context(stopped));
    }
    if session.watch.stops() {
        let step = trainer.step();
        if step != saves.last {
            workspace.checkpoint(step as u64, |dir| trainer.save(dir))?;
        }
        session.watch.stopped();
        bail!("{label}: stopped as it was asked to, after step {step}, which is saved");
    }
    bar.finish();
    Ok(trainer.into_player()?)
}

/// When a training is saved: every so many steps, and when that takes long, by the clock. Nothing
/// that is computed depends on it.
struct Saves {
    every: usize,
    /// The step that was saved last; 0: none.
    last: usize,
    at: Instant,
}

impl Saves {
    fn new(every: usize, resumed: usize) -> Saves {
        Saves {
            every,
            last: resumed,
            at: Instant::now(),
        }
    }

    fn is_due(&self, step: usize) -> bool {
        step.is_multiple_of(self.every) || self.at.elapsed() >= UNSAVED
    }

    fn done(&mut self, step: usize) {
        (self.last, self.at) = (step, Instant::now());
    }
}

/// Keeps what a training that has failed did before, if there is anything; says where.
fn stopped(trainer: &Trainer, workspace: &mut Workspace, label: &str) -> Result<String> {
    let step = trainer.step();
    if step == 0 {
        return Ok(format!("{label}: stopped before the first step was done"));
    }
    workspace.checkpoint(step as u64, |dir| trainer.save(dir))?;
    Ok(format!(
        "{label}: stopped at the last good state, step {step}, kept in {}",
        workspace.folder().join("checkpoint").display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_training_is_saved_by_steps_and_by_the_clock() {
        let mut saves = Saves::new(50, 0);
        assert!(!saves.is_due(49) && saves.is_due(50));
        saves.at = Instant::now().checked_sub(UNSAVED).unwrap();
        assert!(saves.is_due(7));
        saves.done(7);
        assert!(!saves.is_due(8));
        assert_eq!(saves.last, 7);
    }
}
