//! The start against constants computed from the PyTorch peer's definition; the products against
//! finite differences.

use candle_core::{Device, Tensor};
use randori_lora::{
    LoraSpec, Projection, Targets, Update, backward, dropout, forward, merge, row_norms,
    row_squares, splitmix,
};

fn spec(rank: usize) -> LoraSpec {
    LoraSpec {
        rank,
        alpha: 16.0,
        rslora: false,
        dropout: 0.0,
        targets: Targets::Names(vec!["q_proj".into()]),
        ..LoraSpec::default()
    }
}

fn update(a: &Tensor, b: &Tensor, scale: f64) -> Update {
    Update {
        a: a.clone(),
        b: b.clone(),
        scale,
        magnitude: None,
    }
}

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// Reproducible numbers in ±1.
fn noise(name: &str, shape: (usize, usize)) -> Tensor {
    let v: Vec<f32> = splitmix(1, name, shape.0 * shape.1)
        .map(|u| (2.0 * u - 1.0) as f32)
        .collect();
    Tensor::from_vec(v, shape, &Device::Cpu).unwrap()
}

#[test]
fn the_start_is_the_pytorch_peers() {
    // python: splitmix(7, "model.layers.0.self_attn.q_proj.lora_A", 4) of spin_torch.py, times 2^24
    let bits: Vec<u64> = splitmix(7, "model.layers.0.self_attn.q_proj.lora_A", 4)
        .map(|u| (u * 16_777_216.0) as u64)
        .collect();
    assert_eq!(bits, [16191809, 12111086, 7040886, 13818477]);
    let (a, b) = spec(8)
        .init(
            &Projection::new("model.layers.0.self_attn.q_proj", 576, 576),
            7,
        )
        .unwrap();
    assert_eq!(
        values(&a)[..4],
        [0.038_758_92, 0.018_489_748, -0.006_694_207_4, 0.026_970_452]
    );
    assert_eq!((a.dims(), b.dims()), (&[8, 576][..], &[576, 8][..]));
    assert!(values(&b).iter().all(|&v| v == 0.0));
    // the last of 8 x 1536 for another name
    let (a, _) = spec(8)
        .init(
            &Projection::new("model.layers.29.mlp.down_proj", 1536, 576),
            7,
        )
        .unwrap();
    assert_eq!(values(&a)[8 * 1536 - 1], 0.015_616_823);
}

#[test]
fn scales() {
    assert_eq!(spec(8).scale_of("x"), 2.0);
    assert_eq!(
        LoraSpec {
            rslora: true,
            ..spec(16)
        }
        .scale_of("x"),
        4.0
    );
}

#[test]
fn gradients_by_finite_differences() {
    let (x, a, b) = (noise("x", (5, 7)), noise("a", (3, 7)), noise("b", (4, 3)));
    let up = noise("up", (5, 4));
    let loss = |x: &Tensor, a: &Tensor, b: &Tensor| {
        let (y, _) = forward(x, a, b, 0.7).unwrap();
        values(&(y * &up).unwrap())
            .iter()
            .map(|&v| f64::from(v))
            .sum::<f64>()
    };
    let (_, xa) = forward(&x, &a, &b, 0.7).unwrap();
    let (dx, da, db) = backward(&x, &xa, &a, &b, 0.7, &up).unwrap();
    let tensors = [&x, &a, &b];
    for (which, slope) in [dx, da, db].iter().enumerate() {
        for (i, &s) in values(slope).iter().enumerate() {
            let moved = |h: f32| {
                let mut v = values(tensors[which]);
                v[i] += h;
                let t = Tensor::from_vec(v, tensors[which].shape(), &Device::Cpu).unwrap();
                let mut all = tensors;
                all[which] = &t;
                loss(all[0], all[1], all[2])
            };
            let h = 1e-2; // exact up to rounding: the update is linear in each of the three
            let measured = (moved(h) - moved(-h)) / f64::from(2.0 * h);
            assert!(
                (measured - f64::from(s)).abs() < 1e-3,
                "tensor {which} element {i}: {measured} against {s}"
            );
        }
    }
}

#[test]
fn merged_weight_does_what_weight_and_update_do() {
    let (x, a, b, w) = (
        noise("x", (5, 7)),
        noise("a", (3, 7)),
        noise("b", (4, 3)),
        noise("w", (4, 7)),
    );
    let (delta, _) = forward(&x, &a, &b, 1.3).unwrap();
    let apart = values(&(x.matmul(&w.t().unwrap()).unwrap() + delta).unwrap());
    let merged = values(
        &x.matmul(&merge(&w, &update(&a, &b, 1.3)).unwrap().t().unwrap())
            .unwrap(),
    );
    assert!(apart.iter().zip(&merged).all(|(p, q)| (p - q).abs() < 1e-5));
    let e = merge(&w, &update(&noise("a", (3, 6)), &b, 1.0))
        .unwrap_err()
        .to_string();
    assert!(e.contains("A must be (rank, 7)"), "{e}");
}

/// Any 64 bits will do as a key.
fn splitmix_word(seed: u64, i: u64) -> u64 {
    let x = (seed + i).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^ (x >> 29)
}

#[test]
fn dropout_keeps_the_mean_and_its_mask() {
    let x = Tensor::ones((100, 100), candle_core::DType::F32, &Device::Cpu).unwrap();
    let keys: Vec<u64> = (0..100).map(|row| splitmix_word(7, row)).collect();
    let y = values(&dropout(&x, 0.25, &keys, 9).unwrap());
    let kept = y.iter().filter(|&&v| v != 0.0).count();
    assert!((7300..7700).contains(&kept), "{kept} of 10,000 kept");
    assert!(y.iter().all(|&v| v == 0.0 || (v - 4.0 / 3.0).abs() < 1e-6));
    assert_eq!(y, values(&dropout(&x, 0.25, &keys, 9).unwrap()));
    assert_ne!(y, values(&dropout(&x, 0.25, &keys, 10).unwrap()));
    // a row's mask is its own, wherever the row stands
    let some = [3usize, 70, 3];
    let picked: Vec<u64> = some.iter().map(|&row| keys[row]).collect();
    let alone = values(&dropout(&x.narrow(0, 0, 3).unwrap(), 0.25, &picked, 9).unwrap());
    for (i, row) in some.iter().enumerate() {
        assert_eq!(alone[100 * i..100 * (i + 1)], y[100 * row..100 * (row + 1)]);
    }
    assert!(dropout(&x, 0.25, &keys[1..], 9).is_err());
}

#[test]
fn targets() {
    let q = "model.layers.11.self_attn.q_proj";
    let check = |t: Targets, want: bool| assert_eq!(t.wants(q), want, "{t:?}");
    let names = |n: &str| Targets::Names(vec![n.into()]);
    check(names("q_proj"), true);
    check(names("self_attn.q_proj"), true);
    check(names("proj"), false);
    check(names("k_proj"), false);
    check(names("*.layers.1?.*"), true);
    check(names("*.layers.[2-9].*"), false);
    check(names("*_proj"), true);
    check(names("model.layers"), false);
    check(Targets::Regex(r".*\.(q|v)_proj".into()), true);
    // a pattern must match the whole name, as PEFT's fullmatch
    check(Targets::Regex(r"(q|v)_proj".into()), false);
    check(Targets::AllLinear, true);
    assert!(
        !Targets::AllLinear.wants("lm_head") && !Targets::AllLinear.wants("model.embed_tokens")
    );
    let bad = Targets::Regex("(".into()).check().unwrap_err().to_string();
    assert!(bad.contains("`(` is not a pattern"), "{bad}");
    assert!(Targets::Names(vec![]).check().is_err());
}

/// peft 0.21.2's choice of modules on a tied Llama, where that is one of projections: to leave the
/// embedding out leaves a head that is named, or that a pattern matches, as it is.
#[test]
fn an_exclusion_takes_no_target_that_it_does_not_name() {
    let head = Projection {
        weight: "model.embed_tokens".into(),
        head: true,
        ..Projection::new("lm_head", 4, 9)
    };
    let q = Projection::new("model.layers.0.self_attn.q_proj", 4, 4);
    let projections = [q, head];
    let names = |list: &[&str]| Targets::Names(list.iter().map(ToString::to_string).collect());
    let regex = |text: &str| Targets::Regex(text.into());
    let matched = |targets: &Targets, exclude: &Targets| {
        let spec = LoraSpec {
            targets: targets.clone(),
            exclude: Some(exclude.clone()),
            ..spec(2)
        };
        let found = spec.match_projections(&projections, &[]);
        found.map(|m| m.projections.into_keys().collect::<Vec<_>>())
    };
    let both = names(&["q_proj", "lm_head"]);
    let pattern = regex(".*(q_proj|lm_head|embed_tokens)");
    for (targets, exclude, right) in [
        (
            &names(&["lm_head"]),
            names(&["embed_tokens"]),
            &["lm_head"][..],
        ),
        (
            &both,
            names(&["model.embed_tokens"]),
            &["lm_head", "q_proj"][..],
        ),
        (&both, regex(".*embed_tokens"), &["lm_head", "q_proj"][..]),
        (&pattern, regex(".*embed.*"), &["lm_head", "q_proj"][..]),
        (&pattern, names(&["lm_head"]), &["q_proj"][..]),
        (
            &regex(".*(q_proj|embed_tokens)"),
            names(&["embed_tokens"]),
            &["q_proj"][..],
        ),
    ] {
        let found = matched(targets, &exclude).unwrap();
        assert_eq!(found, right, "{targets:?} without {exclude:?}");
    }
    // an entry that keeps nothing is a mistake, whatever stands beside it (peft drops it)
    for (targets, exclude, entry) in [
        (both, names(&["lm_head"]), "lm_head"),
        (names(&["lm_head", "q_proj"]), regex(".*q_proj"), "q_proj"),
        (
            names(&["q_proj", "embed_tokens"]),
            names(&["embed_tokens"]),
            "embed_tokens",
        ),
        (
            names(&["q_proj", "embed_tokens"]),
            names(&["lm_head"]),
            "embed_tokens",
        ),
        (
            names(&["lm_head", "embed_tokens"]),
            names(&["embed_tokens"]),
            "embed_tokens",
        ),
    ] {
        let error = matched(&targets, &exclude).unwrap_err().to_string();
        let says = format!("exclude takes away every projection that {entry:?} of its targets");
        assert!(error.contains(&says), "{error}");
    }
}

#[test]
fn errors_name_targets_as_a_recipe_gives_them() {
    let projections = [Projection::new("lm_head", 4, 9)];
    for (targets, says) in [
        (
            Targets::Names(vec!["lm_head".into()]),
            r#"targets ["lm_head"] once"#,
        ),
        (
            Targets::Regex("lm_.*".into()),
            r#"targets "regex:lm_.*" once"#,
        ),
        (
            Targets::Regex(r"none\.".into()),
            r#"matches "regex:none\\." of the adapter's targets"#,
        ),
    ] {
        let spec = LoraSpec {
            targets,
            modules_to_save: vec!["lm_head".into()],
            ..spec(1)
        };
        let error = spec.match_projections(&projections, &[]).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn settings_that_mean_nothing_are_refused() {
    for bad in [
        LoraSpec { rank: 0, ..spec(1) },
        LoraSpec {
            alpha: f64::NAN,
            ..spec(1)
        },
        LoraSpec {
            alpha: 0.0,
            ..spec(1)
        },
        LoraSpec {
            alpha: 1e-300, // 0 in f32
            ..spec(1)
        },
        LoraSpec {
            dropout: 1.0,
            ..spec(1)
        },
    ] {
        assert!(bad.init(&Projection::new("q", 4, 4), 0).is_err(), "{bad:?}");
    }
}

#[test]
fn dora_brings_rows_to_their_magnitudes() {
    let (w, a, b) = (noise("w", (4, 7)), noise("a", (3, 7)), noise("b", (4, 3)));
    let plain = merge(&w, &update(&a, &b, 1.3)).unwrap();
    let lengths: Vec<f64> = row_squares(&plain)
        .unwrap()
        .iter()
        .map(|s| s.sqrt())
        .collect();
    // the norms without the sum in memory are the sum's
    let aw = a.matmul(&w.t().unwrap()).unwrap();
    let norms = row_norms(&row_squares(&w).unwrap(), &aw, &a, &b, 1.3).unwrap();
    for (norm, length) in norms.iter().zip(&lengths) {
        assert!(
            (f64::from(*norm) - length).abs() < 1e-6 * length,
            "{norm} {length}"
        );
    }
    let m = [0.5f32, 2.0, 1.0, 3.0];
    let with = Update {
        magnitude: Some(Tensor::new(&m, &Device::Cpu).unwrap()),
        ..update(&a, &b, 1.3)
    };
    let merged = merge(&w, &with).unwrap();
    for ((square, m), (row, before)) in row_squares(&merged).unwrap().iter().zip(m).zip(
        values(&merged)
            .chunks(7)
            .zip(values(&plain).chunks(7).zip(&lengths)),
    ) {
        assert!((square.sqrt() - f64::from(m)).abs() < 1e-6);
        let (before, length) = before;
        for (x, y) in row.iter().zip(before) {
            assert!((f64::from(*x) - f64::from(*y) * f64::from(m) / length).abs() < 1e-6);
        }
    }
}
