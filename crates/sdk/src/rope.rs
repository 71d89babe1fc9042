//! Rotary frequencies from a configuration: transformers v5 (`rope_parameters`, which some families
//! key by layer type) and v4 (`rope_theta`, `rope_scaling`).

mod keys;
mod kinds;
mod rules;

pub use rules::{RopeKind, RopeRules, Share};

use crate::{
    Config, Result,
    seam::{Growth, LongRope, RopeSpec},
};
use keys::Keys;
use kinds::Computed;

/// Most features of a head, against a damaged configuration that says billions: each pair has a
/// frequency in memory.
const MOST_FEATURES: usize = 65_536;

impl RopeRules {
    /// The rotary embedding of heads with `head_dim` features, in pairs (i, i + n).
    ///
    /// As in transformers 5, `rope_scaling` (v4) takes precedence over `rope_parameters` (v5);
    /// where sections are keyed by layer type, key by key. A theta that the section lacks is taken
    /// from beside it. `dynamic` is plain up to `max_position_embeddings` tokens, and longer
    /// sequences are refused when they come.
    ///
    /// # Errors
    /// An unknown kind, a missing key that it needs, a list of another length than there are pairs,
    /// sections keyed by layer type where these rules have none, or not keyed where they have one,
    /// a share of a head that is no whole number of pairs.
    pub fn read(&self, config: &Config, head_dim: usize) -> Result<RopeSpec> {
        if head_dim > MOST_FEATURES {
            let sentence =
                format!("heads of {head_dim} features: at most {MOST_FEATURES} are possible");
            return Err(sentence.into());
        }
        let keys = Keys::of(self, config)?;
        let kind = keys.kind()?;
        let share = keys.share(kind)?;
        let dim = match kind {
            RopeKind::Proportional => head_dim,
            _ => (head_dim as f64 * share) as usize,
        };
        if dim == 0 || dim % 2 == 1 || dim > head_dim {
            let sentence = format!(
                "rotary embedding turns pairs of features: {dim} of {head_dim} features per head cannot be turned"
            );
            return Err(sentence.into());
        }
        let computed = kinds::compute(&keys, kind, dim, share)?;
        computed.into_spec()
    }

    /// The growth of rotated queries with the position: `llama_4_scaling_beta` of the section, one
    /// step for each original context length; `None` without that key.
    ///
    /// # Errors
    /// As [`RopeRules::read`]; an original length that is no number of tokens.
    pub fn growth(&self, config: &Config) -> Result<Option<Growth>> {
        let keys = Keys::of(self, config)?;
        let Some(beta) = keys.number("llama_4_scaling_beta")? else {
            return Ok(None);
        };
        let every = kinds::original_length(&keys)?;
        Ok(Some(Growth { beta, every }))
    }
}

impl RopeSpec {
    /// The frequencies of a model whose heads have `head_dim` features, of which the share
    /// `partial_rotary_factor` is rotated: see [`RopeRules::read`].
    ///
    /// # Errors
    /// As there.
    pub fn from(config: &Config, head_dim: usize) -> Result<RopeSpec> {
        RopeRules::PART.read(config, head_dim)
    }

    /// The frequencies for an architecture that always rotates whole heads (Llama, Mistral): with
    /// plain frequencies `partial_rotary_factor` is not read, as in transformers.
    ///
    /// # Errors
    /// As [`RopeRules::read`]; a `partial_rotary_factor` with any other kind.
    pub fn of_whole_heads(config: &Config, head_dim: usize) -> Result<RopeSpec> {
        RopeRules::WHOLE.read(config, head_dim)
    }
}

impl Computed {
    /// As the ops take it.
    fn into_spec(self) -> Result<RopeSpec> {
        let all = [
            &self.inv_freq,
            self.long.as_ref().map_or(&self.inv_freq, |(_, f)| f),
        ];
        if let Some(bad) = all.into_iter().flatten().find(|f| !f.is_finite()) {
            return Err(format!("a rotary frequency of this configuration is {bad}").into());
        }
        let single = |list: Vec<f64>| list.into_iter().map(|f| f as f32).collect();
        Ok(RopeSpec {
            inv_freq: single(self.inv_freq),
            mscale: self.mscale as f32,
            long: self.long.map(|(after, inv_freq)| LongRope {
                after,
                inv_freq: single(inv_freq),
            }),
            ..RopeSpec::default()
        })
    }
}

#[cfg(test)]
mod tests;
