"""What kohya's sd-scripts compute when they merge and extract, on small matrices, and the hashes they write: `lora/fixture.safetensors`.

    python generate_lora.py

Versions: torch 2.9.1, numpy 2, safetensors 0.6 or later; written again from sd-scripts at 48d368fa (`networks/extract_lora_from_models.py`,
`networks/merge_lora.py`, `library/train_util.py`). Random inputs are drawn by name on both sides; see ../parity/draw.py.
"""
import hashlib, io, json, os, sys

import numpy as np
import safetensors.torch
import torch
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '../parity'))
from draw import draw

CLAMP_QUANTILE = 0.99


def decaying(name, rows, columns, power):
    """A matrix whose singular values fall slowly, like the difference of two finetuned models."""
    a = draw(name, (rows, columns))
    scale = torch.arange(1, columns + 1).double().pow(-power).float()
    return a * scale


def extract(difference, rank):
    """Steps 4 to 6 of extract_lora_from_models: before and after clamping."""
    mat = difference.flatten(start_dim=1) if difference.ndim == 4 else difference
    rank = min(rank, *mat.shape)
    U, S, Vh = torch.linalg.svd(mat)
    U = U[:, :rank]
    U = U @ torch.diag(S[:rank])
    Vh = Vh[:rank, :]
    high = torch.quantile(torch.cat([U.flatten(), Vh.flatten()]), CLAMP_QUANTILE)
    return U, Vh, high, U.clamp(-high, high), Vh.clamp(-high, high)


def hashes(tensors, metadata):
    """precalculate_safetensors_hashes of train_util."""
    metadata = {k: v for k, v in metadata.items() if k.startswith('ss_')}
    b = io.BytesIO(safetensors.torch.save(tensors, metadata))
    n = int.from_bytes(b.read(8), 'little')
    b.seek(n + 8); model = hashlib.sha256(b.read()).hexdigest()
    b.seek(0x100000); legacy = hashlib.sha256(b.read(0x10000)).hexdigest()[:8]
    return model, legacy


def main():
    out, notes = {}, {'torch': torch.__version__, 'numpy': np.__version__}

    # Merging: W + strength * alpha / rank * up @ down, as merge_lora computes it for each kind of layer.
    for kind, kernel, shape in (('linear', (), (6, 10)), ('conv1x1', (1, 1), (6, 10)), ('conv3x3', (3, 3), (6, 4))):
        rank, alpha, strength = 3, 2.0, 0.7
        weight = draw(f'merge.{kind}.weight', shape + kernel)
        down = draw(f'merge.{kind}.down', (rank, shape[1]) + kernel)
        up = draw(f'merge.{kind}.up', (shape[0], rank) + ((1, 1) if kernel else ()))
        scale = alpha / rank
        if not kernel: merged = weight + strength * (up @ down) * scale
        elif kernel == (1, 1): merged = weight + strength * (up.squeeze(3).squeeze(2) @ down.squeeze(3).squeeze(2)).unsqueeze(2).unsqueeze(3) * scale
        else: merged = weight + strength * torch.nn.functional.conv2d(down.permute(1, 0, 2, 3), up).permute(1, 0, 2, 3) * scale
        out[f'merge.{kind}'] = merged.contiguous()

    # Extracting.
    for name, rows, columns, rank in (('wide', 24, 40, 4), ('tall', 40, 24, 8), ('short', 5, 30, 8)):
        up, down, high, up_clamped, down_clamped = extract(decaying(f'extract.{name}', rows, columns, 0.5), rank)
        for part, tensor in (('up', up), ('down', down), ('up_clamped', up_clamped), ('down_clamped', down_clamped)): out[f'extract.{name}.{part}'] = tensor.contiguous()
        out[f'extract.{name}.high'] = high.reshape(1)

    # Singular values, in double precision.
    for name, rows, columns in (('svd.square', 48, 48), ('svd.wide', 30, 200), ('svd.large', 300, 220)):
        out[name] = torch.from_numpy(np.linalg.svd(decaying(name, rows, columns, 0.5).double().numpy(), compute_uv=False)).float()

    # Hashes over a file that reaches beyond 0x100000 bytes, where the old hash begins.
    tensors = {'b.ramp': torch.arange(300000).float() / 8, 'a.half': (torch.arange(40000) % 512).half() / 8, 'c.alpha': torch.tensor(8.0), 'd.long': torch.arange(5)}
    notes['hashes'] = json.dumps(hashes(tensors, {'ss_network_dim': '8', 'ss_tags': '{"ä": 1}', 'modelspec.title': 'not hashed'}))
    save_file(out, os.path.join(HERE, 'lora/fixture.safetensors'), metadata=notes)
    print(os.path.getsize(os.path.join(HERE, 'lora/fixture.safetensors')), notes)


if __name__ == '__main__':
    torch.set_num_threads(1)
    main()
