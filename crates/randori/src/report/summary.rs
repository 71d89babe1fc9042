//! The figures of a run: measured per seed, averaged over seeds, as `summary.json`.

use std::rc::Rc;

use randori_eval::{Resamples, Sign, Spread};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    prompts::{PromptRow, Prompts, draws, interval},
    warnings,
};

/// What is measured of one player on the held-out data. NaN: not measured (or not defined).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Measures {
    /// Share of right sampled answers, mean over `eval.seeds`.
    pub exact_match: f64,
    /// Share of sampled answers in which an answer can be found at all.
    pub in_form: f64,
    /// Negative log-likelihood of the real responses, nats per token.
    pub nll_real: f64,
    /// Mean summed log-prob of the real responses.
    pub logps_real: f64,
    /// Mean summed log-prob of the opponent's responses (for the start: its own).
    pub logps_generated: f64,
    /// Mean reward(real) - reward(generated).
    pub margin: f64,
    /// Share of pairs with margin > 0.
    pub accuracy: f64,
    /// Share of pairs whose real response is less likely than the generated one.
    pub inverted: f64,
    /// Mean tokens of this player's own answers.
    pub generated_tokens: f64,
    /// Share of its own answers that were cut at the token limit.
    pub cut: f64,
}

impl Measures {
    /// Nothing measured.
    pub const NONE: Measures = Measures {
        exact_match: f64::NAN,
        in_form: f64::NAN,
        nll_real: f64::NAN,
        logps_real: f64::NAN,
        logps_generated: f64::NAN,
        margin: f64::NAN,
        accuracy: f64::NAN,
        inverted: f64::NAN,
        generated_tokens: f64::NAN,
        cut: f64::NAN,
    };

    /// Name and value, in reading order.
    pub fn entries(&self) -> [(&'static str, f64); 10] {
        [
            ("exact_match", self.exact_match),
            ("in_form", self.in_form),
            ("nll_real", self.nll_real),
            ("logps_real", self.logps_real),
            ("logps_generated", self.logps_generated),
            ("margin", self.margin),
            ("accuracy", self.accuracy),
            ("inverted", self.inverted),
            ("generated_tokens", self.generated_tokens),
            ("cut", self.cut),
        ]
    }
}

/// Continued SFT from the same start, with the settings that were best on the validation split.
#[derive(Debug, Clone, PartialEq)]
pub struct Baseline {
    /// What it reached.
    pub measures: Measures,
    /// Its learning rate.
    pub lr: f64,
    /// Its passes over the data (the last may be partial).
    pub epochs: f64,
    /// Tokens it was trained on.
    pub tokens: usize,
    /// What was measured on each prompt.
    pub prompts: Vec<PromptRow>,
}

/// One game.
#[derive(Debug, Clone, PartialEq)]
pub struct Played {
    /// Its seed.
    pub seed: u64,
    /// Before iteration 0.
    pub start: Measures,
    /// After each iteration.
    pub iterations: Vec<Measures>,
    /// The paper's baseline.
    pub continued_sft: Option<Baseline>,
    /// Tokens the game was trained on.
    pub tokens: usize,
    /// For each iteration: the step at which its training ended since its loss asked no pair for a
    /// change.
    pub converged: Vec<Option<usize>>,
    /// What of all that was measured on each prompt.
    pub prompts: Prompts,
    /// What of each iteration is to be thought about.
    pub signs: Vec<Vec<Sign>>,
}

/// One prompt and how it is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The prompt's last message.
    pub prompt: String,
    /// The data's response.
    pub human: String,
    /// The start's most likely answer.
    pub start: String,
    /// The last iteration's most likely answer.
    pub last: String,
}

/// A whole run: one game per seed.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// The run's name.
    pub name: String,
    /// One per seed, at least one.
    pub played: Vec<Played>,
    /// One prompt answered.
    pub sample: Option<Sample>,
    /// Wall time, seconds, since the run was last started (`manifest.json` has every stage's).
    pub seconds: f64,
    /// Most memory this process ever held, bytes; `None` where the system does not say.
    pub peak_bytes: Option<u64>,
}

/// One line of the table: a label and the measures of each seed.
pub struct Row {
    /// `start`, `continued SFT`, `iteration 0`.
    pub label: String,
    /// One per seed.
    pub seeds: Vec<Measures>,
    /// What was measured on each prompt, one list per seed; empty where it was not kept.
    prompts: Vec<Vec<PromptRow>>,
    draws: Rc<Resamples>,
}

impl Row {
    /// Mean of one measure over seeds, with its interval over seeds and held-out prompts; `None`
    /// where no seed has it.
    pub fn spread(&self, name: &str) -> Option<Spread> {
        let mut values = self.values(name);
        values.retain(|value| value.is_finite());
        interval(name, &values, &self.prompts, None, &self.draws)
    }

    /// How much more of one measure this player has than another, paired seed by seed and prompt by
    /// prompt; `None` where one of them lacks it.
    pub fn more_than(&self, other: &Row, name: &str) -> Option<Spread> {
        let (own, theirs) = (self.values(name), other.values(name));
        let pairs = own.iter().zip(&theirs);
        let differences: Vec<f64> = pairs.map(|(a, b)| a - b).collect();
        if own.len() != theirs.len() || differences.iter().any(|d| !d.is_finite()) {
            return None;
        }
        interval(
            name,
            &differences,
            &self.prompts,
            Some(&other.prompts),
            &self.draws,
        )
    }

    /// Of how many prompts the interval speaks; 0 where they were not kept.
    pub fn prompts(&self) -> usize {
        let all = self.prompts.iter().map(Vec::len).min();
        all.unwrap_or(0)
    }

    /// One per seed.
    fn values(&self, name: &str) -> Vec<f64> {
        let of = |m: &Measures| m.entries().iter().find(|e| e.0 == name).map(|e| e.1);
        self.seeds.iter().filter_map(of).collect()
    }

    fn json(&self) -> Map<String, Value> {
        let mut out = Map::new();
        let mut intervals: [(&str, Map<String, Value>); 3] = [
            ("interval95", Map::new()),
            ("interval95_by_seeds", Map::new()),
            ("interval95_by_prompts", Map::new()),
        ];
        for (name, _) in Measures::NONE.entries() {
            let spread = self.spread(name);
            out.insert(name.into(), spread.map_or(Value::Null, |s| json!(s.mean)));
            let halves = spread.map_or([None; 3], |s| [s.half, s.by_seeds, s.by_prompts]);
            for ((_, all), half) in intervals.iter_mut().zip(halves) {
                all.extend(half.map(|half| (name.to_string(), json!(half))));
            }
        }
        let given = intervals.into_iter().filter(|(_, all)| !all.is_empty());
        out.extend(given.map(|(key, all)| (key.to_string(), Value::Object(all))));
        out
    }
}

impl Summary {
    /// Start, iterations, then the baseline if there is one.
    pub fn rows(&self) -> Vec<Row> {
        let first = self.played.first();
        let kept = first.map_or(0, |p| p.prompts.start.len());
        let draws = Rc::new(draws(kept, first.map_or(0, |p| p.seed)));
        let row = |label: String, seeds: Vec<Measures>, prompts: Vec<Vec<PromptRow>>| Row {
            label,
            seeds,
            prompts,
            draws: draws.clone(),
        };
        let of = |which: &dyn Fn(&Prompts) -> Option<Vec<PromptRow>>| -> Vec<Vec<PromptRow>> {
            let all = self.played.iter().filter_map(|p| which(&p.prompts));
            all.collect()
        };
        let mut rows = vec![row(
            "start".into(),
            self.played.iter().map(|p| p.start).collect(),
            of(&|p| Some(p.start.clone())),
        )];
        let longest = self
            .played
            .iter()
            .map(|p| p.iterations.len())
            .max()
            .unwrap_or(0);
        for t in 0..longest {
            let seeds = self
                .played
                .iter()
                .filter_map(|p| p.iterations.get(t).copied())
                .collect();
            let prompts = of(&|p| p.iterations.get(t).cloned());
            rows.push(row(format!("iteration {t}"), seeds, prompts));
        }
        let baseline: Vec<Measures> = self
            .played
            .iter()
            .filter_map(|p| p.continued_sft.as_ref().map(|b| b.measures))
            .collect();
        if !baseline.is_empty() {
            let each = self.played.iter().filter_map(|p| p.continued_sft.as_ref());
            let prompts = each.map(|b| b.prompts.clone()).collect();
            rows.push(row("continued SFT".into(), baseline, prompts));
        }
        rows
    }

    /// A line for every training that ended before its time.
    pub fn converged(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for p in &self.played {
            let seed = match self.played.len() {
                1 => String::new(),
                _ => format!("seed {}, ", p.seed),
            };
            for (t, step) in p.converged.iter().enumerate() {
                lines.extend(step.map(|step| {
                    format!("{seed}iteration {t} converged at step {step}: its loss asked no pair for a change")
                }));
            }
        }
        lines
    }

    /// A line for every kind of sign, and one if the last iteration is no better than the start.
    pub fn signs(&self) -> Vec<String> {
        let seeds = self.played.iter().map(|p| (p.seed, &p.signs[..]));
        let mut lines = warnings::of(&seeds.collect::<Vec<_>>());
        lines.extend(self.within_noise());
        lines
    }

    /// What to think about a gain in right answers that lies within its interval.
    fn within_noise(&self) -> Option<String> {
        let rows = self.rows();
        let last = rows.iter().rfind(|r| r.label.starts_with("iteration"))?;
        let gain = last.more_than(rows.first()?, "exact_match")?;
        let half = gain.half.filter(|half| gain.mean.abs() <= *half)?;
        Some(format!(
            "{}: right answers moved by {:+.3} ±{half:.3}, which is within what chance does: more held-out rows (eval.limit) or eval.seeds would tell",
            last.label, gain.mean
        ))
    }

    /// `summary.json`.
    pub fn json(&self) -> Value {
        let rows = self.rows();
        let find = |label: &str| rows.iter().find(|r| r.label == label).map(Row::json);
        let iterations: Vec<Value> = rows
            .iter()
            .filter(|r| r.label.starts_with("iteration"))
            .map(|r| Value::Object(r.json()))
            .collect();
        let continued = find("continued SFT").map(|mut row| {
            let each = |f: &dyn Fn(&Baseline) -> Value| -> Vec<Value> {
                self.played
                    .iter()
                    .filter_map(|p| p.continued_sft.as_ref())
                    .map(f)
                    .collect()
            };
            row.insert("lr".into(), json!(each(&|b| json!(b.lr))));
            row.insert("epochs".into(), json!(each(&|b| json!(b.epochs))));
            row.insert("trained_tokens".into(), json!(each(&|b| json!(b.tokens))));
            Value::Object(row)
        });
        let per_seed: Vec<Value> = self
            .played
            .iter()
            .map(|p| {
                json!({
                    "seed": p.seed,
                    "trained_tokens": p.tokens,
                    "converged_at_step": p.converged,
                    "signs": p.signs.iter().map(|all| names(all)).collect::<Vec<_>>(),
                    "start": finite(&p.start),
                    "iterations": p.iterations.iter().map(finite).collect::<Vec<_>>(),
                    "continued_sft": p.continued_sft.as_ref().map(|b| finite(&b.measures)),
                })
            })
            .collect();
        json!({
            "name": self.name,
            "seeds": self.played.iter().map(|p| p.seed).collect::<Vec<_>>(),
            "start": find("start").map(Value::Object),
            "continued_sft": continued,
            "iterations": iterations,
            "sample": self.sample,
            "warnings": self.signs(),
            "seconds": self.seconds,
            "peak_bytes": self.peak_bytes,
            "per_seed": per_seed,
        })
    }
}

fn names(signs: &[Sign]) -> Vec<&'static str> {
    signs.iter().map(Sign::name).collect()
}

/// A row of one seed; JSON has no NaN.
fn finite(measures: &Measures) -> Value {
    let each = measures.entries().into_iter();
    Value::Object(
        each.map(|(k, v)| {
            (
                k.to_string(),
                if v.is_finite() { json!(v) } else { Value::Null },
            )
        })
        .collect(),
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn example(seeds: u64) -> Summary {
        let at = |x: f64| Measures {
            exact_match: x,
            nll_real: 1.0 - x,
            logps_real: -4.0 * (1.0 - x),
            ..Measures::NONE
        };
        let played = (1..=seeds)
            .map(|seed| Played {
                seed,
                start: at(0.1),
                iterations: vec![at(0.2 + 0.01 * seed as f64), at(0.3 + 0.01 * seed as f64)],
                continued_sft: Some(Baseline {
                    measures: at(0.25),
                    lr: 1e-4,
                    epochs: 2.0,
                    tokens: 1000,
                    prompts: Vec::new(),
                }),
                tokens: 1000,
                converged: vec![None, Some(4)],
                prompts: Prompts::default(),
                signs: vec![Vec::new(), vec![Sign::Equal(0.5)]],
            })
            .collect();
        Summary {
            name: "x".into(),
            played,
            sample: None,
            seconds: 1.0,
            peak_bytes: None,
        }
    }

    #[test]
    fn json_has_the_promised_keys() {
        let json = example(3).json();
        for row in [
            &json["start"],
            &json["continued_sft"],
            &json["iterations"][0],
            &json["iterations"][1],
        ] {
            for key in [
                "exact_match",
                "nll_real",
                "logps_real",
                "logps_generated",
                "margin",
                "accuracy",
                "generated_tokens",
            ] {
                assert!(row.get(key).is_some(), "{key} is missing");
            }
        }
        assert_eq!(json["iterations"].as_array().unwrap().len(), 2);
        assert!((json["iterations"][0]["exact_match"].as_f64().unwrap() - 0.22).abs() < 1e-12);
        let half = json["iterations"][0]["interval95"]["exact_match"]
            .as_f64()
            .unwrap();
        assert!((half - 4.303 * 0.01 / 3f64.sqrt()).abs() < 1e-9);
        assert!(json["start"]["margin"].is_null());
        assert_eq!(json["per_seed"][1]["signs"][1][0], "generated_equals_real");
        let warned = json["warnings"].as_array().unwrap();
        assert_eq!(warned.len(), 1);
        let only = warned[0].as_str().unwrap();
        let begin = "iteration 1 of 3 of 3 seeds, most in seed 1, iteration 1: 50 % of the";
        assert!(only.starts_with(begin), "{only}");
    }
}
