//! LFM2 (Liquid AI 2025, arXiv 2511.23404): a hybrid of attention and short convolutions.
//!
//! Every block is x += operator(norm x); x += perceptron(norm x). In the layers that `layer_types`
//! (or `full_attn_idxs`) names the operator is attention with an RMS norm of each head of queries
//! and keys before they are rotated; in the others a gated convolution: of B, C and x, which one
//! projection makes, out(C · conv(B · x)), where `conv` sees a channel's last `conv_L_cache` (3)
//! tokens and has no activation. Where no key names the layers, all attend.
//!
//! The width inside the perceptron is `block_ff_dim` (or `intermediate_size`) itself only without
//! `block_auto_adjust_ff_dim`; with it, which is the default, two thirds of that, times
//! `block_ffn_dim_multiplier` (1) and up to a multiple of `block_multiple_of` (256). The last norm
//! is `embedding_norm`, though it is applied at the end. Embedding and head are one unless
//! `tie_embedding` (or `tie_word_embeddings`) says otherwise.

use randori_sdk::{
    Arch, Attn, Config, Dialect, Graph, Layers, Result, Rope, RopeRules, Tensor,
    dialect::{Gguf, Headless, Implied, Key, Module, Place, Renamed, Size},
    plugin,
};

/// The LFM2 family.
pub struct Lfm2 {
    vocab: usize,
    width: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    ffn: usize,
    eps: f64,
    tied: bool,
    taps: usize,
    /// The convolution and both projections around it have biases.
    conv_bias: bool,
    rope: Rope,
    /// The layers that attend; the others convolve.
    attending: Layers,
}

/// What its class makes of rotary keys.
const ROPE: RopeRules = RopeRules {
    theta: 1e6,
    ..RopeRules::WHOLE
};

/// How llama.cpp stores it: layers that convolve have no key-value heads; the perceptron's width is
/// what comes out, not what the configuration says.
const GGUF: Gguf = Gguf {
    architecture: "lfm2",
    modules: &[
        &[
            Module::EMBEDDING,
            Module::new("model.embedding_norm", "token_embd_norm").at(Place::After),
            Module::HEAD,
            Module::new("operator_norm", "attn_norm"),
            Module::new("ffn_norm", "ffn_norm"),
            Module::new("feed_forward.w1", "ffn_gate").sized(Size::Free, Size::Width),
            Module::new("feed_forward.w3", "ffn_up").sized(Size::Free, Size::Width),
            Module::new("feed_forward.w2", "ffn_down").sized(Size::Width, Size::Free),
        ],
        &[
            Module::new("self_attn.q_proj", "attn_q").sized(Size::Query, Size::Width),
            Module::new("self_attn.k_proj", "attn_k").sized(Size::Key, Size::Width),
            Module::new("self_attn.v_proj", "attn_v").sized(Size::Key, Size::Width),
            Module::new("self_attn.out_proj", "attn_output").sized(Size::Width, Size::Query),
            Module::new("self_attn.q_layernorm", "attn_q_norm"),
            Module::new("self_attn.k_layernorm", "attn_k_norm"),
        ],
        &[
            Module::new("conv.in_proj", "shortconv.in_proj").sized(Size::Free, Size::Width),
            Module::new("conv.conv", "shortconv.conv").squeezed(),
            Module::new("conv.out_proj", "shortconv.out_proj").sized(Size::Width, Size::Width),
        ],
    ],
    biased: Some(&[]),
    any_head_dim: false,
    headless: Some(Headless {
        kind: "conv",
        others: "full_attn_idxs",
    }),
    ffn: "feed_forward.w1",
    renamed: &[
        Renamed::new("rms_norm_eps", "norm_eps"),
        Renamed::new("tie_word_embeddings", "tie_embedding").older(),
        Renamed::new("intermediate_size", "block_ff_dim").older(),
    ],
    keys: &[Key::whole("shortconv.l_cache", &["conv_L_cache"]).required()],
    implied: &[
        Implied::json("conv_bias", &["false"]),
        Implied::json("block_auto_adjust_ff_dim", &["false"]).told_by_tensors(),
    ],
    hybrid: true,
    ..Gguf::HALVES
};

impl Arch for Lfm2 {
    const NAME: &'static str = "lfm2";
    const DOC: &'static str = "LFM2: gated short convolutions, and attention in some layers";
    const DIALECT: Dialect = Dialect {
        class: "Lfm2ForCausalLM",
        defaults: r#"{"tie_word_embeddings": true, "num_key_value_heads": 8,
            "max_position_embeddings": 128000, "hidden_size": 2560, "num_attention_heads": 32,
            "num_hidden_layers": 32, "intermediate_size": 12288, "rms_norm_eps": 1e-5,
            "rope_theta": 1e6, "conv_L_cache": 3}"#,
        gguf: Some(GGUF),
        ..Dialect::NONE
    };

    fn new(c: &Config) -> Result<Self> {
        let (width, heads) = (
            c.usize_or("hidden_size", 2560)?,
            c.usize_or("num_attention_heads", 32)?,
        );
        let kv_heads = c.usize_or("num_key_value_heads", 8)?;
        for (key, count, of) in [
            ("num_attention_heads", heads, width),
            ("num_key_value_heads", kv_heads, heads),
        ] {
            if count == 0 || of % count != 0 {
                let what = format!("is {count}, which does not divide {of}");
                return Err(c.error(key, &what));
            }
        }
        let head_dim = c.usize_or("head_dim", width / heads)?;
        let layers = c.usize_or("num_hidden_layers", 32)?;
        let taps = c.usize_or("conv_L_cache", 3)?;
        if taps == 0 {
            return Err(c.error("conv_L_cache", "is 0: no token would see itself"));
        }
        let tied = c.bool_or("tie_word_embeddings", true)?;
        Ok(Lfm2 {
            vocab: c.usize_or("vocab_size", 65536)?,
            width,
            layers,
            heads,
            kv_heads,
            head_dim,
            ffn: ffn(c)?,
            eps: c.f64_or("norm_eps", 1e-5)?,
            tied: c.bool_or("tie_embedding", tied)?,
            taps,
            conv_bias: c.bool_or("conv_bias", false)?,
            rope: ROPE.read(c, head_dim)?,
            attending: attending(c, layers)?,
        })
    }

    fn layers(&self) -> usize {
        self.layers
    }

    fn embed<'g>(&self, g: &Graph<'g>, ids: Tensor<'g>) -> Tensor<'g> {
        g.embed("model.embed_tokens", ids, self.vocab, self.width)
    }

    fn block<'g>(&self, g: &Graph<'g>, layer: usize, x: Tensor<'g>) -> Tensor<'g> {
        let g = &g.scope(format_args!("model.layers.{layer}"));
        let h = g.rms_norm("operator_norm", x, self.eps);
        let x = x + match self.attending.has(layer) {
            true => self.attention(&g.scope("self_attn"), h),
            false => self.convolution(&g.scope("conv"), h),
        };
        let h = g.rms_norm("ffn_norm", x, self.eps);
        let g = g.scope("feed_forward");
        let gate = g.linear("w1", h, self.ffn).silu();
        x + g.linear("w2", gate * g.linear("w3", h, self.ffn), self.width)
    }

    fn head<'g>(&self, g: &Graph<'g>, x: Tensor<'g>) -> Tensor<'g> {
        let name = match self.tied {
            true => "model.embed_tokens",
            false => "lm_head",
        };
        let x = g.rms_norm("model.embedding_norm", x, self.eps);
        g.linear(name, x, self.vocab)
    }
}

impl Lfm2 {
    /// (tokens, width) -> (tokens, width).
    fn attention<'g>(&self, g: &Graph<'g>, x: Tensor<'g>) -> Tensor<'g> {
        let project = |name, heads| g.linear(name, x, heads * self.head_dim).heads(heads);
        let turned = |name, norm, heads| {
            let normed = g.rms_norm(norm, project(name, heads), self.eps);
            normed.rope(&self.rope) // (tokens, heads, head_dim)
        };
        let q = turned("q_proj", "q_layernorm", self.heads);
        let k = turned("k_proj", "k_layernorm", self.kv_heads);
        let v = project("v_proj", self.kv_heads);
        let y = g.attention(q, k, v, Attn::default()).merge();
        g.linear("out_proj", y, self.width)
    }

    /// (tokens, width) -> (tokens, width).
    fn convolution<'g>(&self, g: &Graph<'g>, x: Tensor<'g>) -> Tensor<'g> {
        let width = self.width;
        let all = g.linear_with("in_proj", x, 3 * width, self.conv_bias);
        let [b, c, x] = [0, 1, 2].map(|part| all.narrow(part * width, width));
        let y = c * g.conv("conv", b * x, self.taps, self.conv_bias);
        g.linear_with("out_proj", y, width, self.conv_bias)
    }
}

/// Features inside the perceptron.
fn ffn(c: &Config) -> Result<usize> {
    let said = c.usize_or("intermediate_size", 12288)?;
    let said = c.usize_or("block_ff_dim", said)?;
    if !c.bool_or("block_auto_adjust_ff_dim", true)? {
        return Ok(said);
    }
    let inside = (2.0 * said as f64 / 3.0) as usize;
    // null: not even up to a multiple
    let Some(factor) = c.f64_unless_null("block_ffn_dim_multiplier", 1.0)? else {
        return Ok(inside);
    };
    if !(0.0..=1e6).contains(&factor) {
        let what = format!("must be from 0 to 1e6, is {factor}");
        return Err(c.error("block_ffn_dim_multiplier", &what));
    }
    let inside = (factor * inside as f64) as usize;
    match c.usize_or("block_multiple_of", 256)? {
        0 => Err(c.error("block_multiple_of", "is 0")),
        multiple => Ok(inside.div_ceil(multiple) * multiple),
    }
}

/// The layers that attend.
fn attending(c: &Config, layers: usize) -> Result<Layers> {
    if let Some(kinds) = c.strs("layer_types")? {
        if kinds.len() != layers {
            let what = format!("has {} entries for {layers} layers", kinds.len());
            return Err(c.error("layer_types", &what));
        }
        let attends = |kind: &&str| match *kind {
            "full_attention" => Ok(true),
            "conv" => Ok(false),
            other => {
                let what = format!("has \"{other}\"; supported: full_attention, conv");
                Err(c.error("layer_types", &what))
            }
        };
        return Ok(Layers::Listed(
            kinds.iter().map(attends).collect::<Result<_>>()?,
        ));
    }
    let Some(named) = c.f64s("full_attn_idxs")? else {
        return Ok(Layers::ALL);
    };
    if let Some(other) = named.iter().find(|n| !(0.0..layers as f64).contains(*n)) {
        let what = format!("has {other}, which is no layer of {layers}");
        return Err(c.error("full_attn_idxs", &what));
    }
    let last = named.iter().fold(0.0, |last, n| f64::max(last, *n)) as usize;
    let attends = (0..=last).map(|layer| named.contains(&(layer as f64)));
    Ok(Layers::Listed(attends.collect()))
}

plugin!("The LFM2 family", arch Lfm2);

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"{"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2,
        "num_hidden_layers": 3, "vocab_size": 32"#;

    fn new(more: &str) -> Result<Lfm2> {
        Lfm2::new(&Config::parse(&format!("{SMALL}{more}}}"))?)
    }

    #[test]
    fn absent_keys_are_its_class_s() {
        let plain = new("").unwrap();
        assert!(plain.tied && !plain.conv_bias);
        assert_eq!((plain.head_dim, plain.taps, plain.eps), (4, 3, 1e-5));
        assert!((plain.rope.inv_freq[1] - 1e-3).abs() < 1e-9);
        assert!([0, 1, 2].iter().all(|layer| plain.attending.has(*layer)));
        assert!(new(r#", "conv_bias": true"#).unwrap().conv_bias);
        // v4's key counts, also beside v5's
        for tied in [
            r#", "tie_embedding": false"#,
            r#", "tie_word_embeddings": false"#,
            r#", "tie_embedding": false, "tie_word_embeddings": true"#,
        ] {
            assert!(!new(tied).unwrap().tied, "{tied}");
        }
    }

    #[test]
    fn the_perceptron_is_two_thirds_as_wide_as_said_up_to_a_multiple() {
        let ffn = |more: &str| new(more).unwrap().ffn;
        assert_eq!(ffn(""), 8192); // of 12288
        assert_eq!(ffn(r#", "block_ff_dim": 6656"#), 4608);
        assert_eq!(
            ffn(r#", "block_ff_dim": 6656, "intermediate_size": 9"#),
            4608
        );
        let plain = r#", "block_auto_adjust_ff_dim": false, "intermediate_size""#;
        assert_eq!(ffn(&format!("{plain}: 7")), 7);
        let odd = r#", "intermediate_size": 100, "block_multiple_of": 8"#;
        assert_eq!(ffn(odd), 72); // 66
        assert_eq!(
            ffn(&format!("{odd}, \"block_ffn_dim_multiplier\": 1.5")),
            104
        );
        assert_eq!(
            ffn(&format!("{odd}, \"block_ffn_dim_multiplier\": null")),
            66
        );
    }

    #[test]
    fn either_key_names_the_layers_that_attend() {
        let of = |more: &str| [0, 1, 2].map(|layer| new(more).unwrap().attending.has(layer));
        assert_eq!(of(r#", "full_attn_idxs": [1]"#), [false, true, false]);
        assert_eq!(of(r#", "full_attn_idxs": []"#), [false; 3]);
        let kinds = r#", "layer_types": ["conv", "full_attention", "conv"], "full_attn_idxs": [0]"#;
        assert_eq!(of(kinds), [false, true, false]);
    }

    #[test]
    fn refuses_what_it_cannot_compute() {
        for (more, says) in [
            (r#", "conv_L_cache": 0"#, "`conv_L_cache` is 0"),
            (
                r#", "num_key_value_heads": 3"#,
                "is 3, which does not divide 4",
            ),
            (r#", "layer_types": ["conv"]"#, "has 1 entries for 3 layers"),
            (
                r#", "layer_types": ["conv", "conv", "sliding_attention"]"#,
                "has \"sliding_attention\"; supported",
            ),
            (
                r#", "full_attn_idxs": [3]"#,
                "has 3, which is no layer of 3",
            ),
            (r#", "block_multiple_of": 0"#, "`block_multiple_of` is 0"),
            (
                r#", "block_ffn_dim_multiplier": -1"#,
                "must be from 0 to 1e6, is -1",
            ),
        ] {
            let error = new(more).err().unwrap().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
