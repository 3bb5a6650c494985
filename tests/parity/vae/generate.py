"""Latents and pictures of diffusers' VAE. Run from the repository's root: python tests/parity/vae/generate.py"""
import os, sys

import diffusers, torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

sys.path[:0] = ['tests/parity']
from draw import draw
from tiny_sd import fill, tiny_sd

torch.set_num_threads(1)
tensors = {}
small = fill(AutoencoderKL(in_channels=3, out_channels=3, down_block_types=('DownEncoderBlock2D',) * 4, up_block_types=('UpDecoderBlock2D',) * 4, block_out_channels=(32, 64, 96, 96), layers_per_block=2,
                           latent_channels=4, norm_num_groups=32), 'vae')
with torch.no_grad():
    for name, vae, picture, latents in (('tiny', tiny_sd()[2], (2, 3, 64, 64), (1, 4, 16, 16)), ('small', small, (1, 3, 48, 32), (2, 4, 5, 3))):
        tensors[f'{name}.latents'] = vae.encode(draw(f'vae.{name}.picture', picture).tanh()).latent_dist.mean
        tensors[f'{name}.picture'] = vae.decode(draw(f'vae.{name}.latents', latents)).sample
save_file({k: v.contiguous() for k, v in tensors.items()}, 'tests/parity/vae/fixture.safetensors', metadata={'torch': torch.__version__, 'diffusers': diffusers.__version__})
print(len(tensors), 'tensors,', os.path.getsize('tests/parity/vae/fixture.safetensors'), 'bytes')
