"""Random weights that fixtures need not store: the same numbers in Python and in `draw` of mod.rs, keyed by the tensor's name."""
import hashlib

import torch


def draw(name, shape, scale=1.0):
    """Normal numbers times `scale`, float32. The seed is the first four bytes of SHA-256 of the name, little-endian."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], 'little')
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale
