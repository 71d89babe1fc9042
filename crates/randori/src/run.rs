//! `randori run`: the whole game, once per seed, beside its baseline; then the table,
//! `summary.json`, `report.html`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use randori_core::{Ended, Outcome, Signals, Stage};
use randori_store::{Disk, Open, Run};

use crate::artefacts::Learnt;
use crate::check::Uses;
use crate::corpus::{Part, part};
use crate::figures::clock;
use crate::game::{ANSWERS, PROMPTS, SHOWCASE, SpinGame, game_label};
use crate::logs::{converged, losses, prompts, signs, trained_tokens};
use crate::measure::{self, HeldOutAnswer};
use crate::outlook::{self, Outlook};
use crate::recipe::Recipe;
use crate::record::Recorder;
use crate::report::{self, Played, Prompts, Sample, Summary};
use crate::request::{Request, Split};
use crate::session::{Opened, Session, Setting};
use crate::stages::{rows_beside, write_rows};
use crate::supervised::{self, Contest};
use crate::watch::Watch;
use crate::{aim, check, data_rows, folder, inputs, losses, outbox, settings};

/// The data of a run.
pub struct Corpus {
    /// What is trained on.
    pub train: Part,
    /// What the baseline's settings are chosen on.
    validation: Option<Part>,
    /// What is measured on.
    pub held_out: Part,
}

/// Plays, or goes on playing.
pub fn play(request: &Request, fresh: bool) -> Result<Summary> {
    let began = Instant::now();
    let (mut recipe, _) = folder::recipe(request)?;
    let dir = folder::of(request, &recipe);
    let reads = check::reads(&recipe, request, &request.adapter, None);
    outbox::refuse_run_folder(&dir, fresh, &reads)?;
    folder::refuse_if_held(&dir)?;
    data_rows::check_measured(&recipe)?;
    aim::refuse_no_game(request, &recipe)?;
    let host = check::recipe(&recipe, request, &request.adapter, &Uses::WHOLE)?;
    losses::check_game(&recipe, &host)?;
    host.sampler("greedy", &[])?; // shows an answer of each player
    folder::settle(&mut recipe, &dir, fresh)?;
    check::model(&recipe, &host, &request.adapter)?;
    folder::settle_data(&mut recipe, &dir, fresh)?;
    folder::refuse_other_games(&dir, &recipe, &host, fresh)?;
    let opened = Opened::with(recipe, host, request)?;
    opened.check_adapter(&request.adapter)?;
    let corpus = open_corpus(&opened.setting)?;
    let mut session = opened.load(request.adapter.clone())?;
    session.check_start()?;
    let how = if fresh { Open::Fresh } else { Open::Resume };

    let games = folder::games(&dir, &session.recipe, fresh)?;
    session.setting.watch = watched(&session, &corpus, &games, fresh)?;
    let data = inputs::data(&session.recipe, corpus.train.aside.as_ref())?;
    let open = |dir: &Path, seed| session.run(dir, seed, data.clone(), how);
    let mut whole = match games.iter().any(|(_, place)| *place == dir) {
        true => None, // it is one of the games
        false => Some(open(&dir, folder::seed_of(&dir, &session.recipe, fresh)?)?),
    };
    let (mut played, mut chosen) = (Vec::new(), None);
    let mut news = 0;
    for (seed, place) in &games {
        let mut run = open(place, *seed)?;
        let label = game_label(*seed, games.len());
        let before = run.manifest().stages.len();
        played.push(one(
            &session,
            &corpus,
            &mut run,
            *seed,
            &mut chosen,
            &label,
        )?);
        news += run.manifest().stages.len() - before;
        if *place == dir {
            whole = Some(run);
        }
    }
    let first = &games[0].1;
    let summary = Summary {
        name: session.recipe.run.name.clone(),
        sample: sample(first, played[0].iterations.len())?,
        played,
        seconds: began.elapsed().as_secs_f64(),
        peak_bytes: peak_bytes(),
    };
    // a finished run keeps its summary: the time and memory in it are those of the playing
    if news == 0 && tells_the_same(&dir.join("summary.json"), &summary) {
        session
            .watch
            .say("everything here was played before".into());
    } else if let Some(run) = whole.as_mut() {
        write(run, &session, &summary, first)?;
    }
    show(&*session.watch, &summary, &dir, began);
    Ok(summary)
}

/// The session's watch, told besides how long the whole run will take.
fn watched(
    session: &Session,
    corpus: &Corpus,
    games: &[(u64, PathBuf)],
    fresh: bool,
) -> Result<Arc<dyn Watch>> {
    let data = outlook::Data {
        train: &corpus.train,
        held_out: &corpus.held_out,
        validation: corpus.validation.as_ref(),
    };
    let ahead = outlook::planned(session, &data, games, fresh)?;
    let planner = outlook::planner(session, &data);
    Ok(Arc::new(Outlook::new(
        session.watch.clone(),
        ahead,
        planner,
    )))
}

/// `summary.json` and `report.html`.
fn write(run: &mut Run, session: &Session, summary: &Summary, first: &Path) -> Result<()> {
    run.write_json("summary.json", &summary.json())?;
    let losses = losses(first, summary.played[0].iterations.len())?;
    let page = report::page(summary, &session.recipe.resolved(), &losses);
    run.write("report.html", page.as_bytes())?;
    Ok(())
}

/// Whether a kept summary differs in time and memory at most: fewer iterations or seeds are another
/// summary.
fn tells_the_same(kept: &Path, summary: &Summary) -> bool {
    let measured = |mut all: serde_json::Value| {
        if let Some(map) = all.as_object_mut() {
            map.retain(|key, _| !["seconds", "peak_bytes"].contains(&key.as_str()));
        }
        all
    };
    randori_store::read_json(kept).is_ok_and(|kept| measured(kept) == measured(summary.json()))
}

/// Reads the recipe's data, and says how much of it is left; refuses a recipe of which some
/// training would learn nothing.
pub fn open_corpus(session: &Setting) -> Result<Corpus> {
    let (recipe, tokenizer) = (&session.recipe, &session.tokenizer);
    let read = |split| part(recipe, tokenizer, split, session.bounds, None);
    let corpus = Corpus {
        train: read(Split::Train)?,
        validation: recipe
            .compare
            .continued_sft
            .then(|| read(Split::Validation))
            .transpose()?,
        held_out: read(Split::HeldOut)?,
    };
    corpus.train.check_prompts()?;
    corpus.held_out.check_prompts()?;
    corpus.train.say(&*session.watch, "training data");
    corpus.held_out.say(&*session.watch, "held-out data");
    check_rates(recipe, &corpus)?;
    Ok(corpus)
}

/// Whether every training of the run can learn.
fn check_rates(recipe: &Recipe, corpus: &Corpus) -> Result<()> {
    let examples = corpus.train.examples.len();
    if recipe.sft.epochs > 0 {
        settings::check_rates(recipe, examples, true)?;
    }
    settings::check_rates(recipe, examples, false)
}

/// One game and its baseline.
fn one(
    session: &Session,
    corpus: &Corpus,
    run: &mut Run,
    seed: u64,
    chosen: &mut Option<supervised::Setting>,
    label: &str,
) -> Result<Played> {
    let (train, held_out) = (&corpus.train, &corpus.held_out);
    let board = run.board()?;
    let start = start(session, train, run, seed, label)?;
    let (at_start, start_answers) = measured_start(session, held_out, run, &start, label)?;
    let rules = settings::checked_rules(&session.recipe, session.beta())?;
    let mut game = SpinGame::new(
        session,
        train,
        held_out,
        seed,
        start.clone(),
        start_answers.clone(),
        board,
        label.to_string(),
        Recorder::new(session, run.manifest(), seed),
    )?;
    let Outcome { signals, ended, .. } = randori_core::play(&mut game, run, &rules)?;
    if ended == Ended::Indistinguishable {
        session.watch.say(format!(
            "{label}the stop rule ended the game: the opponent can no longer be told from the data"
        ));
    }
    shown_again(session, held_out, run, &start, signals.len())?;
    let tokens = trained_tokens(run.dir(), signals.len())?;
    let continued_sft = match &corpus.validation {
        None => None,
        Some(validation) => {
            let contest = Contest {
                train,
                validation,
                held_out,
                start: &start,
                start_answers: &start_answers,
                budget: tokens,
                seed,
            };
            let (baseline, setting) = supervised::baseline(session, run, &contest, *chosen, label)?;
            *chosen = Some(setting);
            Some(baseline)
        }
    };
    Ok(Played {
        seed,
        start: measure::measures(&at_start, true),
        iterations: signals
            .iter()
            .map(|s| measure::measures(s, false))
            .collect(),
        continued_sft,
        tokens,
        converged: converged(run.dir(), signals.len())?,
        signs: (0..signals.len())
            .map(|t| signs(session, run, t))
            .collect::<Result<_>>()?,
        prompts: Prompts {
            start: prompts(run, "start")?,
            iterations: (0..signals.len())
                .map(|t| prompts(run, &randori_store::iteration_folder(t)))
                .collect::<Result<_>>()?,
        },
    })
}

/// The start, after its supervised stage if the recipe has one.
fn start(session: &Session, train: &Part, run: &mut Run, seed: u64, label: &str) -> Result<Learnt> {
    let made = Learnt::provenance_of(&session.stack())?;
    if session.recipe.sft.epochs == 0 {
        return Ok(Learnt::of(&session.start(seed)?, &session.base_name, made));
    }
    let recorder = Recorder::new(session, run.manifest(), seed);
    run.stage("start", "policy", |workspace| {
        let player = session.start(seed)?;
        let settings = settings::sft(&session.recipe, seed, train.examples.len());
        settings::say_unwarmed(&*session.watch, &session.recipe, "sft.warmup", &settings);
        let record = recorder.supervised(&settings, train.examples.len());
        let player = supervised::fine_tune(
            session,
            player,
            train,
            settings,
            workspace,
            &format!("{label}supervised"),
        )?;
        Ok(Learnt::of(&player, &session.base_name, made.and(record)))
    })
}

/// The start's signals and its held-out answers.
fn measured_start(
    session: &Session,
    held_out: &Part,
    run: &mut Run,
    start: &Learnt,
    label: &str,
) -> Result<(Signals, Vec<HeldOutAnswer>)> {
    let player = start.player(&session.base);
    let name = format!("{label}start");
    let signals = run.stage("start", "eval", |workspace| {
        let own = measure::answer(session, &player, held_out, &name)?;
        let logps = measure::logps(session, &player, held_out, &own.first, &name)?;
        workspace.write(ANSWERS, |path| write_rows(path, &own.first))?;
        let pairs = measure::pairs(held_out, &logps, &logps, &own.first);
        let prompts = measure::prompts(&own, &pairs, session.rules().iteration(0).beta);
        workspace.write(PROMPTS, |path| write_rows(path, &prompts))?;
        let showcase = measure::showcase(session, &player, held_out)?;
        workspace.write(SHOWCASE, |path| write_rows(path, &showcase))?;
        anyhow::Ok(measure::signals(
            session,
            &own,
            &pairs,
            session.rules().iteration(0).beta,
        ))
    })?;
    let kept: Vec<HeldOutAnswer> = match run.folder("start").join(ANSWERS).exists() {
        true => rows_beside(run.dir(), "start", "eval", ANSWERS)?,
        false => Vec::new(),
    };
    if kept.len() == held_out.examples.len() {
        return Ok((signals, kept));
    }
    // removed by somebody: drawn again, the same
    let answers = measure::answer(session, &player, held_out, &name)?.first;
    if is_gone(run, "start", ANSWERS) {
        put_back(session, run, "start", ANSWERS, &answers)?;
    }
    Ok((signals, answers))
}

/// Draws again what is shown of the start and of the last iteration where somebody has removed it.
fn shown_again(
    session: &Session,
    held_out: &Part,
    run: &Run,
    start: &Learnt,
    iterations: usize,
) -> Result<()> {
    let last = iterations
        .checked_sub(1)
        .map(randori_store::iteration_folder);
    for folder in ["start".to_string()].into_iter().chain(last) {
        if !is_gone(run, &folder, SHOWCASE) {
            continue;
        }
        let learnt = match folder.as_str() {
            "start" => start.clone(),
            _ => run.load(&folder, Stage::Policy.name())?,
        };
        let rows = measure::showcase(session, &learnt.player(&session.base), held_out)?;
        put_back(session, run, &folder, SHOWCASE, &rows)?;
    }
    Ok(())
}

/// Whether a file is not there any more that a player's measuring wrote.
fn is_gone(run: &Run, folder: &str, name: &str) -> bool {
    let done = run.manifest().done(folder, Stage::Eval.name());
    let wrote = done.is_some_and(|done| done.beside.contains_key(name));
    wrote && !run.folder(folder).join(name).exists()
}

/// Puts such a file back, if it comes out as it was, and says so.
fn put_back(
    session: &Session,
    run: &Run,
    folder: &str,
    name: &str,
    rows: &[HeldOutAnswer],
) -> Result<()> {
    let (disk, path) = (Disk::new(), run.folder(folder).join(name));
    disk.replace(&path, |fresh| Ok(write_rows(fresh, rows)?))?;
    let stage = Stage::Eval.name();
    let same = randori_store::beside(run.dir(), run.manifest(), folder, stage, name);
    let said = match same.is_ok() {
        true => "was gone and is made again",
        false => {
            disk.remove(&path)?;
            "is gone, and would not be made again as it was"
        }
    };
    session.watch.note(format!("{} {said}", path.display()));
    Ok(())
}

/// The first held-out prompt (not the prettiest) answered by the human and, greedily, by the start
/// and the last iteration; `None` where somebody has removed one of the answers.
fn sample(dir: &Path, iterations: usize) -> Result<Option<Sample>> {
    let of = |folder: String| -> Result<Option<HeldOutAnswer>> {
        if !dir.join(&folder).join(SHOWCASE).exists() {
            return Ok(None);
        }
        let rows = rows_beside(dir, &folder, Stage::Eval.name(), SHOWCASE)?;
        Ok(rows.into_iter().next())
    };
    let Some(t) = iterations.checked_sub(1) else {
        return Ok(None);
    };
    let last = of(randori_store::iteration_folder(t))?;
    let (Some(start), Some(last)) = (of("start".into())?, last) else {
        return Ok(None);
    };
    Ok(Some(Sample {
        prompt: start
            .prompt
            .last()
            .map(|m| m.content().to_owned())
            .unwrap_or_default(),
        human: start.real,
        start: start.generated,
        last: last.generated,
    }))
}

fn show(watch: &dyn Watch, summary: &Summary, dir: &Path, began: Instant) {
    result!(
        watch,
        "\n{}{}",
        report::table(summary, watch.columns(), "summary.json has them"),
        report::legend(summary)
    );
    result!(watch, "{}", report::verdict(summary));
    for line in summary.converged() {
        result!(watch, "{line}");
    }
    summary
        .signs()
        .into_iter()
        .for_each(|line| watch.warn(line));
    if let Some(s) = &summary.sample {
        let last = summary.played[0].iterations.len().saturating_sub(1);
        let last = format!("iteration {last}");
        result!(
            watch,
            "\nThe first held-out prompt, answered greedily: {}",
            s.prompt.trim()
        );
        let answers = [
            ("human", &s.human),
            ("start", &s.start),
            (last.as_str(), &s.last),
        ];
        for (who, text) in answers {
            result!(watch, "  {who:<14}{}", text.trim());
        }
    }
    let memory = summary.peak_bytes.map_or(String::new(), |b| {
        format!(", at most {:.0} MB of memory", b as f64 / 1e6)
    });
    result!(
        watch,
        "\n{}: summary.json, report.html ({}{memory})",
        dir.display(),
        clock(began.elapsed())
    );
}

/// The process's largest resident size so far (Linux; elsewhere nothing is said rather than
/// something wrong).
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024)
}
