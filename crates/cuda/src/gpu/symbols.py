#!/usr/bin/env python3
"""Writes symbols.txt: which functions of which CUDA library the program may call.

usage: symbols.py CUDARC_SOURCE CANDLE_KERNELS_BUILD > symbols.txt
The first is cudarc's source folder, the second the folder where candle-kernels' static library lies after a build.
"""
import pathlib, re, subprocess, sys

cudarc, kernels = (pathlib.Path(a) for a in sys.argv[1:3])
print("# Written by symbols.py. Library and function; those of cudart only ever say that there is no device.")
for library, module, pattern in [
    ("cuda", "driver", r"cu[A-Z]\w*"), ("cublas", "cublas", r"cublas\w+"), ("cublasLt", "cublaslt", r"cublas\w+"),
    ("curand", "curand", r"curand\w+"), ("nvrtc", "nvrtc", r"nvrtc\w+"),
]:
    text = (cudarc / "src" / module / "sys" / "mod.rs").read_text()
    for name in sorted(set(re.findall(r"fn (" + pattern + r")\b", text))):
        print(library, name)
archives = [str(p) for p in kernels.rglob("*.a")]
undefined = subprocess.run(["nm", "--undefined-only", *archives], capture_output=True, text=True).stdout
for name in sorted(set(re.findall(r"\b((?:__)?cuda[A-Z]\w*)", undefined))):
    print("cudart", name)
