//! `randori eval`: held-out measures of a player.

use std::path::Path;

use anyhow::Result;

use crate::check::{self, Uses};
use crate::corpus::part;
use crate::folder;
use crate::measure;
use crate::outbox;
use crate::report::{self, Measures, Played, Prompts, Summary};
use crate::request::{Request, Split};
use crate::session::Opened;

/// Measures, prints, and writes `out` if it is named.
pub fn eval(request: &Request, split: Split, out: Option<&Path>) -> Result<()> {
    let (recipe, adapter) = folder::player(request)?;
    let keys = check::keys(&recipe, split);
    let mut uses = Uses::MEASURED.data(&keys);
    if let Some(out) = out {
        uses = uses.writes(out, are_measures);
    }
    let host = check::recipe(&recipe, request, &adapter, &uses)?;
    let session = Opened::of(request, recipe, host)?.load(adapter)?;
    let part = part(
        &session.recipe,
        &session.tokenizer,
        split,
        session.bounds,
        None,
    )?;
    part.check_prompts()?;
    part.say(&*session.watch, "data");
    let seed = session.recipe.run.seed;
    let player = session.player()?;
    let own = measure::answer(&session, &player, &part, "player")?;
    let logps = measure::logps(&session, &player, &part, &own.first, "player")?;
    let pairs = measure::pairs(&part, &logps, &logps, &own.first);
    let signals = measure::signals(&session, &own, &pairs, session.rules().iteration(0).beta);
    let measures = measure::measures(&signals, true);
    let played = Played {
        converged: Vec::new(),
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
        name: "player".into(),
        played: vec![played],
        sample: None,
        seconds: 0.0,
        peak_bytes: None,
    };
    let columns = session.watch.columns();
    let table = report::table(&summary, columns, "--out FILE has them").replace("start", "player");
    let of = match split {
        Split::Train => "training prompts",
        Split::Validation => "validation prompts",
        Split::HeldOut => "held-out prompts",
    };
    let legend = report::legend(&summary).replace("held-out prompts", of);
    result!(session.watch, "{table}{legend}");
    if let Some(out) = out {
        let mut json = serde_json::to_vec_pretty(&summary.json()["start"])?;
        json.push(b'\n');
        outbox::write_results(out, |path| Ok(std::fs::write(path, &json)?))?;
    }
    Ok(())
}

/// Whether a file is what `eval --out` writes: an object with every measure.
fn are_measures(path: &Path) -> bool {
    let text = std::fs::read(path).unwrap_or_default();
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    let names = Measures::NONE.entries().map(|(name, _)| name);
    names.iter().all(|name| json.get(name).is_some())
}
