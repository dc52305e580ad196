"What the published code computes: LoveDA's HRNet and a diffusion checkpoint; what needs files that are not here is skipped"
import json, math, os, zlib
from pathlib import Path
import numpy as np, pytest, torch
from diffusers import DDIMScheduler, UNet2DModel
from rsguided.landcover import LoveDAHRNet, Segmenter, build_segmenter
from rsguided.unet import load_model, to_diffusers

ref = Path(os.environ.get('RSGUIDED_REFERENCE', Path(__file__).resolve().parents[2]/'shared'/'reference'))
found = pytest.mark.skipif(not ref.is_dir(), reason='the reference outputs are not there (RSGUIDED_REFERENCE)')

def filled(sd):
    "Weights by the reference's rule: a function of names and shapes"
    def one(k, v):
        t = torch.randn(v.shape, generator=torch.Generator().manual_seed(zlib.crc32(k.encode())))
        if k.endswith('num_batches_tracked'): return torch.tensor(1)
        if k.endswith('running_var'): return 1 + .1*t.abs()
        if k.endswith('running_mean'): return .1*t
        if t.ndim == 1: return 1 + .1*t if k.endswith('weight') else .1*t
        return t*math.sqrt(2/math.prod(t.shape[1:]))
    return {k: one(k, v) for k,v in sd.items()}

@found
def test_names_and_shapes():
    keys = {d['key']: d['shape'] for d in json.loads((ref/'loveda_hrnetw32_keys.json').read_text())}
    assert {k: list(v.shape) for k,v in LoveDAHRNet().state_dict().items()} == keys

@found
@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_output(prefix, tmp_path):
    torch.save({prefix+k: v for k,v in filled(LoveDAHRNet().state_dict()).items()}, tmp_path/'hrnetw32.pth')
    seg, z = Segmenter.load(tmp_path/'hrnetw32.pth'), np.load(ref/'loveda_hrnetw32_expected.npz')
    x = torch.from_numpy(z['x'])                               # normalised already
    with torch.no_grad():
        p = seg.net(x).softmax(1)
        again = seg(x*seg._std + seg._mean).softmax(1)         # as a user's image comes
    assert abs(p.numpy() - z['prob']).max() < 1e-5
    assert (again.argmax(1) == p.argmax(1)).float().mean() > .999

def test_w40(tmp_path):
    torch.save(build_segmenter(7, 'hrnet_w40').state_dict(), tmp_path/'hrnetw40.pth')
    seg = Segmenter.load(tmp_path/'hrnetw40.pth')
    assert seg.arch == 'hrnet_w40'
    with torch.no_grad(): assert seg(torch.zeros(1, 3, 64, 64)).shape == (1, 7, 64, 64)

def ddim(f, sched, z, steps=50):
    "diffusers' own DDIM, stepped plainly, over a function of noisy image and timestep"
    s, x = DDIMScheduler.from_config(sched.config), torch.from_numpy(z['initial_noise'])
    s.set_timesteps(steps)
    for t in s.timesteps:
        with torch.no_grad(): x = s.step(f(x, t), t, x).prev_sample
    return (x/2+.5).clamp(0, 1).permute(0,2,3,1).numpy()

def ours(folder, z):
    net, sched = load_model(folder)
    assert net.cond.channels == ('id',) and net.size == z['class_ids'].shape[1]
    cond = net.cond(torch.from_numpy(z['class_ids']).long(), torch.zeros(z['class_ids'].shape, dtype=torch.long))
    return ddim(lambda x,t: net(x, t.expand(len(x)), cond), sched, z)

def diffusers_alone(folder, z, watch=None): # `watch` is a forward hook of the network
    unet, sched = UNet2DModel.from_pretrained(folder, subfolder='unet').eval(), DDIMScheduler.from_pretrained(folder, subfolder='scheduler')
    if watch: unet.register_forward_hook(watch)
    ids = torch.from_numpy(z['class_ids'])[:,None]/255
    return ddim(lambda x,t: unet(torch.cat([x, ids], 1), t).sample, sched, z)

def test_published_format(tmp_path):
    folder = Path(__file__).parent/'published'
    z = np.load(folder/'expected.npz')
    assert abs(ours(folder, z) - z['image']).max() < 1e-4
    to_diffusers(tmp_path/'back', *load_model(folder))
    assert abs(diffusers_alone(tmp_path/'back', z) - z['image']).max() < 1e-4

@found
def test_published_reference():
    """Its weights are random and double every rounding error in each of the 50 steps, so its image can only be met where the kernels are those
    it was made with. Everywhere: from the same noisy image, our network says what diffusers alone says, in each step"""
    folder = ref/'ddim-BEGC-32-segguided'
    z = np.load(folder/'expected.npz')
    net, seen = load_model(folder)[0], []
    cond = net.cond(torch.from_numpy(z['class_ids']).long(), torch.zeros(z['class_ids'].shape, dtype=torch.long))
    def watch(unet, args, out): seen.append(abs(net(args[0][:,:3], args[1].expand(len(args[0])), cond) - out.sample).max().item())
    alone = diffusers_alone(folder, z, watch)
    assert len(seen) == 50 and max(seen) < 1e-4
    if abs(alone - z['image']).max() < 1e-4: assert abs(ours(folder, z) - z['image']).max() < 1e-4
