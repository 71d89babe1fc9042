//! Choice of each tensor's ggml format for a file's quantisation: llama.cpp's mixtures, in which
//! the tensors whose errors cost most get more bits.

use std::{fmt, str::FromStr};

use crate::{
    Dtype, Error, Result,
    gguf::{Block, Kind},
};

/// Quantisation of a GGUF's matrices, as `llama-quantize` names and mixes them without an importance
/// matrix; norms, biases and routers are always F32.
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
    /// Q5_K, and Q6_K for values and `ffn_down` of the first and last layers and each third between.
    Q5KM,
    /// Q5_K: 5.5 bits per weight, scales and offsets for 32 in blocks of 256.
    Q5KS,
    /// 6 bits per weight, scale and offset for 32.
    Q5_1,
    /// 5.5 bits per weight, one scale for 32.
    Q5_0,
    /// Q4_K, and Q6_K where [`GgufQuant::Q5KM`] has it.
    Q4KM,
    /// Q4_K (4.5 bits per weight, scales and offsets for 32 in blocks of 256), and Q5_K in the first
    /// layers.
    Q4KS,
    /// 5 bits per weight, scale and offset for 32.
    Q4_1,
    /// 4.5 bits per weight, one scale for 32.
    Q4_0,
    /// 4.5 bits per weight, levels that are not evenly spaced, one scale for 32; Q5_K for some.
    Iq4Nl,
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
    pub const NAMES: [&str; 18] = [
        "f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q5_1", "q5_0", "q4_k_m",
        "q4_k_s", "q4_1", "q4_0", "iq4_nl", "q3_k_l", "q3_k_m", "q3_k_s", "q2_k",
    ];

    /// llama.cpp's shorter names, and what they stand for.
    pub const ALIASES: [(&str, GgufQuant); 3] = [
        ("q5_k", GgufQuant::Q5KM),
        ("q4_k", GgufQuant::Q4KM),
        ("q3_k", GgufQuant::Q3KM),
    ];

    /// All, in the order of the variants.
    pub const ALL: [GgufQuant; 18] = {
        use GgufQuant::*;
        [
            F32, F16, Bf16, Q8_0, Q6K, Q5KM, Q5KS, Q5_1, Q5_0, Q4KM, Q4KS, Q4_1, Q4_0, Iq4Nl, Q3KL,
            Q3KM, Q3KS, Q2K,
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
            GgufQuant::Q3KL | GgufQuant::Q3KM | GgufQuant::Q3KS => Block::Q3K,
            GgufQuant::Q2K => Block::Q2K,
        })
    }

    /// The format of a tensor with rows of so many `columns`, in a model of this `shape`.
    ///
    /// Vectors and routers stay F32. The head is Q6_K in every file of fewer bits, since its errors
    /// enter the logits directly. Rows that blocks of 256 do not divide get blocks of 32: Q4_0 for
    /// Q2_K and Q3_K, Q5_0 for Q4_K, Q5_1 for Q5_K, Q8_0 for Q6_K; rows that 32 does not divide
    /// either, F16.
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
        let shared = shape.queries_per_key >= 4;
        let chosen = match self {
            GgufQuant::Q2K if shared => Some(Block::Q4K),
            GgufQuant::Q2K => Some(Block::Q3K),
            GgufQuant::Q3KM if layer < 2 => Some(Block::Q5K),
            GgufQuant::Q3KM => Some(Block::Q4K),
            GgufQuant::Q3KL => Some(Block::Q5K),
            GgufQuant::Iq4Nl if shared => Some(Block::Q5K),
            GgufQuant::Q4KM | GgufQuant::Q5KM if shape.gets_more(layer) => Some(Block::Q6K),
            GgufQuant::Q4KS if layer < 4 => Some(Block::Q5K),
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
        use GgufQuant::{Iq4Nl, Q2K, Q3KL, Q3KM, Q3KS, Q4KM, Q4KS};
        match (self, shape.experts == EIGHT) {
            (Q2K | Q3KS | Q3KM | Iq4Nl | Q4KS | Q4KM, true) => Some(Block::Q5K),
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
            GgufQuant::Q4KM | GgufQuant::Q5KM if shape.gets_more(layer) => Some(Block::Q6K),
            GgufQuant::Iq4Nl | GgufQuant::Q4KS if is_first => Some(Block::Q5K),
            _ => None,
        }
    }
}

/// The number of experts for which llama.cpp's quantiser has rules of its own: Mixtral's.
const EIGHT: usize = 8;

/// What a mixture depends on besides the tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// Blocks.
    pub layers: usize,
    /// Query heads that a key-value head serves.
    pub queries_per_key: usize,
    /// Experts of a layer; 0 for a dense model.
    pub experts: usize,
}

impl Shape {
    /// The first and last eighth of the layers and each third one between: `_M` mixtures give them
    /// more bits.
    fn gets_more(&self, layer: usize) -> bool {
        let eighth = self.layers / 8;
        layer < eighth || layer >= 7 * self.layers / 8 || (layer - eighth) % 3 == 2
    }
}

/// The role of a tensor, on which its format depends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Held in F32 in every file: a vector (norm, bias), or a router.
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
    /// That of a tensor by llama.cpp's name; `vector`: it has one axis; `head`: it makes the logits.
    pub fn of(name: &str, vector: bool, head: bool) -> Role {
        let mut parts = name.split('.').skip(1);
        let layer = parts.next().and_then(|n| n.parse().ok()).unwrap_or(0);
        match parts.next().unwrap_or_default() {
            _ if vector => Role::Kept,
            _ if head => Role::Output,
            "ffn_gate_inp" => Role::Kept,
            "attn_v" | "attn_qkv" => Role::Values(layer),
            "attn_k" => Role::Keys,
            "attn_output" => Role::Attention,
            "ffn_down" | "ffn_down_exps" => Role::Down(layer),
            _ => Role::Matrix,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use serde_json::Value;

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
        let chosen: Value = serde_json::from_str(CHOSEN).unwrap();
        let mut compared = 0;
        for (model, of) in chosen.as_object().unwrap() {
            let number = |key: &str| of[key].as_u64().unwrap() as usize;
            let shape = Shape {
                layers: number("layers"),
                queries_per_key: number("queries_per_key"),
                experts: number("experts"),
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
                        let kind = quant.choose(Role::of(&name, false, head), columns, &shape);
                        assert_eq!(kind.name(), *wanted, "{model} {quant} {name}");
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

    #[test]
    fn odd_rows_and_vectors() {
        let shape = Shape {
            layers: 2,
            queries_per_key: 1,
            experts: 0,
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
        let norm = Role::of("blk.0.attn_norm.weight", true, false);
        assert_eq!(GgufQuant::Q4_0.choose(norm, 64, &shape).name(), "F32");
    }
}
