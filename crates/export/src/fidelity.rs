//! How much of an update survives an output's rounding: in the weights, and in the projections'
//! outputs on real inputs.
//!
//! W is the base, d the update, Q the output's rounding: d' = Q(W + d) - Q(W) is the update that
//! remains.

use candle_core::{Device, Tensor};
use half::{bf16, f16};
use randori_engine::Inputs;
use randori_formats::gguf::{Block, Kind};
use serde::Serialize;

use crate::{Error, Merged, Result};

/// An update counts as lost if a smaller share of it than this is kept.
pub const KEPT: f64 = 0.9;
/// An update counts as lost if its relative noise is above this.
pub const NOISE: f64 = 0.5;
/// Dtypes measured for comparison with the one written; f32 keeps everything by definition.
const OTHERS: [&str; 3] = ["f16", "bf16", "bf16, stochastic"];

/// Encodes a tensor's values as the output does and decodes them again.
pub type RoundTrip<'a> = dyn Fn(&[f32]) -> Result<Vec<f32>> + 'a;
/// Callback for every tensor of an export before it is written: its full name, its values, and the
/// output's rounding.
pub type OnTensor<'a> = dyn FnMut(&str, &Merged, &RoundTrip) -> Result<()> + 'a;

/// Measures of the update that remains after rounding.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Survival {
    /// |d| / |W|.
    pub size: f64,
    /// ⟨d', d⟩ / ⟨d, d⟩: 1 if nothing is lost, 0 if all is.
    pub kept: f64,
    /// |d' - d| / |d|: the rounding noise relative to the update; at least |1 - kept|.
    pub noise: f64,
    /// Share of the entries changed by the update whose output equals the base's.
    pub unchanged: f64,
    /// |(d' - d) x| / |d x| over sample inputs x; `None` without inputs.
    pub output: Option<f64>,
    /// The noise |(W - W') x| / |d x| of a player trained on other values W' than the update is
    /// merged into (without inputs: |W - W'| / |d|): no dtype avoids it.
    pub moved: Option<f64>,
}

impl Survival {
    /// Whether less than [`KEPT`] is kept, or the noise is above [`NOISE`].
    pub fn is_lost(&self) -> bool {
        self.kept < KEPT || self.noise > NOISE
    }
}

/// Survival of one tensor's update.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Module {
    /// Name of the module: `model.layers.0.mlp.up_proj`
    pub name: String,
    /// The measures.
    #[serde(flatten)]
    pub survival: Survival,
}

/// What another dtype would keep of the update.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DtypeFidelity {
    /// `f32`, `f16`, `bf16`, `bf16, stochastic`, or `q8_0`.
    pub dtype: String,
    /// As [`Survival::kept`].
    pub kept: f64,
    /// As [`Survival::noise`]; `None` if a value exceeds the dtype's range.
    pub noise: Option<f64>,
}

impl DtypeFidelity {
    fn holds(&self) -> bool {
        self.kept >= KEPT && self.noise.is_some_and(|n| n <= NOISE)
    }
}

/// Survival of a player's whole update.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct FidelityReport {
    /// Over all tensors; `None` if the player changed none.
    pub total: Option<Survival>,
    /// What each dtype would keep, narrowest last.
    pub choices: Vec<DtypeFidelity>,
    /// Per tensor, noisiest first.
    pub modules: Vec<Module>,
}

impl FidelityReport {
    /// The narrowest dtype (rounded to nearest) that would keep the update, if this output loses
    /// it.
    pub fn better(&self) -> Option<&DtypeFidelity> {
        self.total.filter(Survival::is_lost)?;
        self.first_that_holds(&["bf16", "f16", "f32"])
    }

    /// The first of these dtypes that keeps the update.
    pub fn first_that_holds(&self, dtypes: &[&str]) -> Option<&DtypeFidelity> {
        let of = |dtype: &&str| self.choices.iter().find(|c| c.dtype == *dtype && c.holds());
        dtypes.iter().find_map(of)
    }
}

/// Measures survival during an export: pass every tensor to [`Fidelity::add`].
#[derive(Default)]
pub struct Fidelity {
    inputs: Option<Inputs>,
    modules: Vec<(String, Sums)>,
    others: [Sums; OTHERS.len()],
    /// The sums of `q8_0`, if it is compared with.
    q8_0: Option<Sums>,
}

impl Fidelity {
    /// `inputs`: sample inputs of the projections, if available.
    pub fn new(inputs: Option<Inputs>) -> Self {
        Fidelity {
            inputs,
            ..Fidelity::default()
        }
    }

    /// Compares with GGUF's `q8_0` as well, which costs an encoding of each tensor.
    pub fn beside_q8_0(self) -> Self {
        Fidelity {
            q8_0: Some(Sums::default()),
            ..self
        }
    }

    /// Adds the tensor of this full name; ignores one that the player did not change.
    ///
    /// # Errors
    /// The rounding fails.
    pub fn add(&mut self, name: &str, merged: &Merged, round_trip: &RoundTrip) -> Result<()> {
        let Some(base) = &merged.base else {
            return Ok(());
        };
        let (w, v) = (floats(base)?, floats(&merged.weight)?);
        let (from, to) = (round_trip(&w)?, round_trip(&v)?);
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
        self.compare_q8_0(name, base, &w, &v)?;
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

    /// Records that the tensor added last was trained on `values` rather than on the base's.
    ///
    /// # Errors
    /// Their shape differs from the base's.
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

    /// Computes the report.
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
            Some(_) => choices(&self.others, self.q8_0.as_ref()),
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

    /// Adds the same sums for the other dtypes.
    fn compare(&mut self, name: &str, w: &[f32], v: &[f32]) {
        let half = |v: f32| f16::from_f32(v).to_f32();
        let brain = |v: f32| bf16::from_f32(v).to_f32();
        // the same random numbers for both: the mean of the update is then kept exactly in
        // expectation
        let random = randori_lora::splitmix(0, name, w.len());
        for ((&w, &v), u) in w.iter().zip(v).zip(random) {
            let lot = |v| crate::rounding::up_or_down(v, u);
            self.others[0].add(w, v, half(w), half(v));
            self.others[1].add(w, v, brain(w), brain(v));
            self.others[2].add(w, v, lot(w), lot(v));
        }
    }

    /// Adds the same sums for `q8_0`: vectors stay as they are, a matrix whose rows are no whole
    /// blocks gets f16.
    fn compare_q8_0(&mut self, name: &str, base: &Tensor, w: &[f32], v: &[f32]) -> Result<()> {
        let Some(sums) = &mut self.q8_0 else {
            return Ok(());
        };
        let rounded = |values: &[f32]| -> Result<Vec<f32>> {
            let fits = || Kind::Block(Block::Q8_0).check(name, values).is_ok();
            Ok(match base.dims() {
                [_, columns] if !columns.is_multiple_of(Block::Q8_0.values()) => {
                    let half = |v: &f32| f16::from_f32(*v).to_f32();
                    values.iter().map(half).collect()
                }
                [_, _] if fits() => {
                    let bytes = randori_qlora::encode(Block::Q8_0, values)?;
                    randori_qlora::decode(Block::Q8_0, &bytes)?
                }
                [_, _] => vec![f32::NAN; values.len()],
                _ => values.to_vec(),
            })
        };
        let (from, to) = (rounded(w)?, rounded(v)?);
        for (i, (&w, &v)) in w.iter().zip(v).enumerate() {
            sums.add(w, v, from[i], to[i]);
        }
        Ok(())
    }
}

fn choices(others: &[Sums], q8_0: Option<&Sums>) -> Vec<DtypeFidelity> {
    let exact = DtypeFidelity {
        dtype: "f32".into(),
        kept: 1.0,
        noise: Some(0.0),
    };
    let blocks = q8_0.map(|sums| (&"q8_0", sums));
    let others = OTHERS.iter().zip(others).chain(blocks);
    let each = others.map(|(dtype, sums)| {
        let s = sums.survival();
        let fits = s.noise.is_finite() && s.kept.is_finite();
        DtypeFidelity {
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

/// Sums from which a [`Survival`] is computed, over any number of tensors.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    dd: f64,
    dot: f64,
    noise: f64,
    base: f64,
    changed: f64,
    unchanged: f64,
    /// |d x|², over the tensors that have inputs.
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
