"`rsguided score` as a program: one JSON object on stdout and nothing else, exit code 2 where nothing sensible can be computed"
import json, pytest
from rsguided.cli import main

square = lambda x, s=10: [[x, 0, x+s, 0, x+s, s, x, s]]
image = dict(id=1, file_name='a_1.png', height=50, width=100)
label = lambda x, i=1: dict(id=i, image_id=1, category_id=1, segmentation=square(x))
result = lambda x, s=.5, **kw: dict(image_id=1, category_id=1, segmentation=square(x), score=s) | kw
truth = dict(images=[image], annotations=[label(0), label(20, 2)], categories=[dict(id=1, name='building')])

@pytest.fixture
def score(tmp_path, capsys):
    def go(results, truth=truth, *args):
        (tmp_path/'p.json').write_text(json.dumps(results))
        (tmp_path/'t.json').write_text(json.dumps(truth))
        rc = main(['score', str(tmp_path/'p.json'), str(tmp_path/'t.json'), *map(str, args)])
        return rc, *capsys.readouterr()
    return go

def test_one_object(score):
    rc, out, err = score([result(0), result(21), result(1, .9), result(60)])
    d = json.loads(out)
    assert (rc, err, out.count('\n')) == (0, '', 1)
    assert (d['tp'], d['fp'], d['fn'], d['f1']) == (2, 2, 0, 2/3)

def test_empty_results(score):
    rc, out, _ = score([])
    assert rc == 0 and json.loads(out)['f1'] == 0 and json.loads(out)['fn'] == 2

def test_counted(score):
    bow = [[0,0, 10,10, 10,0, 0,10]]
    rc, out, _ = score([result(0) | dict(segmentation=bow), {k: v for k,v in result(20).items() if k != 'score'}])
    d = json.loads(out)
    assert rc == 0 and d['tp'] == 1 and d['ap50'] is None
    assert d['read']['predictions_repaired'] == d['read']['predictions_without_score'] == 1

def test_val_to_test(score, tmp_path):
    some = [result(0, .9), result(1, .8), result(20, .7), result(60, .2)]
    chosen = json.loads(score(some, truth, '--choose', tmp_path/'op.json')[1])
    assert chosen['f1'] == 1 and chosen['operating_point']['min_score'] == .7
    other = truth | dict(images=[image | dict(file_name='b_1.png')])
    kept = json.loads(score(some, other, '--operating-point', tmp_path/'op.json', '--scene', '(.)_')[1])
    assert kept['f1'] == 1 and list(kept['by_scene']) == ['b'] and not kept['operating_point']['chosen_on_this_truth']

@pytest.mark.parametrize('results, t, args, word', [
    ([result(0, image_id=7)], truth, [], 'image 7'),
    ([dict(image_id=1, category_id=1, bbox=[0,0,9,9], score=.5)], truth, [], 'a box and no segmentation'),
    ([result(0, None)], truth, ['--min-score', .5], 'no score'),
    ([result(0, 'sure')], truth, [], "'sure'"),
    ([], truth | dict(annotations=[]), [], 'no building'),
    ([], truth | dict(images=[], annotations=[]), [], 'names no images'),
    ([], dict(images=[]), [], '`annotations`'),
    ([], truth, ['--sizes', 'small'], 'rising numbers'),
    ([], truth, ['--scene', '(x)'], 'of no image'),
    ([], truth, ['--duplicates', 'maybe'], 'refuse or allow'),
    ([], truth, ['--operating-point', 'nowhere.json'], 'nowhere.json')])
def test_refused(score, results, t, args, word):
    rc, out, err = score(results, t, *args)
    assert (rc, out) == (2, '') and word in err and err.count('\n') == 1
