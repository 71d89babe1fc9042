#!/usr/bin/env python
"""What other programs made, for Randori to read: `inputs.py OUT [SMOLLM2_FOLDER]`, called by tests/interop.rs.

    OUT/MODEL/hf/            a tiny random model with tokenizer and chat template: see tiny()
    OUT/MODEL/from-peft/KIND adapters that peft saved (smollm2 too, if its folder is given)
    OUT/MODEL/from-bnb/KIND  4-bit checkpoints that transformers saved with bitsandbytes
    OUT/MODEL/peers.safetensors   `tokens`, and the logits of each of these in PyTorch (f32 weights, f64 sums), by KIND
"""
import json, sys
from pathlib import Path

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import (AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, Gemma2Config, Gemma2ForCausalLM, Gemma3ForCausalLM,
                          Gemma3TextConfig, Glm4Config, Glm4ForCausalLM, LlamaConfig, LlamaForCausalLM, LlamaTokenizer, MistralConfig,
                          MistralForCausalLM, Olmo2Config, Olmo2ForCausalLM, Olmo3Config, Olmo3ForCausalLM, PreTrainedTokenizerFast,
                          Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM)

from quiet import HERE, hush, wide

BYTE_LEVEL, SENTENCEPIECE = 384, 420
# hidden and intermediate sizes are whole blocks of every GGUF type
SIZES = dict(hidden_size=256, intermediate_size=512, num_hidden_layers=2, rms_norm_eps=1e-5, initializer_range=0.05)
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 2048}
CHATML = ("{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content | trim + '<|im_end|>\n' }}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
INST = ("{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
        "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}")


TEXT = "The river rises in the hills above the town, and by the time it reaches the mill it is forty metres wide."


def corpus():
    return "\n".join((HERE / f).read_text() for f in ("inputs.py", "make_goldens.py"))


def byte_level(folder, digits="{1,3}", begins=True):
    """Llama 3's kind: its pre-tokenizer's regular expression over bytes. Qwen's cuts digits apart, and texts begin with no token."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    split = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + digits + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
             r"|\s+(?!\S)|\s+")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(split), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|begin_of_text|>", "<|im_start|>", "<|im_end|>"]
    tokenizer.train_from_iterator([corpus()], trainers.BpeTrainer(
        vocab_size=BYTE_LEVEL, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    bos = special[0] if begins else None
    if begins:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=special[2], clean_up_tokenization_spaces=False)
    fast.chat_template = CHATML if begins else CHATML.removeprefix("{{ bos_token }}")
    assert len(fast) == BYTE_LEVEL, len(fast)
    fast.save_pretrained(folder)


def qwens(folder):
    byte_level(folder, digits="", begins=False)


def sentencepiece(folder):
    """Llama 2's and Mistral's kind: SentencePiece BPE with byte fallback."""
    import io
    import sentencepiece
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus().splitlines()), model_writer=model, vocab_size=SENTENCEPIECE, model_type="bpe",
        byte_fallback=True, pad_id=-1, unk_id=0, bos_id=1, eos_id=2, character_coverage=0.99, split_digits=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, minloglevel=2)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    tokenizer = LlamaTokenizer.from_pretrained(folder, add_bos_token=True)
    tokenizer.chat_template = INST
    tokenizer.save_pretrained(folder)


def tiny(sizes=SIZES, border=256):
    """name -> model, tokenizer's maker, vocabulary. Windows are shorter than the tokens compared in PyTorch. `border`: the length
    up to which a Phi-3 rotates by its first list of frequencies."""
    llama = dict(sizes, vocab_size=BYTE_LEVEL, num_attention_heads=4, num_key_value_heads=2, bos_token_id=0, eos_token_id=2)
    plain = {"rope_type": "default", "rope_theta": 50000.0}
    yield "llama", LlamaForCausalLM(LlamaConfig(
        **llama, max_position_embeddings=256, tie_word_embeddings=False, rope_parameters=plain)), byte_level
    yield "llama-tied", LlamaForCausalLM(LlamaConfig(
        **llama, max_position_embeddings=256, tie_word_embeddings=True, rope_parameters=plain)), byte_level
    yield "llama3", LlamaForCausalLM(LlamaConfig(
        **llama, max_position_embeddings=16384, tie_word_embeddings=False, rope_parameters=LLAMA3)), byte_level
    yield "mistral", MistralForCausalLM(MistralConfig(
        **sizes, vocab_size=SENTENCEPIECE, num_attention_heads=4, num_key_value_heads=2, head_dim=32, sliding_window=96,
        max_position_embeddings=256, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, rope_parameters=plain)), sentencepiece
    qwen = dict(sizes, vocab_size=BYTE_LEVEL, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, eos_token_id=2,
                rope_parameters=plain)
    yield "qwen2", Qwen2ForCausalLM(Qwen2Config(
        **qwen, use_sliding_window=True, sliding_window=96, max_window_layers=1, tie_word_embeddings=False)), qwens
    yield "qwen3", Qwen3ForCausalLM(Qwen3Config(**qwen, head_dim=128, tie_word_embeddings=True)), qwens
    # what a GGUF says by the family's name alone is as llama.cpp has it: the window of every other or sixth layer, the scale
    gemma = dict(sizes, vocab_size=SENTENCEPIECE, num_attention_heads=4, num_key_value_heads=2, head_dim=64, query_pre_attn_scalar=64,
                 sliding_window=96, max_position_embeddings=256, bos_token_id=1, eos_token_id=2)
    yield "gemma2", Gemma2ForCausalLM(Gemma2Config(
        **gemma, rope_parameters={"rope_type": "default", "rope_theta": 10000.0})), sentencepiece
    turns = {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
             "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}
    yield "gemma3", Gemma3ForCausalLM(Gemma3TextConfig(**dict(gemma, num_hidden_layers=6), rope_parameters=turns)), sentencepiece
    yield "glm4", Glm4ForCausalLM(Glm4Config(**qwen, head_dim=64, pad_token_id=0)), qwens
    yield "olmo2", Olmo2ForCausalLM(Olmo2Config(**qwen, pad_token_id=0)), qwens
    turns = {"full_attention": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 50000.0},
             "sliding_attention": {"rope_type": "default", "rope_theta": 50000.0}}
    yield "olmo3", Olmo3ForCausalLM(Olmo3Config(
        **dict(qwen, num_hidden_layers=4, rope_parameters=turns), sliding_window=96, pad_token_id=0)), qwens
    yield from rotary(qwen, border)


def rotary(common, border):
    """Families that rotate otherwise than Llama, or scale by more factors. A GGUF says by a family's name which layers of
    SmolLM3 and Cohere 2 are the odd ones: every 4th."""
    pairs = range(common["hidden_size"] // 4 * 3 // 8)  # three quarters of a head of width / 4
    yield "phi3", transformers.Phi3ForCausalLM(transformers.Phi3Config(
        **dict(common, max_position_embeddings=256 + border, sliding_window=96, original_max_position_embeddings=border,
               partial_rotary_factor=0.75, rope_parameters=dict(
                   rope_type="longrope", rope_theta=50000.0, short_factor=[1 + 0.02 * i for i in pairs],
                   long_factor=[1.5 + 0.3 * i for i in pairs])), pad_token_id=0)), qwens
    yarn = dict(rope_type="yarn", rope_theta=50000.0, factor=4.0, original_max_position_embeddings=64)
    yield "smollm3", transformers.SmolLM3ForCausalLM(transformers.SmolLM3Config(
        **dict(common, num_hidden_layers=4), pad_token_id=0)), qwens
    yield "granite", transformers.GraniteForCausalLM(transformers.GraniteConfig(
        **common, embedding_multiplier=3.0, residual_multiplier=0.6, attention_multiplier=0.1, logits_scaling=2.5)), qwens
    yield "ministral3", transformers.Ministral3ForCausalLM(transformers.Ministral3Config(
        **dict(common, rope_parameters=dict(yarn, mscale=1.0, mscale_all_dim=1.0, llama_4_scaling_beta=0.1)), head_dim=64,
        pad_token_id=0)), qwens
    yield "cohere2", transformers.Cohere2ForCausalLM(transformers.Cohere2Config(
        **dict(common, num_hidden_layers=4), sliding_window=96, logit_scale=0.25)), qwens


def randomise(model, generator):
    """Norms scale by 0.5..1.5, the rest such that attention is far from uniform and logits are of order 1."""
    added = 1.0 if "gemma" in model.config.model_type else 0.0  # to a norm's weight
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            p.data = 0.5 * torch.randn(p.shape, generator=generator)
        elif p.dim() == 1:
            p.data = 0.5 - added + torch.rand(p.shape, generator=generator)
        else:
            gain = 1.5 if "q_proj" in name or "k_proj" in name else 0.5 if "embed" in name else 1.0
            p.data = gain * torch.randn(p.shape, generator=generator) / p.shape[1] ** 0.5
    model.tie_weights()


def f32(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def logits(model, tokens):
    with torch.no_grad():
        return wide(model)(input_ids=tokens[None]).logits[0].float().contiguous()


def adapters(name):
    gate, up = ["gate_up_proj"] * 2 if name in ("glm4", "phi3") else ["gate_proj", "up_proj"]
    q, k, v = ["qkv_proj"] * 3 if name == "phi3" else ["q_proj", "k_proj", "v_proj"]
    other = "o_proj" if v == k else v  # of two keys that match, peft takes another once its file is sorted
    every = list(dict.fromkeys([q, k, v, "o_proj", gate, up, "down_proj"]))
    lora = lambda **k: LoraConfig(task_type="CAUSAL_LM", **k)
    regex = r".*\.layers\.\d+\.(self_attn\.(q|v|qkv)_proj|mlp\.down_proj)"
    kinds = {"regex": lora(r=8, lora_alpha=16, target_modules=regex),
             "dora": lora(r=8, lora_alpha=16, target_modules=every, use_dora=True)}
    if name == "smollm2":
        return kinds
    full = [f"model.layers.0.self_attn.{q}", f"model.layers.0.mlp.{up}", "model.layers.1.self_attn.o_proj"]
    kinds |= {"whole-names-rslora": lora(r=8, lora_alpha=4, target_modules=full, use_rslora=True),
              "patterns": lora(r=8, lora_alpha=16, target_modules="all-linear", rank_pattern={k: 2, r"layers\.1\.mlp\..*": 3},
                               alpha_pattern={k: 5, f"layers.0.self_attn.{other}": 40}),
              "dora-rslora-patterns": lora(r=4, lora_alpha=8, target_modules=every, use_dora=True, use_rslora=True,
                                           rank_pattern={v: 2}, alpha_pattern={"down_proj": 3})}
    kinds["head"] = lora(r=4, lora_alpha=8, target_modules=[q, "lm_head"])  # saved with a copy of the head's weight
    if name in ("llama", "mistral"):
        kinds["saved-head"] = lora(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], modules_to_save=["lm_head"])
    return kinds


def perturb(model, generator):
    """As training would leave it: B not zero, magnitudes off the norms, a saved head off the base's."""
    for name, p in model.named_parameters():
        if p.requires_grad:
            noise = torch.randn(p.shape, generator=generator)
            if "lora_magnitude" in name:
                p.data = p.data * (1 + 0.05 * noise)
            elif "modules_to_save" in name:
                p.data = p.data + 0.02 * noise
            else:
                p.data = (1 / p.shape[1] ** 0.5 if "lora_A" in name else 0.05) * noise


def peft_adapters(name, base, folder, tokens, generator):
    found = {"base": logits(f32(base), tokens)}
    for kind, config in adapters(name).items():
        model = get_peft_model(f32(base), config).eval()
        perturb(model, generator)
        model.save_pretrained(folder / "from-peft" / kind)
        found[kind] = logits(model, tokens)
    if name != "smollm2":
        model = f32(base)  # a list of targets and a regular expression cannot be combined otherwise
        for kind in ("regex", "whole-names-rslora"):
            model = PeftModel.from_pretrained(model, folder / "from-peft" / kind).merge_and_unload()
        found["stack"] = logits(model, tokens)
    return found


def bnb_checkpoints(base, folder, tokens):
    found = {}
    for double in (False, True):
        kind = "nf4-double" if double else "nf4"
        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=double,
                                    bnb_4bit_compute_dtype=torch.float32)
        model = AutoModelForCausalLM.from_pretrained(base, quantization_config=config, dtype=torch.float32, device_map="cpu").eval()
        model.save_pretrained(folder / "from-bnb" / kind)
        found[kind] = logits(model, tokens)
    return found


def main(out, smollm2):
    generator = torch.Generator().manual_seed(11)
    names = []
    for name, model, tokenizer in tiny():
        folder = out / name
        tokenizer(folder / "hf")
        randomise(model, generator)
        model.save_pretrained(folder / "hf")
        tokens = torch.randint(3, model.config.vocab_size, (128,), generator=generator)
        names.append((name, folder / "hf", tokens))
    if smollm2:
        names.append(("smollm2", smollm2, AutoTokenizer.from_pretrained(smollm2)(TEXT, return_tensors="pt").input_ids[0]))
    for name, base, tokens in names:
        folder = out / name
        found = peft_adapters(name, base, folder, tokens, generator) if name != "llama3" else {"base": logits(f32(base), tokens)}
        if name in ("llama", "mistral"):
            found |= bnb_checkpoints(base, folder, tokens)
        save_file({"tokens": tokens, **found}, folder / "peers.safetensors")


if __name__ == "__main__":
    hush()
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
