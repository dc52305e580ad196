"Training in real processes: killed at any point, interrupted, sharing the work, out of disk"
import itertools, json, os, random, resource, signal, socket, subprocess, sys, time
from pathlib import Path
import numpy as np, pytest, torch
from rsguided.cli import main
from test_killed import kill_when, start

here = Path(__file__).parent
tiny = ['--size', '16', '--batch-size', '2', '--device', 'cpu', '--seed', '3', '--ablate', '.1', '--null', '.1']

def weights(folder):
    from safetensors.numpy import load_file
    return load_file(folder/'unet'/'diffusion_pytorch_model.safetensors')

@pytest.mark.parametrize('accumulate,workers,precision', [(1, 0, 'bf16'), (3, 2, 'fp32')])
def test_killed_anywhere(pairs, tmp_path, accumulate, workers, precision):
    args = [*tiny, '--steps', '40', '--accumulate', str(accumulate), '--workers', str(workers), '--precision', precision, '--save-every', '4']
    assert main(['train', str(pairs), str(tmp_path/'whole'), *args]) == 0
    cut, rng = tmp_path/'cut', random.Random(accumulate)
    for k in range(1 + (accumulate == 1)):
        there = {*(cut/'resume').glob('[!.]*.pt')}
        p = start('train', pairs, cut, *args, '--resume')
        until = time.time() + 999
        def some_time_after_a_checkpoint():
            nonlocal until
            if {*(cut/'resume').glob('[!.]*.pt')} - there: until = min(until, time.time() + rng.uniform(0, .4))
            return time.time() > until
        kill_when(p, some_time_after_a_checkpoint)
    assert main(['train', str(pairs), str(cut), *args, '--resume']) == 0
    a,b = weights(tmp_path/'whole'), weights(cut)
    for k in a: assert np.array_equal(a[k], b[k]), k

def test_workers_change_nothing(pairs, tmp_path):
    for w in '02': assert main(['train', str(pairs), str(tmp_path/w), *tiny, '--steps', '6', '--workers', w, '--precision', 'fp32']) == 0
    a,b = weights(tmp_path/'0'), weights(tmp_path/'2')
    for k in a: assert np.array_equal(a[k], b[k]), k

@pytest.mark.parametrize('sig', [signal.SIGINT, signal.SIGTERM])
def test_interrupted(pairs, tmp_path, sig):
    args = ['train', pairs, tmp_path/'m', *tiny, '--steps', '100000', '--save-every', '5']
    p = start(*args)
    t = time.time()
    while not [*(tmp_path/'m'/'resume').glob('[!.]*.pt')]:
        assert p.poll() is None and time.time()-t < 120
        time.sleep(.05)
    p.send_signal(sig)
    out = p.communicate(timeout=60)[0]
    assert p.returncode == 130 and '--resume goes on from there' in out and 'Traceback' not in out, out
    saved = int(out.split('saved at step ')[1].split()[0])
    assert (tmp_path/'m'/'resume'/f'{saved:08d}.pt').exists()

def test_full_disk(pairs, tmp_path):
    "A limit on the size of files stands for the disk"
    code = ('import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20));'
            'from rsguided.cli import main; sys.exit(main())')
    args = ['train', str(pairs), str(tmp_path/'m'), *tiny, '--precision', 'fp32']
    assert main([*args, '--steps', '5']) == 0
    before = {f: f.read_bytes() for f in (tmp_path/'m').rglob('*') if f.is_file() and f.name != '.lock'}
    p = subprocess.run([sys.executable, '-c', code, *args, '--steps', '10', '--resume'], capture_output=True, text=True)
    assert p.returncode == 2 and 'cannot be written' in p.stderr and 'Traceback' not in p.stderr, p.stderr
    assert {f: f.read_bytes() for f in (tmp_path/'m').rglob('*') if f.is_file() and f.name != '.lock'} == before
    assert main([*args, '--steps', '10', '--resume']) == 0

def test_torn_checkpoint(pairs, tmp_path, capfd):
    args = ['train', str(pairs), str(tmp_path/'m'), *tiny, '--save-every', '3', '--precision', 'fp32']
    assert main([*args, '--steps', '6']) == 0
    newest = max((tmp_path/'m'/'resume').glob('[!.]*.pt'))
    newest.write_bytes(newest.read_bytes()[:-5000])
    assert main([*args, '--steps', '9', '--resume']) == 0
    said = capfd.readouterr()
    assert 'is torn' in said.err and 'goes on at step 3' in said.out

@pytest.mark.parametrize('bad', ['--preview-every 0', '--workers -1', '--lr -1', '--lr nan', '--min-snr -5', '--ema 1.5', '--warmup -3',
    '--save-every -1', '--keep 0', '--keep -1', '--seed -1', '--accumulate 0', '--epochs nan', '--kinds ,', '--settings int4'])
def test_refused(pairs, tmp_path, capfd, bad):
    (tmp_path/'int4').write_text('{"best": {"precision": "int4"}}')
    bad = bad.replace('int4', str(tmp_path/'int4')).split()
    assert main(['train', str(pairs), str(tmp_path/'m'), *tiny[:-4], *bad]) == 2
    said = capfd.readouterr()
    assert len(said.err.strip().splitlines()) == 1 and not said.out and not (tmp_path/'m').exists()

def test_left_alone(pairs, tmp_path):
    "--overwrite clears what training made, whole or begun, and nothing else"
    train = lambda out, *a: main(['train', str(pairs), str(out), *tiny, '--steps', '2', *a])
    (tmp_path/'file').touch()
    for logs in (tmp_path/'mine'/'logs', tmp_path/'run'/'pairs', tmp_path/'detector'/'best'):
        logs.mkdir(parents=True)
        (logs/'notes').touch()
    (tmp_path/'run'/'.lock').touch()
    (tmp_path/'detector'/'rsguided.json').write_text('{"kind": "instances"}')
    for out in ('file', 'file/model', 'mine', 'run', 'detector'):
        for how in ([], ['--resume'], ['--overwrite']): assert train(tmp_path/out, *how) == 2
    assert {f.name for f in tmp_path.rglob('*') if f.is_file()} == {'file', 'notes', '.lock', 'rsguided.json'}
    begun = tmp_path/'begun'
    (begun/'logs').mkdir(parents=True)
    (begun/'.lock').touch()                     # killed before it saved anything
    for how in ('--resume', '--overwrite'): assert train(begun, how) == 0
    assert train(begun) == 2

def test_data_changed(pairs, tmp_path, capfd):
    "The pairs may lie elsewhere when training goes on; other images, and other domains, are refused"
    import shutil
    moved = tmp_path/'moved'
    shutil.copytree(pairs, moved)
    rows = [json.loads(l) for l in (moved/'manifest.jsonl').read_text().splitlines()]
    write = lambda **kw: (moved/'manifest.jsonl').write_text(''.join(json.dumps({**r, **kw}) + '\n' for r in rows))
    train = lambda src, steps, *a: main(['train', str(src), str(tmp_path/'m'), *tiny, '--domain', '--steps', steps, '--resume'])
    write(domain='here')
    assert train(moved, '2') == 0
    shutil.move(moved, tmp_path/'there')
    assert train(tmp_path/'there', '3') == 0
    moved = tmp_path/'there'
    write(domain='elsewhere')
    assert train(moved, '4') == 2 and "with domains ['here'], not ['elsewhere']" in capfd.readouterr().err
    write(domain='here', source='other.tif')
    assert train(moved, '4') == 2 and 'other images or masks' in capfd.readouterr().err
    write(domain='here')
    assert train(moved, '4') == 0
    newest = max((tmp_path/'m'/'resume').glob('*.pt'))
    st = torch.load(newest, weights_only=True)
    for k in ('data', 'domains', 'betas'): del st['args'][k]        # as written by an older version
    torch.save(st, newest)
    assert train(moved, '5') == 0

def launched(n, pairs, out, *more):
    env = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=os.pathsep.join(sys.path))
    cmd = [sys.executable, '-m', 'torch.distributed.run', '--nproc-per-node', str(n), '--standalone', str(here/'ranks_script.py')] if n > 1 \
        else [sys.executable, str(here/'ranks_script.py')]
    p = subprocess.run([*cmd, str(pairs), str(out), *more], env=env, capture_output=True, text=True, timeout=300)
    assert p.returncode == 0, p.stderr[-3000:]
    return [torch.load(f'{out}.{r}.pt', weights_only=True) for r in range(n)]

def test_two_processes_are_one(pairs, tmp_path):
    (one,), two = launched(1, pairs, tmp_path/'one'), launched(2, pairs, tmp_path/'two')
    assert [d['world'] for d in two] == [2, 2] and one['world'] == 1
    for d in two:
        for a,b in zip(one['weights'], d['weights']): assert (a-b).abs().max() < 1e-8
    shares = [[d['seen'][i:i+2] for i in range(0, 40, 2)] for d in two]         # of every batch of 4, first and second half
    assert [s for a,b in zip(*shares) for s in a+b] == one['seen']
    assert all(sorted(one['seen'][i:i+10]) == list(range(10)) for i in range(0, 80, 10))     # no image twice in a pass

def test_memory_of_one_process_runs_out(pairs, tmp_path):
    (one,), two = launched(1, pairs, tmp_path/'one'), launched(2, pairs, tmp_path/'two', 'little')
    for d in two:
        for a,b in zip(one['weights'], d['weights']): assert (a-b).abs().max() < 1e-8

def test_train_as_mpi_starts_it(pairs, tmp_path):
    "What `mpirun`, and with it `accelerate launch --cpu --mpirun_hostfile`, tells two processes"
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = str(s.getsockname()[1])
    env = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=os.pathsep.join(sys.path), MASTER_ADDR='127.0.0.1', MASTER_PORT=port, OMPI_COMM_WORLD_SIZE='2')
    args = ['train', str(pairs), str(tmp_path/'two'), *tiny, '--steps', '6', '--precision', 'fp32']
    ps = [subprocess.Popen([sys.executable, '-m', 'rsguided', *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=dict(env, OMPI_COMM_WORLD_RANK=r, OMPI_COMM_WORLD_LOCAL_RANK=r)) for r in '01']
    said = [p.communicate(timeout=300) for p in ps]
    assert [p.returncode for p in ps] == [0, 0], said
    assert sum(out.count('2 processes') for out,_ in said) == 1
    args[2:5] = [str(tmp_path/'one'), '--size', '16']
    i = args.index('--batch-size')
    args[i+1] = '4'
    assert main(args) == 0
    a,b = weights(tmp_path/'one'), weights(tmp_path/'two')
    assert max(abs(a[k]-b[k]).max() for k in a) < 1e-4

def test_notebook_launcher(pairs, tmp_path):
    code = '''import sys
from accelerate import notebook_launcher
from rsguided.ddim_train import train
def run(pairs, model): train(pairs, model, size=16, batch_size=2, steps=4, precision='fp32', device='cpu')
notebook_launcher(run, sys.argv[1:], num_processes=2)
'''
    env = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=os.pathsep.join(sys.path))
    p = subprocess.run([sys.executable, '-c', code, str(pairs), str(tmp_path/'two')], env=env, capture_output=True, text=True, timeout=300)
    assert p.returncode == 0, p.stderr[-3000:]
    info = json.loads((tmp_path/'two'/'rsguided.json').read_text())
    assert (info['step'], info['processes']) == (4, 2)
