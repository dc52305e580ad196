"""Train the painter and the reader that come with the package, on tiles of synthetic cities drawn as training goes.

    python benchmarks/train_city.py OUT --minutes 120 --reader-minutes 15
    torchrun --nproc-per-node 2 benchmarks/train_city.py OUT ...       # one process per CPU core or GPU

No tile is seen twice: position `p` of the stream is a tile of its own in a city of its own. The demo, the lessons and
the figures use other cities. Killed or stopped, the same command goes on where it was. OUT then holds `city` (the
model folder), `city_reader`, `loss.png`, `tiles.png` and `figures.json`; `--install` copies the two networks, the card
and the contact sheet to their places in the package and its docs.
"""
import argparse, math, os, shutil, time, warnings
warnings.filterwarnings('ignore')
from functools import partial
from pathlib import Path
import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt, numpy as np, torch
from fastai.data.core import DataLoaders
from fastcore.basics import store_attr
from rsguided.cache import BatchDL, BatchStreamDL, to_float
from rsguided.city import GSD, city_tile
from rsguided.core import LOVEDA, colour, read_json, save_json, write_atomic
from rsguided.data import draw_instances, pick_precision
from rsguided.ddim_train import (CheckpointCB, checkpoints, diffusion_learner, fit_all, last_state, load_state,
    noise_schedule, plot_losses, train_state, write_history, write_state)
from rsguided.fidelity import measure_fidelity, reader_kid
from rsguided.landcover import load_segmenter, train_segmenter
from rsguided.machine import Ranks, Settings, Stop, process_group, processor
from rsguided.sample import image_noise, paint, to_uint8
from rsguided.unet import Conditioning, create_unet, load_model, save_model

SIZE = 128
PAINTER, READER, VALID, UNSEEN = (k*10**6 for k in (1, 2, 3, 4))   # first city of each use

class CityTiles:
    "Positions → tiles of cities that nobody has seen: image, mask, instances, metres per pixel, domain"
    def __init__(self,
        first,       # the first city
        cities=4,    # at a time; each is left after `tiles` tiles
        tiles=64,
        size=SIZE,   # pixels
    ): store_attr()
    def tile(self, p):
        block, i = divmod(p, self.cities*self.tiles)
        u,v = np.random.default_rng([self.first, p]).random(2)
        gsd = GSD*(1/GSD)**u**2                            # 0.3 to 1 m, half under 0.41
        im,lab,blds = city_tile(self.first + block*self.cities + i%self.cities, i//self.cities, self.size, gsd)
        return im, lab, draw_instances(blds, self.size, self.size), gsd*(v > .1)     # a tenth does not tell it
    def __getitem__(self, positions):
        ims,labs,insts,gsds = map(np.stack, zip(*map(self.tile, positions)))
        none = torch.full((len(gsds),), -1)
        return (torch.from_numpy(ims).permute(0,3,1,2), torch.from_numpy(labs)[:,None], torch.from_numpy(insts),
            torch.tensor(gsds, dtype=torch.float32), none)

class Fixed:
    "The first tiles of a stream, drawn once"
    def __init__(self, tiles, n): self.batch = tiles[range(n)]
    def __len__(self): return len(self.batch[0])
    def __getitem__(self, idxs): return [x[idxs] for x in self.batch]

def loaders(a, device, ranks):
    kw = dict(bs=a.batch_size, device=device, after_batch=to_float)
    train = BatchStreamDL(CityTiles(PAINTER + a.seed*10**5), n=a.batch_size*500, drop_last=True, num_workers=a.workers, **kw)
    train.rank, train.world = ranks.rank, ranks.world
    return DataLoaders(train, BatchDL(Fixed(CityTiles(VALID, 16, 1), 64), num_workers=0, **kw), device=device)

def new_painter(precision):
    cond = Conditioning(channels=('classes', 'boundary', 'distance'), gsd=True, ablate=.02, null=.1)
    return create_unet('compact', cond, SIZE, precision=precision)

def train_painter(a, device):
    "Train until the minutes are over, earlier sessions included"
    folder, ranks, sched = a.out/'city', Ranks(), noise_schedule()
    torch.manual_seed(a.seed)
    net = load_model('city')[0] if a.init else new_painter(pick_precision(a.precision, device))
    settings = Settings(net.precision, False)
    settings.apply(net, device)
    learn = diffusion_learner(loaders(a, device, ranks), net, sched, a.seed, ema=.999, minutes=a.minutes, lr=a.lr, warmup=100)
    if checkpoints(folder/'resume'): load_state(learn, last_state(folder/'resume'))
    def save(learn):
        st = train_state(learn)
        write_state(folder/'resume', st)
        write_history(a.out, st['rows'])
        seen = learn.step_cb.step*a.batch_size*ranks.world
        save_model(folder, net, sched, {k: v.bfloat16() for k,v in st['ema'].items()}, step=st['step'],
            seconds=round(st['seconds'], 1), images=seen, gsd=.4, licences=[], processor=processor(device),
            processes=ranks.world, settings=settings.to_dict())
    with Stop() as stop:
        learn.add_cb(CheckpointCB(save, a.save_every, stop))
        if learn.step_cb.share() < 1: fit_all(learn)
        if ranks.main: save(learn)
    return not stop.asked

def train_reader(a, device):
    "A small U-Net that tells the classes apart, on cities that the painter has not seen"
    tiles = CityTiles(READER, 4, 64)
    pairs = [tiles.tile(p)[:2] for p in range(a.reader_tiles)]
    seg = train_segmenter(pairs, SIZE, minutes=a.reader_minutes, lr=2e-3, encoder='tu-test_resnet', seed=a.seed, device=device,
        state=a.out/'reader.pt', balance=.25)
    seg.to(torch.bfloat16).save(a.out/'city_reader')

if __name__ == '__main__':
    p = argparse.ArgumentParser()
    p.add_argument('out', type=Path)
    p.add_argument('--minutes', type=float, default=120, help='of training the painter, earlier sessions included')
    p.add_argument('--reader-minutes', type=float, default=15)
    p.add_argument('--reader-tiles', type=int, default=3000)
    p.add_argument('--batch-size', type=int, default=8, help='of every process')
    p.add_argument('--lr', type=float, default=1e-3)
    p.add_argument('--workers', type=int, default=1, help='processes that draw tiles, for every process that trains')
    p.add_argument('--save-every', type=int)
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--device')
    p.add_argument('--precision')
    p.add_argument('--init', action='store_true', help='begin with the painter of the package')
    a = p.parse_args()
    with process_group(a.device) as device: train_painter(a, device)
