"""Fetching over https from a server on this machine, whose certificate is trusted or not."""

import hashlib
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from scidyn import datasets
from scidyn.datasets import fetched
from scidyn.datasets.fetched import FETCHED, Remote
from scidyn.errors import ArtifactError

TABLE = b"time (h),dye (mg/L)\n0,1.25\n1,0.5\n"
PEM = Path(__file__).parent / "localhost.pem"  # a key for tests, of no other use


class Answers(BaseHTTPRequestHandler):
    """Answers as the path says."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        how = self.path.strip("/").split(".")[0]
        self.server.asked.append(how)
        if how == "missing":
            self.send_error(404)
            return
        if how == "moved":
            self.send_response(302)
            self.send_header("Location", "/good.csv")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if how == "slow":
            time.sleep(2)
        content = {"altered": TABLE.replace(b"0.5", b"0.6"), "long": TABLE * 100_000}.get(how, TABLE)
        self.send_response(200)
        if how == "torn":  # breaks off in the middle of a chunk
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n" % len(content) + content[:10])
        else:
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:-7] if how == "short" else content)
        self.close_connection = True

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    """Remembers what it was asked, and says nothing about clients that hang up."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.asked = []

    def handle_error(self, request, client_address):
        pass


@pytest.fixture(scope="module")
def running():
    server = Server()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PEM)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=lambda: server.serve_forever(0.02), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def ask(running, tmp_path, monkeypatch):
    """Register an address of the server as a dataset; the cache is a new folder."""
    monkeypatch.setenv("SCIDYN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SSL_CERT_FILE", str(PEM))
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    running.asked.clear()

    def load(how):
        url = f"https://127.0.0.1:{running.server_port}/{how}.csv"
        monkeypatch.setitem(FETCHED, "dye", Remote("Dye", url, hashlib.sha256(TABLE).hexdigest(), len(TABLE)))
        return datasets.load("dye")

    load.cache = tmp_path / "cache"
    return load


def kept(folder):
    return [p.name for p in folder.rglob("*") if p.is_file()]


@pytest.mark.parametrize("how", ["good", "moved"])
def test_it_is_fetched_once(ask, running, how):
    first = ask(how)
    assert first["dye"].values.tolist() == [1.25, 0.5]
    assert ask(how).identical(first)
    assert running.asked.count("good") == 1
    assert len(kept(ask.cache)) == 1


@pytest.mark.parametrize("how", ["altered", "short", "long"])
def test_other_content_is_refused_and_the_next_try_is_whole(ask, how):
    with pytest.raises(ArtifactError, match=r"gave \d+ bytes with SHA-256 .* nothing was kept"):
        ask(how)
    assert kept(ask.cache) == []
    assert ask("good")["dye"].values.tolist() == [1.25, 0.5]


@pytest.mark.parametrize(
    ("how", "reason"), [("missing", "HTTP Error 404|Not Found"), ("torn", "IncompleteRead|incomplete")]
)
def test_an_answer_that_is_none(ask, how, reason):
    with pytest.raises(ArtifactError, match=f"cannot be fetched: .*({reason}).*put it there as"):
        ask(how)
    assert kept(ask.cache) == []


def test_a_server_that_does_not_answer(ask, monkeypatch):
    monkeypatch.setattr(fetched, "_SECONDS", 0.2)
    with pytest.raises(ArtifactError, match="timed out"):
        ask("slow")


def test_a_certificate_that_nobody_trusts(ask, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(ArtifactError, match=r"CERTIFICATE_VERIFY_FAILED|certificate"):
        ask("good")
    assert kept(ask.cache) == []


def test_a_server_that_is_gone(ask, running, monkeypatch):
    monkeypatch.setattr(running, "server_port", 1)
    with pytest.raises(ArtifactError, match=r"cannot be fetched: .*refused.*If this machine is offline"):
        ask("good")
