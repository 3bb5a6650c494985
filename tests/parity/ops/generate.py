"""Outputs and gradients of the operations, from PyTorch. Run from the repository's root: python tests/parity/ops/generate.py

In f32 they are PyTorch's. In f16 and bf16 they are those of exact arithmetic on rounded inputs, with how far PyTorch itself is from them.
"""
import os, sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

sys.path.insert(0, 'tests/parity')
from draw import draw

torch.set_num_threads(1)
# The cases that are also computed in 16 bits.
HALF = ['attention.text', 'attention.cross', 'attention.one_pixel', 'attention.two_heads', 'group_norm.silu', 'group_norm.one_group', 'layer_norm.text',
        'layer_norm.odd', 'geglu.odd', 'activation.silu', 'activation.gelu', 'activation.quick_gelu', 'conv2d.same', 'conv2d.down_odd', 'conv2d.down_after', 'conv2d.pixels', 'linear.bias',
        'linear.plain', 'adapted.bias', 'adapted.one_row', 'upsample']


def cases(place):
    """Outputs and gradients of all cases, with inputs and weights as `place` makes them of f32."""
    tensors = {}
    drawn = lambda name, shape: place(draw(name, shape))

    def case(name, operation, **inputs):
        """Stores the output of `operation` and the gradients of `inputs` (name to shape) for a drawn gradient of the output."""
        tracked = {k: drawn(f'ops.{name}.{k}', shape).requires_grad_() for k, shape in inputs.items()}
        output = operation(**tracked)
        (output * drawn(f'ops.{name}.gradient', output.shape)).sum().backward()
        tensors[f'{name}.output'] = output.detach().contiguous()
        for k, v in tracked.items(): tensors[f'{name}.gradient.{k}'] = v.grad.contiguous()

    def attention(heads, causal):
        split = lambda x: x.unflatten(2, (heads, -1)).transpose(1, 2)
        return lambda q, k, v: F.scaled_dot_product_attention(split(q), split(k), split(v), is_causal=causal).transpose(1, 2).flatten(2)

    for name, batch, tokens, context, heads, width, causal in [
        ('attention.text', 1, 77, 77, 1, 64, True), ('attention.cross', 2, 30, 77, 2, 40, False), ('attention.one_pixel', 1, 1, 2, 2, 8, False),
        ('attention.narrow', 2, 64, 64, 8, 4, False), ('attention.many_blocks', 1, 700, 500, 1, 4, False), ('attention.two_heads', 3, 5, 7, 2, 3, True)]:
        if name == 'attention.two_heads': context = tokens
        case(name, attention(heads, causal), q=(batch, tokens, heads * width), k=(batch, context, heads * width), v=(batch, context, heads * width))

    for name, batch, height, width, channels, groups, silu in [
        ('group_norm.silu', 2, 5, 7, 64, 32, True), ('group_norm.plain', 3, 4, 4, 96, 32, False), ('group_norm.one_pixel', 1, 1, 1, 64, 4, True), ('group_norm.one_group', 2, 3, 3, 6, 1, False)]:
        weight, bias = drawn(f'ops.{name}.weight', (channels,)), drawn(f'ops.{name}.bias', (channels,))
        def norm(x):
            y = F.group_norm((x + 3).permute(0, 3, 1, 2), groups, weight, bias, 1e-5)
            return (F.silu(y) if silu else y).permute(0, 2, 3, 1)
        case(name, norm, x=(batch, height, width, channels))

    for name, shape in [('layer_norm.text', (2, 20, 64)), ('layer_norm.odd', (1, 3, 37)), ('layer_norm.one', (1, 1, 320))]:
        weight, bias = drawn(f'ops.{name}.weight', shape[2:]), drawn(f'ops.{name}.bias', shape[2:])
        case(name, lambda x: F.layer_norm(x + 3, shape[2:], weight, bias, 1e-5), x=shape)

    for name, shape in [('geglu.odd', (2, 3, 74)), ('geglu.wide', (1, 5, 1280))]:
        case(name, lambda x: (lambda a, b: a * F.gelu(b))(*(2 * x).chunk(2, dim=-1)), x=shape)

    case('activation.silu', lambda x: F.silu(4 * x), x=(5, 101))
    case('activation.gelu', lambda x: F.gelu(4 * x), x=(5, 101))
    case('activation.quick_gelu', lambda x: 4 * x * torch.sigmoid(1.702 * 4 * x), x=(5, 101))

    for name, batch, height, width, inputs, outputs, size, stride, before, after in [
        ('conv2d.same', 2, 5, 7, 3, 4, 3, 1, 1, 1), ('conv2d.split', 3, 16, 9, 16, 20, 3, 1, 1, 1), ('conv2d.one_pixel', 1, 1, 1, 5, 3, 3, 1, 1, 1), ('conv2d.down', 2, 8, 6, 4, 5, 3, 2, 1, 1),
        ('conv2d.down_odd', 1, 9, 5, 4, 5, 3, 2, 1, 1), ('conv2d.down_after', 1, 8, 6, 4, 5, 3, 2, 0, 1), ('conv2d.pixels', 2, 3, 3, 4, 5, 1, 1, 0, 0),
        ('conv2d.tiles', 2, 12, 9, 40, 36, 3, 1, 1, 1)]:
        weight, bias = drawn(f'ops.{name}.weight', (outputs, inputs, size, size)), drawn(f'ops.{name}.bias', (outputs,))
        case(name, lambda x: F.conv2d(F.pad(x.permute(0, 3, 1, 2), (before, after, before, after)), weight, bias, stride).permute(0, 2, 3, 1), x=(batch, height, width, inputs))

    for name, shape, outputs, with_bias in [('linear.bias', (2, 20, 64), 40, True), ('linear.plain', (3, 5, 7), 11, False), ('linear.one_row', (1, 1, 9), 6, True)]:
        weight = drawn(f'ops.{name}.weight', (outputs, shape[2]))
        bias = drawn(f'ops.{name}.bias', (outputs,)) if with_bias else None
        case(name, lambda x: F.linear(x, weight, bias), x=shape)

    for name, shape, outputs, with_bias, rank in [('adapted.bias', (2, 20, 64), 40, True, 8), ('adapted.plain', (3, 5, 7), 11, False, 1), ('adapted.one_row', (1, 1, 9), 6, True, 4)]:
        weight = drawn(f'ops.{name}.weight', (outputs, shape[2]))
        bias = drawn(f'ops.{name}.bias', (outputs,)) if with_bias else None
        case(name, lambda x, down, up: F.linear(x, weight, bias) + 0.5 * F.linear(F.linear(x, down), up), x=shape, down=(rank, shape[2]), up=(outputs, rank))

    case('upsample', lambda x: F.interpolate(x.permute(0, 3, 1, 2), scale_factor=2.0, mode='nearest').permute(0, 2, 3, 1), x=(2, 3, 5, 4))

    return tensors


tensors = cases(lambda x: x)
save_file(tensors, 'tests/parity/ops/fixture.safetensors', metadata={'torch': torch.__version__})
print(len(tensors), 'tensors,', os.path.getsize('tests/parity/ops/fixture.safetensors'), 'bytes')

kept, errors = {}, {'torch': torch.__version__}
for half, label in (torch.float16, 'f16'), (torch.bfloat16, 'bf16'):
    exact, own = cases(lambda x: x.to(half).double()), cases(lambda x: x.to(half))
    for name, expected in exact.items():
        if not any(name.startswith(case + '.') for case in HALF): continue
        kept[f'{label}.{name}'] = expected.float()
        errors[f'{label}.{name}'] = repr(((own[name].double() - expected).abs().max() / expected.abs().max()).item())
os.makedirs('tests/parity/ops/half', exist_ok=True)
save_file(kept, 'tests/parity/ops/half/fixture.safetensors', metadata=errors)
print(len(kept), 'tensors,', os.path.getsize('tests/parity/ops/half/fixture.safetensors'), 'bytes')
for label in 'f16', 'bf16': print(label, 'greatest error of PyTorch', max(float(v) for k, v in errors.items() if k.startswith(label)))
