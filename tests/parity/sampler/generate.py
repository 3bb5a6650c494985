"""Writes fixture.safetensors: ten steps of each sampler with a toy in place of the UNet.

Euler and Euler a by k-diffusion; DDIM by diffusers' DDIMScheduler set to CompVis' timesteps and last alpha.
"""
import os

import diffusers
import k_diffusion
import torch
from diffusers import DDIMScheduler
from k_diffusion.external import CompVisDenoiser
from safetensors.torch import save_file

STEPS, SHAPE = 10, (1, 4, 8, 8)
torch.set_num_threads(1)
betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
alphas_cumprod = torch.cumprod(1 - betas, 0).float()


def toy(x, t):
    """Bounded and not linear, so that an error in any step shows in the end."""
    return x / (1 + x.abs()) * (0.3 + t.float().reshape(-1, 1, 1, 1) / 1000)


class Model:
    alphas_cumprod = alphas_cumprod

    def apply_model(self, x, t): return toy(x, t)


def k(sampler, seed):
    torch.manual_seed(seed)
    denoiser = CompVisDenoiser(Model())
    sigmas = denoiser.get_sigmas(STEPS)
    noise = torch.randn(SHAPE)
    return sampler(denoiser, noise * sigmas[0], sigmas, disable=True)


def ddim(seed, prediction='epsilon'):
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule='scaled_linear', clip_sample=False, set_alpha_to_one=False, steps_offset=1,
                              timestep_spacing='leading', prediction_type=prediction)
    scheduler.set_timesteps(STEPS)
    assert scheduler.timesteps.tolist() == list(range(901, 0, -100))
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))
    for t in scheduler.timesteps: x = scheduler.step(toy(x, t), t, x).prev_sample
    return x


tensors = {'sigmas': CompVisDenoiser(Model()).get_sigmas(STEPS)}
for seed in (1, 420420):
    tensors[f'euler.{seed}'] = k(k_diffusion.sampling.sample_euler, seed)
    tensors[f'euler_a.{seed}'] = k(k_diffusion.sampling.sample_euler_ancestral, seed)
    tensors[f'ddim.{seed}'] = ddim(seed)
    tensors[f'ddim_velocity.{seed}'] = ddim(seed, 'v_prediction')
save_file({name: t.contiguous() for name, t in tensors.items()}, os.path.join(os.path.dirname(os.path.abspath(__file__)), 'fixture.safetensors'),
          {'torch': torch.__version__, 'diffusers': diffusers.__version__, 'k_diffusion': '0.1.1.post1'})
