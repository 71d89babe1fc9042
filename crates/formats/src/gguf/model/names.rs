//! Mapping between Hugging Face's and llama.cpp's tensor names by a family's dialect.

use randori_sdk::dialect::{Gguf, Module, Place};

/// Divisors of the rotary frequencies; not a weight of the model.
pub const ROPE_FACTORS: &str = "rope_freqs.weight";
/// Those of long texts, where lengths matter.
pub(super) const ROPE_FACTORS_LONG: &str = "rope_factors_long.weight";
/// Those of short texts, where lengths matter.
pub(super) const ROPE_FACTORS_SHORT: &str = "rope_factors_short.weight";

/// Stands in a name for the number of an expert.
const EXPERT: &str = "{}";

/// A module or tensor of a model by llama.cpp's name.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Named {
    /// llama.cpp's name.
    pub name: String,
    /// Position in a file: the layer's number + 1; 0 before the layers, [`usize::MAX`] after them.
    pub position: usize,
    /// Its expert's number, if the file stacks those of all experts.
    pub expert: Option<usize>,
    /// Whether its rows follow those of the module beside it.
    pub second: bool,
    /// What the dialect says of it.
    pub module: &'static Module,
}

impl Named {
    /// Its layer, if it is in one.
    pub fn layer(&self) -> Option<usize> {
        let inside = self.module.place == Place::Layer;
        self.position.checked_sub(1).filter(|_| inside)
    }
}

/// All modules and raw tensors of a dialect.
pub(super) fn modules(gguf: &Gguf) -> impl Iterator<Item = &'static Module> + Clone + use<> {
    gguf.modules.iter().copied().flatten()
}

/// Maps `model.layers.3.mlp.up_proj` to `blk.3.ffn_up`; `None` for a module that llama.cpp does
/// not have here.
pub(super) fn module(gguf: &Gguf, hf: &str) -> Option<Named> {
    find(gguf, hf, false)
}

/// [`module`] for a tensor, whose name ends with `.weight` or `.bias` if it is not a raw one.
pub(super) fn tensor(gguf: &Gguf, hf: &str) -> Option<Named> {
    if let Some(raw) = find(gguf, hf, true) {
        return Some(raw);
    }
    let (stem, kind) = stem_and_kind(hf)?;
    let named = module(gguf, stem)?;
    has(gguf, named.module.stored, kind).then(|| Named {
        name: format!("{}.{kind}", named.name),
        ..named
    })
}

/// Whether llama.cpp has this kind of tensor, `weight` or `bias`, of a part (`attn_q`).
pub(super) fn has(gguf: &Gguf, part: &str, kind: &str) -> bool {
    kind == "weight" || gguf.biased.is_none_or(|biased| biased.contains(&part))
}

fn find(gguf: &Gguf, hf: &str, raw: bool) -> Option<Named> {
    let mut all = modules(gguf).filter(|m| m.raw == raw);
    let Some((layer, part)) = numbered(hf, "model.layers.") else {
        let module = all.find(|m| m.place != Place::Layer && m.name == hf)?;
        return Some(Named {
            name: module.stored.into(),
            position: if module.place == Place::Before {
                0
            } else {
                usize::MAX
            },
            expert: None,
            second: false,
            module,
        });
    };
    let (expert, second, module) =
        all.filter(|m| m.place == Place::Layer)
            .find_map(|m| match expert_in(m.name, part) {
                Some(expert) => Some((expert, false, m)),
                None => Some((expert_in(m.beside, part)?, true, m)),
            })?;
    Some(Named {
        name: format!("blk.{layer}.{}", module.stored),
        position: layer as usize + 1,
        expert,
        second,
        module,
    })
}

/// Whether a name is that of a module, and of which expert.
fn expert_in(pattern: &str, name: &str) -> Option<Option<usize>> {
    match pattern.split_once(EXPERT) {
        None => (pattern == name).then_some(None),
        Some((start, end)) => {
            let number = name.strip_prefix(start)?.strip_suffix(end)?;
            Some(Some(number.parse().ok()?))
        }
    }
}

/// Splits `blk.3.ffn_up` into the number and what follows.
fn numbered<'a>(name: &'a str, start: &str) -> Option<(u32, &'a str)> {
    let (layer, part) = name.strip_prefix(start)?.split_once('.')?;
    Some((layer.parse().ok()?, part))
}

/// Maps `model.layers.3.mlp.up_proj.weight` to `blk.3.ffn_up.weight`; `None` for a name that the
/// family does not have. All experts' tensors have the name of their stack.
pub fn gguf_name(gguf: &Gguf, hf: &str) -> Option<String> {
    tensor(gguf, hf).map(|named| named.name)
}

/// Maps `blk.3.ffn_up.weight` to `model.layers.3.mlp.up_proj.weight`; `None` for a name that the
/// family does not have. In a stack's name `{}` stands for the number of an expert.
pub fn hf_name(gguf: &Gguf, stored: &str) -> Option<String> {
    back(gguf, stored).map(|(name, _)| name)
}

/// [`hf_name`], with what the dialect says of the module.
pub(super) fn back(gguf: &Gguf, stored: &str) -> Option<(String, &'static Module)> {
    let layered = numbered(stored, "blk.");
    let part = layered.map_or(stored, |(_, part)| part);
    let mut all = modules(gguf).filter(|m| (m.place == Place::Layer) == layered.is_some());
    let (module, kind) = match all.clone().find(|m| m.raw && m.stored == part) {
        Some(raw) => (raw, None),
        None => {
            let (stem, kind) = stem_and_kind(part)?;
            (all.find(|m| !m.raw && m.stored == stem)?, Some(kind))
        }
    };
    let start = layered.map_or(String::new(), |(layer, _)| format!("model.layers.{layer}."));
    let end = kind.map_or(String::new(), |kind| format!(".{kind}"));
    Some((format!("{start}{}{end}", module.name), module))
}

/// The name of an expert's tensor, of that of all of them.
pub(super) fn of_expert(name: &str, expert: usize) -> String {
    name.replacen(EXPERT, &expert.to_string(), 1)
}

/// The names of the modules whose rows are in a file's tensor, of that of the first.
pub(super) fn in_one(name: &str, module: &Module) -> Vec<String> {
    let mut all = vec![name.to_string()];
    if !module.beside.is_empty() {
        all.push(name.replacen(module.name, module.beside, 1));
    }
    all
}

/// Whether a file stacks the tensors of all experts.
pub(super) fn stacked(module: &Module) -> bool {
    module.name.contains(EXPERT)
}

/// A tensor's module, and which tensor of it: `weight` or `bias`.
fn stem_and_kind(name: &str) -> Option<(&str, &str)> {
    let parts = name.rsplit_once('.');
    parts.filter(|(_, kind)| matches!(*kind, "weight" | "bias"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use randori_plugin_qwen2::Qwen2;
    use randori_plugin_qwen3::Qwen3;
    use randori_sdk::DenseFamily;

    use super::*;

    /// Llama's, with experts and a raw tensor besides.
    const ODD: Gguf = Gguf {
        modules: &[
            Module::OUTSIDE,
            Module::ATTENTION_TURNED,
            &[
                Module::new("mlp.experts.{}.up_proj", "ffn_up_exps"),
                Module::raw("self_attn.sinks", "attn_sinks.weight"),
            ],
        ],
        ..Gguf::LLAMA
    };

    #[test]
    fn the_reader_undoes_every_name() {
        let qwen3 = Qwen3::DIALECT.gguf.unwrap();
        for gguf in [Gguf::LLAMA, qwen3, ODD] {
            for module in modules(&gguf) {
                let at = |name: &str| match module.place {
                    Place::Layer => format!("model.layers.12.{name}"),
                    _ => name.to_string(),
                };
                let ends: &[&str] = if module.raw {
                    &[""]
                } else {
                    &[".weight", ".bias"]
                };
                for end in ends {
                    let name = at(&format!("{}{end}", module.name));
                    let Some(theirs) = gguf_name(&gguf, &of_expert(&name, 7)) else {
                        assert!(gguf.biased.is_some() && *end == ".bias", "{name}");
                        continue;
                    };
                    assert_eq!(hf_name(&gguf, &theirs), Some(name));
                }
            }
        }
        for odd in [
            "model.layers.0.self_attn.rotary_emb.inv_freq",
            "model.layers.x.mlp.up_proj.weight",
            "model.layers.0.mlp.experts.x.up_proj.weight",
            "transformer.h.0.weight",
        ] {
            assert_eq!(gguf_name(&ODD, odd), None, "{odd}");
        }
        assert_eq!(hf_name(&ODD, "blk.0.ffn_gate_exps.weight"), None);
        let named = tensor(&ODD, "model.layers.3.mlp.experts.11.up_proj.weight").unwrap();
        let found = (named.name.as_str(), named.expert, named.position);
        assert_eq!(found, ("blk.3.ffn_up_exps.weight", Some(11), 4));
        let sinks = gguf_name(&ODD, "model.layers.3.self_attn.sinks");
        assert_eq!(sinks.as_deref(), Some("blk.3.attn_sinks.weight"));
    }

    #[test]
    fn names_are_those_that_llama_cpp_has_in_this_architecture() {
        let (qwen2, qwen3) = (Qwen2::DIALECT.gguf.unwrap(), Qwen3::DIALECT.gguf.unwrap());
        for (name, stored, there) in [
            ("q_proj.weight", "attn_q.weight", [true, true, true]),
            ("q_proj.bias", "attn_q.bias", [true, true, true]),
            ("o_proj.bias", "attn_output.bias", [true, false, false]),
            ("q_norm.weight", "attn_q_norm.weight", [false, false, true]),
            ("q_norm.bias", "attn_q_norm.bias", [false, false, false]),
        ] {
            for (gguf, there) in [Gguf::LLAMA, qwen2, qwen3].iter().zip(there) {
                let found = gguf_name(gguf, &format!("model.layers.3.self_attn.{name}"));
                let wanted = there.then(|| format!("blk.3.{stored}"));
                assert_eq!(found, wanted, "{} {name}", gguf.architecture);
            }
        }
    }
}
