"ultralytics loads an exported data set as it is: every label, and not a word in its log"
import json, logging, os, shutil
import numpy as np, pytest
from PIL import Image
from rsguided.cli import main

@pytest.fixture(scope='module')
def yolo(tmp_path_factory):
    "A function: data set folder → {split: (images, labels)}, what was logged"
    if os.environ.get('YOLO_CONFIG_DIR') is None: os.environ['YOLO_CONFIG_DIR'] = str(tmp_path_factory.mktemp('ultralytics'))
    os.environ.update(YOLO_AUTOINSTALL='false', YOLO_OFFLINE='true')
    try: from ultralytics.cfg import get_cfg
    except ImportError as e: pytest.skip(f"ultralytics cannot be imported ({e}); pip install 'rsguided[yolo]' brings it")
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset
    from ultralytics.utils import LOGGER
    said = []
    class Listen(logging.Handler):
        def emit(self, r): said.append(r.getMessage())
    listen = Listen()
    LOGGER.addHandler(listen)
    def load(folder):
        said.clear()
        d, n = check_det_dataset(str(folder/'data.yaml')), {}
        for s in [s for s in ('train', 'val', 'test') if d.get(s)]:
            x = YOLODataset(img_path=d[s], data=d, task='segment', imgsz=64, augment=False, hyp=get_cfg())
            n[s] = len(x), sum(len(l['segments']) for l in x.labels)
            x[0]
        return n, [m for m in said if not m.startswith(('Fast image access', 'New cache created', 'Scanning'))]
    yield load
    LOGGER.removeHandler(listen)

def rows(f): return [json.loads(l) for l in f.read_text().splitlines()]

def counts(folder):
    rs = rows(folder/'manifest.jsonl')
    return {s: (sum(r['split'] == s for r in rs), sum(r['buildings'] for r in rs if r['split'] == s)) for s in {r['split'] for r in rs}}

def odd_data(city, out):
    "A data set of the kinds that trainers complain of"
    shutil.copytree(city, out)
    js = out/'train'/'train.json'
    d = json.loads(js.read_text())
    for im,name in zip(d['images'], ('1.5 m — Zürich.jpg', 'with  blanks.JPG', 'tail.jpg', 'grey.png')):
        (out/'train'/im['file_name']).rename(f := out/'train'/'image'/name)
        im['file_name'] = f'image/{name}'
    f = out/'train'/'image'/'tail.jpg'
    f.write_bytes(f.read_bytes() + b'\0\0GPS')
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save(out/'train'/'image'/'grey.png')
    a = d['annotations'][0]
    more = [a, a | dict(segmentation=[[-9, 5, 30, 5, 30, 20, -9, 20]]), a | dict(segmentation=[[1, 1, 9, 1, 9, 9, 1, 9], [20, 20, 30, 20, 30, 30, 20, 30]]),
            a | dict(segmentation=[[40, 40, 60, 60, 60, 40, 40, 60]]), a | dict(segmentation=[[30, 1, 50, 1, 30.4, 1.2]])]
    d['annotations'] += [m | dict(id=1000+i) for i,m in enumerate(more)]
    js.write_text(json.dumps(d))
    return out

@pytest.mark.parametrize('links', [(), ('--links', 'soft')])
def test_export(city, yolo, tmp_path, links):
    data = odd_data(city, tmp_path/'data')
    assert main(['export', str(data), 'none', str(tmp_path/'a'), *links]) == 0
    assert main(['check', str(tmp_path/'a')]) == 0
    (tmp_path/'a').rename(tmp_path/'moved images')
    n, said = yolo(tmp_path/'moved images')
    assert not said and n == counts(tmp_path/'moved images') and n['train'][1] > 5
    assert main(['check', str(tmp_path/'moved images')]) == 0     # its caches are no fault

def test_listening(city, yolo, tmp_path):
    "A label that is there twice is heard of"
    assert main(['export', str(city), 'none', str(tmp_path/'a')]) == 0
    f = next(f for f in (tmp_path/'a'/'labels'/'train').iterdir() if f.read_text())
    f.write_text(f.read_text()*2)
    assert any('duplicate' in m for m in yolo(tmp_path/'a')[1])
    assert main(['check', str(tmp_path/'a')]) == 2
