"Licence flags go with the data: images → pairs → model → synthetic images → data set"
import json
from rsguided.cli import main

def rows(f): return [json.loads(l) for l in f.read_text().splitlines()]

def test_flags_travel(city, tmp_path):
    flags, cpu = ['CC-BY-NC-SA-4.0', 'test-only'], ['--precision', 'fp32', '--device', 'cpu']
    pairs, model, syn, dataset = (tmp_path/d for d in ('pairs', 'model', 'synthetic', 'dataset'))
    for args in (['pseudolabel', city, pairs, '--max-background', 1, '--licences', ', '.join(flags)],
                 ['train', pairs, model, '--size', 32, '--steps', 2, '--batch-size', 2, *cpu],
                 ['sample', model, pairs, syn, '--steps', 2, '--limit', 3, *cpu],
                 ['export', city, syn, dataset]): assert main([str(a) for a in args]) == 0
    assert [r['licences'] for r in rows(pairs/'manifest.jsonl')] == [flags]*16
    assert json.loads((model/'rsguided.json').read_text())['licences'] == flags
    assert [r['licences'] for r in rows(syn/'manifest.jsonl')] == [flags]*3
    made = [r for r in rows(dataset/'manifest.jsonl') if r['kind'] == 'synthetic']
    assert [r['licences'] for r in made] == [flags]*3
