//! Mixture of experts: which experts a token goes to and with which weight, and the gradient to the router's logits.

use candle_core::Tensor;
use randori_sdk::seam::RouteSpec;

use super::{Values, elementwise, layout, math, on_gpu, tensor};
use crate::Result;

/// The choice for every token.
pub(crate) struct Routing {
    /// Soft-max or sigmoid scores, (tokens, experts).
    scores: Vec<f32>,
    /// The chosen experts of every token, best first, (tokens, top_k).
    chosen: Vec<u32>,
    /// Their weights, (tokens, top_k).
    weights: Vec<f32>,
    experts: usize,
    route: RouteSpec,
}

/// d loss / d weight of an expert's rows, a number for each: its gradient · y, where these lie.
pub(crate) fn weight_gradient(y: &Tensor, dout: &Tensor) -> Result<Tensor> {
    on_gpu!(y, super::gpu::elementwise::row_dots(y, dout));
    let (rows, width) = (y.dims()[0], y.dims()[1..].iter().product());
    let (y, dout) = (Values::of(y)?, Values::of(dout)?);
    let pairs = dout.chunks_exact(width).zip(y.chunks_exact(width));
    let dots = pairs.map(|(d, y)| math::dot(d, y) as f32).collect();
    tensor(dots, &[rows])
}

/// One expert's share.
pub(crate) struct Share {
    /// Tokens (rows) that go to it, ascending.
    pub(crate) rows: Vec<u32>,
    /// Place of each in the (tokens, top_k) lists.
    pub(crate) places: Vec<u32>,
}

impl Routing {
    /// Chooses `top_k` experts a token by score; of equals, the first.
    pub(crate) fn new(router: &Tensor, route: &RouteSpec) -> Result<Self> {
        let (tokens, experts) = router.dims2()?;
        let mut scores = Values::of(&super::host(router)?)?.to_vec();
        if route.sigmoid {
            scores.iter_mut().for_each(|s| *s = math::sigmoid(*s));
        } else {
            elementwise::soft_max(&mut scores, experts);
        }
        let top_k = route.top_k;
        let (mut chosen, mut weights) = (Vec::new(), Vec::with_capacity(tokens * top_k));
        let mut order: Vec<u32> = Vec::new();
        for scores in scores.chunks_exact(experts) {
            order.clear();
            order.extend(0..experts as u32);
            // a stable sort: equal scores keep their order
            order.sort_by(|&a, &b| scores[b as usize].total_cmp(&scores[a as usize]));
            let best = &order[..top_k];
            let sum: f32 = best.iter().map(|&e| scores[e as usize]).sum();
            let factor = if route.normalise {
                route.scale / sum
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

    /// Which rows an expert gets.
    pub(crate) fn share(&self, expert: usize) -> Share {
        let (mut rows, mut places) = (Vec::new(), Vec::new());
        for (place, &e) in self.chosen.iter().enumerate() {
            if e as usize == expert {
                rows.push((place / self.route.top_k) as u32);
                places.push(place as u32);
            }
        }
        Share { rows, places }
    }

    fn weights(&self, share: &Share) -> Vec<f32> {
        let of = |&place: &u32| self.weights[place as usize];
        share.places.iter().map(of).collect()
    }

    /// out[row] += weight · y's row.
    pub(crate) fn add_weighted(&self, share: &Share, y: &Tensor, out: &Tensor) -> Result<()> {
        layout::scatter(y, &share.rows, Some(&self.weights(share)), out)
    }

    /// dy of an expert's output from the gradient of its rows, which lie one behind the other: weight · that.
    pub(crate) fn expert_gradient(&self, share: &Share, dout: &Tensor) -> Result<Tensor> {
        let dy = layout::zeros(dout.dims(), dout)?;
        let each: Vec<u32> = (0..share.rows.len() as u32).collect();
        layout::scatter(dout, &each, Some(&self.weights(share)), &dy)?;
        Ok(dy)
    }

    /// How many (token, expert) places there are.
    pub(crate) fn places(&self) -> usize {
        self.chosen.len()
    }

    /// The gradient to the router's logits, (tokens, experts).
    pub(crate) fn router_gradient(&self, dweights: &[f32]) -> Result<Tensor> {
        let (experts, top_k, route) = (self.experts, self.route.top_k, &self.route);
        let tokens = self.chosen.len() / top_k.max(1);
        let mut d = vec![0f32; tokens * experts];
        for token in 0..tokens {
            let places = token * top_k..(token + 1) * top_k;
            let (chosen, dw) = (&self.chosen[places.clone()], &dweights[places]);
            let scores = &self.scores[token * experts..][..experts];
            let row = &mut d[token * experts..][..experts];
            let sum: f32 = chosen.iter().map(|&e| scores[e as usize]).sum();
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
