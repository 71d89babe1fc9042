//! What attention and mixtures of experts are asked for, one thing at a time.

use super::Tensor;
use crate::seam::{AttnSpec, GroupSpec, RouteSpec};

impl AttnSpec {
    /// With one logit more for each head in every query's soft-max: `sinks` is a parameter of
    /// (heads), and the value of that logit is 0 (gpt-oss).
    pub fn with_sinks(self, sinks: Tensor<'_>) -> Self {
        AttnSpec {
            sinks: Some(sinks.id),
            ..self
        }
    }
}

impl RouteSpec {
    /// Chooses the `top_k` best experts by soft-max over all, and leaves their weights unscaled.
    pub fn top(top_k: usize) -> Self {
        RouteSpec {
            top_k,
            sigmoid: false,
            normalise: false,
            scale: 1.0,
            bias: None,
            groups: None,
        }
    }

    /// Scales the chosen weights to sum to one (Mixtral; Qwen's `norm_topk_prob`). After soft-max
    /// over all that is soft-max over the chosen logits alone (gpt-oss).
    pub fn normalised(self) -> Self {
        RouteSpec {
            normalise: true,
            ..self
        }
    }

    /// Scores each expert by the sigmoid of its logit instead of soft-max over all.
    pub fn sigmoid(self) -> Self {
        RouteSpec {
            sigmoid: true,
            ..self
        }
    }

    /// Multiplies the chosen weights with `scale` (`routed_scaling_factor`).
    pub fn scaled(self, scale: f32) -> Self {
        RouteSpec { scale, ..self }
    }

    /// Chooses by score + `bias`, of trailing shape (experts), and weights by score alone. No
    /// gradient goes to the bias (DeepSeek-V3's `e_score_correction_bias`).
    pub fn chosen_with(self, bias: Tensor<'_>) -> Self {
        RouteSpec {
            bias: Some(bias.id),
            ..self
        }
    }

    /// Chooses among the experts of the `top` best of `count` groups; a group's score is the sum of
    /// its `best` best experts' (`n_group`, `topk_group`; `best` is 2 in DeepSeek-V3).
    pub fn within_groups(self, count: usize, top: usize, best: usize) -> Self {
        RouteSpec {
            groups: Some(GroupSpec { count, top, best }),
            ..self
        }
    }
}
