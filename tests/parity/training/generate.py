"""Writes fixture.safetensors: one training step of tiny-sd with peft, AdamW over twenty steps, learning rates over a training.

The step starts from a LoRA whose `up` is not zero: with zeros the gradient of `down` would be zero too, and prove nothing.
"""
import os
import subprocess
import sys
import tempfile

import diffusers
import peft
import torch
import torch.nn.functional as F
import transformers
from diffusers import UNet2DConditionModel
from diffusers.optimization import get_scheduler
from peft import LoraConfig
from safetensors.torch import save_file
from transformers import CLIPTextModel

HERE = os.path.dirname(os.path.abspath(__file__))
EXAMPLE = os.path.join(HERE, '../../../examples/tiny')
sys.path += [os.path.join(HERE, '..'), os.path.join(EXAMPLE, 'reference')]
from clip_tokens import encode
from draw import draw

RANK, ALPHA, UNET_RATE, TEXT_RATE = 4, 8, 2e-3, 1e-3
CAPTIONS = ['star, a large white star on a black background', 'star, green star on blue']
torch.set_num_threads(1)
tensors = {}

# 1. one step
with tempfile.TemporaryDirectory() as folders:
    subprocess.run([sys.executable, os.path.join(EXAMPLE, 'reference/from_ldm.py'), os.path.join(EXAMPLE, 'models/tiny-sd.safetensors'), folders], check=True)
    unet = UNet2DConditionModel.from_pretrained(folders + '/unet').eval().requires_grad_(False)
    text = CLIPTextModel.from_pretrained(folders + '/text_encoder').eval().requires_grad_(False)
unet.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=['to_q', 'to_k', 'to_v', 'to_out.0', 'ff.net.0.proj', 'ff.net.2', 'proj_in', 'proj_out']))
text.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=['q_proj', 'k_proj', 'v_proj', 'out_proj', 'fc1', 'fc2']))


def kohya(prefix, parameter):
    module, factor = parameter.removeprefix('text_model.').split('.lora_')
    return prefix + module.replace('.', '_') + ('.lora_down.weight' if factor[0] == 'A' else '.lora_up.weight')


factors = {kohya(prefix, name): p for prefix, network in (('lora_unet_', unet), ('lora_te_text_model_', text))
           for name, p in network.named_parameters() if p.requires_grad}
with torch.no_grad():
    for name, p in factors.items():
        p.copy_(draw(name, p.shape, 0.1))
latents, noise, timesteps = draw('latents', (2, 4, 16, 16)), draw('noise', (2, 4, 16, 16)), torch.tensor([37, 811])
tokens = torch.tensor([encode(caption) for caption in CAPTIONS])
alphas_cumprod = torch.cumprod(1 - torch.linspace(0.00085 ** 0.5, 0.012 ** 0.5, 1000) ** 2, 0)
a = alphas_cumprod[timesteps].view(-1, 1, 1, 1)
optimiser = torch.optim.AdamW([{'params': [p for n, p in factors.items() if n.startswith('lora_unet_')], 'lr': UNET_RATE},
                               {'params': [p for n, p in factors.items() if n.startswith('lora_te_')], 'lr': TEXT_RATE}])
loss = F.mse_loss(unet(a.sqrt() * latents + (1 - a).sqrt() * noise, timesteps, text(tokens).last_hidden_state).sample, noise)
loss.backward()
tensors['tokens'], tensors['loss'] = tokens, loss.detach().reshape(1)
tensors |= {'gradient.' + name: p.grad.clone() for name, p in factors.items()}
tensors['norm'] = torch.nn.utils.clip_grad_norm_(list(factors.values()), 1.0).reshape(1)
optimiser.step()
tensors |= {'after.' + name: p.detach() for name, p in factors.items()}

# 2. AdamW apart
values = {name: torch.nn.Parameter(draw('adamw.' + name, shape)) for name, shape in (('a', (4, 8)), ('b', (16,)), ('c', (3, 5, 2)))}
optimiser = torch.optim.AdamW(values.values(), lr=1e-2)
for step in range(20):
    # Norms on both sides of the limit, and a tensor whose gradient vanishes for a while.
    for name, p in values.items():
        p.grad = draw(f'adamw.gradient.{step}.{name}', p.shape, 0.0 if name == 'b' and 5 <= step < 10 else 0.02 * (step + 1))
    torch.nn.utils.clip_grad_norm_(values.values(), 1.0)
    optimiser.param_groups[0]['lr'] = 1e-2 * (1 - step / 20)
    optimiser.step()
    tensors |= {f'adamw.{step}.{name}': p.detach().clone() for name, p in values.items()}

# 3. learning rates, after 0 to 110 of 100 images
for name in ('constant_with_warmup', 'linear', 'cosine', 'polynomial'):
    for warmup in (0, 10):
        optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-4)
        schedule = get_scheduler(name, optimiser, num_warmup_steps=warmup, num_training_steps=100, power=2.0)
        rates = []
        for _ in range(111):
            rates.append(optimiser.param_groups[0]['lr'])
            optimiser.step()
            schedule.step()
        tensors[f'rate.{name}.{warmup}'] = torch.tensor(rates)

save_file({name: t.contiguous() for name, t in tensors.items()}, os.path.join(HERE, 'fixture.safetensors'),
          {'torch': torch.__version__, 'diffusers': diffusers.__version__, 'transformers': transformers.__version__, 'peft': peft.__version__,
           'captions': '\n'.join(CAPTIONS), 'factors': '\n'.join(factors)})
