"""Writes the model files of this folder with PyTorch: one for each way a container holds tensors.

    python generate_containers.py

Versions: torch 2.9.1, safetensors 0.6 or later. Every file holds the tensors of `values()`, which the test computes again.
"""
import collections, io, json, os, pickle, sys, types, zipfile

import torch
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__))


def at(name):
    return os.path.join(HERE, 'containers', name)


def values():
    """Numbers that every type here holds exactly: i / 8 - 4."""
    ramp = torch.arange(60, dtype=torch.float64) / 8 - 4
    return {
        'double': ramp.reshape(3, 20).clone(),
        'float': ramp.float().reshape(3, 4, 5),
        'half': ramp.half().reshape(60),
        'bf16': ramp.bfloat16().reshape(5, 12),
        'long': torch.arange(6).reshape(1, 6),
        'int': torch.arange(6, dtype=torch.int32),
        'short': torch.arange(6, dtype=torch.int16),
        'byte': torch.arange(6, dtype=torch.uint8),
        'char': torch.arange(-3, 3, dtype=torch.int8),
        'bool': torch.tensor([True, False, True]),
        'scalar': torch.tensor(2.5),
        'empty': torch.zeros(0, 3),
    }


def views():
    """Tensors that share one storage: transposed, with an offset, with steps, repeated."""
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    return {'base': base, 'transposed': base.t(), 'row': base[2], 'column': base[:, 1], 'steps': base[1::2, ::3], 'repeated': base[0, :1].expand(5)}


def main():
    os.makedirs(os.path.join(HERE, 'containers'), exist_ok=True)
    save_file(values(), at('plain.safetensors'), metadata={'format': 'pt', 'a': 'ä "quoted"'})
    torch.save(values(), at('zip.pt'))
    torch.save(values(), at('legacy.pt'), _use_new_zipfile_serialization=False)
    torch.save(views(), at('views.pt'))
    torch.save(views(), at('views-legacy.pt'), _use_new_zipfile_serialization=False)
    state = collections.OrderedDict((k, torch.nn.Parameter(v) if v.is_floating_point() else v) for k, v in values().items())
    state._metadata = {'': {'version': 1}}

    # What pytorch-lightning leaves in a checkpoint: classes that are not installed, optimiser state, numbers.
    module = types.ModuleType('pytorch_lightning.callbacks.model_checkpoint')

    class ModelCheckpoint:
        def __init__(self): self.best = torch.tensor(0.25)
    ModelCheckpoint.__module__ = module.__name__; ModelCheckpoint.__qualname__ = 'ModelCheckpoint'
    module.ModelCheckpoint = ModelCheckpoint
    for name in ('pytorch_lightning', 'pytorch_lightning.callbacks'): sys.modules[name] = types.ModuleType(name)
    sys.modules[module.__name__] = module
    leftovers = {
        'epoch': 3, 'global_step': 875000, 'pytorch-lightning_version': '1.4.2', 'state_dict': state, 'callbacks': {ModelCheckpoint: ModelCheckpoint()},
        'optimizer_states': [{'state': {0: {'step': 7, 'exp_avg': torch.ones(4)}}, 'param_groups': [{'lr': 1e-4, 'params': [0]}]}],
        'loops': {ModelCheckpoint(), 5}, 'huge': 1 << 100, 'nothing': None,
    }
    torch.save(leftovers, at('lightning.ckpt'))
    torch.save(leftovers, at('lightning-legacy.ckpt'), _use_new_zipfile_serialization=False)
    torch.save(values(), at('protocol4.pt'), pickle_protocol=4)
    torch.save([torch.ones(2, 3), torch.zeros(3, 2)], at('list.pt'))
    torch.save({'params': {'net': {'weight': torch.ones(2)}}, 'tags': ['a', 'b']}, at('nested.pt'))

    # Deflated by hand, as archivers do.
    with zipfile.ZipFile(at('zip.pt')) as source, zipfile.ZipFile(at('deflated.pt'), 'w', zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist(): target.writestr(zipfile.ZipInfo(name), source.read(name), zipfile.ZIP_DEFLATED)

    # A tensor that PyTorch makes in a way that is not supported: it must be named, not dropped.
    torch.save({'good': torch.ones(2), 'sparse': torch.eye(3).to_sparse()}, at('sparse.pt'))

    # Types that have no storage class, and tensors that are none: each must be read or named.
    ones = torch.ones(4)
    torch.save({'state_dict': {
        'w': ones, 'c': ones.to(torch.complex64), 'q': torch.quantize_per_tensor(ones, 0.1, 0, torch.qint8), 'sp': torch.ones(4, 4).to_sparse(),
        'f8': ones.to(torch.float8_e4m3fn), 'u16': ones.to(torch.uint16),
    }}, at('mixed.ckpt'))
    header = json.dumps({
        'good': {'dtype': 'F32', 'shape': [4], 'data_offsets': [0, 16]}, 'lost_complex': {'dtype': 'C64', 'shape': [2], 'data_offsets': [16, 32]},
        'lost_e8m0': {'dtype': 'F8_E8M0', 'shape': [4], 'data_offsets': [32, 36]},
    }).encode()
    open(at('mixed.safetensors'), 'wb').write(len(header).to_bytes(8, 'little') + header + b'\x01' * 36)
    for name in sorted(os.listdir(os.path.join(HERE, 'containers'))): print(name, os.path.getsize(at(name)))


if __name__ == '__main__':
    torch.set_num_threads(1)
    main()
