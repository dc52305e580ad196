"FID and KID through torch-fidelity: without it, and without its weights"
import socket, sys
import numpy as np, pytest
from rsguided.core import InputError
from rsguided.fidelity import inception_distance

rng = np.random.default_rng(0)
grey, noise = ([im.astype(np.uint8) for im in ims] for ims in (np.full((8,32,32,3), 128) + rng.integers(0, 9, (8,1,1,3)), rng.integers(0, 256, (8,32,32,3))))

def test_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch_fidelity', None)
    with pytest.raises(InputError, match=r"pip install 'rsguided\[metrics\]'"): inception_distance(grey, noise)

def test_no_weights(monkeypatch, tmp_path):
    pytest.importorskip('torch_fidelity', reason='the extra `metrics` is not installed')
    def refuse(*a, **kw): raise OSError('no network in this test')
    monkeypatch.setattr(socket, 'getaddrinfo', refuse)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    with pytest.raises(InputError, match='weights of Inception cannot be had'): inception_distance(grey, noise)
    with pytest.raises(InputError, match='none.pth is wanted'): inception_distance(grey, noise, weights=str(tmp_path/'none.pth'))
    with pytest.raises(InputError, match='four of each'): inception_distance(grey[:3], noise)
