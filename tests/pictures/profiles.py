"""Writes small colour profiles of every form that pictures carry (ICC.1:2022). Used by generate.py."""
import struct

import numpy as np

D50 = (0.9642, 1.0, 0.8249)


def fixed(*numbers):
    """s15Fixed16Number."""
    return b''.join(struct.pack('>i', round(number * 65536)) for number in numbers)


def profile(space, pcs, tags, version=2, kind=b'mntr'):
    tags = [(b'desc', text('a test', version)), (b'cprt', text('none', version)), (b'wtpt', xyz(*D50))] + tags
    offset = 128 + 4 + 12 * len(tags)
    table, body = struct.pack('>I', len(tags)), b''
    for name, data in tags:
        table += name + struct.pack('>II', offset + len(body), len(data))
        body += data + b'\0' * (-len(data) % 4)
    size = 128 + len(table) + len(body)
    head = struct.pack('>I4sI4s4s4s12s4s4sII8sI12s4s', size, b'none', version << 24, kind, space, pcs, bytes(12), b'acsp', bytes(4), 0, 0, bytes(8), 0, fixed(*D50), bytes(4))
    return head.ljust(128, b'\0') + table + body


def text(words, version):
    if version >= 4:
        wide = words.encode('utf-16-be')
        return b'mluc' + bytes(4) + struct.pack('>II2s2sII', 1, 12, b'en', b'US', len(wide), 28) + wide
    plain = words.encode() + b'\0'
    return b'desc' + bytes(4) + struct.pack('>I', len(plain)) + plain + bytes(4 + 4 + 2 + 1 + 67)


def xyz(*numbers):
    return b'XYZ ' + bytes(4) + fixed(*numbers)


def gamma(number):
    return b'curv' + bytes(4) + struct.pack('>IH', 1, round(number * 256))


def sampled(function, count):
    values = [round(min(max(function(i / (count - 1)), 0), 1) * 65535) for i in range(count)]
    return b'curv' + bytes(4) + struct.pack(f'>I{count}H', count, *values)


def parametric(kind, *numbers):
    return b'para' + bytes(4) + struct.pack('>HH', kind, 0) + fixed(*numbers)


def srgb_curve(x):
    return x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4


SRGB_PARAMETRIC = parametric(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
# Adapted to D50, as the makers of these profiles state them.
P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
PROPHOTO = ((0.79767, 0.28804, 0.0), (0.13519, 0.71188, 0.0), (0.03134, 0.00009, 0.82491))


def primaries(colours, curve, version=2):
    curves = curve if isinstance(curve, tuple) else (curve,) * 3
    tags = [(letter + b'XYZ', xyz(*colour)) for letter, colour in zip((b'r', b'g', b'b'), colours)]
    return profile(b'RGB ', b'XYZ ', tags + [(letter + b'TRC', c) for letter, c in zip((b'r', b'g', b'b'), curves)], version)


def grey(curve, pcs=b'XYZ '):
    return profile(b'GRAY', pcs, [(b'kTRC', curve)])


def lab_of(x, y, z):
    """CIE Lab of XYZ, each divided by white's."""
    f = lambda t: np.where(t > (24 / 116) ** 3, np.cbrt(t), t * 841 / 108 + 16 / 116)
    return 116 * f(y) - 16, 500 * (f(x) - f(y)), 200 * (f(y) - f(z))


def printed(c, m, y, k):
    """What four inks look like: light passes each in turn, and even all of them leave some."""
    c, m, y, k = (0.97 * ink for ink in (c, m, y, k))
    rgb = [(1 - ink * 0.95) * (1 - 0.92 * k) + 0.03 for ink in (c, m, y)]
    r, g, b = (np.clip(part, 0, 1) ** 2.2 for part in rgb)
    columns = [np.array(colour) / np.array(D50) for colour in SRGB]
    return lab_of(*(r * columns[0][i] + g * columns[1][i] + b * columns[2][i] for i in range(3)))


def scanned(r, g, b):
    """What a scanner of other primaries sees; its black is not black."""
    r, g, b = (0.02 + 0.95 * part ** 1.9 for part in (r, g, b))
    columns = [np.array(colour) / np.array(D50) for colour in ADOBE]
    return lab_of(*(r * columns[0][i] + g * columns[1][i] + b * columns[2][i] for i in range(3)))


def grid(function, channels, points):
    axes = np.meshgrid(*[np.linspace(0, 1, points)] * channels, indexing='ij')
    return np.stack(function(*axes), -1).reshape(-1, 3)


IDENTITY = fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)


def table_16(function, channels, points):
    """`mft2`; Lab as version 2 writes it, and input curves that are not straight."""
    lab = grid(lambda *inks: function(*(ink ** 1.25 for ink in inks)), channels, points)
    numbers = np.stack([lab[:, 0] / 100 * 65280, (lab[:, 1] + 128) * 256, (lab[:, 2] + 128) * 256], -1)
    curve = [round((i / 15) ** 0.8 * 65535) for i in range(16)]
    return (b'mft2' + bytes(4) + bytes([channels, 3, points, 0]) + IDENTITY + struct.pack('>HH', 16, 2)
            + struct.pack(f'>{16 * channels}H', *curve * channels) + numbers.clip(0, 65535).round().astype('>u2').tobytes() + struct.pack('>6H', *[0, 65535] * 3))


def table_8(function, channels, points):
    """`mft1`."""
    lab = grid(function, channels, points)
    numbers = np.stack([lab[:, 0] / 100 * 255, lab[:, 1] + 128, lab[:, 2] + 128], -1)
    return (b'mft1' + bytes(4) + bytes([channels, 3, points, 0]) + IDENTITY + bytes(range(256)) * channels
            + numbers.clip(0, 255).round().astype(np.uint8).tobytes() + bytes(range(256)) * 3)


def curved_table(function, channels, points):
    """`mAB `: curves, colours, curves, a matrix and curves; Lab as version 4 writes it."""
    lab = grid(lambda *inks: function(*(ink ** 1.25 for ink in inks)), channels, points)
    numbers = np.stack([lab[:, 0] / 100, (lab[:, 1] + 128) / 255, (lab[:, 2] + 128) / 255], -1)
    straight = parametric(0, 1)
    a_curves = parametric(0, 0.8) * channels
    clut = bytes([points] * channels).ljust(16, b'\0') + bytes([2, 0, 0, 0]) + (numbers.clip(0, 1) * 65535).round().astype('>u2').tobytes()
    clut += b'\0' * (-len(clut) % 4)
    matrix = fixed(1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0)
    at_b = 32
    at_matrix = at_b + 3 * len(straight)
    at_m = at_matrix + len(matrix)
    at_clut = at_m + 3 * len(straight)
    at_a = at_clut + len(clut)
    head = b'mAB ' + bytes(4) + bytes([channels, 3, 0, 0]) + struct.pack('>5I', at_b, at_matrix, at_m, at_clut, at_a)
    return head + straight * 3 + matrix + straight * 3 + clut + a_curves


def inks(form, version=2):
    table = {'8': table_8, '16': table_16, 'curved': curved_table}[form](printed, 4, 5)
    return profile(b'CMYK', b'Lab ', [(b'A2B0', table)], version, b'prtr')


def scanner(form, version=2):
    table = {'8': table_8, '16': table_16, 'curved': curved_table}[form](scanned, 3, 9)
    return profile(b'RGB ', b'Lab ', [(b'A2B0', table)], version, b'scnr')
