"""What a build costs: from nothing, and after a change in the engine.

    python3 tests/benches/build.py cold      # `cargo build --release` into an empty folder: wall and processor time, the longest units, the size
    python3 tests/benches/build.py engine    # a changed line in `src/engine`, then `cargo test -p loramill-engine`

Crates are fetched before the clock starts. Nothing else should run meanwhile.
"""
import json, os, re, resource, statistics, subprocess, sys, tempfile, time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def timed(command, **more):
    """Wall and processor seconds of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)
    wall = time.monotonic() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode: sys.exit(f'{" ".join(command)} failed:\n{done.stdout[-2000:]}')
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def units(target):
    """Seconds by unit, as `cargo build --timings` has them."""
    with open(f'{target}/cargo-timings/cargo-timing.html') as page: text = page.read()
    data = json.loads(re.search(r'UNIT_DATA = (\[.*?\]);\n', text, re.S).group(1))
    return sorted(((unit['duration'], unit['name'], unit.get('target', '').strip()) for unit in data), reverse=True)


def processor():
    with open('/proc/cpuinfo') as info: return re.search(r'model name\s*: (.*)', info.read()).group(1)


def cold():
    subprocess.run(['cargo', 'fetch'], cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory(dir=os.environ.get('TMPDIR')) as target:
        environment = {**os.environ, 'CARGO_TARGET_DIR': target}
        wall, work, _ = timed(['cargo', 'build', '--release', '--timings'], env=environment)
        print(f'{processor()}, {os.cpu_count()} cores: {wall / 60:.1f} min of wall, {work / 60:.1f} min of processor time')
        for seconds, name, part in units(target)[:15]: print(f'{seconds:8.1f} s  {name} {part}')
        program = f'{target}/release/loramill'
        print(f'{os.path.getsize(program) / 1e6:.1f} MB: loramill')
        times = [timed([program, 'status', 'examples/tiny'])[0] for _ in range(21)]
        print(f'{statistics.median(times):.4f} s: `loramill status`, median of 21')


def engine():
    path = f'{ROOT}/src/engine/run/items.rs'
    timed(['cargo', 'test', '-p', 'loramill-engine', '--no-run'])
    with open(path) as file: text = file.read()
    try:
        # A changed body, so that everything behind it is built again.
        with open(path, 'w') as file: file.write(text.replace('if dirty.is_empty() {', 'if dirty.is_empty() || plan.works.is_empty() {', 1))
        build, work, _ = timed(['cargo', 'test', '-p', 'loramill-engine', '--no-run'])
        tests, _, told = timed(['cargo', 'test', '-p', 'loramill-engine'])
    finally:
        with open(path, 'w') as file: file.write(text)
    passed = sum(int(count) for count in re.findall(r'(\d+) passed', told))
    print(f'{processor()}, {os.cpu_count()} cores: built in {build:.1f} s ({work:.1f} s of processor time), {passed} tests in {tests:.1f} s')


if __name__ == '__main__':
    {'cold': cold, 'engine': engine}[sys.argv[1] if len(sys.argv) > 1 else 'cold']()
