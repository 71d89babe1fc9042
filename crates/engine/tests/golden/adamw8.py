"""Six steps of bitsandbytes' AdamW8bit on the CPU (bitsandbytes 0.50.2, torch 2.15): python adamw8.py adamw8.safetensors

Weights and gradients are fractions of small integers, which src/train/optim/tests.rs makes again; what is stored is the result.
No gradient is near 0: there the CPU's table of 65,536 steps is coarser than the map (the GPU's kernels look for the nearest entry).
"""

import sys

import bitsandbytes as bnb
import torch
from safetensors.torch import save_file

N, STEPS = 4096 + 200, 6


def start():
    i = torch.arange(N, dtype=torch.float64)
    return ((i * 7919) % 1000 / 500 - 1).float()


def gradient(t):
    i = torch.arange(N, dtype=torch.float64)
    sign = 1 - 2 * ((i // 3 + t) % 2)
    return (((i * 131 + t * 977) % 2003 / 2003 + 0.5) * sign).float()


w = torch.nn.Parameter(start())
optimiser = bnb.optim.AdamW8bit([w], lr=1e-2, betas=(0.9, 0.99), eps=1e-6, weight_decay=0.1)
for t in range(1, STEPS + 1):
    w.grad = gradient(t)
    optimiser.step()
state = optimiser.state[w]
assert state["state1"].dtype == torch.uint8
out = {
    "weights": w.data,
    "first": state["state1"],
    "first_scales": state["absmax1"],
    "second": state["state2"],
    "second_scales": state["absmax2"],
}
save_file({k: v.contiguous() for k, v in out.items()}, sys.argv[1])
