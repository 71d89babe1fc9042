#!/usr/bin/env python3
"""PyTorch as a peer: one case of `side_by_side.py` that the reference's own command line does not
have.

  pytorch.py CASE MODEL_DIR [key=value ...]

Cases: score, generate, first, product. Prints one JSON line.
"""
import json, os, resource, statistics, sys, time

peers = os.path.dirname(os.path.abspath(__file__))
case, model, *rest = sys.argv[1:]
options = dict(pair.split("=") for pair in rest)
number = lambda key, default: int(options.get(key, default))
THREADS = 2


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def loaded():
    sys.path.insert(0, peers)
    import torch, spin_torch
    from transformers import AutoTokenizer
    torch.set_num_threads(THREADS)
    pairs = spin_torch.read_jsonl(os.path.join(peers, "fixtures/pairs_small.jsonl"))
    return torch, spin_torch, AutoTokenizer.from_pretrained(model), pairs, spin_torch.load_model(model, "float32").eval()


def score():
    """Eight padded rows at a time, as the official step has them: four real responses, four generated ones."""
    torch, S, tokenizer, pairs, net = loaded()
    settings = S.parser().parse_args(["score", "--model", model, "--logits", options.get("logits", "full")])
    rows = [S.encode_pair(tokenizer, pair, settings) for pair in pairs]
    seconds, tokens = [], []
    with torch.no_grad():
        for first in [0, *range(0, number("pairs", 64), 4)]:       # the first batch once more, to warm up
            four = rows[first:first + 4]
            batch = S.collate([r for r, _ in four] + [g for _, g in four], tokenizer.pad_token_id)
            start = time.perf_counter()
            S.row_logps(net, *batch, settings.logits)
            seconds.append(time.perf_counter() - start)
            tokens.append(int((batch[2] != S.IGN).sum()))
    return {"wall_s": seconds[1:], "tokens": tokens[1:]}


def generate():
    torch, S, tokenizer, pairs, net = loaded()
    batch, new = number("batch", 32), number("new", 128)
    ids = [S.prompt_ids(tokenizer, pair["prompt"], "model") for pair in pairs[:batch]]
    longest, eos, seconds = max(map(len, ids)), tokenizer.eos_token_id, []
    inputs = torch.tensor([[eos] * (longest - len(i)) + i for i in ids])
    mask = torch.tensor([[0] * (longest - len(i)) + [1] * len(i) for i in ids])
    for r in range(number("reps", 2) + 1):
        count = new if r else 8
        start = time.perf_counter()
        with torch.no_grad():
            out = net.generate(input_ids=inputs, attention_mask=mask, max_new_tokens=count, min_new_tokens=count,
                               do_sample=True, top_k=0, pad_token_id=eos)
        assert out.shape[1] == longest + count
        if r:
            seconds.append(time.perf_counter() - start)
    return {"wall_s": seconds, "tokens": batch * new}


def first():
    """The whole process is timed from outside."""
    torch, S, tokenizer, pairs, net = loaded()
    ids = torch.tensor([S.prompt_ids(tokenizer, pairs[0]["prompt"], "model")])
    with torch.no_grad():
        return {"token": int(net(input_ids=ids, use_cache=True).logits[0, -1].argmax())}


def product():
    """GFLOP/s of numpy (OpenBLAS) and torch (MKL): n rows through two projections, k to m and back; with head=1, through one
    and the product of its gradient back."""
    import numpy, torch
    torch.set_num_threads(THREADS)
    n, k, m = number("n", 256), number("k", 576), number("m", 1536)
    x, up, down = (numpy.random.rand(*shape).astype("f") - 0.5 for shape in ((n, k), (m, k), (k, m)))
    tx, tup, tdown = map(torch.from_numpy, (x, up, down))
    rates = {}
    if number("head", 0):
        cases = (("numpy", lambda: (x @ up.T) @ up), ("torch", lambda: (tx @ tup.T) @ tup))
    else:
        cases = (("numpy", lambda: (x @ up.T) @ down.T), ("torch", lambda: (tx @ tup.T) @ tdown.T))
    for name, run in cases:
        seconds = []
        run()
        while len(seconds) < 3 or (sum(seconds) < 1.0 and len(seconds) < 200):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        rates[name] = 4 * n * k * m / statistics.median(seconds) / 1e9
    return {"gflops": rates}


print(json.dumps({**{"score": score, "generate": generate, "first": first, "product": product}[case](), "case": case, "peak_mib": peak()}))
