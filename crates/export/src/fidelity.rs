//! How much of what was learnt an output holds: of the weights, and of what the projections answer on real inputs.
//!
//! W is the base, d the update, Q the output's rounding: d' = Q(W + d) - Q(W) is the update that is left.

use candle_core::{Device, Tensor};
use half::{bf16, f16};
use randori_engine::Inputs;
use serde::Serialize;

use crate::{Error, Merged, Result};

/// An update of which less than this share is kept is called lost.
pub const KEPT: f64 = 0.9;
/// So is one with more noise than this.
pub const NOISE: f64 = 0.5;
/// What other dtypes would keep is measured beside what is written; f32 keeps everything by definition.
const OTHERS: [&str; 3] = ["f16", "bf16", "bf16, stochastic"];

/// The values of a tensor as the output holds them.
pub type AsHeld<'a> = dyn Fn(&[f32]) -> Result<Vec<f32>> + 'a;
/// Told of every tensor of an export before it is written: its full name, its values, and the output's rounding.
pub type Each<'a> = dyn FnMut(&str, &Merged, &AsHeld) -> Result<()> + 'a;

/// What is left of an update.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Survival {
    /// |d| / |W|.
    pub size: f64,
    /// ⟨d', d⟩ / ⟨d, d⟩: 1 if nothing is lost, 0 if all is.
    pub kept: f64,
    /// |d' - d| / |d|: what rounding adds as noise, relative to the update; at least |1 - kept|.
    pub noise: f64,
    /// Share of the entries that the update changes and that come out as the base's.
    pub unchanged: f64,
    /// |(d' - d) x| / |d x| over sample inputs x; `None` without inputs.
    pub output: Option<f64>,
    /// |(W - W') x| / |d x| where the player was trained on other values W' than those its update goes onto (without
    /// inputs: |W - W'| / |d|): noise of its own, which no dtype avoids.
    pub moved: Option<f64>,
}

impl Survival {
    /// Less than 90 % is kept, or the noise is more than half of it.
    pub fn is_lost(&self) -> bool {
        self.kept < KEPT || self.noise > NOISE
    }
}

/// One updated tensor.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Module {
    /// `model.layers.0.mlp.up_proj`
    pub name: String,
    /// What is left of its update.
    #[serde(flatten)]
    pub survival: Survival,
}

/// What another dtype would keep.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Choice {
    /// `f32`, `f16`, `bf16`, or `bf16, stochastic`.
    pub dtype: String,
    /// As [`Survival::kept`].
    pub kept: f64,
    /// As [`Survival::noise`]; `None`: a value is beyond the dtype.
    pub noise: Option<f64>,
}

impl Choice {
    fn holds(&self) -> bool {
        self.kept >= KEPT && self.noise.is_some_and(|n| n <= NOISE)
    }
}

/// The result.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct FidelityReport {
    /// Over all tensors; `None` where the player changed nothing.
    pub total: Option<Survival>,
    /// What each dtype would keep, narrowest last.
    pub choices: Vec<Choice>,
    /// Noisiest first.
    pub modules: Vec<Module>,
}

impl FidelityReport {
    /// The narrowest dtype (rounding to nearest) that would not lose the update, where this output loses it.
    pub fn better(&self) -> Option<&Choice> {
        self.total.filter(Survival::is_lost)?;
        let of = |dtype: &str| self.choices.iter().find(|c| c.dtype == dtype && c.holds());
        ["bf16", "f16", "f32"].into_iter().find_map(of)
    }
}

/// Measures while an export runs: give [`Fidelity::add`] every tensor.
#[derive(Default)]
pub struct Fidelity {
    inputs: Option<Inputs>,
    modules: Vec<(String, Sums)>,
    others: [Sums; OTHERS.len()],
}

impl Fidelity {
    /// `inputs`: sample inputs of the projections, where there are some.
    pub fn new(inputs: Option<Inputs>) -> Self {
        Fidelity {
            inputs,
            ..Fidelity::default()
        }
    }

    /// Measures the tensor of this full name; one that the player did not change is passed over.
    ///
    /// # Errors
    /// What the rounding refuses.
    pub fn add(&mut self, name: &str, merged: &Merged, held: &AsHeld) -> Result<()> {
        let Some(base) = &merged.base else {
            return Ok(());
        };
        let (w, v) = (floats(base)?, floats(&merged.weight)?);
        let (from, to) = (held(&w)?, held(&v)?);
        if w.len() != v.len() || from.len() != w.len() || to.len() != v.len() {
            return Err(Error::rule(format!(
                "{name}: {} values were rounded to {}",
                v.len(),
                to.len()
            )));
        }
        let mut sums = Sums::default();
        for (i, (&w, &v)) in w.iter().zip(&v).enumerate() {
            sums.add(w, v, from[i], to[i]);
        }
        if sums.dd == 0.0 {
            return Ok(());
        }
        self.compare(name, &w, &v);
        if let Some(x) = self.input(name, base) {
            let d: Vec<f32> = v.iter().zip(&w).map(|(v, w)| v - w).collect();
            let left = to.iter().zip(&from).map(|(to, from)| to - from);
            let lost: Vec<f32> = left.zip(&d).map(|(left, d)| left - d).collect();
            sums.dx = product(x, d, base.dims())?;
            sums.ex = Some(product(x, lost, base.dims())?);
        }
        self.modules.push((projection(name).to_string(), sums));
        Ok(())
    }

    /// Says that the player of the tensor added last was trained on these values rather than on the base's.
    ///
    /// # Errors
    /// Another shape than the base's.
    pub fn trained_on(&mut self, name: &str, merged: &Merged, values: &Tensor) -> Result<()> {
        let Some(base) = &merged.base else {
            return Ok(());
        };
        let apart = (base - values)?;
        let noise = match self.input(name, base) {
            Some(x) => product(x, floats(&apart)?, base.dims())?,
            None => floats(&apart)?.iter().map(|v| square(*v)).sum(),
        };
        match self.modules.last_mut() {
            Some((last, sums)) if last == projection(name) => sums.mx = Some(noise),
            _ => {} // its update is zero
        }
        Ok(())
    }

    /// The measures.
    pub fn report(self) -> FidelityReport {
        let all = self.modules.iter().fold(None, |all: Option<Sums>, (_, s)| {
            Some(all.map_or(*s, |all| all.plus(s)))
        });
        let mut modules: Vec<Module> = self
            .modules
            .into_iter()
            .map(|(name, sums)| Module {
                name,
                survival: sums.survival(),
            })
            .collect();
        modules.sort_by(|a, b| b.survival.noise.total_cmp(&a.survival.noise));
        let choices = match all {
            None => Vec::new(),
            Some(_) => choices(&self.others),
        };
        FidelityReport {
            total: all.map(|s| s.survival()),
            choices,
            modules,
        }
    }

    fn input(&self, name: &str, base: &Tensor) -> Option<&Tensor> {
        let x = self.inputs.as_ref()?.get(projection(name))?;
        (base.dims().len() == 2 && x.dims().get(1) == base.dims().get(1)).then_some(x)
    }

    /// The same sums for the other dtypes.
    fn compare(&mut self, name: &str, w: &[f32], v: &[f32]) {
        let half = |v: f32| f16::from_f32(v).to_f32();
        let brain = |v: f32| bf16::from_f32(v).to_f32();
        // the same random number for both: the update's mean is then kept exactly in expectation
        let random = randori_lora::splitmix(0, name, w.len());
        for ((&w, &v), u) in w.iter().zip(v).zip(random) {
            let lot = |v| crate::rounding::up_or_down(v, u);
            self.others[0].add(w, v, half(w), half(v));
            self.others[1].add(w, v, brain(w), brain(v));
            self.others[2].add(w, v, lot(w), lot(v));
        }
    }
}

fn choices(others: &[Sums]) -> Vec<Choice> {
    let exact = Choice {
        dtype: "f32".into(),
        kept: 1.0,
        noise: Some(0.0),
    };
    let each = OTHERS.iter().zip(others).map(|(dtype, sums)| {
        let s = sums.survival();
        let fits = s.noise.is_finite() && s.kept.is_finite();
        Choice {
            dtype: (*dtype).into(),
            kept: if fits { s.kept } else { 0.0 },
            noise: fits.then_some(s.noise),
        }
    });
    std::iter::once(exact).chain(each).collect()
}

fn projection(name: &str) -> &str {
    name.strip_suffix(".weight").unwrap_or(name)
}

fn floats(t: &Tensor) -> Result<Vec<f32>> {
    Ok(t.flatten_all()?.to_vec1()?)
}

fn square(v: f32) -> f64 {
    f64::from(v) * f64::from(v)
}

/// |x mᵀ|² of x (rows, in) and m (out, in).
fn product(x: &Tensor, m: Vec<f32>, dims: &[usize]) -> Result<f64> {
    let m = Tensor::from_vec(m, dims, &Device::Cpu)?;
    let y = floats(&x.matmul(&m.t()?)?)?;
    Ok(y.into_iter().map(square).sum())
}

/// Sums behind a [`Survival`], over any number of tensors.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    dd: f64,
    dot: f64,
    noise: f64,
    base: f64,
    changed: f64,
    unchanged: f64,
    /// |d x|², of the tensors that have inputs.
    dx: f64,
    /// |(d' - d) x|².
    ex: Option<f64>,
    /// |(W - W') x|², or |W - W'|² without inputs.
    mx: Option<f64>,
}

impl Sums {
    fn add(&mut self, base: f32, sum: f32, from: f32, to: f32) {
        let d = f64::from(sum) - f64::from(base);
        let left = f64::from(to) - f64::from(from);
        self.dd += d * d;
        self.dot += d * left;
        self.noise += (left - d) * (left - d);
        self.base += square(base);
        if sum != base {
            self.changed += 1.0;
            self.unchanged += f64::from(u8::from(from == to));
        }
    }

    fn plus(&self, o: &Sums) -> Sums {
        let both = |a: Option<f64>, b: Option<f64>| match (a, b) {
            (Some(a), Some(b)) => Some(a + b),
            (a, b) => a.or(b),
        };
        Sums {
            dd: self.dd + o.dd,
            dot: self.dot + o.dot,
            noise: self.noise + o.noise,
            base: self.base + o.base,
            changed: self.changed + o.changed,
            unchanged: self.unchanged + o.unchanged,
            dx: self.dx + o.dx,
            ex: both(self.ex, o.ex),
            mx: both(self.mx, o.mx),
        }
    }

    fn survival(&self) -> Survival {
        let of_outputs = |e: f64| (self.dx > 0.0).then(|| (e / self.dx).sqrt());
        Survival {
            size: if self.base > 0.0 {
                (self.dd / self.base).sqrt()
            } else {
                f64::INFINITY
            },
            kept: self.dot / self.dd,
            noise: (self.noise / self.dd).sqrt(),
            unchanged: self.unchanged / self.changed,
            output: self.ex.and_then(of_outputs),
            moved: self.mx.and_then(|m| match self.ex {
                Some(_) => of_outputs(m),
                None => Some((m / self.dd).sqrt()),
            }),
        }
    }
}
