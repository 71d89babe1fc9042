//! `randori eval --tasks`: benchmark tasks by lm-evaluation-harness's own definitions, read where
//! the user has them.

mod asking;
mod harness;
mod rows;
mod table;
mod yaml;

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use randori_data::TaskTemplate;
use randori_engine::Player;
use randori_eval::task::{Definition, Doc, Item, Output, Pool, Scored};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::check::{self, Uses};
use crate::outbox;
use crate::recipe::Recipe;
use crate::request::{Request, Which};
use crate::session::{Opened, Session};
use crate::stages::write_rows;
use asking::Said;
use harness::{Asked, Harness};
use table::Line;

/// Which tasks, and where they are read.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    /// Names of tasks, groups or tags.
    pub names: Vec<String>,
    /// lm-evaluation-harness's folder; else the one that Python finds.
    pub harness: Option<PathBuf>,
    /// A folder with the data sets, each in a folder of its name; else the hub's.
    pub data: Option<PathBuf>,
    /// So many documents of each task, from the first.
    pub limit: Option<usize>,
    /// Few-shot examples, of the tasks that have not 0 by definition.
    pub shots: Option<usize>,
}

/// One document's result.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    task: String,
    document: usize,
    scores: serde_json::Map<String, Value>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    logps: Vec<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    response: Option<String>,
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    filtered: serde_json::Map<String, Value>,
    target: Value,
    tokens: usize,
    cut: bool,
}

/// A task with its questions.
struct Ready {
    definition: Definition,
    shots: usize,
    items: Vec<Item>,
}

/// Measures the player of `request` on tasks: prints a table, and writes each document's result to
/// `out` if it is named.
///
/// # Errors
/// Whatever is wrong with the tasks, their data, recipe, plugins or model.
pub fn eval_tasks(
    request: &Request,
    tasks: &Tasks,
    which: Option<Which>,
    out: Option<&Path>,
) -> Result<()> {
    let (recipe, adapter, who) = player(request, which)?;
    let mut uses = Uses::PLAYER;
    if let Some(out) = out {
        uses = uses.writes(out, outbox::are_rows::<Row>);
    }
    let host = check::recipe(&recipe, request, &adapter, &uses)?;
    // all that can be wrong with tasks and data is found before a weight is read
    let harness = Harness::open(tasks.harness.as_deref())?;
    let watch = request.watch.clone();
    watch.say(format!(
        "  {:<38} {}",
        "definitions",
        harness.root().display()
    ));
    let asked = once(&tasks.names)?;
    let asked = asked.into_iter().map(|name| harness.find(name));
    let asked: Vec<Asked> = asked.collect::<Result<_>>()?;
    let mut ready = Vec::new();
    for one in &asked {
        prepare(one, tasks, &mut ready)?;
    }
    for one in &ready {
        if let Some(line) = unanswerable(one)? {
            watch.warn(line);
        }
    }
    let opened = Opened::of(request, recipe, host)?;
    let session = opened.load(adapter)?;
    let player = session.player()?;
    let (mut rows, mut lines) = (Vec::new(), Vec::new());
    for one in &ready {
        let (own, line) = measured(&session, &player, one)?;
        let cut = own.iter().filter(|row| row.cut).count();
        if cut > 0 {
            let name = &one.definition.name;
            watch.warn(format!(
                "{name}: {cut} of {} questions are longer than the model takes, and were cut at \
                 their beginning",
                own.len()
            ));
        }
        rows.extend(own);
        lines.push(line);
    }
    let lines = table::with_groups(&asked, lines);
    result!(watch, "{}", table::table(&who, &lines));
    if let Some(out) = out {
        outbox::write_results(out, |path| Ok(write_rows(path, &rows)?))?;
    }
    Ok(())
}

/// A line about questions of which no choice is right, most often since the target is a text
/// or counts from 1; nobody can answer them.
fn unanswerable(ready: &Ready) -> Result<Option<String>> {
    let of = &ready.definition;
    if !matches!(of.output, Output::Choices) {
        return Ok(None);
    }
    let (mut count, mut first) = (0, None);
    for item in &ready.items {
        if of.is_unanswerable(item)? {
            count += 1;
            first.get_or_insert(item);
        }
    }
    Ok(first.map(|item| {
        format!(
            "{}: of {count} of {} questions no choice is right, so every answer counts as wrong; \
             document {} asks for {} of {} choices",
            of.name,
            ready.items.len(),
            item.number,
            item.target,
            item.choices.len()
        )
    }))
}

/// The names, each once.
fn once(names: &[String]) -> Result<Vec<&str>> {
    let mut all: Vec<&str> = Vec::new();
    for name in names.iter().map(|name| name.trim()) {
        ensure!(
            !name.is_empty(),
            "--tasks must name tasks, groups or tags, separated by commas; one name is empty"
        );
        if !all.contains(&name) {
            all.push(name);
        }
    }
    Ok(all)
}

/// The player's recipe, what it has learnt, and what it is called: of a recipe or a run folder, or
/// of a model itself, as it is.
fn player(request: &Request, which: Option<Which>) -> Result<(Recipe, Vec<PathBuf>, String)> {
    let Some(model) = request.recipe.as_deref().filter(|path| is_model(path)) else {
        return crate::eval::player(request, which);
    };
    ensure!(
        which.is_none(),
        "--iteration: {} is a model, of which no iterations are known; give the run's folder",
        model.display()
    );
    let shown = model.display().to_string();
    let place = match model.exists() {
        true => std::path::absolute(model)?.to_string_lossy().into_owned(),
        false => shown.clone(),
    };
    // no template is applied, and a base model has none
    let text = format!(
        "[model]\nsource = {}\nchat_template = \"plain\"\n",
        Value::from(place)
    );
    let recipe = Recipe::parse(&shown, &text, Path::new(""), &request.set)?;
    Ok((recipe, request.adapter.clone(), shown))
}

/// Whether this is a model rather than a recipe or a run.
fn is_model(path: &Path) -> bool {
    let text = path.to_string_lossy();
    if path.is_dir() {
        return path.join("config.json").is_file() && !path.join("recipe.toml").is_file();
    }
    let hub = || {
        let repo = text.split('@').next().unwrap_or_default();
        repo.split('/').filter(|part| !part.is_empty()).count() == 2
            && repo.matches('/').count() == 1
            && !repo.starts_with('.')
            && !repo.ends_with(".toml")
    };
    text.ends_with(".gguf") || (!path.exists() && !text.contains(':') && hub())
}

/// Reads the data of a task, or of those in a group, and builds their questions.
fn prepare(asked: &Asked, tasks: &Tasks, ready: &mut Vec<Ready>) -> Result<()> {
    let definition = match asked {
        Asked::Task(definition) => definition,
        Asked::Group(group) => {
            return group
                .parts
                .iter()
                .try_for_each(|part| prepare(part, tasks, ready));
        }
    };
    if ready
        .iter()
        .any(|known| known.definition.name == definition.name)
    {
        return Ok(());
    }
    let compiled: RefCell<HashMap<String, TaskTemplate>> = RefCell::default();
    let render = |source: &str, doc: &Doc| {
        let mut compiled = compiled.borrow_mut();
        if !compiled.contains_key(source) {
            let template = TaskTemplate::new(source).map_err(|e| e.to_string())?;
            compiled.insert(source.to_owned(), template);
        }
        let rendered = compiled.get(source).map(|template| template.render(doc));
        rendered
            .transpose()
            .map_err(|e| e.to_string())
            .map(Option::unwrap_or_default)
    };
    let name = &definition.name;
    let read = |split: &str| {
        rows::rows(&definition.dataset, split, tasks.data.as_deref())
            .with_context(|| format!("task {name}"))
    };
    let docs = definition.docs(read(definition.asked()?)?, false, &render)?;
    let shots = definition.shots(tasks.shots);
    let pool = match definition.pool()? {
        _ if shots == 0 => Vec::new(),
        Pool::Split(split) => definition.docs(read(split)?, true, &render)?,
        Pool::LikeQuestions(split) => definition.docs(read(split)?, false, &render)?,
        Pool::Samples(samples) => {
            let docs = samples.iter().filter_map(Value::as_object);
            docs.cloned().collect()
        }
    };
    let items = definition.items(&docs, &pool, shots, tasks.limit, &render)?;
    ready.push(Ready {
        definition: (**definition).clone(),
        shots,
        items,
    });
    Ok(())
}

/// Asks a task's questions: a row for each, and the task's line.
fn measured(session: &Session, player: &Player, ready: &Ready) -> Result<(Vec<Row>, Line)> {
    let of = &ready.definition;
    let said: Vec<Said> = match &of.output {
        Output::Choices => asking::choices(session, player, &ready.items, &of.name)?,
        Output::Generate { until, tokens } => {
            asking::responses(session, player, &ready.items, until, *tokens, &of.name)?
        }
    };
    let mut rows = Vec::new();
    let mut values: Vec<(String, Vec<f64>)> = Vec::new();
    for (item, said) in ready.items.iter().zip(said) {
        let (scored, response) = match &of.output {
            Output::Choices => (of.by_choices(item, &said.logps)?, None),
            Output::Generate { .. } => (
                of.by_response(item, &said.response)?,
                Some(said.response.clone()),
            ),
        };
        for score in &scored.scores {
            match values
                .iter_mut()
                .find(|(metric, _)| *metric == score.metric)
            {
                Some((_, values)) => values.push(score.value),
                None => values.push((score.metric.clone(), vec![score.value])),
            }
        }
        rows.push(row(of, item, said, scored, response));
    }
    Ok((rows, Line::of(&of.name, ready.shots, values)))
}

fn row(of: &Definition, item: &Item, said: Said, scored: Scored, response: Option<String>) -> Row {
    let scores = scored.scores.into_iter();
    let filtered = scored.filtered.into_iter();
    Row {
        task: of.name.clone(),
        document: item.number,
        scores: scores
            .map(|score| (score.metric, score.value.into()))
            .collect(),
        logps: said.logps,
        response,
        filtered: filtered.map(|(name, text)| (name, text.into())).collect(),
        target: item.target.clone(),
        tokens: said.tokens,
        cut: said.cut,
    }
}
