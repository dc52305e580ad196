"YOLO-seg through ultralytics, with few pixels and steps, offline"
import json, os, pytest
from rsguided.cli import main

@pytest.fixture(scope='module', autouse=True)
def alone(tmp_path_factory):
    "ultralytics writes settings; here into a folder of the test, and it fetches nothing"
    for k,v in dict(YOLO_CONFIG_DIR=str(tmp_path_factory.mktemp('yolo')), YOLO_AUTOINSTALL='false', YOLO_OFFLINE='true').items(): os.environ.setdefault(k, v)
    pytest.importorskip('ultralytics', reason='ultralytics is not installed (extra `yolo`)')

def test_there_and_back(city, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out, args = tmp_path/'model', ['--arch', 'yolov8n-seg', '--steps', '3', '--batch-size', '5', '--device', 'cpu', '--precision', 'fp32']
    assert main(['train_instances', str(city), str(out), *args]) == 0
    assert capsys.readouterr().out.count('AGPL-3.0') == 1
    d = json.loads((out/'rsguided.json').read_text())
    assert d['steps'] == 3 and d['licences'] == ['AGPL-3.0'] and d['settings']['size'] == 64
    assert sorted(f.name for f in out.iterdir()) == ['model.pt', 'rsguided.json']
    assert main(['detect', str(out), str(city), str(tmp_path/'r.json'), '--min-score', '0', '--device', 'cpu']) == 0
    ids = {im['id'] for im in json.loads((city/'test'/'test.json').read_text())['images']}
    for r in json.loads((tmp_path/'r.json').read_text()):
        assert r['image_id'] in ids and 0 <= r['score'] <= 1
        assert all(0 <= v <= 64 for ring in r['segmentation'] for v in ring)
    assert main(['score', str(tmp_path/'r.json'), str(city/'test'/'test.json')]) == 0
    assert not [f for f in tmp_path.iterdir() if f.name not in ('model', 'r.json')]

def test_masks_come_back_in_pixels_of_the_image():
    "Images that are not square: outlines lie in all of the image and not beyond it"
    import numpy as np
    from rsguided.segmenters import Sample, YoloDetector
    im = np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8)
    square = [[np.array([(48,16), (80,16), (80,48), (48,48)], float)]]
    det = YoloDetector(device='cpu', precision='fp32', min_score=0., nms=.95).fit([Sample(im, square), Sample(im, [])], steps=1, batch_size=2)
    xy = np.concatenate([r for b,_ in det([im])[0] for r in b])
    assert (xy.min(0) >= 0).all() and (xy.max(0) <= (128, 64)).all() and xy[:,0].max() > 100, (xy.min(0), xy.max(0))

def test_no_such_network(city, tmp_path, capsys):
    for args in (['--arch', 'yolov8q-seg'], ['--arch', 'yolov8n-seg', '--weights', str(tmp_path/'none.pt')], ['--arch', 'yolov8n-seg', '--recipe', 'mine'],
                 ['--arch', 'yolov8n-seg', '--zoom', '2'], ['--arch', 'yolov8n-seg', '--recipe', 'published']):
        assert main(['train_instances', str(city), str(tmp_path/'no'), *args, '--device', 'cpu']) == 2
        assert '\n' not in capsys.readouterr().err.strip() and not (tmp_path/'no').exists()
