"""Sampling here beside plain diffusers, on this machine: images per second, share of the measured matrix peak, and the
share of a job that is spent inside the network.

    python benchmarks/sample.py [--preset reference --size 128 --steps 10 --images 8]

Both sides: the same weights, masks and DDIM steps. The baseline is fp32, one image after the other; ours the best of
batches of 1, 2 and 4.
"""
import argparse, tempfile, time, warnings
warnings.filterwarnings('ignore')
from pathlib import Path
from statistics import median
from functools import partial
import torch
from diffusers import DDIMScheduler
from rsguided import machine
from rsguided.city import city
from rsguided.data import PairStore, load_labels, pick_device
from rsguided.ddim_train import noise_schedule
from rsguided.machine import Settings, wait
from rsguided.pseudolabel import pseudolabel
from rsguided.sample import image_noise, paint, put, sample
from rsguided.unet import GuidedUNet, create_unet, forward_flops, save_model

def plain(net, sched, mask, inst, noise, steps): # the usual loop of diffusers, batch 1
    s = DDIMScheduler.from_config(sched.config, timestep_spacing='trailing')
    dev = next(net.parameters()).device
    for i in range(len(noise)):
        s.set_timesteps(steps)
        x, cond = noise[i:i+1].to(dev), net.cond(mask[i:i+1], inst[i:i+1]).maps.to(dev)
        for t in s.timesteps: x = s.step(net.unet(torch.cat([x, cond], 1), t).sample, t, x).prev_sample
        x.cpu()

def seconds(f, device):
    wait(device)
    t = time.perf_counter()
    with torch.no_grad(): f()
    wait(device)
    return time.perf_counter()-t

def speed(a, store, device):
    torch.manual_seed(0)
    base, fast, sched = create_unet(a.preset, size=a.size), create_unet(a.preset, size=a.size), noise_schedule()
    if base.fold > 1: raise SystemExit('a preset without folding is wanted: reference')
    fast.load_state_dict(base.state_dict())
    base, fast = base.to(device).eval(), put(fast, device, Settings.pick(device).precision)
    ps = store['train'][:a.images]
    ls = [load_labels(p, a.size, store.classes) for p in ps]
    mask, inst = (torch.stack([torch.from_numpy(l[j]).long() for l in ls]) for j in (0, 1))
    noise = torch.stack([image_noise((3, a.size, a.size), 0, p.name, 0) for p in ps])
    def ours(bs):
        for i in range(0, a.images, bs): paint(fast, sched, mask[i:i+bs], inst[i:i+bs], noise[i:i+bs], 'ddim', a.steps)
    ways = {f'batch {b}': partial(ours, b) for b in (1, 2, 4)}
    ways['diffusers'] = partial(plain, base, sched, mask, inst, noise, a.steps)
    for f in (partial(plain, base, sched, mask[:1], inst[:1], noise[:1], 1), ways['batch 4']):
        seconds(f, device)   # warm up
    took, peaks = {k: [] for k in ways}, []
    for _ in range(a.repeats):
        for k,f in ways.items():
            took[k].append(seconds(f, device))
            machine._peaks.clear()
            peaks.append(machine.matrix_peak(device, fast.precision))
    rate = {k: a.images/median(v) for k,v in took.items()}
    best, peak = max((k for k in rate if k != 'diffusers'), key=rate.get), median(peaks)
    print(f'{machine.processor(device)}, torch {torch.__version__}; {a.preset}, {a.size} px, {a.steps} DDIM steps, '
          f'{a.images} images; {fast.precision} peak {peak/1e9:.0f} GFLOP/s (median)')
    for k,v in rate.items(): print(f'{k:10} {v:8.3f} images/s, {v*a.steps*forward_flops(base)/peak:.0%} of that peak')
    print(f'rsguided ({best}) is {rate[best]/rate["diffusers"]:.2f} times as fast as diffusers in fp32')

def inside(d, device): # the share of a job of 256 images of 64 px between its first and last network call
    save_model(d/'model', create_unet('tiny', size=64), noise_schedule())
    forward, calls = GuidedUNet.forward, []
    def timed(self, *args):
        t = time.perf_counter()
        out = forward(self, *args)
        wait(device)
        calls.append((t, time.perf_counter()))
        return out
    GuidedUNet.forward = timed
    try: sample(d/'model', d/'pairs', d/'out', per_mask=4, device=str(device))
    finally: GuidedUNet.forward = forward
    share = sum(b-a for a,b in calls)/(calls[-1][1]-calls[0][0])
    print(f'{share:.1%} of a job of 256 images of 64 px is spent inside the network')

if __name__ == '__main__':
    p = argparse.ArgumentParser()
    p.add_argument('--preset', default='reference')
    for k,v in dict(size=128, steps=10, images=8, repeats=3).items(): p.add_argument(f'--{k}', type=int, default=v)
    p.add_argument('--device')
    a = p.parse_args()
    device = pick_device(a.device)
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        city(d/'city', train=64, val=1, test=0, size=128)
        store = PairStore(pseudolabel(d/'city', d/'pairs', 'truth', max_background=1.))
        inside(d, device)
        speed(a, store, device)
