"""A baseline JPEG encoder for sampling factors and scans that other encoders do not offer. Blocks have one colour each. Used by generate.py."""
import struct

# Annex K.3: codes of the differences of DC, and of the end of a block.
DC_BITS = [0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0]
DC_VALUES = list(range(12))
AC_BITS = [1] + [0] * 15
AC_VALUES = [0]
QUANTUM = 4


def codes(bits, values):
    table, code, at = {}, 0, 0
    for length, count in enumerate(bits, 1):
        for _ in range(count):
            table[values[at]] = (code, length)
            code, at = code + 1, at + 1
        code <<= 1
    return table


DC, AC = codes(DC_BITS, DC_VALUES), codes(AC_BITS, AC_VALUES)


class Scan:
    def __init__(self):
        self.text = ''

    def block(self, level, before):
        difference = level - before
        size = abs(difference).bit_length()
        code, length = DC[size]
        self.text += f'{code:0{length}b}'
        if size: self.text += f'{difference if difference > 0 else difference + (1 << size) - 1:0{size}b}'
        self.text += f'{AC[0][0]:0{AC[0][1]}b}'

    def bytes(self):
        text = self.text + '1' * (-len(self.text) % 8)
        return bytes(int(text[i:i + 8], 2) for i in range(0, len(text), 8)).replace(b'\xff', b'\xff\0')


def segment(marker, data):
    return bytes([0xff, marker]) + struct.pack('>H', len(data) + 2) + data


def colour(x, y):
    """Of the place x, y, 0 to 1: Y, Cb, Cr."""
    r, g, b = (200, 40 + 120 * y, 40) if x < 0.5 else (40, 40 + 120 * y, 200)
    return 0.299 * r + 0.587 * g + 0.114 * b, 128 - 0.168736 * r - 0.331264 * g + 0.5 * b, 128 + 0.5 * r - 0.418688 * g - 0.081312 * b


def jpeg(factors, scans, width=64, height=64):
    """`factors`: across and down of each component; `scans`: the components of each."""
    most = max(h for h, _ in factors), max(v for _, v in factors)
    groups = -(-width // (8 * most[0])), -(-height // (8 * most[1]))
    level = lambda c, x, y, across, down: round((colour((x + 0.5) / across, (y + 0.5) / down)[c] - 128) * 8 / QUANTUM)
    data = b'\xff\xd8' + segment(0xdb, bytes([0]) + bytes([QUANTUM] * 64))
    data += segment(0xc0, struct.pack('>BHHB', 8, height, width, len(factors)) + b''.join(bytes([c + 1, h << 4 | v, 0]) for c, (h, v) in enumerate(factors)))
    data += segment(0xc4, bytes([0]) + bytes(DC_BITS) + bytes(DC_VALUES)) + segment(0xc4, bytes([0x10]) + bytes(AC_BITS) + bytes(AC_VALUES))
    for components in scans:
        scan, before = Scan(), [0] * len(factors)
        def put(c, x, y):
            h, v = factors[c]
            now = level(c, x, y, groups[0] * h, groups[1] * v)
            scan.block(now, before[c])
            before[c] = now
        if len(components) == 1:
            # A scan of one component has as many blocks as the picture needs.
            c, = components
            h, v = factors[c]
            across, down = -(-(-(-width * h // most[0])) // 8), -(-(-(-height * v // most[1])) // 8)
            for y in range(down):
                for x in range(across): put(c, x, y)
        else:
            for gy in range(groups[1]):
                for gx in range(groups[0]):
                    for c in components:
                        h, v = factors[c]
                        for y in range(v):
                            for x in range(h): put(c, gx * h + x, gy * v + y)
        data += segment(0xda, bytes([len(components)]) + b''.join(bytes([c + 1, 0]) for c in components) + bytes([0, 63, 0])) + scan.bytes()
    return data + b'\xff\xd9'


def all_forms():
    together, apart, in_part = [(0, 1, 2)], [(0,), (1,), (2,)], [(0,), (1, 2)]
    forms = {}
    for name, scans in (('together', together), ('apart', apart), ('in-part', in_part)):
        for luma in ((1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (1, 4), (4, 2), (2, 4), (3, 1)):
            forms[f'{name}-{luma[0]}x{luma[1]}-1x1'] = jpeg([luma, (1, 1), (1, 1)], scans)
        for factors in (((2, 2), (2, 1), (2, 1)), ((2, 2), (1, 2), (1, 2)), ((2, 2), (2, 2), (2, 2)), ((2, 1), (1, 1), (2, 1)), ((2, 2), (1, 1), (2, 2)),
                        ((1, 1), (2, 2), (2, 2)), ((1, 1), (2, 1), (2, 1)), ((2, 1), (1, 2), (1, 2)), ((2, 1), (2, 1), (2, 1)), ((1, 2), (1, 2), (1, 2))):
            forms[f'{name}-' + '-'.join(f'{h}x{v}' for h, v in factors)] = jpeg(list(factors), scans)
    forms['grey-2x2'] = jpeg([(2, 2)], [(0,)])
    return forms
