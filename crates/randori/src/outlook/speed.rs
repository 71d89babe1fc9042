//! The speed of each kind of stage before any has run, as `fit` and `run --dry-run` estimate it.

use anyhow::Result;
use randori_engine::fit::{Ceilings, Work};

use super::rest::{Planner, Rates};
use super::stages::{Data, Sizes};
use crate::fit::amount::{Means, usual};
use crate::fit::time;
use crate::plan::{Model, Plan};
use crate::session::Session;

/// Plans the speed of a run's stages, with answers as long as the data's: by these their work is
/// counted too. Nothing is planned where nobody can say.
pub fn planner(session: &Session, data: &Data) -> Planner {
    let recipe = session.recipe.clone();
    let sizes = Sizes::of(data.train, recipe.generate.max_new_tokens);
    let means = Means::of(&data.train.examples);
    match Model::of(&recipe, session.adapter.clone(), &session.host) {
        Ok(model) => Box::new(move || {
            let plan = Plan::of(&model, recipe)
                .and_then(|plan| Ok((usual(&model, &plan, means)?, time::beside_a_run(&plan)?)));
            let rates = plan.and_then(|([least, _], machine)| rates(&least, &sizes, &machine));
            rates.unwrap_or_default()
        }),
        Err(_) => Box::new(Rates::default),
    }
}

/// Seconds a token of all training examples' answers, log-probs and steps.
fn rates(plan: &Plan, sizes: &Sizes, machine: &Ceilings) -> Result<Rates> {
    let n = sizes.examples;
    let steps = n.div_ceil(plan.recipe.train.batch);
    let rate = |work: Work, tokens: f64| {
        let rate = machine.seconds(&work) / tokens;
        (rate.is_finite() && rate > 0.0).then_some(rate)
    };
    Ok([
        rate(time::answering(plan, n, false)?, sizes.answers(n)),
        rate(time::scoring(plan, n)?, sizes.pairs(n)),
        rate(time::training(plan, n, steps)?, sizes.pairs(n)),
    ])
}
