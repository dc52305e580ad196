"One small city and its pair store for all tests; networks are tiny and their weights random"
import os, pytest
from rsguided.cli import main

@pytest.fixture(scope='session', autouse=True)
def cache(tmp_path_factory):
    os.environ['RSGUIDED_CACHE'] = str(tmp_path_factory.mktemp('cache'))

@pytest.fixture(scope='session')
def city(tmp_path_factory):
    out = tmp_path_factory.mktemp('data')/'city'
    assert main(['city', str(out), '--train', '10', '--val', '4', '--test', '2', '--size', '64', '--seed', '5']) == 0
    return out

@pytest.fixture(scope='session')
def pairs(city):
    out = city.parent/'pairs'
    assert main(['pseudolabel', str(city), str(out), '--segmenter', 'truth', '--max-background', '1']) == 0
    return out

@pytest.fixture(scope='session')
def model(pairs):
    out = pairs.parent/'model'
    assert main(['train', str(pairs), str(out), '--size', '32', '--steps', '2', '--batch-size', '2', '--precision', 'fp32', '--device', 'cpu']) == 0
    return out
