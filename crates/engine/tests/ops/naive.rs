//! Attention in f64, every pair of tokens of one sequence: what packed passes are held against.

use std::sync::Arc;

use randori_engine::{Base, Packed, Player, Weight};
use randori_sdk::seam::{AttnSpec, RopeSpec};

use super::{Block, Probe, Random, base, floats};

const VOCAB: usize = 17;
const HEADS: usize = 4;
const D: usize = 6;

/// One block that is nothing but rotated, grouped attention over projections.
#[derive(Clone)]
pub struct Case {
    pub kv_heads: usize,
    /// Its sinks are not read: `sinks` says whether there are any.
    pub spec: AttnSpec,
    pub turn: RopeSpec,
    /// Features of a head of values; with others than keys have a projection follows.
    pub value_dim: usize,
    pub sinks: bool,
}

type Rows = Vec<Vec<f64>>;

impl Case {
    pub fn new(kv_heads: usize, spec: AttnSpec, turn: RopeSpec) -> Self {
        Case {
            kv_heads,
            spec,
            turn,
            value_dim: D,
            sinks: false,
        }
    }

    pub fn base(&self) -> Arc<Base> {
        let case = self.clone();
        let block: Block = Box::new(move |g, _, x| {
            let kv_heads = case.kv_heads;
            let q = g.linear("q", x, HEADS * D, false)?;
            let k = g.linear("k", x, kv_heads * D, false)?;
            let v = g.linear("v", x, kv_heads * case.value_dim, false)?;
            let (q, k, v) = (
                g.unflatten(q, HEADS)?,
                g.unflatten(k, kv_heads)?,
                g.unflatten(v, kv_heads)?,
            );
            let (q, k) = (g.rope(q, &case.turn)?, g.rope(k, &case.turn)?);
            let sinks = match case.sinks {
                true => Some(g.param("sinks", &[HEADS])?),
                false => None,
            };
            let spec = AttnSpec { sinks, ..case.spec };
            let o = g.attention(q, k, v, &spec)?;
            let o = g.flatten(o)?;
            match case.value_dim {
                D => Ok(o),
                _ => g.linear("o", o, HEADS * D, false),
            }
        });
        base(
            Probe {
                vocab: VOCAB,
                width: HEADS * D,
                layers: 1,
                block,
            },
            21,
        )
    }

    /// Every row of a packed plan against the f64 reference of its sequence alone.
    pub fn check(&self) {
        let base = self.base();
        let player = Player::bare(base.clone());
        let mut random = Random(8);
        let mut plan = Packed::default();
        let mut sequences = Vec::new();
        // longer than a block of queries (64), so that blocks, ranges and windows meet
        for (prompt, responses) in [(70, vec![90, 3]), (1, vec![2, 5]), (4, vec![150])] {
            let p = random.tokens(prompt, VOCAB);
            let rs: Vec<Vec<u32>> = responses.iter().map(|n| random.tokens(*n, VOCAB)).collect();
            let start = plan.ids.len();
            plan.push(&p, &rs.iter().map(Vec::as_slice).collect::<Vec<_>>());
            let mut row = start + p.len();
            for r in rs {
                sequences.push((start, row, p.clone(), r.clone()));
                row += r.len() - 1;
            }
        }
        let hidden = floats(&player.hidden(&plan).unwrap());
        let width = HEADS * D;
        for (prompt_row, row, prompt, response) in sequences {
            let ids = [&prompt[..], &response[..response.len() - 1]].concat();
            for (i, want) in self.reference(&base, &ids).iter().enumerate() {
                let at = match i < prompt.len() {
                    true => prompt_row + i,
                    false => row + i - prompt.len(),
                };
                let what = format!("{:?} {} {i}", self.spec, self.sinks);
                close(&hidden[at * width..][..width], want, 2e-5, &what);
            }
        }
    }

    /// The whole block in f64, one sequence, every pair of tokens.
    fn reference(&self, base: &Base, ids: &[u32]) -> Rows {
        let (table, width) = matrix(base, "embed.weight");
        let x: Rows = ids
            .iter()
            .map(|i| table[*i as usize * width..][..width].to_vec())
            .collect();
        let all = |x: &Rows, name: &str| -> Rows {
            let w = matrix(base, &format!("{name}.weight"));
            x.iter().map(|x| project(&w, x)).collect()
        };
        let spun = |rows: Rows| -> Rows {
            let each = rows.iter().enumerate();
            each.map(|(p, r)| turned(r, &self.turn, p)).collect()
        };
        let (q, k, v) = (spun(all(&x, "q")), spun(all(&x, "k")), all(&x, "v"));
        let sinks = self.sinks.then(|| matrix(base, "sinks").0);
        let out: Rows = (0..ids.len())
            .map(|i| {
                let heads = (0..HEADS).flat_map(|head| {
                    let sink = sinks.as_ref().map(|sinks| sinks[head]);
                    self.head(head, sink, i, [&q, &k, &v])
                });
                heads.collect()
            })
            .collect();
        match self.value_dim {
            D => out,
            _ => all(&out, "o"),
        }
    }

    /// What query `i` sees in one head.
    fn head(&self, head: usize, sink: Option<f64>, i: usize, [q, k, v]: [&Rows; 3]) -> Vec<f64> {
        let spec = &self.spec;
        let scale = spec.scale.map_or((D as f64).powf(-0.5), f64::from);
        let window = spec.window.unwrap_or(usize::MAX);
        let chunk = spec.chunk.unwrap_or(usize::MAX);
        let group = head / (HEADS / self.kv_heads);
        let near = |j: &usize| i - j < window && i / chunk == j / chunk;
        let keys: Vec<usize> = (0..=i).filter(near).collect();
        let score = |&j: &usize| {
            let dot = |c: usize| q[i][head * D + c] * k[j][group * D + c];
            let s = (0..D).map(dot).sum::<f64>() * scale;
            spec.softcap
                .map_or(s, |cap| f64::from(cap) * (s / f64::from(cap)).tanh())
        };
        let scores: Vec<f64> = keys.iter().map(score).collect();
        let total = scores.iter().map(|s| s.exp()).sum::<f64>() + sink.map_or(0.0, f64::exp);
        let one = |c: usize| {
            let each = scores.iter().zip(&keys);
            each.map(|(s, j)| s.exp() / total * v[*j][group * self.value_dim + c])
                .sum::<f64>()
        };
        (0..self.value_dim).map(one).collect()
    }
}

fn matrix(base: &Base, name: &str) -> (Vec<f64>, usize) {
    let Weight::Dense(t) = &base.weights[name] else {
        panic!()
    };
    let values = floats(t).iter().map(|v| f64::from(*v)).collect();
    (values, *t.dims().last().unwrap())
}

fn project(w: &(Vec<f64>, usize), x: &[f64]) -> Vec<f64> {
    w.0.chunks(w.1)
        .map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum())
        .collect()
}

fn turned(x: &[f64], spec: &RopeSpec, position: usize) -> Vec<f64> {
    let mut y = x.to_vec();
    let n = spec.inv_freq.len();
    for head in 0..x.len() / D {
        for (i, f) in spec.inv_freq.iter().enumerate() {
            let (a, b) = if spec.interleaved {
                (2 * i, 2 * i + 1)
            } else {
                (i, i + n)
            };
            let (a, b) = (head * D + a, head * D + b);
            let (s, c) = (position as f64 * f64::from(*f)).sin_cos();
            let m = f64::from(spec.mscale);
            y[a] = m * (x[a] * c - x[b] * s);
            y[b] = m * (x[a] * s + x[b] * c);
        }
    }
    y
}

fn close(got: &[f32], want: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len());
    for (g, w) in got.iter().zip(want) {
        assert!((f64::from(*g) - w).abs() < tolerance, "{what}: {g} for {w}");
    }
}
