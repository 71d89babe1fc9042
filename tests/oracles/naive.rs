//! Llama, Mistral and the Qwens as plain loops in f64, O(n²) without a cache: no code shared with
//! the engine, and right about sliding windows where candle-transformers is not.

use std::{collections::HashMap, f64::consts::PI};

use crate::model::{EPS, Rows, Shape, Weights};

/// Logits at every position.
pub fn logits(shape: &Shape, weights: &Weights, tokens: &[u32]) -> Rows {
    let model = Model {
        shape,
        weights: weights
            .iter()
            .map(|(name, t)| (name.as_str(), floats(t)))
            .collect(),
    };
    let embed = &model.weights["model.embed_tokens.weight"];
    let mut x: Rows = tokens
        .iter()
        .map(|&t| embed[t as usize * shape.width..][..shape.width].to_vec())
        .collect();
    for layer in 0..shape.layers {
        model.block(&mut x, &format!("model.layers.{layer}"));
    }
    let head = if shape.tied {
        "model.embed_tokens"
    } else {
        "lm_head"
    };
    x.iter()
        .map(|row| model.linear(head, &model.norm("model.norm", row)))
        .collect()
}

fn floats(t: &candle_core::Tensor) -> Vec<f64> {
    let values: Vec<f32> = t.flatten_all().unwrap().to_vec1().unwrap();
    values.into_iter().map(f64::from).collect()
}

struct Model<'a> {
    shape: &'a Shape,
    weights: HashMap<&'a str, Vec<f64>>,
}

impl Model<'_> {
    fn weight(&self, name: &str) -> &[f64] {
        &self.weights[format!("{name}.weight").as_str()]
    }

    /// W·x, + b where there is a bias.
    fn linear(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let row = |w: &[f64]| w.iter().zip(x).map(|(w, x)| w * x).sum();
        let mut y: Vec<f64> = self.weight(name).chunks(x.len()).map(row).collect();
        if let Some(bias) = self.weights.get(format!("{name}.bias").as_str()) {
            y.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
        }
        y
    }

    /// x / sqrt(mean x² + ε) · w
    fn norm(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        let scale = 1.0 / (mean + EPS).sqrt();
        x.iter()
            .zip(self.weight(name))
            .map(|(x, w)| x * scale * w)
            .collect()
    }

    fn block(&self, x: &mut Rows, layer: &str) {
        let project = |part: &str, h: &Rows| -> Rows {
            h.iter()
                .map(|row| self.linear(&format!("{layer}.{part}"), row))
                .collect()
        };
        let norm = |part: &str, x: &Rows| -> Rows {
            x.iter()
                .map(|row| self.norm(&format!("{layer}.{part}"), row))
                .collect()
        };
        let h = norm("input_layernorm", x);
        let mut q = project("self_attn.q_proj", &h);
        let mut k = project("self_attn.k_proj", &h);
        let v = project("self_attn.v_proj", &h);
        if self.shape.head_norms() {
            for (name, rows) in [("q_norm", &mut q), ("k_norm", &mut k)] {
                for head in rows
                    .iter_mut()
                    .flat_map(|r| r.chunks_mut(self.shape.head_dim))
                {
                    let normed = self.norm(&format!("{layer}.self_attn.{name}"), head);
                    head.copy_from_slice(&normed);
                }
            }
        }
        for position in 0..x.len() {
            self.turn(&mut q[position], position);
            self.turn(&mut k[position], position);
        }
        add(x, &project("self_attn.o_proj", &self.attention(&q, &k, &v)));
        let h = norm("post_attention_layernorm", x);
        let (mut gate, up) = (project("mlp.gate_proj", &h), project("mlp.up_proj", &h));
        for (gate, up) in gate.iter_mut().flatten().zip(up.iter().flatten()) {
            *gate *= up / (1.0 + (-*gate).exp());
        }
        add(x, &project("mlp.down_proj", &gate));
    }

    /// Rotary embedding of every head: features i and i + d/2 turn by position · frequency.
    fn turn(&self, row: &mut [f64], position: usize) {
        let half = self.shape.head_dim / 2;
        for head in row.chunks_mut(self.shape.head_dim) {
            for i in 0..half {
                let (sin, cos) = (position as f64 * self.frequency(i)).sin_cos();
                let (a, b) = (head[i], head[i + half]);
                (head[i], head[i + half]) = (a * cos - b * sin, b * cos + a * sin);
            }
        }
    }

    /// By wavelength, as transformers computes it.
    fn frequency(&self, i: usize) -> f64 {
        let plain = 1.0
            / self
                .shape
                .theta
                .powf(2.0 * i as f64 / self.shape.head_dim as f64);
        let Some(l) = self.shape.llama3 else {
            return plain;
        };
        let (wave, original) = (2.0 * PI / plain, l.original as f64);
        if wave < original / l.high {
            plain
        } else if wave > original / l.low {
            plain / l.factor
        } else {
            let smooth = (original / wave - l.low) / (l.high - l.low);
            (1.0 - smooth) * plain / l.factor + smooth * plain
        }
    }

    /// Query i sees keys j with i - window < j <= i.
    fn attention(&self, q: &Rows, k: &Rows, v: &Rows) -> Rows {
        let (d, shared) = (self.shape.head_dim, self.shape.heads / self.shape.kv_heads);
        let head = |i: usize, head: usize| {
            let q = &q[i][head * d..][..d];
            let columns = head / shared * d;
            let sees = |j: &usize| self.shape.window.is_none_or(|w| i < j + w);
            let keys: Vec<usize> = (0..=i).filter(sees).collect();
            let score = |j: &usize| {
                let dot: f64 = q.iter().zip(&k[*j][columns..]).map(|(q, k)| q * k).sum();
                (dot / (d as f64).sqrt()).exp()
            };
            let scores: Vec<f64> = keys.iter().map(score).collect();
            let total: f64 = scores.iter().sum();
            let mut out = vec![0.0; d];
            for (j, score) in keys.iter().zip(&scores) {
                for (out, v) in out.iter_mut().zip(&v[*j][columns..]) {
                    *out += score / total * v;
                }
            }
            out
        };
        (0..q.len())
            .map(|i| (0..self.shape.heads).flat_map(|h| head(i, h)).collect())
            .collect()
    }
}

fn add(x: &mut Rows, y: &Rows) {
    for (x, y) in x.iter_mut().flatten().zip(y.iter().flatten()) {
        *x += y;
    }
}
