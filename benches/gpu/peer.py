#!/usr/bin/env python3
"""The peer of `benches/src/bin/gpu`: the same kernels, training steps and generation in PyTorch,
transformers and peft.

  peer.py kernels|train|generate SIZES.json [--small]

Prints a JSON line for every figure, as `gpu` does. Random weights are made on the card: NF4 with
bitsandbytes where that is installed, else bf16, which each figure's note says. Attention is
flash-attn's where that is installed, else torch's own. A training step is TRL's: rows of prompt and
response, real ones first, then generated; bf16 autocast; gradient checkpointing; AdamW; SPIN's loss
on log-prob ratios, with the reference's log-probs as constants, as ours has them. `--small`: on the
processor, to try the script.
"""
import importlib.util, json, os, statistics, sys, time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
import torch
import torch.nn.functional as F

case, file = sys.argv[1:3]
SMALL = "--small" in sys.argv
sizes = json.load(open(file))
model = sizes["model"]
DEVICE = "cpu" if SMALL else "cuda"
GIB = 1 << 30
ROTATED = 256 << 20
BNB = importlib.util.find_spec("bitsandbytes") is not None
FLASH = not SMALL and importlib.util.find_spec("flash_attn") is not None
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
WEIGHTS = ("NF4 by bitsandbytes" if BNB else "bf16 weights") + (", flash-attn" if FLASH else ", SDPA")


def say(key, value, unit, note=""):
    print(json.dumps({"key": key, "value": value, "unit": unit, "note": note}), flush=True)


def wait():
    if not SMALL:
        torch.cuda.synchronize()


def seconds(launch):
    """As the other side times: as many launches between two synchronisations as take 20 ms; the median of seven."""
    def run(n):
        wait()
        start = time.perf_counter()
        for i in range(n):
            launch(i)
        wait()
        return time.perf_counter() - start
    run(3)
    n = 1
    while run(n) < 0.02 and n < 4096:
        n *= 2
    return statistics.median(run(n) / n for _ in range(7))


def sets(bytes):
    return 2 if bytes < 1 << 16 else min(64, max(2, -(-ROTATED // bytes)))


def halves(*dims):
    return torch.rand(*dims, device=DEVICE, dtype=torch.float32).mul_(2).sub_(1).to(torch.bfloat16)


# ---------------------------------------------------------------- kernels
def kernels():
    n = sizes["product"]
    count = sets(6 * n * n)
    a, b = ([halves(n, n) for _ in range(count)] for _ in range(2))
    c = [torch.empty(n, n, device=DEVICE, dtype=torch.bfloat16) for _ in range(count)]
    s = seconds(lambda i: torch.mm(a[i % count], b[i % count].t(), out=c[i % count]))
    say("product", 2 * n ** 3 / s / 1e12, "TFLOP/s")
    del a, b, c
    x = halves(sizes["copy_mib"] << 19)
    y = torch.empty_like(x)
    say("copy", 4 * x.numel() / seconds(lambda i: y.copy_(x)) / 1e9, "GB/s")
    del x, y
    rows, width = sizes["rows"], model["hidden_size"]
    count = sets(4 * rows * width)
    x, w = [halves(rows, width) for _ in range(count)], halves(width)
    s = seconds(lambda i: F.rms_norm(x[i % count], (width,), w, 1e-5))
    say("norm", 4 * rows * width / s / 1e9, "GB/s", "torch's rms_norm")
    del x
    attention()
    if BNB:
        quantised()


def attention():
    heads, kv, dim, tokens = model["num_attention_heads"], model["num_key_value_heads"], model["head_dim"], sizes["rows"]
    count = sets(4 * tokens * (heads + kv) * dim)
    q = [halves(1, heads, tokens, dim).requires_grad_() for _ in range(count)]
    k, v = ([halves(1, kv, tokens, dim).requires_grad_() for _ in range(count)] for _ in range(2))
    dout = halves(1, heads, tokens, dim)
    attend = lambda i: F.scaled_dot_product_attention(q[i], k[i], v[i], is_causal=True, enable_gqa=True)
    product = 2 * (tokens * (tokens + 1) // 2) * heads * dim
    with torch.no_grad():
        s = seconds(lambda i: attend(i % count))
    say("attention forward", 2 * product / s / 1e12, "TFLOP/s", "SDPA")
    out = [attend(i) for i in range(count)]
    s = seconds(lambda i: torch.autograd.grad(out[i % count], (q[i % count], k[i % count], v[i % count]), dout, retain_graph=True))
    say("attention backward", 5 * product / s / 1e12, "TFLOP/s", "SDPA")


def quantised():
    import bitsandbytes.functional as B
    rows, columns = sizes["matrix"]
    held = rows * columns * (0.5 + 1 / 64)
    count = sets(int(held))
    many = [B.quantize_4bit(halves(rows, columns) * 0.04, quant_type="nf4", compress_statistics=True) for _ in range(count)]
    s = seconds(lambda i: B.dequantize_4bit(*many[i % count]))
    say("nf4", (held + 2 * rows * columns) / s / 1e9, "GB/s", "bitsandbytes")
    if SMALL:
        return                                      # bitsandbytes has it for GPUs only
    x = halves(1, 1, columns)
    s = seconds(lambda i: B.gemv_4bit(x, many[i % count][0].t(), state=many[i % count][1]))
    say("matvec 1", held / s / 1e9, "GB/s", "bitsandbytes")


# ---------------------------------------------------------------- passes
def net():
    from transformers import LlamaConfig, LlamaForCausalLM
    config = LlamaConfig(**{k: v for k, v in model.items() if k != "model_type"}, attn_implementation="flash_attention_2" if FLASH else "sdpa")
    torch.set_default_dtype(torch.bfloat16)
    config.dtype = torch.bfloat16
    if BNB:
        made = in_four_bits(config)
    else:
        with torch.device(DEVICE):
            made = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    made.generation_config.eos_token_id = None      # every answer is as long as asked for
    made.generation_config.pad_token_id = 0
    return made


def in_four_bits(config):
    """As `load_in_4bit` leaves a model: the blocks' projections in NF4, doubly quantised, the rest in bf16."""
    import bitsandbytes as bnb
    from transformers import LlamaForCausalLM
    with torch.device("meta"):
        made = LlamaForCausalLM(config)
    made.to_empty(device=DEVICE)
    with torch.no_grad():
        for name, p in made.named_parameters():
            p.fill_(1) if p.dim() == 1 else p.normal_(0, 0.02)
    with torch.device(DEVICE):                      # its table is no parameter
        made.model.rotary_emb = type(made.model.rotary_emb)(config)
    for block in made.model.layers:
        for part in (block.self_attn, block.mlp):
            for name in PROJECTIONS:
                old = getattr(part, name, None)
                if old is None:
                    continue
                new = bnb.nn.Linear4bit(old.in_features, old.out_features, bias=False, compute_dtype=torch.bfloat16,
                                        compress_statistics=True, quant_type="nf4", device="meta")
                new.weight = bnb.nn.Params4bit(old.weight.data.cpu(), requires_grad=False, compress_statistics=True, quant_type="nf4").to(DEVICE)
                setattr(part, name, new)
        if not SMALL:
            torch.cuda.empty_cache()
    made.is_loaded_in_4bit = True                   # peft asks
    return made


def peak():
    if SMALL:
        import resource
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "process"
    free, all = torch.cuda.mem_get_info()
    return torch.cuda.max_memory_allocated(), f"the whole card {(all - free) / GIB:.2f} GiB"


def train():
    from peft import LoraConfig, get_peft_model
    made = net()
    made.config.use_cache = False
    lora = LoraConfig(r=sizes["rank"], lora_alpha=sizes["alpha"], lora_dropout=0.0, bias="none", task_type="CAUSAL_LM", target_modules=PROJECTIONS)
    policy = get_peft_model(made, lora)             # keeps the adapter in f32
    policy.enable_input_require_grads()
    policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    policy.train()
    for step in sizes["train"]:
        one(policy, step)


def logps(policy, ids, prompt):
    """Summed log-prob of each row's response, in f32."""
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        logits = policy(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[:, prompt - 1:-1]
    logits = logits.float()
    chosen = logits.gather(2, ids[:, prompt:].unsqueeze(2)).squeeze(2)
    return (chosen - logits.logsumexp(-1)).sum(-1)


def one(policy, step):
    pairs, at_once, prompt, response = (step[k] for k in ("pairs", "at_once", "prompt", "response"))
    params = [p for p in policy.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(params, lr=sizes["learning_rate"], weight_decay=0.0)
    g = torch.Generator().manual_seed(7)
    draw = lambda n: torch.randint(0, model["vocab_size"], (pairs, n), generator=g).to(DEVICE)
    prompts = draw(prompt)
    real, generated = (torch.cat([prompts, draw(response)], 1) for _ in range(2))
    constant = -response * torch.tensor(float(model["vocab_size"])).log().item()
    if not SMALL:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    times, losses = [], []
    for _ in range(step["steps"] + 1):
        wait()
        start, total = time.perf_counter(), 0.0
        for first in range(0, pairs, at_once):
            some = slice(first, first + at_once)
            sums = logps(policy, torch.cat([real[some], generated[some]]), prompt)
            ratio = sums - constant
            margin = ratio[:at_once] - ratio[at_once:]
            loss = -F.logsigmoid(sizes["beta"] * margin).sum() / pairs
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        wait()
        times.append(time.perf_counter() - start)
        losses.append(total)
    typical = statistics.median(times[1:])
    name, tokens = step["name"], 2 * pairs * (prompt + response)
    say(f"train, {name}", tokens / typical, "tokens/s", f"{WEIGHTS}; steps of {typical:.3f} s ({min(times[1:]):.3f} to {max(times[1:]):.3f}), loss {losses[0]:.4f} to {losses[-1]:.4f}")
    bytes, note = peak()
    say(f"memory, {name}", bytes / GIB, "GiB", note)


def generate():
    made, of = net().eval(), sizes["generate"]
    batch, new = of["batch"], of["new"]
    ids = torch.randint(0, model["vocab_size"], (batch, of["prompt"]), generator=torch.Generator().manual_seed(7)).to(DEVICE)
    if not SMALL:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    times = []
    for i in range(of["repeats"] + 1):
        count = new if i else min(new, 8)
        wait()
        start = time.perf_counter()
        with torch.no_grad():
            out = made.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=True, top_k=0)
        wait()
        assert out.shape[1] == ids.shape[1] + count
        if i:
            times.append(time.perf_counter() - start)
    typical = statistics.median(times)
    say("generate", batch * new / typical, "tokens/s", f"{WEIGHTS}; {typical:.2f} s")
    bytes, note = peak()
    say("memory, generate", bytes / GIB, "GiB", note)


{"kernels": kernels, "train": train, "generate": generate}[case]()
