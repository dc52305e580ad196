"The panel in a real browser: Voilà serves it to Chromium, which Playwright drives"
import io, json, os, shutil, socket, subprocess, sys, time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
import nbformat, pytest
import numpy as np
from PIL import Image

chromium = shutil.which('chromium')
pytest.importorskip('voila', reason='voila is not installed')
api = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
pytestmark = pytest.mark.skipif(not chromium, reason='chromium is not installed')
FAILS = 'jupyterlab-jupytext'   # an extension of JupyterLab that comes with kaggle and raises in Voilà
FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update', '--disable-sync',
         '--no-first-run']

def code(pairs, model, out, size=32, reader_steps=2, **kw):
    "What the notebook's cell says"
    return f"""
import warnings
warnings.simplefilter('ignore')
from rsguided.data import PairStore
from rsguided.fidelity import train_reader
from rsguided.explore import SampleExplorer
store = PairStore({str(pairs)!r})
reader = train_reader(store['train'], {size}, store.classes, steps={reader_steps}, device='cpu')
SampleExplorer({str(model)!r}, {str(pairs)!r}, {str(out)!r}, reader, device='cpu', **{kw})"""

def answers(port):
    with socket.socket() as s: return s.connect_ex(('127.0.0.1', port)) == 0

def until(cond, limit=60):
    "Wait until `cond()` holds"
    end = time.time() + limit
    while not cond():
        assert time.time() < end, 'never came to that'
        time.sleep(.1)

@contextmanager
def served(folder, code):
    "Voilà on a free port with a notebook of one cell; ends whatever happens"
    nb = folder/'panel.ipynb'
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)]), nb)
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    own = {f'JUPYTER_{k}_DIR': str(folder/k) for k in ('CONFIG', 'DATA', 'RUNTIME')}    # nothing of the user's
    with open(folder/'voila.log', 'w') as log:
        p = subprocess.Popen([sys.executable, '-m', 'voila', nb, '--no-browser', f'--port={port}', '--Voila.ip=127.0.0.1',
                              f'--VoilaConfiguration.extension_denylist={FAILS}'], env=os.environ | own, stdout=log, stderr=log)
        try:
            until(lambda: p.poll() is not None or answers(port), 120)
            assert p.poll() is None, (folder/'voila.log').read_text()
            yield f'http://127.0.0.1:{port}/'
        finally:
            p.terminate()
            try: p.wait(20)
            except subprocess.TimeoutExpired: p.kill()

def abroad(route, errors):
    "Nothing is fetched from elsewhere: Voilà's template asks for the icons of Font Awesome and gets none, what else asks is an error"
    if '/@fortawesome/' not in route.request.url: errors.append(f'asked for {route.request.url}')
    route.fulfill(body='')

@contextmanager
def browser_page(errors):
    "A page of 1200x800 that lists what goes wrong in it, and whom it asks beyond this machine"
    with api.sync_playwright() as pw:
        b = pw.chromium.launch(executable_path=chromium, args=FLAGS)
        try:
            page = b.new_page(viewport=dict(width=1200, height=800))
            page.on('console', lambda m: errors.append(f'{m.text} ({m.location.get("url")})') if m.type == 'error' else None)
            page.on('pageerror', lambda e: errors.append(str(e)))
            page.route(lambda url: url.startswith('http') and not url.startswith('http://127.0.0.1:'), lambda r: abroad(r, errors))
            yield page
        finally: b.close()

def rows(f): return [json.loads(l) for l in f.read_text().splitlines()]

def bytes_of(page, k):
    "The file that picture `k` shows"
    src = page.locator('img.widget-image').nth(k).get_attribute('src')
    return bytes(page.evaluate('async s => [...new Uint8Array(await (await fetch(s)).arrayBuffer())]', src))

def test_panel(pairs, model, tmp_path):
    "Paint, generate, see the new pictures, save the pair; no errors on the console"
    errors, out = [], tmp_path/'painted'
    with served(tmp_path, code(pairs, model, out, steps=2)) as url, browser_page(errors) as page:
        page.goto(url, timeout=180_000)           # Voilà runs the notebook meanwhile
        canvas, said = page.locator('.rsguided-painter canvas'), lambda text: page.get_by_text(text).wait_for(timeout=120_000)
        said('as it is stored')
        colours = lambda: np.array(canvas.evaluate("c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]")).reshape(32, 32, 4)
        press = lambda name: page.get_by_role('button', name=name, exact=True).click()
        stored, blank, box = colours(), [bytes_of(page, k) for k in range(3)], canvas.bounding_box()
        zoom = box['width']/32
        assert zoom == 8 and page.get_by_role('button', name='save', exact=True).is_disabled()

        press('water')
        def paint():
            page.mouse.move(box['x'] + 4.5*zoom, box['y'] + 9.5*zoom)
            page.mouse.down()
            page.mouse.move(box['x'] + 20.5*zoom, box['y'] + 9.5*zoom, steps=5)
            page.mouse.up()
        paint()
        said('water painted')
        painted = colours()
        assert (painted[9, 4:21] == [0, 0, 255, 255]).all() and (painted != stored).any(-1).sum() < 80
        paint()                                   # of the browser's own drawing, with its soft edges, nothing stays
        said('nothing has changed')
        page.wait_for_timeout(500)
        assert (colours() == painted).all()

        press('generate')
        said('has become an image')
        shown = [bytes_of(page, k) for k in range(3)]
        assert not {*shown} & {*blank}
        press('save')
        said('saved as 0_0')
        im, mask = (np.asarray(Image.open(out/d/'0_0.png')) for d in ('image', 'mask'))
        assert (np.asarray(Image.open(io.BytesIO(shown[0])))[::8,::8] == im).all()
        assert (mask[9, 4:21] == 3).all()
        assert [(r['name'], r['painted'], r['steps']) for r in rows(out/'manifest.jsonl')] == [('0_0', True, 2)]

        press('undo')
        said('taken back')
        assert (colours() == stored).all()
        page.locator('.widget-readout').nth(1).fill('3')
        page.keyboard.press('Enter')
        press('generate')
        said('without null examples')
    assert not errors

def picture(pairs, model, png):
    "Write the picture of the panel that the notebook shows"
    with TemporaryDirectory() as d, served(Path(d), code(*map(os.path.abspath, (pairs, model)), 'painted', 64, 100, split='val')) as url, browser_page([]) as page:
        page.goto(url, timeout=180_000)
        page.get_by_text('as it is stored').wait_for(timeout=180_000)
        press = lambda name: page.get_by_role('button', name=name, exact=True).click()
        box = page.locator('.rsguided-painter canvas').bounding_box()
        page.locator('.widget-readout').last.fill('6')      # the pen
        page.keyboard.press('Enter')
        for brush, at in (('water', [(10, 11), (30, 13)]), ('building', [(54, 12), (58, 12)]), ('building', [(50, 34), (57, 34)])):
            press(brush)
            for i,(x,y) in enumerate(at):
                page.mouse.move(box['x'] + 4*x + 2, box['y'] + 4*y + 2)
                if i == 0: page.mouse.down()
            page.mouse.up()
            page.get_by_text(f'{brush} painted').wait_for()
        press('generate')
        page.get_by_text('has become an image').wait_for(timeout=180_000)
        page.screenshot(path=png, clip=dict(x=0, y=0, width=1120, height=480))

if __name__ == '__main__': picture(*sys.argv[1:])   # PAIRS MODEL nbs/images/explore.png
