//! Hugging Face's tensor names as llama.cpp's, and the order in which llama.cpp keeps the rows of q and k.

/// What a tensor of the model is in a GGUF file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    /// llama.cpp's name, `.weight` or `.bias` included.
    pub name: String,
    /// Where it belongs: before the layers (0), layer n (n + 1), after them.
    pub place: usize,
    /// Whether its rows are permuted, and by which heads.
    pub heads: Heads,
}

/// Whose heads permute a tensor's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heads {
    /// Nobody's.
    None,
    /// The queries'.
    Query,
    /// The keys'.
    Key,
}

/// Of every layer: Hugging Face's part, llama.cpp's part.
pub(super) const PARTS: [(&str, &str, Heads); 9] = [
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

/// `model.layers.3.mlp.up_proj.weight` -> `blk.3.ffn_up.weight`; `None` for a name that is not Llama's.
pub(super) fn named(hf: &str) -> Option<Named> {
    let (stem, kind) = hf
        .rsplit_once('.')
        .filter(|(_, kind)| matches!(*kind, "weight" | "bias"))?;
    let (name, place, heads) = module(stem)?;
    Some(Named {
        name: format!("{name}.{kind}"),
        place,
        heads,
    })
}

/// The same without `.weight`: llama.cpp's name, its place, its heads.
pub(super) fn module(hf: &str) -> Option<(String, usize, Heads)> {
    match hf {
        "model.embed_tokens" => return Some(("token_embd".into(), 0, Heads::None)),
        "model.norm" => return Some(("output_norm".into(), usize::MAX, Heads::None)),
        "lm_head" => return Some(("output".into(), usize::MAX, Heads::None)),
        _ => {}
    }
    let (layer, part) = hf.strip_prefix("model.layers.")?.split_once('.')?;
    let layer: u32 = layer.parse().ok()?;
    let (_, part, heads) = PARTS.iter().find(|(theirs, ..)| *theirs == part)?;
    Some((format!("blk.{layer}.{part}"), layer as usize + 1, *heads))
}

/// llama.cpp rotates neighbouring features where Hugging Face rotates the two halves of a head; so it keeps row
/// (head, i, half) where the model has (head, half, i). Answers the model's row for every stored one.
pub(super) fn stored_rows(rows: usize, heads: usize) -> Vec<u32> {
    let (size, half) = (rows / heads, rows / heads / 2);
    (0..rows)
        .map(|s| (s / size * size + s % size % 2 * half + s % size / 2) as u32)
        .collect()
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
        for (part, ..) in PARTS {
            names.push(format!("model.layers.12.{part}.weight"));
            names.push(format!("model.layers.12.{part}.bias"));
        }
        for name in names {
            let Some(n) = named(&name) else {
                panic!("{name}")
            };
            assert_eq!(
                randori_engine::weights::hf_name(&n.name).as_deref(),
                Some(name.as_str())
            );
        }
        for odd in [
            "model.layers.0.self_attn.rotary_emb.inv_freq",
            "model.layers.x.mlp.up_proj.weight",
            "transformer.h.0.weight",
        ] {
            assert_eq!(named(odd), None, "{odd}");
        }
    }

    #[test]
    fn halves_become_neighbours() {
        // two heads of four features: rows 0 1 | 2 3 and 4 5 | 6 7
        assert_eq!(stored_rows(8, 2), [0, 2, 1, 3, 4, 6, 5, 7]);
    }
}
