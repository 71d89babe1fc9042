#!/usr/bin/env python3
"""llama.cpp as a peer: `batch` sequences of `new` tokens drawn from the model's own distribution,
`reps` times.

  llamacpp.py MODEL.gguf IDS.json [batch=32] [new=128] [reps=2] [threads=2]

Goes through llama-cpp-python's C interface: one decode for all prompts, then one a token for all
sequences, each with its own sampler (the distribution as it is). Prints one JSON line: wall seconds
of every repeat, tokens, peak memory.
"""
import ctypes, json, resource, sys, time

import llama_cpp as L

model_path, ids_path, *rest = sys.argv[1:]
options = {"batch": 32, "new": 128, "reps": 2, "threads": 2}
options.update((k, int(v)) for k, v in (pair.split("=") for pair in rest))
batch, new, reps, threads = (options[k] for k in ("batch", "new", "reps", "threads"))
prompts = [row["prompt_ids"] for row in json.load(open(ids_path))[:batch]]

silent = L.llama_log_callback(lambda level, text, data: None)
L.llama_log_set(silent, None)
L.llama_backend_init()
params = L.llama_model_default_params()
params.n_gpu_layers = 0
model = L.llama_model_load_from_file(model_path.encode(), params)
assert model, "llama.cpp did not load the model"
vocab = L.llama_model_get_vocab(model)

settings = L.llama_context_default_params()
longest = max(map(len, prompts))
settings.n_ctx = batch * (longest + new + 8)
settings.n_batch = sum(map(len, prompts))
settings.n_ubatch = 512
settings.n_seq_max = batch
settings.n_threads = settings.n_threads_batch = threads
settings.kv_unified = True
context = L.llama_init_from_model(model, settings)
assert context, "llama.cpp made no context"


def generate(count, seed):
    memory = L.llama_get_memory(context)
    L.llama_memory_clear(memory, True)
    samplers = []
    for i in range(batch):
        chain = L.llama_sampler_chain_init(L.llama_sampler_chain_default_params())
        L.llama_sampler_chain_add(chain, L.llama_sampler_init_dist(seed * 1000 + i))
        samplers.append(chain)
    step = L.llama_batch_init(sum(map(len, prompts)), 0, 1)
    at = 0
    last = []
    for s, prompt in enumerate(prompts):
        for i, token in enumerate(prompt):
            step.token[at], step.pos[at], step.n_seq_id[at], step.seq_id[at][0] = token, i, 1, s
            step.logits[at] = i + 1 == len(prompt)
            at += 1
        last.append(at - 1)
    step.n_tokens = at
    assert L.llama_decode(context, step) == 0
    drawn = 0
    for i in range(count):
        tokens = [L.llama_sampler_sample(samplers[s], context, last[s]) for s in range(batch)]
        drawn += len(tokens)
        if i + 1 == count:
            break
        for s, token in enumerate(tokens):
            step.token[s], step.pos[s], step.n_seq_id[s], step.seq_id[s][0] = token, len(prompts[s]) + i, 1, s
            step.logits[s] = 1
            last[s] = s
        step.n_tokens = batch
        assert L.llama_decode(context, step) == 0
    for chain in samplers:
        L.llama_sampler_free(chain)
    L.llama_batch_free(step)
    return drawn


generate(8, 0)
seconds = []
for r in range(reps):
    start = time.perf_counter()
    drawn = generate(new, r + 1)
    seconds.append(time.perf_counter() - start)
print(json.dumps({"case": "generate", "wall_s": seconds, "tokens": drawn,
                  "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
