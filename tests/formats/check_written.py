"""Gives files that this program wrote to the original programs.

    cargo test --release --no-default-features formats       (writes the files below target/tmp/formats)
    python examples/tiny/reference/from_ldm.py examples/tiny/models/tiny-sd.safetensors DIFFUSERS_FOLDER
    python tests/formats/check_written.py DIFFUSERS_FOLDER

torch must load `golden.ckpt` and a merged model with `weights_only=True`, and the members must pass webui's filter; diffusers'
`load_lora_weights` must use every key of a LoRA in kohya's and in its own names, and merge it as this program does.
"""
import os, re, sys, zipfile

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextModel

HERE = os.path.dirname(os.path.abspath(__file__))
WRITTEN = os.path.join(os.environ.get('CARGO_TARGET_DIR', os.path.join(HERE, '../../target')), 'tmp/formats')
sys.path.insert(0, os.path.join(HERE, '../../examples/tiny/reference'))


def check_ckpt(path, expected):
    names = zipfile.ZipFile(path).namelist()
    assert all(re.match(r'^([^/]+)/((data/\d+)|version|(data\.pkl))$', name) for name in names), names
    state = torch.load(path, weights_only=True)['state_dict']
    assert set(state) == set(expected), set(state) ^ set(expected)
    for name, tensor in expected.items():
        found = state[name]
        assert found.dtype == tensor.dtype and found.shape == tensor.shape, name
        assert torch.equal(found, tensor), name
    print(f'{os.path.basename(path)}: torch {torch.__version__} read {len(state)} tensors with weights_only=True')
    return state


def pipeline(folder):
    unet = UNet2DConditionModel.from_pretrained(f'{folder}/unet')
    text = CLIPTextModel.from_pretrained(f'{folder}/text_encoder')
    vae = AutoencoderKL.from_pretrained(f'{folder}/vae')
    return StableDiffusionPipeline(vae=vae, text_encoder=text, tokenizer=None, unet=unet, scheduler=DDIMScheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def check_lora(folder, name):
    """Every key must end up in a network, and fusing must give the weights that this program merged."""
    path = os.path.join(WRITTEN, name)
    pipe = pipeline(folder)
    before = {'unet': {k: v.clone() for k, v in pipe.unet.state_dict().items()}, 'text': {k: v.clone() for k, v in pipe.text_encoder.state_dict().items()}}
    pipe.load_lora_weights(WRITTEN, weight_name=name)
    file = load_file(path)
    factors = [k for k in file if not k.endswith('.alpha')]
    loaded = [k for n in (pipe.unet, pipe.text_encoder) for k in n.state_dict() if '.lora_A.' in k or '.lora_B.' in k]
    assert len(loaded) == len(factors), (len(loaded), len(factors))
    values = sorted(v.float().sum().item() for k, v in file.items() if not k.endswith('.alpha'))
    found = sorted(v.float().sum().item() for n in (pipe.unet, pipe.text_encoder) for k, v in n.state_dict().items() if '.lora_A.' in k or '.lora_B.' in k)
    assert torch.allclose(torch.tensor(values), torch.tensor(found), atol=1e-5), 'a factor did not arrive'
    pipe.fuse_lora(lora_scale=0.8)
    pipe.unload_lora_weights()
    merged = torch.load(os.path.join(WRITTEN, 'merged.ckpt'), weights_only=True)['state_dict']
    text = {k: v for k, v in pipe.text_encoder.state_dict().items() if not k.endswith('position_ids')}
    worst = changed = 0
    for key, value in text.items():
        key = key if key.startswith('text_model.') else 'text_model.' + key
        worst = max(worst, (merged['cond_stage_model.transformer.' + key].float() - value).abs().max().item())
    source = open(os.path.join(HERE, '../../examples/tiny/reference/to_ldm.py')).read().split('ld=lambda')[0].replace('D=sys.argv[1];OUTF=sys.argv[2]', '')
    to_ldm = {}
    exec(source, to_ldm)
    for key, value in to_ldm['unet'](pipe.unet.state_dict(), 3, 1, [True, True, False]).items():
        worst = max(worst, ((merged[key].float() - value).abs() / (value.abs() + 1)).max().item())
    for part, network in (('unet', pipe.unet), ('text', pipe.text_encoder)):
        changed += sum(not torch.equal(before[part][k], v) for k, v in network.state_dict().items())
    # Our merge is stored in fp16 as its base is: half a unit of 2^-10, relative.
    assert worst < 6e-4, worst
    assert changed == len(factors) // 2, (changed, len(factors))
    print(f'{name}: diffusers used all {len(factors)} factors, changed {changed} weights; our merge differs by at most {worst:.1e}')


if __name__ == '__main__':
    torch.set_num_threads(1)
    plain = torch.load(os.path.join(HERE, 'containers/zip.pt'), weights_only=True)
    check_ckpt(os.path.join(HERE, 'golden.ckpt'), plain)
    base = load_file(os.path.join(HERE, '../../examples/tiny/models/tiny-sd.safetensors'))
    merged = torch.load(os.path.join(WRITTEN, 'merged.ckpt'), weights_only=True)['state_dict']
    check_ckpt(os.path.join(WRITTEN, 'merged.ckpt'), merged)
    assert set(merged) == set(base) and all(merged[k].dtype == base[k].dtype and merged[k].shape == base[k].shape for k in base)
    for name in ('kohya.safetensors', 'diffusers.safetensors'): check_lora(sys.argv[1], name)
