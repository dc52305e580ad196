"A run whose process is killed (SIGKILL) in training and again in sampling, and then finishes"
import json, os, signal, subprocess, sys, time
import numpy as np
from PIL import Image
from rsguided.cli import main

def start(*args): return subprocess.Popen([sys.executable, '-c', 'import sys; from rsguided.cli import main; sys.exit(main())', *map(str, args)],
                                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

def kill_when(p, cond, limit=240):
    "SIGKILL the process as soon as `cond()` holds; it must still be alive then"
    t = time.time()
    while not cond():
        assert p.poll() is None, p.communicate()[0]
        assert time.time()-t < limit, 'never came to that'
        time.sleep(.01)
    os.kill(p.pid, signal.SIGKILL)
    p.communicate()

def rows(f): return [json.loads(l) for l in f.read_text().splitlines()] if f.exists() else []

def test_killed_run(city, tmp_path, capfd):
    run = tmp_path/'run'
    args = ['run', city, run, '--size', '32', '--steps', '60', '--batch-size', '2', '--per-mask', '6', '--sample-steps', '30', '--reader-steps', '5',
            '--precision', 'fp32', '--device', 'cpu', '--save-every', '10']
    kill_when(start(*args), lambda: any((run/'model'/'resume').glob('[!.]*.pt')))
    assert not (run/'model'/'DONE.json').exists()
    p = start(*args)
    kill_when(p, lambda: len(rows(run/'synthetic'/'manifest.jsonl')) >= 8)
    assert json.loads((run/'model'/'rsguided.json').read_text())['step'] == 60
    drawn = {f: f.stat().st_mtime_ns for f in (run/'synthetic'/'image').glob('[!.]*.png')}
    weights = (run/'model'/'unet'/'diffusion_pytorch_model.safetensors').stat().st_mtime_ns
    assert 8 <= len(drawn) < 60
    assert main([str(a) for a in args]) == 0
    out = capfd.readouterr().out
    assert 'pairs: done already' in out and 'model: done already' in out
    assert (run/'model'/'unet'/'diffusion_pytorch_model.safetensors').stat().st_mtime_ns == weights
    named = {r['name'] for r in rows(run/'synthetic'/'manifest.jsonl')}
    assert len(named) == 60 and len(list((run/'synthetic'/'image').glob('*.png'))) == 60
    again = [f for f,t in drawn.items() if f.stat().st_mtime_ns != t]
    assert len(again) <= 1, again      # at most the one that was written and not yet in the manifest
    assert main(['check', str(run/'dataset')]) == 0
    assert (run/'report.html').exists() and json.loads((run/'report.json').read_text())['synthetic']['images'] == 60

def test_killed_training_gives_the_same_weights(pairs, tmp_path):
    from safetensors.numpy import load_file
    args = ['--size', '32', '--steps', '40', '--batch-size', '2', '--accumulate', '2', '--save-every', '7', '--precision', 'fp32', '--device', 'cpu']
    assert main(['train', str(pairs), str(tmp_path/'whole'), *args]) == 0
    kill_when(start('train', pairs, tmp_path/'cut', *args), lambda: any((tmp_path/'cut'/'resume').glob('[!.]*.pt')))
    assert main(['train', str(pairs), str(tmp_path/'cut'), *args, '--resume']) == 0
    a,b = (load_file(tmp_path/d/'unet'/'diffusion_pytorch_model.safetensors') for d in ('whole', 'cut'))
    for k in a: assert np.array_equal(a[k], b[k]), k

def test_two_at_once(city, tmp_path):
    args = ['run', city, tmp_path/'run', '--size', '32', '--steps', '2000', '--precision', 'fp32', '--device', 'cpu']
    p = start(*args)
    while not (tmp_path/'run'/'pairs'/'DONE.json').exists(): time.sleep(.05)
    q = start(*args)
    out = q.communicate()[0]
    assert q.returncode == 2 and 'in use by another' in out, out
    p.kill()
    p.communicate()

def test_batches_do_not_change_the_picture(pairs, model, tmp_path):
    for bs in (1, 8):
        assert main(['sample', str(model), str(pairs), str(tmp_path/str(bs)), '--batch-size', str(bs), '--steps', '6', '--precision', 'fp32', '--seed', '3']) == 0
    load = lambda f: np.asarray(Image.open(f)).astype(int)
    for f in (tmp_path/'1'/'image').iterdir(): assert np.abs(load(f) - load(tmp_path/'8'/'image'/f.name)).max() <= 1

def test_killed_pseudolabel(tmp_path, capfd):
    from rsguided.landcover import Segmenter
    Segmenter(encoder='tu-resnet10t', fold=2).save(tmp_path/'net')
    assert main(['city', str(tmp_path/'city'), '--train', '44', '--val', '0', '--test', '0']) == 0
    pairs, part = tmp_path/'pairs', tmp_path/'.pairs-part'
    args = ['pseudolabel', tmp_path/'city', pairs, '--segmenter', tmp_path/'net', '--tta', '8', '--max-background', '1',
            '--precision', 'fp32', '--device', 'cpu']
    kill_when(start(*args), lambda: len(rows(part/'manifest.jsonl')) >= 5)
    assert not pairs.exists()
    there = len(rows(part/'manifest.jsonl'))
    (part/'manifest.jsonl').open('a').write('{"split": "train", "na')       # a line torn by the kill
    assert 5 <= there < 44
    capfd.readouterr()
    assert main([str(a) for a in args]) == 0
    assert f'{there} of 44 are there already' in capfd.readouterr().out
    got = rows(pairs/'manifest.jsonl')
    assert sorted(int(r['name']) for r in got) == list(range(44)) and all(r['kept'] for r in got)
    assert len(list((pairs/'mask'/'all'/'train').glob('*.png'))) == 44
    assert not part.exists() and not (tmp_path/'.pairs-part.json').exists()

def test_killed_experiment(tmp_path, capfd):
    out = tmp_path/'out'
    seed = out/'seed3'
    args = ['experiment', 'city', out, '--arms', 'real,real+synthetic', '--labels', '4', '--seeds', '1', '--seed', '3', '--steps', '4', '--model-steps', '60', '--size', '32',
        '--tile', '64', '--sample-steps', '2', '--val-tiles', '2', '--test-tiles', '3', '--precision', 'fp32', '--device', 'cpu']
    kill_when(start(*args), lambda: (seed/'model'/'history.csv').exists() or any((seed/'model').glob('resume/*.pt')))
    first = seed/'arm-real'/'result.json'
    before, text = first.stat().st_mtime_ns, first.read_text()
    assert main([str(a) for a in args]) == 0
    said = capfd.readouterr().out
    assert 'seed 3, model' in said and 'seed 3, arm-real:' not in said and '| real+synthetic | 1 |' in said
    assert (first.stat().st_mtime_ns, first.read_text()) == (before, text)
    rows = json.loads((out/'results.json').read_text())['rows']
    assert [r['arm'] for r in rows] == ['real', 'real+synthetic'] and rows[1]['synthetic'] == rows[1]['wanted'] == 4
