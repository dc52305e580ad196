"""How fast the stages are on this machine. No test depends on it; run it when nothing else does:

    python benchmarks/speed.py
"""
import os, platform, tempfile, time, warnings
warnings.filterwarnings('ignore')
from pathlib import Path
import torch
from rsguided.city import city
from rsguided.data import check_images, draw_instances, pick_precision, read_data
from rsguided.unet import create_unet

def timed(what, unit, n, f):
    t = time.time()
    f()
    print(f'{what:42} {n/(time.time()-t):8.1f} {unit}/s', flush=True)

def steps(model, n):
    opt = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    x, t, c = torch.randn(8, 3, model.size, model.size), torch.randint(1000, (8,)), torch.zeros(8, model.cond.n, model.size, model.size)
    for _ in range(n):
        (model(x, t, c) - x).square().mean().backward()
        opt.step()
        opt.zero_grad()

@torch.no_grad()
def forwards(model, n):
    x, t, c = torch.randn(16, 3, model.size, model.size), torch.randint(1000, (16,)), torch.zeros(16, model.cond.n, model.size, model.size)
    for _ in range(n): model(x, t, c)

if __name__ == '__main__':
    print(f'{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}')
    with tempfile.TemporaryDirectory() as d:
        data = Path(d)/'city'
        timed('synthetic city, 256 px', 'tiles', 256, lambda: city(data, train=256, val=0, test=0))
        recs = read_data(data)
        timed('check images', 'tiles', len(recs), lambda: check_images(recs))
        timed('draw buildings', 'buildings', sum(len(r.buildings) for r in recs), lambda: [draw_instances(r.buildings, r.h, r.w) for r in recs])
    for p in dict.fromkeys(('fp32', pick_precision())):
        model = create_unet('tiny', precision=p)
        steps(model, 3)
        timed(f'tiny U-Net, training, batch 8, {p}', 'steps', 20, lambda: steps(model, 20))
        timed(f'tiny U-Net, forward, batch 16, {p}', 'images', 16*20, lambda: forwards(model, 20))
