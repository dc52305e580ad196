"What is installed, and what pyproject.toml repeats, must be what settings.ini says."
import re, subprocess, sys, time, tomllib
from configparser import ConfigParser
from importlib.metadata import distribution
from pathlib import Path
import pytest
from packaging.requirements import Requirement

root = Path(__file__).resolve().parent.parent
ini = ConfigParser(delimiters=['='], interpolation=None)
ini.read(root/'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']
dist = distribution(cfg['lib_name'])
meta = dist.metadata

def lines(k): return [o.strip() for o in cfg[k].splitlines() if o.strip()]
def reqs(names, extra=''): return {(str(Requirement(o)), extra) for o in names}

def test_core():
    "Version, names, licence, readme"
    want = dict(Name='lib_name', Version='version', Summary='description', Author='author', License_Expression='license')
    assert {k: meta[k.replace('_', '-')] for k in want} == {k: cfg[v] for k,v in want.items()}
    assert meta['Author-email'] in (cfg['author_email'], f"{cfg['author']} <{cfg['author_email']}>")
    assert meta['Requires-Python'] == '>=' + cfg['min_python']
    assert re.split(r'[\s,]+', meta['Keywords']) == cfg['keywords'].split()
    assert meta.get_payload().strip() == (root/'README.md').read_text(encoding='utf-8').strip()

def test_version():
    "`__version__` is the installed version"
    import rsguided
    assert rsguided.__version__ == cfg['version']

def test_models():
    "The packaged networks are installed with their cards"
    from rsguided.core import PACKAGED
    for f in ('city/unet/diffusion_pytorch_model.safetensors', 'city/README.md', 'city_reader/model.safetensors'):
        assert (PACKAGED/f).is_file(), f

def test_requirements():
    "Dependencies and extras, all of them and no others"
    want = reqs(lines('requirements'))
    extras = [k.removesuffix('_requirements') for k in cfg if k.endswith('_requirements')]
    for e in extras: want |= reqs(lines(f'{e}_requirements'), e)
    got = set()
    for o in map(Requirement, dist.requires):
        extra = re.search(r'extra == "(.+?)"', str(o.marker))
        o.marker = None
        got.add((str(o), extra[1] if extra else ''))
    assert got == want
    assert set(meta.get_all('Provides-Extra')) == set(extras) >= {'dev', 'yolo', 'geo', 'metrics'}

def test_licence_bound():
    "Nothing under AGPL in the plain install or in `dev`"
    assert not any('ultralytics' in o for o in lines('requirements') + lines('dev_requirements'))

def test_entry_points():
    "The console script and nbdev's index are there, and load"
    got = {(e.group, f'{e.name}={e.value}') for e in dist.entry_points}
    assert got == {('console_scripts', o) for o in lines('console_scripts')} | {('nbdev', 'rsguided=rsguided._modidx:d')}
    loaded = {e.group: e.load() for e in dist.entry_points}
    assert callable(loaded['console_scripts'])
    assert loaded['nbdev']['settings']['git_url'] == cfg['git_url']

def test_pyproject():
    "The few fields that nbdev wants in pyproject.toml"
    proj = tomllib.loads((root/'pyproject.toml').read_text(encoding='utf-8'))['project']
    assert proj['name'] == cfg['lib_name'] and proj['requires-python'] == '>=' + cfg['min_python']
    assert proj['urls'] == dict(Repository=cfg['git_url'], Documentation=cfg['doc_url'])

def test_readme():
    "README.md is written from nbs/index.ipynb, and holds the two commands that do all the set-up"
    subprocess.run([sys.executable, root/'.ci/readme.py', '--check'], check=True)
    blocks = re.findall(r'^```bash\n(.*?)^```', (root/'README.md').read_text(encoding='utf-8'), flags=re.M|re.S)
    setup = [o.strip() for o in blocks if 'pip install' in o]
    assert len(setup) == 2
    assert setup[0] == 'pip install . && rsguided demo'
    assert setup[1].startswith("pip install -e '.[dev]' && ") and '\n' not in setup[1]

light = """
import sys
sys.argv = ['rsguided', '--help']
try: {}
except SystemExit: pass
assert not {{'torch', 'fastai', 'diffusers', 'matplotlib'}} & set(sys.modules)
"""

@pytest.mark.parametrize('code,limit', [('import rsguided', 0.5), ('from rsguided.cli import main; main()', 1)])
def test_light(code, limit):
    "`import rsguided` and `rsguided --help` are quick: the heavy imports are inside the subcommands"
    def secs():
        start = time.perf_counter()
        subprocess.run([sys.executable, '-c', light.format(code)], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter()-start
    assert min(secs() for _ in range(3)) < limit
