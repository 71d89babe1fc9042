//! How much data the stages of a recipe work on, and how long its rows are: what every estimate of
//! time goes by, whoever shows it.

use anyhow::Result;
use randori_data::Encoded;

use crate::aim::Aim;
use crate::corpus::{self, policy};
use crate::data_rows;
use crate::figures::grouped;
use crate::plan::{Model, Plan};
use crate::recipe::Recipe;
use crate::request::Split;
use crate::session::Setting;

/// Examples that are supposed where neither the data nor `data.limit` is at hand.
const SUPPOSED: usize = 1000;
/// The most rows that are tokenised for their lengths.
const LOOKED_AT: usize = 1024;

/// Mean lengths of a data set's rows, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Means {
    /// Of prompts.
    pub prompt: usize,
    /// Of responses, their end of turn included.
    pub response: usize,
}

impl Means {
    /// Of these examples, rounded up; of two responses the longer counts. `None`: there are none.
    pub fn of(examples: &[Encoded]) -> Option<Means> {
        let longer = |example: &Encoded| {
            let other = example.rejected.as_ref().map_or(0, |other| other.ids.len());
            example.response.len().max(other)
        };
        let mean = |sum: usize| sum.div_ceil(examples.len()).max(1);
        (!examples.is_empty()).then(|| Means {
            prompt: mean(examples.iter().map(|example| example.prompt.len()).sum()),
            response: mean(examples.iter().map(longer).sum()),
        })
    }
}

/// The plan with prompts and answers of these lengths, but none longer than the recipe allows: what
/// its stages do most of the time, where the plan itself is of what they may meet.
///
/// # Errors
/// As [`Plan::of`].
pub fn usual(model: &Model, plan: &Plan, means: Option<Means>) -> Result<Plan> {
    let mut recipe = plan.recipe.clone();
    if let Some(Means { prompt, response }) = means {
        let (data, generate) = (&mut recipe.data, &mut recipe.generate);
        data.max_prompt_tokens = data.max_prompt_tokens.min(prompt);
        data.max_response_tokens = data.max_response_tokens.min(response);
        generate.max_new_tokens = generate.max_new_tokens.min(response);
        let measured = &mut recipe.eval.max_new_tokens;
        *measured = measured.map(|most| most.min(response));
    }
    Ok(Plan::of(model, recipe)?.meant_for(plan.aim))
}

/// Lengths in words.
pub fn lengths(means: Option<Means>) -> String {
    match means {
        Some(Means { prompt, response }) => {
            format!("prompts of {prompt} and answers of {response} tokens, the means of the data's")
        }
        None => "prompts and answers all as long as the recipe allows, since no rows are at hand"
            .to_owned(),
    }
}

/// How often everything is done, and with how long rows.
pub struct Amount {
    /// Training examples, or pairs.
    pub examples: usize,
    /// Those that are measured on.
    pub held_out: usize,
    /// Games.
    pub games: usize,
    /// Lengths of the training examples; `None`: nobody could look at them.
    pub means: Option<Means>,
    /// The numbers in words, and where they come from.
    pub what: String,
}

impl Amount {
    /// Of a recipe's data, as far as it is at hand. Rows are measured with `setting`, the recipe
    /// with its tokenizer.
    pub fn of(recipe: &Recipe, setting: Option<&Setting>, aim: Aim) -> Amount {
        let sample = setting.and_then(|setting| sample(setting, aim));
        let counted = match sample {
            Some((examples, _)) => Some(examples),
            None => data_rows::count(recipe, Split::Train),
        };
        let (examples, from) = match (counted, recipe.data.limit) {
            (Some(n), _) => (n, "data.train"),
            (None, Some(n)) => (n, "data.limit"),
            (None, None) => (SUPPOSED, "supposed: data.train is not at hand"),
        };
        let mut what = format!("{} examples ({from})", grouped(examples));
        let held_out = match aim {
            Aim::Dpo => 0,
            Aim::Sft => data_rows::count(recipe, Split::Validation).unwrap_or(0),
            Aim::Spin => {
                let counted = data_rows::count(recipe, Split::HeldOut);
                let (n, of) = match (counted, recipe.eval.limit) {
                    (Some(n), _) => (n, "held out"),
                    (None, Some(n)) => (n, "eval.limit"),
                    (None, None) => (SUPPOSED, "supposed to be held out"),
                };
                what.push_str(&format!(", {} measured on ({of})", grouped(n)));
                n
            }
        };
        Amount {
            examples,
            held_out,
            games: match aim {
                Aim::Spin => recipe.compare.seeds.len().max(1),
                Aim::Sft | Aim::Dpo => 1,
            },
            means: sample.map(|(_, means)| means),
            what,
        }
    }
}

/// How many training examples are used, by the share of the rows looked at that are, and how long
/// these are; `None` where rows cannot be looked at.
fn sample(setting: &Setting, aim: Aim) -> Option<(usize, Means)> {
    let recipe = &setting.recipe;
    let pairs = match aim {
        Aim::Dpo => Some(policy(recipe, Some(&*setting.loss(0).ok()?))),
        Aim::Sft | Aim::Spin => None,
    };
    let (tokenizer, bounds) = (&setting.tokenizer, setting.bounds);
    let sample = corpus::sample(recipe, tokenizer, bounds, pairs.as_ref(), LOOKED_AT).ok()?;
    let used = sample.examples.len() * sample.rows / sample.looked_at.max(1);
    Some((used, Means::of(&sample.examples)?))
}

#[cfg(test)]
mod tests {
    use super::{Means, lengths};

    #[test]
    fn an_estimate_says_which_lengths_it_goes_by() {
        let means = Means {
            prompt: 7,
            response: 3,
        };
        assert!(lengths(Some(means)).contains("prompts of 7 and answers of 3 tokens"));
        assert!(lengths(None).contains("as long as the recipe allows"));
        assert_eq!(Means::of(&[]), None);
    }
}
