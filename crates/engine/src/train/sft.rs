//! Supervised training: the mean negative log-likelihood per response token.

use randori_kernels::{Error, Result};

use super::{
    metrics::{Control, PairMetrics, StepMetrics},
    trainer::{Task, Trainer},
};

/// A prompt and its response, for supervised training: borrowed from whoever keeps them.
#[derive(Clone, Copy)]
pub struct Example<'a> {
    /// Token ids, at least one.
    pub prompt: &'a [u32],
    /// Token ids, at least one.
    pub response: &'a [u32],
    /// Where it comes from, for messages: `file:line`.
    pub place: &'a dyn std::fmt::Display,
}

impl Trainer {
    /// Trains on examples; the loss is −Σ log p over all response tokens of the step divided by
    /// their number. Otherwise as [`Trainer::train_pairs`].
    ///
    /// # Errors
    /// As there, and an empty response.
    pub fn train_sft(
        &mut self,
        examples: &[Example],
        on_step: &mut dyn FnMut(&StepMetrics, &Trainer) -> Result<Control>,
    ) -> Result<()> {
        self.train(&mut SftTask::new(examples)?, on_step)
    }
}

/// A supervised training.
struct SftTask<'a> {
    examples: &'a [Example<'a>],
    /// Response tokens in the step.
    tokens: usize,
    sum: f64,
}

impl<'a> SftTask<'a> {
    fn new(examples: &'a [Example<'a>]) -> Result<Self> {
        if examples.is_empty() {
            return Err(Error::rule("there are no examples to train on"));
        }
        for Example {
            prompt,
            response,
            place,
        } in examples
        {
            for (name, ids) in [("prompt", prompt), ("response", response)] {
                if ids.is_empty() {
                    return Err(Error::rule(format!(
                        "{place}: the example's {name} is empty"
                    )));
                }
            }
        }
        Ok(SftTask {
            examples,
            tokens: 1,
            sum: 0.0,
        })
    }
}

impl Task for SftTask<'_> {
    fn kind(&self) -> String {
        "sft".to_string()
    }

    fn noun(&self) -> &'static str {
        "examples"
    }

    fn len(&self) -> usize {
        self.examples.len()
    }

    fn item(&self, i: usize) -> (&[u32], Vec<&[u32]>) {
        (self.examples[i].prompt, vec![self.examples[i].response])
    }

    fn place(&self, i: usize) -> String {
        self.examples[i].place.to_string()
    }

    fn begin(&mut self, items: &[usize], _progress: f64) {
        self.tokens = items.iter().map(|&i| self.examples[i].response.len()).sum();
        self.sum = 0.0;
    }

    fn slopes(&mut self, items: &[usize], sums: &[f64]) -> Result<Vec<f64>> {
        if let Some((&i, logp)) = items.iter().zip(sums).find(|(_, logp)| !logp.is_finite()) {
            return Err(Error::rule(format!(
                "{}: the response's log-prob is {logp}",
                self.examples[i].place
            )));
        }
        self.sum -= sums.iter().sum::<f64>();
        Ok(vec![-1.0 / self.tokens as f64; sums.len()])
    }

    fn finish(&mut self) -> (f64, Option<PairMetrics>, Vec<(String, f64)>) {
        (self.sum / self.tokens as f64, None, Vec::new())
    }
}
