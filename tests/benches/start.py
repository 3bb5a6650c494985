"""How long Stable Diffusion 1.5 takes from the command to its first prediction.

    cargo build --release
    [RIVAL=FILE] python3 tests/benches/start.py [--rounds 5] [--dtype F16|F32]

A model file of SD 1.5's shapes, 2.1 GB of fp16 with values of chance, is in the page cache; `loramill do sample` draws one step at 64 pixels on
`cpu`, by turns with another build where `RIVAL` names one. Prints medians, spreads and the peak of memory. `LORAMILL=FILE` names the build.
"""
import argparse, json, os, random, statistics, struct, subprocess, sys, tempfile, time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILDS = {'loramill': os.environ.get('LORAMILL', f'{ROOT}/target/release/loramill')}
if os.environ.get('RIVAL'): BUILDS['rival'] = os.environ['RIVAL']
BYTES = {'F16': 2, 'F32': 4}


def model(path, dtype):
    """Values of about 0.01, so that no picture overflows."""
    header, offset = {}, 0
    with open(f'{ROOT}/tests/formats/keys/sd15.txt') as keys:
        for words in map(str.split, keys):
            if len(words) != 4: continue
            shape = [int(side) for side in words[2].strip('[]').split(',')]
            count = BYTES[dtype]
            for side in shape: count *= side
            header[words[0]] = {'dtype': dtype, 'shape': shape, 'data_offsets': [offset, offset + count]}
            offset += count
    text = json.dumps(header).encode()
    text += b' ' * (-len(text) % 8)
    chance = random.Random(7)
    form = {'F16': 'e', 'F32': 'f'}[dtype]
    block = struct.pack(f'<{1 << 18}{form}', *(chance.uniform(-0.02, 0.02) for _ in range(1 << 18)))
    with open(path, 'wb') as file:
        file.write(struct.pack('<Q', len(text)) + text)
        while offset: offset -= file.write(block[:offset])


def timed(build, folder, seed):
    command = [BUILDS[build], 'do', 'sample', f'base={folder}/base.safetensors', 'prompts=a', 'steps=1', 'size=64', f'seeds={seed}', '--device', 'cpu',
               '--cache', f'{folder}/cache-{build}', '--output', f'{folder}/{build}-{seed}', '--progress', 'plain']
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    told = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    if status: sys.exit(f'{build} ended with {status}:\n{told[-2000:]}')
    return time.perf_counter() - began, used.ru_maxrss / 1e6


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument('--rounds', type=int, default=5)
    arguments.add_argument('--dtype', choices=list(BYTES), default='F16')
    given = arguments.parse_args()
    os.makedirs(f'{ROOT}/target', exist_ok=True)
    with tempfile.TemporaryDirectory(dir=f'{ROOT}/target') as folder:
        model(f'{folder}/base.safetensors', given.dtype)
        measured = {build: [] for build in BUILDS}
        # The first turn fills the page cache and the index of files.
        for turn in range(given.rounds + 1):
            for build in list(BUILDS)[::1 if turn % 2 else -1]:
                one = timed(build, folder, turn)
                if turn: measured[build].append(one)
        for build, runs in measured.items():
            seconds = [run[0] for run in runs]
            print(f'{build}: {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f}), at most {max(run[1] for run in runs):.2f} GB')
        if len(measured) == 2:
            ratios = [one[0] / other[0] for one, other in zip(measured['loramill'], measured['rival'])]
            print(f'loramill / rival by pairs: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})')


main()
