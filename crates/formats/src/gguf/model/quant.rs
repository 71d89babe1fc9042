//! Choice of each tensor's ggml format for a file's quantisation: llama.cpp's mixtures, in which
//! the tensors whose errors cost most get more bits.

use std::{fmt, str::FromStr};

use crate::{
    Dtype, Error, Result,
    gguf::{Block, Kind, Value},
};

/// Quantisation of a GGUF's matrices, as `llama-quantize` names and mixes them without an
/// importance matrix; norms, biases and routers are always F32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufQuant {
    /// 4 bytes per weight, lossless.
    F32,
    /// 2 bytes per weight.
    F16,
    /// 2 bytes per weight.
    Bf16,
    /// 8.5 bits per weight.
    Q8_0,
    /// 6.6 bits per weight, in blocks of 256.
    Q6K,
    /// Q5_K, and Q6_K for values and `ffn_down` of the first and last layers and each third one
    /// between.
    Q5KM,
    /// Q5_K: 5.5 bits per weight, scales and offsets for 32 in blocks of 256.
    Q5KS,
    /// 6 bits per weight, scale and offset for 32.
    Q5_1,
    /// 5.5 bits per weight, one scale for 32.
    Q5_0,
    /// Q4_K, and Q6_K where [`GgufQuant::Q5KM`] has it.
    Q4KM,
    /// Q4_K (4.5 bits per weight, scales and offsets for 32 in blocks of 256), and Q5_K in the
    /// first layers.
    Q4KS,
    /// 5 bits per weight, scale and offset for 32.
    Q4_1,
    /// 4.5 bits per weight, one scale for 32.
    Q4_0,
    /// 4.5 bits per weight, levels that are not evenly spaced, one scale for 32; Q5_K for some.
    Iq4Nl,
    /// 4.25 bits per weight, levels that are not evenly spaced, in blocks of 256; Q5_K for some.
    Iq4Xs,
    /// Q3_K, and Q5_K for values, outputs of attention and `ffn_down`.
    Q3KL,
    /// Q3_K, and Q4_K or Q5_K for values, outputs of attention and `ffn_down`.
    Q3KM,
    /// Q3_K: 3.4 bits per weight, scales for 16 in blocks of 256.
    Q3KS,
    /// Q2_K (2.6 bits per weight, scales and offsets for 16 in blocks of 256), and Q3_K or Q4_K for
    /// values, outputs of attention and `ffn_down`.
    Q2K,
}

impl fmt::Display for GgufQuant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(GgufQuant::NAMES[*self as usize])
    }
}

impl FromStr for GgufQuant {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let short = GgufQuant::ALIASES.into_iter();
        let all = GgufQuant::ALL.into_iter().zip(GgufQuant::NAMES);
        let found = all
            .map(|(quant, name)| (name, quant))
            .chain(short)
            .find(|(name, _)| name.eq_ignore_ascii_case(text));
        found.map(|(_, quant)| quant).ok_or_else(|| {
            let names = GgufQuant::NAMES.join(", ");
            Error::rule(format!("{text:?} is no GGUF quantisation; {names} are"))
        })
    }
}

impl GgufQuant {
    /// Names for users, in the order of the variants: llama.cpp's.
    pub const NAMES: [&str; 19] = [
        "f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q5_1", "q5_0", "q4_k_m",
        "q4_k_s", "q4_1", "q4_0", "iq4_nl", "iq4_xs", "q3_k_l", "q3_k_m", "q3_k_s", "q2_k",
    ];

    /// llama.cpp's shorter names, and what they stand for.
    pub const ALIASES: [(&str, GgufQuant); 3] = [
        ("q5_k", GgufQuant::Q5KM),
        ("q4_k", GgufQuant::Q4KM),
        ("q3_k", GgufQuant::Q3KM),
    ];

    /// All, in the order of the variants.
    pub const ALL: [GgufQuant; 19] = {
        use GgufQuant::*;
        [
            F32, F16, Bf16, Q8_0, Q6K, Q5KM, Q5KS, Q5_1, Q5_0, Q4KM, Q4KS, Q4_1, Q4_0, Iq4Nl,
            Iq4Xs, Q3KL, Q3KM, Q3KS, Q2K,
        ]
    };

    /// llama.cpp's id of a file in this mixture (`general.file_type`).
    pub(super) fn file_type(self) -> u32 {
        match self {
            GgufQuant::F32 => 0,
            GgufQuant::F16 => 1,
            GgufQuant::Q4_0 => 2,
            GgufQuant::Q4_1 => 3,
            GgufQuant::Q8_0 => 7,
            GgufQuant::Q5_0 => 8,
            GgufQuant::Q5_1 => 9,
            GgufQuant::Q2K => 10,
            GgufQuant::Q3KS => 11,
            GgufQuant::Q3KM => 12,
            GgufQuant::Q3KL => 13,
            GgufQuant::Q4KS => 14,
            GgufQuant::Q4KM => 15,
            GgufQuant::Q5KS => 16,
            GgufQuant::Q5KM => 17,
            GgufQuant::Q6K => 18,
            GgufQuant::Iq4Nl => 25,
            GgufQuant::Iq4Xs => 30,
            GgufQuant::Bf16 => 32,
        }
    }

    /// The blocks of most matrices; `None`: no blocks.
    fn most(self) -> Option<Block> {
        Some(match self {
            GgufQuant::F32 | GgufQuant::F16 | GgufQuant::Bf16 => return None,
            GgufQuant::Q8_0 => Block::Q8_0,
            GgufQuant::Q6K => Block::Q6K,
            GgufQuant::Q5KM | GgufQuant::Q5KS => Block::Q5K,
            GgufQuant::Q5_1 => Block::Q5_1,
            GgufQuant::Q5_0 => Block::Q5_0,
            GgufQuant::Q4KM | GgufQuant::Q4KS => Block::Q4K,
            GgufQuant::Q4_1 => Block::Q4_1,
            GgufQuant::Q4_0 => Block::Q4_0,
            GgufQuant::Iq4Nl => Block::Iq4Nl,
            GgufQuant::Iq4Xs => Block::Iq4Xs,
            GgufQuant::Q3KL | GgufQuant::Q3KM | GgufQuant::Q3KS => Block::Q3K,
            GgufQuant::Q2K => Block::Q2K,
        })
    }

    /// The format of a tensor with rows of so many `columns`, in a model of this `shape`.
    ///
    /// Vectors, routers and what else llama.cpp keeps stay F32. The head is Q6_K in every file of
    /// fewer bits, since its errors enter the logits directly. Rows that blocks of 256 do not
    /// divide get blocks of 32: Q4_0 for Q2_K and Q3_K, IQ4_NL for IQ4_XS, Q5_0 for Q4_K, Q5_1 for
    /// Q5_K, Q8_0 for Q6_K; rows that 32 does not divide either, F16.
    pub(super) fn choose(self, tensor: Role, columns: usize, shape: &Shape) -> Kind {
        if tensor == Role::Kept {
            return Kind::Dense(Dtype::F32);
        }
        let Some(most) = self.most() else {
            return Kind::Dense(match self {
                GgufQuant::F32 => Dtype::F32,
                GgufQuant::F16 => Dtype::F16,
                _ => Dtype::Bf16,
            });
        };
        let wanted = match tensor {
            Role::Output if most != Block::Q8_0 => Block::Q6K,
            Role::Values(layer) => self.of_values(layer, shape).unwrap_or(most),
            Role::Keys if shape.experts == EIGHT => Block::Q8_0,
            Role::Attention => self.of_attention(shape).unwrap_or(most),
            Role::Down(layer) => self.of_down(layer, shape).unwrap_or(most),
            _ => most,
        };
        let smaller = match wanted {
            Block::Q2K | Block::Q3K => Block::Q4_0,
            Block::Iq4Xs => Block::Iq4Nl,
            Block::Q4K => Block::Q5_0,
            Block::Q5K => Block::Q5_1,
            Block::Q6K => Block::Q8_0,
            other => other,
        };
        [wanted, smaller]
            .into_iter()
            .find(|block| columns.is_multiple_of(block.values()))
            .map_or(Kind::Dense(Dtype::F16), Kind::Block)
    }

    /// Blocks of `attn_v` and of what holds it; `None`: those of most.
    fn of_values(self, layer: usize, shape: &Shape) -> Option<Block> {
        if shape.experts == EIGHT {
            return Some(Block::Q8_0);
        }
        // llama.cpp counts the tensors, of which a hybrid has none in some layers
        let with_values = shape.with_values.len();
        let nth = shape.with_values.partition_point(|other| *other < layer);
        let shared = shape.queries_per_key >= 4;
        let chosen = match self {
            GgufQuant::Q2K if shared => Some(Block::Q4K),
            GgufQuant::Q2K => Some(Block::Q3K),
            GgufQuant::Q3KM if nth < 2 => Some(Block::Q5K),
            GgufQuant::Q3KM => Some(Block::Q4K),
            GgufQuant::Q3KL => Some(Block::Q5K),
            GgufQuant::Iq4Nl | GgufQuant::Iq4Xs if shared => Some(Block::Q5K),
            GgufQuant::Q4KM | GgufQuant::Q5KM if gets_more(nth, with_values) => Some(Block::Q6K),
            GgufQuant::Q4KS if nth < 4 => Some(Block::Q5K),
            _ => None,
        };
        // of a 70B its size is an eighth of the queries': more bits cost next to nothing
        let seventy = shape.layers == 80 && shape.queries_per_key > 1;
        match chosen.or(self.most()) {
            Some(Block::Q3K | Block::Q4K) if seventy => Some(Block::Q5K),
            _ => chosen,
        }
    }

    /// Blocks of attention's output projection; `None`: those of most.
    fn of_attention(self, shape: &Shape) -> Option<Block> {
        use GgufQuant::{Iq4Nl, Iq4Xs, Q2K, Q3KL, Q3KM, Q3KS, Q4KM, Q4KS};
        match (self, shape.experts == EIGHT) {
            (Q2K | Q3KS | Q3KM | Iq4Nl | Iq4Xs | Q4KS | Q4KM, true) => Some(Block::Q5K),
            (_, true) => None,
            (Q2K, false) => Some(Block::Q3K),
            (Q3KM, false) => Some(Block::Q4K),
            (Q3KL, false) => Some(Block::Q5K),
            _ => None,
        }
    }

    /// Blocks of the perceptron's last projection; `None`: those of most.
    fn of_down(self, layer: usize, shape: &Shape) -> Option<Block> {
        let is_first = layer < shape.layers / 8;
        match self {
            GgufQuant::Q2K => Some(Block::Q3K),
            GgufQuant::Q3KM if layer < shape.layers / 16 => Some(Block::Q5K),
            GgufQuant::Q3KM => Some(Block::Q4K),
            GgufQuant::Q3KL => Some(Block::Q5K),
            GgufQuant::Q4KM | GgufQuant::Q5KM if gets_more(layer, shape.layers) => Some(Block::Q6K),
            GgufQuant::Iq4Nl | GgufQuant::Iq4Xs | GgufQuant::Q4KS if is_first => Some(Block::Q5K),
            _ => None,
        }
    }
}

/// The number of experts for which llama.cpp's quantiser has rules of its own: Mixtral's.
const EIGHT: usize = 8;

/// What a mixture depends on besides the tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shape {
    /// Blocks.
    pub layers: usize,
    /// Query heads that a key-value head of the first layer serves; 0 where that has none.
    pub queries_per_key: usize,
    /// Experts of a layer; 0 for a dense model.
    pub experts: usize,
    /// The layers with a projection to values, in order.
    pub with_values: Vec<usize>,
}

impl Shape {
    /// That of a file with these keys, and tensors in these roles.
    pub fn new(keys: &[(String, Value)], roles: impl Iterator<Item = Role>) -> Shape {
        let number = |key: &str| {
            let has = |name: &str| name.split_once('.').is_some_and(|(_, rest)| rest == key);
            match keys.iter().find(|(name, _)| has(name)).map(|(_, v)| v) {
                Some(Value::Int(n)) => usize::try_from(*n).unwrap_or(0),
                Some(Value::Ints(each)) => {
                    each.first().map_or(0, |n| usize::try_from(*n).unwrap_or(0))
                }
                _ => 0,
            }
        };
        let valued = roles.filter_map(|role| match role {
            Role::Values(layer) => Some(layer),
            _ => None,
        });
        let mut with_values: Vec<usize> = valued.collect();
        with_values.sort_unstable();
        let heads = number("attention.head_count");
        Shape {
            layers: number("block_count"),
            queries_per_key: heads
                .checked_div(number("attention.head_count_kv"))
                .unwrap_or(0),
            experts: number("expert_count"),
            with_values,
        }
    }
}

/// The first and last eighth of so many, and each third one between: `_M` mixtures give them more
/// bits.
fn gets_more(nth: usize, of: usize) -> bool {
    let eighth = of / 8;
    nth < eighth || nth >= 7 * of / 8 || (nth - eighth) % 3 == 2
}

/// Parts of names of tensors that no mixture quantises: routers, convolutions, small projections.
const KEPT: [&str; 5] = [
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "per_layer_model_proj",
];

/// The role of a tensor, on which its format depends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Held in F32 in every file: a vector, a bias, a router, what else llama.cpp keeps.
    Kept,
    /// The head: `output`, or a tied embedding.
    Output,
    /// The projection to values, or the one that holds it, of a layer.
    Values(usize),
    /// The projection to keys.
    Keys,
    /// Attention's output projection.
    Attention,
    /// The perceptron's or the experts' last projection, of a layer.
    Down(usize),
    /// Any other matrix.
    Matrix,
}

impl Role {
    /// That of a tensor by llama.cpp's name; `vector`: it has one axis; `head`: it makes the
    /// logits.
    pub fn of(name: &str, vector: bool, head: bool) -> Role {
        let mut parts = name.split('.').skip(1);
        let layer = parts.next().and_then(|n| n.parse().ok()).unwrap_or(0);
        let kept = !name.ends_with("weight") || KEPT.iter().any(|part| name.contains(part));
        match parts.next().unwrap_or_default() {
            _ if vector || kept => Role::Kept,
            _ if head => Role::Output,
            "attn_v" | "attn_qkv" => Role::Values(layer),
            "attn_k" => Role::Keys,
            "attn_output" => Role::Attention,
            down if down.starts_with("ffn_down") => Role::Down(layer),
            _ => Role::Matrix,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use serde_json::Value as Json;

    /// What `llama-quantize` chose, of which tests/interop/make_mixtures.py tells.
    const CHOSEN: &str = include_str!("../../../tests/fixtures/mixtures.json");

    /// `Q6_K*2 Q4_K` as one name a layer.
    fn each(runs: &str) -> Vec<&str> {
        let run = |run| match str::split_once(run, '*') {
            Some((name, n)) => vec![name; n.parse().unwrap()],
            None => vec![run],
        };
        runs.split(' ').flat_map(run).collect()
    }

    #[test]
    fn mixtures_are_llama_cpp_s() {
        let chosen: Json = serde_json::from_str(CHOSEN).unwrap();
        let mut compared = 0;
        for (model, of) in chosen.as_object().unwrap() {
            let number = |key: &str| of[key].as_u64().unwrap() as usize;
            let shape = Shape {
                layers: number("layers"),
                queries_per_key: number("queries_per_key"),
                experts: number("experts"),
                with_values: (0..number("layers")).collect(),
            };
            for (quant, tensors) in of["quants"].as_object().unwrap() {
                let quant: GgufQuant = quant.parse().unwrap();
                assert_eq!(
                    u64::from(quant.file_type()),
                    tensors["file_type"].as_u64().unwrap()
                );
                for (part, columns) in of["columns"].as_object().unwrap() {
                    let columns = columns.as_u64().unwrap() as usize;
                    let head = part == "output" || (part == "token_embd" && of["tied"] == true);
                    let inside = !matches!(part.as_str(), "output" | "token_embd");
                    for (layer, wanted) in each(tensors[part].as_str().unwrap()).iter().enumerate()
                    {
                        let name = match inside {
                            true => format!("blk.{layer}.{part}.weight"),
                            false => format!("{part}.weight"),
                        };
                        // the library that was asked is older than llama.cpp's change of what
                        // stands in for Q2_K and Q3_K (src/llama-quant.cpp, tensor_type_fallback)
                        let wanted = match (quant.most(), *wanted) {
                            (Some(Block::Q2K | Block::Q3K), "IQ4_NL") => "Q4_0",
                            (_, wanted) => wanted,
                        };
                        let kind = quant.choose(Role::of(&name, false, head), columns, &shape);
                        assert_eq!(kind.name(), wanted, "{model} {quant} {name}");
                        compared += 1;
                    }
                }
            }
        }
        assert!(compared > 10_000, "{compared}");
    }

    #[test]
    fn names_are_llama_cpp_s() {
        for (quant, name) in GgufQuant::ALL.into_iter().zip(GgufQuant::NAMES) {
            assert_eq!(quant.to_string(), name);
            assert_eq!(name.to_uppercase().parse::<GgufQuant>().unwrap(), quant);
        }
        assert_eq!("q4_k".parse::<GgufQuant>().unwrap(), GgufQuant::Q4KM);
        assert!("q4".parse::<GgufQuant>().is_err());
    }

    /// By llama.cpp's source: it counts the projections to values that there are, and takes heads
    /// from the first layer, which has none here.
    #[test]
    fn a_hybrid_s_values_are_counted() {
        let keys = [
            ("any.block_count", Value::Int(16)),
            ("any.attention.head_count", Value::Int(8)),
            ("any.attention.head_count_kv", Value::Ints(vec![0, 0, 2, 0])),
            ("any.expert_count", Value::Int(8)),
        ];
        let keys = keys.map(|(key, value)| (key.to_string(), value));
        let with_values: Vec<usize> = (0..8).map(|i| 2 * i + 1).collect();
        let roles = with_values.iter().map(|layer| Role::Values(*layer));
        let mut shape = Shape::new(&keys, roles.rev().chain([Role::Matrix]));
        let (queries_per_key, layers, experts) = (0, 16, 8);
        let wanted = Shape {
            layers,
            queries_per_key,
            experts,
            with_values: with_values.clone(),
        };
        assert_eq!(shape, wanted);
        shape.experts = 0;
        // of eight the first, the last and each third between
        let more = |layer: &usize| GgufQuant::Q4KM.of_values(*layer, &shape).is_some();
        let chosen: Vec<usize> = with_values.iter().copied().filter(|l| more(l)).collect();
        assert_eq!(chosen, [1, 7, 13, 15]);
    }

    #[test]
    fn odd_rows_and_vectors() {
        let shape = Shape {
            layers: 2,
            queries_per_key: 1,
            experts: 0,
            with_values: vec![0, 1],
        };
        let kind = |quant: GgufQuant, name, columns| {
            quant
                .choose(Role::of(name, false, false), columns, &shape)
                .name()
        };
        assert_eq!(kind(GgufQuant::Q4_0, "blk.0.ffn_up.weight", 40), "F16");
        assert_eq!(kind(GgufQuant::Q3KS, "blk.0.ffn_up.weight", 96), "Q4_0");
        assert_eq!(
            kind(GgufQuant::Q4_0, "blk.0.ffn_gate_inp.weight", 64),
            "F32"
        );
        for kept in [
            "blk.0.ffn_down_exps.bias",
            "blk.0.shortconv.conv.weight",
            "blk.0.ssm_conv1d.weight",
        ] {
            assert_eq!(kind(GgufQuant::Q4KM, kept, 256), "F32", "{kept}");
        }
        assert_eq!(kind(GgufQuant::Iq4Xs, "blk.0.ffn_up.weight", 96), "IQ4_NL");
        let norm = Role::of("blk.0.attn_norm.weight", true, false);
        assert_eq!(GgufQuant::Q4_0.choose(norm, 64, &shape).name(), "F32");
    }
}
