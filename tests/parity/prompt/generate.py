"""Writes fixture.safetensors: nasty prompts and their tokens by transformers' CLIPTokenizer over the embedded vocabulary."""
import gzip
import json
import os

import tokenizers
import torch
import transformers
from safetensors.torch import save_file
from transformers import CLIPTokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
PROMPTS = [
    '', ' ', 'a', 'a photo of a cat', 'A PHOTO of\ta\n\ncat  ', 'photo of a man (shrug)', 'shrug, a man in a suit, [filewords]',
    "don't won't I'm we've you'll he'd they're it's 'tis o'clock ''s 's", "DON'T IT'S", 'rock\u2019n\u2019roll \u201cquoted\u201d',
    '1girl, long_hair, blue_eyes, :d, ^_^, >_<, 2023', '12345 3.14159 \u00bd \u00b2 \u2167 \u0663\u0664 \U0001d7db',
    '\U0001f600\U0001f937\u200d\u2642\ufe0f \U0001f1e9\U0001f1ea \U0001f44d\U0001f3fd', '\u6771\u4eac\u30bf\u30ef\u30fc \uac10\uc0ac\ud569\ub2c8\ub2e4 \u4f60\u597d\uff0c\u4e16\u754c',
    '\u041f\u0440\u0438\u0432\u0435\u0442 \u039f\u0394\u039f\u03a3 \u1f48\u03b4\u03cd\u03c3\u03c3\u03b5\u03c5\u03c2 \u0130stanbul \u017ft\u017f STRASSE Stra\u00dfe \u1e9e',
    'e\u0301 \u00e9 a\u0308\u0323 \u0e01\u0e33\u0e25\u0e31\u0e07 \u0915\u094d\u0937 Z\u0351\u036b\u0343a\u0356l\u0358g\u0340o', '\ufb01ne \ufb03 \u212b \u2126 \u1e69',
    'a\x00b\x01c\x07d\x7fe\x85f', '\u200bzero\u200bwidth\u200c \ufeffbom \u00adsoft\u00adhyphen', '\u00a0non\u00a0breaking\u2003em\u3000ideographic\u2028line\u1680ogham\x1cfs\x1fus',
    '&amp; &lt;b&gt; &#39; <lora:cc_shrug_1880:1> <b>bold</b>', 'https://example.com/a?b=c&d=%20#e', '((masterpiece:1.3)), [[low]] \\(paren\\) BREAK AND',
    'x' * 300, 'abracadabra' * 40, 'Donaudampfschifffahrtselektrizit\u00e4tenhauptbetriebswerkbauunterbeamtengesellschaft', '!' * 50 + '?!?!...---___***',
    'before <|endoftext|> after<|startoftext|>x <|ENDOFTEXT|> <|endoftext', '___a_b__c___', 'caf\u00e9\u2014na\u00efve \u00bfqu\u00e9? \u20ac100 \u2122 \u00a9', 'a,b;c:d|e/f\\g"h\'i`j~k@l#m$n%o^p&q*r(s)t-u=v+w{x}y[z]',
    ', '.join(f'tag {i}' for i in range(90)), '\ud55c\u1100\u1161\u11a8', '\u0345 \u03b1\u0345', '\U0001f9d1\u200d\U0001f680 astronaut', '\u2460\u3251 \u1369 \u4e00\u3007',
]


def tokenizer():
    printable = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    hidden = [b for b in range(256) if b not in printable]
    symbols = [chr(c) for c in printable + [256 + i for i in range(len(hidden))]]
    with gzip.open(os.path.join(HERE, '../../../src/sd/prompt/bpe_simple_vocab_16e6.txt.gz')) as f:
        merges = [tuple(line.split()) for line in f.read().decode().split('\n')[1:49152 - 256 - 2 + 1]]
    vocabulary = symbols + [s + '</w>' for s in symbols] + [a + b for a, b in merges] + ['<|startoftext|>', '<|endoftext|>']
    return CLIPTokenizer(vocab={t: i for i, t in enumerate(vocabulary)}, merges=merges)


if __name__ == '__main__':
    clip = tokenizer()
    assert clip('a photo of a cat')['input_ids'] == [49406, 320, 1125, 539, 320, 2368, 49407]
    tokens = {f'tokens.{i}': torch.tensor(clip(p)['input_ids'][1:-1], dtype=torch.int64) for i, p in enumerate(PROMPTS)}
    save_file(tokens, os.path.join(HERE, 'fixture.safetensors'),
              {'transformers': transformers.__version__, 'tokenizers': tokenizers.__version__, 'prompts': json.dumps(PROMPTS)})
