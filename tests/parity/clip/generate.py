"""Contexts from transformers' CLIP text model. Run from the repository's root: python tests/parity/clip/generate.py"""
import os, sys

import torch, transformers
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

sys.path[:0] = ['tests/parity']
from tiny_sd import fill, tiny_sd

torch.set_num_threads(1)
tensors = {}


def contexts(name, model, tokens):
    with torch.no_grad(): output = model(tokens, output_hidden_states=True)
    norm = (model.text_model if hasattr(model, 'text_model') else model).final_layer_norm
    tensors[f'{name}.tokens'] = tokens
    tensors[f'{name}.skip_1'] = output.last_hidden_state
    with torch.no_grad(): tensors[f'{name}.skip_2'] = norm(output.hidden_states[-2]).contiguous()


# Nothing; "star, a red star on white"; "a large blue ring on a yellow background".
texts = [[49406], [49406, 1565, 267, 320, 736, 1565, 525, 1579], [49406, 320, 3638, 1746, 2540, 525, 320, 4481, 5994]]
contexts('tiny', tiny_sd()[0], torch.tensor([text + [49407] * (77 - len(text)) for text in texts]))
for name, activation in (('quick', 'quick_gelu'), ('exact', 'gelu')):
    model = fill(CLIPTextModel(CLIPTextConfig(vocab_size=300, hidden_size=128, intermediate_size=512, num_hidden_layers=3, num_attention_heads=2, max_position_embeddings=77, hidden_act=activation,
                                              projection_dim=128, bos_token_id=298, eos_token_id=299, pad_token_id=299)), 'clip.text_model')
    contexts(name, model, torch.arange(2 * 77).view(2, 77) * 7 % 300)
tensors['short'] = model(torch.tensor([[298, 5, 299]])).last_hidden_state.detach()
save_file(tensors, 'tests/parity/clip/fixture.safetensors', metadata={'torch': torch.__version__, 'transformers': transformers.__version__})
print(len(tensors), 'tensors,', os.path.getsize('tests/parity/clip/fixture.safetensors'), 'bytes')
print(sorted(model.state_dict())[:6])
