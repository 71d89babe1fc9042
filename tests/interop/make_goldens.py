#!/usr/bin/env python
"""Makes tests/fixtures/goldens/: what transformers and peft compute on tiny models of each family.

    python tests/interop/make_goldens.py [MODEL…]   # all, or these; packages: tests/interop/requirements.txt

Per model: the base (bf16 values, so that both sides hold the same f32), one folder per adapter as `save_pretrained`
wrote it, and `expected.safetensors` with

    tokens/{prompt,real,generated}     token ids; the two responses share the prompt
    KIND/logits                        (tokens, vocab) of prompt + real with that adapter ("base": without)
    KIND/logps                         log-probs of the tokens of real, then of generated
    KIND/grad/NAME                     d loss / d NAME, loss = SLOPES . (summed log-prob of real, of generated)
    KIND/merged/NAME                   what merge_and_unload makes of that weight
    KIND/greedy                        (not Llama, Mistral) the 32 likeliest tokens after the prompt, one after the other
    full/grad/TENSOR                   (NEWER, MIXTURES, HYBRIDS, gpt_oss) the same of the base's own weights in kept_full, all of them trained

NAME is the checkpoint's name; `.lora_A`, `.lora_B` and `.lora_magnitude_vector` follow the projection's. peft detaches DoRA's
weight norm in the backward pass (section 4.3 of the paper), and so do these gradients. Windows are shorter than the
sequences; those of the dense Qwens are in their second layer only. Of two greedy candidates the better one is so by ten times
the tolerance of logits at least. NEWER are all but Llama, Mistral, ROTARY, MIXTURES, HYBRIDS and gpt_oss. A Gemma's factor on the
embedding is held in its configuration's dtype: bf16 in gemma3, f32 in gemma2. tests/goldens.rs holds Randori against all of it.

HYBRIDS have layers with a state: a response's first tokens see its prompt's last through it.
CARRIED are Gemma 4 with values that cross blocks, and its mixture.

ROTARY are families that rotate otherwise than Llama, or scale by more factors; beside each stand keys of its configuration
without which it would be another model. Phi-3's frequencies change beyond 22 tokens: prompt and real response are longer,
prompt and generated one are not, and its `logits` are those of every prefix by itself.
"""
import json, shutil, sys
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
import transformers
from transformers import (Gemma2Config, Gemma2ForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig, Glm4Config, Glm4ForCausalLM,
                          LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, MixtralConfig, MixtralForCausalLM,
                          Olmo2Config, Olmo2ForCausalLM, Olmo3Config, Olmo3ForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config,
                          Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM)
from transformers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
OUT = Path(__file__).resolve().parent.parent / "fixtures" / "goldens"
SLOPES = (-1.0, 0.5)
VOCAB = 56
# where 3 repeats one token, leaves two candidates too close, or f32's gradients too far off f64's
SEEDS = {"gemma3": 15, "olmo3": 8, "ministral3": 5}
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
KEPT_MERGED = ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"]
KEPT_MERGED_HYBRIDS = ["model.layers.0.conv.in_proj", "model.layers.0.linear_attn.in_proj_qkv", "model.layers.1.self_attn.out_proj"]
KEPT_MERGED_ROTARY = ["model.layers.0.self_attn.qkv_proj", "model.layers.1.self_attn.o_proj"]
KEPT_FULL = [f"model.layers.1.self_attn.{part}" for part in (
    "q_proj.bias", "k_proj.bias", "v_proj.bias", "q_norm.weight", "k_norm.weight", "k_proj.weight")]
# mixtures: number of experts, the mixture's name on disk, an expert's gate, its other input and its output there
EXPERTS = {"mixtral": (4, "block_sparse_moe", "w1", "w3", "w2"), "qwen3_moe": (5, "mlp", "gate_proj", "up_proj", "down_proj")}
MIXTURES = [*EXPERTS, "qwen3_moe_step"]
KEPT_NORMS = [f"model.layers.{i}.{part}_layernorm.weight" for i in (0, 1) for part in (
    "input", "post_attention", "post_self_attn", "pre_feedforward", "post_feedforward", "post_mlp")]
GREEDY, TOLERANCE = 32, 1e-5  # tokens; of a row of logits, relative to its largest


def models():
    common = dict(vocab_size=VOCAB, hidden_size=24, intermediate_size=32, num_hidden_layers=2, rms_norm_eps=1e-5,
                  max_position_embeddings=64, attn_implementation="eager", bos_token_id=1, eos_token_id=2)
    yield "llama", LlamaForCausalLM(LlamaConfig(
        **common, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 700.0}))
    yield "mistral", MistralForCausalLM(MistralConfig(
        **common, num_attention_heads=2, num_key_value_heads=1, head_dim=12, sliding_window=7, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 300.0}))
    windowed = dict(use_sliding_window=True, sliding_window=7, max_window_layers=1)
    qwen = dict(common, rope_parameters={"rope_type": "default", "rope_theta": 500.0})
    heads = dict(num_attention_heads=4, num_key_value_heads=2)
    wide = dict(num_attention_heads=2, num_key_value_heads=1, head_dim=16)  # 2 · 16 features of heads in a width of 24
    yield "qwen2", Qwen2ForCausalLM(Qwen2Config(**qwen, **heads, **windowed, tie_word_embeddings=False))
    yield "qwen2_tied", Qwen2ForCausalLM(Qwen2Config(**qwen, **heads, sliding_window=7, tie_word_embeddings=True))
    yield "qwen3", Qwen3ForCausalLM(Qwen3Config(**qwen, **wide, **windowed, tie_word_embeddings=False))
    yield from rotary(dict(common, intermediate_size=32, num_hidden_layers=2, sliding_window=7))
    yield from hybrids(common)
    yield from carried(common)
    yield "qwen3_tied", Qwen3ForCausalLM(Qwen3Config(**qwen, **wide, tie_word_embeddings=True, attention_bias=True))
    mixture = dict(num_experts_per_tok=2, sliding_window=7, hidden_size=16)
    yield "mixtral", MixtralForCausalLM(MixtralConfig(
        **qwen | heads | mixture | dict(intermediate_size=8), num_local_experts=4, tie_word_embeddings=False))
    mixture |= dict(use_sliding_window=True, moe_intermediate_size=8, intermediate_size=12)
    # mixtures in all layers but the second, their weights left as soft-max has them
    yield "qwen3_moe", Qwen3MoeForCausalLM(Qwen3MoeConfig(
        **qwen | wide | mixture | dict(head_dim=12), num_experts=5, mlp_only_layers=[1], attention_bias=True))
    # in every second layer
    yield "qwen3_moe_step", Qwen3MoeForCausalLM(Qwen3MoeConfig(
        **qwen | heads | mixture, num_experts=4, decoder_sparse_step=2, norm_topk_prob=True, tie_word_embeddings=True))
    scored = dict(heads, head_dim=8, query_pre_attn_scalar=5)  # not the heads' size
    yield "gemma2", Gemma2ForCausalLM(Gemma2Config(**dict(common, rope_parameters={"rope_type": "default", "rope_theta": 500.0}),
        **scored, sliding_window=7, attn_logit_softcapping=3.0, final_logit_softcapping=4.0))
    turns = {"full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 700.0},
             "sliding_attention": {"rope_type": "default", "rope_theta": 300.0}}
    yield "gemma3", Gemma3ForCausalLM(Gemma3TextConfig(**common, **scored, sliding_window=7, sliding_window_pattern=2,
        rope_parameters=turns, attention_bias=True, attn_logit_softcapping=3.0))
    yield "gpt_oss", transformers.GptOssForCausalLM(transformers.GptOssConfig(
        **common | heads | dict(hidden_size=16, intermediate_size=8), head_dim=8, num_local_experts=4, num_experts_per_tok=2,
        sliding_window=7, swiglu_limit=0.4, pad_token_id=0, rope_parameters=dict(
            rope_type="yarn", factor=4.0, rope_theta=300.0, original_max_position_embeddings=64, truncate=False)))
    yield "glm4", Glm4ForCausalLM(Glm4Config(**qwen, **heads, head_dim=8, pad_token_id=0))
    yield "olmo2", Olmo2ForCausalLM(Olmo2Config(**qwen, **heads, tie_word_embeddings=False, pad_token_id=0))
    turns = {"full_attention": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 500.0},
             "sliding_attention": {"rope_type": "default", "rope_theta": 300.0}}
    yield "olmo3", Olmo3ForCausalLM(Olmo3Config(**common, **heads, sliding_window=7, pad_token_id=0, attention_bias=True,
        layer_types=["sliding_attention", "full_attention"], rope_parameters=turns, tie_word_embeddings=False))


def hybrids(common):
    """Every family of HYBRIDS, biases on; a response's first three tokens see the prompt's last."""
    common = {k: v for k, v in common.items() if k != "rms_norm_eps"}
    yield "lfm2", transformers.Lfm2ForCausalLM(transformers.Lfm2Config(
        **common | dict(intermediate_size=44), num_attention_heads=4, num_key_value_heads=2, pad_token_id=0, norm_eps=1e-5,
        layer_types=["conv", "full_attention"], conv_bias=True, conv_L_cache=4, block_multiple_of=8,  # 32 features inside
        rope_parameters=dict(rope_type="default", rope_theta=300.0)))
    yield "qwen3_5", transformers.Qwen3_5ForCausalLM(transformers.Qwen3_5TextConfig(
        **common | dict(intermediate_size=24), num_attention_heads=2, num_key_value_heads=1, head_dim=16, attention_bias=True,
        rms_norm_eps=1e-5, layer_types=["linear_attention", "full_attention"], linear_num_key_heads=2, linear_key_head_dim=8,
        linear_num_value_heads=4, linear_value_head_dim=6, rope_parameters=dict(rope_type="default", rope_theta=300.0)))


HYBRIDS = {  # as ROTARY; and weights of the base whose gradients are kept
    "lfm2": (["in_proj", "out_proj", "q_proj", "w2"], [
        dict(rope_parameters=dict(rope_type="default", rope_theta=50.0)), dict(norm_eps=0.3)], [
        "model.layers.0.conv.conv.weight", "model.layers.0.conv.conv.bias", "model.layers.0.conv.in_proj.bias",
        "model.layers.0.conv.out_proj.bias", "model.layers.0.operator_norm.weight", "model.layers.1.ffn_norm.weight",
        "model.layers.1.self_attn.q_layernorm.weight", "model.layers.1.self_attn.k_layernorm.weight",
        "model.embedding_norm.weight", "model.embed_tokens.weight"]),
    "qwen3_5": (["in_proj_qkv", "in_proj_a", "in_proj_z", "out_proj", "q_proj", "down_proj"], [
        dict(rope_parameters=dict(rope_type="default", rope_theta=300.0, partial_rotary_factor=0.5)), dict(rms_norm_eps=0.3)], [
        *(f"model.layers.0.linear_attn.{part}" for part in (
            "A_log", "dt_bias", "conv1d.weight", "norm.weight", "in_proj_b.weight", "in_proj_a.weight")),
        "model.layers.0.input_layernorm.weight", "model.layers.1.self_attn.q_norm.weight", "model.layers.1.self_attn.k_norm.weight",
        "model.layers.1.self_attn.q_proj.bias", "model.layers.1.self_attn.o_proj.bias", "model.norm.weight"]),
}


def carried(common):
    """Gemma 4 in which the last two layers share keys and values of one layer each, both sizes of heads, biases on; and its
    mixture. A layer's share of the second embedding is wide: gated, it is normed, and of a few features it can be next to
    nothing, whose rounding the norm makes large (gradients of 6 features move by 5e-5 if weights do by half an ulp)."""
    common = dict(common, hidden_size=16, intermediate_size=16, num_attention_heads=2, num_key_value_heads=2, head_dim=8,
                  global_head_dim=16, vocab_size_per_layer_input=VOCAB, sliding_window=7, pad_token_id=0)
    kinds = ["sliding_attention", "full_attention"]
    turns = dict(sliding_attention=dict(rope_type="default", rope_theta=300.0),
                 full_attention=dict(rope_type="proportional", rope_theta=700.0, partial_rotary_factor=0.25))
    text = transformers.Gemma4TextConfig
    yield "gemma4", transformers.Gemma4ForCausalLM(text(
        **common | dict(num_hidden_layers=4), layer_types=kinds * 2, num_kv_shared_layers=2, hidden_size_per_layer_input=32,
        attention_k_eq_v=True, num_global_key_value_heads=1, use_double_wide_mlp=True, attention_bias=True,
        final_logit_softcapping=4.0, rope_parameters=turns))
    yield "gemma4_mixture", transformers.Gemma4ForCausalLM(text(
        **common, layer_types=kinds, hidden_size_per_layer_input=0, enable_moe_block=True, num_experts=4, top_k_experts=2,
        moe_intermediate_size=8, rope_parameters=turns))


CARRIED = {  # as HYBRIDS
    "gemma4": (["q_proj", "k_proj", "v_proj", "down_proj", "per_layer_model_projection", "per_layer_input_gate"], [
        dict(sliding_window=64), dict(final_logit_softcapping=None), dict(rms_norm_eps=0.3), dict(rope_parameters=dict(
            sliding_attention=dict(rope_type="default", rope_theta=300.0),
            full_attention=dict(rope_type="default", rope_theta=700.0)))], [
        *(f"model.layers.{i}.self_attn.{part}" for i, part in (
            (0, "k_norm.weight"), (0, "v_proj.bias"), (1, "k_proj.weight"), (1, "k_norm.weight"), (2, "q_norm.weight"),
            (3, "o_proj.bias"))),
        *(f"model.layers.1.{part}.weight" for part in (
            "per_layer_projection", "post_per_layer_input_norm", "post_feedforward_layernorm")),
        "model.per_layer_projection_norm.weight", "model.embed_tokens_per_layer.weight", "model.norm.weight"]),
    "gemma4_mixture": (["q_proj", "v_proj", "proj"], [dict(sliding_window=64), dict(top_k_experts=1)], [
        *(f"model.layers.0.{part}" for part in (
            "router.scale", "router.per_expert_scale", "router.proj.weight", "post_feedforward_layernorm_1.weight",
            "pre_feedforward_layernorm_2.weight", "post_feedforward_layernorm_2.weight", "mlp.up_proj.weight"))]),
}


def newer(name):
    return name not in ("llama", "mistral", "gpt_oss", *MIXTURES)


def kept_full(name):
    if name.startswith("qwen"):
        return KEPT_FULL
    return KEPT_FULL + KEPT_NORMS + ["model.norm.weight"] + ["model.embed_tokens.weight"] * name.startswith("gemma")


def changes(name, config):
    """What of a configuration must matter: name -> other keys, each of which moves the logits."""
    if name.startswith("qwen"):
        return {"windows": dict(layer_types=["full_attention"] * 2)} if config.use_sliding_window else {}
    found = {"windows": dict(sliding_window=64)} if getattr(config, "sliding_window", None) else {}
    if name == "gemma2":
        found |= {"scores' cap": dict(attn_logit_softcapping=None), "logits' cap": dict(final_logit_softcapping=None)}
    if name.startswith("gemma"):
        found["scale"] = dict(query_pre_attn_scalar=config.head_dim)
    if name in ("gemma3", "olmo3"):
        turns = config.rope_parameters
        found |= {kind: dict(rope_parameters={**turns, kind: {"rope_type": "default", "rope_theta": 50.0}}) for kind in turns}
    return found


def rotary(common):
    """Every family of ROTARY: biases and windows where it can have them."""
    yarn = dict(rope_type="yarn", factor=4.0, rope_theta=300.0)
    heads, wide = dict(num_attention_heads=4, num_key_value_heads=2), dict(num_attention_heads=2, num_key_value_heads=1, head_dim=16)
    yield "phi3", transformers.Phi3ForCausalLM(transformers.Phi3Config(
        **common, num_attention_heads=2, num_key_value_heads=1, pad_token_id=0, original_max_position_embeddings=22,
        partial_rotary_factor=0.67, rope_parameters=dict(  # 8 of 12 features
            rope_type="longrope", rope_theta=300.0, short_factor=[1.0, 1.1, 1.3, 2.0], long_factor=[1.5, 2.0, 4.0, 6.0])))
    yield "smollm3", transformers.SmolLM3ForCausalLM(transformers.SmolLM3Config(
        **common, **heads, pad_token_id=0, use_sliding_window=True, no_rope_layers=[1, 0], attention_bias=True, mlp_bias=True))
    granite = {k: v for k, v in common.items() if k != "sliding_window"}
    yield "granite", transformers.GraniteForCausalLM(transformers.GraniteConfig(
        **granite, **heads, attention_bias=True, mlp_bias=True, embedding_multiplier=3.0, residual_multiplier=0.6,
        attention_multiplier=0.3, logits_scaling=2.5, rope_parameters=dict(yarn, original_max_position_embeddings=16)))
    yield "ministral3", transformers.Ministral3ForCausalLM(transformers.Ministral3Config(
        **common, **wide, pad_token_id=0, rope_parameters=dict(yarn, original_max_position_embeddings=8, llama_4_scaling_beta=0.3)))
    cohere = {k: v for k, v in common.items() if k != "rms_norm_eps"}
    yield "cohere2", transformers.Cohere2ForCausalLM(transformers.Cohere2Config(
        **cohere, **heads, sliding_window_pattern=2, attention_bias=True, layer_norm_eps=1e-4, logit_scale=0.25,
        rope_parameters=dict(rope_type="default", rope_theta=300.0)))


ROTARY = {  # family -> what an adapter is on; (keys of the configuration without which it would be another model)
    "phi3": (["qkv_proj", "gate_up_proj", "down_proj"], [
        dict(sliding_window=None), dict(original_max_position_embeddings=64),
        dict(rope_parameters=dict(rope_type="default", rope_theta=300.0, partial_rotary_factor=0.67))]),
    "smollm3": (["q_proj", "o_proj", "up_proj"], [dict(no_rope_layers=[1, 1]), dict(layer_types=["full_attention"] * 2)]),
    "granite": (["k_proj", "o_proj", "gate_proj"], [
        dict(attention_multiplier=6 ** -0.5), dict(residual_multiplier=1.0), dict(embedding_multiplier=1.0), dict(logits_scaling=1.0),
        dict(rope_parameters=dict(rope_type="default", rope_theta=300.0))]),
    "ministral3": (["q_proj", "v_proj", "down_proj"], [
        dict(sliding_window=None), dict(rope_parameters=dict(
            rope_type="yarn", factor=4.0, rope_theta=300.0, original_max_position_embeddings=8, llama_4_scaling_beta=0.0))]),
    "cohere2": (["q_proj", "o_proj", "gate_proj"], [
        dict(layer_types=["sliding_attention"] * 2), dict(sliding_window=64), dict(logit_scale=0.0625)]),
}


def adapters(name):
    """kind -> (settings, whether gradients are kept)."""
    lora = lambda **k: LoraConfig(task_type="CAUSAL_LM", **k)
    if name in EXPERTS:
        *_, gate, up, down = EXPERTS[name]
        return {"stacked": (lora(r=1, lora_alpha=2, target_modules=["q_proj", "gate", gate, up, down]), False)}
    if name in MIXTURES:
        return {}
    if name in ROTARY | HYBRIDS | CARRIED:
        return {"plain": (lora(r=2, lora_alpha=4, target_modules=(ROTARY | HYBRIDS | CARRIED)[name][0]), True)}
    if name == "gpt_oss":
        return {"plain": (lora(r=2, lora_alpha=4, target_modules=ALL[:4]), True)}
    if newer(name):
        targets = [t for t in ALL if t not in ("gate_proj", "up_proj")] + ["gate_up_proj"] if name == "glm4" else ALL
        return {} if name.endswith("tied") else {"plain": (lora(r=3, lora_alpha=6, target_modules=targets), True)}
    kinds = {
        "plain": (lora(r=3, lora_alpha=6, target_modules=ALL), name == "mistral"),
        "dora": (lora(r=3, lora_alpha=5, target_modules=ALL, use_dora=True), True),
    }
    if name == "mistral":
        return kinds
    full_names = [f"model.layers.{i}.{p}" for i, p in ((0, "self_attn.q_proj"), (0, "mlp.up_proj"), (1, "self_attn.v_proj"))]
    return kinds | {
        "rslora": (lora(r=5, lora_alpha=4, target_modules=full_names, use_rslora=True), False),
        # a pattern's key matches the end of a module's name, as a regular expression; of several, the file's first counts
        "patterns": (lora(r=3, lora_alpha=4, target_modules=r".*\.layers\.\d+\.(self_attn\.[qk]_proj|mlp\.up_proj)",
                          rank_pattern={"k_proj": 2, "layers.1.self_attn.q_proj": 5, r"layers\.0\.mlp\..*_proj": 1, "q_proj": 4},
                          alpha_pattern={"layers.0.self_attn.k_proj": 9, "self_attn.k_proj": 2.5, "up_proj": 7}), True),
        "dora_rslora_patterns": (lora(r=2, lora_alpha=3, target_modules=["v_proj", "down_proj"], use_dora=True, use_rslora=True,
                                      rank_pattern={"v_proj": 3}, alpha_pattern={"down_proj": 5}), True),
        "saved_head": (lora(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], modules_to_save=["lm_head"]), True),
    }


def randomise(model, generator):
    """Norms scale by 0.5..1.5, the rest such that attention is far from uniform and logits are of order 1."""
    plus = any(family in model.config.model_type for family in ("gemma2", "gemma3", "qwen3_5"))
    for name, p in model.named_parameters():
        added = 1.0 if plus and not name.endswith("linear_attn.norm.weight") else 0.0  # to a norm's weight
        if name.endswith("A_log"):  # states forget a tenth to a third a token
            p.data = torch.rand(p.shape, generator=generator) - 2.5
        elif name.endswith("bias"):
            p.data = 0.5 * torch.randn(p.shape, generator=generator)
        elif p.dim() == 1:
            p.data = 0.5 - added + torch.rand(p.shape, generator=generator)
        else:
            gain = 1.5 if "q_proj" in name or "k_proj" in name else 0.5 if "embed" in name else 1.0
            p.data = gain * torch.randn(p.shape, generator=generator) / p.shape[-1] ** 0.5
        if "gemma4" in model.config.model_type and name.endswith("q_norm.weight"):
            p.data /= p.shape[0] ** 0.5  # scores are not scaled: trained norms are that small
        p.data = p.data.bfloat16().float()
    for name, b in model.named_buffers():
        if name.endswith("layer_scalar"):
            b.fill_(0.75 + 0.25 * torch.rand(1, generator=generator).item())
            b.data = b.data.bfloat16().float()
    model.tie_weights()


def perturb(model, generator):
    """An adapter as training would leave it: B not zero, magnitudes off the norms, the saved head off the base's."""
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        noise = torch.randn(p.shape, generator=generator)
        if "lora_magnitude" in name:
            p.data = p.data * (1 + 0.2 * noise)
        elif "modules_to_save" in name:
            p.data = p.data + 0.1 * noise
        else:
            p.data = 0.3 * noise


def short(name):
    """`base_model.model.X.lora_A.default.weight` -> `X.lora_A`; a saved module's weight -> the checkpoint's name."""
    name = name.removeprefix("base_model.model.").replace(".default", "")
    if "modules_to_save." in name:
        return name.replace("modules_to_save.", "")
    return name.removesuffix(".weight")


def passes(model, tokens):
    """Logits of prompt + real, log-probs of both responses, the loss."""
    logps, logits = [], None
    for response in ("real", "generated"):
        ids = torch.cat([tokens["prompt"], tokens[response]])
        out = model(input_ids=ids[None]).logits[0]
        logits = out if logits is None else logits
        rows = out[len(tokens["prompt"]) - 1 : -1]
        logps.append(rows.log_softmax(-1).gather(1, tokens[response][:, None])[:, 0])
    loss = sum(s * l.sum() for s, l in zip(SLOPES, logps))
    return logits, torch.cat(logps), loss


def by_prefix(model, tokens):
    """Logits after every prefix of prompt + real by itself: a model may look at how long the whole sequence is."""
    ids = torch.cat([tokens["prompt"], tokens["real"]])
    return torch.stack([model(input_ids=ids[None, :n]).logits[0, -1] for n in range(1, len(ids) + 1)])


def kept(model, tokens, want_grads):
    logits, logps, loss = passes(model, tokens)
    if model.config.model_type == "phi3":
        logits = by_prefix(model, tokens)
    found = {"logits": logits.detach(), "logps": logps.detach()}
    if want_grads:
        model.zero_grad()
        loss.backward()
        found |= {f"grad/{short(n)}": p.grad for n, p in model.named_parameters() if p.requires_grad}
    return found


def save_adapter(model, folder, base_name):
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    for key in ("target_modules", "target_parameters", "modules_to_save"):  # sets, in any order
        if isinstance(config[key], list):
            config[key].sort()
    config["base_model_name_or_path"] = base_name
    path.write_text(json.dumps(config, indent=1) + "\n")


def fresh(cls, folder, **config):
    model = cls.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", **config).eval()
    for embedding in model.modules():
        if hasattr(embedding, "embed_scale"):  # as it is in a model that is loaded in its own dtype
            dtype = getattr(torch, json.loads((folder / "config.json").read_text())["dtype"])
            embedding.embed_scale = embedding.embed_scale.to(dtype).float()
    return model


def stack(cls, folder, tokens):
    """Two adapters on one base, as one: side by side (cat), which must be the same as merging one after the other."""
    model = PeftModel.from_pretrained(fresh(cls, folder), folder / "plain", adapter_name="plain")
    model.load_adapter(folder / "rslora", adapter_name="rslora")
    model.add_weighted_adapter(["plain", "rslora"], [1.0, 1.0], "both", combination_type="cat")
    model.set_adapter("both")
    found = kept(model, tokens, False)
    merged = fresh(cls, folder)
    for kind in ("plain", "rslora"):
        merged = PeftModel.from_pretrained(merged, folder / kind).merge_and_unload()
    difference = (passes(merged, tokens)[0] - found["logits"]).abs().max().item()
    assert difference < 1e-4, difference
    # of a DoRA and a plain adapter the order matters: merged in turn, the DoRA's norm is that of the weight it meets
    merged = fresh(cls, folder)
    for kind in ("plain", "dora"):
        merged = PeftModel.from_pretrained(merged, folder / kind).merge_and_unload()
    return {"stack_plain_rslora": found, "stack_plain_then_dora": kept(merged.requires_grad_(False), tokens, False)}


def greedy(model, prompt, steps=GREEDY, least=0.0):
    """The likeliest tokens, each from its whole prefix; and by how much the closest was so, relative to its row. Stops where that
    is less than `least`."""
    ids, gaps = prompt, []
    with torch.no_grad():
        while len(ids) < len(prompt) + steps and min(gaps, default=least) >= least:
            row = model(input_ids=ids[None]).logits[0, -1].double()
            best = row.topk(2).values
            gaps.append(((best[0] - best[1]) / row.abs().max()).item())
            ids = torch.cat([ids, row.argmax()[None]])
    return ids[len(prompt):], min(gaps)


def more(cls, folder, tokens, expected):
    """Greedy tokens, gradients of weights that no LoRA reaches, and that windows, biases, norms and so on matter."""
    for kind in expected:
        model = fresh(cls, folder)
        model = model if kind == "base" else PeftModel.from_pretrained(model, folder / kind).eval()
        expected[kind]["greedy"], gap = greedy(model, tokens["prompt"])
        assert gap > 10 * TOLERANCE, f"{folder.name} {kind}: two candidates lie {gap:.1e} apart; take another seed"
        print(f"{folder.name} {kind}: greedy candidates lie {gap:.1e} of the largest logit apart at least", file=sys.stderr)
    whole = fresh(cls, folder).requires_grad_(True)
    passes(whole, tokens)[2].backward()
    names = kept_full(folder.name)
    expected["full"] = {f"grad/{n}": p.grad for n, p in whole.named_parameters() if n in names}
    other = {what: fresh(cls, folder, **keys) for what, keys in changes(folder.name, whole.config).items()}
    for part in ("bias", "norm.weight"):
        plain = 0.0 if part == "bias" or folder.name.startswith("gemma") else 1.0
        for name, p in whole.named_parameters():
            if "self_attn" in name and name.endswith(part):
                model = other.setdefault(part, fresh(cls, folder))
                model.get_parameter(name).data.fill_(plain)
    for what, changed in other.items():
        difference = (passes(changed, tokens)[0] - expected["base"]["logits"]).abs().max().item()
        assert difference > 0.01, f"{folder.name}: without its {what} logits move by {difference}"


def expert_names(name, tensors, lora=""):
    """Tensors of a mixture under the names on disk. transformers 5 stacks the experts of a layer: gate and up in
    `mlp.experts.gate_up_proj` (E, 2f, w), down in `.down_proj` (E, w, f). peft has their updates below `.experts.base_layer`
    and `.experts`: A (E r, in), B (out, r E), the two halves of the inner rank being gate's and up's."""
    count, module, gate, up, down = EXPERTS[name]
    found = {}
    for full, t in tensors.items():
        stem, end = full.split(".mlp.experts", 1) if ".mlp.experts" in full else (None, None)
        if stem is None:
            found[full.replace(".mlp.gate.", f".{module}.gate.") if ".mlp.gate." in full else full] = t
            continue
        inner = "base_layer" in end or "gate_up_proj" in end
        end = end.split(".")[-1] if lora else "weight"
        each = t.reshape(count, -1, t.shape[-1]) if end != "lora_B" else t.reshape(t.shape[0], -1, count).permute(2, 0, 1)
        for e in range(count):
            half, rank = each.shape[1] // 2, each.shape[2] // 2
            parts = {down: each[e]} if not inner else {gate: each[e][:half], up: each[e][half:]}
            if inner and end == "lora_B":
                parts = {gate: each[e][:half, :rank], up: each[e][half:, rank:]}
            found |= {f"{stem}.{module}.experts.{e}.{part}.{end}": p.clone() for part, p in parts.items()}
    return found


def by_expert(name, cls, folder, tokens, generator):
    """The adapter `experts`: under the names of transformers 4 and of checkpoints, an update for each expert's projections,
    of other values than `stacked`; as Randori writes it. peft computes with it stacked."""
    model = PeftModel.from_pretrained(fresh(cls, folder), folder / "stacked", is_trainable=True)
    perturb(model, generator)
    for full, p in model.named_parameters():
        if "experts.base_layer.lora_B" in full:  # gate's rows see gate's half of the rank only, up's the other
            b = p.data.reshape(p.shape[0], -1, EXPERTS[name][0])
            b[: b.shape[0] // 2, b.shape[1] // 2 :] = 0
            b[b.shape[0] // 2 :, : b.shape[1] // 2] = 0
    own = {short(n): p.data for n, p in model.named_parameters() if p.requires_grad}
    own = expert_names(name, own, lora=True)
    out = folder / "experts"
    out.mkdir()
    save_file({f"base_model.model.{n}.weight": t.contiguous() for n, t in own.items()}, out / "adapter_model.safetensors",
              metadata={"format": "pt"})
    config = dict(peft_type="LORA", task_type="CAUSAL_LM", base_model_name_or_path=f"tiny-{name}", r=1, lora_alpha=2,
                  target_modules=sorted({n.rsplit(".", 1)[0] for n in own}))
    (out / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")
    loaded = PeftModel.from_pretrained(fresh(cls, folder), out).eval()
    found = kept(model.eval(), tokens, name == "mixtral")  # one family's gradients are enough
    assert (passes(loaded, tokens)[0] - found["logits"]).abs().max().item() < 1e-6
    grads = {n.removeprefix("grad/"): g for n, g in found.items() if n.startswith("grad/")}
    found = {n: t for n, t in found.items() if not n.startswith("grad/")}
    return found | {f"grad/{n}": g for n, g in expert_names(name, grads, lora=True).items()}


def mixture(cls, folder, tokens, expected):
    """As more(), and that experts and routing matter; merged weights of some experts."""
    name = folder.name
    changes = {"windows": dict(sliding_window=None), "another number of experts a token": dict(num_experts_per_tok=1)}
    if "norm_topk_prob" in json.loads((folder / "config.json").read_text()):
        changes["norms of weights"] = dict(norm_topk_prob=not fresh(cls, folder).config.norm_topk_prob)
    for what, change in changes.items():
        difference = (passes(fresh(cls, folder, **change), tokens)[0] - expected["base"]["logits"]).abs().max().item()
        assert difference > 0.1, f"{name}: without its {what} logits move by {difference}"
    if name in EXPERTS:
        expected["experts"] = by_expert(name, cls, folder, tokens, torch.Generator().manual_seed(5))
        whole = fresh(cls, folder).requires_grad_(True)
        passes(whole, tokens)[2].backward()
        grads = expert_names(name, {n: p.grad for n, p in whole.named_parameters()})
        _, module, gate, _, down = EXPERTS[name]
        keep = [f"model.layers.0.{module}.{part}.weight" for part in ("gate", f"experts.1.{gate}", f"experts.2.{down}")]
        expected["full"] = {f"grad/{n}": grads[n] for n in keep}
        if name != "mixtral":  # one family's is enough
            shutil.rmtree(folder / "stacked")
            del expected["stacked"]
        for kind in sorted({"stacked", "experts"} & expected.keys()):
            merged = PeftModel.from_pretrained(fresh(cls, folder), folder / kind).merge_and_unload().state_dict()
            merged = expert_names(name, merged)
            expected[kind] |= {f"merged/{n}": merged[n] for n in keep}
    for kind in [kind for kind in expected if kind != "full"]:
        model = fresh(cls, folder)
        model = model if kind == "base" else PeftModel.from_pretrained(model, folder / kind).eval()
        expected[kind]["greedy"], gap = greedy(model, tokens["prompt"])
        assert gap > 10 * TOLERANCE, f"{name} {kind}: two candidates lie {gap:.1e} apart; take another seed"
        print(f"{name} {kind}: greedy candidates lie {gap:.1e} of the largest logit apart at least", file=sys.stderr)
    if name == "qwen3_moe_step":  # as folders of transformers 4 have it
        path = folder / "config.json"
        config = json.loads(path.read_text())
        config["num_experts"] = config.pop("num_local_experts")
        path.write_text(json.dumps(config, indent=2) + "\n")
        assert (passes(fresh(cls, folder), tokens)[0] - expected["base"]["logits"]).abs().max().item() == 0


def rotary_family(cls, folder, tokens, expected):
    """Greedy tokens, that biases and each key matter, and how far f32's own gradients are off f64's."""
    for kind in expected:
        model = fresh(cls, folder)
        model = model if kind == "base" else PeftModel.from_pretrained(model, folder / kind).eval()
        steps = 11 if folder.name == "phi3" else GREEDY  # until the frequencies change
        expected[kind]["greedy"], gap = greedy(model, tokens["prompt"], steps)
        assert gap > 10 * TOLERANCE, f"{folder.name} {kind}: two candidates lie {gap:.1e} apart; take another seed"
        print(f"{folder.name} {kind}: greedy candidates lie {gap:.1e} of the largest logit apart at least", file=sys.stderr)
    changes = [fresh(cls, folder, **keys) for keys in (ROTARY | HYBRIDS | CARRIED)[folder.name][1]]
    whole = fresh(cls, folder)
    if any(n.endswith("bias") for n, _ in whole.named_parameters()):
        for name, p in whole.named_parameters():
            p.data = torch.zeros_like(p) if name.endswith("bias") else p.data
        changes.append(whole)
    for number, changed in enumerate(changes):
        difference = (passes(changed, tokens)[1] - expected["base"]["logps"]).abs().max().item()
        assert difference > 0.02, f"{folder.name}: change {number} moves log-probs by {difference}"
    if folder.name in HYBRIDS | CARRIED:
        whole = fresh(cls, folder).requires_grad_(True)
        passes(whole, tokens)[2].backward()
        expected["full"] = {f"grad/{n}": whole.get_parameter(n).grad for n in (HYBRIDS | CARRIED)[folder.name][2]}
    model = fresh(cls, folder)
    if "mixture" in folder.name:
        model.set_experts_implementation("eager")  # the other is for f32
    model = PeftModel.from_pretrained(model, folder / "plain", is_trainable=True).eval().double()
    off = {}
    exact = kept(model, tokens, True)
    for key, value in expected["plain"].items():
        if key.startswith("grad/"):
            off[key] = ((value - exact[key]).abs().max() / exact[key].abs().max()).item()
    print(f"{folder.name}: f32's gradients are off f64's by {max(off.values()):.1e} of their largest value at most", file=sys.stderr)


def gpt_oss(cls, folder, tokens, expected):
    """As more(); sinks, biases and experts among what must matter. On disk experts are (E, in, out), gate's columns and the
    other input's taking turns; gradients are kept by expert, (out, in)."""
    for kind in expected:
        model = fresh(cls, folder)
        model = model if kind == "base" else PeftModel.from_pretrained(model, folder / kind).eval()
        expected[kind]["greedy"], gap = greedy(model, tokens["prompt"])
        assert gap > 10 * TOLERANCE, f"{folder.name} {kind}: two candidates lie {gap:.1e} apart; take another seed"
        print(f"{folder.name} {kind}: greedy candidates lie {gap:.1e} of the largest logit apart at least", file=sys.stderr)
    rope = fresh(cls, folder).config.rope_parameters
    changes = {key: dict([(key, value)]) for key, value in dict(
        sliding_window=64, num_experts_per_tok=1, swiglu_limit=7.0, swiglu_alpha=1.0, rope_parameters={**rope, "truncate": True},
        layer_types=["full_attention", "sliding_attention"]).items()}
    other = {what: fresh(cls, folder, **keys) for what, keys in changes.items()}
    for part in ("sinks", "self_attn.o_proj.bias", "router.bias", "gate_up_proj_bias", "down_proj_bias"):
        for name, p in (other.setdefault(part, fresh(cls, folder))).named_parameters():
            if name.endswith(part):
                p.data.fill_(-100.0 if part == "sinks" else 0.0)
    for what, changed in other.items():
        difference = (passes(changed, tokens)[0] - expected["base"]["logits"]).abs().max().item()
        assert difference > 0.01, f"{folder.name}: without its {what} logits move by {difference}"
    whole = fresh(cls, folder).requires_grad_(True)
    passes(whole, tokens)[2].backward()
    grads = {n: p.grad for n, p in whole.named_parameters()}
    keep = [f"model.layers.{i}.self_attn.{part}" for i in (0, 1) for part in ("sinks", "q_proj.bias", "o_proj.bias")]
    found = {n: grads[n] for n in [*keep, "model.layers.1.mlp.router.weight", "model.layers.0.mlp.router.bias"]}
    for layer, e in ((0, 1), (1, 2)):
        experts, to = f"model.layers.{layer}.mlp.experts", f"model.layers.{layer}.mlp.experts.{e}"
        found |= {f"{to}.gate_proj.weight": grads[f"{experts}.gate_up_proj"][e][:, ::2].T,
                  f"{to}.up_proj.bias": grads[f"{experts}.gate_up_proj_bias"][e][1::2],
                  f"{to}.down_proj.weight": grads[f"{experts}.down_proj"][e].T}
    expected["full"] = {f"grad/{n}": g.clone() for n, g in found.items()}


def make(name, model):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    generator = torch.Generator().manual_seed(SEEDS.get(name, 3))
    randomise(model, generator)
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if name == "gemma2":
        path = folder / "config.json"
        path.write_text(path.read_text().replace('"dtype": "bfloat16"', '"dtype": "float32"'))
    tokens = {k: torch.randint(3, VOCAB, (n,), generator=generator) for k, n in (("prompt", 11), ("real", 13), ("generated", 9))}
    cls = type(model)
    expected = {"base": kept(fresh(cls, folder).requires_grad_(False), tokens, False)}
    if name == "mistral":
        wide = fresh(cls, folder)
        wide.config.sliding_window = None
        difference = (passes(wide, tokens)[0] - expected["base"]["logits"]).abs().max().item()
        assert difference > 0.1, f"the window changes next to nothing ({difference})"
    for kind, (config, want_grads) in adapters(name).items():
        adapted = get_peft_model(fresh(cls, folder), config)
        perturb(adapted, generator)
        save_adapter(adapted, folder / kind, f"tiny-{name}")
        expected[kind] = kept(adapted, tokens, want_grads)
        difference = (expected[kind]["logits"] - expected["base"]["logits"]).abs().max().item()
        assert difference > 0.1, f"{name} {kind}: the adapter changes next to nothing ({difference})"
        loaded = PeftModel.from_pretrained(fresh(cls, folder), folder / kind).eval()
        assert (passes(loaded, tokens)[1] - expected[kind]["logps"]).abs().max().item() < 1e-6
        merged = loaded.merge_and_unload().state_dict()
        if name in EXPERTS:
            continue  # mixture() has theirs
        names = KEPT_MERGED + KEPT_MERGED_ROTARY * (name in ROTARY) + KEPT_MERGED_HYBRIDS * (name in HYBRIDS)
        of_kind = {n: merged[f"{n}.weight"] for n in names if f"{n}.weight" in merged}
        base = fresh(cls, folder).state_dict()
        expected[kind] |= {f"merged/{n}.weight": w for n, w in of_kind.items() if not torch.equal(w, base[f"{n}.weight"])}
    if name == "llama":
        expected |= stack(cls, folder, tokens)
    if name == "gpt_oss":
        gpt_oss(cls, folder, tokens, expected)
    elif name in MIXTURES:
        mixture(cls, folder, tokens, expected)
    elif name in ROTARY | HYBRIDS | CARRIED:
        rotary_family(cls, folder, tokens, expected)
    elif newer(name):
        more(cls, folder, tokens, expected)
    tensors = {f"{kind}/{key}": t for kind, found in expected.items() for key, t in found.items()}
    tensors |= {f"tokens/{k}": t for k, t in tokens.items()}
    save_file({k: t.contiguous() for k, t in tensors.items()}, folder / "expected.safetensors")


if __name__ == "__main__":
    for name, model in models():
        if name in (sys.argv[1:] or [name]):
            make(name, model)
    size = sum(p.stat().st_size for p in OUT.rglob("*") if p.is_file())
    print(f"{size / 1024:.0f} KiB in {OUT.name}/", file=sys.stderr)
