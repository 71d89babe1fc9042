//! llama.cpp's tensor names as Hugging Face's.

/// Divisors of the rotary frequencies (Llama 3's scaling); no weight of the model.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// `blk.3.ffn_up.weight` -> `model.layers.3.mlp.up_proj.weight`; `None` for a name that is not Llama's.
pub fn hf_name(gguf: &str) -> Option<String> {
    let (stem, kind) = gguf
        .rsplit_once('.')
        .filter(|(_, kind)| matches!(*kind, "weight" | "bias"))?;
    let whole = match stem {
        "token_embd" => Some("model.embed_tokens"),
        "output_norm" => Some("model.norm"),
        "output" => Some("lm_head"),
        _ => None,
    };
    if let Some(name) = whole {
        return Some(format!("{name}.{kind}"));
    }
    let (layer, part) = stem.strip_prefix("blk.")?.split_once('.')?;
    let layer: u32 = layer.parse().ok()?;
    let part = match part {
        "attn_norm" => "input_layernorm",
        "ffn_norm" => "post_attention_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        _ => return None,
    };
    Some(format!("model.layers.{layer}.{part}.{kind}"))
}
