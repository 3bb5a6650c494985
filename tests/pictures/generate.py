"""Makes small picture files of every sort that people have, and what Pillow reads from them.

    python tests/pictures/generate.py        (numpy, Pillow)

files/NAME is read by the test and compared with expected/NAME.png; colour/ holds files that name their colours, and what ImageCms makes of
them, or those of jpegs.py in sampling/; broken/ holds files that must be refused; resize/ holds one picture scaled by Pillow. versions.json says
which Pillow.
"""
import io, json, os, shutil, struct, zlib

import numpy as np
import PIL
from PIL import Image, ImageCms, ImageOps, features

import jpegs
import profiles

HERE = os.path.dirname(os.path.abspath(__file__))
for folder in ('files', 'expected', 'broken', 'resize', 'colour', 'sampling', 'odd'):
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

keep('rgb.bmp', save(s, 'BMP'))
keep('palette.bmp', save(s.quantize(16), 'BMP'))
keep('grey.bmp', save(grey, 'BMP'))
keep('rgb.tif', save(s, 'TIFF'))
keep('lzw.tif', save(s, 'TIFF', compression='tiff_lzw'))
keep('deflate.tif', save(s, 'TIFF', compression='tiff_adobe_deflate'))
keep('grey.tif', save(grey, 'TIFF'))
keep('transparent.tif', save(alpha, 'TIFF'))


# Colours. Converted by the perceptual intent, which is ImageCms' own choice.
SRGB = ImageCms.createProfile('sRGB')
# Every hue, dark to light, and a row of greys.
y, x = np.mgrid[0:24, 0:48]
hues = np.stack([127 + 127 * np.sin(x / 7.6 + phase) for phase in (0, 2.1, 4.2)], 2) * (y / 22)[:, :, None]
hues[23] = (x[23] * 255 / 47)[:, None]
hues = Image.fromarray(hues.clip(0, 255).astype(np.uint8))


def converted(picture, icc):
    return ImageCms.profileToProfile(picture, ImageCms.ImageCmsProfile(io.BytesIO(icc)), SRGB, outputMode='RGB')


def keep_colours(name, data, expected=None):
    """As `keep`; expected is what ImageCms makes of the stored numbers unless given."""
    with open(os.path.join(HERE, 'colour', name), 'wb') as file: file.write(data)
    stored = Image.open(io.BytesIO(data))
    (expected or converted(stored, stored.info['icc_profile'])).save(os.path.join(HERE, 'colour', name + '.png'), optimize=True, icc_profile=None)


p3 = profiles.primaries(profiles.P3, profiles.SRGB_PARAMETRIC, 4)
adobe = profiles.primaries(profiles.ADOBE, profiles.gamma(563 / 256))
keep_colours('p3.png', save(hues, 'PNG', icc_profile=p3))
keep_colours('p3.jpg', save(hues, 'JPEG', quality=95, subsampling=0, icc_profile=p3))
keep_colours('p3.webp', save(hues, 'WEBP', lossless=True, icc_profile=p3))
keep_colours('p3.tif', save(hues, 'TIFF', icc_profile=p3))
keep_colours('adobe.png', save(hues, 'PNG', icc_profile=adobe))
keep_colours('prophoto.png', save(hues, 'PNG', icc_profile=profiles.primaries(profiles.PROPHOTO, profiles.gamma(1.8))))
keep_colours('curves.png', save(hues, 'PNG', icc_profile=profiles.primaries(
    profiles.ADOBE, (profiles.sampled(lambda x: 0.03 + 0.97 * x ** 2, 64), profiles.parametric(4, 2.2, 0.9, 0.1, 0.2, 0.1, 0.0, 0.0), profiles.parametric(1, 2.0, 1.0, 0.0)))))
keep_colours('grey.png', save(hues.convert('L'), 'PNG', icc_profile=profiles.grey(profiles.gamma(1.8))))
keep_colours('grey.jpg', save(hues.convert('L'), 'JPEG', quality=95, icc_profile=profiles.grey(profiles.sampled(lambda x: x ** 1.6, 256))))
keep_colours('grey-lightness.png', save(hues.convert('L'), 'PNG', icc_profile=profiles.grey(profiles.gamma(1.3), b'Lab ')))
grey_as_rgb = hues.convert('L').convert('RGB')
keep_colours('grey-of-p3.jpg', save(hues.convert('L'), 'JPEG', quality=100, icc_profile=p3), converted(grey_as_rgb, p3))
for form, version in (('8', 2), ('16', 2), ('curved', 4)):
    keep_colours(f'scanner-{form}.png', save(hues, 'PNG', icc_profile=profiles.scanner(form, version)))
    keep_colours(f'inks-{form}.jpg', save(hues.convert('CMYK'), 'JPEG', quality=100, subsampling=0, icc_profile=profiles.inks(form, version)))
# With black of its own.
r, g, b = (np.asarray(channel).astype(int) for channel in hues.split())
k = 255 - np.maximum(np.maximum(r, g), b)
inks = Image.fromarray(np.stack([255 - r - k, 255 - g - k, 255 - b - k, k], 2).clip(0, 255).astype(np.uint8), 'CMYK')
black = save(inks, 'JPEG', quality=100, subsampling=0, icc_profile=profiles.inks('16'))
keep_colours('inks-black.jpg', black)
marker = black.index(b'Adobe')
keep_colours('inks-ycck.jpg', black[:marker + 11] + b'\x02' + black[marker + 12:])
# These are sRGB already: the numbers stay as they are.
own = ImageCms.ImageCmsProfile(SRGB).tobytes()
keep_colours('srgb-of-littlecms.png', save(hues, 'PNG', icc_profile=own[:24] + struct.pack('>6H', 2026, 11, 30, 0, 0, 0) + own[36:]), hues)
keep_colours('srgb-by-1024.png', save(hues, 'PNG', icc_profile=profiles.primaries(profiles.SRGB, profiles.sampled(profiles.srgb_curve, 1024))), hues)
# Named without a profile.
exif = Image.Exif()
exif.get_ifd(0x8769)[0xa001] = 0xffff
exif.get_ifd(0x8769)[0xa005] = {1: 'R03'}
named = save(hues, 'JPEG', quality=95, subsampling=0, exif=exif)
keep_colours('adobe-by-exif.jpg', named, converted(Image.open(io.BytesIO(named)), adobe))


def with_chunk(png, name, data):
    """A PNG with a chunk behind its head."""
    return png[:33] + struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data)) + png[33:]


keep_colours('p3-by-cicp.png', with_chunk(save(hues, 'PNG'), b'cICP', bytes([12, 13, 0, 1])), converted(hues, p3))
keep_colours('transparent-p3.png', save(alpha, 'PNG', icc_profile=p3), converted(alpha.convert('RGB'), p3))

# JPEGs whose components are sampled, or stored, in unusual ways, and what libjpeg makes of them; see jpegs.py.
for name, data in jpegs.all_forms().items():
    try: Image.open(io.BytesIO(data)).load()
    except OSError: continue    # libjpeg refuses groups of more than ten blocks
    with open(os.path.join(HERE, 'sampling', name + '.jpg'), 'wb') as file: file.write(data)
    Image.open(io.BytesIO(data)).convert('RGB').save(os.path.join(HERE, 'sampling', name + '.png'), optimize=True)

bomb = zlib.compress(bytes(64 << 20), 9)
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
    'cut.tif': save(s, 'TIFF')[:400],
    'palette.tif': save(s.quantize(16), 'TIFF'),
    'cut.bmp': save(s, 'BMP')[:-60],
    'hdr.png': with_chunk(save(s, 'PNG'), b'cICP', bytes([9, 16, 0, 1])),
    'inks.tif': save(s.convert('CMYK'), 'TIFF'),
    # A raw photo's first picture is a reduced one.
    'raw.tif': save(s, 'TIFF', tiffinfo={254: 1}),
}
for name, data in broken.items():
    with open(os.path.join(HERE, 'broken', name), 'wb') as file: file.write(data)

# Profiles that are not to be used; the pictures are read all the same, and in little memory.
for name, data in {
    'profile-bomb.png': with_chunk(save(s, 'PNG'), b'iCCP', b'x\0\0' + bomb),
    'texts-bomb.png': with_chunk(with_chunk(save(s, 'PNG'), b'zTXt', b'x\0\0' + bomb), b'iTXt', b'x\0\1\0\0\0' + bomb),
    'profile-cut.png': with_chunk(save(s, 'PNG'), b'iCCP', b'x\0\0' + zlib.compress(p3)[:100]),
    'profile-of-noise.png': save(s, 'PNG', icc_profile=b'no profile' * 20),
    'profile-of-inks.jpg': save(s, 'JPEG', quality=95, subsampling=0, icc_profile=profiles.inks('8')),
    'profile-in-part.jpg': (lambda b: b.replace(b'ICC_PROFILE\0\1\1', b'ICC_PROFILE\0\1\2'))(save(s, 'JPEG', quality=95, subsampling=0, icc_profile=p3)),
}.items():
    with open(os.path.join(HERE, 'odd', name), 'wb') as file: file.write(data)

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
    json.dump({'pillow': PIL.__version__, 'numpy': np.__version__, 'libjpeg_turbo': features.version('libjpeg_turbo'), 'webp': features.version('webp'), 'littlecms2': features.version('littlecms2')}, file)
    file.write('\n')
