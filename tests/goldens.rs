//! Randori compared with transformers and peft on tiny models of every family, with windows,
//! biases, caps and norms of heads where a family has them: adapters that peft wrote, their logits,
//! log-probs, gradients, greedy tokens and merged weights.
//!
//! The files in tests/fixtures/goldens and what is in them: tests/interop/make_goldens.py. Every
//! comparison is relative to the largest value of the row or tensor, at most 1e-5 (gradients, which
//! are sums of many terms of both signs: 2e-5).

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use crate::model::{
    Weights, agree, agree_within, base_from, by_prefix, distance, greedy, load, rows,
};
use candle_core::{DType, Device, Tensor};
use randori_engine::{
    Base, Grads, Packed, PassOptions, Player,
    weights::{LoadOptions, Source},
};
use randori_export::merged;
use randori_lora::{peft, stack};

/// d loss / d log-prob of each token of the real and of the generated response, as in
/// make_goldens.py.
const SLOPES: [f64; 2] = [-1.0, 0.5];
/// Largest difference of a gradient, relative to its largest value.
const GRADIENT: f64 = 2e-5;
/// The same of models whose goldens' own f32 is up to 4.1e-5 off PyTorch's f64.
const GRADIENT_COARSE: f64 = 6e-5;
const COARSE: [&str; 3] = ["qwen2", "gemma2", "olmo3"];
/// Models with an adapter on every projection, and gradients of the base's own weights.
const NEWER: [&str; 7] = [
    "qwen2", "qwen3", "gemma2", "gemma3", "glm4", "olmo2", "olmo3",
];
const TIED: [&str; 2] = ["qwen2_tied", "qwen3_tied"];
const MIXTURES: [&str; 3] = ["mixtral", "qwen3_moe", "qwen3_moe_step"];

/// Families whose rotary embedding, norms or factors differ from Llama's.
const ROTARY: [&str; 5] = ["phi3", "smollm3", "granite", "ministral3", "cohere2"];

/// Families with layers that keep a state instead of keys and values.
const HYBRIDS: [&str; 2] = ["lfm2", "qwen3_5"];

/// Gemma 4 with values that cross blocks, and with experts beside the perceptron.
const CARRIED: [&str; 2] = ["gemma4", "gemma4_mixture"];

struct Golden {
    dir: PathBuf,
    base: Arc<Base>,
    expected: HashMap<String, Tensor>,
    /// The prompt and both responses.
    plan: Packed,
    /// Prompt and real response.
    tokens: Vec<u32>,
    /// Tokens of the prompt.
    prompt: usize,
}

impl Golden {
    fn open(model: &str) -> Golden {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("../../tests/fixtures/goldens")
            .join(model);
        let expected =
            candle_core::safetensors::load(dir.join("expected.safetensors"), &Device::Cpu).unwrap();
        let ids = |which: &str| -> Vec<u32> {
            let t = expected[&format!("tokens/{which}")].to_dtype(DType::U32);
            t.unwrap().to_vec1().unwrap()
        };
        let (prompt, real, generated) = (ids("prompt"), ids("real"), ids("generated"));
        let base = load(Source::Folder(dir.clone()), &LoadOptions::default());
        let mut plan = Packed::with_border(Player::bare(base.clone()).border());
        plan.push(&prompt, &[&real, &generated]);
        Golden {
            base,
            prompt: prompt.len(),
            tokens: [prompt, real].concat(),
            dir,
            expected,
            plan,
        }
    }

    fn adapted(&self, kind: &str) -> Player {
        let (spec, params) = peft::load(&self.dir.join(kind)).unwrap();
        Player::with_adapter(self.base.clone(), spec, params).unwrap()
    }

    /// Rows that peft computed, by key.
    fn want(&self, key: &str) -> Vec<Vec<f64>> {
        let t = self
            .expected
            .get(key)
            .unwrap_or_else(|| panic!("no {key} in the goldens"));
        rows(&matrix(t))
    }

    /// The parts of a kind's expectations that begin so: (rest of the name, whole key).
    fn keys(&self, start: &str) -> Vec<(String, String)> {
        let mut keys: Vec<_> = self
            .expected
            .keys()
            .filter_map(|k| Some((k.strip_prefix(start)?.to_string(), k.clone())))
            .collect();
        keys.sort();
        keys
    }

    /// Logits and log-probs, and that the adapter matters.
    fn answers(&self, kind: &str, player: &Player) {
        let logits = by_prefix(player, &self.tokens);
        // sums of two updates: 1.3e-5 with AVX2, below 1e-5 with AVX-512
        let limit = if kind.starts_with("stack") {
            2e-5
        } else {
            1e-5
        };
        agree_within(
            limit,
            &format!("{kind}: logits"),
            &logits,
            &self.want(&format!("{kind}/logits")),
        );
        agree(
            &format!("{kind}: log-probs by the training path"),
            &vec![player.logps(&self.plan).unwrap()],
            &self.want(&format!("{kind}/logps")),
        );
        if let Some(want) = self.expected.get(&format!("{kind}/greedy")) {
            let want: Vec<u32> = want.to_dtype(DType::U32).unwrap().to_vec1().unwrap();
            let prompt = &self.tokens[..self.prompt];
            assert_eq!(greedy(player, prompt, want.len()), want, "{kind}: greedy");
        }
        let bare = distance(&logits, &self.want("base/logits"));
        assert!(
            kind == "base" || bare > 0.02,
            "{kind} is the base but for {bare}"
        );
    }

    /// Gradients of every tensor that the player trains, and of no other.
    fn gradients(&self, kind: &str, player: &Player) {
        let slopes: Vec<f64> = self.plan.targets.iter().map(|t| SLOPES[t.seq]).collect();
        let name = self.dir.file_name().unwrap();
        let limit = match COARSE.iter().any(|one| name == *one) {
            true => GRADIENT_COARSE,
            false => GRADIENT,
        };
        for checkpoint in [false, true] {
            let options = PassOptions {
                checkpoint,
                ..PassOptions::default()
            };
            let mut grads = Grads::new();
            player
                .forward_backward(
                    &self.plan,
                    &options,
                    &mut |_| Ok(slopes.clone()),
                    &mut grads,
                )
                .unwrap();
            let wanted = self.keys(&format!("{kind}/grad/"));
            let names: Vec<&String> = wanted.iter().map(|(name, _)| name).collect();
            // of a base's own weights some are kept
            let trained = grads.keys().filter(|n| kind != "full" || names.contains(n));
            assert_eq!(
                trained.collect::<Vec<_>>(),
                names,
                "{kind}: what is trained"
            );
            let mut wrong = Vec::new();
            for (name, key) in &wanted {
                let (got, want) = (flat(&grads[name]), flat(&self.expected[key]));
                let off = distance(&vec![got], &vec![want]);
                if off > limit {
                    wrong.push(format!("{name} {off:.2e}"));
                }
            }
            assert!(
                wrong.is_empty(),
                "{name:?}, {kind}: gradients are off by more than {limit:.0e}: {wrong:?}"
            );
        }
    }

    /// Weights with the update in them.
    fn merges(&self, kind: &str, player: &Player) {
        let wanted = self.keys(&format!("{kind}/merged/"));
        assert!(!wanted.is_empty(), "{kind}: no merged weight to compare");
        for (name, key) in wanted {
            let ours = merged(player, None, &name).unwrap().weight;
            agree(
                &format!("{kind}: merged {name}"),
                &rows(&ours),
                &self.want(&key),
            );
        }
    }

    fn all(&self, kind: &str) {
        let player = self.adapted(kind);
        self.answers(kind, &player);
        if !self.keys(&format!("{kind}/grad/")).is_empty() {
            self.gradients(kind, &player);
        }
        self.merges(kind, &player);
    }
}

fn matrix(t: &Tensor) -> Tensor {
    match t.rank() {
        2 => t.clone(),
        _ => t.unsqueeze(0).unwrap(),
    }
}

fn flat(t: &Tensor) -> Vec<f64> {
    let values: Vec<f32> = t.flatten_all().unwrap().to_vec1().unwrap();
    values.into_iter().map(f64::from).collect()
}

#[test]
fn the_bases_answer_as_in_transformers() {
    let all = ["llama", "mistral"].into_iter().chain(NEWER).chain(TIED);
    let all = all.chain(ROTARY).chain(MIXTURES).chain(HYBRIDS);
    for model in all.chain(CARRIED).chain(["gpt_oss"]) {
        let golden = Golden::open(model);
        golden.answers("base", &Player::bare(golden.base.clone()));
    }
}

#[test]
fn plain_adapters_and_rslora_with_whole_names() {
    Golden::open("llama").all("plain");
    Golden::open("llama").all("rslora");
    Golden::open("mistral").all("plain");
    for model in NEWER {
        Golden::open(model).all("plain");
    }
}

#[test]
fn plain_adapters_of_families_that_rotate_or_remember_otherwise() {
    for model in ROTARY.into_iter().chain(HYBRIDS).chain(CARRIED) {
        Golden::open(model).all("plain");
    }
}

/// Phi-3's two responses lie on either side of the length beyond which it rotates otherwise.
#[test]
fn responses_across_the_border_do_not_share_their_prompt() {
    let golden = Golden::open("phi3");
    assert_eq!(golden.plan.border, Some(22));
    let roots = golden.plan.segments.iter().filter(|s| s.parent.is_none());
    assert_eq!(roots.count(), 2);
}

/// Sinks in attention's soft-max, biases of experts, yarn whose ramp is not rounded.
#[test]
fn an_adapter_beside_sinks() {
    Golden::open("gpt_oss").all("plain");
}

/// Biases, norms of heads and sinks are trained with the rest, which no LoRA shows.
#[test]
fn a_base_s_own_weights_have_pytorchs_gradients() {
    let experts = ["mixtral", "qwen3_moe", "gpt_oss"];
    let all = NEWER.into_iter().chain(TIED).chain(experts);
    for model in all.chain(HYBRIDS).chain(CARRIED) {
        let golden = Golden::open(model);
        golden.gradients("full", &Player::full(golden.base.clone()).unwrap());
    }
}

/// Updates of experts as peft stores them, stacked, and as Randori does, one by one.
#[test]
fn experts_have_updates_of_their_own() {
    for model in ["mixtral", "qwen3_moe"] {
        Golden::open(model).all("experts");
    }
    Golden::open("mixtral").all("stacked");
}

/// What Randori writes of an adapter that peft stored stacked is read as the same.
#[test]
fn stacked_updates_of_experts_are_written_one_by_one() {
    let golden = Golden::open("mixtral");
    let player = golden.adapted("stacked");
    let (spec, params) = (player.lora.clone().unwrap(), player.params.clone());
    let dir = tempfile::tempdir().unwrap();
    peft::save(dir.path(), &spec, &params, "tiny-mixtral").unwrap();
    let (spec, params) = peft::load(dir.path()).unwrap();
    let expert = "model.layers.1.block_sparse_moe.experts.3.w1.lora_A";
    assert!(params.contains_key(expert), "{:?}", params.keys());
    let again = Player::with_adapter(golden.base.clone(), spec, params).unwrap();
    golden.answers("stacked", &again);
}

#[test]
fn patterns_of_rank_and_alpha_under_a_regular_expression() {
    Golden::open("llama").all("patterns");
}

#[test]
fn dora_with_its_gradients() {
    Golden::open("llama").all("dora");
    Golden::open("mistral").all("dora");
    Golden::open("llama").all("dora_rslora_patterns");
}

#[test]
fn a_saved_head_replaces_the_bases() {
    Golden::open("llama").all("saved_head");
}

#[test]
fn a_stack_is_the_sum_of_its_adapters() {
    let golden = Golden::open("llama");
    let parts = ["plain", "rslora"].map(|kind| peft::load(&golden.dir.join(kind)).unwrap());
    let (spec, params) = stack(parts.to_vec()).unwrap();
    let player = Player::with_adapter(golden.base.clone(), spec, params).unwrap();
    golden.answers("stack_plain_rslora", &player);
}

/// A DoRA stacked on another adapter: the other is merged first, and the norms are those of the
/// merged weight.
#[test]
fn a_dora_goes_onto_what_another_was_merged_into() {
    let mut golden = Golden::open("llama");
    let first = golden.adapted("plain");
    let weights: Weights = golden
        .base
        .weights
        .keys()
        .map(|name| (name.clone(), merged(&first, None, name).unwrap().weight))
        .collect();
    golden.base = base_from(&golden.base.config, &weights, &LoadOptions::default());
    golden.answers("stack_plain_then_dora", &golden.adapted("dora"));
}
