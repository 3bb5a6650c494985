"""Writes fixture.safetensors: whole pictures of examples/tiny by k-diffusion and diffusers. Run it at the root of the repository.

The pictures are cut off to bytes as stable-diffusion-webui does. The LoRA has drawn weights and is added to the networks' own.
"""
import json
import os
import sys

import diffusers
import k_diffusion
import torch
import transformers
from diffusers import DDIMScheduler
from k_diffusion.external import CompVisDenoiser
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, '..'), os.path.join(HERE, '../prompt')]
from draw import draw
from generate import tokenizer
from tiny_sd import tiny_sd

SEED, STEPS, GUIDANCE, RANK, ALPHA, STRENGTH = 420420, 20, 7.5, 4, 2.0, 0.8
PROMPT, NEGATIVE = 'a large red circle on a yellow background', 'blue, small'
# Two rows, the first of which ends at the comma; one part counts more, one less.
LONG = [('a large ', 1.0), ('green', 1.3), (' square on a ', 1.0), ('white', 1 / 1.1), (' background' + ' of white' * 29 + ', a green square' + ' on white' * 20, 1.0)]
LORA_LAYERS = ('to_q', 'to_k', 'to_v', 'to_out.0', 'ff.net.0.proj', 'ff.net.2', 'proj_in', 'proj_out', 'q_proj', 'k_proj', 'v_proj', 'out_proj', 'fc1', 'fc2')
START, END, COMMA = 49406, 49407, 267

torch.set_num_threads(1)
text_encoder, unet, vae = tiny_sd()
clip = tokenizer()
alphas_cumprod = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0).float()


def rows(parts):
    """Tokens and weights in rows of 77, by webui's rules."""
    found, chunk, comma = [], [], None
    for text, weight in parts:
        for token in clip(text)['input_ids'][1:-1]:
            if token == COMMA: comma = len(chunk)
            elif len(chunk) == 75 and comma is not None and 75 - comma <= 20:
                found.append(chunk[:comma + 1]); chunk, comma = chunk[comma + 1:], None
            if len(chunk) == 75: found.append(chunk); chunk, comma = [], None
            chunk.append((token, weight))
    if chunk or not found: found.append(chunk)
    return [[(START, 1.0), *row, *[(END, 1.0)] * (76 - len(row))] for row in found]


def encode(parts):
    encoded = []
    for row in rows(parts):
        z = text_encoder(torch.tensor([[token for token, _ in row]])).last_hidden_state
        before = z.mean()
        z = z * torch.tensor([weight for _, weight in row]).reshape(1, -1, 1)
        encoded.append(z * (before / z.mean()))
    return torch.cat(encoded, 1)


class Guided:
    alphas_cumprod = alphas_cumprod

    def __init__(self, prompt, negative): self.prompt, self.negative = encode(prompt), encode(negative)

    def apply_model(self, x, t):
        without, with_prompt = (unet(x, t, context).sample for context in (self.negative, self.prompt))
        return without + GUIDANCE * (with_prompt - without)


@torch.no_grad()
def picture(sampler, prompt=((PROMPT, 1.0),), negative=((NEGATIVE, 1.0),)):
    torch.manual_seed(SEED)
    model, noise = Guided(prompt, negative), torch.randn(1, 4, 16, 16)
    if sampler == 'ddim':
        scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule='scaled_linear', clip_sample=False, set_alpha_to_one=False, steps_offset=1,
                                  timestep_spacing='leading')
        scheduler.set_timesteps(STEPS)
        assert scheduler.timesteps.tolist() == list(range(951, 0, -50))
        x = noise
        for t in scheduler.timesteps: x = scheduler.step(model.apply_model(x, t), t, x).prev_sample
    else:
        denoiser = CompVisDenoiser(model)
        sigmas = denoiser.get_sigmas(STEPS)
        sample = {'euler': k_diffusion.sampling.sample_euler, 'euler_a': k_diffusion.sampling.sample_euler_ancestral}[sampler]
        x = sample(denoiser, noise * sigmas[0], sigmas, disable=True)
    decoded = vae.decode(x / 0.18215).sample[0]
    return (255.0 * ((decoded + 1) / 2).clamp(0, 1)).byte().permute(1, 2, 0).float().contiguous()


@torch.no_grad()
def add_lora():
    """Adds the drawn LoRA to the weights; its modules by kohya's names."""
    modules = []
    for prefix, network in (('lora_te_text_model_', text_encoder), ('lora_unet_', unet)):
        for name, layer in network.named_modules():
            if not name.endswith(LORA_LAYERS): continue
            kohya = prefix + name.removeprefix('text_model.').replace('.', '_')
            outputs, inputs = layer.weight.shape[:2]
            down, up = draw(kohya + '.down', (RANK, inputs), inputs**-0.5), draw(kohya + '.up', (outputs, RANK), 0.15)
            layer.weight += (STRENGTH * ALPHA / RANK * up @ down).reshape(layer.weight.shape)
            modules.append([kohya, inputs, outputs, layer.weight.ndim == 4])
    return modules


pictures = {sampler: picture(sampler) for sampler in ('euler', 'euler_a', 'ddim')}
pictures['long'] = picture('euler', prompt=LONG)
modules = add_lora()
pictures |= {f'{sampler}.lora': picture(sampler) for sampler in ('euler', 'euler_a', 'ddim')}
settings = {'seed': SEED, 'steps': STEPS, 'guidance': GUIDANCE, 'prompt': PROMPT, 'negative': NEGATIVE, 'rank': RANK, 'alpha': ALPHA, 'strength': STRENGTH, 'modules': modules,
            'long': 'a large (green:1.3) square on a [white]' + LONG[-1][0]}
save_file(pictures, os.path.join(HERE, 'fixture.safetensors'),
          {'torch': torch.__version__, 'diffusers': diffusers.__version__, 'transformers': transformers.__version__, 'k_diffusion': '0.1.1.post1', 'settings': json.dumps(settings)})
if len(sys.argv) > 1:
    from PIL import Image
    for name, p in pictures.items(): Image.fromarray(p.byte().numpy()).resize((256, 256), 0).save(f'{sys.argv[1]}/{name}.png')
