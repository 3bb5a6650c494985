"""The networks of examples/tiny in transformers and diffusers, and random weights for small networks of the same structure."""
import math, subprocess, sys, tempfile

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel

from draw import draw


def tiny_sd():
    """Text encoder, UNet, VAE."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, 'examples/tiny/reference/from_ldm.py', 'examples/tiny/models/tiny-sd.safetensors', folder], check=True)
        return [cls.from_pretrained(f'{folder}/{name}').eval() for cls, name in ((CLIPTextModel, 'text_encoder'), (UNet2DConditionModel, 'unet'), (AutoencoderKL, 'vae'))]


def fill(network, prefix):
    """Draws all weights as `Drawn` in drawn.rs does: by name, of a size that keeps activations near 1."""
    state = {}
    for name, value in network.state_dict().items():
        numbers = draw(f'{prefix}.{name}', value.shape)
        if value.ndim > 1: numbers = numbers / math.sqrt(value[0].numel())
        elif name.endswith('.weight'): numbers = 1 + 0.1 * numbers
        else: numbers = 0.1 * numbers
        state[name] = numbers
    network.load_state_dict(state)
    return network.eval()
