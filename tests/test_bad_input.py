"What a user can mend: exit code 2, one sentence on stderr, nothing written"
import json, shutil
import numpy as np, pytest
from PIL import Image
from rsguided.cli import main

def refused(capsys, out, *args, words=()):
    "Run a command that must be refused, and leave nothing at `out`"
    assert main([str(a) for a in args]) == 2
    err = capsys.readouterr().err.strip()
    assert err.startswith(f'rsguided {args[0]}: ') and '\n' not in err, err
    for w in words: assert w in err, err
    assert not out.exists(), sorted(out.rglob('*'))
    assert not [p for p in out.parent.glob(f'.{out.name}*')]

@pytest.fixture
def data(city, tmp_path): return shutil.copytree(city, tmp_path/'data')

@pytest.fixture
def store(pairs, tmp_path): return shutil.copytree(pairs, tmp_path/'pairs')

def commands(data, out):
    "All that read a data set"
    return [('run', data, out, '--steps', 5), ('pseudolabel', data, out)]

def both(capsys, data, out, *words):
    for c in commands(data, out): refused(capsys, out, *c, words=words)

def test_missing_folder(capsys, tmp_path):
    out = tmp_path/'out'
    both(capsys, tmp_path/'nowhere', out, 'nowhere', 'does not exist')
    refused(capsys, out, 'train', tmp_path/'nowhere', out, words=['nowhere'])
    refused(capsys, out, 'sample', tmp_path/'nowhere', tmp_path, out, words=['nowhere'])
    refused(capsys, out, 'export', tmp_path/'nowhere', tmp_path/'nowhere', out, words=['nowhere'])
    refused(capsys, out, 'check', out)
    refused(capsys, out, 'tiles', tmp_path/'nowhere.json', out)
    refused(capsys, out, 'score', tmp_path/'p.json', tmp_path/'t.json')
    refused(capsys, out, 'fidelity', tmp_path/'nowhere', '--real', tmp_path/'nowhere')

def test_empty_data(capsys, tmp_path):
    (tmp_path/'data').mkdir()
    both(capsys, tmp_path/'data', tmp_path/'out', 'SPLIT/image')

def test_no_json(capsys, data, tmp_path):
    (data/'train'/'train.json').write_text('{"images": [')
    both(capsys, data, tmp_path/'out', 'train.json', 'no COCO file')

@pytest.mark.parametrize('key', ['annotations', 'images'])
def test_no_annotations(capsys, data, tmp_path, key):
    d = json.loads((data/'train'/'train.json').read_text())
    del d[key]
    (data/'train'/'train.json').write_text(json.dumps(d))
    both(capsys, data, tmp_path/'out', f'`{key}`')

@pytest.mark.parametrize('change', [dict(segmentation=[[0, 0, 4, 0, 4, float('nan')]]), dict(segmentation=[['0', 0, 4, 0, 4, 4]]),
    dict(segmentation=None), dict(segmentation=dict(size=[8, 8], counts=[64])), dict(segmentation=dict(size=[64, 64], counts='~'))])
def test_no_shape(capsys, data, tmp_path, change):
    d = json.loads((data/'train'/'train.json').read_text())
    d['annotations'][0].update(change)
    (data/'train'/'train.json').write_text(json.dumps(d))
    both(capsys, data, tmp_path/'out', 'train.json', 'no shape')

def test_two_images_with_one_id(capsys, data, tmp_path):
    d = json.loads((data/'train'/'train.json').read_text())
    d['images'].append(d['images'][0])
    (data/'train'/'train.json').write_text(json.dumps(d))
    both(capsys, data, tmp_path/'out', 'train.json', 'two images with id')

def test_category(capsys, data, tmp_path):
    for c in commands(data, tmp_path/'out'): refused(capsys, tmp_path/'out', *c, '--categories', 'roof', words=['roof', '1 building'])

def test_what_is_left_out_is_said(capsys, data, tmp_path):
    d = json.loads((data/'train'/'train.json').read_text())
    d['annotations'] += [{**d['annotations'][0], 'id': 900, 'image_id': 77}, {**d['annotations'][0], 'id': 901, 'segmentation': [[1, 1]]}]
    (data/'train'/'train.json').write_text(json.dumps(d))
    assert main(['pseudolabel', str(data), str(tmp_path/'out'), '--max-background', '1']) == 0
    err = capsys.readouterr().err
    assert 'train/train.json: 2 of' in err and '1 of images that are not listed, 1 under 3 points' in err, err
    assert main(['summary', str(data)]) == 0
    assert 'under 3 points: 1' in capsys.readouterr().out

def test_tiles(capsys, data, tmp_path):
    out, js = tmp_path/'out', data/'train'/'train.json'
    for args, word in ((['--size', 65], 'smaller than a tile'), (['--min-visible', 2], 'min-visible'), (['--splits', 'train'], 'shares'),
            (['--split', 'block'], '--splits'), (['--splits', 'a:1,b:1', '--split', 'block', '--block', 8], 'holds no tile'),
            (['--size', 64, '--splits', ','.join(f's{i}:1' for i in range(20))], 'dealt out')):
        refused(capsys, out, 'tiles', js, out, *(args if '--size' in args else ['--size', 32, *args]), words=[word])

def test_missing_image(capsys, data, tmp_path):
    (data/'train'/'image'/'3.jpg').unlink()
    both(capsys, data, tmp_path/'out', '3.jpg')

def test_truncated_image(capsys, data, tmp_path):
    f = data/'train'/'image'/'3.jpg'
    f.write_bytes(f.read_bytes()[:len(f.read_bytes())//2])
    both(capsys, data, tmp_path/'out', '3.jpg', 'cannot be read')

def test_size_of_image_and_coco(capsys, data, tmp_path):
    Image.new('RGB', (60, 64)).save(data/'train'/'image'/'3.jpg')
    both(capsys, data, tmp_path/'out', '3.jpg', '60x64')

def test_land_cover_of_another_size(capsys, data, tmp_path):
    Image.fromarray(np.zeros((60, 64), np.uint8)).save(data/'train'/'landcover'/'3.png')
    both(capsys, data, tmp_path/'out', '3.png', '64x60')

def test_land_cover_with_a_strange_id(capsys, data, tmp_path):
    Image.fromarray(np.full((64, 64), 9, np.uint8)).save(data/'train'/'landcover'/'3.png')
    both(capsys, data, tmp_path/'out', '3.png', '9')

def test_mask_with_a_strange_id(capsys, store, model, tmp_path):
    out = tmp_path/'out'
    Image.fromarray(np.full((64, 64), 9, np.uint8)).save(store/'mask'/'all'/'train'/'3.png')
    refused(capsys, out, 'train', store, out, '--steps', 5, words=['3.png', 'class id 9'])
    refused(capsys, out, 'sample', model, store, out, words=['3.png', 'class id 9'])
    refused(capsys, out, 'sample', model, store/'mask'/'all'/'train', out, words=['3.png', 'class id 9'])

def test_image_and_mask_of_different_sizes(capsys, store, tmp_path):
    Image.fromarray(np.zeros((60, 64), np.uint8)).save(store/'mask'/'all'/'train'/'3.png')
    refused(capsys, tmp_path/'out', 'train', store, tmp_path/'out', '--steps', 5, words=['3.png', '64x60'])

def test_model_without_weights(capsys, store, model, tmp_path):
    m = shutil.copytree(model, tmp_path/'model')
    (m/'unet'/'diffusion_pytorch_model.safetensors').unlink()
    refused(capsys, tmp_path/'out', 'sample', m, store, tmp_path/'out', words=['no weights'])

def test_empty_mask_folder(capsys, model, tmp_path):
    (tmp_path/'masks').mkdir()
    refused(capsys, tmp_path/'out', 'sample', model, tmp_path/'masks', tmp_path/'out', words=['no masks'])

def test_preset_and_size(capsys, data, store, tmp_path):
    out = tmp_path/'out'
    for c in (('train', store, out), ('run', data, out)):
        refused(capsys, out, *c, '--preset', 'huge', words=['huge', 'tiny, compact, small, reference'])
        refused(capsys, out, *c, '--size', 60, words=['60', 'multiple of 8'])
        refused(capsys, out, *c, '--steps', 0, words=['more than 0'])
    refused(capsys, out, 'run', data, out, '--sampler', 'euler', words=['euler', 'ddim'])
    refused(capsys, out, 'run', data, out, '--segmenter', 'nowhere')
    refused(capsys, out, 'run', data, out, '--landcover', tmp_path/'nowhere')

def test_unknown_command_and_argument(capsys):
    assert main(['paint']) == 2
    assert 'paint' in capsys.readouterr().err
    with pytest.raises(SystemExit) as e: main(['sample', '--nonsense'])
    assert e.value.code == 2

def test_images_that_are_not_listed(capsys, data, tmp_path):
    shutil.copyfile(data/'train'/'image'/'3.jpg', data/'train'/'image'/'new.JPG')
    assert main(['pseudolabel', str(data), str(tmp_path/'out'), '--max-background', '1']) == 0
    assert 'holds 1 images that train.json does not list' in capsys.readouterr().err

def test_json_of_another_name(capsys, data):
    (data/'train'/'train.json').rename(data/'train'/'_annotations.coco.json')
    assert main(['summary', str(data)]) == 0
    assert 'train counts as unlabelled' in capsys.readouterr().err

@pytest.mark.parametrize('text', ['{"names": ["a"]}', '[1]', '{"names": ["a"], "palette": [[0, 0, 999]]}', '{"names": ["a"], "palette": [[0, 0, 9]], "building": 7}'])
def test_classes(capsys, data, tmp_path, text):
    (data/'classes.json').write_text(text)
    refused(capsys, tmp_path/'out', 'pseudolabel', data, tmp_path/'out', words=['classes.json'])

def test_damaged_layer(capsys, data, tmp_path):
    (data/'val'/'road').mkdir()
    (data/'val'/'road'/'1.png').write_bytes(b'x')
    refused(capsys, tmp_path/'out', 'pseudolabel', data, tmp_path/'out', '--layers', 'road', words=['1.png', 'a mask'])

def test_place_that_cannot_be(capsys, data, tmp_path):
    (tmp_path/'file').write_text('')
    for c in (['pseudolabel', '--max-background', '1', data], ['tiles', '--size', 32, data/'train'/'train.json'],
            ['pairs', data/'train'/'image', data/'train'/'landcover']):
        assert main([*map(str, c), str(tmp_path/'file'/'below')]) == 2
        assert 'cannot be made' in capsys.readouterr().err

@pytest.mark.parametrize('args,word', [(('city',), '--labels'), (('city', '--labels', 4, '--arms', 'real,fake'), "'fake'"), (('city', '--labels', 4, '--arms', 'real+extra'), '--extra'),
    (('city', '--labels', 4, '--ratio', 0), 'ratio'), (('nowhere',), 'nowhere'), (('data', '--labels', 9999), '9999 labelled')])
def test_experiment(capsys, data, tmp_path, args, word):
    where = {'city': 'city', 'data': data, 'nowhere': tmp_path/'nowhere'}
    refused(capsys, tmp_path/'out', 'experiment', where[args[0]], tmp_path/'out', *args[1:], words=[word])

def test_experiment_without_a_test(capsys, data, tmp_path):
    for s in ('val', 'test'): shutil.rmtree(data/s, ignore_errors=True)
    refused(capsys, tmp_path/'out', 'experiment', data, tmp_path/'out', words=['no labelled tile is left for test'])
