"""Draws pictures and names what is in them with the reference's own code: the golden table of the shape measure.

    python tests/measure/generate.py        (from the root of the repository; numpy, Pillow, and torch and diffusers for make.py's imports)

Writes pictures.png, 64x64 pictures in rows of ten, and table.json with a row for each.
"""
import ast, json, math, os, random, sys

import numpy as np
import PIL
from PIL import Image, ImageFilter

HERE = os.path.dirname(os.path.abspath(__file__))
REFERENCE = os.path.join(HERE, '..', '..', 'examples', 'tiny', 'reference')
sys.path.insert(0, REFERENCE)
from make import COLOURS, draw
from shape import SHAPES, classify, foreground

# star_test.py loads models when imported: take the one function.
source = ast.parse(open(os.path.join(REFERENCE, 'star_test.py')).read())
wanted = [node for node in source.body if isinstance(node, ast.FunctionDef) and node.name == 'colours']
exec(compile(ast.Module(wanted, []), 'star_test.py', 'exec'))

random.seed(11)
np.random.seed(11)
pictures = []
for i in range(80):
    colour, ground = random.sample(list(COLOURS), 2)
    picture = draw(list(SHAPES)[i % 6], colour, ground, random.choice(['small', 'large']), random.uniform(0.35, 0.65), random.uniform(0.35, 0.65), random.uniform(-0.5, 0.5))
    if i % 4 == 1: picture = picture.filter(ImageFilter.GaussianBlur(random.uniform(0.5, 2.5)))
    if i % 4 == 2: picture = Image.fromarray((np.asarray(picture) + np.random.normal(0, 12, (64, 64, 1))).clip(0, 255).astype(np.uint8))
    if i % 4 == 3: picture = Image.composite(picture, draw('circle', *random.sample(list(COLOURS), 2), 'small', 0.2, 0.8, 0.0), Image.fromarray(np.tile(np.arange(64) > 14, (64, 1))))
    pictures.append(picture)
# Things between shapes, two shapes at once, a shape over the border, and nothing at all.
for i in range(18):
    a, b = random.sample(list(SHAPES), 2)
    colour, ground = random.sample(list(COLOURS), 2)
    one, other = draw(a, colour, ground, 'large', 0.5, 0.5, 0.1 * i), draw(b, colour, ground, 'large', 0.5 + 0.02 * i, 0.5, 0.2 * i)
    pictures.append(Image.blend(one, other, i / 17))
pictures += [Image.new('RGB', (64, 64), COLOURS['blue']), Image.fromarray(np.random.randint(0, 255, (64, 64, 3), dtype=np.uint8))]

sheet = Image.new('RGB', (640, 64 * math.ceil(len(pictures) / 10)))
rows = []
for i, picture in enumerate(pictures):
    sheet.paste(picture, (i % 10 * 64, i // 10 * 64))
    shape, overlap = classify(picture)
    colour, ground = colours(np.asarray(picture))
    rows.append({'shape': shape, 'overlap': overlap, 'colour': colour, 'ground': ground})
sheet.save(os.path.join(HERE, 'pictures.png'), optimize=True)
versions = {'pillow': PIL.__version__, 'numpy': np.__version__}
with open(os.path.join(HERE, 'table.json'), 'w') as file:
    file.write(json.dumps({'versions': versions, 'pictures': rows}).replace('{"shape"', '\n{"shape"') + '\n')
