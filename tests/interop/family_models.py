"""Every family's random models for families.py: those of inputs.py, and mixtures and hybrids.

A family's `plain` model is one that llama.cpp computes; its `full` one has all biases, and layers
of every kind. Windows are shorter than the texts. A new family wants a row in FAMILIES, and a model
in `others`."""

import copy
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers

from inputs import BYTE_LEVEL, qwens, tiny

SIZES = dict(hidden_size=128, intermediate_size=256, num_hidden_layers=2, rms_norm_eps=1e-5)
BORDER = 48  # tokens up to which a Phi-3 rotates otherwise than beyond
STACKED = 4  # experts of a model that stores them, and their updates, stacked
WINDOW = 96  # in every family that has windows


@dataclass
class Family:
    name: str
    # keys of the configuration that llama.cpp does not compute, and keys that it does
    full: dict = field(default_factory=dict)
    both: dict = field(default_factory=dict)
    # which texts llama.cpp may be asked for: all; `inside`, where GGUF has no key for the window;
    # `beyond`, where it also rotates every text as those longer than BORDER
    texts: str = "all"
    added: float = 0.0  # to a norm's weight
    # size, times 1 / sqrt(width); more where no norm stands before the first biases
    embedding: float = 0.5
    targets: list = None  # of the adapter, where not every projection is one
    targets_of_plain: list = None  # of the plain model's, where llama.cpp leaves others as they are
    in_llama_cpp: float = 1e-4  # allowed there, relative; more where it rounds GELU to 16 bits


BIASED = dict(attention_bias=True)
QKVO = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]
SHARES = ["per_layer_input_gate", "per_layer_projection"]  # not per_layer_model_projection
FAMILIES = [
    Family("llama", both=dict(BIASED, mlp_bias=True)),
    Family("mistral", texts="inside"),
    Family("mixtral", texts="inside"),
    Family("qwen2", texts="inside"),
    Family(
        "qwen3",
        dict(BIASED, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1),
        texts="inside",
    ),
    Family("qwen3_moe", dict(BIASED, mlp_only_layers=[1], norm_topk_prob=False), texts="inside"),
    Family("qwen3_5", dict(BIASED), added=1.0),
    Family("gemma2", added=1.0, in_llama_cpp=1e-3),
    Family("gemma3", dict(BIASED), added=1.0, in_llama_cpp=1e-3),
    Family("phi3", texts="beyond"),
    Family("smollm3", dict(BIASED, mlp_bias=True, use_sliding_window=True, sliding_window=WINDOW)),
    Family("olmo2", dict(BIASED), embedding=8.0),
    Family("olmo3", dict(BIASED), embedding=8.0),
    Family("granite", both=dict(BIASED, mlp_bias=True)),
    Family("ministral3", dict(sliding_window=WINDOW), texts="inside"),
    Family("glm4"),
    Family("cohere2", dict(BIASED)),
    Family("lfm2", dict(conv_bias=True)),
    Family("gpt_oss"),
    Family("gemma4", dict(BIASED), targets_of_plain=[*QKVO, *MLP, *SHARES], in_llama_cpp=1e-3),
    # nothing turns updates of single experts into what peft would load there
    Family("gemma4_mixture", dict(BIASED), targets=[*QKVO, "proj"], in_llama_cpp=1e-3),
]


def others(sizes):
    """Mixtures and hybrids: name -> model, tokenizer's maker."""
    turns = dict(rope_type="default", rope_theta=50000.0)
    heads = dict(num_attention_heads=4, num_key_value_heads=2)
    common = dict(
        sizes,
        **heads,
        vocab_size=BYTE_LEVEL,
        max_position_embeddings=256,
        eos_token_id=2,
        rope_parameters=turns,
        tie_word_embeddings=False,
    )
    yield (
        "mixtral",
        transformers.MixtralForCausalLM(
            transformers.MixtralConfig(
                **dict(common, intermediate_size=96),
                num_local_experts=4,
                num_experts_per_tok=2,
                sliding_window=WINDOW,
            )
        ),
        qwens,
    )
    yield (
        "qwen3_moe",
        transformers.Qwen3MoeForCausalLM(
            transformers.Qwen3MoeConfig(
                **common,
                head_dim=48,
                num_experts=5,
                num_experts_per_tok=2,
                moe_intermediate_size=64,
                norm_topk_prob=True,
                use_sliding_window=True,
                sliding_window=WINDOW,
            )
        ),
        qwens,
    )
    yield (
        "qwen3_5",
        transformers.Qwen3_5ForCausalLM(
            transformers.Qwen3_5TextConfig(
                **dict(common, num_hidden_layers=4),
                head_dim=64,
                linear_num_key_heads=2,
                linear_key_head_dim=32,
                linear_num_value_heads=4,
                linear_value_head_dim=32,
            )
        ),
        qwens,
    )
    plain = {k: v for k, v in common.items() if k != "rms_norm_eps"}
    yield (
        "lfm2",
        transformers.Lfm2ForCausalLM(
            transformers.Lfm2Config(
                **plain,
                pad_token_id=0,
                norm_eps=1e-5,
                layer_types=["conv", "full_attention"],
                block_multiple_of=32,
            )
        ),
        qwens,
    )
    yield (
        "gpt_oss",
        transformers.GptOssForCausalLM(
            transformers.GptOssConfig(
                **dict(common, intermediate_size=96, pad_token_id=0),
                head_dim=48,
                num_local_experts=STACKED,
                num_experts_per_tok=2,
                sliding_window=WINDOW,
            )
        ),
        qwens,
    )
    yield from gemma4(common)


def gemma4(common):
    """Gemma 4 whose last two layers take over keys and values, of two sizes of heads; and its mixture."""
    kinds = ["sliding_attention", "full_attention"]
    turns = dict(
        sliding_attention=dict(rope_type="default", rope_theta=10000.0),
        full_attention=dict(
            rope_type="proportional", rope_theta=50000.0, partial_rotary_factor=0.25
        ),
    )
    common = dict(
        common,
        head_dim=32,
        global_head_dim=64,
        pad_token_id=0,
        vocab_size_per_layer_input=BYTE_LEVEL,
        sliding_window=WINDOW,
        rope_parameters=turns,
        tie_word_embeddings=True,
    )
    dense = dict(
        num_hidden_layers=4,
        layer_types=kinds * 2,
        num_kv_shared_layers=2,
        hidden_size_per_layer_input=32,
        attention_k_eq_v=True,
        num_global_key_value_heads=1,
        use_double_wide_mlp=True,
        final_logit_softcapping=4.0,
    )
    experts = dict(
        num_hidden_layers=4,
        layer_types=kinds * 2,
        hidden_size_per_layer_input=0,
        enable_moe_block=True,
        num_experts=4,
        top_k_experts=2,
        moe_intermediate_size=64,
    )
    for name, own in (("gemma4", dense), ("gemma4_mixture", experts)):
        config = transformers.Gemma4TextConfig(**common | own)
        yield name, transformers.Gemma4ForCausalLM(config), qwens


def randomise(model, family, generator):
    """Norms scale by 0.5..1.5; attention is far from uniform, logits are of order 1."""
    for name, p in model.named_parameters():
        plain = 0.0 if name.endswith("linear_attn.norm.weight") else family.added
        if name.endswith("A_log"):  # states forget a tenth to a third a token
            p.data = torch.rand(p.shape, generator=generator) - 2.5
        elif "bias" in name:
            p.data = 0.2 * torch.randn(p.shape, generator=generator)
        elif p.dim() == 1:
            p.data = 0.5 - plain + torch.rand(p.shape, generator=generator)
        else:
            gain = (
                1.5
                if "q_proj" in name or "k_proj" in name
                else family.embedding
                if "embed" in name
                else 1.0
            )
            p.data = gain * torch.randn(p.shape, generator=generator) / p.shape[-1] ** 0.5
        if "gemma4" in model.config.model_type and name.endswith("q_norm.weight"):
            p.data /= p.shape[0] ** 0.5  # scores are not scaled: trained norms are that small
    for name, b in model.named_buffers():
        if name.endswith("layer_scalar"):  # a Gemma 4's factor on a whole layer
            b.fill_(0.75 + 0.25 * torch.rand(1, generator=generator).item())
    model.tie_weights()


def write(out, names):
    """Folders OUT/NAME/{plain,full}; a family without keys in `full` has the plain one alone."""
    families = {f.name: f for f in FAMILIES}
    made = [(name, model, tokenizer) for name, model, tokenizer in tiny(SIZES, BORDER)] + list(
        others(SIZES)
    )
    for name, model, tokenizer in made:
        if name not in names:
            continue
        family = families[name]
        for kind, keys in (("plain", family.both), ("full", family.full)):
            if kind == "full" and not keys:
                continue
            config = copy.deepcopy(model.config)
            if "use_sliding_window" in keys:
                config.layer_types = None
            changed = type(model)(type(config)(**config.to_dict() | keys))
            randomise(changed, family, torch.Generator().manual_seed(11))
            folder = Path(out) / name / kind
            tokenizer(folder)
            changed.save_pretrained(folder)
