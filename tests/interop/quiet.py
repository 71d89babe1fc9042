"""Where this folder is, how the packages are kept from talking, and how PyTorch computes."""
import os
import warnings
from pathlib import Path

HERE = Path(__file__).resolve().parent
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here is anywhere but on this disk


def hush():
    import torch
    from transformers.utils import logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
    torch.manual_seed(0)
    torch.set_num_threads(2)


def wide(model):
    """The model with its f32 weights in f64. SmolLM2's logits reach 40, and PyTorch's f32 sums alone put them off by up to 8e-5:
    with wide sums the differences that we print are Randori's own. 4-bit models stay in f32, without the product in bf16 that
    bitsandbytes takes on CPUs that have one."""
    four = [m for m in model.modules() if type(m).__name__ == "Linear4bit"]
    for layer in four:
        layer.support_avx512bf16_for_cpu = False
    if hasattr(model.config, "num_experts_per_tok") or getattr(model.config, "enable_moe_block", False):  # PyTorch's grouped products take no f64
        model.config._experts_implementation = "eager"
    return model if four else model.double()
