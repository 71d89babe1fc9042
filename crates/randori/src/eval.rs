//! `randori eval`: held-out measures of a player.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::check::{self, Uses};
use crate::corpus::part;
use crate::data_rows;
use crate::export::{ITERATION, called, chosen};
use crate::folder;
use crate::measure;
use crate::outbox;
use crate::recipe::Recipe;
use crate::report::{self, Measures, Played, Prompts, Summary};
use crate::request::{Request, Split, Which};
use crate::session::Opened;

/// Measures the player of `request`, or of its run folder the one that `which` names, prints, and
/// writes `out` if it is named.
///
/// # Errors
/// Whatever is wrong with recipe, plugins, model or data; a player that is not there.
pub fn eval(
    request: &Request,
    split: Split,
    which: Option<Which>,
    out: Option<&Path>,
) -> Result<()> {
    let (recipe, adapter, who) = player(request, which)?;
    let keys = check::keys(&recipe, split)?;
    let mut uses = Uses::MEASURED.data(&keys);
    if let Some(out) = out {
        uses = uses.writes(out, are_measures);
    }
    let host = check::recipe(&recipe, request, &adapter, &uses)?;
    let opened = Opened::of(request, recipe, host)?;
    let at_hand = &opened.setting;
    let (recipe, tokenizer) = (&at_hand.recipe, &at_hand.tokenizer);
    let part = part(recipe, tokenizer, split, at_hand.bounds, None)?;
    part.check_prompts()?;
    let session = opened.load(adapter)?;
    part.say(&*session.watch, "data");
    let seed = session.recipe.run.seed;
    let player = session.player()?;
    let own = measure::answer(&session, &player, &part, &who)?;
    let logps = measure::logps(&session, &player, &part, &own.first, &who)?;
    let pairs = measure::pairs(&part, &logps, &logps, &own.first);
    let signals = measure::signals(&session, &own, &pairs, session.rules().iteration(0).beta);
    // these compare a player with its opponent, which is not here
    let measures = Measures {
        margin: f64::NAN,
        accuracy: f64::NAN,
        ..measure::measures(&signals, true)
    };
    let played = Played {
        converged: Vec::new(),
        signs: Vec::new(),
        seed,
        start: measures,
        iterations: Vec::new(),
        continued_sft: None,
        tokens: 0,
        prompts: Prompts {
            start: measure::prompts(&own, &pairs, session.rules().iteration(0).beta),
            iterations: Vec::new(),
        },
    };
    let summary = Summary {
        name: who.clone(),
        played: vec![played],
        sample: None,
        seconds: 0.0,
        peak_bytes: None,
    };
    let shown = shown(&summary, &who, split, session.watch.columns());
    result!(session.watch, "{shown}");
    let note = "margin and accuracy compare a player with its opponent; `run` measures them";
    session.watch.note(note.into());
    if let Some(out) = out {
        let mut json = serde_json::to_vec_pretty(&summary.json()["start"])?;
        json.push(b'\n');
        outbox::write_results(out, |path| Ok(std::fs::write(path, &json)?))?;
    }
    Ok(())
}

/// Whether the request's recipe has held-out rows that can be read here, so that [`eval`] measures
/// a player of it.
pub fn is_measured(request: &Request) -> bool {
    folder::recipe(request).is_ok_and(|(recipe, _)| {
        let rows = data_rows::count(&recipe, Split::HeldOut);
        data_rows::check_split(&recipe, Split::HeldOut).is_ok() && rows.is_some_and(|n| n > 0)
    })
}

/// The player's recipe, what it has learnt, and what it is called.
pub fn player(request: &Request, which: Option<Which>) -> Result<(Recipe, Vec<PathBuf>, String)> {
    let (recipe, given) = folder::recipe(request)?;
    let (learnt, game) = chosen(request, &recipe, given.clone(), which, ITERATION)?;
    folder::say_game(request, &recipe)?;
    let who = called(request, &recipe, game.as_ref());
    Ok(match game {
        Some(_) => (recipe, learnt, who),
        None => (recipe, given, who),
    })
}

/// The table of the one player, whose row is the start's under another name, and what its
/// intervals speak of.
fn shown(summary: &Summary, who: &str, split: Split, columns: Option<usize>) -> String {
    let wider = who.len().saturating_sub("start".len());
    let columns = columns.map(|columns| columns.saturating_sub(wider));
    let table = report::table(summary, columns, "--out FILE has them");
    let table = table.replacen("start", who, 1);
    let of = match split {
        Split::Train => "training prompts",
        Split::Validation => "validation prompts",
        Split::HeldOut => "held-out prompts",
    };
    let legend = report::legend(summary).replace("held-out prompts", of);
    format!("{:wider$}{table}{legend}", "")
}

/// Whether a file is what `eval --out` writes: an object with every measure.
fn are_measures(path: &Path) -> bool {
    let text = std::fs::read(path).unwrap_or_default();
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    let names = Measures::NONE.entries().map(|(name, _)| name);
    names.iter().all(|name| json.get(name).is_some())
}
