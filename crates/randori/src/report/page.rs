//! `report.html`: one self-contained page, also offline, also in ten years.

use super::summary::{Row, Summary};
use super::svg::{Axis, Line, START, chart, escape};
use super::table::{cell, legend, table};

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}\
svg{width:100%;max-width:28rem;height:auto}.charts{display:flex;flex-wrap:wrap;gap:1rem}.charts>*{flex:1 1 24rem}\
.title{font-size:12px;font-weight:600;fill:#222}.tick{font-size:10px;fill:#555}.grid{stroke:#ddd;stroke-width:1}\
pre{overflow-x:auto;background:#f6f6f4;padding:.8rem;border-radius:4px}dt{font-weight:600;margin-top:.6rem}dd{margin:0;white-space:pre-wrap}";

/// Colours that stay apart for colour-blind readers.
const BLUE: &str = "#0072b2";
const ORANGE: &str = "#d55e00";
const GREY: &str = "#777777";

/// The page. `losses` is the training loss of each step, iteration after iteration (first seed).
pub fn page(summary: &Summary, recipe: &str, losses: &[(usize, Vec<f64>)]) -> String {
    let rows = summary.rows();
    let mut charts = String::new();
    for (title, names, digits_help) in [
        (
            "Exact match, held out",
            &[("exact_match", "policy", BLUE)][..],
            true,
        ),
        (
            "NLL of real responses, held out (nats a token)",
            &[("nll_real", "policy", BLUE)][..],
            true,
        ),
        (
            "Log-prob of a response",
            &[
                ("logps_real", "real", BLUE),
                ("logps_generated", "generated", ORANGE),
            ][..],
            false,
        ),
        ("Margin", &[("margin", "policy", BLUE)][..], false),
        (
            "Accuracy: told apart",
            &[("accuracy", "policy", BLUE)][..],
            false,
        ),
        (
            "Tokens of an answer",
            &[("generated_tokens", "policy", BLUE)][..],
            true,
        ),
    ] {
        let mut lines: Vec<Line> = names
            .iter()
            .map(|(name, label, colour)| curve(&rows, name, label, colour))
            .collect();
        if digits_help {
            lines.extend(level(&rows, names[0].0));
        }
        charts.push_str(&wrap(chart(title, &Axis::ITERATIONS, &lines)));
    }
    charts.push_str(&wrap(loss_chart(losses)));
    let played = summary.played.first().map_or(0, |p| p.iterations.len());
    let last = format!("Iteration {}", played.saturating_sub(1));
    let sample = summary.sample.as_ref().map(|s| {
        let row = |title: &str, text: &str| format!("<dt>{title}</dt><dd>{}</dd>\n", escape(text));
        format!(
            "<h2>One prompt, answered greedily</h2>\n<dl>{}{}{}{}</dl>\n",
            row("Prompt", &s.prompt),
            row("Human", &s.human),
            row("Start", &s.start),
            row(&last, &s.last)
        )
    });
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{name}</title><style>{STYLE}</style></head><body>\n<h1>{name}</h1>\n<p>{verdict}</p>\n{signs}\
         <pre>{table}</pre>\n<p>{legend}</p>\n<div class=\"charts\">\n{charts}</div>\n{sample}<h2>Recipe</h2>\n<details><summary>resolved</summary><pre>{recipe}</pre></details>\n</body></html>\n",
        name = escape(&summary.name),
        verdict = escape(&verdict(summary)),
        signs = signs(summary),
        table = escape(&table(summary, None, "")),
        legend = escape(&legend(summary)),
        sample = sample.unwrap_or_default(),
        recipe = escape(recipe),
    )
}

/// A list of what is to be thought about.
fn signs(summary: &Summary) -> String {
    let items = summary.signs();
    let items = items
        .iter()
        .map(|line| format!("<li>{}</li>\n", escape(line)));
    match items.collect::<String>() {
        none if none.is_empty() => none,
        items => format!("<h2>To think about</h2>\n<ul>\n{items}</ul>\n"),
    }
}

/// One honest sentence: what the game gained, and against what.
pub fn verdict(summary: &Summary) -> String {
    let rows = summary.rows();
    let find = |label: &str| rows.iter().find(|r| r.label == label);
    let last = rows.iter().rev().find(|r| r.label.starts_with("iteration"));
    let (Some(start), Some(last)) = (find("start"), last) else {
        return String::new();
    };
    let name = if last.spread("exact_match").is_some() {
        ("exact_match", "exact match")
    } else {
        ("nll_real", "NLL")
    };
    let (from, to) = (cell(start, name.0, 3), cell(last, name.0, 3));
    let mut out = format!(
        "Held-out {} went from {from} (start) to {to} ({})",
        name.1, last.label
    );
    if let Some(sft) = find("continued SFT") {
        let better = match name.0 {
            "nll_real" => sft.more_than(last, name.0), // less is better
            _ => last.more_than(sft, name.0),
        };
        let Some(better) = better else {
            return out + ".";
        };
        let apart = better.half.map(|half| better.mean.abs() > half);
        let words = match (apart, better.mean > 0.0) {
            (Some(true), true) => "better than",
            (Some(true), false) => "worse than",
            (Some(false), _) => "not told apart from",
            (None, true) => "(one seed, no interval) better than",
            (None, false) => "(one seed, no interval) not better than",
        };
        out.push_str(&format!(
            ": {words} continued SFT from the same start, {}",
            cell(sft, name.0, 3)
        ));
    }
    out + "."
}

fn wrap(chart: String) -> String {
    if chart.is_empty() {
        chart
    } else {
        format!("<div>{chart}</div>\n")
    }
}

/// A measure of the start and of each iteration.
fn curve<'a>(rows: &[Row], name: &str, label: &'a str, colour: &'a str) -> Line<'a> {
    let played = rows
        .iter()
        .filter(|r| r.label != "continued SFT")
        .enumerate();
    let points = played
        .filter_map(|(x, row)| {
            row.spread(name)
                .map(|s| (START + x as f64, s.mean, s.half.unwrap_or(0.0)))
        })
        .collect();
    Line {
        label,
        points,
        colour,
        dashed: false,
    }
}

/// The baseline as a level.
fn level(rows: &[Row], name: &str) -> Option<Line<'static>> {
    let row = rows.iter().find(|r| r.label == "continued SFT")?;
    let s = row.spread(name)?;
    let last = START + rows.len().saturating_sub(2) as f64;
    Some(Line {
        label: "continued SFT",
        points: vec![(START, s.mean, 0.0), (last, s.mean, 0.0)],
        colour: GREY,
        dashed: true,
    })
}

fn loss_chart(losses: &[(usize, Vec<f64>)]) -> String {
    let labels: Vec<String> = losses
        .iter()
        .map(|(t, _)| format!("iteration {t}"))
        .collect();
    let colours = [BLUE, ORANGE, "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
    let mut x = 0.0;
    let lines: Vec<Line> = losses
        .iter()
        .zip(&labels)
        .enumerate()
        .map(|(i, ((_, values), label))| {
            let points = values
                .iter()
                .map(|v| {
                    x += 1.0;
                    (x, *v, 0.0)
                })
                .collect();
            Line {
                label,
                points,
                colour: colours[i % colours.len()],
                dashed: false,
            }
        })
        .collect();
    chart(
        "Training loss (ln 2 = 0.693 at each iteration's first step)",
        &Axis::STEPS,
        &lines,
    )
}

#[cfg(test)]
mod tests {
    use super::super::summary::tests::example;
    use super::*;

    #[test]
    fn the_page_is_self_contained() {
        let html = page(
            &example(3),
            "seed = 1 # <x>",
            &[(0, vec![0.69, 0.6]), (1, vec![0.69, 0.5])],
        );
        assert!(
            !html.contains("http") && !html.contains("<script") && !html.contains("src="),
            "{html}"
        );
        assert!(html.matches("<svg").count() >= 4 && html.contains("&lt;x&gt;"));
    }

    #[test]
    fn the_verdict_says_what_is_there() {
        let text = verdict(&example(3));
        assert!(
            text.contains("from 0.100 ±0.000 (start)")
                && text.contains(" (iteration 1): better than continued SFT"),
            "{text}"
        );
        assert!(verdict(&example(1)).contains("one seed"));
    }
}
