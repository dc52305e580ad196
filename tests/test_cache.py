"Two processes want the same pair cache at once; one is killed while it writes; a disk that is full"
import os, signal, subprocess, sys, time
import numpy as np
from rsguided.cache import PairCache
from rsguided.data import PairStore

SLOW = """
import sys, time, rsguided.cache as c
from rsguided.data import PairStore
load, n = c.load_kinds, [0]
def slow(*a):
    n[0] += 1
    time.sleep(float(sys.argv[3]))
    return load(*a)
c.load_kinds = slow
print('ready', flush=True)
cache = c.PairCache(PairStore(sys.argv[1])['train'], 32, folder=sys.argv[2], workers=int(sys.argv[4]))
print(n[0], int(cache[:][0].astype(int).sum()), type(cache.arrays[0]).__name__)
"""

def start(*args, **kw):
    return subprocess.Popen([sys.executable, '-W', 'ignore', '-c', SLOW, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kw)

def ended(p):
    out, err = p.communicate(timeout=100)
    assert p.returncode == 0, err
    return out.split()[1:], err

def test_two_at_once(pairs, tmp_path):
    ps = [start(pairs, tmp_path, .2, 1) for _ in range(2)]
    (a,_),(b,_) = map(ended, ps)
    assert sorted([a[0], b[0]]) == ['0', '10']      # each pair decoded once, by one of them
    assert a[1:] == b[1:] and a[2] == 'memmap'

def test_killed_while_writing(pairs, tmp_path):
    "The second takes over, also while processes of the first one are at work"
    p = start(pairs, tmp_path, 5, 2)
    while not list(tmp_path.rglob('*.part/mask.npy')): time.sleep(.02)
    q = start(pairs, tmp_path, 0, 1)
    q.stdout.readline()
    time.sleep(.5)
    assert p.poll() is None and q.poll() is None    # waits
    os.kill(p.pid, signal.SIGKILL)
    p.communicate()
    out, err = q.communicate(timeout=100)
    assert q.returncode == 0, err
    assert out.split()[0] == '10' and out.split()[2] == 'memmap'
    assert not list(tmp_path.rglob('*.part'))

def test_full_disk(pairs, tmp_path):
    "No file may be larger than 8 KiB: what is written breaks off, and memory serves"
    import resource
    p = start(pairs, tmp_path, 0, 1, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)))
    out, err = ended(p)
    assert out[2] == 'ndarray'
    whole = PairCache(PairStore(pairs)['train'], 32, folder=tmp_path/'other')
    assert int(out[1]) == int(whole[:][0].astype(int).sum())
    assert [d for d in (tmp_path/'pairs').iterdir() if d.is_dir()] == []

def test_killed_cache_is_not_used(pairs, tmp_path):
    "Files without their end, of a machine that lost power, are written anew"
    tr = PairStore(pairs)['train']
    first = PairCache(tr, 32, folder=tmp_path)
    want = [np.array(a) for a in first[:]]
    for k in first.spec:
        for n in (0, 20, 500):
            os.truncate(first.path/f'{k}.npy', n)
            for a,b in zip(PairCache(tr, 32, folder=tmp_path)[:], want): assert np.array_equal(a, b)
