"Every command of the tutorials has the options that are written there; nothing is run"
import json, re, shlex
from importlib import import_module
from pathlib import Path
import pytest
from fastcore.script import anno_parser
from rsguided.cli import COMMANDS

def lines():
    for f in sorted((Path(__file__).parents[1]/'nbs'/'tutorials').glob('*.ipynb')):
        for c in json.loads(f.read_text())['cells']:
            if c['cell_type'] == 'code': yield from re.findall(r'!(rsguided .*)', ''.join(c['source']))

@pytest.mark.parametrize('line', lines())
def test_parses(line):
    name, *args = shlex.split(line)[1:]
    anno_parser(getattr(import_module(f'rsguided.{COMMANDS[name][0]}'), name)).parse_args(args)
