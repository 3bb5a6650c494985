"""Lists every tensor of an SD 1.5 model under both namings, with both shapes: `keys/sd15.txt`; and of the example's small model: `keys/tiny.txt`.

    python generate_keys.py

Versions: diffusers 0.42.1, transformers 5.23, torch 2.9.1. The names of diffusers come from its networks, built from SD 1.5's configs. The
names of LDM come from `to_ldm.py`, beside the example's model, and are then given to diffusers' own conversion, which must lead back to
its names and shapes.
"""
import os

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from transformers import CLIPTextConfig, CLIPTextModel

HERE = os.path.dirname(os.path.abspath(__file__))
source = open(os.path.join(HERE, '../../examples/tiny/reference/to_ldm.py')).read().split('ld=lambda')[0].replace('D=sys.argv[1];OUTF=sys.argv[2]', '')
ours = {}
exec(source, ours)


def networks(unet, vae, text):
    with torch.device('meta'):
        return UNet2DConditionModel(**unet), AutoencoderKL(**vae), CLIPTextModel(CLIPTextConfig(**text))


def lines(unet, vae, text):
    found = []
    attention = [block.startswith('CrossAttn') for block in unet.config.down_block_types]
    parts = [(unet, lambda d: ours['unet'](d, len(attention), unet.config.layers_per_block, attention), 'model.diffusion_model.'),
             (vae, lambda d: ours['vae'](d, len(vae.config.block_out_channels)), 'first_stage_model.'),
             (text, ours['clip'], 'cond_stage_model.transformer.')]
    for network, to_ldm, prefix in parts:
        state = network.state_dict()
        ldm = {}
        for name, tensor in state.items():
            (theirs, changed), = to_ldm({name: tensor}).items()
            ldm[theirs] = changed
            name = name if network is not text or name.startswith('text_model.') else 'text_model.' + name
            found.append(f'{theirs} {name} {list(changed.shape)} {list(tensor.shape)}'.replace(', ', ','))
        if network is unet: back = convert_ldm_unet_checkpoint(ldm, dict(unet.config))
        elif network is vae: back = convert_ldm_vae_checkpoint(ldm, dict(vae.config))
        else: continue
        assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in state.items()}, prefix
    return found


SD15 = (dict(sample_size=64, in_channels=4, out_channels=4, cross_attention_dim=768, attention_head_dim=8, block_out_channels=(320, 640, 1280, 1280), layers_per_block=2,
             down_block_types=('CrossAttnDownBlock2D',) * 3 + ('DownBlock2D',), up_block_types=('UpBlock2D',) + ('CrossAttnUpBlock2D',) * 3, norm_num_groups=32),
        dict(in_channels=3, out_channels=3, down_block_types=('DownEncoderBlock2D',) * 4, up_block_types=('UpDecoderBlock2D',) * 4, block_out_channels=(128, 256, 512, 512), layers_per_block=2,
             latent_channels=4, norm_num_groups=32, sample_size=512),
        dict(vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, max_position_embeddings=77, hidden_act='quick_gelu'))
TINY = (dict(SD15[0], sample_size=16, cross_attention_dim=64, block_out_channels=(32, 64, 128), layers_per_block=1,
             down_block_types=('CrossAttnDownBlock2D', 'CrossAttnDownBlock2D', 'DownBlock2D'), up_block_types=('UpBlock2D', 'CrossAttnUpBlock2D', 'CrossAttnUpBlock2D')),
        dict(SD15[1], down_block_types=('DownEncoderBlock2D',) * 3, up_block_types=('UpDecoderBlock2D',) * 3, block_out_channels=(32, 64, 64), layers_per_block=1, sample_size=64),
        dict(SD15[2], hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=1))
for name, configs in (('sd15', SD15), ('tiny', TINY)):
    found = lines(*networks(*configs))
    open(os.path.join(HERE, 'keys', name + '.txt'), 'w').write('\n'.join(found) + '\n')
    print(name, len(found))
