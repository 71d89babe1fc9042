//! The settings of an adapter, checked.

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::{Error, Result, Targets, splitmix};

/// LoRA settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraSpec {
    /// Columns of B and rows of A.
    pub rank: usize,
    /// Numerator of the scale.
    pub alpha: f64,
    /// Scale by alpha/sqrt(rank) rather than alpha/rank (arXiv 2312.03732).
    #[serde(default)]
    pub rslora: bool,
    /// Share of a projection's inputs zeroed before A while training, 0..1.
    #[serde(default)]
    pub dropout: f32,
    /// Which projections get an update.
    pub targets: Targets,
}

impl LoraSpec {
    /// Refuses settings that cannot mean anything.
    ///
    /// # Errors
    /// Rank 0, an alpha that is not finite or is 0, a dropout outside 0..1, targets that match nothing or are no pattern.
    pub fn check(&self) -> Result<()> {
        if self.rank == 0 {
            return Err(Error::rule("a LoRA rank must be at least 1, not 0"));
        }
        if !self.alpha.is_finite() || self.alpha == 0.0 {
            return Err(Error::rule(format!(
                "a LoRA alpha must be a finite number other than 0, not {}",
                self.alpha
            )));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::rule(format!(
                "a LoRA dropout must be in 0..1, not {}",
                self.dropout
            )));
        }
        self.targets.check()
    }

    /// Factor on B·A·x: alpha/rank, or alpha/sqrt(rank) with rsLoRA.
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.rslora { rank.sqrt() } else { rank }
    }

    /// Whether the projection of this checkpoint name (without `.weight`) gets an update.
    pub fn wants(&self, projection: &str) -> bool {
        self.targets.wants(projection)
    }

    /// A fresh pair: A (rank, inputs) uniform in ±1/sqrt(inputs), B (outputs, rank) zero, so the update starts at 0.
    ///
    /// A is a pure function of `seed`, the name `{projection}.lora_A` and the index, so that any program can make the
    /// same start ([`splitmix`]).
    ///
    /// # Errors
    /// Settings refused by [`LoraSpec::check`], or no inputs.
    pub fn init(
        &self,
        projection: &str,
        inputs: usize,
        outputs: usize,
        seed: u64,
    ) -> Result<(Tensor, Tensor)> {
        self.check()?;
        if inputs == 0 || outputs == 0 {
            return Err(Error::rule(format!(
                "{projection} has {inputs} inputs and {outputs} outputs: nothing to adapt"
            )));
        }
        let bound = (inputs as f64).powf(-0.5);
        let a: Vec<f32> = splitmix(seed, &format!("{projection}.lora_A"), self.rank * inputs)
            .map(|u| ((2.0 * u - 1.0) * bound) as f32)
            .collect();
        let a = Tensor::from_vec(a, (self.rank, inputs), &Device::Cpu)?;
        let b = Tensor::zeros((outputs, self.rank), candle_core::DType::F32, &Device::Cpu)?;
        Ok((a, b))
    }
}
