"""Crop, resize to 512 and flip as a Pillow program does it: the measure for tests/benches/images.rs, which runs this.

    images_pillow.py PHOTOS OUT [PROCESSES=2]

Prints images per second and the mean size of a written PNG.
"""
import os, sys, time
from multiprocessing import Pool

from PIL import Image, ImageOps

photos, out, processes = sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 2


def work(name):
    picture = ImageOps.exif_transpose(Image.open(os.path.join(photos, name))).convert('RGB')
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    picture = picture.crop((left, top, left + side, top + side)).resize((512, 512), Image.LANCZOS)
    size = 0
    for suffix, version in (('', picture), ('-flip', ImageOps.mirror(picture))):
        path = os.path.join(out, os.path.splitext(name)[0] + suffix + '.png')
        version.save(path, compress_level=1)
        size += os.path.getsize(path)
    return size


if __name__ == '__main__':
    names = sorted(os.listdir(photos))
    with Pool(processes) as pool:
        pool.map(work, names[:processes])
        began = time.perf_counter()
        size = sum(pool.imap_unordered(work, names, chunksize=16))
        seconds = time.perf_counter() - began
    print(f'{len(names) / seconds:.1f} {size / len(names) / 2:.0f}')
