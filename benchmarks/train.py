"""Training here beside the published loop re-expressed in plain diffusers, on this machine: images per second, and share of the measured matrix peak.

    python benchmarks/train.py [--preset reference --size 128 --steps 2]

Both sides: batch 2, 8 batches per optimiser step, one clipping and one update of the average per step (`tiny`: batch 16, no accumulation).
"""
import argparse, tempfile, time, warnings
warnings.filterwarnings('ignore')
from pathlib import Path
from statistics import median
import torch, torch.nn.functional as F
from diffusers import DDPMScheduler
from diffusers.training_utils import EMAModel
from fastai.callback.core import Callback
from rsguided.cache import pair_dls
from rsguided.city import city
from rsguided.data import PairStore, pick_device, train_val
from rsguided.ddim_train import diffusion_learner, fit_all
from rsguided.machine import Settings, matrix_peak, processor, use_of_peak, wait
from rsguided.pseudolabel import pseudolabel
from rsguided.unet import Conditioning, create_unet

def published(dls, model, accumulate, steps, device):
    "Seconds of optimiser steps: fp32, id channel, linear betas, epsilon, AdamW, diffusers' EMA"
    unet, sched = model.unet.to(device).train(), DDPMScheduler()
    opt, ema, res, it = torch.optim.AdamW(unet.parameters(), lr=1e-4), EMAModel(unet.parameters()), [], iter(dls.train)
    for _ in range(steps):
        t0 = time.perf_counter()
        for _ in range(accumulate):
            x0, m, *_ = next(it)
            eps, t = torch.randn_like(x0), torch.randint(1000, (len(x0),), device=device)
            x = torch.cat([sched.add_noise(x0, eps, t), m/255.], 1)
            if model.fold > 1: x = F.pixel_unshuffle(x, model.fold)
            out = unet(x, t).sample
            if model.fold > 1: out = F.pixel_shuffle(out, model.fold)
            (F.mse_loss(out, eps)/accumulate).backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.)
        opt.step()
        opt.zero_grad()
        ema.step(unet.parameters())
        wait(device)
        res.append(time.perf_counter()-t0)
    return res

class Clock(Callback):
    order, run_valid = 99, False
    def __init__(self): self.at = []
    def after_step(self):
        wait(self.dls.device)
        self.at.append(time.perf_counter())

def ours(dls, model, accumulate, steps, device, settings):
    c = Clock()
    fit_all(diffusion_learner(dls, settings.apply(model, device), steps=steps, accumulate=accumulate, cbs=[c]))
    return [b-a for a,b in zip(c.at, c.at[1:])]

p = argparse.ArgumentParser()
p.add_argument('--preset', default='reference')
p.add_argument('--size', type=int, default=128)
p.add_argument('--steps', type=int, default=3)
p.add_argument('--device')
a = p.parse_args()
device = pick_device(a.device)
bs, acc = (16, 1) if a.preset == 'tiny' else (2, 8)
with tempfile.TemporaryDirectory() as d:
    d = Path(d)
    city(d/'city', train=64, val=8, test=0, size=128)
    store = PairStore(pseudolabel(d/'city', d/'pairs', 'truth', max_background=1.))
    loaders = lambda: pair_dls(*train_val(store), size=a.size, bs=bs, every=10**6, device=device, cache=d)
    fast = Settings.pick(device)
    peaks = {k: matrix_peak(device, k, 2.) for k in ('fp32', fast.precision)}
    print(f'{processor(device)}, torch {torch.__version__}; peak ' + ', '.join(f'{k} {v/1e9:.0f} GFLOP/s' for k,v in peaks.items()))
    net = lambda cond: create_unet(a.preset, cond, a.size)
    sides = dict(published=lambda m: published(loaders(), m, acc, a.steps, device), rsguided=lambda m: ours(loaders(), m, acc, a.steps+1, device, fast))
    rate = {}
    for k,f in sides.items():
        m = net(Conditioning(store.classes, ('id',)) if k == 'published' else None)
        rate[k] = bs*acc/median(f(m))
        print(f'{k:10} {rate[k]:8.2f} images/s, {use_of_peak(m, rate[k]):.0%} of the {m.precision} peak', flush=True)
    print(f'rsguided is {rate["rsguided"]/rate["published"]:.2f} times as fast ({a.preset}, {a.size} px, batch {bs} x {acc})')
