//! Whole passes: log-probs against f64, checkpointed = plain, threads, dropout, LoRA,
//! half-precision and quantised bases.

use std::{collections::BTreeSet, sync::Arc};

use crate::ops::{
    self, Llama, adapted, base, bits, check_gradients, floats, gradients, merged, plan, slopes,
    spec,
};
use candle_core::DType;
use randori_engine::{Base, Grads, Packed, PassOptions, Player, Weight, trace};
use randori_lora::Targets;

fn llama() -> Arc<Base> {
    base(Llama::tiny(), 2)
}

#[test]
fn log_probs_equal_f64_log_softmax_of_the_head() {
    let block: ops::Block = Box::new(|g, _, x| g.linear("mix", x, 8, false));
    let base = base(
        ops::Probe {
            vocab: 3000,
            width: 8,
            layers: 1,
            block,
        },
        4,
    );
    let player = Player::bare(base.clone());
    let mut random = ops::Random(1);
    let mut plan = Packed::default();
    // more than one chunk of 128 rows, and a row with two targets
    let (p, a, b) = (
        random.tokens(3, 3000),
        random.tokens(150, 3000),
        random.tokens(140, 3000),
    );
    plan.push(&p, &[&a, &b]);
    let hidden = floats(&player.hidden(&plan).unwrap());
    let Weight::Dense(head) = &base.weights["head.weight"] else {
        panic!()
    };
    let head = floats(head);
    for (target, got) in plan.targets.iter().zip(player.logps(&plan).unwrap()) {
        let h = &hidden[target.row * 8..][..8];
        let z: Vec<f64> = head
            .chunks(8)
            .map(|w| {
                w.iter()
                    .zip(h)
                    .map(|(w, h)| f64::from(*w) * f64::from(*h))
                    .sum()
            })
            .collect();
        let want = z[target.token as usize] - z.iter().map(|z| z.exp()).sum::<f64>().ln();
        assert!((got - want).abs() < 2e-6, "{got} for {want}");
    }
    // the same over several chunks: finite differences of the whole
    check_gradients(&Player::full(base.clone()).unwrap(), &plan, 1e-2, 2e-3);
    // and with a frozen head, which then runs once: rows' gradients wait for their slopes
    let adapted = adapted(base, Targets::AllLinear, 0.3);
    assert_eq!(adapted.params.len(), 2, "the head has no adapter");
    check_gradients(&adapted, &plan, 1e-2, 2e-3);
}

#[test]
fn checkpointed_and_plain_gradients_are_the_same_bits() {
    let plan = plan(29, 5);
    for player in [
        Player::full(llama()).unwrap(),
        adapted(llama(), Targets::AllLinear, 0.3),
        adapted(llama(), Targets::Regex(".*layers.1.*v_proj".into()), 0.0),
    ] {
        let mut options = PassOptions {
            dropout_seed: Some(11),
            ..PassOptions::default()
        };
        let plain = gradients(&player, &plan, &options);
        options.checkpoint = true;
        let again = gradients(&player, &plan, &options);
        assert_eq!(
            plain.keys().collect::<Vec<_>>(),
            again.keys().collect::<Vec<_>>()
        );
        for (name, g) in &plain {
            assert_eq!(bits(g), bits(&again[name]), "{name}");
        }
    }
}

#[test]
fn every_trainable_tensor_gets_a_gradient_and_nothing_else_does() {
    let plan = plan(29, 5);
    for player in [
        Player::full(llama()).unwrap(),
        adapted(llama(), Targets::AllLinear, 0.0),
        adapted(
            llama(),
            Targets::Names(vec!["q_proj".into(), "down_proj".into()]),
            0.0,
        ),
        adapted(llama(), Targets::Regex(".*layers.2.*gate_proj".into()), 0.0),
        // the tied head, by name
        adapted(llama(), Targets::Names(vec!["embed_tokens".into()]), 0.0),
    ] {
        let grads = gradients(&player, &plan, &PassOptions::default());
        assert_eq!(
            grads.keys().collect::<BTreeSet<_>>(),
            player.params.keys().collect::<BTreeSet<_>>()
        );
        for (name, g) in &grads {
            assert!(
                floats(g).iter().any(|v| *v != 0.0),
                "{name} has a zero gradient"
            );
        }
    }
}

#[test]
fn lora_gradients_equal_finite_differences() {
    check_gradients(
        &adapted(llama(), Targets::AllLinear, 0.0),
        &plan(29, 5),
        1e-2,
        2e-3,
    );
    check_gradients(&Player::full(llama()).unwrap(), &plan(29, 5), 1e-2, 2e-3);
}

#[test]
fn the_merged_model_scores_as_base_and_adapter() {
    let player = adapted(llama(), Targets::AllLinear, 0.0);
    let plan = plan(29, 5);
    let merged = merged(&player);
    let (with, bare) = (
        player.logps(&plan).unwrap(),
        Player::bare(player.base.clone()).logps(&plan).unwrap(),
    );
    let merged = Player::bare(Arc::new(merged)).logps(&plan).unwrap();
    for ((with, merged), bare) in with.iter().zip(&merged).zip(&bare) {
        assert!(
            (with - merged).abs() < 1e-5,
            "{with} with the adapter, {merged} merged"
        );
        assert!((with - bare).abs() > 1e-6, "the adapter does nothing");
    }
    // a fresh adapter does nothing at all
    let fresh = Player::with_lora(player.base.clone(), spec(Targets::AllLinear, 0.5), 3).unwrap();
    assert_eq!(
        fresh.logps(&plan).unwrap(),
        Player::bare(player.base.clone()).logps(&plan).unwrap()
    );
}

#[test]
fn identical_responses_with_opposite_slopes_give_no_gradient() {
    let mut plan = Packed::default();
    let (p, y) = ([3, 1, 4, 1, 5], [9, 2, 6, 5, 3]);
    plan.push(&p, &[&y, &y]);
    for player in [
        Player::full(llama()).unwrap(),
        adapted(llama(), Targets::AllLinear, 0.0),
    ] {
        let (mut none, mut some) = (Grads::new(), Grads::new());
        let opposite = |l: &[f64]| {
            assert_eq!(l[..5], l[5..], "the same response, the same log-probs");
            Ok((0..10).map(|i| if i < 5 { -0.5 } else { 0.5 }).collect())
        };
        player
            .forward_backward(&plan, &PassOptions::default(), &mut { opposite }, &mut none)
            .unwrap();
        player
            .forward_backward(
                &plan,
                &PassOptions::default(),
                &mut |_| Ok(vec![0.5; 10]),
                &mut some,
            )
            .unwrap();
        for (name, g) in &none {
            let most = |g| floats(g).iter().fold(0f32, |m, v| m.max(v.abs()));
            assert!(
                most(g) <= 1e-6 * most(&some[name]),
                "{name}: {} of {}",
                most(g),
                most(&some[name])
            );
        }
    }
}

#[test]
fn gradients_are_added_to_what_is_there() {
    let player = adapted(llama(), Targets::AllLinear, 0.0);
    let plan = plan(29, 5);
    let once = gradients(&player, &plan, &PassOptions::default());
    let mut twice = Grads::new();
    for _ in 0..2 {
        let s = slopes(&plan);
        player
            .forward_backward(
                &plan,
                &PassOptions::default(),
                &mut |_| Ok(s.clone()),
                &mut twice,
            )
            .unwrap();
    }
    for (name, g) in &once {
        for (a, b) in floats(g).iter().zip(floats(&twice[name])) {
            assert!((2.0 * a - b).abs() <= 1e-6 * b.abs(), "{name}");
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    // wide enough that products, norms and attention are cut into tasks
    let arch = Llama {
        vocab: 3000,
        width: 192,
        layers: 2,
        heads: 6,
        kv_heads: 2,
        ffn: 300,
        window: None,
    };
    let base = base(arch, 2);
    let mut random = ops::Random(12);
    let mut plan = Packed::default();
    for n in [40, 90] {
        let (p, a, b) = (
            random.tokens(30, 3000),
            random.tokens(n, 3000),
            random.tokens(70, 3000),
        );
        plan.push(&p, &[&a, &b]);
    }
    let half = Base {
        arch: base.arch.clone(),
        config: base.config.clone(),
        weights: base
            .weights
            .iter()
            .map(|(n, w)| {
                (
                    n.clone(),
                    Weight::Dense(w.to_f32().unwrap().to_dtype(DType::BF16).unwrap()),
                )
            })
            .collect(),
        squares: Default::default(),
        compute: Default::default(),
    };
    for player in [
        Player::full(base.clone()).unwrap(),
        adapted(Arc::new(half), Targets::AllLinear, 0.1),
    ] {
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| {
                let options = PassOptions {
                    dropout_seed: Some(1),
                    ..PassOptions::default()
                };
                (
                    player.logps(&plan).unwrap(),
                    gradients(&player, &plan, &options),
                )
            })
        };
        let (logps, grads) = run(1);
        for threads in [2, 3, 5] {
            let (l, g) = run(threads);
            assert_eq!(l, logps, "{threads} threads");
            for (name, g) in &g {
                assert_eq!(bits(g), bits(&grads[name]), "{name}, {threads} threads");
            }
        }
    }
}

#[test]
fn dropout_is_a_function_of_its_seed_and_off_without_one() {
    let player = adapted(llama(), Targets::AllLinear, 0.5);
    let plan = plan(29, 5);
    let run = |seed| {
        let options = PassOptions {
            dropout_seed: seed,
            ..PassOptions::default()
        };
        let mut seen = Vec::new();
        let mut grads = Grads::new();
        let mut slopes = |l: &[f64]| {
            seen = l.to_vec();
            Ok(slopes(&plan))
        };
        player
            .forward_backward(&plan, &options, &mut slopes, &mut grads)
            .unwrap();
        (seen, grads)
    };
    let plain = player.logps(&plan).unwrap();
    assert_eq!(run(None).0, plain);
    assert_eq!(run(Some(1)).0, run(Some(1)).0);
    assert_ne!(run(Some(1)).0, plain);
    assert_ne!(run(Some(1)).0, run(Some(2)).0);
    // the mean over many masks of a linear map is the map
    let block: ops::Block = Box::new(|g, _, x| g.linear("mix", x, 8, false));
    let linear = base(
        ops::Probe {
            vocab: 9,
            width: 8,
            layers: 1,
            block,
        },
        4,
    );
    let player = adapted(linear, Targets::Names(vec!["mix".into()]), 0.5);
    let mut plan = Packed::default();
    plan.push(&[1], &[&[2]]);
    let mut mean = 0.0;
    for seed in 0..2000 {
        let options = PassOptions {
            checkpoint: true,
            dropout_seed: Some(seed),
            ..PassOptions::default()
        };
        player
            .forward_backward(
                &plan,
                &options,
                &mut |l| {
                    mean += l[0] / 2000.0;
                    Ok(vec![0.0])
                },
                &mut Grads::new(),
            )
            .unwrap();
    }
    let want = player.logps(&plan).unwrap()[0];
    assert!((mean - want).abs() < 0.05 * want.abs(), "{mean} for {want}");
}

#[test]
fn dropout_gradients_equal_finite_differences() {
    let player = adapted(llama(), Targets::AllLinear, 0.4);
    let (plan, options) = (
        plan(29, 5),
        PassOptions {
            checkpoint: true,
            dropout_seed: Some(3),
            ..PassOptions::default()
        },
    );
    let weights = slopes(&plan);
    let loss = |p: &Player| {
        let mut total = 0.0;
        let mut slopes = |l: &[f64]| {
            total = l.iter().zip(&weights).map(|(l, w)| l * w).sum();
            Ok(vec![0.0; l.len()])
        };
        p.forward_backward(&plan, &options, &mut slopes, &mut Grads::new())
            .unwrap();
        total
    };
    let grads = gradients(&player, &plan, &options);
    for (name, value) in player.params.iter() {
        let direction =
            ops::Random(8).tensor(value.dims(), 1.0 / (value.elem_count() as f64).sqrt());
        let at = |by: f64| {
            let mut params = (*player.params).clone();
            params.insert(name.clone(), (value + (&direction * by).unwrap()).unwrap());
            loss(&Player {
                params: Arc::new(params),
                ..player.clone()
            })
        };
        let fd = (at(1e-2) - at(-1e-2)) / 2e-2;
        let dot: f64 = floats(&grads[name])
            .iter()
            .zip(floats(&direction))
            .map(|(g, d)| f64::from(*g) * f64::from(d))
            .sum();
        assert!(
            (fd - dot).abs() < 3e-3 * dot.abs().max(0.1),
            "{name}: difference {fd}, gradient {dot}"
        );
    }
}

#[test]
fn an_adapter_without_a_projection_lists_those_there_are() {
    let error = Player::with_lora(llama(), spec(Targets::Names(vec!["qkv".into()]), 0.0), 1)
        .map(drop)
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("qkv") && text.contains("q_proj, up_proj, v_proj"),
        "{text}"
    );
    // all-linear leaves the head alone
    let player = Player::with_lora(llama(), spec(Targets::AllLinear, 0.0), 1).unwrap();
    assert_eq!(player.params.len(), 2 * 7 * 3);
    assert!(
        trace(llama().arch.as_ref())
            .unwrap()
            .linears
            .iter()
            .any(|l| l.layer.is_none())
    );
}

#[test]
fn slopes_and_plans_are_checked() {
    let player = adapted(llama(), Targets::AllLinear, 0.0);
    let plan = plan(29, 5);
    let run = |plan: &Packed, n: usize| {
        player
            .forward_backward(
                plan,
                &PassOptions::default(),
                &mut |_| Ok(vec![0.0; n]),
                &mut Grads::new(),
            )
            .unwrap_err()
            .to_string()
    };
    assert!(
        run(&plan, 3).contains("one slope for each"),
        "{}",
        run(&plan, 3)
    );
    assert!(run(&Packed::default(), 0).contains("at least one token"));
    let mut bad = plan.clone();
    bad.segments[1].position = 2;
    assert!(run(&bad, 0).contains("segment 1"));
    let mut bad = plan.clone();
    bad.targets[0].token = 29;
    assert!(run(&bad, 0).contains("token 29"));
    let mut bad = plan;
    bad.ids[3] = 4000;
    assert!(run(&bad, 0).contains("token 4000"));
}
