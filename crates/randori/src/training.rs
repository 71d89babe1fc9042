//! A training stage, in the game or before it: resumed from its workspace, logged and saved as it
//! goes.

use anyhow::Result;
use randori_engine::Player;
use randori_engine::train::{Control, StepMetrics, TrainSettings, Trainer};
use randori_store::Workspace;

use crate::{session::Session, watch::AtOnce};

/// Called after each step.
type OnStep<'a> = dyn FnMut(&StepMetrics, &Trainer) -> randori_engine::Result<Control> + 'a;

/// A training stage: resumed from its workspace, logged and saved as it goes. When a step fails (a
/// loss that is not a number), the state before it, if there is one, is kept and the error says
/// where.
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
    let every = session.recipe.train.save_every;
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
        if kept.is_ok() && metrics.step % every == 0 && metrics.step < metrics.total_steps {
            kept = workspace.checkpoint(metrics.step as u64, |dir| trainer.save(dir));
        }
        match kept {
            Ok(()) => Ok(Control::Continue),
            Err(e) => {
                disk = Some(e.into());
                Ok(Control::Stop)
            }
        }
    });
    if let Some(e) = disk {
        return Err(e);
    }
    if let Err(e) = ended {
        let stopped = stopped(&trainer, workspace, label)?;
        return Err(anyhow::Error::new(e).context(stopped));
    }
    bar.finish();
    Ok(trainer.into_player()?)
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
