//! The mistakes in a recipe that cost nothing to find: looked for at one place, by every verb,
//! before data is tokenised, a model's files are opened or the hub is asked.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use randori_engine::weights::{Source, configuration};
use randori_engine::{matched, trace};
use randori_host::Host;
use randori_sdk::seam::Architecture;
use serde_json::Value;

use crate::artefacts::Learnt;
use crate::data_folder;
use crate::inputs::{ModelInputs, adapter_files};
use crate::model_files::{architecture, check_paths, source};
use crate::one_line::one_line;
use crate::outbox::Reads;
use crate::recipe::{AdapterKind, QuantKind, Recipe};
use crate::request::{Request, Split};
use crate::{data_rows, losses, outbox, pairs, session, settings, started};

/// What of a recipe a verb uses.
#[derive(Clone, Copy)]
pub struct Uses<'a> {
    /// Losses, the adapter's settings, the baseline's, and all that the others below say.
    training: bool,
    /// `generate.sampling`.
    answers: bool,
    /// `eval`.
    measures: bool,
    /// Whether passes are computed.
    device: bool,
    /// The keys of its data; `None`: all of them.
    data: Option<&'a [&'static str]>,
    /// Whether data need not be there.
    absent: bool,
    /// Whether rows without a prompt are of use.
    text: bool,
    /// A file of pairs.
    pairs: Option<&'a Path>,
    /// Whether its data are pairs.
    of_pairs: bool,
    /// A file of results to write, and what tells earlier results of the verb.
    out: Option<(&'a Path, fn(&Path) -> bool)>,
}

impl<'a> Uses<'a> {
    /// The whole recipe, played or trained with.
    pub const WHOLE: Uses<'static> = Uses {
        training: true,
        answers: true,
        measures: true,
        device: true,
        data: None,
        absent: false,
        text: false,
        pairs: None,
        of_pairs: false,
        out: None,
    };
    /// The whole recipe, trained with on pairs.
    pub const OF_PAIRS: Uses<'static> = Uses {
        of_pairs: true,
        ..Uses::WHOLE
    };
    /// The whole recipe, for supervised fine-tuning.
    pub const SUPERVISED: Uses<'static> = Uses {
        text: true,
        ..Uses::WHOLE
    };
    /// The whole recipe, looked at.
    pub const LOOKED_AT: Uses<'static> = Uses {
        device: false,
        ..Uses::SUPERVISED
    };
    /// The whole recipe, for what it would take: its data may be somewhere else.
    pub const PLANNED: Uses<'static> = Uses {
        absent: true,
        ..Uses::LOOKED_AT
    };
    /// A player, who scores.
    pub const PLAYER: Uses<'static> = Uses {
        training: false,
        answers: false,
        measures: false,
        data: Some(&[]),
        ..Uses::WHOLE
    };
    /// A player, who answers.
    pub const TALKER: Uses<'static> = Uses {
        answers: true,
        ..Uses::PLAYER
    };
    /// A player, who is measured.
    pub const MEASURED: Uses<'static> = Uses {
        measures: true,
        ..Uses::PLAYER
    };

    /// The whole recipe, trained with on a file of pairs. The recipe's data is not read, nor need
    /// it be there; that of a run that is given in the recipe's place is not looked at either.
    pub fn paired(request: &Request, file: &'a Path) -> Uses<'a> {
        match request.recipe.as_ref().is_some_and(|path| path.is_dir()) {
            true => Uses::WHOLE.data(&[]).pairs(file),
            false => Uses::WHOLE.pairs(file),
        }
    }

    /// With the data at these keys alone.
    pub fn data(self, keys: &'a [&'static str]) -> Uses<'a> {
        Uses {
            data: Some(keys),
            ..self
        }
    }

    /// With a file of pairs besides.
    pub fn pairs(self, file: &'a Path) -> Uses<'a> {
        Uses {
            pairs: Some(file),
            ..self
        }
    }

    /// With a file of results to write; `earlier` tells earlier results of the verb.
    pub fn writes(self, out: &'a Path, earlier: fn(&Path) -> bool) -> Uses<'a> {
        Uses {
            out: Some((out, earlier)),
            ..self
        }
    }
}

/// The keys that a split's data comes from.
///
/// # Errors
/// As [`data_rows::check_split`].
pub fn keys(recipe: &Recipe, split: Split) -> Result<[&'static str; 1]> {
    data_rows::check_split(recipe, split)?;
    Ok([data_rows::key(recipe, split)])
}

/// Loads the plugins and looks for whatever is wrong with the recipe that they, the files' names
/// and the first rows of its data tell; `adapter` is what is given instead of the recipe's start.
/// Of a model nothing is opened: see [`model`].
///
/// # Errors
/// The first mistake: the rule, the value and the place.
pub fn recipe(
    recipe: &Recipe,
    request: &Request,
    adapter: &[PathBuf],
    uses: &Uses,
) -> Result<Host> {
    let host = session::host(recipe, request)?;
    check_paths(recipe)?;
    for folder in started::stack(recipe, adapter) {
        Learnt::check_there(&folder)?;
    }
    match settings::check_device(recipe) {
        Err(error) if uses.device => return Err(error),
        // whoever computes will be refused
        Err(error) => request.watch.note(one_line(&error)),
        Ok(()) => {}
    }
    if uses.training {
        training(recipe, &host)?;
    }
    if uses.answers {
        losses::samplers(&host, &recipe.generate.sampling)?;
    }
    if uses.measures {
        losses::samplers(&host, &recipe.eval.sampling)?;
        settings::answer_check(recipe)?;
        if recipe.eval.seeds.is_empty() {
            return Err(recipe
                .refuse("eval.seeds", "must have at least one value, got []")
                .into());
        }
    }
    if let Some((out, earlier)) = uses.out {
        let mut reads = reads(recipe, request, adapter, uses.pairs).all;
        reads.extend(host.plugins().iter().map(|plugin| plugin.path.clone()));
        outbox::refuse_loss(out, &reads, earlier)?;
    }
    data(recipe, request, uses)?;
    if let Some(file) = uses.pairs {
        pairs::look(recipe, file)?;
    }
    if uses.of_pairs {
        pairs::look_at_data(recipe)?;
    }
    Ok(host)
}

/// What is read by trainings alone.
fn training(recipe: &Recipe, host: &Host) -> Result<()> {
    losses::check(recipe, host)?;
    if recipe.adapter.kind != AdapterKind::Full {
        settings::lora(recipe)?;
    }
    settings::checked_rules(recipe, losses::beta(recipe, host))?;
    let compare = &recipe.compare;
    let lists = [
        ("compare.lrs", compare.lrs.is_empty()),
        ("compare.epochs", compare.epochs.is_empty()),
    ];
    match lists
        .into_iter()
        .find(|(_, empty)| *empty && compare.continued_sft)
    {
        Some((key, _)) => Err(recipe
            .refuse(key, "must have at least one value, got []")
            .into()),
        None => Ok(()),
    }
}

/// The data's files are there, and their first rows have the shape of examples.
fn data(recipe: &Recipe, request: &Request, uses: &Uses) -> Result<()> {
    for key in uses.data.unwrap_or(&data_rows::KEYS) {
        // a file of pairs is trained on in its place
        let needed = (*key == "data.train" && uses.pairs.is_none()) || uses.data.is_some();
        let named = data_rows::named(recipe, key);
        if (needed && named.is_empty()) || named.iter().any(String::is_empty) {
            return Err(data_rows::unnamed(recipe, key).into());
        }
        let mut gone = data_rows::look(recipe, key, uses.text)?;
        if uses.pairs.is_some() {
            gone.clear();
        }
        // all may be somewhere else; one of several is a mistake
        let elsewhere = uses.absent && gone.len() == data_rows::named(recipe, key).len();
        for path in gone {
            let absent = format!(
                "{}: {key}: {} is not there",
                recipe.place(key),
                path.display()
            );
            match elsewhere {
                true => request.watch.note(absent),
                false => anyhow::bail!(absent),
            }
        }
    }
    Ok(())
}

/// The files and folders that a verb reads, as far as the recipe and the command line name them by
/// path: the recipe, its data or a file of pairs, the model, the start's players and the plugins
/// besides the program's own. Some may not be there.
pub fn reads(
    recipe: &Recipe,
    request: &Request,
    adapter: &[PathBuf],
    pairs: Option<&Path>,
) -> Reads {
    let mut data = Vec::new();
    // of a run's folder, whose files no verb writes over, the recipe
    let mut reads: Vec<PathBuf> = match &request.recipe {
        Some(run) if run.is_dir() => vec![run.join("recipe.toml")],
        given => given.iter().cloned().collect(),
    };
    reads.extend(pairs.map(Path::to_path_buf));
    for key in data_rows::KEYS {
        for file in data_rows::named(recipe, key) {
            let path = recipe.path(file);
            reads.extend(data_folder::all(&path));
            if path.is_dir() {
                data.push(path.clone());
            }
            reads.push(path);
        }
    }
    let model = &recipe.model;
    let source = model.source.0.strip_prefix("random:");
    let source = Some(source.unwrap_or(&model.source.0)).filter(|text| !text.is_empty());
    reads.extend(source.map(|text| recipe.path(text)));
    reads.extend(model.tokenizer.iter().map(|path| recipe.path(path)));
    let template = model.chat_template.iter().filter(|file| *file != "plain");
    reads.extend(template.map(|file| recipe.path(file)));
    reads.extend(recipe.plugins.paths.iter().map(|path| recipe.path(path)));
    reads.extend(request.plugins.iter().cloned());
    // a link in such a folder may lead out of it; what cannot be listed is told of where it is read
    if let Ok(files) = ModelInputs::named(recipe) {
        reads.extend(files.paths().map(Path::to_path_buf));
    }
    for folder in started::stack(recipe, adapter) {
        reads.extend(adapter_files(&folder).unwrap_or_default());
        reads.push(folder);
    }
    Reads { all: reads, data }
}

/// Looks for what the model's configuration alone tells, whatever weights lie beside it: that there
/// is an architecture for it, and that each entry of a fresh adapter's settings matches something.
/// Of a model from the hub, `config.json` is fetched where the cache has it not.
///
/// # Errors
/// The first mistake.
pub fn model(recipe: &Recipe, host: &Host, adapter: &[PathBuf]) -> Result<()> {
    let source = source(recipe)?;
    let blocks =
        recipe.adapter.kind == AdapterKind::Qlora && recipe.adapter.quant == QuantKind::Gguf;
    if blocks && !matches!(source, Source::Gguf(_)) {
        let rule = "must be \"nf4\" for a model that is no GGUF file, got \"gguf\", which keeps \
                    such a file's own blocks";
        return Err(recipe.refuse("adapter.quant", rule).into());
    }
    let described = configuration(source, host.families()?)
        .with_context(|| format!("{}: model.source", recipe.place("model.source")))?;
    let config = described.config();
    let arch = architecture(recipe, host, config)?;
    let fresh = started::stack(recipe, adapter).is_empty();
    if !fresh || recipe.adapter.kind == AdapterKind::Full {
        return Ok(());
    }
    let spec = settings::lora(recipe)?;
    let matches = |arch: &dyn Architecture| {
        let trace = trace(arch)?;
        matched(&trace, &spec).map(drop)
    };
    let Err(error) = matches(&*arch) else {
        return Ok(());
    };
    // a file with a head of its own unties a model whose configuration ties it: who opens it knows
    if let Some(untied) = untied(config)
        && architecture(recipe, host, &untied).is_ok_and(|arch| matches(&*arch).is_ok())
    {
        return Ok(());
    }
    let said = error.to_string();
    let key = ADAPTER.iter().find(|(word, _)| said.contains(word));
    let key = key.map_or("adapter.targets", |(_, key)| key);
    Err(error).with_context(|| format!("{}: [adapter]", recipe.place(key)))
}

/// The adapter's keys by the words that an error over one of their entries has.
const ADAPTER: [(&str, &str); 4] = [
    ("adapter's exclude", "adapter.exclude"),
    ("rank_pattern:", "adapter.rank_pattern"),
    ("alpha_pattern:", "adapter.alpha_pattern"),
    ("modules_to_save:", "adapter.modules_to_save"),
];

/// The configuration of a tied model without the tie.
fn untied(config: &Value) -> Option<Value> {
    const TIED: &str = "tie_word_embeddings";
    let tied = config.get(TIED).and_then(Value::as_bool) == Some(true);
    tied.then(|| {
        let mut config = config.clone();
        config[TIED] = false.into();
        config
    })
}
