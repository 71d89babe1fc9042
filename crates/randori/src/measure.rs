//! What is measured of a player on held-out data: sampled answers and how many are right, the
//! likelihood of the real responses, and whether it tells its opponent's answers from them.

use anyhow::Result;
use randori_core::{PairLogps, Signals};
use randori_data::{Encoded, Message};
use randori_engine::score::sum;
use randori_engine::{Generation, Player, ScoreItem, generate, score, score_tokens};
use randori_eval::{Check, Moved, Tally};
use serde::{Deserialize, Serialize};

use crate::corpus::Part;
use crate::report::{Measures, PromptRow};
use crate::session::Session;
use crate::settings;
use crate::stages;
use crate::watch::AtOnce;

/// One sampled answer to a held-out prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldOutAnswer {
    /// Where the example was read.
    pub place: String,
    /// The conversation before the answer.
    pub prompt: Vec<Message>,
    /// The human response's text.
    pub real: String,
    /// The answer's text.
    pub generated: String,
    /// Whether it is right, where answers are checked.
    pub right: Option<bool>,
    /// Whether it was cut at the token limit.
    pub truncated: bool,
    /// Its token ids.
    pub tokens: Vec<u32>,
}

/// A player's answers to all held-out prompts: the first seed's in full, the others' as shares.
pub struct Answered {
    /// Of the first seed.
    pub first: Vec<HeldOutAnswer>,
    /// Share of right answers, one per seed.
    pub exact_match: Vec<f64>,
    /// Share of answers in form, over all seeds.
    pub in_form: f64,
    /// Mean tokens.
    pub tokens: f64,
    /// Share of cut answers.
    pub cut: f64,
    /// Whether answers were checked.
    checked: bool,
    /// Of each prompt, over all seeds.
    prompts: Vec<Counted>,
}

/// The answers to one prompt.
#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    right: Tally,
    in_form: Tally,
    cut: Tally,
    tokens: usize,
}

/// Samples an answer to every held-out prompt, once per seed of `eval.seeds`.
pub fn answer(
    session: &Session,
    player: &Player,
    held_out: &Part,
    label: &str,
) -> Result<Answered> {
    let check = settings::answer_check(&session.recipe)?;
    let samplers = session.samplers(&session.recipe.eval.sampling)?;
    let prompts: Vec<Vec<u32>> = held_out.examples.iter().map(|e| e.prompt.clone()).collect();
    let seeds = &session.recipe.eval.seeds;
    let label = format!("{label}: answers");
    let answers = prompts.len() * seeds.len();
    let mut bar = session.watch.stage(&label, answers, "answers");
    let mut out = Answered {
        first: Vec::new(),
        exact_match: Vec::new(),
        in_form: 0.0,
        tokens: 0.0,
        cut: 0.0,
        checked: check.is_some(),
        prompts: vec![Counted::default(); prompts.len()],
    };
    let (mut form, mut tokens, mut cut) = (Tally::default(), 0, Tally::default());
    let mut slots = AtOnce::slots(&session.recipe);
    for (k, &seed) in seeds.iter().enumerate() {
        let mut options = stages::measured(session, seed);
        options.slots = slots.now();
        let before = tokens;
        let generations = generate(player, &prompts, &samplers, &options, &mut |now| {
            slots.say_fewer(&*session.watch, &label, now.at_once);
            bar.set(k * prompts.len() + now.done, before + now.tokens);
        })?;
        let mut right = Tally::default();
        for (i, (example, generation)) in held_out.examples.iter().zip(&generations).enumerate() {
            let one = checked(
                session,
                check.as_ref(),
                example,
                &held_out.prompts[i],
                generation,
            );
            let in_form = check.as_ref().is_some_and(|c| c.in_form(&one.generated));
            right.add(one.right.unwrap_or(false));
            form.add(in_form);
            cut.add(one.truncated);
            tokens += generation.tokens.len();
            let of_prompt = &mut out.prompts[i];
            of_prompt.right.add(one.right.unwrap_or(false));
            of_prompt.in_form.add(in_form);
            of_prompt.cut.add(one.truncated);
            of_prompt.tokens += generation.tokens.len();
            if k == 0 {
                out.first.push(one);
            }
        }
        out.exact_match
            .extend(right.share().filter(|_| check.is_some()));
    }
    bar.finish();
    out.in_form = form.share().filter(|_| check.is_some()).unwrap_or(f64::NAN);
    out.tokens = tokens as f64 / (cut.seen.max(1)) as f64;
    out.cut = cut.share().unwrap_or(f64::NAN);
    Ok(out)
}

/// A player's most likely answer to the first held-out prompt, in one row: a single draw would show
/// luck as well.
pub fn showcase(session: &Session, player: &Player, held_out: &Part) -> Result<Vec<HeldOutAnswer>> {
    let Some((example, prompt)) = held_out.examples.first().zip(held_out.prompts.first()) else {
        return Ok(Vec::new());
    };
    let check = settings::answer_check(&session.recipe)?;
    let options = stages::measured(session, 0); // nothing is drawn
    let prompts = [example.prompt.clone()];
    let found = generate(
        player,
        &prompts,
        &[session.greedy()?],
        &options,
        &mut |_| {},
    )?;
    let row = |generation| checked(session, check.as_ref(), example, prompt, generation);
    Ok(found.iter().map(row).collect())
}

fn checked(
    session: &Session,
    check: Option<&Check>,
    example: &Encoded,
    prompt: &[Message],
    generation: &Generation,
) -> HeldOutAnswer {
    let text = |ids: &[u32]| session.tokenizer.decode(ids);
    let (real, generated) = (text(&example.response), text(&generation.tokens));
    HeldOutAnswer {
        place: example.place.to_string(),
        prompt: prompt.to_vec(),
        right: check.map(|c| c.right(&generated, &real)),
        truncated: !generation.ended,
        tokens: generation.tokens.clone(),
        real,
        generated,
    }
}

/// Log-probs, token by token, of a held-out pair's responses under a player.
pub struct TokenLogps {
    /// Of the real response.
    pub real: Vec<f64>,
    /// Of the other player's answer.
    pub generated: Vec<f64>,
}

/// Log-probs of the real responses and of `others`' first answers under a player.
pub fn logps(
    session: &Session,
    player: &Player,
    held_out: &Part,
    others: &[HeldOutAnswer],
    label: &str,
) -> Result<Vec<TokenLogps>> {
    let items: Vec<ScoreItem> = held_out
        .examples
        .iter()
        .zip(others)
        .map(|(e, o)| ScoreItem {
            prompt: &e.prompt,
            responses: vec![&e.response, &o.tokens],
        })
        .collect();
    let label = format!("{label}: likelihood");
    let mut bar = session.watch.stage(&label, items.len(), "pairs");
    let mut rows = AtOnce::rows(&session.recipe);
    let scores = score_tokens(player, &items, rows.now(), &mut |now| {
        rows.say_fewer(&*session.watch, &label, now.at_once);
        bar.set(now.done, now.tokens);
    })?;
    bar.finish();
    let both = scores.into_iter().filter_map(|of_item| {
        let [real, generated] = of_item.try_into().ok()?;
        Some(TokenLogps { real, generated })
    });
    Ok(both.collect())
}

/// The held-out pairs (real, the opponent's answer) of a player and its opponent.
pub fn pairs(
    held_out: &Part,
    policy: &[TokenLogps],
    opponent: &[TokenLogps],
    opponent_answers: &[HeldOutAnswer],
) -> Vec<PairLogps> {
    let rows = held_out
        .examples
        .iter()
        .zip(policy)
        .zip(opponent)
        .zip(opponent_answers);
    rows.map(|(((e, p), o), a)| PairLogps {
        policy_real: sum(&p.real),
        policy_generated: sum(&p.generated),
        opponent_real: sum(&o.real),
        opponent_generated: sum(&o.generated),
        real_tokens: e.response.len(),
        generated_tokens: a.tokens.len(),
    })
    .collect()
}

/// How a training moved the held-out pairs, from the opponent to the policy.
pub fn moved(
    policy: &[TokenLogps],
    opponent: &[TokenLogps],
    opponent_answers: &[HeldOutAnswer],
) -> Vec<Moved> {
    let rows = policy.iter().zip(opponent).zip(opponent_answers);
    rows.map(|((p, o), a)| {
        Moved::of(
            [&p.real, &o.real],
            [&p.generated, &o.generated],
            a.truncated,
        )
    })
    .collect()
}

/// What of a player is measured on each prompt.
pub fn prompts(own: &Answered, pairs: &[PairLogps], beta: f64) -> Vec<PromptRow> {
    let share = |tally: Tally| tally.share().unwrap_or(f64::NAN);
    let row = |(counted, pair): (&Counted, &PairLogps)| PromptRow {
        exact_match: own.checked.then(|| share(counted.right)),
        in_form: own.checked.then(|| share(counted.in_form)),
        cut: share(counted.cut),
        tokens: counted.tokens as f64 / counted.cut.seen.max(1) as f64,
        logps_real: pair.policy_real,
        real_tokens: pair.real_tokens,
        logps_generated: pair.policy_generated,
        margin: pair.margin(beta),
        moved: None,
    };
    own.prompts.iter().zip(pairs).map(row).collect()
}

/// The signals of a player against its opponent on held-out pairs.
pub fn signals(session: &Session, own: &Answered, pairs: &[PairLogps], beta: f64) -> Signals {
    let mut signals = Signals::of(pairs, beta);
    signals.exact_match = mean(&own.exact_match);
    let mut extra = |name: &str, value: f64| {
        if value.is_finite() {
            signals.extra.insert(name.to_string(), value);
        }
    };
    extra("answer_tokens", own.tokens);
    extra("answers_cut", own.cut);
    extra("answers_in_form", own.in_form);
    for (seed, share) in session.recipe.eval.seeds.iter().zip(&own.exact_match) {
        extra(&format!("exact_match/seed-{seed}"), *share);
    }
    signals
}

/// Signals as a line of the summary. The start is its own opponent: margin and accuracy are 0 (the
/// paper's step 0).
pub fn measures(signals: &Signals, is_start: bool) -> Measures {
    let extra = |name: &str| signals.extra.get(name).copied().unwrap_or(f64::NAN);
    let game = |value: f64| if is_start { 0.0 } else { value };
    Measures {
        exact_match: signals.exact_match.unwrap_or(f64::NAN),
        in_form: extra("answers_in_form"),
        nll_real: signals.nll_real,
        logps_real: signals.logps_real,
        logps_generated: signals.logps_generated,
        margin: game(signals.margin),
        accuracy: game(signals.accuracy),
        inverted: signals.inverted,
        generated_tokens: extra("answer_tokens"),
        cut: extra("answers_cut"),
    }
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Negative log-likelihood of the real responses, nats per token.
pub fn nll(session: &Session, player: &Player, examples: &Part, label: &str) -> Result<f64> {
    let items: Vec<ScoreItem> = examples
        .examples
        .iter()
        .map(|e| ScoreItem {
            prompt: &e.prompt,
            responses: vec![&e.response],
        })
        .collect();
    let mut bar = session.watch.stage(label, items.len(), "examples");
    let mut rows = AtOnce::rows(&session.recipe);
    let scores = score(player, &items, rows.now(), &mut |now| {
        rows.say_fewer(&*session.watch, label, now.at_once);
        bar.set(now.done, now.tokens);
    })?;
    bar.finish();
    let mut likelihood = randori_eval::Likelihood::default();
    for (example, scores) in examples.examples.iter().zip(&scores) {
        likelihood.add(scores[0], example.response.len());
    }
    Ok(likelihood.nll().unwrap_or(f64::NAN))
}
