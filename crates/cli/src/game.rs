//! The game as the engine plays it: core's loop calls these six methods, the store keeps what they make.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use randori_core::{Game, Iteration, Signals, Stage, Window};
use randori_data::{Counts, Encoded, Rejected};
use randori_engine::train::{Control, Pair, StepMetrics, Trainer};
use randori_engine::{Player, ScoreItem};
use randori_sdk::seam::SamplerFn;
use randori_store::{Board, Desk, Rows};

use crate::artefacts::{Answer, Answers, Learnt, PairRow, Pairs};
use crate::corpus::Part;
use crate::measure::{self, HeldOutAnswer};
use crate::progress::clock;
use crate::session::Session;
use crate::{corpus, settings};

/// The file of a player's held-out answers, beside its `eval.json`.
pub const ANSWERS: &str = "answers.jsonl";
/// Pairs scored between two saves.
const SCORED_AT_ONCE: usize = 512;

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
    began: Instant,
    played: usize,
}

impl<'a> SpinGame<'a> {
    /// `start_answers` are the start's own; `label` goes in front of every stage's name (`seed 1 · `).
    pub fn new(
        session: &'a Session,
        train: &'a Part,
        held_out: &'a Part,
        seed: u64,
        start: Learnt,
        start_answers: Vec<HeldOutAnswer>,
        board: Board,
        label: String,
    ) -> Result<SpinGame<'a>> {
        let samplers = session.samplers(&session.recipe.generate.sampling)?;
        let answers = Some((0, start_answers));
        let began = Instant::now();
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
            began,
            played: 0,
        })
    }

    fn label(&self, t: usize, what: &str) -> String {
        format!("{}iteration {t}: {what}", self.label)
    }

    /// Answers of the opponent of iteration `t`: those it was measured with, or the same drawn again after a resume.
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
    type Desk = Desk;
    type Error = anyhow::Error;

    fn start(&mut self) -> Result<Learnt> {
        Ok(self.start.clone())
    }

    /// Training replaces a player's tensors and never writes into them, so sharing them freezes them.
    fn freeze(&mut self, policy: &Learnt) -> Result<Player> {
        Ok(policy.player(&self.session.base))
    }

    fn generate(&mut self, now: &Iteration, opponent: &Player, desk: &mut Desk) -> Result<Answers> {
        let label = self.label(now.t, "generated");
        let (chunks, mut log) = desk.items("chunks")?;
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
        desk: &mut Desk,
    ) -> Result<Pairs> {
        let mut counts = Counts::default();
        let mut rows = Vec::new();
        for (t, Rows(answers)) in window.iter() {
            rows.extend(screened(self.session, self.train, answers, t, &mut counts)?);
        }
        self.session
            .console
            .say(format!("  {:<38} {counts}", self.label(now.t, "pairs")));
        if rows.is_empty() {
            anyhow::bail!(
                "iteration {}: no pair is left to train on ({counts}); see data.identical, data.empty and data.cut",
                now.t
            );
        }
        let (chunks, mut log) = desk.items("scores")?;
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
        Rows(pairs): &Pairs,
        desk: &mut Desk,
    ) -> Result<Learnt> {
        let session = self.session;
        let settings = settings::game(&session.recipe, now.t, self.seed, now.beta);
        let loss = session.loss(now.t)?;
        let pairs: Vec<Pair> = pairs.iter().map(PairRow::pair).collect();
        let player = policy.player(&session.base);
        let label = self.label(now.t, "policy");
        let player = trained(
            session,
            player,
            settings,
            desk,
            &label,
            |trainer, on_step| trainer.train_pairs(&pairs, loss.as_ref(), on_step),
        )?;
        Ok(Learnt::of(&player, &session.base_name))
    }

    fn evaluate(
        &mut self,
        now: &Iteration,
        policy: &Learnt,
        opponent: &Player,
        _: &Pairs,
        desk: &mut Desk,
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
        let signals = measure::signals(
            session,
            held_out,
            &own,
            &of_policy,
            &of_opponent,
            &theirs,
            now.beta,
        );
        desk.write(ANSWERS, |path| write_rows(path, &own.first))?;
        self.answers = Some((now.t + 1, own.first));
        Ok(signals)
    }

    fn begins(&mut self, now: &Iteration) {
        let line = format!(
            "{}iteration {} of {}",
            self.label, now.t, self.session.recipe.game.iterations
        );
        self.session.console.say(format!(
            "{line} (lr {:e}, beta {}, epochs {})",
            now.learning_rate, now.beta, now.epochs
        ));
    }

    fn enters(&mut self, now: &Iteration, stage: Stage, restored: bool) {
        if restored {
            self.session.console.say(format!(
                "  {:<38} kept from before",
                self.label(now.t, stage.name())
            ));
        }
    }

    fn ended(&mut self, now: &Iteration, signals: &Signals) {
        // a view of what is kept anyway: a board that cannot be written must not stop the game
        let _ = self.board.eval(now.t, signals);
        self.played += 1;
        let exact = signals
            .exact_match
            .map_or(String::new(), |x| format!("exact match {x:.3}, "));
        let left = self
            .session
            .recipe
            .game
            .iterations
            .saturating_sub(now.t + 1);
        let eta = match left {
            0 => String::new(),
            _ => format!(
                "; about {} for the {left} left",
                clock(self.began.elapsed() / self.played as u32 * left as u32)
            ),
        };
        self.session.console.say(format!(
            "  {exact}NLL {:.3}, log p(real) {:.2}, log p(generated) {:.2}, margin {:.3}, accuracy {:.3}{eta}",
            signals.nll_real, signals.logps_real, signals.logps_generated, signals.margin, signals.accuracy
        ));
    }
}

/// What decides which answers are drawn.
pub struct Draws<'a> {
    /// The game's seed.
    pub seed: u64,
    /// The iteration.
    pub t: usize,
    /// Samplers in order.
    pub samplers: &'a [Arc<dyn SamplerFn>],
}

/// One answer to every example's prompt, kept chunk by chunk: a killed process repeats at most one chunk, and a
/// chunk is always drawn from its beginning, so its bytes do not depend on kills.
pub fn answers(
    session: &Session,
    player: &Player,
    examples: &Part,
    draws: &Draws,
    mut chunks: Vec<Vec<Answer>>,
    label: &str,
    keep: &mut dyn FnMut(&Vec<Answer>) -> Result<()>,
) -> Result<Answers> {
    let mut done: usize = chunks.iter().map(Vec::len).sum();
    let mut bar = session
        .console
        .stage(label, examples.examples.len(), "prompts");
    bar.resumed_at(done);
    let mut tokens = 0;
    while done < examples.examples.len() {
        let end = examples
            .examples
            .len()
            .min(done + session.recipe.generate.chunk);
        let part = &examples.examples[done..end];
        let prompts: Vec<Vec<u32>> = part.iter().map(|e| e.prompt.clone()).collect();
        let options = settings::generate(
            &session.recipe,
            session.tokenizer.stop_ids(),
            draws.seed,
            draws.t,
            done,
        );
        let generations = randori_engine::generate(
            player,
            &prompts,
            draws.samplers,
            &options,
            &mut |finished, now| {
                bar.set(done + finished, tokens + now);
            },
        )?;
        let rows: Vec<Answer> = part
            .iter()
            .zip(generations)
            .enumerate()
            .map(|(i, (example, g))| Answer {
                example: done + i,
                place: example.place.to_string(),
                prompt: examples.prompts[done + i].clone(),
                real: session.tokenizer.decode(&example.response),
                generated: session.tokenizer.decode(&g.tokens),
                truncated: !g.ended,
                logp: g.logps.iter().map(|&l| f64::from(l)).sum(),
                tokens: g.tokens,
            })
            .collect();
        tokens += rows.iter().map(|r| r.tokens.len()).sum::<usize>();
        keep(&rows)?;
        chunks.push(rows);
        done = end;
    }
    bar.set(done, tokens);
    bar.finish();
    Ok(Rows(chunks.into_iter().flatten().collect()))
}

/// The pairs that the recipe's rules leave, without log-probs yet.
fn screened(
    session: &Session,
    train: &Part,
    answers: &[Answer],
    t: usize,
    counts: &mut Counts,
) -> Result<Vec<PairRow>> {
    let pairs = answers
        .iter()
        .map(|answer| {
            let example = train.examples.get(answer.example).with_context(|| {
                format!(
                    "iteration {t}'s answers are of other data: they have example {}",
                    answer.example
                )
            })?;
            let rejected = Rejected {
                ids: answer.tokens.clone(),
                cut: answer.truncated,
            };
            Ok(Encoded {
                rejected: Some(rejected),
                ..example.clone()
            })
        })
        .collect::<Result<Vec<_>>>()?;
    counts.read += pairs.len();
    let kept = randori_data::screen(
        pairs,
        &session.tokenizer,
        &corpus::policy(&session.recipe),
        counts,
    )?;
    Ok(rows_of(kept, t))
}

/// Encoded pairs as rows without log-probs.
pub fn rows_of(pairs: Vec<Encoded>, iteration: usize) -> Vec<PairRow> {
    let row = |e: Encoded| PairRow {
        place: e.place.to_string(),
        iteration,
        prompt: e.prompt,
        real: e.response,
        generated: e.rejected.map(|r| r.ids).unwrap_or_default(),
        ref_real: 0.0,
        ref_generated: 0.0,
    };
    pairs.into_iter().map(row).collect()
}

/// Adds a player's log-probs, with the arithmetic of training: at step 0 both players agree to the last bits.
/// `chunks` are the log-probs found before a kill.
pub fn scored(
    session: &Session,
    player: &Player,
    mut rows: Vec<PairRow>,
    chunks: Vec<Vec<(f64, f64)>>,
    label: &str,
    keep: &mut dyn FnMut(&Vec<(f64, f64)>) -> Result<()>,
) -> Result<Pairs> {
    let mut scores: Vec<(f64, f64)> = chunks.into_iter().flatten().collect();
    let mut bar = session.console.stage(label, rows.len(), "pairs");
    bar.resumed_at(scores.len());
    let mut tokens = 0;
    while scores.len() < rows.len() {
        let part = &rows[scores.len()..rows.len().min(scores.len() + SCORED_AT_ONCE)];
        let items: Vec<ScoreItem> = part
            .iter()
            .map(|r| ScoreItem {
                prompt: &r.prompt,
                responses: vec![&r.real, &r.generated],
            })
            .collect();
        let (before, mut now) = (scores.len(), 0);
        let found = randori_engine::score(
            player,
            &items,
            session.recipe.train.micro_batch_tokens,
            &mut |done, t| {
                now = t;
                bar.set(before + done, tokens + t);
            },
        )
        .with_context(|| {
            part.first()
                .map_or(String::new(), |r| format!("pairs from {}", r.place))
        })?;
        tokens += now;
        let found: Vec<(f64, f64)> = found.into_iter().map(|s| (s[0], s[1])).collect();
        keep(&found)?;
        scores.extend(found);
    }
    bar.finish();
    for (row, (real, generated)) in rows.iter_mut().zip(scores) {
        (row.ref_real, row.ref_generated) = (real, generated);
    }
    Ok(Rows(rows))
}

/// Called after each step.
type OnStep<'a> = dyn FnMut(&StepMetrics, &Trainer) -> randori_engine::Result<Control> + 'a;

/// A training stage: resumed from its desk, logged and saved as it goes. When a step fails (a loss that is not a
/// number), the state before it is kept and the error says where.
pub fn trained(
    session: &Session,
    player: Player,
    settings: randori_engine::train::TrainSettings,
    desk: &mut Desk,
    label: &str,
    run: impl FnOnce(&mut Trainer, &mut OnStep) -> randori_engine::Result<()>,
) -> Result<Player> {
    let mut trainer = match desk.latest()? {
        Some(kept) => Trainer::load(&kept.path, player, settings)?,
        None => Trainer::new(player, settings)?,
    };
    let resumed = trainer.step();
    let mut tokens_before = None;
    let mut bar = session.console.stage(label, 0, "steps");
    bar.resumed_at(resumed);
    let mut disk: Option<anyhow::Error> = None;
    let every = session.recipe.train.save_every;
    let ended = run(&mut trainer, &mut |metrics, trainer| {
        let before =
            *tokens_before.get_or_insert(if resumed == 0 { 0 } else { metrics.num_tokens });
        bar.of(metrics.total_steps);
        bar.note(format!("loss {:.4}", metrics.loss));
        bar.set(metrics.step, (metrics.num_tokens - before) as usize);
        let values: serde_json::Map<String, serde_json::Value> = metrics
            .values()
            .into_iter()
            .map(|(k, v)| (k, serde_json::json!(v)))
            .collect();
        let mut kept = desk.row(metrics.step as u64, &values);
        if kept.is_ok() && metrics.step % every == 0 && metrics.step < metrics.total_steps {
            kept = desk.checkpoint(metrics.step as u64, |dir| trainer.save(dir));
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
        let step = trainer.step();
        if step > 0 {
            desk.checkpoint(step as u64, |dir| trainer.save(dir))?;
        }
        return Err(anyhow::Error::new(e).context(format!(
            "{label}: stopped at the last good state, step {step}, kept in {}",
            desk.place().join("checkpoint").display()
        )));
    }
    bar.finish();
    Ok(trainer.into_player())
}

/// Rows as JSONL at a path that is not there yet.
pub fn write_rows<T: serde::Serialize>(
    path: &std::path::Path,
    rows: &[T],
) -> Result<(), std::io::Error> {
    use std::io::Write;
    let mut out = std::io::BufWriter::new(std::fs::File::create(path)?);
    for row in rows {
        serde_json::to_writer(&mut out, row)?;
        out.write_all(b"\n")?;
    }
    out.flush()
}
