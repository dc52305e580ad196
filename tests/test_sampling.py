"Sampling in real processes: killed, in parts, at once, out of disk; and what is refused"
import json, os, subprocess, sys, time
import numpy as np, pytest, torch
from pathlib import Path
from PIL import Image
from rsguided.cli import main
from rsguided.core import LOVEDA, save_mask
from rsguided.ddim_train import noise_schedule
from rsguided.sample import SAMPLERS, SPACINGS, denoise, generator, make_sampler
from rsguided.yolo_export import why_not
from test_killed import kill_when, rows, start

fp32 = ['--precision', 'fp32', '--device', 'cpu', '--steps', '4', '--seed', '3']

def sample(*args): return main(['sample', *map(str, args)])
def load(out): return {f.name: np.asarray(Image.open(f)).astype(int) for f in sorted((out/'image').iterdir())}
def same(a, b, levels=1):
    a,b = load(a), load(b)
    return a.keys() == b.keys() and all(np.abs(a[k]-b[k]).max() <= levels for k in a)
def whole(out):
    assert not [f for f in out.iterdir() if f.name.startswith('.rows')]
    names = [r['name'] for r in rows(out/'manifest.jsonl')]
    coco = json.loads((out/'instances.json').read_text())
    assert names == [Path(i['file_name']).stem for i in coco['images']]
    assert sorted(names) == sorted(f.stem for f in (out/'image').iterdir())
    return len(names)

@pytest.fixture(scope='module')
def alone(pairs, model, tmp_path_factory):
    out = tmp_path_factory.mktemp('sampling')/'alone'
    assert sample(model, pairs, out, *fp32, '--per-mask', 2, '--batch-size', 1) == 0
    return out

@pytest.mark.parametrize('name,eta', [*((s, 0.) for s in SAMPLERS), ('ddim', 1.)])
@pytest.mark.parametrize('kind,schedule', [('sample', 'zero_snr'), ('v_prediction', 'zero_snr'), ('epsilon', 'linear')])
def test_oracle(name, eta, kind, schedule):
    sched, img = noise_schedule(kind, schedule), torch.rand(2,3,4,4)*2-1
    def oracle(xt, t, cond):
        a = sched.alphas_cumprod[t][:,None,None,None]
        eps = (xt - a.sqrt()*img)/(1-a).sqrt()
        return dict(sample=img, epsilon=eps, v_prediction=a.sqrt()*eps - (1-a).sqrt()*img)[kind]
    for spacing in SPACINGS:
        for n in (1, 2, 7, 333):
            x = denoise(oracle, torch.randn(2,3,4,4), None, make_sampler(name, sched, n, eta, spacing))
            assert (x-img).abs().max() < 5e-3, (spacing, n)

def test_batch_and_order(pairs, model, alone, tmp_path):
    assert sample(model, pairs, tmp_path/'8', *fp32, '--per-mask', 2, '--batch-size', 8) == 0
    assert same(alone, tmp_path/'8') and whole(tmp_path/'8') == 20

def test_bf16_batches_are_padded(pairs, model, tmp_path):
    how = ['--steps', 3, '--precision', 'bf16', '--device', 'cpu', '--batch-size', 4]
    assert sample(model, pairs, tmp_path/'a', *how) == 0
    assert sample(model, pairs, tmp_path/'b', *how, '--limit', 3) == 0
    a,b = load(tmp_path/'a'), load(tmp_path/'b')
    assert len(b) == 3 and all((a[k] == b[k]).all() for k in b)

def test_two_at_once(pairs, model, alone, tmp_path):
    out = tmp_path/'out'
    ps = [start('sample', model, pairs, out, *fp32, '--per-mask', 2, '--shard', f'{i}/2') for i in (0, 1)]
    said = [p.communicate()[0] for p in ps]
    assert [p.returncode for p in ps] == [0, 0], said
    assert whole(out) == 20 and same(alone, out)

def test_ranks(pairs, model, alone, tmp_path):
    out, port = tmp_path/'out', str(29500 + os.getpid() % 1000)
    env = dict(os.environ, WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=port, LOCAL_WORLD_SIZE='2')
    args = [sys.executable, '-c', 'import sys; from rsguided.cli import main; sys.exit(main())', 'sample', model, pairs, out, *fp32, '--per-mask', '2']
    ps = [subprocess.Popen([*map(str, args)], env=dict(env, RANK=r, LOCAL_RANK=r), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for r in '01']
    said = [p.communicate(timeout=200)[0] for p in ps]
    assert [p.returncode for p in ps] == [0, 0], said
    assert whole(out) == 20 and same(alone, out)

@pytest.mark.parametrize('shard', [(), ('--shard', '1/2')])
def test_killed(pairs, model, tmp_path, capfd, shard):
    out = tmp_path/'out'
    args = ['sample', model, pairs, out, *fp32, '--per-mask', '12', '--batch-size', '2', *shard]
    part = out/('.rows-1-2' if shard else 'manifest.jsonl')
    kill_when(start(*args), lambda: len(rows(part)) >= 5)
    with part.open('a') as f: f.write('{"name": "torn')
    drawn = {f: f.stat().st_mtime_ns for f in (out/'image').glob('[!.]*.png')}
    assert main([*map(str, args)]) == 0
    assert whole(out) == (60 if shard else 120)
    again = [f for f,t in drawn.items() if f.stat().st_mtime_ns != t]
    assert len(again) <= 1, again
    assert not [f for d in ('image', 'mask') for f in (out/d).glob('.*')]

def test_locked(pairs, model, tmp_path, capsys):
    out = tmp_path/'out'
    p = start('sample', model, pairs, out, *fp32, '--per-mask', 50, '--shard', '0/2')
    while not (out/'image').exists() and p.poll() is None: time.sleep(.05)
    for args in ((), ('--shard', '0/2'), ('--shard', '1/3'), ('--shard', '1/2', '--overwrite', '--guidance-interval', '0,.5')):
        assert sample(model, pairs, out, *fp32, '--per-mask', 50, *args) == 2
        assert 'in use by another' in capsys.readouterr().err
    assert p.poll() is None
    p.kill()
    p.communicate()

def test_full_disk(pairs, model, tmp_path):
    "A limit on the size of files stands for the disk"
    code = ('import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1200, 1200));'
            'from rsguided.cli import main; sys.exit(main())')
    out = tmp_path/'out'
    assert sample(model, pairs, out, *fp32, '--limit', 2) == 0
    before = {f: f.read_bytes() for f in out.rglob('*') if f.is_file() and f.suffix == '.png'}
    args = ['sample', model, pairs, out, *fp32, '--limit', '4']
    p = subprocess.run([sys.executable, '-c', code, *map(str, args)], capture_output=True, text=True)
    said = [l for l in p.stderr.splitlines() if l.startswith('rsguided sample:')]
    assert p.returncode == 2 and 'cannot be written' in said[-1] and 'Traceback' not in p.stderr, p.stderr
    assert all(f.read_bytes() == b for f,b in before.items())
    assert main([*map(str, args)]) == 0 and whole(out) == 4

def test_overwrite(pairs, model, tmp_path, capsys):
    out = tmp_path/'out'
    assert sample(model, pairs, out, *fp32, '--limit', 3) == 0
    was = {f: f.read_bytes() for f in out.rglob('*') if f.is_file() and not f.name.startswith('.')}
    other = [*fp32[:-1], '4', '--limit', 2]
    assert sample(model, pairs, out, *other) == 2 and 'was drawn with seed 3' in capsys.readouterr().err
    assert was == {f: f.read_bytes() for f in out.rglob('*') if f.is_file() and not f.name.startswith('.')}
    assert sample(model, pairs, out, *other, '--overwrite') == 0 and whole(out) == 2
    for i in (1, 2): assert sample(model, pairs, out, *fp32, '--limit', 3, '--overwrite', '--shard', f'{i}/2') == 0
    assert whole(out) == 3 and rows(out/'manifest.jsonl')[0]['seed'] == 3

@pytest.mark.parametrize('args,words', [
    (('--shard', '3/2'), '1/4'), (('--guidance', '2'), 'null examples'), (('--guidance-interval', 'x'), 'two shares'),
    (('--jpeg', '0'), '1 to 100'), (('--remove-class', 'lava'), 'lava'), (('--n', '3'), 'none in the place'),
    (('--eta', '.5', '--sampler', 'dpm++'), 'with ddim'), (('--spacing', 'odd'), 'trailing'), (('--threshold', '.5'), '1 (clamp)'),
    (('--per-mask', '0'), 'at least 1')])
def test_refused(pairs, model, tmp_path, capsys, args, words):
    assert sample(model, pairs, tmp_path/'out', *args) == 2
    err = capsys.readouterr().err
    assert words in err and len(err.splitlines()) == 1 and not (tmp_path/'out').exists()

def test_not_over_its_inputs(pairs, model, capsys):
    assert sample(model, pairs, pairs) == 2 and sample(model, pairs, model.parent) == 2
    assert 'a folder of its own' in capsys.readouterr().err

def test_layouts_say_where_they_come_from(pairs, model, tmp_path):
    assert main(['layouts', str(pairs), str(tmp_path/'new'), '--mix', '1', '--paste', '3', '--city', '2', '--seed', '4']) == 0
    assert sample(model, tmp_path/'new', tmp_path/'a', *fp32, '--limit', 2) == 0
    assert sample(model, tmp_path/'new', tmp_path/'b', *fp32, '--limit', 2, '--split', 'oracle') == 0
    a,b = (rows(tmp_path/k/'manifest.jsonl') for k in 'ab')
    assert all(r['tiles'] and not r['oracle'] for r in a) and all(r['oracle'] for r in b)
    assert why_not(b[0]).startswith('from a layout') and not why_not(a[0])
    assert why_not(a[0], held=[('train', a[0]['tiles'][-1])]) == 'from a mask of a tile held out for val'

def test_scene(pairs, model, tmp_path):
    mask = np.asarray(Image.open(next((pairs/'mask'/'all'/'val').iterdir())))
    save_mask(tmp_path/'mask.png', np.tile(mask, (1, 2))[:48,:80], LOVEDA)
    for out in ('a.png', 'b.png'):
        assert main(['scene', str(model), str(tmp_path/'mask.png'), str(tmp_path/out), '--steps', '2', '--precision', 'fp32']) == 0
    a,b = (np.asarray(Image.open(tmp_path/f'{k}.png')) for k in 'ab')
    assert a.shape == (48, 80, 3) and (a == b).all()
