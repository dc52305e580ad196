"""Does it help on real tiles to begin with the packaged model? The same minutes of training with `--init city` and without.

    python benchmarks/begin_with_city.py OUT DATA [DATA ...] --minutes 3 --seeds 3
    python benchmarks/begin_with_city.py OUT DATA --arms city & python benchmarks/begin_with_city.py OUT DATA --arms scratch

`DATA` is in BEGC layout. Pairs and readers are made once, as `rsguided run` makes them. A reader trained on the real
training tiles reads 64 painted tiles back; it stands beside the real validation tiles. Prints a table; OUT/results holds
the figures, OUT/pictures mask, `scratch`, `city` and real tile. What is there already is not made again.
"""
import argparse, itertools, warnings
warnings.filterwarnings('ignore')
from pathlib import Path
import numpy as np, torch
from fastcore.basics import store_attr
from filelock import FileLock
from rsguided.core import colour, read_json, save_json
from rsguided.data import PairStore, load_image, load_mask, load_pair, save_image, train_val
from rsguided.ddim_train import train
from rsguided.fidelity import measure_fidelity, read_folder, reader_kid, train_reader
from rsguided.landcover import load_segmenter
from rsguided.pseudolabel import pseudolabel
from rsguided.sample import sample
from rsguided.unet import load_model

ARMS = dict(scratch=dict(preset='tiny'), city=dict(init='city'))

class Case:
    "One data set at one size: its pairs and its reader"
    def __init__(self, out, data, size, minutes):
        store_attr()
        self.dir = out/data.parent.name/data.name/str(size)
        pairs = self.dir.parent/'pairs'
        self.dir.mkdir(parents=True, exist_ok=True)
        with FileLock(self.dir.parent/'.lock'):
            if not pairs.exists(): pseudolabel(data, pairs, 'none')
            self.store = PairStore(pairs)
            self.tr, va = train_val(self.store)
            if not (self.dir/'reader').exists():
                train_reader(self.tr, size, self.store.classes, 300).save(self.dir/'reader')
        self.reader = load_segmenter(self.dir/'reader')
        self.real = [load_pair(p, size, self.store.classes) for p in va[:64]]
    def run(self, arm, seed, **kw):
        "Train, paint 64 masks, read them back"
        d = self.dir/f'{arm}-{seed}'
        if (d/'result.json').exists(): return
        train(self.store.root, d/'model', size=self.size, minutes=self.minutes, seed=seed, overwrite=True, **ARMS[arm], **kw)
        sample(d/'model', self.store.root, d/'synthetic', 'train', limit=64, seed=seed, overwrite=True)
        syn = read_folder(d/'synthetic', self.store.classes)
        f = measure_fidelity(self.reader, syn, self.real)
        k = reader_kid(self.reader, [im for _,im,*_ in syn], [im for im,*_ in self.real])
        info = load_model(d/'model')[0].info
        save_json(d/'result.json', dict(data=f'{self.data.parent.name}/{self.data.name}', size=self.size, arm=arm, seed=seed, step=info['step'],
            building=f['building'], kid=k['synthetic'], floor=k['real']), indent=1)

def table(rows):
    "Mean and spread over seeds"
    pm = lambda v: f'{np.mean(v):.3f} ± {np.std(v, ddof=1):.3f}' if len(v) > 1 else f'{v[0]:.3f}'
    print('| data | px | begins with | steps | building IoU | real | KID | real |\n|---|---|---|---|---|---|---|---|')
    for key,g in itertools.groupby(sorted(rows, key=lambda r: (r['data'], r['size'], r['arm'])), lambda r: (r['data'], r['size'], r['arm'])):
        g = list(g)
        of = lambda f: [f(r) for r in g]
        print('| ' + ' | '.join([key[0], str(key[1]), key[2], f'{np.mean(of(lambda r: r["step"])):.0f}', pm(of(lambda r: r['building']['synthetic'])),
            f'{g[0]["building"]["real"]:.3f}', pm(of(lambda r: r['kid'][0])), f'{g[0]["floor"][0]:.3f}']) + ' |')

def pictures(case, seed=0, n=8):
    "Mask, what both arms paint, real tile"
    names = [f.stem for f in sorted((case.dir/f'city-{seed}'/'synthetic'/'image').glob('*.png'))][::7][:n]
    real = {p.name: p for p in case.tr}
    tile = lambda arm, n: load_image(case.dir/f'{arm}-{seed}'/'synthetic'/'image'/f'{n}.png')
    mask = lambda n: load_mask(case.dir/f'city-{seed}'/'synthetic'/'mask'/f'{n}.png', case.store.classes)
    rows = [[colour(mask(n), case.store.classes) for n in names], *([tile(a, n) for n in names] for a in ARMS),
        [load_pair(real[n.rpartition('_')[0]], case.size)[0] for n in names]]
    save_image(case.out/'pictures'/f'{case.data.parent.name}-{case.size}.png', np.concatenate([np.concatenate(r, 1) for r in rows]))

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('out', type=Path)
    p.add_argument('data', type=Path, nargs='+')
    p.add_argument('--sizes', default='64,128')
    p.add_argument('--minutes', type=float, default=3)
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--arms', default=','.join(ARMS))
    p.add_argument('--lr', type=float, help='of the arm city')
    a = p.parse_args()
    cases = [Case(a.out, d.resolve(), int(s), a.minutes) for d in a.data for s in a.sizes.split(',')]
    for seed in range(a.seeds):
        for case in cases:
            for arm in a.arms.split(','): case.run(arm, seed, **(dict(lr=a.lr) if a.lr and arm == 'city' else {}))
    table([read_json(f) for f in a.out.glob('*/*/*/*/result.json')])
    for case in cases:
        if all((case.dir/f'{arm}-0'/'result.json').exists() for arm in ARMS): pictures(case)
