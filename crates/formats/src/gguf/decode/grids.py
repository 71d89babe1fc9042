"""Makes grids.bin: the points that the formats IQ1, IQ2 and IQ3 choose from, as gguf-py 0.19 (MIT,
the ggml authors) has them. 16 bits a point, little-endian: eight coordinates of 2 bits (IQ2, IQ1)
or four in 4 bits each (IQ3), the first one lowest; grid.rs says which number each stands for.

  pip install gguf==0.19.0
  python grids.py
"""
from pathlib import Path

from gguf import quants

GRIDS = [  # and the number of points
    (quants.IQ2_XXS, 256), (quants.IQ2_XS, 512), (quants.IQ2_S, 1024),
    (quants.IQ3_XXS, 256), (quants.IQ3_S, 512), (quants.IQ1_S, 2048),
]
out = b""
for kind, points in GRIDS:
    grid = bytes.fromhex(kind.grid_hex.decode())
    assert kind.grid_shape[0] == points and len(grid) == 2 * points, kind
    out += grid
# seven signs are stored, the eighth makes the number of minus signs even
assert all(b == i | (i.bit_count() & 1) << 7 for i, b in enumerate(quants.IQ2_XXS.ksigns))
(Path(__file__).parent / "grids.bin").write_bytes(out)
