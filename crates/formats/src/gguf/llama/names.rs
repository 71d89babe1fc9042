//! Mapping between Hugging Face's and llama.cpp's tensor names, and llama.cpp's row order of q and
//! k.

/// Divisors of the rotary frequencies; not a weight of the model.
pub const ROPE_FACTORS: &str = "rope_freqs.weight";

/// The heads that a tensor's rows are, by which some families' are permuted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heads {
    /// Not rows of q or k.
    None,
    /// Query heads.
    Query,
    /// Key heads.
    Key,
}

/// Position of modules after the layers; those before have 0, those of layer n have n + 1.
const LAST: usize = usize::MAX;

/// Modules outside the layers: Hugging Face's name, llama.cpp's, position.
const OUTSIDE: [(&str, &str, usize); 3] = [
    ("model.embed_tokens", "token_embd", 0),
    ("model.norm", "output_norm", LAST),
    ("lm_head", "output", LAST),
];

/// A module of every layer: Hugging Face's name, llama.cpp's, the heads that its rows are.
pub(super) type Part = (&'static str, &'static str, Heads);

/// Norms of the heads of q and k, which not every family has.
pub(super) const HEAD_NORMS: [Part; 2] = [
    ("self_attn.q_norm", "attn_q_norm", Heads::None),
    ("self_attn.k_norm", "attn_k_norm", Heads::None),
];

/// Modules of every layer in all families.
pub(super) const PARTS: [Part; 9] = [
    ("input_layernorm", "attn_norm", Heads::None),
    ("self_attn.q_proj", "attn_q", Heads::Query),
    ("self_attn.k_proj", "attn_k", Heads::Key),
    ("self_attn.v_proj", "attn_v", Heads::None),
    ("self_attn.o_proj", "attn_output", Heads::None),
    ("post_attention_layernorm", "ffn_norm", Heads::None),
    ("mlp.gate_proj", "ffn_gate", Heads::None),
    ("mlp.up_proj", "ffn_up", Heads::None),
    ("mlp.down_proj", "ffn_down", Heads::None),
];

/// A module's name and position in a GGUF file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Module {
    /// llama.cpp's name.
    pub name: String,
    /// Position: the layer's number + 1; 0 before the layers, [`usize::MAX`] after them.
    pub position: usize,
    /// The heads that its rows are.
    pub heads: Heads,
}

impl Module {
    /// llama.cpp's name without the layer: `attn_q`.
    pub fn part(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or(&self.name)
    }
}

/// A module of a layer by either name.
fn part(is: impl Fn(&Part) -> bool) -> Option<Part> {
    PARTS.into_iter().chain(HEAD_NORMS).find(is)
}

/// Maps `model.layers.3.mlp.up_proj` to `blk.3.ffn_up`; `None` for a name that no family has.
pub(super) fn module(hf: &str) -> Option<Module> {
    if let Some((_, name, position)) = OUTSIDE.into_iter().find(|(theirs, ..)| *theirs == hf) {
        return Some(Module {
            name: name.into(),
            position,
            heads: Heads::None,
        });
    }
    let (layer, part) = hf.strip_prefix("model.layers.")?.split_once('.')?;
    let layer: u32 = layer.parse().ok()?;
    let (_, name, heads) = self::part(|(theirs, ..)| *theirs == part)?;
    Some(Module {
        name: format!("blk.{layer}.{name}"),
        position: layer as usize + 1,
        heads,
    })
}

/// Maps `model.layers.3.mlp.up_proj.weight` to `blk.3.ffn_up.weight`; `None` for a name that no
/// family has.
pub fn gguf_name(hf: &str) -> Option<String> {
    let (stem, kind) = tensor(hf)?;
    Some(format!("{}.{kind}", module(stem)?.name))
}

/// Maps `blk.3.ffn_up.weight` to `model.layers.3.mlp.up_proj.weight`; `None` for a name that no
/// family has.
pub fn hf_name(gguf: &str) -> Option<String> {
    let (stem, kind) = tensor(gguf)?;
    if let Some((name, ..)) = OUTSIDE.into_iter().find(|(_, theirs, _)| *theirs == stem) {
        return Some(format!("{name}.{kind}"));
    }
    let (layer, part) = stem.strip_prefix("blk.")?.split_once('.')?;
    let layer: u32 = layer.parse().ok()?;
    let (name, ..) = self::part(|(_, theirs, _)| *theirs == part)?;
    Some(format!("model.layers.{layer}.{name}.{kind}"))
}

/// A tensor's module, and which tensor of it: `weight` or `bias`.
pub(super) fn tensor(name: &str) -> Option<(&str, &str)> {
    let parts = name.rsplit_once('.');
    parts.filter(|(_, kind)| matches!(*kind, "weight" | "bias"))
}

/// The model's row for every stored row. llama.cpp rotates neighbouring features where Hugging Face
/// rotates the two halves of a head, so it stores (head, i, half) where the model has (head, half,
/// i).
pub fn stored_rows(rows: usize, heads: usize) -> Vec<u32> {
    let (size, half) = (rows / heads, rows / heads / 2);
    (0..rows)
        .map(|s| (s / size * size + s % size % 2 * half + s % size / 2) as u32)
        .collect()
}

/// The inverse of [`stored_rows`]: the stored row for every row of the model; `None` if the rows
/// are not divisible into heads of pairs.
pub fn model_rows(rows: usize, heads: usize) -> Option<Vec<u32>> {
    let pairs = heads.checked_mul(2).filter(|pairs| *pairs > 0)?;
    if !rows.is_multiple_of(pairs) {
        return None;
    }
    let size = rows / heads;
    let stored = |row: usize| row / size * size + row % (size / 2) * 2 + row % size / (size / 2);
    Some((0..rows).map(|row| stored(row) as u32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reader_undoes_every_name() {
        let mut names = vec![
            "model.embed_tokens.weight".to_string(),
            "model.norm.weight".into(),
            "lm_head.weight".into(),
        ];
        for (part, ..) in PARTS.into_iter().chain(HEAD_NORMS) {
            names.push(format!("model.layers.12.{part}.weight"));
            names.push(format!("model.layers.12.{part}.bias"));
        }
        for name in names {
            let theirs = gguf_name(&name).unwrap_or_default();
            assert_eq!(hf_name(&theirs), Some(name));
        }
        for odd in [
            "model.layers.0.self_attn.rotary_emb.inv_freq",
            "model.layers.x.mlp.up_proj.weight",
            "transformer.h.0.weight",
        ] {
            assert_eq!(gguf_name(odd), None, "{odd}");
        }
        assert_eq!(hf_name("blk.0.ffn_gate_exps.weight"), None);
    }

    #[test]
    fn halves_become_neighbours() {
        // two heads of four features: rows 0 1 | 2 3 and 4 5 | 6 7
        assert_eq!(stored_rows(8, 2), [0, 2, 1, 3, 4, 6, 5, 7]);
        for (rows, heads) in [(8, 2), (64, 4), (48, 3)] {
            let (stored, model) = (stored_rows(rows, heads), model_rows(rows, heads));
            let model = model.unwrap_or_default();
            assert!((0..rows).all(|row| stored[model[row] as usize] as usize == row));
        }
        assert_eq!((model_rows(6, 2), model_rows(6, 0)), (None, None));
    }
}
