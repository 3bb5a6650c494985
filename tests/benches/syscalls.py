"""Kills a small run, or lets its disk fail, at every system call that changes something on the disk, and runs again.

    cargo build --release
    python3 tests/benches/syscalls.py kill|EIO|ENOSPC [--from 1] [--to 0] [--scenario first|changed]

Two scenarios over tiny pictures through crop, resize, caption and flip, with a caption that a person wrote. `first`: nothing has run. `changed`: all
has run, then a photo is new, one has another name, one is gone, a caption is edited, and two stages have other params. Both are run undisturbed,
then again and again from the same start, and the N-th call that changes something is met by SIGKILL, or answered with EIO (once), or with ENOSPC
(and so is each later one that takes room), for every N until a run ends undisturbed. After each:

- the texts of a person are as they were;
- every other file of the user's is whole, as before the run or as after an undisturbed one, and, unless it was killed, nothing unfinished lies
  beside it;
- a run that was not killed says what failed, where and what to do, or its results are right;
- the next run ends well, `fsck --full` finds nothing, and every file is as after an undisturbed run.

Linux on x86-64; no privileges. The calls are met through ptrace, with a seccomp filter that stops at nothing else.
"""
import argparse, ctypes, errno, hashlib, os, shutil, signal, stat, struct, subprocess, sys, tempfile, time, zlib

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LORAMILL = f'{ROOT}/target/release/loramill'

# Numbers of x86-64, linux/arch/x86/entry/syscalls/syscall_64.tbl.
WRITES = {1: 'write', 18: 'pwrite64', 20: 'writev', 296: 'pwritev', 328: 'pwritev2', 40: 'sendfile', 326: 'copy_file_range', 285: 'fallocate', 77: 'ftruncate', 76: 'truncate'}
NAMES = {82: 'rename', 264: 'renameat', 316: 'renameat2', 83: 'mkdir', 258: 'mkdirat', 86: 'link', 265: 'linkat', 88: 'symlink', 266: 'symlinkat'}
REMOVES = {84: 'rmdir', 87: 'unlink', 263: 'unlinkat'}
SYNCS = {74: 'fsync', 75: 'fdatasync', 306: 'syncfs', 277: 'sync_file_range'}
OTHERS = {2: 'open', 257: 'openat', 16: 'ioctl', 90: 'chmod', 91: 'fchmod', 268: 'fchmodat', 280: 'utimensat'}
CALLS = {**WRITES, **NAMES, **REMOVES, **SYNCS, **OTHERS}
FICLONE = 0x40049409

# linux/ptrace.h, linux/seccomp.h, linux/prctl.h.
PTRACE_TRACEME, PTRACE_CONT, PTRACE_GETREGS, PTRACE_SETREGS, PTRACE_SETOPTIONS = 0, 7, 12, 13, 0x4200
OPTIONS = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 7 | 1 << 20  # fork, vfork, clone, exec, seccomp; end with the tracer
EVENT_SECCOMP = 7
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
RET_TRACE, RET_ALLOW = 0x7ff00000, 0x7fff0000
WALL = 0x40000000

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long


class Registers(ctypes.Structure):
    """struct user_regs_struct."""
    _fields_ = [(name, ctypes.c_ulonglong) for name in 'r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs_base gs_base ds es fs gs'.split()]


def filter_program():
    """Berkeley packet filter: stop at the calls that may change something, let all others pass."""
    step = lambda code, true, false, value: struct.pack('HBBI', code, true, false, value)
    program = step(0x20, 0, 0, 0)  # the number of the call
    for number in CALLS: program += step(0x15, 0, 1, number) + step(0x06, 0, 0, RET_TRACE)
    return program + step(0x06, 0, 0, RET_ALLOW)


PROGRAM = filter_program()


class FilterProgram(ctypes.Structure):
    """struct sock_fprog."""
    _fields_ = [('length', ctypes.c_ushort), ('steps', ctypes.c_char_p)]


def be_traced():
    libc.ptrace(PTRACE_TRACEME, 0, None, None)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    program = FilterProgram(len(PROGRAM) // 8, PROGRAM)
    os.kill(os.getpid(), signal.SIGSTOP)
    libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)


def changes_the_disk(process, registers):
    number = registers.orig_rax
    if number in (2, 257):
        flags = registers.rsi if number == 2 else registers.rdx
        return bool(flags & (os.O_CREAT | os.O_TRUNC))
    if number == 16: return registers.rsi & 0xffffffff == FICLONE
    descriptor = {326: registers.rdx}.get(number, registers.rdi)
    if number in (1, 18, 20, 296, 328, 40, 326, 285, 77):
        if descriptor <= 2: return False  # what it says
        try: return stat.S_ISREG(os.stat(f'/proc/{process}/fd/{descriptor}').st_mode)
        except OSError: return False
    return True


def takes_room(registers):
    number = registers.orig_rax
    return number in WRITES and number not in (76, 77) or number in (2, 257, 83, 258, 86, 265, 88, 266)


class Ended:
    """How a disturbed run ended."""
    def __init__(self, code, said, met): self.code, self.said, self.met = code, said, met


def disturbed(command, folder, fault, at):
    """Runs the command; its `at`-th call that changes something meets the fault."""
    with tempfile.TemporaryFile('w+') as err:
        main = os.fork()
        if main == 0:
            try:
                os.chdir(folder)
                os.dup2(os.open(os.devnull, os.O_RDWR), 0)
                os.dup2(0, 1)
                os.dup2(err.fileno(), 2)
                be_traced()
                os.execv(command[0], command)
            finally: os._exit(127)
        os.waitpid(main, WALL)
        libc.ptrace(PTRACE_SETOPTIONS, main, None, OPTIONS)
        libc.ptrace(PTRACE_CONT, main, None, None)
        count, met, code = 0, None, None
        registers = Registers()
        while True:
            try: thread, status = os.waitpid(-1, WALL)
            except ChildProcessError: break
            if not os.WIFSTOPPED(status):
                if thread == main: code = os.waitstatus_to_exitcode(status)
                continue
            passed_on = 0
            if status >> 16 == EVENT_SECCOMP:
                libc.ptrace(PTRACE_GETREGS, thread, None, ctypes.addressof(registers))
                if changes_the_disk(main, registers):
                    count += 1
                    if count == at: met = CALLS[registers.orig_rax]
                    if count == at and fault == 'kill': os.kill(main, signal.SIGKILL)
                    elif count == at and fault == 'EIO' or count >= at and fault == 'ENOSPC' and (count == at or takes_room(registers)):
                        # The call is left out and answered.
                        registers.orig_rax = 2**64 - 1
                        registers.rax = 2**64 - getattr(errno, fault)
                        libc.ptrace(PTRACE_SETREGS, thread, None, ctypes.addressof(registers))
            elif status >> 16 == 0 and os.WSTOPSIG(status) not in (signal.SIGTRAP, signal.SIGSTOP): passed_on = os.WSTOPSIG(status)
            libc.ptrace(PTRACE_CONT, thread, None, passed_on)
        err.seek(0)
        return Ended(code, err.read(), met)


def picture(number):
    """A PNG of 8 by 6 pixels that no other number has, larger than a git-lfs pointer."""
    rows = b''.join(b'\0' + bytes((number * 40 + row, 64, 128)) * 8 for row in range(6))
    chunk = lambda kind, data: struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', 8, 6, 8, 2, 0, 0, 0)) + chunk(b'tEXt', b'Comment\0' + b' ' * 1024) + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')


def write(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'wb') as f: f.write(data if isinstance(data, bytes) else data.encode())


def pipeline(size, template):
    return f'concept: star\ninputs: {{ photos: images/ }}\nstages:\n  crop: {{ images: photos }}\n  resize: {{ images: crop, size: {size} }}\n  caption: {{ images: resize, model: template, template: "{template}" }}\n  flip: {{ images: caption }}\n'


MINE = 'a star that I drew\n'
COMMAND = [LORAMILL, 'run', '--jobs', '1', '--progress', 'plain', '--cache', 'cache', '.']


def first(folder):
    """A start where nothing has run; the names of texts that a person wrote."""
    for number in (1, 2): write(f'{folder}/images/IMG_{number}.png', picture(number))
    write(f'{folder}/pipeline.yaml', pipeline(16, 'photo of {name}'))
    write(f'{folder}/captions/IMG_2.txt', MINE)
    return ['captions/IMG_2.txt']


def changed(folder):
    """A start where all has run, and then much was changed."""
    for number in (1, 2, 3, 4): write(f'{folder}/images/IMG_{number}.png', picture(number))
    write(f'{folder}/pipeline.yaml', pipeline(16, 'photo of {name}'))
    subprocess.run(COMMAND, cwd=folder, check=True, capture_output=True)
    write(f'{folder}/pipeline.yaml', pipeline(24, 'picture of {name}'))
    write(f'{folder}/captions/IMG_2.txt', MINE)
    write(f'{folder}/images/IMG_5.png', picture(5))
    os.rename(f'{folder}/images/IMG_3.png', f'{folder}/images/other.png')
    os.remove(f'{folder}/images/IMG_4.png')
    return ['captions/IMG_2.txt']


def files(folder):
    """What a person sees: the digest of each file."""
    found = {}
    for part in ('pipeline.lock', 'captions', 'out', 'images', 'pipeline.yaml'):
        path = f'{folder}/{part}'
        names = [path] if os.path.isfile(path) else [f'{at}/{name}' for at, _, names in os.walk(path) for name in names]
        for name in names:
            with open(name, 'rb') as f: found[os.path.relpath(name, folder)] = hashlib.sha256(f.read()).hexdigest()
    return found


def is_unfinished(name): return any(part.startswith('.loramill') for part in name.split('/'))


def unfinished(folder):
    left = [os.path.relpath(f'{at}/{name}', folder) for at, folders, names in os.walk(folder) for name in folders + names if name.startswith('.loramill')]
    # Folders are made before what lies in them.
    return left + [f'cache/tmp/{name}' for name in os.listdir(f'{folder}/cache/tmp')] if os.path.isdir(f'{folder}/cache/tmp') else left


def is_clear(said, fault):
    """Whether an error names a place, its cause and a remedy."""
    cause, remedy = {'EIO': ('Input/output error', 'the disk reports a defect'), 'ENOSPC': ('No space left on device', 'free space there')}[fault]
    return any('`' in line and cause in line and remedy in line for line in said.splitlines())


def differences(found, expected): return [name for name in sorted({*found, *expected}) if found.get(name) != expected.get(name)]


def check(folder, ended, fault, before, after, mine):
    """Everything that is wrong with what a disturbed run left, and with what the next one makes of it."""
    wrong = []
    found = files(folder)
    for name in mine:
        if found.get(name) != before[name]: wrong.append(f'a person lost `{name}`')
    # A text may have followed its photo to another name, and not yet be written anew.
    whole = {*before.values(), *after.values()}
    for name, digest in found.items():
        if not is_unfinished(name) and digest not in whole and name != 'pipeline.lock': wrong.append(f'`{name}` is half-written')
    if fault == 'kill':
        if ended.met and ended.code != -signal.SIGKILL: wrong.append(f'it ended with {ended.code} though it was killed')
    elif ended.met:
        left = unfinished(folder)
        if left: wrong.append(f'unfinished: {left}')
        if ended.code == 0:
            if differences(found, after): wrong.append(f'it ended well, and these are not right: {differences(found, after)}')
        elif ended.code != 1: wrong.append(f'it ended with {ended.code}:\n{ended.said}')
        elif not is_clear(ended.said, fault): wrong.append(f'the error is not clear:\n{ended.said}')
    again = subprocess.run(COMMAND, cwd=folder, capture_output=True, text=True)
    if again.returncode: wrong.append(f'the next run failed:\n{again.stderr}')
    if differences(files(folder), after): wrong.append(f'after the next run these are not right: {differences(files(folder), after)}')
    if unfinished(folder): wrong.append(f'unfinished after the next run: {unfinished(folder)}')
    checkup = subprocess.run([LORAMILL, 'fsck', '--full', '--cache', 'cache', '.'], cwd=folder, capture_output=True, text=True)
    if checkup.returncode: wrong.append(f'fsck: {checkup.stdout}{checkup.stderr}')
    return wrong


def try_all(scenario, fault, given, parent):
    start, folder = f'{parent}/start', f'{parent}/run'
    for left in (start, folder): shutil.rmtree(left, ignore_errors=True)
    mine = scenario(start)
    before = files(start)

    def fresh():
        shutil.rmtree(folder, ignore_errors=True)
        # Times as they were, so that files are known by them.
        shutil.copytree(start, folder)

    fresh()
    subprocess.run(COMMAND, cwd=folder, check=True, capture_output=True)
    after = files(folder)
    at, failures, went_on, met = getattr(given, 'from'), 0, 0, {}
    while True:
        fresh()
        ended = disturbed(COMMAND, folder, fault, at)
        if ended.met is None: break
        met[ended.met] = met.get(ended.met, 0) + 1
        went_on += ended.code == 0
        wrong = check(folder, ended, fault, before, after, mine)
        if wrong:
            failures += 1
            print(f'{scenario.__name__}, {fault} at call {at} ({ended.met}): ' + '\n  '.join(wrong), flush=True)
        if at == given.to: break
        at += 1
    total = sum(met.values())
    by_call = ', '.join(f'{name} {count}' for name, count in sorted(met.items(), key=lambda each: -each[1]))
    how = '' if fault == 'kill' else f'; {went_on} runs could go on'
    print(f'{scenario.__name__}, {fault}: {total} runs disturbed ({by_call}){how}; {failures} left something wrong', flush=True)
    return failures


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument('fault', choices=('kill', 'EIO', 'ENOSPC'))
    arguments.add_argument('--from', type=int, default=1)
    arguments.add_argument('--to', type=int, default=0)
    arguments.add_argument('--scenario', choices=('first', 'changed'))
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=f'{ROOT}/target') as parent:
        scenarios = [scenario for scenario in (first, changed) if given.scenario in (None, scenario.__name__)]
        failures = sum(try_all(scenario, given.fault, given, parent) for scenario in scenarios)
    sys.exit(1 if failures else 0)


main()
