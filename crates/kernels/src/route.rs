//! Routing of a mixture of experts: each token's experts and their weights, and the gradient to the
//! router's logits.

use candle_core::Tensor;
use randori_sdk::seam::{GroupSpec, RouteSpec};

use crate::{
    ExpertOutput, ExpertTokens, OnCandle, Result,
    cpu::{Values, elementwise, math, tensor},
    host,
    tensors::beside,
};

/// The experts of every token, with their weights.
///
/// Experts are chosen by their scores, plus the bias if there is one, in the groups that may be
/// chosen from; their weights are their scores alone. So the bias has no gradient, and the choice
/// none either.
pub struct Routing {
    /// Soft-max or sigmoid of the router's logits, (tokens, experts).
    scores: Vec<f32>,
    /// The chosen experts of every token, best first, (tokens, top_k).
    chosen: Vec<u32>,
    /// Their weights, (tokens, top_k).
    weights: Vec<f32>,
    experts: usize,
    route: RouteSpec,
}

impl Routing {
    /// Chooses each token's `top_k` experts of the highest score, with `bias` (experts) or (tokens,
    /// experts) added; of equals, the first.
    pub fn new(router: &Tensor, bias: Option<&Tensor>, route: &RouteSpec) -> Result<Self> {
        let (tokens, experts) = router.dims2()?;
        let mut scores = Values::of(&host(router)?)?.to_vec();
        if route.sigmoid {
            scores.iter_mut().for_each(|s| *s = math::sigmoid(*s));
        } else {
            elementwise::soft_max(&mut scores, experts);
        }
        let bias = bias.map(host).transpose()?;
        let bias = bias.as_ref().map(Values::of).transpose()?;
        let top_k = route.top_k;
        let (mut chosen, mut weights) = (Vec::new(), Vec::with_capacity(tokens * top_k));
        let mut order: Vec<u32> = Vec::new();
        let mut biased: Vec<f32> = Vec::new();
        for (token, scores) in scores.chunks_exact(experts).enumerate() {
            biased.clear();
            biased.extend_from_slice(scores);
            if let Some(bias) = &bias {
                let own = token * experts % bias.len().max(1);
                let row = bias.iter().skip(own);
                biased.iter_mut().zip(row).for_each(|(s, b)| *s += b);
            }
            if let Some(groups) = &route.groups {
                within_groups(&mut biased, groups, &mut order);
            }
            rank(&biased, &mut order);
            let best = &order[..top_k];
            let factor = if route.normalise {
                route.scale / sum_of(scores, best)
            } else {
                route.scale
            };
            weights.extend(best.iter().map(|&e| scores[e as usize] * factor));
            chosen.extend_from_slice(best);
        }
        Ok(Routing {
            scores,
            chosen,
            weights,
            experts,
            route: *route,
        })
    }

    /// The tokens of one expert; `None` if it has none.
    pub(super) fn tokens_of<K: OnCandle>(&self, expert: usize) -> Option<ExpertTokens<K>> {
        let (mut rows, mut choices) = (Vec::new(), Vec::new());
        for (choice, &e) in self.chosen.iter().enumerate() {
            if e as usize == expert {
                rows.push((choice / self.route.top_k) as u32);
                choices.push(choice as u32);
            }
        }
        (!rows.is_empty()).then(|| ExpertTokens {
            rows: rows.into(),
            choices: choices.into(),
        })
    }

    /// The weights of these choices.
    pub(super) fn weights(&self, choices: &[u32]) -> Vec<f32> {
        let of = |&choice: &u32| self.weights[choice as usize];
        choices.iter().map(of).collect()
    }

    /// The gradients to the experts' outputs, weight · dout of their rows, and to the router's
    /// logits.
    pub(super) fn backward<K: OnCandle>(
        &self,
        kernels: &K,
        experts: &[ExpertOutput<K>],
        router: bool,
        dout: &Tensor,
    ) -> Result<(Vec<Option<Tensor>>, Option<Tensor>)> {
        let (mut outputs, mut slopes) = (Vec::with_capacity(experts.len()), Vec::new());
        for ExpertOutput {
            tokens,
            value,
            needs,
        } in experts
        {
            let own = kernels.gather(dout, &tokens.rows)?;
            if let Some(value) = value {
                slopes.push((&tokens.choices, kernels.row_dots(value, &own)?));
            }
            let output = || -> Result<Tensor> {
                let dy = kernels.zeros(own.dims(), &own)?;
                let each: Vec<u32> = (0..tokens.rows.len() as u32).collect();
                kernels.scatter_by(&own, &each, Some(&self.weights(&tokens.choices)), &dy)?;
                Ok(dy)
            };
            outputs.push(needs.then(output).transpose()?);
        }
        let mut dweights = vec![0f32; self.chosen.len()];
        // only now does a GPU have to be waited for
        for (choices, slope) in slopes {
            let slope = host(&slope)?.flatten_all()?.to_vec1::<f32>()?;
            for (choice, d) in choices.iter().zip(slope) {
                dweights[*choice as usize] = d;
            }
        }
        let logits = || beside(self.router_gradient(&dweights)?, dout);
        Ok((outputs, router.then(logits).transpose()?))
    }

    /// The gradient to the router's logits, (tokens, experts).
    fn router_gradient(&self, dweights: &[f32]) -> Result<Tensor> {
        let (experts, top_k, route) = (self.experts, self.route.top_k, &self.route);
        let tokens = self.chosen.len() / top_k.max(1);
        let mut d = vec![0f32; tokens * experts];
        for token in 0..tokens {
            let own = token * top_k..(token + 1) * top_k;
            let (chosen, dw) = (&self.chosen[own.clone()], &dweights[own]);
            let scores = &self.scores[token * experts..][..experts];
            let row = &mut d[token * experts..][..experts];
            let sum = sum_of(scores, chosen);
            let mean: f32 = chosen
                .iter()
                .zip(dw)
                .map(|(&e, d)| d * scores[e as usize])
                .sum::<f32>()
                / sum;
            for (&e, dw) in chosen.iter().zip(dw) {
                row[e as usize] = if route.normalise {
                    route.scale * (dw - mean) / sum // w = scale · s / Σ s
                } else {
                    route.scale * dw
                };
            }
        }
        if route.sigmoid {
            d.iter_mut()
                .zip(&self.scores)
                .for_each(|(d, s)| *d *= s * (1.0 - s));
        } else {
            elementwise::soft_max_slope(&mut d, &self.scores, experts);
        }
        tensor(d, &[tokens, experts])
    }
}

/// The indices of `scores`, the highest score first; of equals, the first.
fn rank(scores: &[f32], order: &mut Vec<u32>) {
    order.clear();
    order.extend(0..scores.len() as u32);
    // a stable sort: equal scores keep their order
    order.sort_by(|&a, &b| scores[b as usize].total_cmp(&scores[a as usize]));
}

/// Sets the scores of experts outside the best groups to -inf. A group's score is the sum of its
/// `best` best experts'.
fn within_groups(scores: &mut [f32], groups: &GroupSpec, order: &mut Vec<u32>) {
    let size = scores.len() / groups.count;
    let of_group = |group: &[f32]| -> f32 {
        let mut sorted = group.to_vec();
        sorted.sort_by(|a, b| b.total_cmp(a));
        sorted[..groups.best].iter().sum()
    };
    let of_groups: Vec<f32> = scores.chunks_exact(size).map(of_group).collect();
    rank(&of_groups, order);
    for group in &order[groups.top..] {
        scores[*group as usize * size..][..size].fill(f32::NEG_INFINITY);
    }
}

/// The sum of the chosen scores: at least the smallest normal number, so that weights stay finite
/// where all chosen scores are 0.
fn sum_of(scores: &[f32], chosen: &[u32]) -> f32 {
    let sum: f32 = chosen.iter().map(|&e| scores[e as usize]).sum();
    sum.max(f32::MIN_POSITIVE)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use candle_core::Device;

    use super::*;

    const LOGITS: [f32; 24] = [
        -2.25, -1.125, -1.0, -2.375, -0.125, -0.875, //
        -1.5, -2.375, 0.625, 1.75, 2.625, -0.125, //
        0.25, -2.375, -0.75, -0.5, -1.25, 0.5, //
        0.375, 2.625, -0.125, 1.375, -2.125, 4.0,
    ];
    const BIAS: [f32; 6] = [0.0, 0.5, -0.25, 0.375, -0.5, 0.125];

    /// Experts and weights of each of the four tokens.
    fn routed(bias: Option<&[f32]>, route: RouteSpec) -> (Vec<u32>, Vec<f32>) {
        let matrix = |values: &[f32], rows| {
            Tensor::from_slice(values, (rows, values.len() / rows), &Device::Cpu).unwrap()
        };
        let bias = bias.map(|values| matrix(values, values.len() / 6));
        let routing = Routing::new(&matrix(&LOGITS, 4), bias.as_ref(), &route).unwrap();
        (routing.chosen, routing.weights)
    }

    fn close(found: &[f32], wanted: &[f32]) {
        assert_eq!(found.len(), wanted.len());
        let near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-6;
        assert!(found.iter().zip(wanted).all(near), "{found:?}");
    }

    /// What transformers 5.24's DeepseekV3TopkRouter answers (n_group 3, topk_group 2,
    /// routed_scaling_factor 2.5).
    #[test]
    fn a_bias_and_groups_choose_as_deepseek_v3s_router() {
        let all = RouteSpec::top(2).sigmoid().normalised().scaled(2.5);
        let groups = all.within_groups(3, 2, 2);
        let (chosen, weights) = routed(None, groups);
        assert_eq!(chosen, [4, 5, 4, 3, 5, 3, 1, 3]);
        let wanted = [
            1.535_999_9,
            0.964,
            1.306_391_8,
            1.193_608_3,
            1.556_148_4,
            0.943_851_7,
            1.346_977_5,
            1.153_022_5,
        ];
        close(&weights, &wanted);
        assert_eq!(routed(None, all).0, [4, 5, 4, 3, 5, 0, 5, 1]);
        let (chosen, weights) = routed(Some(&BIAS), groups);
        assert_eq!(chosen, [1, 3, 3, 5, 3, 1, 1, 3]);
        let wanted = [
            1.855_669_6,
            0.644_330_4,
            1.612_638_7,
            0.887_361_3,
            2.040_144,
            0.459_855_94,
            1.346_977_5,
            1.153_022_5,
        ];
        close(&weights, &wanted);
        assert_eq!(routed(Some(&BIAS), all).0, [1, 3, 3, 5, 3, 5, 1, 3]);
        // a row of bias for each token
        let rows = BIAS.repeat(4);
        assert_eq!(routed(Some(&rows), groups), (chosen, weights));
    }

    /// gpt-oss's order: the best logits, then soft-max over them alone.
    #[test]
    fn normalised_soft_max_is_soft_max_over_the_chosen() {
        let (chosen, weights) = routed(None, RouteSpec::top(3).normalised());
        for (token, (chosen, weights)) in chosen.chunks(3).zip(weights.chunks(3)).enumerate() {
            let own = |e: &u32| LOGITS[6 * token + *e as usize].exp();
            let sum: f32 = chosen.iter().map(own).sum();
            let wanted: Vec<f32> = chosen.iter().map(|e| own(e) / sum).collect();
            close(weights, &wanted);
        }
    }

    #[test]
    fn weights_are_finite_where_all_chosen_scores_are_0() {
        let far = [-200.0; 24];
        let router = Tensor::from_slice(&far, (4, 6), &Device::Cpu).unwrap();
        let route = RouteSpec::top(2).sigmoid().normalised();
        let routing = Routing::new(&router, None, &route).unwrap();
        assert!(
            routing.weights.iter().all(|w| w.is_finite()),
            "{:?}",
            routing.weights
        );
    }
}
