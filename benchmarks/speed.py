"""How fast the stages are on this machine. No test depends on it; run it when nothing else does:

    python benchmarks/speed.py
"""
import os, platform, tempfile, time, warnings
warnings.filterwarnings('ignore')
from pathlib import Path
import numpy as np, torch
from rsguided.cache import PairCache, pair_dls
from rsguided.city import city
from rsguided.data import PairStore, check_images, draw_instances, pick_precision, read_data, save_image, save_json, save_mask
from rsguided.landcover import Segmenter, for_prediction, predict
from rsguided.pseudolabel import pseudolabel
from rsguided.unet import Cond, create_unet

def timed(what, unit, n, f):
    t = time.time()
    f()
    print(f'{what:42} {n/(time.time()-t):8.1f} {unit}/s', flush=True)

def labelled(d, images=3784, polygons=100_000, size=256):
    "A data set as large as BEGC's training split: one black image many times, random polygons"
    rng = np.random.default_rng(0)
    jpg = save_image(d/'0.jpg', np.zeros((size, size, 3), np.uint8)).read_bytes()
    (d/'train'/'image').mkdir(parents=True)
    for i in range(images): (d/'train'/'image'/f'{i}.jpg').write_bytes(jpg)
    def polygon():
        k = rng.integers(4, 13)
        a, r = np.sort(rng.uniform(0, 2*np.pi, k)), rng.uniform(3, 20)*rng.uniform(.7, 1, k)
        return (rng.uniform(0, size, (2, 1)) + [r*np.cos(a), r*np.sin(a)]).T.clip(0, size).round(2).ravel().tolist()
    save_json(d/'train'/'train.json', dict(categories=[dict(id=1, name='building')],
        images=[dict(id=i, file_name=f'{i}.jpg', width=size, height=size) for i in range(images)],
        annotations=[dict(id=i, image_id=int(rng.integers(images)), category_id=1, segmentation=[polygon()]) for i in range(polygons)]))
    return d

def coco_speed(d):
    "Reading and drawing 100,000 polygons on 3,784 images is wanted in 5 s, the masks as PNG in 20 s"
    data, n, res = labelled(d), 100_000, {}
    timed('read COCO, 100,000 polygons', 'polygons', n, lambda: res.update(recs=read_data(data)))
    draw = lambda r: (draw_instances(r.buildings, r.h, r.w) > 0).astype(np.uint8)
    timed('draw them to 3,784 masks', 'polygons', n, lambda: res.update(masks=[draw(r) for r in res['recs']]))
    timed('write the masks as PNG', 'masks', 3784, lambda: [save_mask(d/'mask'/f'{i}.png', m) for i,m in enumerate(res['masks'])])

@torch.no_grad()
def land_cover_speed(n=32):
    "HRNet-W32 with random weights on tiles of 256 px: one at a time as the network comes, and as `pseudolabel` does it"
    seg = Segmenter(arch='hrnet_w32').eval()
    tiles = list(np.random.default_rng(0).integers(0, 256, (n, 256, 256, 3), dtype=np.uint8))
    net, one = for_prediction(seg), seg.net.to(memory_format=torch.contiguous_format)
    alone = lambda t: one((torch.from_numpy(t).permute(2, 0, 1)[None].float() - seg._mean)/seg._std).softmax(1)
    alone(tiles[0])
    timed('HRNet, one tile at a time, fp32', 'tiles', n, lambda: [alone(t) for t in tiles])
    for p in dict.fromkeys(('fp32', pick_precision())):
        timed(f'HRNet, predict, {p}', 'tiles', n, lambda: predict(net, tiles, precision=p))

def loader_speed(data, d, bs=16):
    "A training loader is wanted to give 2,000 pairs of 64 px a second"
    pseudolabel(data, d/'pairs', segmenter='truth', max_background=1)
    store = PairStore(d/'pairs')
    tr, kw = store['train'], dict(bs=bs, every=200, cache=d/'cache')
    timed('pair cache, 64 px, first time', 'pairs', len(tr), lambda: PairCache(tr, 64, folder=d/'cache'))
    timed('pair cache, 64 px, second time', 'pairs', len(tr), lambda: PairCache(tr, 64, folder=d/'cache'))
    dls = pair_dls(tr, tr[:8], 64, **kw)
    timed('training loader, 64 px, batch 16', 'pairs', bs*len(dls.train), lambda: [None for _ in dls.train])

def steps(model, n):
    opt = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    x, t, c = torch.randn(8, 3, model.size, model.size), torch.randint(1000, (8,)), Cond(torch.zeros(8, model.cond.n, model.size, model.size))
    for _ in range(n):
        (model(x, t, c) - x).square().mean().backward()
        opt.step()
        opt.zero_grad()

@torch.no_grad()
def forwards(model, n):
    x, t, c = torch.randn(16, 3, model.size, model.size), torch.randint(1000, (16,)), Cond(torch.zeros(16, model.cond.n, model.size, model.size))
    for _ in range(n): model(x, t, c)

if __name__ == '__main__':
    print(f'{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}')
    with tempfile.TemporaryDirectory() as d:
        data = Path(d)/'city'
        timed('synthetic city, 256 px', 'tiles', 256, lambda: city(data, train=256, val=0, test=0))
        recs = read_data(data)
        timed('check images', 'tiles', len(recs), lambda: check_images(recs))
        timed('draw buildings', 'buildings', sum(len(r.buildings) for r in recs), lambda: [draw_instances(r.buildings, r.h, r.w) for r in recs])
        loader_speed(data, Path(d))
        coco_speed(Path(d)/'many')
    land_cover_speed()
    for p in dict.fromkeys(('fp32', pick_precision())):
        model = create_unet('tiny', precision=p)
        steps(model, 3)
        timed(f'tiny U-Net, training, batch 8, {p}', 'steps', 20, lambda: steps(model, 20))
        timed(f'tiny U-Net, forward, batch 16, {p}', 'images', 16*20, lambda: forwards(model, 20))
