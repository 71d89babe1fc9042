//! The game as the engine plays it: core's loop calls these six methods, the store keeps what they
//! make.

use std::sync::Arc;

use anyhow::Result;
use randori_core::{Game, Iteration, Signals, Stage, Window};
use randori_data::Counts;
use randori_engine::Player;
use randori_sdk::seam::SamplerFn;
use randori_store::{Board, JsonLines, Workspace};

use crate::artefacts::{Answers, Learnt, Pairs};
use crate::corpus::Part;
use crate::measure::{self, HeldOutAnswer};
use crate::record::Recorder;
use crate::session::Session;
use crate::settings;
use crate::stages::{Draws, answers, scored, screened, write_rows};
use crate::training::run_training;

/// The file of a player's held-out answers, beside its `eval.json`.
pub const ANSWERS: &str = "answers.jsonl";
/// The file of what was measured of a player on each held-out prompt, beside its `eval.json`.
pub const PROMPTS: &str = "prompts.jsonl";
/// The file of a player's most likely answer to the first held-out prompt, beside its `eval.json`.
pub const SHOWCASE: &str = "showcase.jsonl";

/// A game with one seed.
pub struct SpinGame<'a> {
    session: &'a Session,
    train: &'a Part,
    held_out: &'a Part,
    samplers: Vec<Arc<dyn SamplerFn>>,
    seed: u64,
    start: Learnt,
    /// Held-out answers of the player that ended iteration t-1 (the start: t = 0), by t.
    answers: Option<(usize, Vec<HeldOutAnswer>)>,
    board: Board,
    label: String,
    recorder: Recorder,
}

/// What goes in front of the names of a game's stages where there are several `games`.
pub fn game_label(seed: u64, games: usize) -> String {
    match games {
        0 | 1 => String::new(),
        _ => format!("seed {seed}, "),
    }
}

/// The name of what happens in iteration `t` of the game with this label.
pub fn label(game: &str, t: usize, what: &str) -> String {
    format!("{game}iteration {t}: {what}")
}

impl<'a> SpinGame<'a> {
    /// `start_answers` are the start's own; `label` is [`game_label`]; `recorder` is of the run
    /// that is played.
    pub fn new(
        session: &'a Session,
        train: &'a Part,
        held_out: &'a Part,
        seed: u64,
        start: Learnt,
        start_answers: Vec<HeldOutAnswer>,
        board: Board,
        label: String,
        recorder: Recorder,
    ) -> Result<SpinGame<'a>> {
        let samplers = session.samplers(&session.recipe.generate.sampling)?;
        let answers = Some((0, start_answers));
        Ok(SpinGame {
            session,
            train,
            held_out,
            samplers,
            seed,
            start,
            answers,
            board,
            label,
            recorder,
        })
    }

    fn label(&self, t: usize, what: &str) -> String {
        label(&self.label, t, what)
    }

    /// Answers of the opponent of iteration `t`: those it was measured with, or the same drawn
    /// again after a resume.
    fn opponent_answers(&mut self, t: usize, opponent: &Player) -> Result<Vec<HeldOutAnswer>> {
        if let Some((of, answers)) = self.answers.take().filter(|(of, _)| *of == t) {
            let _ = of;
            return Ok(answers);
        }
        Ok(measure::answer(
            self.session,
            opponent,
            self.held_out,
            &self.label(t, "the opponent's"),
        )?
        .first)
    }
}

impl Game for SpinGame<'_> {
    type Policy = Learnt;
    type Opponent = Player;
    type Generated = Answers;
    type Pairs = Pairs;
    type Workspace = Workspace;
    type Error = anyhow::Error;

    fn start(&mut self) -> Result<Learnt> {
        Ok(self.start.clone())
    }

    /// Training replaces a player's tensors and never writes into them, so sharing them freezes
    /// them.
    fn freeze(&mut self, policy: &Learnt) -> Result<Player> {
        Ok(policy.player(&self.session.base))
    }

    fn generate(
        &mut self,
        now: &Iteration,
        opponent: &Player,
        workspace: &mut Workspace,
    ) -> Result<Answers> {
        let label = self.label(now.t, "generated");
        let (chunks, mut log) = workspace.items("chunks")?;
        let draws = Draws {
            seed: self.seed,
            t: now.t,
            samplers: &self.samplers,
        };
        answers(
            self.session,
            opponent,
            self.train,
            &draws,
            chunks,
            &label,
            &mut |chunk| {
                log.push(chunk)?;
                Ok(log.sync()?)
            },
        )
    }

    fn score(
        &mut self,
        now: &Iteration,
        opponent: &Player,
        window: &Window<Answers>,
        workspace: &mut Workspace,
    ) -> Result<Pairs> {
        let session = self.session;
        let loss = session.loss(now.t)?;
        let mut counts = Counts::default();
        let mut rows = Vec::new();
        for (t, JsonLines(answers)) in window.iter() {
            let kept = screened(session, self.train, answers, t, &*loss, &mut counts)?;
            rows.extend(kept);
        }
        self.session
            .watch
            .say(format!("  {:<38} {counts}", self.label(now.t, "pairs")));
        session.say_identical(&counts, &*loss);
        if rows.is_empty() {
            anyhow::bail!(
                "iteration {}: no pair is left to train on ({counts}); see data.identical, data.empty and data.cut",
                now.t
            );
        }
        if !loss.needs_ref() {
            let name = &session.recipe.loss.name;
            session.watch.say(format!(
                "  {:<38} not scored: the loss {name} does not ask",
                self.label(now.t, "opponent's log-probs")
            ));
            return Ok(JsonLines(rows));
        }
        let (chunks, mut log) = workspace.items("scores")?;
        let label = self.label(now.t, "opponent's log-probs");
        scored(self.session, opponent, rows, chunks, &label, &mut |chunk| {
            log.push(chunk)?;
            Ok(log.sync()?)
        })
    }

    fn train(
        &mut self,
        now: &Iteration,
        policy: Learnt,
        JsonLines(pairs): &Pairs,
        workspace: &mut Workspace,
    ) -> Result<Learnt> {
        let session = self.session;
        let settings = settings::game(&session.recipe, now, self.seed, pairs.len());
        settings::say_unwarmed(&*session.watch, &session.recipe, "train.warmup", &settings);
        let loss = session.loss(now.t)?;
        let player = policy.player(&session.base);
        let record = self.recorder.iteration(session, now, pairs.len());
        let label = self.label(now.t, "policy");
        let player = run_training(
            session,
            player,
            settings,
            workspace,
            &label,
            |trainer, on_step| trainer.train_pairs(pairs, loss.as_ref(), on_step),
        )?;
        let made = policy.provenance.and(record);
        Ok(Learnt::of(&player, &session.base_name, made))
    }

    fn evaluate(
        &mut self,
        now: &Iteration,
        policy: &Learnt,
        opponent: &Player,
        _: &Pairs,
        workspace: &mut Workspace,
    ) -> Result<Signals> {
        let policy = policy.player(&self.session.base);
        let (session, held_out) = (self.session, self.held_out);
        let theirs = self.opponent_answers(now.t, opponent)?;
        let own = measure::answer(session, &policy, held_out, &self.label(now.t, "held out"))?;
        let label = self.label(now.t, "held out");
        let of_policy = measure::logps(session, &policy, held_out, &theirs, &label)?;
        let of_opponent = measure::logps(
            session,
            opponent,
            held_out,
            &theirs,
            &self.label(now.t, "opponent"),
        )?;
        let pairs = measure::pairs(held_out, &of_policy, &of_opponent, &theirs);
        let signals = measure::signals(session, &own, &pairs, now.beta);
        let mut prompts = measure::prompts(&own, &pairs, now.beta);
        let moved = measure::moved(&of_policy, &of_opponent, &theirs);
        for (row, moved) in prompts.iter_mut().zip(moved) {
            row.moved = Some(moved);
        }
        workspace.write(PROMPTS, |path| write_rows(path, &prompts))?;
        workspace.write(ANSWERS, |path| write_rows(path, &own.first))?;
        let showcase = measure::showcase(session, &policy, held_out)?;
        workspace.write(SHOWCASE, |path| write_rows(path, &showcase))?;
        self.answers = Some((now.t + 1, own.first));
        Ok(signals)
    }

    fn begins(&mut self, now: &Iteration) {
        let last = self.session.recipe.game.iterations.saturating_sub(1);
        self.session.watch.say(format!(
            "{}iteration {} (up to {last}; lr {:e}, beta {}, epochs {})",
            self.label, now.t, now.learning_rate, now.beta, now.epochs
        ));
    }

    fn enters(&mut self, now: &Iteration, stage: Stage, restored: bool) {
        if restored {
            self.session.watch.say(format!(
                "  {:<38} kept from before",
                self.label(now.t, stage.name())
            ));
        }
    }

    fn ended(&mut self, now: &Iteration, signals: &Signals) {
        // a view of what is kept anyway: a board that cannot be written must not stop the game
        let _ = self.board.eval(now.t, signals);
        let exact = signals
            .exact_match
            .map_or(String::new(), |x| format!("exact match {x:.3}, "));
        self.session.watch.say(format!(
            "  {exact}NLL {:.3}, log p(real) {:.2}, log p(generated) {:.2}, margin {:.3}, accuracy {:.3}",
            signals.nll_real, signals.logps_real, signals.logps_generated, signals.margin, signals.accuracy
        ));
    }
}
