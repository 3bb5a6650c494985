"""Predictions and blocks of diffusers' UNet. Run from the repository's root: python tests/parity/unet/generate.py"""
import os, sys

import diffusers, torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

sys.path[:0] = ['tests/parity']
from draw import draw
from tiny_sd import fill, tiny_sd

torch.set_num_threads(1)
tensors = {}


def whole(name, unet, shape, timesteps, context):
    """The prediction, and the gradient of the context for a drawn gradient of the prediction."""
    context = draw(f'unet.{name}.context', context).requires_grad_()
    prediction = unet(draw(f'unet.{name}.latents', shape), torch.tensor(timesteps), context).sample
    (prediction * draw(f'unet.{name}.gradient', shape)).sum().backward()
    tensors[f'{name}.prediction'] = prediction.detach()
    tensors[f'{name}.gradient.context'] = context.grad


def small(channels, types, **options):
    return fill(UNet2DConditionModel(sample_size=16, in_channels=4, out_channels=4, block_out_channels=channels, layers_per_block=2, norm_num_groups=32, cross_attention_dim=48,
                                     down_block_types=[f'{t}DownBlock2D' for t in types], up_block_types=[f'{t}UpBlock2D' for t in reversed(types)], **options), 'unet')


whole('tiny', tiny_sd()[1], (3, 4, 16, 16), [999.0, 473.2105, 0.0], (3, 77, 64))
unet = small((32, 64, 96, 96), ('CrossAttn', 'CrossAttn', 'CrossAttn', ''), attention_head_dim=8)
whole('sd1', unet, (1, 4, 16, 24), [731.0], (1, 77, 48))
# SD 2.x: linear projections, heads of a fixed width.
whole('sd2', small((64, 128), ('CrossAttn', ''), attention_head_dim=(1, 2), use_linear_projection=True), (2, 4, 6, 4), [12.0, 900.0], (2, 154, 48))

with torch.no_grad():
    time, context = draw('unet.block.time', (2, 128)), draw('unet.block.context', (2, 77, 48))
    x = lambda name, channels, height, width: draw(f'unet.block.{name}', (2, height, width, channels)).permute(0, 3, 1, 2)
    keep = lambda name, y: tensors.update({f'block.{name}': y.permute(0, 2, 3, 1).contiguous()})
    keep('resnet', unet.down_blocks[1].resnets[0](x('resnet', 32, 5, 7), time))
    keep('resnet_same', unet.down_blocks[1].resnets[1](x('resnet_same', 64, 5, 7), time))
    keep('transformer', unet.down_blocks[1].attentions[0](x('transformer', 64, 5, 7), encoder_hidden_states=context).sample)
    y, skips = unet.down_blocks[1](x('down', 32, 8, 6), time, encoder_hidden_states=context)
    for i, skip in enumerate(skips): keep(f'down.{i}', skip)
    keep('down_last', unet.down_blocks[3](x('down_last', 96, 3, 2), time)[0])
    keep('middle', unet.mid_block(x('middle', 96, 3, 2), time, encoder_hidden_states=context))
    skips = tuple(x(f'up.{i}', c, 4, 6) for i, c in enumerate((32, 64, 64)))
    keep('up', unet.up_blocks[2](x('up', 96, 4, 6), skips, time, encoder_hidden_states=context))
    keep('up_first', unet.up_blocks[0](x('up_first', 96, 2, 3), tuple(x(f'up_first.{i}', 96, 2, 3) for i in range(3)), time))

save_file(tensors, 'tests/parity/unet/fixture.safetensors', metadata={'torch': torch.__version__, 'diffusers': diffusers.__version__})
print(len(tensors), 'tensors,', os.path.getsize('tests/parity/unet/fixture.safetensors'), 'bytes')
