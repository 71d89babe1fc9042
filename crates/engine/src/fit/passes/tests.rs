//! Passes that are small enough to be added up by hand.

use std::sync::Arc;

use randori_lora::LoraSpec;
use randori_sdk::seam::{Architecture, Backend, Binary, Id, OpResult};

use super::{super::Learns, *};
use crate::{
    trace::trace,
    weights::{Dtype, Holding, LoadOptions, Source, describe},
};

const WIDTH: usize = 8;
const VOCAB: usize = 32;
const LAYERS: usize = 3;

/// x + W·norm(x) three times: small enough to be added up by hand.
struct Plain;

impl Architecture for Plain {
    fn name(&self) -> &str {
        "plain"
    }
    fn layers(&self) -> usize {
        LAYERS
    }
    fn embed(&self, ops: &mut dyn Backend, ids: Id) -> OpResult {
        ops.embed("embed", ids, VOCAB, WIDTH)
    }
    fn block(&self, ops: &mut dyn Backend, layer: usize, x: Id) -> OpResult {
        let h = ops.rms_norm(&format!("norm.{layer}"), x, 1e-5, 0.0)?;
        let y = ops.linear(&format!("w.{layer}"), h, WIDTH, false)?;
        ops.binary(Binary::Add, x, y)
    }
    fn head(&self, ops: &mut dyn Backend, x: Id) -> OpResult {
        ops.linear("head", x, VOCAB, false)
    }
}

fn planner(learns: Learns) -> Planner {
    let arch: Arc<dyn Architecture> = Arc::new(Plain);
    let traced = trace(&*arch).unwrap();
    let config = serde_json::json!({});
    let described = describe(Source::Random { config, seed: 1 }, &[]).unwrap();
    let held = described.held(&traced, &LoadOptions::default(), &*arch);
    Planner::new(
        arch,
        traced,
        held.unwrap(),
        learns,
        crate::train::Optimizer::adamw(),
        1,
    )
    .unwrap()
}

const PACKING: Packing = Packing {
    rows: 100,
    targets: 60,
    keys: 50,
    attended: 0,
    several: false,
};

#[test]
fn sizes_are_closed_forms() {
    let spec = LoraSpec {
        rank: 2,
        ..LoraSpec::default()
    };
    let lora = planner(Learns::Lora(&spec, false));
    let weights = 2 * VOCAB * WIDTH + LAYERS * (WIDTH * WIDTH + WIDTH);
    assert_eq!(lora.base_bytes(), 4 * weights as u64);
    assert_eq!(lora.player_bytes(), 4 * (LAYERS * 2 * 2 * WIDTH) as u64);
    assert_eq!(lora.moment_bytes(), 2 * lora.player_bytes());
    assert_eq!(planner(Learns::Full).player_bytes(), lora.base_bytes());
}

#[test]
fn the_tape_holds_what_can_be_counted_by_hand() {
    let spec = LoraSpec {
        rank: 2,
        ..LoraSpec::default()
    };
    let planner = planner(Learns::Lora(&spec, false));
    let kept = |checkpoint| {
        let kernels = planner.kernels(PACKING.keys, PACKING.attended);
        let mut grads = Gradients::<Shapes>::new();
        let kept = planner.forward_backward(&kernels, &PACKING, checkpoint, &mut grads);
        assert_eq!(kernels.ledger.live(), planner.player_bytes());
        drop(grads);
        assert_eq!(
            kernels.ledger.live(),
            0,
            "a pass leaves nothing else behind"
        );
        kept.unwrap()
    };
    let n = PACKING.rows as u64;
    let (wide, xa, stats) = (4 * n * WIDTH as u64, 4 * n * 2, 8 * n);
    // every block's input, the last block's output
    assert_eq!(kept(true), (LAYERS as u64 + 1) * wide);
    // the first block's norm has nothing trained below it
    let blocks = LAYERS as u64 * (2 * wide + xa) + (LAYERS as u64 - 1) * stats;
    assert_eq!(kept(false), blocks);
}

#[test]
fn a_card_reads_a_quantised_weight_as_it_is_until_rows_are_many() {
    for (float, few) in [(Dtype::F32, 8), (Dtype::Bf16, 64)] {
        let spec = LoraSpec::default();
        let mut planner = planner(Learns::Lora(&spec, false)).on_card(float).unwrap();
        let width = if float == Dtype::F32 { 4.0 } else { 2.0 };
        for held in [Holding::Nf4 { double: true }, Holding::Blocks] {
            let stored = planner.stored.get_mut("w.0.weight").unwrap();
            (stored.bytes, stored.held) = (100, held);
            let bytes = |rows| {
                let kernels = planner.kernels(1, 0);
                let w = planner.matrix(&kernels, "w.0", (8, 8)).unwrap();
                kernels.count_product(&w.weight, rows);
                kernels.work.get().bytes
            };
            assert_eq!([bytes(1), bytes(few)], [100.0; 2], "{held:?}");
            // written dequantised, and read
            assert_eq!(bytes(few + 1), 100.0 + 2.0 * width * 64.0, "{held:?}");
        }
    }
}
