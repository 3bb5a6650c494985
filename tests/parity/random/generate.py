"""Writes fixture.safetensors: what torch's CPU generator draws on x86."""
import os
import sys

import torch
from safetensors.torch import save_file

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))
from draw import draw

torch.set_num_threads(1)
tensors = {}
for seed in (0, 1, 42, 420420, 2**32 - 1, 2**32 + 5):
    tensors[f'normal.{seed}'] = torch.randn(10_000, generator=torch.Generator().manual_seed(seed))
# One generator through every kind of draw, so that a number too many or too few shows in the next.
g = torch.Generator().manual_seed(3)
tensors['mixed.0'] = torch.randn(3, generator=g)
tensors['mixed.1'] = torch.randn(20, generator=g)
tensors['mixed.2'] = torch.randn(2, generator=g)
tensors['mixed.3'] = torch.rand(700, generator=g)
tensors['mixed.4'] = torch.randn(1, 4, 1, 1, generator=g)
tensors['mixed.5'] = torch.randint(0, 1000, (300,), generator=g)
tensors['mixed.6'] = torch.randperm(50, generator=g)
tensors['mixed.7'] = torch.randn(15, generator=g)
tensors['mixed.8'] = torch.randn(16, generator=g)
tensors['small'] = torch.cat([torch.randn(15, generator=g) for _ in range(200)])
tensors['draw'] = draw('unet.conv_in.weight', (3, 5, 7), 0.02)
save_file({name: t.contiguous() for name, t in tensors.items()}, os.path.join(os.path.dirname(os.path.abspath(__file__)), 'fixture.safetensors'),
          {'torch': torch.__version__, 'cpu': torch.backends.cpu.get_cpu_capability()})
