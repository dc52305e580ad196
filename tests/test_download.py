"Downloads by the command, in processes of their own: killed, at once with another, with nobody to type, with Kaggle's real client"
import hashlib, io, json, os, signal, subprocess, sys, threading, time, zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import pytest
from rsguided.cli import main
from rsguided.data import InputError, folder_lock
from rsguided.download import Broken, fetch, weights_licences

class Site(BaseHTTPRequestHandler):
    "One file under every path, whose first word says how it is sent; and Kaggle's API"
    def do_GET(self):
        how, rng = self.path.split('/')[1], self.headers.get('Range')
        self.server.asked.append((how, rng))
        b = self.server.content
        if how == 'page': return self.answer(200, b'<html>Sign in', 'text/html')
        if how == 'moved': return self.answer(302, b'', Location='/whole/f')
        if how in ('chunks', 'cut'): return self.chunks(b, how == 'cut')
        i = int(rng[6:-1]) if rng and how != 'shifted' else 0
        more = {'Content-Range': f'bytes {i}-{len(b)-1}/{len(b)}'} if i else {}
        if how == 'shifted' and rng: more = {'Content-Range': f'bytes 7-{len(b)-1}/{len(b)}'}
        more['Last-Modified'] = 'Mon, 01 Jul 2024 00:00:00 GMT'
        self.answer(206 if 'Content-Range' in more else 200, b[7 if how == 'shifted' and rng else i:], pause=.02 if how == 'slow' else 0, **more)
    def do_POST(self):
        self.rfile.read(int(self.headers['Content-Length']))
        how = self.server.kaggle
        if 'Introspect' in self.path: return self.answer(200, json.dumps(dict(active=how != 'stale', username='me', userId=1)).encode(), 'application/json')
        if how == 'silent': return self.server.asked.append((how, None)) or time.sleep(5)
        if isinstance(how, int): return self.answer(how, json.dumps(dict(code=how, message='no')).encode(), 'application/json')
        self.answer(302, b'', Location=f'http://127.0.0.1:{self.server.server_port}/{how}/begc.zip')
    def answer(self, code, body, kind='application/octet-stream', pause=0, **headers):
        self.send_response(code)
        for k,v in {'Content-Type': kind, 'Content-Length': len(body), **headers}.items(): self.send_header(k, v)
        self.end_headers()
        for i in range(0, len(body), 10_000):
            self.wfile.write(body[i:i+10_000])
            time.sleep(pause)
    def chunks(self, b, cut):
        self.protocol_version, self.close_connection = 'HTTP/1.1', True
        self.send_response(200)
        self.send_header('Transfer-Encoding', 'chunked')
        self.end_headers()
        for i in range(0, len(b), 50_000): self.wfile.write(b'%x\r\n' % len(b[i:i+50_000]) + b[i:i+50_000] + b'\r\n')
        if not cut: self.wfile.write(b'0\r\n\r\n')
    def log_message(self, *a): pass

@pytest.fixture
def site(tmp_path, monkeypatch):
    for k in [k for k in os.environ if k.startswith('KAGGLE_')]: monkeypatch.delenv(k)
    for k,v in dict(HOME=tmp_path/'home', RSGUIDED_CACHE=tmp_path/'cache', NO_PROXY='127.0.0.1').items(): monkeypatch.setenv(k, str(v))
    monkeypatch.delenv('XDG_CONFIG_HOME', raising=False)
    monkeypatch.chdir(tmp_path)
    s = ThreadingHTTPServer(('127.0.0.1', 0), Site)
    s.asked, s.content, s.kaggle, s.url = [], os.urandom(1_000_000), 'whole', f'http://127.0.0.1:{s.server_port}'
    threading.Thread(target=s.serve_forever, daemon=True).start()
    yield s
    s.shutdown()
    s.server_close()

def start(*args, **kw):
    return subprocess.Popen([sys.executable, '-c', 'import sys; from rsguided.cli import main; sys.exit(main())', *map(str, args)],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kw)

def kill_when(p, cond, limit=60):
    t = time.time()
    while not cond():
        assert p.poll() is None, p.communicate()
        assert time.time()-t < limit, 'never came to that'
        time.sleep(.01)
    os.kill(p.pid, signal.SIGKILL)
    p.communicate()

def size(f): return f.stat().st_size if f.exists() else 0

def test_killed_download_goes_on(site, tmp_path, capfd):
    args, part = ['weights', 'hrnetw32', '--source', f'{site.url}/slow/f', '--accept'], tmp_path/'cache'/'weights'/'new'/'hrnetw32.pth.part'
    kill_when(start(*args), lambda: size(part) > 200_000)
    have = size(part)
    assert have < 1_000_000 and not (tmp_path/'cache'/'weights'/'hrnetw32.pth').exists()
    assert main(args) == 0
    out, err = capfd.readouterr()
    f = tmp_path/'cache'/'weights'/'hrnetw32.pth'
    assert out.strip() == str(f) and f.read_bytes() == site.content and site.asked[-1] == ('slow', f'bytes={have}-')
    assert 'no licence is stated' in err and not part.exists()
    d = json.loads((f.parent/'hrnetw32.pth.json').read_text())
    assert d['sha256'] == hashlib.sha256(site.content).hexdigest() and d['source'] == f'{site.url}/slow/f' and d['bytes'] == 1_000_000
    link = tmp_path/'link.pth'
    link.symlink_to(f)
    assert weights_licences(link) == weights_licences(str(f)) == d['licences'] == ['non-commercial-unclear']

def test_two_at_once(site, tmp_path, capsys):
    with folder_lock(tmp_path/'cache'/'weights'): assert main(['weights', 'hrnetw32', '--source', f'{site.url}/whole/f', '--accept']) == 2
    assert 'in use by another' in capsys.readouterr().err and not site.asked

@pytest.mark.parametrize('args,words', [(['weights', 'hrnetw32', '--source', '{}/whole/f'], '--accept'),
    (['weights', 'resnet', '--accept'], 'generated_images.zip'), (['weights', 'hrnetw32', '--source', '{}/page/f', '--accept'], 'web page'),
    (['weights', 'generated_images', '--source', '{}/whole/f', '--accept'], 'no whole zip'), (['weights', 'hrnetw32', '--source', 'ftp://x/f', '--accept'], 'is wanted')])
def test_refused(site, tmp_path, capsys, args, words):
    assert main([a.format(site.url) for a in args]) == 2
    err = capsys.readouterr().err.strip()
    assert words in err and '\n' not in err and err.startswith('rsguided weights: '), err
    assert not [f for f in tmp_path.rglob('*') if f.is_file() and f.name != '.lock']

def test_chunked(site, tmp_path):
    "No length is told: what is cut must not pass for whole"
    assert fetch(f'{site.url}/chunks/f', tmp_path/'f').read_bytes() == site.content
    with pytest.raises(Broken, match='broke off'): fetch(f'{site.url}/cut/f', tmp_path/'g', tries=2, wait=0)
    assert not (tmp_path/'g').exists()

def test_server_sends_another_range(site, tmp_path):
    "Bytes that do not follow those that are here are not appended"
    (tmp_path/'f.part').write_bytes(site.content[:1000])
    (tmp_path/'f.part.json').write_text(json.dumps(dict(url=f'{site.url}/shifted/f', tag=None, total=1_000_000)))
    assert fetch(f'{site.url}/shifted/f', tmp_path/'f', wait=0).read_bytes() == site.content
    assert [r for _,r in site.asked] == ['bytes=1000-', None]

def test_part_of_another_file(site, tmp_path):
    "A part of the right length with the wrong bytes is found by its hash, and fetched again"
    (tmp_path/'f.part').write_bytes(b'x'*1000)
    (tmp_path/'f.part.json').write_text(json.dumps(dict(url=f'{site.url}/whole/f', tag=None, total=1_000_000)))
    assert fetch(f'{site.url}/whole/f', tmp_path/'f', sha256=hashlib.sha256(site.content).hexdigest()).read_bytes() == site.content

def test_disk_full(site, tmp_path, monkeypatch):
    monkeypatch.setattr('shutil.disk_usage', lambda d: type('U', (), dict(free=1000)))
    with pytest.raises(InputError, match='MB free'): fetch(f'{site.url}/whole/f', tmp_path/'new'/'f')
    assert not (tmp_path/'new').exists()

def begc_zip():
    coco = json.dumps(dict(images=[dict(id=1, file_name='1.jpg', width=8, height=8)], annotations=[]))
    buf = io.BytesIO()
    with zipfile.ZipFile(buf, 'w') as z:
        for k,v in {'train/image/1.jpg': 'x'*5000, 'train/train.json': coco, 'test/image/1.jpg': 'x', 'sample_submission.csv': ''}.items(): z.writestr(k, v)
    return buf.getvalue()

def real_client(site, tmp_path, monkeypatch):
    "Let Kaggle's client, in the process that we start, talk to our server"
    if not hasattr(pytest.importorskip('kagglesdk.kaggle_env'), '_env_to_endpoint'): pytest.skip('another kind of client')
    site.content = begc_zip()
    (tmp_path/'path').mkdir()
    (tmp_path/'path'/'sitecustomize.py').write_text(
        f'import kagglesdk.kaggle_env as e\ne._env_to_endpoint[e.KaggleEnv.PROD] = {site.url!r}\n')
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join([str(tmp_path/'path'), os.environ.get('PYTHONPATH', '')]))

@pytest.mark.parametrize('how', [dict(KAGGLE_API_TOKEN='t'), dict(KAGGLE_USERNAME='u', KAGGLE_KEY='k'), '.kaggle/kaggle.json', '.kaggle/access_token', 'here'])
def test_real_client(site, tmp_path, monkeypatch, capfd, how):
    real_client(site, tmp_path, monkeypatch)
    key = '{"username": "u", "key": "k"}'
    if isinstance(how, dict):
        for k,v in how.items(): monkeypatch.setenv(k, v)
    else:
        f = tmp_path/'kaggle.json' if how == 'here' else tmp_path/'home'/how
        f.parent.mkdir(parents=True, exist_ok=True)
        f.write_text(key if f.suffix else 't\n')
    out = tmp_path/'out'
    assert main(['download', str(out)]) == 0
    assert sorted(f.relative_to(out).as_posix() for f in out.rglob('*') if f.is_file()) == [
        'DONE.json', 'sample_submission.csv', 'test/image/1.jpg', 'train/image/1.jpg', 'train/train.json']
    assert not [*(tmp_path/'cache').rglob('*.zip')]
    site.asked.clear()
    assert main(['download', str(out)]) == 0 and not site.asked
    assert 'done already' in capfd.readouterr().out

@pytest.mark.parametrize('answer,words', [(403, '/rules'), (401, 'settings/api'), ('stale', 'settings/api'), (500, '500'), ('page', 'no whole archive')])
def test_real_client_is_refused(site, tmp_path, monkeypatch, capsys, answer, words):
    real_client(site, tmp_path, monkeypatch)
    site.kaggle = answer
    monkeypatch.setenv('KAGGLE_API_TOKEN', 't')
    assert main(['download', str(tmp_path/'out')]) == 2
    err = capsys.readouterr().err.strip()
    assert words in err and '\n' not in err, err
    assert not (tmp_path/'out').exists() and not [*tmp_path.glob('.out*')]

def test_nobody_can_type(site, tmp_path):
    "stdin is open and nothing comes from it: an error, no prompt"
    p = start('download', tmp_path/'out', stdin=subprocess.PIPE)
    assert p.wait(60) == 2
    err = p.stderr.read().strip()
    assert 'https://www.kaggle.com/settings/api' in err and '\n' not in err, err
    p.communicate()
    assert [f.name for f in tmp_path.iterdir() if f.name != 'home'] == []

def test_killed_while_kaggle_is_silent(site, tmp_path, monkeypatch, capfd):
    "The client ends with the command, and what it left is cleared by the next run"
    real_client(site, tmp_path, monkeypatch)
    monkeypatch.setenv('KAGGLE_API_TOKEN', 't')
    site.kaggle, cache = 'silent', tmp_path/'cache'/'building-extraction-generalization-2024'
    kill_when(start('download', tmp_path/'out'), lambda: 'silent' in dict(site.asked))
    assert [*cache.glob('.kaggle.*/log')]
    site.kaggle = 'whole'
    assert main(['download', str(tmp_path/'out')]) == 0
    assert [f.name for f in cache.iterdir()] in ([], ['.lock'])

def test_flags_of_other_files(tmp_path):
    "Files that happen to have the names of our notes say nothing"
    (tmp_path/'weights.json').write_text('{"licences": 1}')
    (tmp_path/'f.json').write_text('no json')
    assert weights_licences(tmp_path/'f') == []
