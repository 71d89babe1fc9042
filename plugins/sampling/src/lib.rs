//! The samplers that come with Randori, one file each. A sampler reshapes one row of logits in
//! place; the host chains them in the recipe's order, turns what is left into probabilities and
//! draws. Samplers know no model, no text and no random number; so the host knows the log-prob with
//! which a token was drawn.
//!
//! A removed token has the logit -inf. No sampler removes the last token.

mod cut;
pub mod greedy;
pub mod min_p;
pub mod repetition_penalty;
pub mod temperature;
pub mod top_k;
pub mod top_p;

randori_sdk::plugin!(
    "Samplers; they chain in the order in which the recipe lists them",
    sampler greedy::Greedy,
    sampler temperature::Temperature,
    sampler top_k::TopK,
    sampler top_p::TopP,
    sampler min_p::MinP,
    sampler repetition_penalty::RepetitionPenalty,
);

#[cfg(test)]
mod check;
#[cfg(test)]
mod tests;
