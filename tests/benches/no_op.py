"""What a run costs that has nothing, or nearly nothing, to do: beside ninja with the same edges and dvc with the same stages.

    cargo build --release
    python3 tests/benches/no_op.py [--photos 10000] [--ninja ninja] [--dvc dvc] [--rounds 7]

Makes small pictures that all differ and passes them through crop, resize and flip. Then, by turns: `loramill run`, `ninja` with three edges a
picture, and `dvc repro` with three stages over folders. The first `loramill run` that finds nothing to do looks at everything and leaves word for
those that follow; it is printed beside them. At last one photo is changed, again and again: exactly one item of each stage may run. Prints
medians and spreads; a peak is the most memory that the process had resident. Nothing but Python is needed for loramill's own figures.
`LORAMILL=FILE` measures another build of it.
"""
import argparse, json, os, shutil, statistics, struct, subprocess, sys, tempfile, time, zlib

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LORAMILL = os.environ.get('LORAMILL', f'{ROOT}/target/release/loramill')
STAGES = ('crop', 'resize', 'flip')


def picture(number):
    """A PNG of 8 by 6 pixels that no other number has, as large as the smallest of photos: files below 1 KiB are looked into for git-lfs pointers."""
    rows = b''.join(b'\0' + bytes((number >> shift) & 255 for shift in (0, 8, 16)) * 8 for _ in range(6))
    chunk = lambda kind, data: struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', 8, 6, 8, 2, 0, 0, 0)) + chunk(b'tEXt', b'Comment\0' + b' ' * 1024) + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')


def timed(command, folder):
    """Seconds, peak megabytes and output of a command that must succeed."""
    began = time.perf_counter()
    with tempfile.TemporaryFile('w+') as out:
        child = subprocess.Popen(command, cwd=folder, stdout=out, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - began
        out.seek(0)
        text = out.read()
    if child.returncode: sys.exit(f'{command} ended with {child.returncode}:\n{text[-2000:]}')
    return seconds, usage.ru_maxrss / 1024, text


def loramill_folder(folder, photos):
    os.makedirs(f'{folder}/images')
    for number in range(photos):
        with open(f'{folder}/images/{number:06}.png', 'wb') as f: f.write(picture(number))
    with open(f'{folder}/pipeline.yaml', 'w') as f:
        f.write('concept: noop\ninputs: { photos: images/ }\nstages:\n  crop: { images: photos }\n  resize: { images: crop, size: 16 }\n  flip: { images: resize }\n')
    return [LORAMILL, 'run', '--progress', 'json', '--cache', 'cache', '.']


def ninja_folder(folder, photos, ninja):
    os.makedirs(f'{folder}/images')
    with open(f'{folder}/build.ninja', 'w') as f:
        f.write('rule copy\n  command = cp $in $out\n')
        for number in range(photos):
            name = f'{number:06}'
            with open(f'{folder}/images/{name}', 'w') as g: g.write(name)
            source = f'images/{name}'
            for stage in STAGES:
                f.write(f'build {stage}/{name}: copy {source}\n')
                source = f'{stage}/{name}'
    return [ninja]


def dvc_folder(folder, photos, dvc):
    os.makedirs(f'{folder}/images')
    for number in range(photos):
        with open(f'{folder}/images/{number:06}', 'w') as f: f.write(f'{number:06}')
    source, stages = 'images', {}
    for stage in STAGES:
        stages[stage] = {'cmd': f'rm -rf {stage} && cp -r {source} {stage}', 'deps': [source], 'outs': [stage]}
        source = stage
    with open(f'{folder}/dvc.yaml', 'w') as f: json.dump({'stages': stages}, f)
    for command in (['git', 'init', '-q'], [dvc, 'init', '-q'], [dvc, 'config', 'core.analytics', 'false']):
        subprocess.run(command, cwd=folder, check=True)
    return [dvc, 'repro', '-q']


def states(text):
    events = [json.loads(line) for line in text.splitlines() if line.startswith('{')]
    return {event['stage']: event['items'] for event in events if event['event'] == 'stage_finished'}


def main():
    arguments = argparse.ArgumentParser()
    for name, default in (('photos', 10000), ('ninja', ''), ('dvc', ''), ('rounds', 7)): arguments.add_argument(f'--{name}', type=type(default), default=default)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=f'{ROOT}/target') as parent:
        rivals = {'loramill': (f'{parent}/loramill', loramill_folder(f'{parent}/loramill', given.photos))}
        if given.ninja: rivals['ninja'] = (f'{parent}/ninja', ninja_folder(f'{parent}/ninja', given.photos, given.ninja))
        if given.dvc: rivals['dvc'] = (f'{parent}/dvc', dvc_folder(f'{parent}/dvc', given.photos, given.dvc))
        for name, (folder, command) in rivals.items():
            seconds, memory, _ = timed(command, folder)
            print(f'{name}: first run over {given.photos} pictures {seconds:.1f} s, peak {memory:.0f} MB', flush=True)
        time.sleep(3)  # Timestamps that are too young are not trusted.
        seconds, memory, _ = timed(rivals['loramill'][1], rivals['loramill'][0])
        print(f'loramill: nothing to do, for the first time {seconds:.3f} s, peak {memory:.0f} MB', flush=True)
        measured = {name: [] for name in rivals}
        for turn in range(given.rounds + 1):
            for name, (folder, command) in rivals.items():
                seconds, memory, text = timed(command, folder)
                if name == 'loramill': assert all(items['ran'] == 0 for items in states(text).values()), text
                if turn: measured[name].append((seconds, memory))
        medians = {}
        for name, rows in measured.items():
            seconds = [row[0] for row in rows]
            medians[name] = statistics.median(seconds)
            print(f'{name}: nothing to do {medians[name]:.3f} s ({min(seconds):.3f} to {max(seconds):.3f}), peak {max(row[1] for row in rows):.0f} MB')
        for name in medians:
            if name != 'loramill': print(f'loramill / {name}: {medians["loramill"] / medians[name]:.3f}')
        folder, command = rivals['loramill']
        changed = []
        for number in range(given.photos, given.photos + min(given.rounds, given.photos)):
            for _ in range(2): timed(command, folder)
            with open(f'{folder}/images/{number - given.photos:06}.png', 'wb') as f: f.write(picture(number))
            seconds, memory, text = timed(command, folder)
            assert [items['ran'] for items in states(text).values()] == [1, 1, 1], text
            changed.append((seconds, memory))
        middle = statistics.median(seconds for seconds, _ in changed)
        print(f'one photo changed: {middle:.3f} s ({min(changed)[0]:.3f} to {max(changed)[0]:.3f}), {middle - medians["loramill"]:.3f} s over nothing to do, peak {max(memory for _, memory in changed):.0f} MB')


main()
