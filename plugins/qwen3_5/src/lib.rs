//! Qwen3.5's language model (Qwen Team 2026): a hybrid in which every fourth layer
//! (`full_attention_interval`, or as `layer_types` says) attends, and the others write into a state
//! by the gated delta rule (Yang et al. 2024, arXiv 2412.06464). Norms multiply by 1 + w.
//!
//! A layer that attends projects to queries and, beside each head's, a gate: its output is
//! o(attention · sigmoid(gate)). Heads of queries and keys are normed, then the first quarter
//! (`partial_rotary_factor`) of each is rotated; the three axes of positions in pictures are one in
//! text. The others' queries, keys and values are one projection, convolved with the tokens before
//! and put through SiLU. Queries and keys then have length 1, queries divided by √features; a token
//! writes with sigmoid(b) and forgets by -e^A_log · softplus(a + dt_bias). What it reads is normed,
//! by w itself, and gated by silu(z). Each head of keys serves consecutive heads of values.

use randori_sdk::{
    Absent, Arch, Attn, Config, Dense, Dialect, Graph, Layers, Result, Rope, RopeRules, Share,
    Tensor,
    dialect::{Form, Gguf, Grouped, Implied, Key, Module, Order, Size},
    plugin,
};

/// Qwen3.5's language model.
pub struct Qwen35 {
    /// Sizes, norms, perceptron, embedding and head.
    dense: Dense,
    attention_bias: bool,
    rope: Rope,
    /// The layers that attend; the others have a state.
    attending: Layers,
    /// Heads of queries and keys in the others, and their features.
    key: Heads,
    /// Heads of values there, and their features.
    value: Heads,
    taps: usize,
}

/// Heads of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Heads {
    count: usize,
    features: usize,
}

impl Heads {
    fn width(self) -> usize {
        self.count * self.features
    }
}

/// transformers' defaults of absent keys.
const ABSENT: Absent = Absent {
    heads: Some(16),
    kv_heads: Some(4),
    head_dim: Some(256),
    vocab: Some(248_320),
    ..Absent::LLAMA
};
/// What its class makes of rotary keys.
const ROPE: RopeRules = RopeRules {
    share: Share::Part(0.25),
    ..RopeRules::PART
};
/// Added to the squared length of a query or key before its root is taken.
const LENGTH_EPS: f64 = 1e-6;

/// How llama.cpp stores it. Heads of values are dealt out over those of keys, the state's norm
/// alone is stored without 1 added, and what predicts further tokens are blocks behind its own.
const GGUF: Gguf = Gguf {
    architecture: "qwen35",
    modules: &[
        &[
            Module::EMBEDDING,
            Module::NORM_PLUS,
            Module::HEAD,
            Module::new("input_layernorm", "attn_norm").plus_one(),
            Module::new("post_attention_layernorm", "post_attention_norm").plus_one(),
        ],
        &[
            Module::new("self_attn.q_proj", "attn_q").sized(Size::Free, Size::Width),
            Module::new("self_attn.k_proj", "attn_k").sized(Size::Key, Size::Width),
            Module::new("self_attn.v_proj", "attn_v").sized(Size::Key, Size::Width),
            Module::new("self_attn.o_proj", "attn_output").sized(Size::Width, Size::Query),
            Module::new("self_attn.q_norm", "attn_q_norm").plus_one(),
            Module::new("self_attn.k_norm", "attn_k_norm").plus_one(),
        ],
        &[
            Module::new("linear_attn.in_proj_qkv", "attn_qkv").ordered(Order::GroupedLast),
            Module::new("linear_attn.in_proj_z", "attn_gate").ordered(Order::Grouped),
            Module::new("linear_attn.in_proj_a", "ssm_alpha").ordered(Order::Grouped),
            Module::new("linear_attn.in_proj_b", "ssm_beta").ordered(Order::Grouped),
            Module::raw("linear_attn.A_log", "ssm_a")
                .ordered(Order::Grouped)
                .minus_exp(),
            Module::raw("linear_attn.dt_bias", "ssm_dt.bias").ordered(Order::Grouped),
            Module::new("linear_attn.conv1d", "ssm_conv1d")
                .ordered(Order::GroupedLast)
                .squeezed(),
            Module::new("linear_attn.norm", "ssm_norm"),
            Module::new("linear_attn.out_proj", "ssm_out").ordered(Order::GroupedColumns),
        ],
        Module::MLP,
    ],
    biased: Some(&[]),
    partial_rotary: true,
    nextn: true,
    grouped: Some(Grouped {
        keys: "linear_num_key_heads",
        values: "linear_num_value_heads",
        features: "linear_value_head_dim",
    }),
    keys: &[
        Key::whole("ssm.conv_kernel", &["linear_conv_kernel_dim"]).required(),
        Key::whole("ssm.state_size", &["linear_key_head_dim"]).required(),
        Key::whole("ssm.group_count", &["linear_num_key_heads"]).required(),
        Key::whole("ssm.time_step_rank", &["linear_num_value_heads"]).required(),
        Key::whole("ssm.inner_size", &["linear_value_head_dim"])
            .times("linear_num_value_heads")
            .required(),
        Key::whole("full_attention_interval", &["full_attention_interval"]),
        Key::whole("attention.recurrent_layers", &["layer_types"])
            .between(&["full_attention", "linear_attention"]),
        Key::whole(
            "rope.dimension_sections",
            &["rope_parameters.mrope_section"],
        )
        .of(Form::Four)
        .required(),
    ],
    // llama.cpp has one size for heads of keys and of values
    implied: &[
        Implied::SILU,
        Implied::json("attention_bias", &["false"]),
        Implied::same_as("linear_value_head_dim", &["linear_key_head_dim"]).unsaid(),
    ],
    hybrid: true,
    ..Gguf::HALVES
};

impl Arch for Qwen35 {
    const NAME: &'static str = "qwen3_5_text";
    const DOC: &'static str = "Qwen3.5, the language model: delta rules, every 4th layer attends";
    const DIALECT: Dialect = Dialect {
        class: "Qwen3_5ForCausalLM",
        wholes: &["qwen3_5"],
        prefixes: Dialect::PREFIXES,
        ignored: &["model.visual.*", "visual.*", "mtp.*"],
        defaults: r#"{"num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 256,
            "partial_rotary_factor": 0.25, "full_attention_interval": 4,
            "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
            "linear_num_key_heads": 16, "linear_num_value_heads": 32,
            "rope_parameters": {"mrope_section": [11, 11, 10]}}"#,
        gguf: Some(GGUF),
        ..Dialect::NONE
    };

    fn new(c: &Config) -> Result<Self> {
        c.only("hidden_act", &["silu", "swish"])?;
        let dense = Dense::sizes(c, ABSENT)?;
        let heads = |kind: &str, count, features| -> Result<Heads> {
            let names = [
                format!("linear_num_{kind}_heads"),
                format!("linear_{kind}_head_dim"),
            ];
            let [count, features] = [
                c.usize_or(&names[0], count)?,
                c.usize_or(&names[1], features)?,
            ];
            match [count, features].iter().position(|n| *n == 0) {
                Some(zero) => Err(c.error(&names[zero], "is 0")),
                None => Ok(Heads { count, features }),
            }
        };
        let (key, value) = (heads("key", 16, 128)?, heads("value", 32, 128)?);
        if value.count % key.count != 0 {
            let what = format!(
                "is {}, no multiple of linear_num_key_heads ({})",
                value.count, key.count
            );
            return Err(c.error("linear_num_value_heads", &what));
        }
        let taps = c.usize_or("linear_conv_kernel_dim", 4)?;
        if taps == 0 {
            return Err(c.error("linear_conv_kernel_dim", "is 0: no token would see itself"));
        }
        Ok(Qwen35 {
            attention_bias: c.bool_or("attention_bias", false)?,
            rope: ROPE.read(c, dense.head_dim)?,
            attending: attending(c, &dense)?,
            key,
            value,
            taps,
            dense: Dense {
                norm_plus: 1.0,
                ..dense
            },
        })
    }

    fn layers(&self) -> usize {
        self.dense.layers
    }

    fn embed<'g>(&self, g: &Graph<'g>, ids: Tensor<'g>) -> Tensor<'g> {
        self.dense.embed(g, ids)
    }

    fn block<'g>(&self, g: &Graph<'g>, layer: usize, x: Tensor<'g>) -> Tensor<'g> {
        let g = &g.scope(format_args!("model.layers.{layer}"));
        let h = self.norm(g, "input_layernorm", x);
        let x = x + match self.attending.has(layer) {
            true => self.attention(&g.scope("self_attn"), h),
            false => self.memory(&g.scope("linear_attn"), h),
        };
        x + self
            .dense
            .mlp(g, self.norm(g, "post_attention_layernorm", x))
    }

    fn head<'g>(&self, g: &Graph<'g>, x: Tensor<'g>) -> Tensor<'g> {
        self.dense.head(g, x)
    }
}

impl Qwen35 {
    fn norm<'g>(&self, g: &Graph<'g>, name: &str, x: Tensor<'g>) -> Tensor<'g> {
        g.rms_norm_plus(name, x, self.dense.eps, 1.0)
    }

    /// (tokens, width) -> (tokens, width).
    fn attention<'g>(&self, g: &Graph<'g>, x: Tensor<'g>) -> Tensor<'g> {
        let Dense {
            width,
            heads,
            kv_heads,
            head_dim,
            ..
        } = self.dense;
        let project = |name, heads: usize, features| {
            let y = g.linear_with(name, x, heads * features, self.attention_bias);
            y.heads(heads) // (tokens, heads, features)
        };
        let turned = |norm, y| self.norm(g, norm, y).rope(&self.rope);
        let both = project("q_proj", heads, 2 * head_dim); // of each head q, then its gate
        let gate = both.narrow(head_dim, head_dim).merge().sigmoid();
        let q = turned("q_norm", both.narrow(0, head_dim));
        let k = turned("k_norm", project("k_proj", kv_heads, head_dim));
        let v = project("v_proj", kv_heads, head_dim);
        let y = g.attention(q, k, v, Attn::default()).merge() * gate;
        g.linear_with("o_proj", y, width, self.attention_bias)
    }

    /// The gated delta rule: (tokens, width) -> (tokens, width).
    fn memory<'g>(&self, g: &Graph<'g>, x: Tensor<'g>) -> Tensor<'g> {
        let (key, value) = (self.key, self.value);
        let qkv = g.linear("in_proj_qkv", x, 2 * key.width() + value.width());
        let qkv = g.conv("conv1d", qkv, self.taps, false).silu();
        let features = key.features as f64;
        // of length 1: √features too long as a norm leaves it
        let unit = |start| {
            let y = qkv.narrow(start, key.width()).heads(key.count);
            y.rms_norm(LENGTH_EPS / features) * features.powf(-0.5)
        };
        let q = unit(0) * features.powf(-0.5);
        let k = unit(key.width());
        let v = qkv
            .narrow(2 * key.width(), value.width())
            .heads(value.count);
        let strength = g.linear("in_proj_b", x, value.count).sigmoid();
        let parameter = |name| g.param(name, &[value.count]);
        let step = (g.linear("in_proj_a", x, value.count) + parameter("dt_bias")).softplus();
        let decay = -(step * parameter("A_log").exp());
        let read = g.delta_rule(q, k, v, strength, decay); // (tokens, heads, features)
        let read = g.rms_norm("norm", read, self.dense.eps).merge();
        let gate = g.linear("in_proj_z", x, value.width()).silu();
        g.linear("out_proj", gate * read, self.dense.width)
    }
}

/// The layers that attend.
fn attending(c: &Config, dense: &Dense) -> Result<Layers> {
    let Some(kinds) = dense.layer_types(c)? else {
        return match c.usize_or("full_attention_interval", 4)? {
            0 => Err(c.error("full_attention_interval", "is 0")),
            interval => Ok(Layers::Every(interval)),
        };
    };
    let attends = |kind: &&str| match *kind {
        "full_attention" => Ok(true),
        "linear_attention" => Ok(false),
        other => {
            let what = format!("has \"{other}\"; supported: full_attention, linear_attention");
            Err(c.error("layer_types", &what))
        }
    };
    Ok(Layers::Listed(
        kinds.iter().map(attends).collect::<Result<_>>()?,
    ))
}

plugin!("The Qwen3.5 family", arch Qwen35);

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"{"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 24,
        "num_hidden_layers": 5, "vocab_size": 32"#;

    fn new(more: &str) -> Result<Qwen35> {
        Qwen35::new(&Config::parse(&format!("{SMALL}{more}}}"))?)
    }

    #[test]
    fn absent_keys_are_its_class_s() {
        let plain = new("").unwrap();
        let dense = &plain.dense;
        assert_eq!((dense.kv_heads, dense.head_dim), (4, 256)); // not width / heads
        assert_eq!((dense.eps, dense.norm_plus, dense.tied), (1e-6, 1.0, false));
        let heads = |count, features| Heads { count, features };
        assert_eq!((plain.key, plain.value), (heads(16, 128), heads(32, 128)));
        assert_eq!((plain.taps, plain.attention_bias), (4, false));
        assert!(new(r#", "attention_bias": true"#).unwrap().attention_bias);
    }

    #[test]
    fn a_quarter_of_each_head_is_rotated_whatever_pictures_positions_are() {
        assert_eq!(new("").unwrap().rope.inv_freq.len(), 32);
        let sections = r#", "head_dim": 64, "rope_parameters": {"rope_type": "default",
            "rope_theta": 10000000, "partial_rotary_factor": 0.5, "mrope_interleaved": true,
            "mrope_section": [11, 11, 10]}"#;
        let rope = new(sections).unwrap().rope;
        assert_eq!((rope.inv_freq.len(), rope.interleaved), (16, false));
        assert!((rope.inv_freq[1] - 1e7f32.powf(-1.0 / 16.0)).abs() < 1e-7);
    }

    #[test]
    fn every_fourth_layer_attends_or_those_that_are_named() {
        let of = |more: &str| [0, 1, 2, 3, 4].map(|i| new(more).unwrap().attending.has(i));
        assert_eq!(of(""), [false, false, false, true, false]);
        let every = r#", "full_attention_interval": 2"#;
        assert_eq!(of(every), [false, true, false, true, false]);
        let named = r#", "full_attention_interval": 2, "layer_types": ["full_attention",
            "linear_attention", "linear_attention", "linear_attention", "full_attention"]"#;
        assert_eq!(of(named), [true, false, false, false, true]);
    }

    #[test]
    fn refuses_what_it_cannot_compute() {
        for (more, says) in [
            (r#", "hidden_act": "gelu""#, "supported: silu"),
            (
                r#", "linear_num_value_heads": 24"#,
                "is 24, no multiple of linear_num_key_heads (16)",
            ),
            (
                r#", "linear_key_head_dim": 0"#,
                "`linear_key_head_dim` is 0",
            ),
            (
                r#", "linear_conv_kernel_dim": 0"#,
                "no token would see itself",
            ),
            (r#", "full_attention_interval": 0"#, "is 0"),
            (
                r#", "layer_types": ["full_attention"]"#,
                "has 1 entries for 5 layers",
            ),
        ] {
            let error = new(more).err().unwrap().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
