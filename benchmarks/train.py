"""Training here beside the published loop re-expressed in plain diffusers, on this machine: images per second, and share of the measured matrix peak.

    python benchmarks/train.py [--preset reference --size 128 --steps 3]

Both sides: batch 2, 8 batches per optimiser step, one clipping and one update of the average per step (`tiny`: batch 16, no accumulation).
Each has a process of its own, so that what `rsguided` tells the C library does not help the other.
"""
import argparse, multiprocessing, tempfile, time, warnings
warnings.filterwarnings('ignore')
from pathlib import Path
from statistics import median
import torch, torch.nn.functional as F
from diffusers import DDPMScheduler
from diffusers.training_utils import EMAModel
from fastai.callback.core import Callback
from fastcore.basics import store_attr
from rsguided.cache import pair_dls
from rsguided.city import city
from rsguided.data import PairStore, pick_device, train_val
from rsguided.ddim_train import diffusion_learner, fit_all
from rsguided import machine
from rsguided.machine import Settings, wait
from rsguided.pseudolabel import pseudolabel
from rsguided.unet import Conditioning, create_unet, forward_flops

def published(conn, a, d, device):
    "Makes one optimiser step each time it is asked: fp32, id channel, linear betas, epsilon, AdamW, diffusers' EMA"
    store = PairStore(d/'pairs')
    model = create_unet(a.preset, Conditioning(store.classes, ('id',)), a.size)
    unet, sched = model.unet.to(device).train(), DDPMScheduler()
    opt, ema = torch.optim.AdamW(unet.parameters(), lr=1e-4), EMAModel(unet.parameters())
    it = iter(loaders(store, a, d, device).train)
    while conn.recv():
        for _ in range(a.accumulate):
            x0, m, *_ = next(it)
            eps, t = torch.randn_like(x0), torch.randint(1000, (len(x0),), device=device)
            x = torch.cat([sched.add_noise(x0, eps, t), m/255.], 1)
            if model.fold > 1: x = F.pixel_unshuffle(x, model.fold)
            out = unet(x, t).sample
            if model.fold > 1: out = F.pixel_shuffle(out, model.fold)
            (F.mse_loss(out, eps)/a.accumulate).backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.)
        opt.step()
        opt.zero_grad()
        ema.step(unet.parameters())
        wait(device)
        conn.send('done')

def loaders(store, a, d, device):
    return pair_dls(*train_val(store), size=a.size, bs=a.bs, every=10**6, device=device, cache=d)

class InTurns(Callback):
    "After each optimiser step of ours, one of the other side, and a look at the peak: all of them see the same moods of the machine"
    order, run_valid = 99, False
    def __init__(self, other): store_attr()
    def before_fit(self): self.times, self.peaks, self.t0 = dict(rsguided=[], published=[]), dict(bf16=[], fp32=[]), time.perf_counter()
    def lap(self, k):
        wait(self.dls.device)
        self.times[k].append(time.perf_counter()-self.t0)
        self.t0 = time.perf_counter()
    def after_step(self):
        self.lap('rsguided')
        self.other.send(True)
        self.other.recv()
        self.lap('published')
        for k,v in self.peaks.items():
            machine._peaks.clear()
            v.append(machine.matrix_peak(self.dls.device, k))
        self.t0 = time.perf_counter()

if __name__ == '__main__':
    p = argparse.ArgumentParser()
    p.add_argument('--preset', default='reference')
    p.add_argument('--size', type=int, default=128)
    p.add_argument('--steps', type=int, default=3)
    p.add_argument('--device')
    a = p.parse_args()
    device = pick_device(a.device)
    a.bs, a.accumulate = (16, 1) if a.preset == 'tiny' else (2, 8)
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        city(d/'city', train=64, val=8, test=0, size=128)
        store = PairStore(pseudolabel(d/'city', d/'pairs', 'truth', max_background=1.))
        ctx = multiprocessing.get_context('spawn')
        other, conn = ctx.Pipe()
        ctx.Process(target=published, args=(conn, a, d, device), daemon=True).start()
        conn.close()    # the child's end; should it die, `recv` says so
        fast, net, turns = Settings.pick(device), create_unet(a.preset, size=a.size), InTurns(other)
        fit_all(diffusion_learner(loaders(store, a, d, device), fast.apply(net, device), steps=a.steps+1, accumulate=a.accumulate, cbs=[turns]))
        other.send(False)
    peak = {k: median(v) for k,v in turns.peaks.items()}
    rate = {k: a.bs*a.accumulate/median(v[1:]) for k,v in turns.times.items()}       # the first step of each warms up
    flops = 3*forward_flops(net)
    print(f'{machine.processor(device)}, torch {torch.__version__}; medians of {a.steps} steps in turns; '
        + ', '.join(f'{k} peak {v/1e9:.0f} GFLOP/s' for k,v in peak.items()))
    for k,prec in dict(published='fp32', rsguided=fast.precision).items():
        print(f'{k:10} {rate[k]:8.2f} images/s, {rate[k]*flops/peak[prec]:.0%} of the {prec} peak')
    print(f'rsguided is {rate["rsguided"]/rate["published"]:.2f} times as fast ({a.preset}, {a.size} px, batch {a.bs} x {a.accumulate})')
