//! What the tests on a GPU share: the same model there, and how far results are apart.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use randori_engine::{Base, Compute, Player, Weight};

use super::{lora_of, random};

/// Says why a test cannot run.
pub fn skip() -> bool {
    match randori_engine::card() {
        Ok(_) => false,
        Err(e) => {
            eprintln!("SKIPPED: {e}");
            true
        }
    }
}

/// The same weights on the GPU.
pub fn up(base: &Base, float: DType) -> Arc<Base> {
    place(base, Compute::on_gpu(float).unwrap())
}

pub fn place(base: &Base, compute: Compute) -> Arc<Base> {
    let one = |(name, w): (&String, &Weight)| (name.clone(), compute.place(w.clone()).unwrap());
    Arc::new(Base {
        arch: base.arch.clone(),
        config: base.config.clone(),
        weights: base.weights.iter().map(one).collect(),
        squares: Default::default(),
        compute,
    })
}

pub fn on(base: Arc<Base>, player: &Player) -> Player {
    Player {
        base,
        lora: player.lora.clone(),
        params: player.params.clone(),
    }
}

/// A LoRA player whose B is not zero.
pub fn learnt(rank: usize) -> Player {
    with_b(lora_of(rank))
}

pub fn with_b(mut player: Player) -> Player {
    let mut params = (*player.params).clone();
    for (i, (name, t)) in params.iter_mut().enumerate() {
        if name.ends_with("lora_B") {
            *t = random(5, i as u64, t.dims(), 0.3);
        }
    }
    player.params = Arc::new(params);
    player
}

pub fn host(t: &Tensor) -> Vec<f64> {
    let t = t.to_device(&Device::Cpu).unwrap();
    let t = t.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
    t.to_vec1().unwrap()
}

/// The difference's length over the reference's.
pub fn apart(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let far = norm(&mut got.iter().zip(want).map(|(g, w)| g - w));
    let far = if far.is_finite() { far } else { f64::INFINITY };
    far / norm(&mut want.iter().copied()).max(1e-30)
}
