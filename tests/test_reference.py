"LoveDA's HRNet against what the published code computes under the same weights; skipped where these files are not"
import json, math, os, zlib
from pathlib import Path
import numpy as np, pytest, torch
from rsguided.landcover import LoveDAHRNet, Segmenter, build_segmenter

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
