//! Parts of dialects that several families share.

use super::{
    Biases, Dialect, Divisors, Gguf, Grouped, Headless, Implied, Kinds, Layout, Module, Order,
    Place, Prefix, Size, Sliding, Stack, Values,
};

impl Dialect {
    /// How tensors of the text part begin in checkpoints of models of several parts.
    pub const PREFIXES: &'static [Prefix] = &[
        Prefix::new("model.language_model.", "model."),
        Prefix::new("language_model.model.", "model."),
        Prefix::new("language_model.lm_head.", "lm_head."),
    ];

    /// Tensors of what looks at pictures, in most models of several parts; for `ignored`.
    pub const VISION: &'static [&'static str] = &[
        "model.vision_tower.*",
        "vision_tower.*",
        "model.multi_modal_projector.*",
        "multi_modal_projector.*",
    ];
}

impl Prefix {
    pub(super) const NONE: Prefix = Prefix {
        stored: "",
        name: "",
    };

    /// Names that begin with `stored` in a checkpoint and with `name` here.
    pub const fn new(stored: &'static str, name: &'static str) -> Self {
        Prefix { stored, name }
    }
}

impl Stack {
    pub(super) const NONE: Stack = Stack {
        stored: "",
        parts: &[],
        layout: Layout::Rows,
    };

    /// The experts of a layer as transformers 5 saves them: (experts, out, in), gate's rows before
    /// the other input's.
    pub const EXPERTS: &'static [Stack] = &[
        Stack::new(
            "experts.gate_up_proj",
            &["experts.{}.gate_proj.weight", "experts.{}.up_proj.weight"],
            Layout::Rows,
        ),
        Stack::new(
            "experts.down_proj",
            &["experts.{}.down_proj.weight"],
            Layout::Rows,
        ),
    ];

    /// A tensor that stacks these parts so.
    pub const fn new(stored: &'static str, parts: &'static [&'static str], layout: Layout) -> Self {
        Stack {
            stored,
            parts,
            layout,
        }
    }
}

impl Gguf {
    pub(super) const NONE: Gguf = Gguf {
        architecture: "",
        also: &[],
        read: true,
        told_by: "",
        modules: &[],
        biased: None,
        biases: &[],
        epsilon: "attention.layer_norm_rms_epsilon",
        any_head_dim: true,
        partial_rotary: false,
        divisors: Divisors::None,
        yarn_log: false,
        yarn_truncates: true,
        sliding: Sliding::Kept,
        renamed: &[],
        keys: &[],
        implied: &[],
        headless: None,
        kinds: None,
        grouped: None,
        ffn: "",
        hybrid: false,
        nextn: false,
    };

    /// Llama's architecture: q and k are turned, `rope_freqs` is read, any bias is added.
    pub const LLAMA: Gguf = Gguf {
        architecture: "llama",
        modules: &[
            Module::OUTSIDE,
            Module::NORMS,
            Module::ATTENTION_TURNED,
            Module::MLP,
        ],
        biases: &[Biases::ATTENTION, Biases::MLP],
        divisors: Divisors::One,
        implied: &[Implied::SILU],
        ..Gguf::NONE
    };

    /// An architecture with Llama's modules that rotates the halves of a head as transformers does:
    /// rows are as they are, no tensor divides the frequencies. `architecture` is to be set.
    pub const HALVES: Gguf = Gguf {
        modules: &[
            Module::OUTSIDE,
            Module::NORMS,
            Module::ATTENTION,
            Module::MLP,
        ],
        implied: &[Implied::SILU],
        ..Gguf::NONE
    };

    /// llama.cpp's names of q, k and v, apart and in one: for `biased`.
    pub const QKV: Option<&'static [&'static str]> =
        Some(&["attn_q", "attn_k", "attn_v", "attn_qkv"]);
}

impl Implied {
    /// `hidden_act` is silu.
    pub const SILU: Implied = Implied::json("hidden_act", &["\"silu\"", "\"swish\""]);
    /// `hidden_activation` is GELU's tanh approximation.
    pub const GELU: Implied = Implied::json("hidden_activation", &["\"gelu_pytorch_tanh\""]);
}

impl Biases {
    pub(super) const NONE: Biases = Biases {
        key: None,
        module: "",
        projections: &[],
    };

    /// All four projections of attention, by `attention_bias`.
    pub const ATTENTION: Biases = Biases {
        key: Some("attention_bias"),
        module: "self_attn",
        projections: &["q_proj", "k_proj", "v_proj", "o_proj"],
    };
    /// q, k and v, always.
    pub const QKV: Biases = Biases {
        key: None,
        module: "self_attn",
        projections: &["q_proj", "k_proj", "v_proj"],
    };
    /// All three projections of the perceptron, by `mlp_bias`.
    pub const MLP: Biases = Biases {
        key: Some("mlp_bias"),
        module: "mlp",
        projections: &["gate_proj", "up_proj", "down_proj"],
    };
}

impl Headless {
    pub(super) const NONE: Headless = Headless {
        kind: "",
        others: "",
    };
}

impl Kinds {
    pub(super) const NONE: Kinds = Kinds {
        every: 0,
        features: "",
        key_heads: "",
        keys_are_values: "",
        each: "",
        shared: "",
        doubled: "",
    };
}

impl Grouped {
    pub(super) const NONE: Grouped = Grouped {
        keys: "",
        values: "",
        features: "",
    };
}

impl Values {
    /// What a file stores for a value.
    pub fn stored(self, value: f32) -> f32 {
        match self {
            Values::Same => value,
            Values::PlusOne => value + 1.0,
            Values::MinusExp => -value.exp(),
        }
    }

    /// The value for which a file stores this; `None` where it stands for none.
    pub fn own(self, stored: f32) -> Option<f32> {
        match self {
            Values::Same => Some(stored),
            Values::PlusOne => Some(stored - 1.0),
            Values::MinusExp => (stored <= 0.0).then(|| (-stored).ln()),
        }
    }
}

impl Module {
    pub(super) const NONE: Module = Module {
        name: "",
        beside: "",
        stored: "",
        place: Place::Layer,
        rows: Size::Free,
        columns: Size::Free,
        order: Order::Same,
        values: Values::Same,
        raw: false,
        optional: false,
        squeezed: false,
        not_adapted: false,
    };

    /// The embedding.
    pub const EMBEDDING: Module = Module::new("model.embed_tokens", "token_embd")
        .at(Place::Before)
        .sized(Size::Free, Size::Width);

    /// The head, where it is not the embedding.
    pub const HEAD: Module = Module::new("lm_head", "output")
        .at(Place::After)
        .optional()
        .sized(Size::Free, Size::Width);

    /// Embedding, last norm and head.
    pub const OUTSIDE: &'static [Module] = &[
        Module::EMBEDDING,
        Module::new("model.norm", "output_norm").at(Place::After),
        Module::HEAD,
    ];

    /// The norms before attention and before the perceptron.
    pub const NORMS: &'static [Module] = &[
        Module::new("input_layernorm", "attn_norm"),
        Module::new("post_attention_layernorm", "ffn_norm"),
    ];

    /// The norms after attention and after the perceptron.
    pub const NORMS_AFTER: &'static [Module] = &[
        Module::new("post_attention_layernorm", "post_attention_norm"),
        Module::new("post_feedforward_layernorm", "post_ffw_norm"),
    ];

    /// Gemma's norms, which multiply by 1 + w: of both branches' inputs and outputs, and the last.
    pub const NORMS_PLUS: &'static [Module] = &[
        Module::new("input_layernorm", "attn_norm").plus_one(),
        Module::new("post_attention_layernorm", "post_attention_norm").plus_one(),
        Module::new("pre_feedforward_layernorm", "ffn_norm").plus_one(),
        Module::new("post_feedforward_layernorm", "post_ffw_norm").plus_one(),
        Module::NORM_PLUS,
    ];

    /// The last norm, which multiplies by 1 + w.
    pub const NORM_PLUS: Module = Module::new("model.norm", "output_norm")
        .at(Place::After)
        .plus_one();

    /// q, k, v and o, rows as they are.
    pub const ATTENTION: &'static [Module] = &[Module::Q, Module::K, Module::V, Module::O];

    /// The projection to queries.
    pub const Q: Module = Module::new("self_attn.q_proj", "attn_q").sized(Size::Query, Size::Width);
    /// The projection to keys.
    pub const K: Module = Module::new("self_attn.k_proj", "attn_k").sized(Size::Key, Size::Width);

    /// q, k, v and o, the rows of q and k turned.
    pub const ATTENTION_TURNED: &'static [Module] =
        &[Module::Q.turned(), Module::K.turned(), Module::V, Module::O];

    /// The projection to values.
    pub const V: Module = Module::new("self_attn.v_proj", "attn_v").sized(Size::Key, Size::Width);
    /// Attention's output projection.
    pub const O: Module =
        Module::new("self_attn.o_proj", "attn_output").sized(Size::Width, Size::Query);

    /// Norms of q and k (of their heads, or whole).
    pub const QK_NORMS: &'static [Module] = &[
        Module::new("self_attn.q_norm", "attn_q_norm"),
        Module::new("self_attn.k_norm", "attn_k_norm"),
    ];

    /// The perceptron's gate, up and down.
    pub const MLP: &'static [Module] = &[
        Module::new("mlp.gate_proj", "ffn_gate").sized(Size::Ffn, Size::Width),
        Module::new("mlp.up_proj", "ffn_up").sized(Size::Ffn, Size::Width),
        Module::new("mlp.down_proj", "ffn_down").sized(Size::Width, Size::Ffn),
    ];

    /// A module of every layer.
    pub const fn new(name: &'static str, stored: &'static str) -> Self {
        Module {
            name,
            stored,
            ..Module::NONE
        }
    }

    /// A tensor of every layer that is no module's weight or bias on both sides.
    pub const fn raw(name: &'static str, stored: &'static str) -> Self {
        Module {
            raw: true,
            ..Module::new(name, stored)
        }
    }

    /// The same at another place.
    pub const fn at(self, place: Place) -> Self {
        Module { place, ..self }
    }

    /// The same with a weight of this size.
    pub const fn sized(self, rows: Size, columns: Size) -> Self {
        Module {
            rows,
            columns,
            ..self
        }
    }

    /// The same with turned rows.
    pub const fn turned(self) -> Self {
        Module {
            order: Order::Turned,
            ..self
        }
    }

    /// The same, stored with 1 added.
    pub const fn plus_one(self) -> Self {
        Module {
            values: Values::PlusOne,
            ..self
        }
    }

    /// The same, behind whose rows a file has those of this one.
    pub const fn with(self, beside: &'static str) -> Self {
        Module { beside, ..self }
    }

    /// The same, which some layers or models are without.
    pub const fn optional(self) -> Self {
        Module {
            optional: true,
            ..self
        }
    }

    /// The same, to which llama.cpp applies no adapter.
    pub const fn not_adapted(self) -> Self {
        Module {
            not_adapted: true,
            ..self
        }
    }

    /// The same, whose weight (channels, 1, taps) is stored as (channels, taps).
    pub const fn squeezed(self) -> Self {
        Module {
            squeezed: true,
            ..self
        }
    }

    /// The same with rows or columns in this order.
    pub const fn ordered(self, order: Order) -> Self {
        Module { order, ..self }
    }

    /// The same, stored as -exp(value).
    pub const fn minus_exp(self) -> Self {
        Module {
            values: Values::MinusExp,
            ..self
        }
    }
}
