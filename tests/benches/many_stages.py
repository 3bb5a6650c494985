"""What a first run of many trivial stages costs, beside dvc with as many.

    cargo build --release
    python3 tests/benches/many_stages.py [--stages 1000] [--shape chain] [--dvc dvc] [--rounds 3] [--patience 600]

Each stage scales one tiny picture to a size that no other stage has, so that no result serves twice; in a `chain` it reads the stage before, in a
`fan` all read the picture. dvc gets the same graph, and each of its stages is one shell that writes a line. A shell for every stage is what dvc is
made for and loramill's own kinds do without, so the time that as many shells take alone is printed too. loramill runs as often as `--rounds` says,
each time from an empty cache; dvc runs once, and for no longer than `--patience` seconds: its time grows with the square of the stages. What is printed
then is how far it came.
"""
import argparse, json, os, shutil, signal, statistics, struct, subprocess, sys, tempfile, threading, time, zlib

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LORAMILL = os.environ.get('LORAMILL', f'{ROOT}/target/release/loramill')


def picture():
    """A PNG of 8 by 6 pixels."""
    rows = b''.join(b'\0' + b'\x40\x80\xc0' * 8 for _ in range(6))
    chunk = lambda kind, data: struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', 8, 6, 8, 2, 0, 0, 0)) + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')


def timed(command, folder, patience=None):
    """Seconds, peak megabytes and output of a command that must succeed; no output if it was ended after `patience` seconds."""
    began = time.perf_counter()
    with tempfile.TemporaryFile('w+') as out:
        child = subprocess.Popen(command, cwd=folder, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        end = threading.Timer(patience or threading.TIMEOUT_MAX, lambda: os.killpg(child.pid, signal.SIGKILL))
        end.daemon = True
        end.start()
        _, status, usage = os.wait4(child.pid, 0)
        end.cancel()
        if patience and time.perf_counter() - began >= patience: return time.perf_counter() - began, usage.ru_maxrss / 1024, None
        child.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - began
        out.seek(0)
        text = out.read()
    if child.returncode: sys.exit(f'{command} ended with {child.returncode}:\n{text[-2000:]}')
    return seconds, usage.ru_maxrss / 1024, text


def size(stage):
    return f'[{8 + stage % 40}, {8 + stage // 40}]'


def loramill_folder(folder, stages, shape):
    os.makedirs(f'{folder}/images')
    with open(f'{folder}/images/IMG_1.png', 'wb') as f: f.write(picture())
    with open(f'{folder}/pipeline.yaml', 'w') as f:
        f.write('concept: many\ninputs: { photos: images/ }\nstages:\n')
        for stage in range(stages):
            source = f's{stage - 1}' if stage and shape == 'chain' else 'photos'
            f.write(f'  s{stage}: {{ kind: resize, images: {source}, size: {size(stage)} }}\n')
    return [LORAMILL, 'run', '--progress', 'json', '--cache', 'cache', '.']


def shell(stage):
    return f'echo {stage} > s{stage}'


def dvc_folder(folder, stages, shape, dvc):
    os.makedirs(folder)
    with open(f'{folder}/photo', 'w') as f: f.write('photo')
    source = lambda stage: f's{stage - 1}' if stage and shape == 'chain' else 'photo'
    with open(f'{folder}/dvc.yaml', 'w') as f:
        json.dump({'stages': {f's{stage}': {'cmd': shell(stage), 'deps': [source(stage)], 'outs': [f's{stage}']} for stage in range(stages)}}, f)
    for command in (['git', 'init', '-q'], [dvc, 'init', '-q'], [dvc, 'config', 'core.analytics', 'false']):
        subprocess.run(command, cwd=folder, check=True)
    return [dvc, 'repro', '-q']


def main():
    arguments = argparse.ArgumentParser()
    for name, default in (('stages', 1000), ('shape', 'chain'), ('dvc', ''), ('rounds', 3), ('patience', 600)): arguments.add_argument(f'--{name}', type=type(default), default=default)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=f'{ROOT}/target') as parent:
        folder = f'{parent}/loramill'
        command = loramill_folder(folder, given.stages, given.shape)
        first, again = [], []
        for _ in range(given.rounds):
            for left in ('cache', 'out'): shutil.rmtree(f'{folder}/{left}', ignore_errors=True)
            if os.path.exists(f'{folder}/pipeline.lock'): os.remove(f'{folder}/pipeline.lock')
            seconds, memory, text = timed(command, folder)
            ended = [event for event in map(json.loads, text.splitlines()) if event['event'] == 'stage_finished']
            assert len(ended) == given.stages and all(event['items']['ran'] == 1 for event in ended), text[-2000:]
            first.append((seconds, memory))
            again.append(timed(command, folder)[0])
        ours = statistics.median(seconds for seconds, _ in first)
        print(f'loramill: first run of {given.stages} stages in a {given.shape} {ours:.2f} s ({min(first)[0]:.2f} to {max(first)[0]:.2f}), peak {max(m for _, m in first):.0f} MB; with nothing to do {statistics.median(again):.3f} s', flush=True)
        if not given.dvc: return
        began = time.perf_counter()
        for stage in range(given.stages): subprocess.run(['/bin/sh', '-c', shell(stage)], cwd=parent, check=True)
        print(f'{given.stages} shells alone: {time.perf_counter() - began:.2f} s', flush=True)
        folder = f'{parent}/dvc'
        seconds, memory, text = timed(dvc_folder(folder, given.stages, given.shape, given.dvc), folder, given.patience)
        if text is None:
            done = sum(os.path.exists(f'{folder}/s{stage}') for stage in range(given.stages))
            print(f'dvc: {done} of {given.stages} stages after {seconds:.0f} s, then ended')
            print(f'loramill / dvc: less than {ours / seconds:.4f}, 1 / {seconds / ours:.0f}')
            return
        assert os.path.exists(f'{folder}/s{given.stages - 1}')
        print(f'dvc: first run of {given.stages} stages in a {given.shape} {seconds:.1f} s, peak {memory:.0f} MB')
        print(f'loramill / dvc: {ours / seconds:.4f}, 1 / {seconds / ours:.0f}')


main()
