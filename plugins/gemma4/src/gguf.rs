//! How llama.cpp stores Gemma 4, dense and mixtures: its architecture `gemma4`.

use randori_sdk::dialect::{Divisors, Form, Gguf, Implied, Key, Kinds, Module, Place, Size};

/// Norms around both branches, and the factor on a layer's output.
const AROUND: &[Module] = &[
    Module::new("input_layernorm", "attn_norm"),
    Module::new("post_attention_layernorm", "post_attention_norm"),
    Module::new("pre_feedforward_layernorm", "ffn_norm"),
    Module::new("post_feedforward_layernorm", "post_ffw_norm"),
    Module::raw("layer_scalar", "layer_output_scale.weight"),
];
/// Layers that take over keys and values have no projections to them, and none to values have
/// those whose values are their keys.
const ATTENTION: &[Module] = &[
    Module::Q,
    Module::K.optional(),
    Module::V.optional(),
    Module::O,
    Module::new("self_attn.q_norm", "attn_q_norm"),
    Module::new("self_attn.k_norm", "attn_k_norm").optional(),
];
/// Every layer's share of the second embedding.
const SHARES: &[Module] = &[
    Module::new("model.embed_tokens_per_layer", "per_layer_token_embd")
        .at(Place::Before)
        .sized(Size::Vocabulary, Size::Free),
    Module::new("model.per_layer_model_projection", "per_layer_model_proj")
        .at(Place::Before)
        .sized(Size::Free, Size::Width)
        .not_adapted(),
    Module::new("model.per_layer_projection_norm", "per_layer_proj_norm").at(Place::Before),
    Module::new("per_layer_input_gate", "inp_gate").sized(Size::Free, Size::Width),
    Module::new("per_layer_projection", "proj").sized(Size::Width, Size::Free),
    Module::new("post_per_layer_input_norm", "post_norm"),
];
const EXPERTS: &[Module] = &[
    Module::new("router.proj", "ffn_gate_inp").sized(Size::Free, Size::Width),
    Module::raw("router.scale", "ffn_gate_inp.scale"),
    Module::raw("router.per_expert_scale", "ffn_down_exps.scale"),
    Module::new("experts.{}.gate_proj", "ffn_gate_up_exps")
        .with("experts.{}.up_proj")
        .optional(),
    // files of other programs may have them apart
    Module::new("experts.{}.gate_proj", "ffn_gate_exps").optional(),
    Module::new("experts.{}.up_proj", "ffn_up_exps").optional(),
    // llama.cpp multiplies the matrix's outputs by the expert's factor, an update's not
    Module::new("experts.{}.down_proj", "ffn_down_exps").not_adapted(),
    Module::new("pre_feedforward_layernorm_2", "pre_ffw_norm_2"),
    Module::new("post_feedforward_layernorm_1", "post_ffw_norm_1"),
    Module::new("post_feedforward_layernorm_2", "post_ffw_norm_2"),
];

/// Where the configuration has theta of layers with a window.
const WINDOWED_THETA: &str = "rope_parameters.sliding_attention.rope_theta";
/// What a mixture says.
const MIXTURE: &str = "enable_moe_block";

/// How llama.cpp stores it.
pub const GGUF: Gguf = Gguf {
    architecture: "gemma4",
    modules: &[
        Module::OUTSIDE,
        AROUND,
        ATTENTION,
        Module::MLP,
        SHARES,
        EXPERTS,
    ],
    hybrid: true,
    biased: Some(&[]),
    divisors: Divisors::Proportional,
    kinds: Some(Kinds {
        every: 6,
        features: "global_head_dim",
        key_heads: "num_global_key_value_heads",
        keys_are_values: "attention_k_eq_v",
        each: "per_layer_config",
        shared: "num_kv_shared_layers",
        doubled: "use_double_wide_mlp",
    }),
    keys: &[
        Key::whole("attention.sliding_window", &["sliding_window"]).required(),
        Key::whole("attention.sliding_window_pattern", &["layer_types"])
            .of(Form::Slides)
            .required(),
        Key::whole("attention.shared_kv_layers", &["num_kv_shared_layers"]).of(Form::Count),
        Key::whole(
            "embedding_length_per_layer_input",
            &["hidden_size_per_layer_input"],
        )
        .of(Form::Count),
        Key::real("rope.freq_base_swa", &[WINDOWED_THETA]),
        // llama.cpp caps at 30 where a file says nothing
        Key::real("final_logit_softcapping", &["final_logit_softcapping"]).of(Form::Cap),
        Key::whole("expert_count", &["num_experts", "num_local_experts"])
            .required()
            .only_with(MIXTURE),
        Key::whole("expert_used_count", &["top_k_experts"])
            .required()
            .only_with(MIXTURE),
        Key::whole("expert_feed_forward_length", &["moe_intermediate_size"])
            .required()
            .only_with(MIXTURE),
    ],
    implied: &[
        Implied::GELU,
        Implied::same_as("vocab_size_per_layer_input", &["vocab_size"]).told_by_tensors(),
    ],
    ..Gguf::HALVES
};
