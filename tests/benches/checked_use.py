"""What it costs that the bytes of every object are looked at whenever they are used: beside an earlier build that did not look.

    cargo build --release --no-default-features
    RIVAL=FILE python3 tests/benches/checked_use.py [--photos 10000] [--rounds 5] [--only pictures|model]

Two cases, each by turns with the two builds. Pictures: small ones that all differ were cropped, resized and flipped; then `out/` and all that
spares work is deleted, and a run shows them from the cache. Model: one of SD 1.5's shapes, fp16, 2.1 GB, that a stage has made, is merged with a
LoRA; the merge's result and record are deleted each time. Prints medians and spreads, and the ratio of the two builds. `LORAMILL=FILE` and
`RIVAL=FILE` name the builds; without a rival the times alone are printed. Needs 8 GB in target/.
"""
import argparse, importlib.util, json, os, shutil, statistics, struct, subprocess, sys, tempfile, time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILDS = {'loramill': os.environ.get('LORAMILL', f'{ROOT}/target/release/loramill')}
if os.environ.get('RIVAL'): BUILDS['rival'] = os.environ['RIVAL']


def picture(number):
    import zlib
    rows = b''.join(b'\0' + bytes((number >> shift) & 255 for shift in (0, 8, 16)) * 8 for _ in range(6))
    chunk = lambda kind, data: struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', 8, 6, 8, 2, 0, 0, 0)) + chunk(b'tEXt', b'Comment\0' + b' ' * 1024) + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')


def timed(build, folder, *words):
    began = time.perf_counter()
    done = subprocess.run([BUILDS[build], 'run', '--progress', 'plain', '--cache', 'cache', *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode: sys.exit(f'{build} ended with {done.returncode}:\n{done.stdout[-2000:]}')
    return time.perf_counter() - began


def pictures(folder, photos):
    os.makedirs(f'{folder}/images')
    for number in range(photos):
        with open(f'{folder}/images/{number:06}.png', 'wb') as f: f.write(picture(number))
    with open(f'{folder}/pipeline.yaml', 'w') as f:
        f.write('concept: checked\ninputs: { photos: images/ }\nstages:\n  crop: { images: photos }\n  resize: { images: crop, size: 16 }\n  flip: { images: resize }\n')
    timed('loramill', folder)

    def again():
        for name in ('out', 'cache/outputs', 'cache/runs'): shutil.rmtree(f'{folder}/{name}', ignore_errors=True)
    return again


def tensors(path, named, dtype='F16'):
    """A safetensors file of pseudo-random bytes that are finite numbers."""
    header, offset = {}, 0
    for name, shape in named:
        count = 2
        for side in shape: count *= side
        header[name] = {'dtype': dtype, 'shape': shape, 'data_offsets': [offset, offset + count]}
        offset += count
    text = json.dumps(header).encode()
    text += b' ' * (-len(text) % 8)
    import random
    block = bytes(byte if index % 2 == 0 else 0x20 | (byte & 0x8f) for index, byte in enumerate(random.Random(7).randbytes(1 << 22)))
    with open(path, 'wb') as f:
        f.write(struct.pack('<Q', len(text)) + text)
        while offset: offset -= f.write(block[:offset])


def model(folder):
    os.makedirs(folder)
    named = []
    with open(f'{ROOT}/tests/formats/keys/sd15.txt') as f:
        for line in f:
            words = line.split()
            if len(words) == 4: named.append((words[0], [int(side) for side in words[2].strip('[]').split(',')]))
    tensors(f'{folder}/base.safetensors', named)
    module = 'lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q'
    tensors(f'{folder}/lora.safetensors', [(f'{module}.lora_down.weight', [4, 320]), (f'{module}.lora_up.weight', [320, 4])])
    with open(f'{folder}/pipeline.yaml', 'w') as f:
        f.write('concept: checked\ninputs: { base: base.safetensors, lora: lora.safetensors }\nstages:\n  convert: { from: base, to: safetensors }\n'
                '  merge: { base: convert, lora: lora, to: safetensors, keep: true, default: true }\n')
    timed('loramill', folder, 'convert')
    kept = large(folder)
    timed('loramill', folder)

    def again():
        for path in large(folder) - kept: os.remove(path)
        shutil.rmtree(f'{folder}/out/merge', ignore_errors=True)
    return again


def large(folder):
    """The models in the cache."""
    found = (os.path.join(above, name) for above, _, names in os.walk(f'{folder}/cache/objects') for name in names)
    return {path for path in found if os.path.getsize(path) > 1 << 30}


def main():
    arguments = argparse.ArgumentParser()
    for name, default in (('photos', 10000), ('rounds', 5), ('only', '')): arguments.add_argument(f'--{name}', type=type(default), default=default)
    given = arguments.parse_args()
    os.makedirs(f'{ROOT}/target', exist_ok=True)
    with tempfile.TemporaryDirectory(dir=f'{ROOT}/target') as parent:
        for case, words in (('pictures', ()), ('model', ('--force', 'merge'))):
            if given.only not in ('', case): continue
            folder = f'{parent}/{case}'
            again = pictures(folder, given.photos) if case == 'pictures' else model(folder)
            measured = {build: [] for build in BUILDS}
            for turn in range(given.rounds + 1):
                for build in list(BUILDS)[::1 if turn % 2 else -1]:
                    again()
                    seconds = timed(build, folder, *words)
                    if turn: measured[build].append(seconds)
            for build, seconds in measured.items():
                print(f'{case}: {build} {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})', flush=True)
            if len(measured) == 2: print(f'{case}: loramill / rival {statistics.median(measured["loramill"]) / statistics.median(measured["rival"]):.3f}', flush=True)
            shutil.rmtree(folder)


main()
