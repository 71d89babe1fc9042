//! Parameters of a model that are no projection's, embedding's or norm's: found by the trace,
//! loaded and trained by their own names, and refused where a value needs a row for every token.

use std::sync::Arc;

use candle_core::DType;
use randori_engine::{Base, Packed, PassOptions, Player, Weight, trace, trace::Use};
use randori_lora::Targets;
use randori_sdk::seam::{AttnSpec, Backend, Binary, Id, OpResult, RouteSpec, Unary};

use crate::ops::{self, Block, Probe, adapted, base, bits, floats, gradients, plan};

const VOCAB: usize = 13;

/// x·scale + a projection of it, and a norm without a weight.
fn block(g: &mut dyn Backend, layer: usize, x: Id) -> OpResult {
    let scale = g.param(&format!("layers.{layer}.scale"), &[8])?;
    let y = g.linear(&format!("layers.{layer}.mix"), x, 8, false)?;
    let y = g.rms_norm("", y, 1e-5, 0.0)?;
    let x = g.binary(Binary::Mul, x, scale)?;
    g.binary(Binary::Add, x, y)
}

fn model(block: Block) -> Probe {
    Probe {
        vocab: VOCAB,
        width: 8,
        layers: 2,
        block,
    }
}

#[test]
fn a_parameter_goes_by_its_own_name_and_is_no_projection() {
    let t = trace(&model(Box::new(block))).unwrap();
    let find = |name: &str| t.weights.iter().find(|w| w.name == name);
    let scale = find("layers.1.scale").unwrap();
    assert_eq!((&scale.shape[..], scale.used_as), (&[8][..], Use::Param));
    assert_eq!(
        t.weights.len(),
        2 + 2 * 2,
        "a norm without a weight has none"
    );
    assert!(t.linears.iter().all(|l| !l.name.contains("scale")));
    // what is there once leaves nothing for every token: x, mix's result, x again for its product
    assert_eq!(t.block_bytes_per_token, 4 * (8 + 8));
}

/// Full training changes it; an adapter on all projections leaves it alone.
#[test]
fn parameters_are_trained_in_full_training_alone() {
    let player = Player::full(base(model(Box::new(block)), 3)).unwrap();
    let plan = plan(VOCAB, 9);
    let grads = gradients(&player, &plan, &PassOptions::default());
    let grad = &grads["layers.0.scale"];
    assert_eq!(grad.dims(), [8]);
    assert!(floats(grad).iter().all(|g| *g != 0.0));
    let again = PassOptions {
        checkpoint: true,
        ..PassOptions::default()
    };
    let checkpointed = gradients(&player, &plan, &again);
    assert_eq!(bits(grad), bits(&checkpointed["layers.0.scale"]));
    let adapter = adapted(player.base.clone(), Targets::AllLinear, 0.0);
    let names: Vec<&String> = adapter.params.keys().collect();
    assert!(names.iter().all(|n| n.contains(".mix.lora_")), "{names:?}");
    assert_eq!(
        gradients(&adapter, &plan, &PassOptions::default()).len(),
        adapter.params.len()
    );
}

/// A base whose dense weights are held in 16 bits.
#[test]
fn parameters_are_computed_with_in_f32() {
    let whole = base(model(Box::new(block)), 3);
    let halves = |wide: bool| {
        let held = |w: &Weight| {
            let half = w.to_f32().unwrap().to_dtype(DType::BF16).unwrap();
            match wide {
                true => half.to_dtype(DType::F32).unwrap(),
                false => half,
            }
        };
        let weights = whole.weights.iter();
        let weights = weights.map(|(name, w)| (name.clone(), Weight::Dense(held(w))));
        let base = Base {
            arch: whole.arch.clone(),
            config: whole.config.clone(),
            weights: weights.collect(),
            squares: Default::default(),
            compute: Default::default(),
        };
        Player::bare(Arc::new(base)).logps(&plan(VOCAB, 9)).unwrap()
    };
    for (half, wide) in halves(false).iter().zip(halves(true)) {
        assert!((half - wide).abs() < 1e-5, "{half} for {wide}");
    }
}

#[test]
fn a_norm_without_a_weight_is_x_over_its_root_mean_square() {
    let block: Block = Box::new(|g, _, x| {
        let x = g.unflatten(x, 2)?;
        let x = g.rms_norm("", x, 0.25, 7.0)?; // nothing is added to no weight
        g.flatten(x)
    });
    let base = base(model(block), 3);
    let Weight::Dense(table) = &base.weights["embed.weight"] else {
        panic!()
    };
    let (ids, table) = ([3u32, 5, 3], floats(table));
    let mut plan = Packed::default();
    plan.push(&ids[..2], &[&ids[2..], &[1]]);
    let found = floats(&Player::bare(base.clone()).hidden(&plan).unwrap());
    for (row, id) in found.chunks(8).zip(&ids) {
        let mut want: Vec<f64> = table[*id as usize * 8..][..8]
            .iter()
            .map(|v| f64::from(*v))
            .collect();
        for _ in 0..2 {
            for head in want.chunks_mut(4) {
                let mean = head.iter().map(|v| v * v).sum::<f64>() / 4.0;
                head.iter_mut().for_each(|v| *v /= (mean + 0.25).sqrt());
            }
        }
        for (found, want) in row.iter().zip(want) {
            assert!(
                (f64::from(*found) - want).abs() < 1e-6,
                "{found} for {want}"
            );
        }
    }
}

/// What both runs say of a faulty block.
fn refused(
    block: impl Fn(&mut dyn Backend, Id) -> OpResult + Send + Sync + Clone + 'static,
    says: &str,
) {
    let faulty = block.clone();
    let traced = trace(&model(Box::new(move |g, _, x| faulty(g, x)))).unwrap_err();
    // parameters that it may ask for
    let sound: Block = Box::new(|g, _, x| {
        let a = g.param("a", &[8])?;
        g.binary(Binary::Add, x, a)
    });
    let sound = base(model(sound), 1);
    let base = Base {
        arch: Arc::new(model(Box::new(move |g, _, x| block(g, x)))),
        config: sound.config.clone(),
        weights: sound.weights.clone(),
        squares: Default::default(),
        compute: Default::default(),
    };
    let eager = Player::bare(Arc::new(base)).hidden(&plan(VOCAB, 9));
    let (traced, eager) = (traced.to_string(), eager.unwrap_err().to_string());
    assert_eq!(traced, eager);
    assert!(traced.contains(says), "{traced}");
}

#[test]
fn where_a_row_for_every_token_is_wanted_a_parameter_is_refused() {
    let row = "a row for every token, not a parameter";
    refused(
        |g, _| {
            let a = g.param("a", &[8])?;
            g.linear("a", a, 8, false)
        },
        row,
    );
    refused(
        |g, _| {
            let a = g.param("a", &[8])?;
            g.rms_norm("", a, 1e-5, 0.0)
        },
        row,
    );
    refused(
        |g, x| {
            let a = g.param("a", &[8])?;
            let a = g.unary(Unary::Exp, a)?;
            g.binary(Binary::Mul, a, x)
        },
        "wants a parameter on its right",
    );
    refused(
        |g, x| {
            let a = g.param("a", &[8])?;
            g.concat(&[x, a])
        },
        "concat cannot join parameters",
    );
    refused(|g, _| g.param("a", &[]), "at least one axis");
    refused(|g, _| g.param("a", &[8, 0]), "not [8, 0]");
    refused(
        |g, x| {
            let a = g.param("a", &[8])?;
            g.moe(x, x, &RouteSpec::top(1), &mut |_, _, _| a)
        },
        row,
    );
    refused(
        |g, x| {
            let a = g.param("a", &[8])?;
            let (q, v) = (g.unflatten(x, 2)?, g.unflatten(a, 2)?);
            g.attention(q, q, v, &AttnSpec::default())
        },
        row,
    );
    let sinks = |heads: usize, own: bool| {
        move |g: &mut dyn Backend, x: Id| {
            let a = match own {
                true => g.param("a", &[8])?,
                false => x,
            };
            let spec = AttnSpec {
                sinks: Some(a),
                ..AttnSpec::default()
            };
            let q = g.unflatten(x, heads)?;
            g.attention(q, q, q, &spec)
        }
    };
    refused(
        sinks(4, true),
        "a sink for each head of q [4, 2], not the shape [8]",
    );
    refused(sinks(8, false), "without a token axis");
    let error = trace(&model(Box::new(|g, _, _| g.param("a", &[8])))).unwrap_err();
    assert!(error.to_string().contains(row), "{error}");
}

#[test]
fn a_parameter_of_another_shape_is_named() {
    let sound = base(model(Box::new(block)), 3);
    let mut weights = sound.weights.clone();
    let odd = ops::Random(1).tensor(&[1, 8], 1.0);
    weights.insert("layers.1.scale".into(), Weight::Dense(odd));
    let base = Base {
        arch: sound.arch.clone(),
        config: sound.config.clone(),
        weights,
        squares: Default::default(),
        compute: Default::default(),
    };
    let error = Player::bare(Arc::new(base)).logps(&plan(VOCAB, 9));
    let text = error.unwrap_err().to_string();
    let parts = ["`layers.1.scale`", "[8]", "[1, 8]", "block 1"];
    assert!(parts.iter().all(|part| text.contains(part)), "{text}");
}
