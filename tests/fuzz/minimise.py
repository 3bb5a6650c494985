"""Picks inputs that together reach the most places: `minimise.py CONTROL FOLDER MOST`, for `tests/fuzz/run minimise`.

CONTROL is the file in which libFuzzer's merge notes what each input reaches. Those that add most come first, at most MOST, and are copied to FOLDER
under the digest of their contents.
"""
import hashlib, heapq, os, shutil, sys

control, folder, most = sys.argv[1], sys.argv[2], int(sys.argv[3])
with open(control) as f: lines = f.read().splitlines()
count = int(lines[0])
inputs = lines[2:2 + count]
reached = {}
for line in lines[2 + count:]:
    kind, number, *places = line.split()
    if kind == 'FT': reached[int(number)] = set(places)
left = set().union(*reached.values())
total = len(left)
# What an input adds only shrinks as others are taken: one whose last known gain is still its gain is the best.
waiting = [(-len(places), os.path.getsize(inputs[number]), number) for number, places in reached.items()]
heapq.heapify(waiting)
shutil.rmtree(folder, ignore_errors=True)
os.makedirs(folder)
taken = 0
while waiting and taken < most:
    known, size, number = heapq.heappop(waiting)
    gain = len(reached[number] & left)
    if gain == 0: continue
    if gain < -known:
        heapq.heappush(waiting, (-gain, size, number))
        continue
    left -= reached[number]
    taken += 1
    with open(inputs[number], 'rb') as f: data = f.read()
    with open(f'{folder}/{hashlib.sha1(data).hexdigest()}', 'wb') as f: f.write(data)
print(f'{taken} of {count} inputs, {total - len(left)} of {total} places, in {folder}')
