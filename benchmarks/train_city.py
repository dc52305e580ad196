"""Train the painter and the reader that come with the package, on tiles of synthetic cities drawn as training goes.

    python benchmarks/train_city.py OUT --minutes 120 --reader-minutes 15
    torchrun --nproc-per-node 2 benchmarks/train_city.py OUT ...       # one process per CPU core or GPU

No tile is seen twice: position `p` of the stream is a tile of its own in a city of its own. The demo, the lessons and
the figures use other cities. Killed or stopped, the same command goes on where it was. OUT then holds `city` (the
model folder), `city_reader`, `loss.png`, `tiles.png` and `figures.json`; `--install` copies the two networks, the card
and the contact sheet to their places in the package and its docs.
"""
import argparse, shutil, warnings
warnings.filterwarnings('ignore')
from functools import partial
from pathlib import Path
import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt, numpy as np, torch
from fastai.data.core import DataLoaders
from fastcore.basics import store_attr
from tqdm.auto import tqdm
from rsguided import __version__
from rsguided.cache import BatchDL, BatchStreamDL, to_float
from rsguided.city import GSD, city_tile
from rsguided.core import colour, save_json, write_atomic
from rsguided.data import draw_instances, pick_precision, polygon, save_image
from rsguided.ddim_train import (CheckpointCB, checkpoints, diffusion_learner, fit_all, last_state, load_state,
    noise_schedule, plot_losses, read_history, train_state, write_history, write_state)
from rsguided.evaluate import f1_images
from rsguided.fidelity import measure_fidelity, reader_kid
from rsguided.landcover import load_segmenter, predict, train_segmenter
from rsguided.machine import Ranks, Settings, Stop, process_group, processor
from rsguided.sample import image_noise, paint, to_uint8
from rsguided.sources import components, outlines
from rsguided.unet import Conditioning, create_unet, load_model, save_model

SIZE, DETAIL, GUIDANCE = 128, 6., 1.5
PAINTER, READER, VALID, UNSEEN = (k*10**6 for k in (1, 2, 3, 4))   # first city of each use

class CityTiles:
    "Positions → tiles of cities that nobody has seen: image, mask, instances, metres per pixel, domain"
    def __init__(self,
        first,       # the first city
        cities=4,    # at a time; each is left after `tiles` tiles
        tiles=64,
        size=SIZE,   # pixels
        start=0,     # number of the first tile in the stream
        cut=1,       # 2: four quarters in place of a tile, each with noise of its own; position is then that of a quarter
    ): store_attr()
    def tile(self, p):
        p += self.start
        block, i = divmod(p, self.cities*self.tiles)
        u,v = np.random.default_rng([self.first, p]).random(2)
        gsd = GSD*(1/GSD)**u**2                            # 0.3 to 1 m, half under 0.41
        im,lab,blds = city_tile(self.first + block*self.cities + i%self.cities, i//self.cities, self.size, gsd)
        return im, lab, draw_instances(blds, self.size, self.size), gsd*(v > .1)     # a tenth does not tell it
    def pieces(self, p): # of tile `p`: all of it, or its quarters
        im,lab,inst,gsd = self.tile(p)
        s = self.size//self.cut
        boxes = [np.s_[y:y+s,x:x+s] for y in range(0, self.size, s) for x in range(0, self.size, s)]
        return [(im[b], lab[b], inst[b], gsd) for b in boxes]
    def __getitem__(self, positions):
        k = self.cut**2
        of = {t: self.pieces(t) for t in {p//k for p in positions}}
        ims,labs,insts,gsds = map(np.stack, zip(*(of[p//k][p%k] for p in positions)))
        none = torch.full((len(gsds),), -1)
        return (torch.from_numpy(ims).permute(0,3,1,2), torch.from_numpy(labs)[:,None], torch.from_numpy(insts),
            torch.tensor(gsds, dtype=torch.float32), none)

class Fixed:
    "The first tiles of a stream, drawn once"
    def __init__(self, tiles, n): self.batch = tiles[range(n)]
    def __len__(self): return len(self.batch[0])
    def __getitem__(self, idxs): return [x[idxs] for x in self.batch]

def loaders(a, device, ranks, start):
    kw, bs = dict(device=device, after_batch=to_float), a.batch_size*a.cut**2
    tiles = CityTiles(PAINTER + a.seed*10**5, start=start, cut=a.cut)
    train = BatchStreamDL(tiles, bs=bs, n=bs*500, drop_last=True, num_workers=a.workers, **kw)
    train.rank, train.world = ranks.rank, ranks.world
    return DataLoaders(train, BatchDL(Fixed(CityTiles(VALID, 16, 1), 64), bs=16, num_workers=0, **kw), device=device)

def new_painter(precision):
    cond = Conditioning(channels=('classes', 'boundary', 'distance'), gsd=True, ablate=.02, null=.1)
    return create_unet('compact', cond, SIZE, precision=precision)

def train_painter(a, device):
    "Train until the minutes are over, earlier sessions included"
    folder, ranks, sched = a.out/'city', Ranks(), noise_schedule()
    torch.manual_seed(a.seed)
    precision = pick_precision(a.precision, device)
    net = load_model('city', precision=precision)[0] if a.init else new_painter(precision)
    was = {k: net.info.get(k, 0) for k in ('images', 'seconds')}                       # by the painter to begin with
    settings = Settings(net.precision, False)
    settings.apply(net, device)
    learn = diffusion_learner(loaders(a, device, ranks, was['images']), net, sched, a.seed, ema=.999, detail=DETAIL, minutes=a.minutes,
        lr=a.lr, warmup=100)
    if checkpoints(folder/'resume'): load_state(learn, last_state(folder/'resume'))
    def save(learn):
        st = train_state(learn)
        write_state(folder/'resume', st)
        write_history(a.out, st['rows'])
        seen = was['images'] + learn.step_cb.step*a.batch_size*ranks.world
        save_model(folder, net, sched, {k: v.bfloat16() for k,v in st['ema'].items()}, step=st['step'],
            seconds=round(was['seconds'] + st['seconds'], 1), images=seen, gsd=.4, licences=[], processor=processor(device),
            processes=ranks.world, settings=settings.to_dict(), training=dict(detail=DETAIL), guidance=GUIDANCE)
    with Stop() as stop:
        learn.add_cb(CheckpointCB(save, a.save_every, stop))
        if learn.step_cb.share() < 1:
            fit_all(learn)
            if ranks.main: save(learn)
    return not stop.asked

def train_reader(a, device):
    "A small U-Net that tells the classes apart, on cities that the painter has not seen"
    tiles = CityTiles(READER, 4, 64)
    pairs = [tiles.tile(p)[:2] for p in tqdm(range(a.reader_tiles), 'tiles for the reader', disable=None)]
    seg = train_segmenter(pairs, SIZE, minutes=a.reader_minutes, lr=2e-3, encoder='tu-test_resnet', fold=2, seed=a.seed,
        device=device, balance=.25, jitter=.1, state=a.out/'reader.pt')
    seg.precision = 'fp32'                                 # how it was trained matters to nobody who reads with it
    seg.net.to(torch.bfloat16)
    seg.save(a.out/'city_reader')

def paint_tiles(net, tiles, n, bs=16):
    "The first `n` tiles of a stream with what the network paints from their masks: list of uint8 (h,w,3)"
    res = []
    for i in range(0, n, bs):
        at = range(i, min(n, i+bs))
        _,mask,inst,gsd,_ = tiles[at]
        noise = torch.stack([image_noise((3, SIZE, SIZE), 0, str(p), 0) for p in at])
        res += [*to_uint8(paint(net, net.scheduler, mask.long(), inst.long(), noise, gsd=gsd))]
    return res

def buildings_f1(reader, images, tiles):
    "One-to-one F1 of the buildings that the reader sees, touching ones taken for one, against the true polygons"
    seen = [components(p.argmax(0) == reader.classes.building) for p in predict(reader, images)]
    shapes = lambda bs: [polygon(b) for b in bs]
    true = {i: shapes(outlines(inst)) for i,(_,_,inst,_) in enumerate(tiles)}
    return f1_images({i: [(g, 1.) for g in shapes(bs)] for i,bs in enumerate(seen)}, true)['f1']

def measure(a, device):
    "What the reader makes of painted and of real tiles of cities that neither network has seen"
    net, reader, stream = load_model(a.out/'city', device)[0], load_segmenter(a.out/'city_reader'), CityTiles(UNSEEN, 64, 4)
    tiles, others = ([stream.tile(p) for p in range(k, k+a.unseen)] for k in (0, a.unseen))
    painted = paint_tiles(net, stream, a.unseen)
    shown = [(str(i), im, *t[1:3]) for i,(im,t) in enumerate(zip(painted, tiles))]
    f = measure_fidelity(reader, shown, [t[:3] for t in tiles], device=device)
    k = reader_kid(reader, painted, [t[0] for t in others], device=device)
    both = [buildings_f1(reader, ims, tiles) for ims in (painted, [t[0] for t in tiles])]
    d = {n: net.info[n] for n in ('step', 'images', 'seconds', 'processor', 'processes')}
    d |= dict(guidance=net.info['guidance'], parameters=net.n_params, tiles=a.unseen, building_iou=f['building'], mean_iou=f['mean'],
        classes={c: v['ratio'] for c,v in f['classes'].items()},
        kid={w: k[w] for w in ('synthetic', 'real')}, f1=dict(zip(('synthetic', 'real'), map(partial(round, ndigits=4), both))))
    save_json(a.out/'figures.json', d, indent=1)
    sheet(a.out/'tiles.jpg', painted[:100])
    seen = [p.argmax(0) for p in predict(reader, painted[:8])]
    save_image(a.out/'rows.png', np.concatenate([row(r) for r in ([colour(t[1]) for t in tiles[:8]], [t[0] for t in tiles[:8]],
        painted[:8], map(colour, seen))]))
    ax = plot_losses(read_history(a.out))
    ax.figure.savefig(a.out/'loss.png', dpi=90, bbox_inches='tight')
    write_atomic(a.out/'city'/'README.md', CARD.format(**d, minutes=d['seconds']/60, version=__version__,
        b=f['building'], m=f['mean'], k=k, painted_f1=both[0], real_f1=both[1]))
    print(CARD.split('## Figures')[1].format(**d, minutes=d['seconds']/60, version=__version__, b=f['building'], m=f['mean'], k=k,
        painted_f1=both[0], real_f1=both[1]))

def row(tiles, gap=2): return np.concatenate([np.pad(t, ((gap,)*2, (gap,)*2, (0, 0)), constant_values=255) for t in tiles], 1)
def sheet(path, tiles, cols=10): # a picture of many tiles, whole rows of them
    cols = min(cols, len(tiles))
    save_image(path, np.concatenate([row(tiles[i:i+cols], 1) for i in range(0, len(tiles)-cols+1, cols)]), quality=88)

CARD = """---
license: apache-2.0
library_name: rsguided
tags: [diffusion, remote-sensing, semantic-image-synthesis]
---
# city

A diffusion U-Net that paints aerial tiles of 128 px from land-cover masks with buildings. It comes with `rsguided`
{version}: `load_model('city')`, `rsguided sample city MASKS OUT`, `rsguided train PAIRS MODEL --init city`.

- **Sees** one channel for each of seven land-cover classes, the outlines of buildings, the distance to them, and the
  ground resolution (0.3 to 1 m per pixel; it may be unknown). A tenth of the training tiles had no mask, so guidance
  works: {guidance} is the default.
- **Is** a U-Net of {parameters:,} parameters, folded 4x4, that predicts the clean image; bf16 weights.
- **Was trained** on {images:,} tiles of the synthetic city, each seen once, in {minutes:.0f} minutes
  ({processes} processes on {processor}), by `benchmarks/train_city.py`. No picture of a real place was used.
- **Paints** the synthetic city's look. For real imagery, train it further on yours.

## Figures

{tiles} tiles of cities that neither network has seen, 12 steps of DPM-Solver++, guidance {guidance}, read by
`city_reader` beside it, a small U-Net trained on other cities. "Real" is the same reader on the true images of the same tiles.

| | painted | real | ratio |
|---|---|---|---|
| building IoU | {b[synthetic]:.3f} | {b[real]:.3f} | {b[ratio]:.3f} |
| mean IoU of the classes | {m[synthetic]:.3f} | {m[real]:.3f} | {m[ratio]:.3f} |
| F1 of the buildings the reader sees | {painted_f1:.3f} | {real_f1:.3f} | |
| KID in the reader's features (real: half against half) | {k[synthetic][0]:.4f} | {k[real][0]:.4f} | |
"""

def install(a):
    "Copy the networks into the package, the sheet into the docs"
    import rsguided
    here = Path(rsguided.__file__).parent
    for k in ('city', 'city_reader'):
        shutil.rmtree(here/'models'/k, ignore_errors=True)
        shutil.copytree(a.out/k, here/'models'/k, ignore=shutil.ignore_patterns('resume', '.*'))
    shutil.copy(a.out/'tiles.jpg', here.parent/'nbs'/'images'/'city.jpg')

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('out', type=Path)
    p.add_argument('--minutes', type=float, default=120, help='of training the painter, earlier sessions included')
    p.add_argument('--reader-minutes', type=float, default=15)
    p.add_argument('--reader-tiles', type=int, default=3000)
    p.add_argument('--unseen', type=int, default=256, help='tiles to measure on')
    p.add_argument('--batch-size', type=int, default=8, help='of every process')
    p.add_argument('--cut', type=int, default=1, help='2: train on quarters of tiles, four times as many noise levels a step')
    p.add_argument('--lr', type=float, default=1e-3)
    p.add_argument('--workers', type=int, default=1, help='processes that draw tiles, for every process that trains')
    p.add_argument('--save-every', type=int, help='optimiser steps; once a minute if not given')
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--device')
    p.add_argument('--precision')
    p.add_argument('--init', action='store_true', help='begin with the painter of the package, and with the tiles that come after those it has seen')
    p.add_argument('--only', choices=('painter', 'reader', 'measure'), help='this part alone')
    p.add_argument('--install', action='store_true', help='put the networks into the package')
    a = p.parse_args()
    with process_group(a.device) as device:
        done, main = a.only not in (None, 'painter') or train_painter(a, device), Ranks().main
    if done and main:
        if a.only in (None, 'reader') and not (a.out/'city_reader').exists(): train_reader(a, device)
        if a.only in (None, 'measure'): measure(a, device)
        if a.install: install(a)
