"""The example beside the same training with peft on PyTorch: time, memory, seconds a step, and what a second run costs.

    cargo build --release
    [LORAMILL=target/release/loramill] [DEVICE=cpu] python3 tests/benches/example_vs_peft.py [PAIRS=1]

Needs torch 2.9.1, diffusers 0.42.1, transformers 5.23.0, peft 0.21, Pillow and safetensors. Both programs get two threads and run by turns on the
same machine, so that a ratio means something where a time alone does not. examples/tiny/reference/star_test.py draws pictures as it goes; so does the
example, and it cuts, scales, merges, extracts and converts as well. The settings are read from the example's own file.
"""
import glob, json, os, re, resource, shutil, statistics, subprocess, sys, tempfile, time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LORAMILL = os.environ.get('LORAMILL', f'{ROOT}/target/release/loramill')
DEVICE = os.environ.get('DEVICE', 'cpu')
EXAMPLE = f'{ROOT}/examples/tiny'


def timed(command, folder, watch=lambda line, seconds: None):
    """Seconds and peak megabytes of a command, whose lines `watch` sees as they come."""
    began = time.time()
    environment = dict(os.environ, RAYON_NUM_THREADS='2', OMP_NUM_THREADS='2')
    child = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    for line in child.stdout: watch(line, time.time() - began)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode: sys.exit(f'{command} ended with {child.returncode}')
    return time.time() - began, usage.ru_maxrss / 1024


def settings():
    text = open(f'{EXAMPLE}/pipeline.yaml').read()
    number = lambda pattern: re.search(pattern, text).group(1)
    return [number(p) for p in (r'epochs: (\S+)', r'rank: (\d+)', r'unet: ([^,\s]+)', r'batch_size: (\d+)', r'seed: (\d+)')]


def example(parent):
    """The example from an empty cache, then once more, then after one edited caption."""
    folder = tempfile.mkdtemp(dir=parent)
    for name in ('images', 'models'): shutil.copytree(f'{EXAMPLE}/{name}', f'{folder}/{name}')
    shutil.copy(f'{EXAMPLE}/pipeline.yaml', folder)
    run = [LORAMILL, 'run', '--device', DEVICE, '--progress', 'json', '--cache', f'{folder}/cache', folder]
    told, states = [], {}

    def watch(line, seconds):
        event = json.loads(line)
        if event['event'] == 'progress' and event['stage'] == 'train': told.append((seconds, event['values']['step']))
        if event['event'] == 'stage_finished': states[event['stage']] = event['state']

    seconds, memory = timed(run, folder, watch)
    assert set(states.values()) == {'ran'}, states
    # The time between two words of the progress, where nothing was drawn in between.
    step = statistics.median((b - a) / (n - m) for (a, m), (b, n) in zip(told, told[1:]) if n > m)
    again = min(timed(run, folder)[0] for _ in range(3))
    states.clear()
    timed(run, folder, watch)
    assert set(states.values()) == {'cached'}, states
    caption = sorted(glob.glob(f'{folder}/captions/*.txt'))[0]
    open(caption, 'a').write(', drawn by hand')
    states.clear()
    timed(run, folder, watch)
    assert {stage for stage, state in states.items() if state == 'cached'} == {'crop', 'resize', 'caption', 'flip', 'train/latents'}, states
    shutil.rmtree(folder)
    return {'seconds': seconds, 'MB': memory, 'seconds a step': step, 'seconds of a second run': again}


def reference(folder):
    found = {}

    def watch(line, seconds):
        step = re.match(r'step \d+, (\S+) s each: (\d+) of 16', line)
        if step: found['seconds a step'], found['stars'] = float(step[1]), int(step[2])

    found['seconds'], found['MB'] = timed([sys.executable, 'star_test.py', *settings()], folder, watch)
    return found


def main():
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    with tempfile.TemporaryDirectory(dir=f'{ROOT}/target') as parent:
        folder = f'{parent}/reference'
        shutil.copytree(f'{EXAMPLE}/reference', folder)
        shutil.copytree(f'{EXAMPLE}/images', f'{folder}/star')
        shutil.copy(f'{ROOT}/src/sd/prompt/bpe_simple_vocab_16e6.txt.gz', folder)
        subprocess.run([sys.executable, 'from_ldm.py', f'{EXAMPLE}/models/tiny-sd.safetensors', 'out'], cwd=folder, check=True, capture_output=True)
        ours, theirs = [], []
        for pair in range(pairs):
            ours.append(example(parent)); print('loramill', ours[-1], flush=True)
            theirs.append(reference(folder)); print('peft    ', theirs[-1], flush=True)
        median = lambda rows, name: statistics.median(row[name] for row in rows)
        for name in ('seconds', 'seconds a step', 'MB'):
            print(f'{name}: loramill {median(ours, name):.3f}, peft {median(theirs, name):.3f}, ratio {median(ours, name) / median(theirs, name):.2f}')
        print(f"a second run does nothing in {median(ours, 'seconds of a second run'):.3f} s")


main()
