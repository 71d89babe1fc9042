"""Tensors and what bitsandbytes (0.50, CPU) makes of them in NF4, for tests/bnb.rs.

    python nf4.py nf4.safetensors            # what is committed
    python nf4.py many.safetensors 2000      # random tensors besides; run the test with RANDORI_NF4_CASES=many.safetensors
"""
import sys

import torch
from bitsandbytes.functional import create_dynamic_map, dequantize_4bit, get_4bit_type, quantize_4bit
from safetensors.torch import save_file

torch.set_num_threads(1)  # torch's mean of many numbers depends on the number of threads
random = torch.Generator().manual_seed(20)
levels = get_4bit_type("nf4", device="cpu")
midpoints = (levels[1:] + levels[:-1]) / 2
nudged = torch.nextafter(midpoints, torch.full_like(midpoints, 9.0))
out = {"levels": levels, "map": create_dynamic_map()}


def normal(*shape):
    return torch.randn(*shape, generator=random)


def pick(table, *shape):
    t = table[torch.randint(0, len(table), shape, generator=random)].clone()
    t.view(-1)[::64] = 1.0  # every block's scale
    return t


def case(name, w, store=True):
    if store:
        out[f"{name}.w"] = w
    codes, state = quantize_4bit(w, blocksize=64, compress_statistics=False, quant_type="nf4")
    out[f"{name}.codes"] = codes.flatten()
    out[f"{name}.absmax"] = state.absmax.clone()
    twice, state = quantize_4bit(w, blocksize=64, compress_statistics=True, quant_type="nf4")
    assert torch.equal(codes, twice)
    out[f"{name}.absmax8"] = state.absmax.clone()
    out[f"{name}.nested"] = state.state2.absmax.clone()
    out[f"{name}.offset"] = state.offset.reshape(1).clone()
    # other widths: bitsandbytes' AVX-512 code takes scales of the wrong block (its CUDA and plain code do not)
    if w.shape[1] % 64 == 0 and len(w) <= 8:
        out[f"{name}.values"] = dequantize_4bit(codes, state).float()


def formula(n):
    """What the test computes too: exact in f32."""
    i = torch.arange(n, dtype=torch.int64)
    return (((i * 2654435761) % 2**32 >> 8).float() / 2**24 - 0.5).reshape(-1, 1024)


case("normal", normal(40, 96))
case("one", torch.tensor([[0.3]]))
case("negative", torch.tensor([[-0.3]]))
case("odd", normal(7, 33))
case("tail", normal(3, 65))
case("constant", torch.full((1, 64), 3.0))
case("zeros", torch.zeros(3, 64))
case("zeros_odd", torch.zeros(1, 33))
case("zero_block", torch.cat([normal(1, 64), torch.zeros(1, 64), normal(1, 64)]))
case("denormal", normal(4, 64) * 1e-39)
case("tiny", normal(4, 80) * torch.tensor([[1e-37], [1e-38], [1e-39], [1e-42]]))
case("huge", normal(4, 64) * 1e37)
case("levels", pick(levels, 8, 64))
case("ties", pick(torch.cat([midpoints, nudged]), 8, 64))
case("ties_scaled", pick(torch.cat([midpoints, nudged]), 8, 64) * 0.7)
case("few_scales", normal(7, 64))
case("bf16", normal(40, 100).bfloat16())
case("f16", (normal(40, 100) * 0.02).half())
out["formula.size"] = torch.tensor([1024 * 1024 + 1024 * 3], dtype=torch.int64)
case("formula", formula(int(out["formula.size"])), store=False)
codes = out.pop("formula.codes")
out["formula.sum"] = (codes.long() * (torch.arange(len(codes)) % 65521 + 1)).sum().reshape(1)
out.pop("formula.absmax")

for i in range(int(sys.argv[2]) if len(sys.argv) > 2 else 0):
    rows, columns = torch.randint(1, 200, (2,), generator=random).tolist()
    w = normal(rows, columns) * 10 ** float(torch.randint(-6, 3, (1,), generator=random))
    case(f"random{i}", [w, w.bfloat16(), w.half(), (w * 8).round() / 8][i % 4])

save_file(out, sys.argv[1])
