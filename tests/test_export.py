"Finished data sets and submissions from odd folders, by the command"
import json, os, shutil, warnings
import numpy as np, pytest
from pathlib import Path
from PIL import Image
from pycocotools.coco import COCO
from rsguided.cli import main
from rsguided.core import save_mask
from rsguided.data import PairStore, draw_instances, read_split
from rsguided.sources import read_yolo
from rsguided.yolo_export import faults

def rsguided(*args): return main([str(a) for a in args])
def rows(d): return [json.loads(l) for l in (d/'manifest.jsonl').read_text().splitlines()]
def made(d): return [r for r in rows(d) if r['kind'] == 'synthetic']

def pictures(folder, names, size=64, ext='jpg', seed=0):
    "Images of noise, which nothing else repeats"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for n in names: Image.fromarray(rng.integers(0, 255, (size, size, 3), np.uint8)).save(folder/f'{n}.{ext}')
    return folder

def test_prefix(city, tmp_path, capsys):
    "NAME alone, NAME_K, another size, another kind of file, names of nothing"
    src = {r.name: r for r in read_split(city, 'train')}
    a,b,c,*_ = sorted(src, key=lambda n: -len(src[n].buildings))
    assert src[b].buildings
    syn = pictures(tmp_path/'syn', [f'condon_{a}', f'condon_{a}_2', 'condon_900', 'other_3'], 128)
    pictures(tmp_path/'more', [f'condon_{b}'], 64, 'png')
    shutil.move(tmp_path/'more'/f'condon_{b}.png', syn)
    shutil.copyfile(city/'val'/'image'/'1.jpg', syn/f'condon_{c}.jpg')      # not generated at all
    assert rsguided('export', city, syn, tmp_path/'ds', '--prefix', 'condon_') == 0
    out = capsys.readouterr().out
    for why in ('1 of no labelled image', '1 not called condon_', '1 that show the same picture'): assert why in out, out
    for r in made(tmp_path/'ds'):
        bs = read_yolo(tmp_path/'ds'/'labels'/'train'/f'{Path(r["file"]).stem}.txt', r['w'], r['h'])
        drawn = draw_instances(bs, 64, 64, (64/r['w'],)*2) > 0
        assert (drawn != (draw_instances(src[r['mask']].buildings, 64, 64) > 0)).sum() <= 8*r['dropped'] + 4
    assert {(r['mask'], r['copy'], r['w']) for r in made(tmp_path/'ds')} == {(a, 0, 128), (a, 2, 128), (b, 0, 64)}
    assert faults(tmp_path/'ds') == []
    assert rsguided('export', city, syn, tmp_path/'no', '--prefix', 'image_') == 2
    assert '--prefix' in capsys.readouterr().err and not (tmp_path/'no').exists()
    (syn/f'condon_{a}.png').write_bytes((syn/f'condon_{b}.png').read_bytes())
    assert rsguided('export', city, syn, tmp_path/'no', '--prefix', 'condon_') == 2
    assert 'names that differ' in capsys.readouterr().err

def test_held_out_sources(city, tmp_path, capsys):
    "What shows ground of val stays out, also where val is made of train"
    shutil.copytree(city/'train', tmp_path/'data'/'train')
    syn = pictures(tmp_path/'syn', [f'g_{i}' for i in range(10)])
    assert rsguided('export', tmp_path/'data', syn, tmp_path/'ds', '--prefix', 'g_', '--format', 'yolo,coco,masks') == 0
    val = {r['source'] for r in rows(tmp_path/'ds') if r['split'] == 'val'}
    assert val and not val & {r['source'] for r in made(tmp_path/'ds')} and len(made(tmp_path/'ds')) == 10-len(val)
    assert faults(tmp_path/'ds') == []
    with warnings.catch_warnings(action='error'):
        coco = COCO(tmp_path/'ds'/'annotations'/'train.json')
    assert len(coco.imgs) == 2*(10-len(val)) and all(coco.annToMask(a).any() for a in coco.anns.values())
    shown = [r | dict(tiles=[Path(v).name for v in val]) if r['kind'] == 'synthetic' else r for r in rows(tmp_path/'ds')]
    (tmp_path/'ds'/'manifest.jsonl').write_text(''.join(json.dumps(r) + '\n' for r in shown))
    assert {'shows the same source' in f.fault for f in faults(tmp_path/'ds')} == {True}
    assert rsguided('export', tmp_path/'data', syn, tmp_path/'one', '--prefix', 'g_', '--ratio', 1) == 0
    assert len(made(tmp_path/'one')) == 10-len(val)
    assert rsguided('export', tmp_path/'data', syn, tmp_path/'two', '--prefix', 'g_', '--ratio', 2) == 2
    err = capsys.readouterr().err
    assert f'{2*(10-len(val))} synthetic images are asked for and {10-len(val)} of 10' in err and err.count('\n') == 1, err

@pytest.mark.parametrize('white', [False, True])
def test_masks_alone(city, tmp_path, capsys, white):
    syn = pictures(tmp_path/'syn'/'image', ['a', 'b'])
    m = np.zeros((64, 64), np.uint8)
    m[5:20,5:20], m[10:14,10:14], m[30:50,30:45], m[:3,60:] = 1, 0, 1, 1
    for n in 'ab': save_mask(tmp_path/'syn'/'mask'/f'{n}.png', m*(255 if white else 1))
    assert rsguided('export', city, tmp_path/'syn', tmp_path/'ds') == 0
    assert 'connected components' in capsys.readouterr().err
    assert [(r['buildings'], r['instances']) for r in made(tmp_path/'ds')] == [(3, 'components')]*2
    f = tmp_path/'ds'/'labels'/'train'/'syn_a.txt'
    assert (draw_instances(read_yolo(f, 64, 64), 64, 64) > 0).sum() == m.sum()
    assert rsguided('check', tmp_path/'ds') == 0

def test_no_train_and_other_names(city, tmp_path, capsys):
    shutil.copytree(city/'train', tmp_path/'data'/'training')
    (tmp_path/'data'/'training'/'train.json').rename(tmp_path/'data'/'training'/'training.json')
    assert rsguided('export', tmp_path/'data', 'none', tmp_path/'ds') == 2
    assert 'no labelled split train but training' in capsys.readouterr().err
    shutil.copytree(city, tmp_path/'other')
    (tmp_path/'other'/'val').rename(tmp_path/'other'/'validation')
    (tmp_path/'other'/'validation'/'val.json').rename(tmp_path/'other'/'validation'/'validation.json')
    assert rsguided('export', tmp_path/'other', 'none', tmp_path/'ds') == 0
    assert 'val: images/validation' in (tmp_path/'ds'/'data.yaml').read_text() and faults(tmp_path/'ds') == []

def test_hard_links_and_leaks(city, tmp_path, capsys):
    "A val picture that is in train too, as PNG, is taken out of train"
    data = shutil.copytree(city, tmp_path/'data')
    d = json.loads((data/'train'/'train.json').read_text())
    im = d['images'][3]
    Image.open(data/'val'/'image'/'1.jpg').save(data/'train'/'image'/'same again.png')
    d['images'].append(im | dict(id=77, file_name='image/same again.png'))
    (data/'train'/'train.json').write_text(json.dumps(d))
    syn = pictures(tmp_path/'syn', ['g_same again', 'g_2'])
    assert rsguided('export', data, syn, tmp_path/'ds', '--links', 'hard', '--prefix', 'g_') == 0
    out = capsys.readouterr().out
    assert '1 of train: the same picture twice' in out and '1 from a mask of a tile held out for val' in out, out
    assert os.stat(next((tmp_path/'ds'/'images'/'val').iterdir())).st_nlink == 2 and faults(tmp_path/'ds') == []
    assert rsguided('export', data, 'none', tmp_path/'x', '--links', 'yes') == 2

def test_filtered_and_oracle(city, pairs, model, tmp_path, capsys):
    fp32 = ['--precision', 'fp32', '--device', 'cpu', '--steps', 2]
    assert rsguided('layouts', pairs, tmp_path/'new', '--city', 3, '--seed', 4) == 0
    assert PairStore(tmp_path/'new')['train'][0].image is None
    assert rsguided('train', tmp_path/'new', tmp_path/'m', '--size', 32, '--steps', 2) == 2
    assert 'has no image' in capsys.readouterr().err
    assert rsguided('sample', model, tmp_path/'new', tmp_path/'syn', *fp32, '--split', 'oracle') == 0
    assert rsguided('export', city, tmp_path/'syn', tmp_path/'ds') == 2
    assert 'the city itself drew' in capsys.readouterr().err

def test_submit(city, tmp_path, capsys):
    truth = city/'train'/'train.json'
    anns = json.loads(truth.read_text())['annotations']
    res = [dict(image_id=a['image_id'], category_id=1, segmentation=a['segmentation'], score=.5) for a in anns]
    (tmp_path/'r.json').write_text(json.dumps(res))
    assert rsguided('submit', tmp_path/'r.json', tmp_path/'s.zip') == 0
    assert rsguided('submit', tmp_path/'s.zip', tmp_path/'back.json') == 0
    capsys.readouterr()
    assert rsguided('score', tmp_path/'back.json', truth) == 0
    assert json.loads(capsys.readouterr().out)['f1'] > .7
    assert rsguided('submit', tmp_path/'r.json', tmp_path/'t.zip', '--min-score', .6) == 2
    assert 'nothing is left' in capsys.readouterr().err and not (tmp_path/'t.zip').exists()
    assert rsguided('submit', tmp_path/'gone.json', tmp_path/'t.zip') == 2
