//! `randori run --dry-run`: what a run would do, from its recipe, its data and the model's shapes:
//! stages with what each has to do, memory, time and disk, and what the run folder has already. No
//! weight is read, and nothing is written.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use randori_core::PerIteration;
use randori_data::Counts;
use randori_engine::fit::{Ceilings, Peak, Work};
use randori_store::{Manifest, iteration_folder};

use crate::bytes::{alone, shown, unit};
use crate::check::{self, Uses};
use crate::figures::counted;
use crate::fit::amount::{Means, lengths, usual};
use crate::fit::time::{self, Span};
use crate::plan::{Model, Plan};
use crate::recipe::Recipe;
use crate::request::Request;
use crate::run::{Corpus, open_corpus};
use crate::session::Setting;
use crate::{aim, data_rows, folder, losses, memory, outbox, settings};

mod lines;

use lines::{Cells, laid};

/// Said of a folder that is not as it has to be.
const NO_START: &str = "the run cannot start";
/// Bytes of a token's id in a file of pairs or answers, the comma included.
const ID: u64 = 6;
/// Bytes of its text.
const TEXT: u64 = 5;

/// A stage of a game.
struct Task {
    /// Its folder in the run's, and its name there.
    place: String,
    stage: &'static str,
    /// The kind of work, by the plan's names.
    kind: &'static str,
    label: String,
    what: String,
    /// Prompts, pairs, examples or answers: the time goes with their number.
    units: usize,
    /// In each of [`usual`]'s plans.
    works: [Work; 2],
}

/// Seconds and units of the finished stages of each kind.
type Measured = BTreeMap<&'static str, (f64, usize)>;

/// Prints the plan of the run that [`play`](crate::play) would play.
///
/// # Errors
/// Whatever `play` would refuse before it reads a weight.
pub fn dry_run(request: &Request, fresh: bool) -> Result<()> {
    let (mut recipe, _) = folder::recipe(request)?;
    let dir = folder::of(request, &recipe);
    let reads = check::reads(&recipe, request, &request.adapter, None);
    outbox::refuse_run_folder(&dir, fresh, &reads).context(NO_START)?;
    data_rows::check_measured(&recipe)?;
    aim::refuse_no_game(request, &recipe)?;
    let host = check::recipe(&recipe, request, &request.adapter, &Uses::WHOLE)?;
    losses::check_game(&recipe, &host)?;
    folder::settle(&mut recipe, &dir, fresh)?;
    check::model(&recipe, &host, &request.adapter)?;
    folder::settle_data(&mut recipe, &dir, fresh)?;
    folder::refuse_other_games(&dir, &recipe, &host, fresh).context(NO_START)?;
    memory::settle(&mut recipe, &host, &*request.watch)?;
    let setting = Setting::without_weights(recipe, host, request)?;
    let corpus = open_corpus(&setting)?;
    let recipe = &setting.recipe;
    let model = Model::of(recipe, request.adapter.clone(), &setting.host)?;
    model.check_start(recipe)?;
    let plan = Plan::of(&model, recipe.clone())?;

    let means = Means::of(&corpus.train.examples);
    let tasks = tasks(&usual(&model, &plan, means)?, &corpus)?;
    let mut games = Vec::new();
    for (seed, place) in folder::games(&dir, recipe, fresh)? {
        games.push((seed, kept(&setting, seed, &place, fresh)?, place));
    }
    let mut measured = Measured::new();
    for (_, kept, _) in &games {
        measure(&tasks, kept, &mut measured);
    }
    let (machine, how) = match time::machine(&plan) {
        Ok((machine, how)) => (Some(machine), format!("estimated from its speed {how}")),
        Err(e) if plan.card => (None, format!("not estimated: {e}")),
        Err(e) => return Err(e),
    };
    let mut table = Table::new(&plan, machine, measured)?;
    let several = games.len() > 1;
    for (nth, (seed, kept, place)) in games.iter().enumerate() {
        let before = match several {
            true => format!("seed {seed}, "),
            false => String::new(),
        };
        for task in &tasks {
            table.row(task, kept, place, &before);
        }
        table.baseline(recipe, kept, &before, nth);
    }
    let head = format!(
        "{}: a plan; nothing is read of the weights, nothing is written\n",
        dir.display()
    );
    let end = table.end(&plan, &how, &lengths(&plan, means))?
        + &disk(&plan, &corpus.train.counts, games.len());
    let lines = laid(&table.rows, request.watch.columns());
    request.watch.result(format!("{head}\n{lines}{end}"));
    Ok(())
}

/// What the game in `place` was begun with and has done; nothing of one that begins.
///
/// # Errors
/// A run that would not be gone on with under this recipe.
fn kept(setting: &Setting, seed: u64, place: &Path, fresh: bool) -> Result<Manifest> {
    let found = match fresh {
        true => None,
        false => Manifest::resumable(place)?,
    };
    let Some(manifest) = found else {
        return Ok(Manifest::default());
    };
    manifest.refuse_other_recipe(place, &setting.spec(seed, BTreeMap::new()))?;
    Ok(manifest)
}

/// The stages of one game, listed one after the other.
struct Listed<'a> {
    /// [`usual`]'s.
    plans: &'a [Plan; 2],
    recipe: &'a Recipe,
    /// Training examples, and those that are measured on.
    examples: usize,
    held_out: usize,
    tasks: Vec<Task>,
}

/// Every stage of one game, in order.
fn tasks(plans: &[Plan; 2], corpus: &Corpus) -> Result<Vec<Task>> {
    let recipe = &plans[0].recipe;
    let mut listed = Listed {
        plans,
        recipe,
        examples: corpus.train.examples.len(),
        held_out: corpus.held_out.examples.len(),
        tasks: Vec::new(),
    };
    if recipe.sft.epochs > 0 {
        listed.supervised()?;
    }
    listed.measured("start".into(), "start: held out".into(), 1)?;
    for t in 0..recipe.game.iterations {
        listed.answered(t)?;
        listed.paired(t)?;
        listed.trained(t)?;
        // log-probs are those of policy and opponent
        listed.measured(iteration_folder(t), format!("iteration {t}: held out"), 2)?;
    }
    Ok(listed.tasks)
}

impl Listed<'_> {
    /// A stage's work in each of the plans.
    fn works(&self, work: impl Fn(&Plan) -> Result<Work>) -> Result<[Work; 2]> {
        let [usual, longest] = self.plans;
        Ok([work(usual)?, work(longest)?])
    }

    fn supervised(&mut self) -> Result<()> {
        let (n, sft) = (self.examples, &self.recipe.sft);
        let (seen, steps) = (n * sft.epochs, n.div_ceil(sft.batch) * sft.epochs);
        self.tasks.push(Task {
            place: "start".into(),
            stage: "policy",
            kind: "sft",
            label: "supervised".into(),
            what: format!("{} in {}", counted(seen, "example"), counted(steps, "step")),
            units: seen,
            works: self.works(|plan| time::supervised(plan, seen))?,
        });
        Ok(())
    }

    /// A player's answers, and log-probs by so many `players`.
    fn measured(&mut self, place: String, label: String, players: usize) -> Result<()> {
        let answers = self.held_out * self.recipe.eval.seeds.len();
        let (told, of) = (counted(answers, "answer"), counted(self.held_out, "pair"));
        let works = self.works(|plan| {
            let mut work = time::answering(plan, answers, true)?;
            work += time::scoring(plan, players * self.held_out)?;
            Ok(work)
        })?;
        self.tasks.push(Task {
            place,
            stage: "eval",
            kind: "eval",
            label,
            what: format!("{told}, log-probs of {of}"),
            units: answers,
            works,
        });
        Ok(())
    }

    fn answered(&mut self, t: usize) -> Result<()> {
        self.tasks.push(Task {
            place: iteration_folder(t),
            stage: "generated",
            kind: "generate",
            label: format!("iteration {t}: generated"),
            what: counted(self.examples, "prompt"),
            units: self.examples,
            works: self.works(|plan| time::answering(plan, self.examples, false))?,
        });
        Ok(())
    }

    /// Pairs of the window's iterations; fewer where answers equal the real responses.
    fn pairs(&self, t: usize) -> usize {
        self.examples * (t + 1).min(self.recipe.game.window)
    }

    fn paired(&mut self, t: usize) -> Result<()> {
        let pairs = self.pairs(t);
        let (what, works) = match self.plans[0].scores {
            true => ("scored", self.works(|plan| time::scoring(plan, pairs))?),
            false => ("not scored", Default::default()),
        };
        self.tasks.push(Task {
            place: iteration_folder(t),
            stage: "pairs",
            kind: "score",
            label: format!("iteration {t}: pairs"),
            what: format!("{} at most, {what}", counted(pairs, "pair")),
            units: pairs,
            works,
        });
        Ok(())
    }

    fn trained(&mut self, t: usize) -> Result<()> {
        let (pairs, r) = (self.pairs(t), self.recipe);
        let epochs = settings::rules(r, PerIteration::constant(1.0))
            .iteration(t)
            .epochs;
        let (seen, steps) = (pairs * epochs, pairs.div_ceil(r.train.batch) * epochs);
        self.tasks.push(Task {
            place: iteration_folder(t),
            stage: "policy",
            kind: "train",
            label: format!("iteration {t}: policy"),
            what: format!(
                "{} in {} at most",
                counted(seen, "pair"),
                counted(steps, "step")
            ),
            units: seen,
            works: self.works(|plan| time::training(plan, seen, steps))?,
        });
        Ok(())
    }
}

/// Adds what a game's finished stages took.
fn measure(tasks: &[Task], kept: &Manifest, measured: &mut Measured) {
    for task in tasks {
        if let Some(done) = kept.done(&task.place, task.stage) {
            let (seconds, units) = measured.entry(task.kind).or_default();
            *seconds += done.seconds;
            *units += task.units;
        }
    }
}

/// The plan's lines, and what they add up to.
struct Table {
    rows: Vec<Cells>,
    machine: Option<Ceilings>,
    measured: Measured,
    /// Memory of each kind of stage.
    peaks: Vec<(&'static str, Peak)>,
    /// The largest of them, which decides the unit.
    most: u64,
    /// What is left, and whether there are stages whose time nobody knows.
    left: Span,
    unknown: bool,
    /// Stages that are done, and all.
    done: usize,
    all: usize,
}

impl Table {
    fn new(plan: &Plan, machine: Option<Ceilings>, measured: Measured) -> Result<Table> {
        let stages = plan.stages()?.into_iter();
        let peaks: Vec<(&'static str, Peak)> = stages.map(|(name, _, peak)| (name, peak)).collect();
        let most = peaks
            .iter()
            .map(|(_, peak)| peak.total())
            .max()
            .unwrap_or(0);
        let memory = format!("memory {}", unit(most));
        Ok(Table {
            rows: vec![[
                "stage".into(),
                "does".into(),
                memory,
                "time".into(),
                String::new(),
            ]],
            machine,
            measured,
            peaks,
            most,
            left: Span::default(),
            unknown: false,
            done: 0,
            all: 0,
        })
    }

    fn row(&mut self, task: &Task, kept: &Manifest, place: &Path, before: &str) {
        let done = kept.done(&task.place, task.stage);
        let begun = place.join(&task.place).join("checkpoint").join(task.stage);
        let (time, state) = match done {
            Some(done) => (
                Some(Span::exactly(done.seconds)),
                "done; this is what it took",
            ),
            None => {
                let (time, state) = self.time(task);
                self.left += time.unwrap_or_default();
                self.unknown |= time.is_none();
                match !kept.stages.is_empty() && begun.exists() {
                    true => (time, "begun; the time is that of all of it"),
                    false => (time, state),
                }
            }
        };
        let peak = self.peaks.iter().find(|(name, _)| *name == task.kind);
        let memory = peak.map_or("-".into(), |(_, peak)| shown(peak.total(), self.most));
        let label = format!("{before}{}", task.label);
        self.line(&label, &task.what, &memory, time, state);
        self.done += usize::from(done.is_some());
        self.all += 1;
    }

    /// How long a stage takes: by what stages of its kind took here, or else by its work.
    fn time(&self, task: &Task) -> (Option<Span>, &'static str) {
        match (self.measured.get(task.kind), &self.machine) {
            (Some((seconds, units)), _) if *units > 0 => {
                let each = Span::exactly(seconds / *units as f64);
                (Some(each.times(task.units)), "as such stages took here")
            }
            (_, Some(machine)) => (Some(Span::of(machine, &task.works)), "estimated"),
            (_, None) => (None, ""),
        }
    }

    /// The baseline of the `nth` game, whose tokens are the game's, which nobody knows before it is
    /// played. The first chooses a setting, which later ones take.
    fn baseline(&mut self, recipe: &Recipe, kept: &Manifest, before: &str, nth: usize) {
        let compare = &recipe.compare;
        if !compare.continued_sft {
            return;
        }
        let is_last = |done: &randori_store::Done| {
            done.folder.starts_with("continued-sft") && done.stage.starts_with("held-out")
        };
        let is_done = kept.stages.iter().any(is_last);
        let state = if is_done { "done" } else { "not estimated" };
        self.done += usize::from(is_done);
        self.all += 1;
        let what = match (nth, compare.lrs.len() * compare.epochs.len()) {
            (0, settings @ 2..) => format!("{settings} settings, each with the game's tokens"),
            (0, _) => "1 setting, with the game's tokens".into(),
            _ => "the setting of the first seed".into(),
        };
        self.line(&format!("{before}continued SFT"), &what, "-", None, state);
    }

    fn line(&mut self, label: &str, what: &str, memory: &str, time: Option<Span>, state: &str) {
        let time = time.map_or("-".into(), Span::words);
        let cells = [label, what, memory, &time, state];
        self.rows.push(cells.map(String::from));
    }

    /// What the lines add up to; `how` a time is estimated, and with rows how long.
    fn end(&self, plan: &Plan, how: &str, lengths: &str) -> Result<String> {
        let peak = plan.peak()?;
        let runs = match plan.card {
            true => "of the GPU",
            false => "of this machine: passes run on the CPU",
        };
        let unknown = match self.unknown {
            true => ", and of some stages nobody knows",
            false => "",
        };
        let baseline = match plan.recipe.compare.continued_sft {
            true => "Loading, saving and continued SFT",
            false => "Loading and saving",
        };
        Ok(format!(
            "\nStages: {} of {} are done.\nMemory: {} {} at most, {runs}.\nTime: {} left{unknown}; where no such stage was done here before, {how}:\n{lengths}.\n{baseline} are not in it.\n",
            self.done,
            self.all,
            shown(peak, self.most),
            unit(self.most),
            self.left.words(),
        ))
    }
}

/// What the run's folder takes.
fn disk(plan: &Plan, counts: &Counts, games: usize) -> String {
    let r = &plan.recipe;
    let (games, iterations, examples) =
        (games as u64, r.game.iterations as u64, counts.kept as u64);
    let supervised = u64::from(r.sft.epochs > 0);
    let baseline = match r.compare.continued_sft {
        true => (r.compare.lrs.len() * r.compare.epochs.len()) as u64 + games - 1,
        false => 0,
    };
    let players = games * (iterations + supervised) + baseline;
    let player = plan.game.player_bytes();
    let read = (counts.prompt_tokens + counts.real_tokens) as u64;
    let answered = examples * r.generate.max_new_tokens as u64;
    let answers = iterations.saturating_mul(TEXT * read + (TEXT + ID) * answered);
    let windows = (1..=iterations).map(|t| t.min(r.game.window as u64));
    let pairs = windows.sum::<u64>().saturating_mul(ID * (read + answered));
    let each = if players == 1 { "" } else { " each" };
    format!(
        "Disk: {} of {}{each}, pairs and answers up to about {}, and while one is trained up to {} of checkpoints.\n",
        counted(players as usize, "player"),
        alone(player),
        alone(games.saturating_mul(answers.saturating_add(pairs))),
        alone(2 * (player + plan.game.moment_bytes())),
    )
}
