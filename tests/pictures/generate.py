"""Makes small picture files of every sort that people have, and what Pillow reads from them.

    python tests/pictures/generate.py        (numpy, Pillow)

files/NAME is read by the test and compared with expected/NAME.png; broken/ holds files that must be refused; resize/ holds one picture
scaled by Pillow. versions.json says which Pillow.
"""
import io, json, os, shutil

import numpy as np
import PIL
from PIL import Image, ImageOps, features

HERE = os.path.dirname(os.path.abspath(__file__))
for folder in ('files', 'expected', 'broken', 'resize'):
    shutil.rmtree(os.path.join(HERE, folder), ignore_errors=True)
    os.makedirs(os.path.join(HERE, folder))


def scene(width, height):
    """Smooth colours with one corner marked, so that no turn or mirror looks like another."""
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width]).reshape(2, 1, 1)
    picture = np.stack([60 + 150 * x, 220 - 160 * y, 128 + 100 * np.sin(5 * x + 3 * y)], 2)
    picture[: height // 4, : width // 4] *= 0.6
    return Image.fromarray(picture.astype(np.uint8))


def keep(name, data, expected=None):
    """Stores a file, and as expected what Pillow makes of it unless given."""
    with open(os.path.join(HERE, 'files', name), 'wb') as file: file.write(data)
    if expected is None: expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert('RGB')
    expected.save(os.path.join(HERE, 'expected', name + '.png'), optimize=True)


def save(picture, format, **options):
    data = io.BytesIO()
    picture.save(data, format, **options)
    return data.getvalue()


s = scene(40, 24)
grey = s.convert('L')
for orientation in range(1, 9):
    exif = Image.Exif()
    exif[0x0112] = orientation
    keep(f'orientation-{orientation}.jpg', save(s, 'JPEG', quality=95, subsampling=0, exif=exif))
exif[0x0112] = 6
keep('orientation-6.png', save(s, 'PNG', exif=exif))
keep('orientation-6.webp', save(s, 'WEBP', lossless=True, exif=exif.tobytes()))
keep('baseline-420.jpg', save(s, 'JPEG', quality=92, subsampling=2))
keep('progressive.jpg', save(s, 'JPEG', quality=92, progressive=True))
keep('grey.jpg', save(grey, 'JPEG', quality=92))
keep('restart-markers.jpg', save(s, 'JPEG', quality=92, restart_marker_blocks=2))
cmyk = save(s.convert('CMYK'), 'JPEG', quality=95)
keep('cmyk.jpg', cmyk)
# The same file with its Adobe marker saying that the inks are stored as YCCK.
marker = cmyk.index(b'Adobe')
keep('ycck.jpg', cmyk[:marker + 11] + b'\x02' + cmyk[marker + 12:])
keep('lies-about-its-kind.jpg', save(s, 'PNG'))
keep('trailing-bytes.jpg', save(s, 'JPEG', quality=92) + b'added by a camera')
keep('one-pixel.png', save(Image.new('RGB', (1, 1), (9, 99, 199)), 'PNG'))
keep('one-pixel.jpg', save(Image.new('RGB', (1, 1), (9, 99, 199)), 'JPEG'))
keep('grey.png', save(grey, 'PNG'))
keep('palette.png', save(s.quantize(16), 'PNG'))
keep('palette-transparent.png', save(s.quantize(16), 'PNG', transparency=3))
keep('one-bit.png', save(grey.convert('1'), 'PNG'))
alpha = s.copy()
alpha.putalpha(Image.linear_gradient('L').resize((40, 24)))
keep('transparent.png', save(alpha, 'PNG'))
grey_alpha = Image.merge('LA', (grey, Image.linear_gradient('L').resize((40, 24))))
keep('grey-transparent.png', save(grey_alpha, 'PNG'))
keep('lossy.webp', save(s, 'WEBP', quality=90))
keep('lossless.webp', save(s, 'WEBP', lossless=True))
keep('transparent.webp', save(alpha, 'WEBP', lossless=True, exact=True))


def png_16(array):
    """A PNG of 16 bits a channel: Pillow cannot write one in colour."""
    import struct, zlib
    height, width = array.shape[:2]
    kind = 2 if array.ndim == 3 else 0
    rows = b''.join(b'\0' + row.astype('>u2').tobytes() for row in array)
    chunk = lambda name, data: struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 16, kind, 0, 0, 0)) + chunk(b'IDAT', zlib.compress(rows, 9)) + chunk(b'IEND', b'')


# Every low byte occurs. Expected is the nearest 8-bit value; Pillow cuts in colour and clips at 255 in grey, neither of which is meant.
deep = np.asarray(s).astype(np.uint32) * 256 + np.arange(40 * 24 * 3).reshape(24, 40, 3) * 7 % 256
nearest = lambda a: Image.fromarray(((a * 255 + 32767) // 65535).astype(np.uint8)).convert('RGB')
keep('deep.png', png_16(deep), nearest(deep))
keep('deep-grey.png', png_16(deep[:, :, 0]), nearest(deep[:, :, 0]))

broken = {
    'cut.jpg': save(s, 'JPEG', quality=92)[:-40],
    'cut-progressive.jpg': save(s, 'JPEG', quality=92, progressive=True)[:-60],
    'without-end.jpg': save(s, 'JPEG', quality=92)[:-2],
    'cut.png': save(s, 'PNG')[:-60],
    'cut.webp': save(s, 'WEBP', quality=90)[:-30],
    'flipped-bit.png': (lambda b: b[:200] + bytes([b[200] ^ 4]) + b[201:])(save(s, 'PNG')),
    'empty.jpg': b'',
    'text.jpg': b'not a picture, but a text that somebody renamed\n',
    'pointer.jpg': b'version https://git-lfs.github.com/spec/v1\noid sha256:' + b'0' * 64 + b'\nsize 12345\n',
    'really-a-gif.jpg': save(s.quantize(8), 'GIF'),
    'really-a-tiff.png': save(s, 'TIFF')[:400],
}
for name, data in broken.items():
    with open(os.path.join(HERE, 'broken', name), 'wb') as file: file.write(data)

detailed = scene(97, 61)
rng = np.random.default_rng(5)
detailed = np.asarray(detailed) + rng.normal(0, 30, (61, 97, 1)) + 40 * (np.arange(97) // 9 % 2).reshape(1, 97, 1)
# Within 64 to 192, so that no overshoot of the filter is clipped: Pillow scales rows first, fast_image_resize columns.
detailed = Image.fromarray((64 + detailed.clip(0, 255) / 2).astype(np.uint8))
put = lambda name, picture: picture.save(os.path.join(HERE, 'resize', name + '.png'), optimize=True)
put('source', detailed)
put('crop-32x32', ImageOps.fit(detailed, (32, 32), Image.LANCZOS))
put('crop-64x48', ImageOps.fit(detailed, (64, 48), Image.LANCZOS))
put('crop-40x120', ImageOps.fit(detailed, (40, 120), Image.LANCZOS))
put('stretch-50x30', detailed.resize((50, 30), Image.LANCZOS))
put('stretch-150x150', detailed.resize((150, 150), Image.LANCZOS))
# webui's "resize and fill": floor(61 * 64 / 97) = 40 rows in the middle, then the first and last row to the border.
inside = np.asarray(detailed.resize((64, 61 * 64 // 97), Image.LANCZOS))
put('pad-64x64', Image.fromarray(np.concatenate([inside[:1].repeat(12, 0), inside, inside[-1:].repeat(12, 0)])))

with open(os.path.join(HERE, 'versions.json'), 'w') as file:
    json.dump({'pillow': PIL.__version__, 'numpy': np.__version__, 'libjpeg_turbo': features.version('libjpeg_turbo'), 'webp': features.version('webp')}, file)
    file.write('\n')
