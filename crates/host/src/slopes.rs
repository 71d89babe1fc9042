//! Checks a loss when it is loaded: its slopes must be the derivatives of its values.
//!
//! On batches of plausible random pairs each slope is compared with the central difference
//! (ℓ(x + h) - ℓ(x - h)) / 2h of the groups' summed loss. NaN and infinity are refused, also where
//! policy and opponent are equal (the first step of an iteration). A loss that declares to need no
//! opponent gets NaN for the opponent's log-probs, and one that does not declare itself coupled
//! must give a pair the same values alone as among others.

use randori_sdk::seam::{GENERATED, LossFn, REAL, Rows};

/// A batch that owns its arrays.
#[derive(Clone)]
struct Batch {
    group: Vec<u32>,
    role: Vec<u32>,
    logp: Vec<f64>,
    ref_logp: Vec<f64>,
    len: Vec<u32>,
    reward: Option<Vec<f64>>,
    progress: f64,
}

impl Batch {
    fn rows(&self) -> Rows<'_> {
        Rows {
            groups: self.group.len() / 2,
            group: &self.group,
            role: &self.role,
            logp: &self.logp,
            ref_logp: &self.ref_logp,
            len: &self.len,
            reward: self.reward.as_deref(),
            progress: self.progress,
        }
    }

    /// One of its pairs alone.
    fn alone(&self, pair: usize) -> Batch {
        let own = 2 * pair..2 * pair + 2;
        Batch {
            group: vec![0; 2],
            role: self.role[own.clone()].to_vec(),
            logp: self.logp[own.clone()].to_vec(),
            ref_logp: self.ref_logp[own.clone()].to_vec(),
            len: self.len[own.clone()].to_vec(),
            reward: self.reward.as_ref().map(|r| r[own].to_vec()),
            progress: self.progress,
        }
    }

    /// A row's numbers, for messages.
    fn show(&self, row: usize) -> String {
        let role = if self.role[row] == REAL {
            "real"
        } else {
            "generated"
        };
        let (logp, reference, len) = (self.logp[row], self.ref_logp[row], self.len[row]);
        format!("{role} response of {len} tokens, log-prob {logp:.4}, opponent's {reference:.4}")
    }
}

/// Pairs per batch.
const PAIRS: usize = 6;

/// Checks values and slopes; the error names the first that is wrong.
pub(crate) fn check(loss: &dyn LossFn) -> Result<(), String> {
    for mut batch in batches(loss) {
        check_finite(loss, &batch)?;
        // where both are equal a loss may well have a kink
        if batch.progress > 0.0 {
            check_differences(loss, &mut batch)?;
        }
    }
    for batch in batches(loss) {
        for pair in 0..PAIRS {
            match loss.coupled() {
                // a step's last batch may have one pair
                true => check_finite(loss, &batch.alone(pair))?,
                false => check_alone(loss, &batch, pair)?,
            }
        }
    }
    Ok(())
}

/// Whether the two slopes of a pair of equal responses cancel for every policy: then the pair has
/// no gradient. Measured on the loss with its options instead of declared by the plugin, so that it
/// cannot be wrong, also where an option adds a term.
pub(crate) fn equal_pairs_cancel(loss: &dyn LossFn) -> Result<bool, String> {
    for batch in batches(loss) {
        for pair in 0..PAIRS {
            let (first, second) = (2 * pair, 2 * pair + 1);
            let mut equal = batch.clone();
            equal.logp[second] = equal.logp[first];
            equal.ref_logp[second] = equal.ref_logp[first];
            equal.len[second] = equal.len[first];
            let slopes = loss.eval(&equal.rows())?.d_logp;
            let (one, other) = (slopes[first], slopes[second]);
            if (one + other).abs() > 1e-9 * (one.abs() + other.abs()) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Batches with policy and opponent increasingly far apart: from an iteration's first step
/// (`progress` 0: equal) to far beyond its last.
fn batches(loss: &dyn LossFn) -> Vec<Batch> {
    let mut random = Random(0x5eed);
    let apart = [0.0, 0.1, 1.0, 4.0].into_iter().enumerate();
    apart
        .map(|(round, apart)| {
            let mut batch = batch(&mut random, apart, round);
            if !loss.needs_ref() {
                batch.ref_logp.fill(f64::NAN);
            }
            // a loss that needs no rewards must also work without
            if !loss.needs_reward() && !round.is_multiple_of(2) {
                batch.reward = None;
            }
            batch
        })
        .collect()
}

fn batch(random: &mut Random, apart: f64, round: usize) -> Batch {
    let rows = 2 * PAIRS;
    let len: Vec<u32> = (0..rows)
        .map(|_| 1 + (random.uniform() * 60.0) as u32)
        .collect();
    let ref_logp: Vec<f64> = len
        .iter()
        .map(|&n| -f64::from(n) * (0.2 + 2.0 * random.uniform()))
        .collect();
    // log-probs are never positive
    let logp = ref_logp
        .iter()
        .map(|r| (r + apart * random.normal()).min(-1e-2 * random.uniform()));
    let logp = logp.collect();
    // a loss must read `role`, not rely on order: in odd rounds the generated response comes first
    let real_first = round.is_multiple_of(2);
    Batch {
        group: (0..rows).map(|i| (i / 2) as u32).collect(),
        role: (0..rows)
            .map(|i| {
                if (i % 2 == 0) == real_first {
                    REAL
                } else {
                    GENERATED
                }
            })
            .collect(),
        logp,
        ref_logp,
        len,
        // scores, or probabilities to win
        reward: Some((0..rows).map(|_| random.uniform()).collect()),
        progress: round as f64 / 3.0,
    }
}

fn check_finite(loss: &dyn LossFn, batch: &Batch) -> Result<(), String> {
    let Some(what) = not_finite(loss, batch)? else {
        return Ok(());
    };
    let known = Batch {
        ref_logp: batch.logp.clone(),
        ..batch.clone()
    };
    if !loss.needs_ref() && not_finite(loss, &known)?.is_none() {
        return Err(format!(
            "loss {} says that it does not read the opponent's log-probs, but does: without them {what}",
            loss.name()
        ));
    }
    Err(what)
}

/// The first value or slope that is NaN or infinite.
fn not_finite(loss: &dyn LossFn, batch: &Batch) -> Result<Option<String>, String> {
    let out = loss.eval(&batch.rows())?;
    if let Some(group) = out.loss.iter().position(|value| !value.is_finite()) {
        let (first, second) = (batch.show(2 * group), batch.show(2 * group + 1));
        let (name, value) = (loss.name(), out.loss[group]);
        return Ok(Some(format!(
            "loss {name} of a pair is {value}; {first}; {second}"
        )));
    }
    let row = out.d_logp.iter().position(|slope| !slope.is_finite());
    Ok(row.map(|row| {
        let (name, slope) = (loss.name(), out.d_logp[row]);
        format!("a slope of loss {name} is {slope}; {}", batch.show(row))
    }))
}

/// Checks that a loss that is not coupled gives a pair the same value and slopes alone as among
/// others.
fn check_alone(loss: &dyn LossFn, batch: &Batch, pair: usize) -> Result<(), String> {
    let among = loss.eval(&batch.rows())?;
    let alone = loss.eval(&batch.alone(pair).rows())?;
    let own = 2 * pair..2 * pair + 2;
    let among = [&among.loss[pair..=pair], &among.d_logp[own]].concat();
    let alone = [alone.loss, alone.d_logp].concat();
    let differ = |(a, b): &(&f64, &f64)| (*a - *b).abs() > 1e-9 * (1.0 + a.abs().max(b.abs()));
    match among.iter().zip(&alone).find(differ) {
        Some((among, alone)) => Err(format!(
            "loss {} of a pair depends on the other pairs of its batch ({among:.6} among {PAIRS}, {alone:.6} alone), and does not say so: declare COUPLED (in C: coupled = 1)",
            loss.name()
        )),
        None => Ok(()),
    }
}

fn check_differences(loss: &dyn LossFn, batch: &mut Batch) -> Result<(), String> {
    let slopes = loss.eval(&batch.rows())?.d_logp;
    for (row, &slope) in slopes.iter().enumerate() {
        // a kink between x - h and x + h spoils one difference; a smaller h avoids it
        let mut measured = f64::NAN;
        let right = [1e-5, 1e-6, 1e-7].into_iter().any(|h| {
            difference(loss, batch, row, h).is_ok_and(|(d, noise)| {
                measured = d;
                let size = d.abs().max(slope.abs());
                (d - slope).abs() <= 1e-4 * size + noise
            })
        });
        if !right {
            return Err(format!(
                "loss {}: its slope to a log-prob is {slope:.6}, but the loss changes by {measured:.6} per unit; {}",
                loss.name(),
                batch.show(row)
            ));
        }
    }
    Ok(())
}

/// The central difference of the summed loss to one row's log-prob, and its rounding error.
fn difference(
    loss: &dyn LossFn,
    batch: &mut Batch,
    row: usize,
    h: f64,
) -> Result<(f64, f64), String> {
    let x = batch.logp[row];
    batch.logp[row] = x + h;
    let up = loss.eval(&batch.rows());
    batch.logp[row] = x - h;
    let down = loss.eval(&batch.rows());
    batch.logp[row] = x;
    let (up, down) = (up?.loss, down?.loss);
    // group by group: a huge loss of another pair would hide the change by rounding
    let change: f64 = up.iter().zip(&down).map(|(u, d)| u - d).sum();
    let size = up
        .iter()
        .zip(&down)
        .filter(|(u, d)| u != d)
        .map(|(u, d)| u.abs() + d.abs());
    let noise = 16.0 * f64::EPSILON * (size.sum::<f64>() + x.abs()) / h;
    Ok((change / (2.0 * h), noise))
}

/// splitmix64: the same batches every time.
struct Random(u64);

impl Random {
    /// In [0, 1).
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Box and Muller.
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}
