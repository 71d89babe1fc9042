//! What the answers to a document count, and the figures of a task and of a group of tasks.

use serde_json::Value;

use super::ask::{Item, shown};
use super::builtin::Function;
use super::definition::{Definition, Metric};
use super::doc::Wrong;
use crate::{Choice, MultipleChoice};

/// A metric of one document under lm-eval's name for it: `exact_match,strict-match`.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// The metric and its filter.
    pub metric: String,
    /// Its value.
    pub value: f64,
}

/// The scores of one document.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scored {
    /// A value for each metric.
    pub scores: Vec<Score>,
    /// What each filter made of the response.
    pub filtered: Vec<(String, String)>,
}

impl Definition {
    /// Scores a document by its choices' log-probs.
    ///
    /// # Errors
    /// A target that is no choice's number.
    pub fn by_choices(&self, item: &Item, logps: &[f64]) -> Result<Scored, Wrong> {
        let right = match self.process_results {
            Some(Function::TruthfulqaMc2) => true_answers(item),
            _ => right_choices(item),
        };
        let right = right.map_err(|what| Wrong::at(item.number, what).in_task(&self.name))?;
        let mut one = MultipleChoice::default();
        let choices = item.choices.iter().zip(logps).enumerate();
        let choices = choices.map(|(i, (text, &logp))| Choice::new(text, logp, right(i)));
        one.add(&choices.collect::<Vec<_>>());
        let score = |metric: &Metric| {
            let (name, value) = match metric {
                Metric::Acc => ("acc", one.acc.right as f64),
                Metric::AccNorm => ("acc_norm", one.acc_norm.right as f64),
                Metric::Processed(name) => (name.as_str(), one.mc2().unwrap_or(0.0)),
                Metric::ExactMatch { .. } => return None, // refused where it is read
            };
            let metric = format!("{name},none");
            Some(Score { metric, value })
        };
        Ok(Scored {
            scores: self.metrics.iter().filter_map(score).collect(),
            filtered: Vec::new(),
        })
    }

    /// Whether no choice of a document is right: its target is none of them, so that whoever
    /// answers is wrong. lm-eval counts it so, too.
    ///
    /// # Errors
    /// A target that is no choice's number.
    pub fn is_unanswerable(&self, item: &Item) -> Result<bool, Wrong> {
        if item.choices.is_empty() || self.process_results.is_some() {
            return Ok(false);
        }
        let right = right_choices(item);
        let right = right.map_err(|what| Wrong::at(item.number, what).in_task(&self.name))?;
        Ok(!(0..item.choices.len()).any(right))
    }

    /// Scores a document by the response to it.
    ///
    /// # Errors
    /// A filter or an expression that fails.
    pub fn by_response(&self, item: &Item, response: &str) -> Result<Scored, Wrong> {
        let scored = self.filtered(item, response);
        scored.map_err(|what| Wrong::at(item.number, what).in_task(&self.name))
    }

    fn filtered(&self, item: &Item, response: &str) -> Result<Scored, String> {
        let targets: Vec<String> = match (&item.target, item.choices.is_empty()) {
            (Value::Array(several), _) if item.several => several.iter().map(shown).collect(),
            (Value::Number(number), false) => {
                let at = number.as_u64().and_then(|at| item.choices.get(at as usize));
                vec![at.ok_or(format!("the answer is choice {number}"))?.clone()]
            }
            (one, _) => vec![shown(one)],
        };
        let mut scored = Scored::default();
        for (name, steps) in &self.filters {
            let mut text = response.to_owned();
            for step in steps {
                text = step.apply(text)?;
            }
            for metric in &self.metrics {
                let mut right = false;
                for target in &targets {
                    right |= metric.compared(&text)? == metric.compared(target)?;
                }
                scored.scores.push(Score {
                    metric: format!("exact_match,{name}"),
                    value: f64::from(u8::from(right)),
                });
            }
            scored.filtered.push((name.clone(), text));
        }
        Ok(scored)
    }
}

impl Metric {
    /// A text as `exact_match` compares it.
    fn compared(&self, text: &str) -> Result<String, String> {
        let Metric::ExactMatch {
            ignored,
            case,
            punctuation,
            digits,
        } = self
        else {
            return Ok(text.to_owned());
        };
        let mut text = text.to_owned();
        for pattern in ignored {
            text = pattern.removed(&text)?;
        }
        if *case {
            text = text.to_lowercase();
        }
        text.retain(|c| {
            !(*punctuation && c.is_ascii_punctuation() || *digits && c.is_ascii_digit())
        });
        Ok(text)
    }
}

type Right = Box<dyn Fn(usize) -> bool>;

/// The choices that are right: lm-eval counts a target beyond them as one that nobody finds.
fn right_choices(item: &Item) -> Result<Right, String> {
    let place = |target: &Value| match target {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => {
            let at = item.choices.iter().position(|choice| choice == text);
            Some(at.map_or(-1, |at| at as i64))
        }
        _ => None,
    };
    let targets = match &item.target {
        Value::Array(several) => several.iter().map(place).collect(),
        one => vec![place(one)],
    };
    let targets: Option<Vec<i64>> = targets.into_iter().collect();
    let targets = targets.ok_or(format!("its target is {}", item.target))?;
    Ok(Box::new(move |i| targets.contains(&(i as i64))))
}

/// TruthfulQA's true answers.
fn true_answers(item: &Item) -> Result<Right, String> {
    let labels = item
        .doc
        .get("mc2_targets")
        .and_then(|t| t["labels"].as_array());
    let labels = labels.ok_or("has no list `mc2_targets.labels`")?;
    let labels: Vec<bool> = labels.iter().map(|l| l.as_f64() == Some(1.0)).collect();
    if labels.len() != item.choices.len() {
        let (labels, choices) = (labels.len(), item.choices.len());
        return Err(format!("has {labels} labels for {choices} answers"));
    }
    Ok(Box::new(move |i| labels.get(i) == Some(&true)))
}

/// A mean with its standard error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    /// The mean.
    pub mean: f64,
    /// Its standard error, of more than one value.
    pub error: Option<f64>,
    /// How many values.
    pub count: usize,
}

impl Figure {
    /// Of values; `None` of none.
    pub fn of(values: &[f64]) -> Option<Figure> {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        let error = (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt() / n.sqrt());
        (!values.is_empty()).then_some(Figure {
            mean,
            error,
            count: values.len(),
        })
    }
}

/// The figure of a group of tasks: the mean over all documents with lm-eval's pooled error, or,
/// not `by_size`, the mean of the tasks' means.
pub fn pooled(tasks: &[Figure], by_size: bool) -> Option<Figure> {
    let count: usize = tasks.iter().map(|task| task.count).sum();
    let groups = tasks.len() as f64;
    let weighted = |of: &dyn Fn(&Figure) -> f64| {
        let weight = |task: &Figure| if by_size { task.count as f64 } else { 1.0 };
        tasks
            .iter()
            .map(|task| weight(task) * of(task))
            .sum::<f64>()
    };
    let mean = weighted(&|task| task.mean) / weighted(&|_| 1.0);
    let errors: Option<Vec<f64>> = tasks.iter().map(|task| task.error).collect();
    let error = errors.map(|errors| match by_size {
        true => {
            let of = tasks.iter().zip(&errors).map(|(task, error)| {
                let n = task.count as f64;
                (n - 1.0) * error * error * n
            });
            let n = count as f64;
            (of.sum::<f64>() / (n - groups) / n).sqrt()
        }
        false => errors.iter().map(|e| e * e).sum::<f64>().sqrt() / groups,
    });
    (!tasks.is_empty()).then_some(Figure { mean, error, count })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// lm-eval 0.4.13's `mean_stderr`, `aggregate_subtask_metrics`, `pooled_sample_stderr` and
    /// `unweighted_mean_stderr` of the same values.
    #[test]
    fn figures_are_lm_evals() {
        let near = |figure: Option<Figure>, mean: f64, error: f64| {
            let figure = figure.unwrap();
            assert!((figure.mean - mean).abs() < 1e-12, "{figure:?}");
            assert!((figure.error.unwrap() - error).abs() < 1e-12, "{figure:?}");
        };
        let one = Figure::of(&[1.0, 0.0, 0.5, 0.25]);
        let two = Figure::of(&[1.0, 1.0, 0.0]);
        near(one, 0.4375, 0.21347814095749162);
        near(two, 2.0 / 3.0, 0.33333333333333337);
        let both: Vec<Figure> = one.into_iter().chain(two).collect();
        near(pooled(&both, true), 3.75 / 7.0, 0.18620585127116454);
        near(
            pooled(&both, false),
            (0.4375 + 2.0 / 3.0) / 2.0,
            0.19791666666666669,
        );
        assert_eq!(Figure::of(&[0.5]).unwrap().error, None);
        assert_eq!(Figure::of(&[]), None);
        assert_eq!(pooled(&[], true), None);
    }
}
