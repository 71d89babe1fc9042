//! The held-out measures of a card: the run's table, of one game, up to one player.

use std::path::Path;

use anyhow::Result;
use randori_core::Signals;
use randori_store::{Manifest, iteration_folder, load};

use crate::game::PROMPTS;
use crate::measure;
use crate::report::{self, Measures, Played, PromptRow, Prompts, Summary};
use crate::stages::rows_beside;

/// The start's and the first so many iterations' measures, as the terminal has them; "" where the
/// start was never measured.
///
/// # Errors
/// A file that was changed since it was written.
pub fn measures(dir: &Path, manifest: &Manifest, iterations: usize) -> Result<String> {
    let of = |place: &str| -> Result<Option<(Measures, Vec<PromptRow>)>> {
        if manifest.done(place, "eval").is_none() {
            return Ok(None);
        }
        let signals: Signals = load(dir, place, "eval")?;
        let prompts = rows_beside(dir, place, "eval", PROMPTS)?;
        Ok(Some((
            measure::measures(&signals, place == "start"),
            prompts,
        )))
    };
    let Some((start, of_start)) = of("start")? else {
        return Ok(String::new());
    };
    let (mut each, mut prompts) = (Vec::new(), Vec::new());
    for t in 0..iterations {
        let Some((measures, rows)) = of(&iteration_folder(t))? else {
            break; // stopped before it was measured
        };
        each.push(measures);
        prompts.push(rows);
    }
    let seed = manifest.recipe.get("seed").and_then(|s| s.parse().ok());
    let summary = Summary {
        name: String::new(),
        played: vec![Played {
            seed: seed.unwrap_or_default(),
            start,
            iterations: each,
            continued_sft: None,
            tokens: 0,
            signs: Vec::new(),
            converged: Vec::new(),
            prompts: Prompts {
                start: of_start,
                iterations: prompts,
            },
        }],
        sample: None,
        seconds: 0.0,
        peak_bytes: None,
    };
    let legend = match report::legend(&summary) {
        legend if legend.is_empty() => legend,
        legend => format!("{legend}. "),
    };
    Ok(format!(
        "\n## Held-out measures\n\n{}\n{legend}Margin and accuracy compare the data's responses with the \
         opponent's; NLL is in nats a token.\n",
        report::markdown(&summary)
    ))
}
