"""What the structure of the source is like, in figures: long functions, public items without docs, circles of files and of rooms.

    python3 tests/structure.py [--list]

Reads `src` as text, without unit tests. A circle is a group of files that all reach each other by imports, or by methods that are written in
another file than their type. `--list` names what is counted.
"""
import collections, os, re, sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LIST = '--list' in sys.argv
LONG = 60


def sources():
    for folder, _, names in os.walk(f'{ROOT}/src'):
        for name in sorted(names):
            path = os.path.relpath(os.path.join(folder, name), f'{ROOT}/src')
            if name.endswith('.rs') and name != 'tests.rs' and '/tests/' not in path:
                with open(os.path.join(folder, name)) as f: yield path, f.read().split('\n#[cfg(test)]')[0]


def without_literals(text):
    text = re.sub(r'//[^\n]*', '', text)
    text = re.sub(r'"(?:\\.|[^"\\])*"', '""', text, flags=re.S)
    return re.sub(r"'(?:\\.|[^'\\])'", "' '", text)


def long_functions(path, text):
    plain = without_literals(text)
    for found in re.finditer(r'\bfn (\w+)', plain):
        at = found.end()
        depth = 0
        while at < len(plain) and not (plain[at] in '{;' and depth == 0):
            depth += {'(': 1, ')': -1, '[': 1, ']': -1}.get(plain[at], 0)
            at += 1
        if at >= len(plain) or plain[at] == ';': continue
        start, depth = at, 0
        while at < len(plain):
            depth += {'{': 1, '}': -1}.get(plain[at], 0)
            at += 1
            if depth == 0: break
        lines = plain.count('\n', found.start(), at) + 1
        if lines > LONG: yield f'{path}: {found.group(1)}, {lines} lines'


def undocumented(path, text):
    lines = text.split('\n')
    for number, line in enumerate(lines):
        found = re.match(r'\s*pub(?:\(crate\))? (?:const |async )*(fn|struct|enum|trait|type|const|static) (\w+)', line)
        if not found or found.group(2) == '_': continue
        above = number - 1
        # What stands above a struct of arguments the program would print as its help.
        if lines[above].startswith('#[derive(Args'): continue
        while above >= 0 and lines[above].strip().startswith('#['): above -= 1
        if above < 0 or not lines[above].strip().startswith('///'): yield f'{path}:{number + 1}: {found.group(1)} {found.group(2)}'


def module(path):
    """`engine/run/items.rs` as its module path."""
    parts = path[:-3].split('/')
    return tuple(parts[:-1] if parts[-1] in ('mod', 'lib') else parts)


def circles(edges):
    """Groups of nodes that all reach each other (Tarjan)."""
    index, low, stack, on, out, count = {}, {}, [], set(), [], [0]
    sys.setrecursionlimit(10000)

    def visit(node):
        index[node] = low[node] = count[0]
        count[0] += 1
        stack.append(node)
        on.add(node)
        for other in edges.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in on: low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = []
            while True:
                other = stack.pop()
                on.discard(other)
                group.append(other)
                if other == node: break
            if len(group) > 1: out.append(sorted(group))

    for node in list(edges):
        if node not in index: visit(node)
    return sorted(out, key=len, reverse=True)


def room(path):
    parts = path.split('/')
    return '/'.join(parts[:2]).removesuffix('.rs') if parts[0] in ('engine', 'sd', 'computer', 'cli') and len(parts) > 2 else path


def main():
    texts = dict(sources())
    modules = {module(path): path for path in texts}
    defined = collections.defaultdict(list)
    for path, text in texts.items():
        for found in re.finditer(r'^\s*(?:pub(?:\([^)]*\))? )?(?:struct|enum|trait) (\w+)', text, re.M): defined[found.group(1)].append(path)
    files, rooms, strangers = collections.defaultdict(set), collections.defaultdict(set), []
    for path, text in texts.items():
        used = set()
        for found in re.finditer(r'crate::((?:\w+::)*)(\{[^}]*\}|\w+)', text):
            base = tuple(part for part in found.group(1).split('::') if part)
            # The engine is a crate of its own.
            if path.startswith('engine/'): base = ('engine', *base)
            for name in re.findall(r'\w+', found.group(2)):
                longest = base + (name,)
                while longest and longest not in modules: longest = longest[:-1]
                if longest: used.add(modules[longest])
        own = module(path)
        for found in re.finditer(r'^impl(?:<[^>{]*>)? (?:dyn )?(?:\w+::)*(\w+)[^\n{]*\{', text, re.M):
            if ' for ' in found.group(0): continue
            homes = defined.get(found.group(1), [])
            inside = lambda home: own[:len(module(home))] == module(home)
            if homes and not any(inside(home) for home in homes):
                strangers.append(f'{path}: methods of {found.group(1)}, which is in {homes[0]}')
                used.add(homes[0])
                files[homes[0]].add(path)
        for other in used - {path}:
            # A file and the folder of its child modules are one.
            if module(other) == own[:len(module(other))] or own == module(other)[:len(own)]: continue
            files[path].add(other)
            if room(path) != room(other): rooms[room(path)].add(room(other))
    counted = {
        f'functions over {LONG} lines': [line for path, text in texts.items() for line in long_functions(path, text)],
        'public items without docs': [line for path, text in texts.items() for line in undocumented(path, text)],
        'methods outside the file of their type': strangers,
        'circles of files': [', '.join(group) for group in circles(files)],
        'circles of rooms': [', '.join(group) for group in circles(rooms)],
    }
    print(f'{len(texts)} files, {sum(text.count(chr(10)) for text in texts.values())} lines without unit tests')
    for what, found in counted.items():
        print(f'{what}: {len(found)}')
        if LIST: print('\n'.join(f'    {line}' for line in found))
    largest = max((len(group) for group in circles(files)), default=0)
    print(f'largest circle of files: {largest}')


main()
