"""Makes the broken caches of this folder from a sound one: `python3 tests/diagnostics/caches/generate.py` after `cargo build --release`.

Each folder is a cache of one tiny picture through `resize`, broken in one way; the `.txt` beside it is what `loramill fsck` says of it, before and after
a repair. With `LORAMILL_BLESS=1 cargo test --release` these texts are written anew. Made with loramill 0.1.0.
"""
import glob, os, shutil, struct, subprocess, tempfile, time, zlib

HERE = os.path.dirname(os.path.abspath(__file__))
LORAMILL = f'{HERE}/../../../target/release/loramill'


def picture():
    rows = b''.join(b'\0' + b'\x40\x80\xc0' * 8 for _ in range(6))
    chunk = lambda kind, data: struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', 8, 6, 8, 2, 0, 0, 0)) + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')


def sound(folder):
    os.makedirs(f'{folder}/images')
    with open(f'{folder}/images/IMG_1.png', 'wb') as f: f.write(picture())
    with open(f'{folder}/pipeline.yaml', 'w') as f: f.write('concept: star\ninputs: { photos: images/ }\nstages:\n  resize: { images: photos, size: 4 }\n')
    # Files are remembered once they are older than the clock's tick.
    for _ in range(2):
        subprocess.run([LORAMILL, 'run', '-q', '--cache', 'cache', '.'], cwd=folder, check=True)
        time.sleep(0.1)
    return f'{folder}/cache'


def change(name, edit):
    """`edit` takes the bytes of a file and gives those it shall have."""
    def apply(cache):
        with open(f'{cache}/{name}', 'rb') as f: data = f.read()
        with open(f'{cache}/{name}', 'wb') as f: f.write(edit(data))
    return apply


def picture_of(cache): return next(path for path in glob.glob(f'{cache}/objects/*/*') if open(path, 'rb').read(4) == b'\x89PNG')
def trees_of(cache): return sorted(path for path in glob.glob(f'{cache}/objects/*/*') if open(path, 'rb').read(14) == b'loramill-items')


def on(which, edit):
    def apply(cache):
        path = which(cache)
        data = open(path, 'rb').read()
        os.remove(path)
        with open(path, 'wb') as f: f.write(edit(data))
    return apply


def folder_in_place(cache):
    path = picture_of(cache)
    os.remove(path)
    os.makedirs(path)
    with open(f'{path}/note', 'w') as f: f.write('of a person\n')


def stray(cache):
    with open(f'{cache}/objects/notes.txt', 'w') as f: f.write('of a person\n')


def flip(data, at): return data[:at] + bytes([data[at] ^ 4]) + data[at + 1:]


BROKEN = {
    'log-torn': change('records', lambda data: data[:-9]),
    'log-damaged': change('records', lambda data: flip(data, 90)),
    'log-damaged-and-torn': change('records', lambda data: flip(data, 90) + b'\xf5Rec'),
    'log-with-noise-between': change('records', lambda data: data[:32] + b'noise' * 20 + data[32:]),
    'log-empty': change('records', lambda data: b''),
    'log-cut-in-its-header': change('records', lambda data: data[:20]),
    'log-of-a-later-version': change('records', lambda data: data.replace(b'loramill-log 1', b'loramill-log 2')),
    'log-is-a-text': change('records', lambda data: b'This was a record log once, before somebody saved a letter here.\n'),
    'stat-index-empty': change('stat-index', lambda data: b''),
    'stat-index-damaged': change('stat-index', lambda data: flip(data, 40)),
    'record-index-of-another-log': lambda cache: open(f'{cache}/record-index', 'wb').write(b'loramill-index1\n' + bytes(24)),
    'object-flipped': on(picture_of, lambda data: flip(data, 40)),
    'object-truncated': on(picture_of, lambda data: data[:30]),
    'object-empty': on(picture_of, lambda data: b''),
    'object-missing': lambda cache: os.remove(picture_of(cache)),
    'object-is-a-folder': folder_in_place,
    'list-flipped': on(lambda cache: trees_of(cache)[0], lambda data: flip(data, 20)),
    'list-missing': lambda cache: os.remove(trees_of(cache)[0]),
    'stray-file': stray,
}

if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as parent:
        cache = sound(f'{parent}/sound')
        for name, damage in BROKEN.items():
            folder = f'{HERE}/{name}'
            shutil.rmtree(folder, ignore_errors=True)
            os.makedirs(folder)
            for part in ('CACHEDIR.TAG', 'records', 'stat-index'): shutil.copy(f'{cache}/{part}', folder)
            shutil.copytree(f'{cache}/objects', f'{folder}/objects')
            for path in glob.glob(f'{folder}/objects/*/*'): os.chmod(path, 0o644)
            damage(folder)
