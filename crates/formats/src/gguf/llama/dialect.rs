//! [`Dialect`]: what GGUF calls a family of models and how it stores it. This table is the only
//! place in which file formats know one family from another.

use serde_json::Value;

use super::names::{self, Module};
use crate::gguf::{bytes::Read, header::Header};

/// One of llama.cpp's architectures.
#[derive(Debug)]
pub(super) struct Dialect {
    /// `general.architecture`, and the first part of its keys.
    pub architecture: &'static str,
    /// The families that it stores. A file is read as the first.
    pub families: &'static [Family],
    /// Whether the rows of q and k are stored in llama.cpp's own order; where not, it rotates the
    /// halves of a head as Hugging Face does.
    pub permuted: bool,
    /// Whether it divides frequencies by `rope_freqs.weight`.
    pub divisors: bool,
    /// Whether heads may have another size than width / heads.
    pub any_head_dim: bool,
    /// Whether the heads of q and k have norms.
    pub head_norms: bool,
    /// Modules of a layer, by llama.cpp's names, whose bias it adds; `None`: any.
    pub biased: Option<&'static [&'static str]>,
    /// Projections that all have biases or none, by transformers' configuration.
    pub biases: &'static [Biases],
}

/// A `model_type` of transformers, and what its class makes of absent keys.
#[derive(Debug)]
pub(super) struct Family {
    /// `model_type`.
    pub name: &'static str,
    /// transformers' class.
    pub class: &'static str,
    /// `num_key_value_heads` where it is absent; `None`: as many as query heads.
    pub kv_heads: Option<usize>,
    /// `head_dim` where it is absent; `None`: width / heads.
    pub head_dim: Option<usize>,
    /// Which layers have a sliding window.
    pub slides: Slides,
}

/// Which layers of a family have a sliding window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slides {
    /// None.
    Never,
    /// All, or those that `layer_types` names; 4096 tokens where the key is absent.
    Always,
    /// The same with `use_sliding_window`, from `max_window_layers` on.
    IfUsed,
}

/// Projections of a module that have biases together.
#[derive(Debug)]
pub(super) struct Biases {
    /// The key that says so; `None`: they have biases always.
    pub key: Option<&'static str>,
    /// The module that they are in.
    pub module: &'static str,
    /// Their names there.
    pub projections: &'static [&'static str],
}

const ATTENTION: Biases = Biases {
    key: Some("attention_bias"),
    module: "self_attn",
    projections: &["q_proj", "k_proj", "v_proj", "o_proj"],
};
/// llama.cpp's names of q, k and v, apart and in one.
const QKV: Option<&[&str]> = Some(&["attn_q", "attn_k", "attn_v", "attn_qkv"]);
const MLP: Biases = Biases {
    key: Some("mlp_bias"),
    module: "mlp",
    projections: &["gate_proj", "up_proj", "down_proj"],
};

/// All of them.
static DIALECTS: [Dialect; 3] = [
    Dialect {
        architecture: "llama",
        families: &[
            Family {
                name: "llama",
                class: "LlamaForCausalLM",
                kv_heads: None,
                head_dim: None,
                slides: Slides::Never,
            },
            Family {
                name: "mistral",
                class: "MistralForCausalLM",
                kv_heads: Some(8),
                head_dim: None,
                slides: Slides::Always,
            },
        ],
        permuted: true,
        divisors: true,
        any_head_dim: true,
        head_norms: false,
        biased: None,
        biases: &[ATTENTION, MLP],
    },
    Dialect {
        architecture: "qwen2",
        families: &[Family {
            name: "qwen2",
            class: "Qwen2ForCausalLM",
            kv_heads: Some(32),
            head_dim: None,
            slides: Slides::IfUsed,
        }],
        permuted: false,
        divisors: false,
        any_head_dim: false,
        head_norms: false,
        biased: QKV,
        biases: &[Biases {
            key: None,
            module: "self_attn",
            projections: &["q_proj", "k_proj", "v_proj"],
        }],
    },
    Dialect {
        architecture: "qwen3",
        families: &[Family {
            name: "qwen3",
            class: "Qwen3ForCausalLM",
            kv_heads: Some(32),
            head_dim: Some(128),
            slides: Slides::IfUsed,
        }],
        permuted: false,
        divisors: false,
        any_head_dim: true,
        head_norms: true,
        biased: QKV,
        biases: &[ATTENTION],
    },
];

impl Dialect {
    /// That of a file.
    ///
    /// # Errors
    /// A file that names no architecture, or another one.
    pub fn of_file(header: &Header) -> Read<&'static Dialect> {
        let arch = header
            .text("general.architecture")?
            .ok_or("general.architecture is missing")?;
        let found = DIALECTS.iter().find(|d| d.architecture == arch);
        found.ok_or_else(|| {
            let known = DIALECTS.iter().map(|d| d.architecture).collect::<Vec<_>>();
            format!(
                "the GGUF architecture {arch} is not supported; {} are (Mistral goes by llama)",
                known.join(", ")
            )
        })
    }

    /// That in which models of this `model_type` are stored, and the family.
    pub fn of_family(name: &str) -> Option<(&'static Dialect, &'static Family)> {
        let mut all = DIALECTS
            .iter()
            .flat_map(|d| d.families.iter().map(move |f| (d, f)));
        all.find(|(_, family)| family.name == name)
    }

    /// Its first family, as which a file is read.
    pub fn family(&self) -> Option<&'static Family> {
        self.families.first()
    }

    /// A module by Hugging Face's name; `None` for one that llama.cpp does not have here.
    pub fn module(&self, hf: &str) -> Option<Module> {
        let module = names::module(hf)?;
        let norm = names::HEAD_NORMS
            .iter()
            .any(|(_, theirs, _)| *theirs == module.part());
        (self.head_norms || !norm).then_some(module)
    }

    /// [`Dialect::module`] for a tensor, whose name ends with `.weight` or `.bias`.
    pub fn named(&self, hf: &str) -> Option<Module> {
        let (stem, kind) = names::tensor(hf)?;
        let module = self.module(stem)?;
        self.has(module.part(), kind).then(|| Module {
            name: format!("{}.{kind}", module.name),
            ..module
        })
    }

    /// Whether llama.cpp has this kind of tensor, `weight` or `bias`, of a part (`attn_q`).
    pub fn has(&self, part: &str, kind: &str) -> bool {
        kind == "weight" || self.biased.is_none_or(|biased| biased.contains(&part))
    }

    /// Modules that every layer has.
    pub fn parts(&self) -> impl Iterator<Item = names::Part> {
        let norms = names::HEAD_NORMS
            .into_iter()
            .filter(move |_| self.head_norms);
        names::PARTS.into_iter().chain(norms)
    }

    /// The families that can be written, for messages.
    pub fn families() -> String {
        let all = DIALECTS.iter().flat_map(|d| d.families);
        all.map(|f| f.name).collect::<Vec<_>>().join(", ")
    }
}

impl Slides {
    /// The longest a text can be for a model of this configuration without a window cutting
    /// anything off; `None`: no layer has a window.
    pub fn within(self, window: Option<usize>, config: &Value) -> Option<usize> {
        let layers = |key: &str, absent| config.get(key).and_then(Value::as_u64).unwrap_or(absent);
        let named = config.get("layer_types").and_then(Value::as_array);
        let any = match (self, named) {
            (Slides::Never, _) => false,
            (Slides::IfUsed, _) if config.get("use_sliding_window") != Some(&Value::Bool(true)) => {
                false
            }
            (_, Some(kinds)) => kinds.iter().any(|kind| kind == "sliding_attention"),
            (Slides::Always, None) => true,
            (Slides::IfUsed, None) => {
                layers("num_hidden_layers", 0) > layers("max_window_layers", 28)
            }
        };
        window.filter(|_| any)
    }
}

/// A file's keys of its architecture: `block_count` is `llama.block_count`, say.
pub(super) struct Keys<'a> {
    header: &'a Header,
    architecture: &'static str,
}

impl<'a> Keys<'a> {
    /// Those of a file in this dialect.
    pub fn new(header: &'a Header, dialect: &Dialect) -> Self {
        Keys {
            header,
            architecture: dialect.architecture,
        }
    }

    /// A key's whole name.
    pub fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    /// A whole number.
    pub fn whole(&self, key: &str) -> Read<Option<usize>> {
        self.header.whole(&self.name(key))
    }

    /// A whole number that is one, or a list of `layers` equal ones.
    pub fn alike(&self, key: &str, layers: usize) -> Read<Option<usize>> {
        self.header.alike(&self.name(key), layers)
    }

    /// A number.
    pub fn float(&self, key: &str) -> Read<Option<f64>> {
        self.header.float(&self.name(key))
    }

    /// A text.
    pub fn text(&self, key: &str) -> Read<Option<&'a str>> {
        self.header.text(&self.name(key))
    }

    /// True or false.
    pub fn flag(&self, key: &str) -> Read<Option<bool>> {
        Ok(self.header.flag(&self.name(key))?.copied())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_llama_cpp_has_in_this_architecture() {
        let has = |family: &str, name: &str| {
            let (dialect, _) = Dialect::of_family(family).unwrap();
            let named = dialect.named(&format!("model.layers.3.self_attn.{name}"));
            named.map(|module| module.name)
        };
        for (name, stored, families) in [
            ("q_proj.weight", "attn_q.weight", [true, true, true]),
            ("q_proj.bias", "attn_q.bias", [true, true, true]),
            ("o_proj.bias", "attn_output.bias", [true, false, false]),
            ("q_norm.weight", "attn_q_norm.weight", [false, false, true]),
            ("q_norm.bias", "attn_q_norm.bias", [false, false, false]),
        ] {
            for (family, there) in ["mistral", "qwen2", "qwen3"].into_iter().zip(families) {
                let wanted = there.then(|| format!("blk.3.{stored}"));
                assert_eq!(has(family, name), wanted, "{family} {name}");
            }
        }
        assert!(Dialect::of_family("gemma2").is_none());
    }
}
