//! Gradients against finite differences, a kind of projection at a time.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use candle_core::Tensor;
use randori_engine::{Grads, Params, PassOptions, Player};

use super::row::Row;
use super::subject::Subject;

/// How far a gradient may lie from a finite difference, as a share of it: a difference in f32 is
/// good to some thousandths.
const APART: f64 = 0.02;
/// Steps of a difference, as shares of the parameters' norm: too long a step sees the curve, too
/// short a one sees rounding, and where either begins depends on the model.
const STEPS: [f64; 3] = [3e-2, 1e-2, 3e-3];

/// The slope of the summed log-probs along the gradient of each kind of projection.
pub(super) fn check(subject: &Subject, player: &Player) -> Result<Row> {
    let mut grads = Grads::new();
    player.forward_backward(
        subject.plan(),
        &PassOptions::default(),
        &mut |logps| Ok(vec![1.0; logps.len()]),
        &mut grads,
    )?;
    let mut kinds: BTreeMap<String, Grads> = BTreeMap::new();
    for (name, grad) in grads {
        kinds.entry(kind(&name)).or_default().insert(name, grad);
    }
    let (mut holds, mut figures) = (true, Vec::new());
    for (kind, grads) in &kinds {
        match off(subject, player, grads)? {
            None => figures.push(format!("{kind} 0 everywhere")),
            Some(off) => {
                holds &= off <= APART;
                figures.push(format!("{kind} {off:.0e}"));
            }
        }
    }
    let figures = figures.join(", ");
    Ok(Row::of(
        "gradients",
        holds && !kinds.is_empty(),
        format!("from finite differences (up to {APART}): {figures}"),
    ))
}

/// A parameter's name without the numbers of its block and expert, and without its half of the
/// adapter: `self_attn.q_proj`.
fn kind(name: &str) -> String {
    let module = name
        .rsplit_once(".lora_")
        .map_or(name, |(module, _)| module);
    let parts: Vec<&str> = module.split('.').collect();
    let number = |part: &&str| part.bytes().all(|b| b.is_ascii_digit());
    let after = parts.iter().position(&number).map_or(0, |i| i + 1);
    let kept = parts[after..].iter().filter(|part| !number(part));
    kept.copied().collect::<Vec<_>>().join(".")
}

/// How far the norm of these gradients lies from a finite difference along them, as a share of it;
/// `None` where they are 0.
fn off(subject: &Subject, player: &Player, grads: &Grads) -> Result<Option<f64>> {
    let squares = |tensor: &Tensor| -> Result<f64> {
        let values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
        Ok(values.iter().map(|v| f64::from(*v) * f64::from(*v)).sum())
    };
    let (mut slope, mut size) = (0.0, 0.0);
    for (name, grad) in grads {
        slope += squares(grad)?;
        size += player.params.get(name).map_or(Ok(0.0), squares)?;
    }
    let (slope, size) = (slope.sqrt(), size.sqrt());
    if slope == 0.0 {
        return Ok(None);
    }
    let total = |step: f64| -> Result<f64> {
        let mut params: Params = (*player.params).clone();
        for (name, grad) in grads {
            if let Some(param) = params.get_mut(name) {
                *param = (&*param + grad.affine(step / slope, 0.0)?)?;
            }
        }
        let moved = Player {
            params: Arc::new(params),
            ..player.clone()
        };
        Ok(subject.logps(&moved)?.iter().sum())
    };
    let mut least = f64::INFINITY;
    for step in STEPS.map(|share| share * size) {
        let found = (total(step)? - total(-step)?) / (2.0 * step);
        least = least.min((found / slope - 1.0).abs());
    }
    Ok(Some(least))
}

#[cfg(test)]
mod tests {
    use super::kind;

    #[test]
    fn a_kind_of_projection_has_no_numbers() {
        for (name, wanted) in [
            ("model.layers.3.self_attn.q_proj.lora_A", "self_attn.q_proj"),
            ("model.layers.3.mlp.experts.12.w1.lora_B", "mlp.experts.w1"),
            ("lm_head.lora_A", "lm_head"),
        ] {
            assert_eq!(kind(name), wanted);
        }
    }
}
