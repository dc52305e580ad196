"The painter and the reader that come with the package, and the script that makes them"
import json, os, re, runpy, signal, subprocess, sys, time
from pathlib import Path
import numpy as np, pytest, torch
from fastcore.test import test_eq as eq
from rsguided.city import city_tile
from rsguided.core import LOVEDA, PACKAGED, Classes, read_jsonl, save_mask
from rsguided.cli import main
from rsguided.data import draw_instances, load_image, save_image
from rsguided.ddim_train import noise_schedule
from rsguided.fidelity import measure_fidelity
from rsguided.landcover import load_segmenter
from rsguided.sample import image_noise, paint, to_uint8
from rsguided.unet import Conditioning, GuidedUNet, adapt, create_unet, load_model, save_model

root = Path(__file__).resolve().parent.parent
script = root/'benchmarks'/'train_city.py'

def size(folder): return sum(f.stat().st_size for f in folder.rglob('*') if f.is_file())

def tiles(n, seed=77): # of a city that no network has seen
    return [(im, m, draw_instances(b, 128, 128)) for im,m,b in (city_tile(seed, i, 128, .4) for i in range(n))]

def painted(shown, **kw): # what the packaged model paints on the masks of `tiles`, uint8 (n,h,w,3); and its noise
    net, sched = load_model('city')
    m, inst = (torch.from_numpy(np.stack(o)).long() for o in list(zip(*shown))[1:])
    noise = torch.stack([image_noise((3,128,128), 0, str(i), 0) for i in range(len(shown))])
    return to_uint8(paint(net, sched, m, inst, noise, gsd=torch.full((len(shown),), .4), **kw)), noise

def test_files():
    "Small, in bf16, and described"
    from safetensors import safe_open
    assert size(PACKAGED/'city') <= 8e6 and size(PACKAGED/'city_reader') <= 4e6
    with safe_open(PACKAGED/'city'/'unet'/'diffusion_pytorch_model.safetensors', 'pt') as f:
        assert {f.get_slice(k).get_dtype() for k in f.keys()} == {'BF16'}
    card = (PACKAGED/'city'/'README.md').read_text()
    for what in ('building IoU', 'mean IoU', 'KID', 'F1', 'license: apache-2.0'): assert what in card
    assert not list(PACKAGED.rglob('*.pt'))

def test_model():
    "Size, channels, ground resolution, null examples; both ways to open it are one"
    net, sched = load_model('city')
    eq((net.size, net.cond.channels, net.cond.gsd, net.cond.classes), (128, ('classes', 'boundary', 'distance'), True, LOVEDA))
    assert net.cond.null > 0 and net.n_params < 4.1e6 and not net.training
    own = GuidedUNet.pretrained('city')
    eq(own.scheduler.config.prediction_type, sched.config.prediction_type)
    for a,b in zip(net.parameters(), own.parameters()): assert torch.equal(a, b)

def test_figures():
    "Painted tiles of an unseen city show their buildings nearly as well as real ones; noise does not"
    shown = tiles(16)
    x, noise = painted(shown)
    reader = load_segmenter('city')
    of = lambda ims: measure_fidelity(reader, [('', im, *s[1:]) for im,s in zip(ims, shown)], shown)['building']['ratio']
    assert of(x) > .85
    assert of(x[::-1]) < .4 and of(to_uint8(noise)) < .4      # of other masks, and of none

def test_sharp():
    "Painted tiles are as sharp as real ones: the mean step between neighbouring pixels"
    shown = tiles(8)
    x, _ = painted(shown)
    step = lambda ims: np.mean([np.abs(np.diff(im.astype(float), axis=a)).mean() for im in ims for a in (0, 1)])
    assert .6 < step(x)/step([im for im,*_ in shown]) < 1.5

def test_guidance():
    "Guidance moves the image; without the mask it paints something else"
    xs = [painted(tiles(1), steps=4, guidance=g)[0].astype(float)/127.5 for g in (0., 1., 2.)]
    assert all(np.abs(p-q).mean() > .02 for p,q in zip(xs, xs[1:]))

def test_recommended_guidance(pairs, tmp_path):
    "The model's own scale is the default, also after further training with null examples; a scale of yours goes first"
    eq(load_model('city')[0].info['guidance'], 1.5)
    row = lambda d: read_jsonl(tmp_path/d/'manifest.jsonl')[0]['guidance']
    for d,more in dict(a=[], b=['--guidance', '1']).items():
        assert main(['sample', 'city', str(pairs), str(tmp_path/d), '--limit', '1', '--steps', '1', *more]) == 0
    eq((row('a'), row('b')), (1.5, 1.))
    for d,null in dict(with_null=[], without=['--null', '0']).items():
        args = ['--init', 'city', '--steps', '1', '--batch-size', '2', '--size', '32', '--precision', 'fp32', '--device', 'cpu']
        assert main(['train', str(pairs), str(tmp_path/d), *args, *null]) == 0
    eq([load_model(tmp_path/d)[0].info.get('guidance') for d in ('with_null', 'without')], [1.5, None])

def test_name(tmp_path, monkeypatch):
    "`city` is the packaged model, also beside a folder of that name, unless that holds a model"
    monkeypatch.chdir(tmp_path)
    (tmp_path/'city').mkdir()
    eq(load_model('city')[0].size, 128)
    save_model(tmp_path/'city', create_unet('tiny', size=32), noise_schedule())
    eq(load_model('city')[0].size, 32)
    assert main(['sample', 'nowhere', 'city', 'out']) == 2

def test_sample(city, pairs, tmp_path):
    "The command paints a pair store and a folder of masks"
    assert main(['sample', 'city', str(pairs), str(tmp_path/'a'), '--limit', '2', '--steps', '2', '--guidance', '2']) == 0
    eq([load_image(f).shape for f in sorted((tmp_path/'a'/'image').iterdir())], [(128,128,3)]*2)
    save_mask(tmp_path/'masks'/'m.png', tiles(1)[0][1])
    assert main(['sample', 'city', str(tmp_path/'masks'), str(tmp_path/'b'), '--steps', '2']) == 0
    assert main(['sample', 'city', str(tmp_path/'masks'), str(tmp_path), '--steps', '2']) == 2          # not over its masks

def test_init(pairs, tmp_path):
    "Training begins with it: what is told comes from it, unless the user says otherwise; it can be resumed"
    args = ['train', str(pairs), str(tmp_path/'m'), '--init', 'city', '--batch-size', '2', '--precision', 'fp32', '--device', 'cpu', '--size', '32']
    assert main([*args, '--steps', '1', '--lr', '1e-9']) == 0
    net, _ = load_model(tmp_path/'m')
    was = load_model('city')[0]
    eq((net.size, net.cond.to_dict(), net.preset), (32, was.cond.to_dict(), was.preset))
    for a,b in zip(net.parameters(), was.parameters()): assert (a-b).abs().max() < 1e-6
    assert main([*args, '--steps', '2', '--lr', '1e-9', '--resume']) == 0
    eq(load_model(tmp_path/'m')[0].info['step'], 2)

def test_other_classes(tmp_path):
    "A data set with other classes keeps what matches by name: the building class, whatever it is called, and `road`"
    classes = Classes(['ground', 'house', 'Road'], [(0,0,0), (255,0,0), (255,255,0)])
    net = load_model('city')[0]
    new = adapt(net, Conditioning(classes, ('classes', 'distance'), gsd=True))
    old_w, new_w = (n.unet.conv_in.weight.unflatten(1, (-1, 16)) for n in (net, new))
    eq(new.cond.names, ['ground', 'house', 'Road', 'distance'])
    for k,j in ((0, 0), (2, 2), (4, 3+1), (5, 3+2), (6, 3+8)): assert torch.equal(new_w[:,k], old_w[:,j])      # images, building, road, distance
    eq(new_w[:,3].abs().max().item(), 0.)
    rows = dict(image=lambda im, m: im, mask=lambda im, m: np.where(m == 1, 1, np.where(m == 2, 2, 0)).astype(np.uint8))
    for i,(im,m,_) in enumerate(tiles(4)):
        save_image(tmp_path/'image'/'train'/f'{i}.png', im)
        save_mask(tmp_path/'mask'/'train'/f'{i}.png', rows['mask'](im, m), classes)
    (tmp_path/'classes.json').write_text(json.dumps(classes.to_dict()))
    said = main(['pairs', str(tmp_path/'image'), str(tmp_path/'mask'), str(tmp_path/'pairs'), '--classes', str(tmp_path/'classes.json')])
    eq(said, 0)
    assert main(['train', str(tmp_path/'pairs'), str(tmp_path/'m'), '--init', 'city', '--steps', '1', '--batch-size', '2', '--device', 'cpu']) == 0
    eq(load_model(tmp_path/'m')[0].cond.classes.names[1], 'house')

def test_stream():
    "No tile twice, none of another use; the same position is the same tile"
    m = runpy.run_path(str(script))
    seen = []
    tiles_of = m['CityTiles'](m['PAINTER'])
    got = lambda seed, i, size, gsd: seen.append((seed, i)) or city_tile(1, 0, 32)
    tiles_of.tile.__func__.__globals__['city_tile'] = got
    for p in range(3000): tiles_of.tile(p)
    eq(len(set(seen)), 3000)
    assert all(m['PAINTER'] <= s < m['READER'] for s,_ in seen)
    tiles_of.tile.__func__.__globals__['city_tile'] = city_tile
    a,b = tiles_of[[5, 6]], tiles_of[[5, 6]]
    for x,y in zip(a, b): assert torch.equal(x, y)
    gsds = np.array([m['CityTiles'](9).tile(p)[3] for p in range(60)])
    assert .3 <= gsds[gsds > 0].min() and gsds.max() <= 1 and (gsds == 0).any()

def run_script(out, *args):
    return [sys.executable, '-W', 'ignore', str(script), str(out), '--workers', '0', '--device', 'cpu', '--reader-tiles', '8', '--unseen', '8',
        '--batch-size', '2', '--reader-minutes', '.02', *args]

def test_script(tmp_path):
    "Killed at a checkpoint, it goes on; it writes networks, card, curve and sheet"
    p = subprocess.Popen(run_script(tmp_path, '--minutes', '9', '--save-every', '1'), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    resume = tmp_path/'city'/'resume'
    while not (there := sorted(resume.glob('[!.]*.pt'))):
        assert p.poll() is None
        time.sleep(.2)
    p.send_signal(signal.SIGKILL)
    p.wait()
    done = subprocess.run(run_script(tmp_path, '--minutes', '.01'), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    net, _ = load_model(tmp_path/'city')
    assert net.info['step'] >= int(there[0].stem)
    for f in ('tiles.jpg', 'loss.png', 'figures.json', 'city/README.md', 'city_reader/segmenter.json'): assert (tmp_path/f).exists(), f
    assert re.search(r'\| building IoU \| [\d.]+ \| [\d.]+', done.stdout)

def test_run(city, tmp_path):
    "`run --init city`: the size and the network are its own; the report knows before and after"
    args = ['run', str(city), str(tmp_path/'run'), '--init', 'city', '--size', '32', '--steps', '1', '--reader-steps', '5', '--sample-steps', '2',
        '--precision', 'fp32', '--device', 'cpu']
    assert main(args) == 0
    d = json.loads((tmp_path/'run'/'report.json').read_text())
    eq((d['model']['preset'], set(d['fidelity']['trained'])), ('compact', {'before', 'after'}))
    assert 'trained on real images alone' in (tmp_path/'run'/'report.html').read_text()
    assert main([*args[:3], '--init', 'nowhere']) == 2 and main([*args[:3], '--reader', 'nowhere']) == 2

def test_experiment(tmp_path):
    "`experiment --init city`: every generator begins with it"
    args = ['--arms', 'real,real+synthetic', '--labels', '4', '--seeds', '1', '--steps', '2', '--model-steps', '1', '--size', '32', '--tile', '64',
        '--sample-steps', '2', '--val-tiles', '2', '--test-tiles', '2', '--precision', 'fp32', '--device', 'cpu']
    assert main(['experiment', 'city', str(tmp_path/'e'), '--init', 'city', *args]) == 0
    assert load_model(next((tmp_path/'e').rglob('rsguided.json')).parent)[0].preset == 'compact'

def test_demo(tmp_path, capsys):
    "The README's first command, with seconds of training: a first look, every stage, before and after in the report"
    out = tmp_path/'demo'
    assert main(['demo', '--out', str(out), '--minutes', '.05']) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert str(out/'painted.png') in first
    eq(load_image(out/'painted.png').shape, (3*132, 8*132, 3))
    d = json.loads((out/'report.json').read_text())
    f, html = d['fidelity'], (out/'report.html').read_text()
    assert f['building']['ratio'] > .85
    assert f['trained']['before']['building'] > 0 < f['trained']['after']['building']
    assert 'What training changed' in html and 'trained on other images' in html
    eq((d['model']['preset'], d['model']['size'], d['dataset']['faults'], d['arguments']['init']), ('compact', 128, 0, 'city'))
    assert main(['demo', '--out', str(out), '--minutes', '.05']) == 0                # nothing is left to do
    eq(capsys.readouterr().out.count('done already'), 5)

def test_from_scratch_has_a_floor(monkeypatch):
    "`demo --from-scratch` makes 700 steps, whatever the clock says"
    from rsguided import cli
    asked = {}
    monkeypatch.setattr(cli, 'run', lambda *a, **kw: asked.update(kw))
    monkeypatch.setattr('rsguided.city.city', lambda *a, **kw: None)
    cli.demo('nowhere', from_scratch=True)
    eq((asked['min_steps'], asked.get('init')), (700, None))
