//! Bases kept in half precision or quantised compute as the values they stand for.

use std::sync::Arc;

use crate::ops::{Llama, adapted, base, floats, gradients, plan};
use candle_core::DType;
use randori_engine::{Base, PassOptions, Player, Weight};
use randori_lora::Targets;
use randori_qlora::QuantMatrix;

/// The base with every matrix stored otherwise, and its values widened back: the oracle.
fn stored(base: &Base, store: impl Fn(&candle_core::Tensor) -> Weight) -> (Base, Base) {
    let rebuilt = |weights| Base {
        arch: base.arch.clone(),
        config: base.config.clone(),
        weights,
        squares: Default::default(),
        compute: Default::default(),
    };
    let stored: std::collections::HashMap<String, Weight> = base
        .weights
        .iter()
        .map(|(n, w)| {
            let w = w.to_f32().unwrap();
            (
                n.clone(),
                if w.dims().len() == 2 {
                    store(&w)
                } else {
                    Weight::Dense(w)
                },
            )
        })
        .collect();
    let wide = stored
        .iter()
        .map(|(n, w)| (n.clone(), Weight::Dense(w.to_f32().unwrap())))
        .collect();
    (rebuilt(stored), rebuilt(wide))
}

#[test]
fn half_precision_and_quantised_bases_compute_as_their_widened_values() {
    let arch = Llama {
        vocab: 100,
        width: 64,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        ffn: 192,
        window: None,
    };
    let base = base(arch, 2);
    let plan = plan(100, 5);
    let stores: [(&str, Box<dyn Fn(&candle_core::Tensor) -> Weight>); 3] = [
        (
            "bf16",
            Box::new(|w| Weight::Dense(w.to_dtype(DType::BF16).unwrap())),
        ),
        (
            "f16",
            Box::new(|w| Weight::Dense(w.to_dtype(DType::F16).unwrap())),
        ),
        (
            "nf4",
            Box::new(|w| Weight::Quant(Arc::new(QuantMatrix::nf4(w, true).unwrap()))),
        ),
    ];
    for (kind, store) in stores {
        let (stored, wide) = stored(&base, store);
        let (stored, wide) = (
            adapted(Arc::new(stored), Targets::AllLinear, 0.0),
            adapted(Arc::new(wide), Targets::AllLinear, 0.0),
        );
        for (s, w) in stored
            .logps(&plan)
            .unwrap()
            .iter()
            .zip(wide.logps(&plan).unwrap())
        {
            assert!((s - w).abs() < 1e-5, "{kind}: {s} for {w}");
        }
        let (gs, gw) = (
            gradients(&stored, &plan, &PassOptions::default()),
            gradients(&wide, &plan, &PassOptions::default()),
        );
        for (name, g) in &gw {
            let most = floats(g).iter().fold(0f32, |m, v| m.max(v.abs()));
            for (s, w) in floats(&gs[name]).iter().zip(floats(g)) {
                assert!(
                    (s - w).abs() < 1e-4 * most.max(0.1),
                    "{kind} {name}: {s} for {w}"
                );
            }
        }
        let error = Player::full(stored.base.clone()).map(drop);
        match kind {
            "nf4" => assert!(error.unwrap_err().to_string().contains("quantised")),
            _ => error.unwrap(),
        }
    }
}
