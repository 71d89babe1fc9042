//! What made a player, in words.

use crate::escape::escaped;
use crate::figures::counted;
use crate::provenance::{Input, Origin, Provenance, Training};

/// The section's text: one entry for each training, in order.
pub fn trainings(made: &Provenance) -> String {
    match made.0.is_empty() {
        true => "Nothing: it is the base.\n".into(),
        false => list(&made.0, ""),
    }
}

fn list(origins: &[Origin], indent: &str) -> String {
    let numbered = origins.iter().enumerate();
    numbered
        .map(|(i, origin)| format!("{indent}{}. {}", i + 1, entry(origin, indent)))
        .collect()
}

fn entry(origin: &Origin, indent: &str) -> String {
    match origin {
        Origin::Unknown => {
            "unknown: the folder that it was read from has no `randori.json`, so nobody wrote down \
             its data and its loss\n"
                .into()
        }
        Origin::Sft(t) => {
            let what = format!("{} of {}", counted(t.examples, "example"), files(&t.data));
            format!("supervised fine-tuning{}: {what}; {}\n", of(t), settings(t))
        }
        Origin::Game(t) => {
            let iteration = t.iteration.unwrap_or_default();
            let opponent = match iteration.checked_sub(1) {
                None => "start".into(),
                Some(before) => format!("iteration {before}"),
            };
            let (pairs, data) = (counted(t.examples, "pair"), files(&t.data));
            let what = format!("{pairs} of {data} and answers of the opponent ({opponent})");
            format!("iteration {iteration}{}: {what}; {}\n", of(t), settings(t))
        }
        Origin::Pairs(t) => {
            let what = format!("{} of {}", counted(t.examples, "pair"), files(&t.data));
            format!("training on pairs{}: {what}; {}\n", of(t), settings(t))
        }
        Origin::Sum { of } => {
            let deeper = format!("{indent}   ");
            let each = of.iter().enumerate().map(|(i, one)| {
                let made = list(one, &format!("{deeper}   "));
                format!("{deeper}{}. an adapter:\n{made}", i + 1)
            });
            format!(
                "the sum of {} adapters\n{}",
                of.len(),
                each.collect::<String>()
            )
        }
    }
}

fn of(training: &Training) -> String {
    format!(
        " of the run `{}` (seed {})",
        plain(&training.run),
        training.seed
    )
}

fn settings(t: &Training) -> String {
    let options = t.loss_options.iter();
    let options: Vec<String> = options
        .map(|(name, value)| format!("{} = {}", plain(name), plain(&value.to_string())))
        .collect();
    let options = match options.is_empty() {
        true => String::new(),
        false => format!(" ({})", options.join(", ")),
    };
    let limit = t.max_steps.map(|steps| format!(", at most {steps} steps"));
    format!(
        "loss {}{options}; learning rate {:e}, epochs {}{}; base {}; randori {}",
        plain(&t.loss),
        t.learning_rate,
        t.epochs,
        limit.unwrap_or_default(),
        plain(&t.base),
        plain(&t.randori)
    )
}

fn files(inputs: &[Input]) -> String {
    let one = |input: &Input| format!("`{}` (SHA-256 `{}`)", plain(&input.name), plain(&input.id));
    let all: Vec<String> = inputs.iter().map(one).collect();
    match all.is_empty() {
        true => "data that was not recorded".into(),
        false => all.join(", "),
    }
}

/// A text of somebody's file on one line, with nothing that ends a code span.
pub fn plain(text: &str) -> String {
    escaped(text).replace('`', "'").replace(['\n', '\t'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provenance::tests::training;

    #[test]
    fn every_kind_of_training_is_told() {
        let sft = Training {
            iteration: None,
            loss: "negative log-likelihood".into(),
            loss_options: Default::default(),
            max_steps: Some(9),
            ..training()
        };
        let pairs = Training {
            data: Vec::new(),
            run: "a`\nb".into(),
            seed: 3,
            ..training()
        };
        let start = Provenance(vec![Origin::Sft(sft)]);
        let other = Provenance(vec![Origin::Unknown]);
        let sum = Provenance::sum(vec![start, other]);
        let made = sum.and(Origin::Game(training())).and(Origin::Pairs(pairs));
        let seed = u64::MAX;
        let wanted = format!(
            "1. the sum of 2 adapters
   1. an adapter:
      1. supervised fine-tuning of the run `r` (seed {seed}): 57 examples of `train.jsonl` \
             (SHA-256 `ab12`); loss negative log-likelihood; learning rate 1e-3, epochs 2, at most \
             9 steps; base org/name; randori 0.1.0
   2. an adapter:
      1. unknown: the folder that it was read from has no `randori.json`, so nobody wrote down \
             its data and its loss
2. iteration 1 of the run `r` (seed {seed}): 57 pairs of `train.jsonl` (SHA-256 `ab12`) and \
             answers of the opponent (iteration 0); loss spin (beta = 0.1); learning rate 1e-3, \
             epochs 2; base org/name; randori 0.1.0
3. training on pairs of the run `a' b` (seed 3): 57 pairs of data that was not recorded; loss \
             spin (beta = 0.1); learning rate 1e-3, epochs 2; base org/name; randori 0.1.0
"
        );
        assert_eq!(trainings(&made), wanted);
        let base = trainings(&Provenance::default());
        assert_eq!(base, "Nothing: it is the base.\n");
    }
}
