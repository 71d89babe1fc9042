//! How much data the stages of a recipe work on, and how long its rows are: what every estimate of
//! time goes by, whoever shows it.

use anyhow::Result;
use randori_data::Encoded;

use crate::aim::Aim;
use crate::corpus::{self, policy};
use crate::data_rows;
use crate::figures::{counted, grouped};
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

/// Two plans of what the stages do most of the time, where `plan` is of what they may meet. The
/// first has prompts and answers as long as the data's, but none longer than the recipe allows. In
/// the second generated answers go on to their limit, as those of a model that is not trained yet
/// often do; nobody knows beforehand.
///
/// # Errors
/// As [`Plan::of`].
pub fn usual(model: &Model, plan: &Plan, means: Option<Means>) -> Result<[Plan; 2]> {
    let mut longest = plan.recipe.clone();
    let mut recipe = plan.recipe.clone();
    if let Some(Means { prompt, response }) = means {
        for data in [&mut longest.data, &mut recipe.data] {
            data.max_prompt_tokens = data.max_prompt_tokens.min(prompt);
            data.max_response_tokens = data.max_response_tokens.min(response);
        }
        recipe.generate.max_new_tokens = recipe.generate.max_new_tokens.min(response);
        let measured = &mut recipe.eval.max_new_tokens;
        *measured = measured.map(|most| most.min(response));
    }
    if plan.aim != Aim::Spin {
        longest.clone_from(&recipe); // nothing is generated
    }
    let of = |recipe| anyhow::Ok(Plan::of(model, recipe)?.meant_for(plan.aim));
    Ok([of(recipe)?, of(longest)?])
}

/// The lengths that an estimate of the plan's time goes by, in words.
pub fn lengths(plan: &Plan, means: Option<Means>) -> String {
    let Some(Means { prompt, response }) = means else {
        return "prompts and answers all as long as the recipe allows, since no rows are at hand"
            .to_owned();
    };
    let Recipe { generate, eval, .. } = &plan.recipe;
    let longest = generate
        .max_new_tokens
        .max(eval.max_new_tokens.unwrap_or(0));
    let more = match plan.aim == Aim::Spin && longest > response {
        true => format!(
            "; the longer time is that of answers which all go on to the limit of {longest}, as \
             those of a model before its training often do"
        ),
        false => String::new(),
    };
    format!("prompts of {prompt} and answers of {response} tokens, the means of the data's{more}")
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
        let sampled = match sample {
            Some((examples, _)) => Some(examples),
            None => data_rows::count(recipe, Split::Train),
        };
        let (examples, from) = match (sampled, recipe.data.limit) {
            (Some(n), _) => (n, "data.train"),
            (None, Some(n)) => (n, "data.limit"),
            (None, None) => (SUPPOSED, "supposed: data.train is not at hand"),
        };
        let mut what = format!("{} ({from})", counted(examples, "example"));
        let held_out = match aim {
            Aim::Sft | Aim::Dpo => data_rows::count(recipe, Split::Validation).unwrap_or(0),
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
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::path::Path;

    use super::*;
    use crate::request::Request;
    use crate::session::host;

    /// Of prompts of 7 and answers of 3 tokens on the average, where answers may have 24.
    fn plans(aim: Aim) -> [Plan; 2] {
        let request = Request {
            linked: vec![
                &randori_plugin_llama::PLUGIN,
                &randori_plugin_losses::PLUGIN,
                &randori_plugin_sampling::PLUGIN,
            ],
            ..Request::default()
        };
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/demo.toml");
        let recipe = Recipe::load(&file, &[]).unwrap();
        let host = host(&recipe, &request).unwrap();
        let model = Model::of(&recipe, Vec::new(), &host).unwrap();
        let plan = Plan::of(&model, recipe).unwrap().meant_for(aim);
        let means = Means {
            prompt: 7,
            response: 3,
        };
        let said = lengths(&plan, Some(means));
        let usual = "prompts of 7 and answers of 3 tokens, the means of the data's";
        assert!(said.starts_with(usual), "{said}");
        assert_eq!(said.contains("limit of 24"), aim == Aim::Spin, "{said}");
        assert!(lengths(&plan, None).contains("as long as the recipe allows"));
        super::usual(&model, &plan, Some(means)).unwrap()
    }

    #[test]
    fn answers_that_nobody_knows_are_as_the_datas_or_go_on_to_their_limit() {
        let [usual, longest] = plans(Aim::Spin);
        for measured in [false, true] {
            let of = |plan: &Plan| {
                let decoding = plan.decoding(16, measured);
                (decoding.prompt, decoding.response)
            };
            assert_eq!((of(&usual), of(&longest)), ((7, 3), (7, 24)));
        }
        // the real response is as long as it is
        assert_eq!(usual.responses(), [3, 3]);
        assert_eq!(longest.responses(), [3, 24]);
    }

    #[test]
    fn where_nothing_is_generated_nothing_is_unknown() {
        for aim in [Aim::Sft, Aim::Dpo] {
            let [usual, longest] = plans(aim);
            assert_eq!(usual.responses(), longest.responses());
        }
        assert_eq!(Means::of(&[]), None);
    }
}
